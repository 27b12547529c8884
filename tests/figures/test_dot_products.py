import dataclasses

import numpy as np
import pytest

from hypersign import figures
from hypersign.geometry.results import DotProducts, Histogram

FAMILIES = ["weights_binarized", "activations_binarized", "both_binarized", "permuted"]


@pytest.mark.parametrize("family", FAMILIES)
def test_draws_counts_line_and_numbers_of_its_own_family(geometry, family):
    layer = geometry.layers[1]
    products = getattr(layer, family)
    ax = getattr(figures, family)(layer)
    (mesh,) = ax.collections
    np.testing.assert_array_equal(mesh.get_array().filled(0), np.array(products.histogram.counts).T)
    line = ax.lines[-1]
    assert np.polyfit(line.get_xdata(), line.get_ydata(), 1) == pytest.approx([products.slope, products.intercept])
    for text in (layer.name, f"{products.pearson_r:.3f}", f"{100 * products.sign_disagreement:.1f} %"):
        assert text in ax.get_title()


def test_shades_exactly_the_quadrants_where_signs_differ(geometry):
    quadrants = figures.weights_binarized(geometry.layers[1]).patches
    assert len(quadrants) == 2
    for patch in quadrants:
        assert (patch.get_x(), patch.get_y()) == (0, 0)
        assert patch.get_width() * patch.get_height() < 0


def test_a_histogram_on_one_side_of_zero_has_no_quadrant_and_an_empty_one_draws(geometry):
    products = geometry.layers[0].permuted
    one_sided = Histogram((1.0, 2.0), (1.0, 2.0), ((0,),))
    layer = dataclasses.replace(
        geometry.layers[0], permuted=dataclasses.replace(products, histogram=one_sided, pearson_r=float("nan"))
    )
    ax = figures.permuted(layer)
    assert not ax.patches
    ax.get_figure().draw_without_rendering()
    assert isinstance(layer.permuted, DotProducts)
