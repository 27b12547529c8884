import dataclasses

import numpy as np
import pytest

from hypersign import figures


def test_density_is_logarithmic_with_a_threshold_on_each_side(synthetic):
    layer = synthetic.geometry(ternary=True).layers[1]
    ax = figures.weight_density(layer)
    assert ax.get_yscale() == "log"
    assert sorted(round(patch.get_x(), 3) for patch in ax.patches) == [-0.02, 0.02]
    normal = ax.lines[0]
    assert np.trapezoid(normal.get_ydata(), normal.get_xdata()) == pytest.approx(1, abs=1e-3)


def test_thresholds_of_single_filters_become_one_span_a_side(geometry):
    layer = geometry.layers[1]
    several = dataclasses.replace(layer.latent_weights, thresholds=(0.1, 0.12, 0.11))
    left, right = figures.weight_density(dataclasses.replace(layer, latent_weights=several)).patches
    assert right.get_x() == pytest.approx(0.1)
    assert right.get_width() == pytest.approx(0.02)
    assert {left.get_x(), left.get_x() + left.get_width()} == {-0.12, -0.1}


def test_binary_layers_have_no_threshold_line(geometry):
    assert not figures.weight_density(geometry.layers[1]).patches


@pytest.mark.parametrize(("ternary", "levels"), [(False, ["-1", "+1"]), (True, ["-1", "0", "+1"])])
def test_level_shares_fill_each_bar(synthetic, ternary, levels):
    made = synthetic.geometry(ternary=ternary)
    ax = figures.level_shares(made)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == levels
    ends = [bar.get_x() + bar.get_width() for bar in ax.containers[-1]]
    assert ends == pytest.approx([1.0] * len(made.layers))
