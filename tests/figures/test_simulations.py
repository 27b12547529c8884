import numpy as np
import pytest

from hypersign import figures
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
