import dataclasses
import math

import numpy as np
import pytest

from hypersign import figures


def with_predictions(layer, r):
    products = dataclasses.replace(layer.weights_binarized, predicted_pearson_r_per_filter=r)
    return dataclasses.replace(layer, weights_binarized=products)


@pytest.fixture
def predicted(geometry):
    """The made-up network with predictions .01 above what was measured; its last layer has none."""
    layers = [
        with_predictions(layer, tuple(r + 0.01 for r in layer.weights_binarized.pearson_r_per_filter))
        for layer in geometry.layers[:-1]
    ]
    last = with_predictions(geometry.layers[-1], ())
    return dataclasses.replace(geometry, layers=(*layers, last), covariance_images=200)


def test_a_point_a_filter_and_the_diagonal(predicted):
    ax = figures.predicted_r(predicted)
    *points, diagonal = ax.lines
    assert len(points) == len(predicted.layers) - 1
    for line, layer in zip(points, predicted.layers, strict=False):
        np.testing.assert_array_equal(line.get_xdata(), layer.weights_binarized.predicted_pearson_r_per_filter)
        np.testing.assert_array_equal(line.get_ydata(), layer.weights_binarized.pearson_r_per_filter)
        assert line.get_label() == f"{layer.name} (0.0100)"
    np.testing.assert_array_equal(diagonal.get_xdata(), diagonal.get_ydata())
    low, high = diagonal.get_xdata()
    for line in points:
        assert low < min(line.get_ydata()) <= max(line.get_xdata()) < high
    assert predicted.layers[-1].name in ax.get_title()


def test_filters_without_r_are_no_points(predicted):
    layer = with_predictions(predicted.layers[0], (math.nan,) * predicted.layers[0].filters)
    ax = figures.predicted_r(dataclasses.replace(predicted, layers=(layer,)))
    assert len(ax.lines[0].get_xdata()) == 0
    assert ax.lines[0].get_label() == f"{layer.name} (no r)"
    ax.get_figure().draw_without_rendering()


def test_the_analysis_draws_it_where_there_is_one(predicted, monkeypatch):
    names = []
    monkeypatch.setattr(figures.analysis, "save", lambda fig, folder, name: names.append(name) or ())
    figures.save_analysis(predicted, "")
    none = tuple(with_predictions(layer, ()) for layer in predicted.layers)
    figures.save_analysis(dataclasses.replace(predicted, layers=none), "")
    assert names.count("predicted_r") == 1
