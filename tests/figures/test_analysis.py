import dataclasses

from hypersign import figures
from hypersign.figures import analysis


def test_every_figure_of_the_analysis_is_drawn(geometry, synthetic, monkeypatch, tmp_path):
    drawn = {}
    monkeypatch.setattr(analysis, "save", lambda fig, folder, name: drawn.setdefault(name, fig) and (name,))
    small = dataclasses.replace(geometry, layers=geometry.layers[:2])
    figures.save_analysis(small, tmp_path, metrics=synthetic.metrics())
    assert set(drawn) == {
        "weights_binarized", "activations_binarized", "both_binarized", "permuted", "angle_density",
        "angle_density_zoomed", "angle_spread", "weight_density", "level_shares", "training_curves", "predicted_r",
    }  # fmt: skip
    titles = [ax.get_title() for ax in drawn["activations_binarized"].axes if ax.get_title()]
    assert len(titles) == 1, "conv1 has real inputs: no panel"
