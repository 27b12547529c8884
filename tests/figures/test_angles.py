import dataclasses
import math

import numpy as np
import pytest

from hypersign import figures


def test_density_has_a_line_and_a_prediction_for_each_layer(geometry):
    ax = figures.angle_density(geometry)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == [f"{layer.name} (d = {layer.fan_in})" for layer in geometry.layers]
    assert max(ax.lines[0].get_ydata()) == 1
    drawn = {line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == ":"}
    assert drawn == {layer.angle_degrees.predicted_mean for layer in geometry.layers}
    assert ax.get_xlim() == (0, 92)


def test_zoomed_density_marks_prediction_and_peak(geometry):
    layer = geometry.layers[3]
    ax = figures.angle_density_zoomed(layer)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), layer.angle_degrees.density.density)
    assert ax.lines[2].get_xdata()[0] == layer.angle_degrees.predicted_mean
    assert ax.lines[3].get_xdata()[0] == layer.angle_degrees.peak


def test_spread_has_a_guide_of_slope_minus_one_half_in_double_logarithmic_axes(geometry):
    ax = figures.angle_spread(geometry)
    guide, predicted, measured = ax.lines
    slope = np.polyfit(np.log(guide.get_xdata()), np.log(guide.get_ydata()), 1)[0]
    assert slope == pytest.approx(-0.5)
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    expected = {layer.fan_in: layer.angle_degrees for layer in geometry.layers}
    for d, std in zip(predicted.get_xdata(), predicted.get_ydata(), strict=True):
        assert std == expected[d].predicted_std
    for d, std in zip(measured.get_xdata(), measured.get_ydata(), strict=True):
        assert std == expected[d].std


def test_layers_without_an_angle_are_left_out(geometry):
    nothing = dataclasses.replace(
        geometry.layers[0].angle_degrees,
        std=math.nan,
        predicted_std=math.nan,
        density=dataclasses.replace(geometry.layers[0].angle_degrees.density, grid=(), density=()),
    )
    layers = (dataclasses.replace(geometry.layers[0], angle_degrees=nothing), *geometry.layers[1:])
    partly = dataclasses.replace(geometry, layers=layers)
    assert len(figures.angle_spread(partly).lines[2].get_xdata()) == len(layers) - 1
    assert len(figures.angle_density(partly).get_legend().get_texts()) == len(layers) - 1
    none = dataclasses.replace(geometry, layers=layers[:1])
    assert not figures.angle_spread(none).lines
    figures.angle_density(none)
    figures.angle_density_zoomed(layers[0]).get_figure().draw_without_rendering()
