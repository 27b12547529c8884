import numpy as np
import pytest

from hypersign import figures, simulation
from hypersign._checks import HypersignError


def test_histograms_are_densities_with_their_labels_and_predictions():
    generator = np.random.default_rng(0)
    samples = {f"d = {d}": generator.normal(37, 20 / d**0.5, 4000) for d in (10, 100)}
    ax = figures.angle_histograms(samples, predicted=[37.07])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(samples)
    assert ax.lines[0].get_xdata()[0] == 37.07
    outline = ax.patches[0].get_xy()
    area = np.abs(np.sum(np.diff(outline[:, 0]) * outline[:-1, 1]))
    assert area == pytest.approx(1)


def test_samples_without_a_number_are_named():
    with pytest.raises(HypersignError, match="'d = 3'"):
        figures.angle_histograms({"d = 3": [np.nan]})


@pytest.mark.parametrize(
    ("figure", "scale"),
    [(figures.angle_against_dimension, "log"), (figures.angle_against_threshold, "linear")],
)
def test_measured_points_stand_beside_the_prediction(figure, scale):
    ax = figure([3, 10, 27], [28.0, 34.5, 36.2], [11.0, 6.0, 4.0], predicted=[28.1, 34.6, 36.2])
    assert ax.get_xscale() == scale
    assert list(ax.lines[-1].get_ydata()) == [28.1, 34.6, 36.2]
    assert "predicted" in [text.get_text() for text in ax.get_legend().get_texts()]


@pytest.mark.parametrize(
    ("simulation", "names"),
    [
        (simulation.sign([3, 10], draws=200), ["sign_histograms", "sign_against_dimension"]),
        (
            simulation.ternary([0.1, 0.5], dimension=20, draws=200),
            ["ternary_histograms", "ternary_against_threshold"],
        ),
        (simulation.levels([2, 4], dimension=20, draws=200), ["levels_histograms"]),
        (simulation.rotated([8, 16], rotations=["none", "hadamard-2"], draws=200), ["rotated_histograms"]),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_every_simulation_is_drawn(simulation, names, tmp_path, monkeypatch):
    drawn = {}
    save = figures.simulations.save
    monkeypatch.setattr(
        figures.simulations, "save", lambda fig, *rest: drawn.update({rest[1]: fig}) or save(fig, *rest)
    )
    paths = figures.save_simulation(simulation, tmp_path)
    assert [path.name for path in paths] == [f"{name}.{kind}" for name in names for kind in ("pdf", "png")]
    assert all(path.stat().st_size > 3000 for path in paths)
    axes = drawn[names[0]].axes
    texts = [text.get_text() for ax in axes for text in ax.get_legend().get_texts()]
    if simulation.name == "rotated":
        assert [ax.get_title() for ax in axes] == ["d = 8", "d = 16"]
        assert texts == ["none", "hadamard-2"] * 2
    else:
        assert texts == [case.label for case in simulation.cases]
    if len(names) == 2:
        bars = drawn[names[1]].axes[0].containers[0]
        means = [case.angle_degrees.mean for case in simulation.cases]
        assert list(bars[0].get_ydata()) == pytest.approx(means)
