import numpy as np
import pytest

from hypersign import figures
from hypersign._checks import HypersignError
from hypersign.geometry.ablation import Ablated, Ablation, Change, Ranking
from hypersign.geometry.depth import Depth, LayerDepth


@pytest.fixture
def ablation():
    rows = [
        Ablated("weights", "one", name, 0.9, 0.3, Change(-0.01, 0.01), Change(change, 0.02), Change(0.1, 0.1), 0.8, r)
        for name, change, r in (("conv1", 0.1, 0.5), ("conv2", -0.05, 0.7), ("fc1", 0.02, 0.9))
    ]
    ranking = Ranking("weights", "one", 1.0, 1.0, 3, 2, 2, ("conv1", "conv2"), 1.0, 3, 3)
    return Ablation(100, 2, 0.9, 0.03, 0.3, 0.01, (), tuple(rows), (ranking,))


def test_each_layer_stands_at_its_prediction_with_two_errors(ablation):
    ax = figures.ablated_layers(ablation)
    (bars,) = ax.containers
    points, _, (lines,) = bars
    np.testing.assert_allclose(points.get_xydata(), [[0.5, 0.1], [0.3, -0.05], [0.1, 0.02]])
    np.testing.assert_allclose([np.ptp(line[:, 1]) for line in lines.get_segments()], 4 * 0.02)
    assert [text.get_text() for text in ax.texts] == ["conv1", "conv2", "fc1"]
    assert "rank correlation 1.00" in ax.get_title()


def test_what_was_not_ablated_is_named(ablation):
    with pytest.raises(HypersignError, match="inputs turned back to float, scope 'all but one'; it has none"):
        figures.ablated_layers(ablation, side="inputs", scope="all but one")


def test_depth_draws_measured_training_and_own():
    layers = [LayerDepth(f"fc{i}", 0.8, 0.8**i + 0.02, 0.8**i, 0.1, 0.1, ()) for i in (1, 2, 3)]
    lines = {line.get_label(): line.get_ydata() for line in figures.depth_r(Depth(10, tuple(layers))).lines}
    np.testing.assert_allclose(lines["training images"], [0.8, 0.64, 0.512])
    np.testing.assert_allclose(lines["measured"], [0.82, 0.66, 0.532])
    np.testing.assert_allclose(lines["this layer alone"], 0.8)
