import dataclasses
import math

import pytest

from hypersign.report.reading import reading


def change(layer, *, angle=None, predicted_angle=37.0, moments=37.0, r=None, predicted=0.8, permuted=0.8):
    stats = layer.angle_degrees
    if angle is not None:
        stats = dataclasses.replace(stats, mean=angle, predicted_mean=predicted_angle, moments_mean=moments)
    weights = layer.weights_binarized
    if r is not None:
        weights = dataclasses.replace(
            weights,
            pearson_r=r,
            pearson_r_per_filter=(r, math.nan, 1.0, 0.0),
            independent_pearson_r=predicted,
            sign_disagreement=0.25,
        )
    each = (permuted, math.nan, 1.0, 0.0)  # over all filters together r is elsewhere where inputs have a mean
    shuffled = dataclasses.replace(
        layer.permuted, pearson_r=0.5, pearson_r_per_filter=each, independent_pearson_r=0.8
    )
    return dataclasses.replace(layer, angle_degrees=stats, weights_binarized=weights, permuted=shuffled)


@pytest.fixture
def read(geometry):
    """What is read from the layers conv1 and conv2 with these numbers."""

    def of(first, second):
        layers = change(geometry.layers[0], **first), change(geometry.layers[1], **second)
        return " ".join(reading(dataclasses.replace(geometry, layers=layers)))

    return of


def test_close_angles_give_the_largest_gap(read):
    assert "off by 0.4° at most (conv2)" in read({"angle": 36.9}, {"angle": 37.4})


def test_a_departing_angle_is_named_with_its_prediction_and_the_moments_that_explain_it(read):
    text = read({"angle": 36.9}, {"angle": 30.0, "moments": 30.1})
    assert "1 of 2 layers are within 1°" in text
    assert "conv2 differs most, 30.0° instead of 37.0°" in text
    assert "their own moments predict 30.1°" in text
    assert "moments" not in read({"angle": 36.9}, {"angle": 30.0, "moments": 36.0})


def test_correlations_name_worst_and_best_and_both_kinds_of_departure(read):
    text = read({"r": 0.61}, {"r": 0.95})
    assert "conv1 has the lowest correlation of dot products: r = 0.61, and 25 % of them change sign" in text
    assert "conv2 has the highest, r = 0.95" in text
    assert "If inputs were independent, r would be 0.80." in text
    assert "conv2 does better, by up to 0.15: the inputs vary most" in text
    assert "conv1 does worse, by up to 0.19: the inputs share one strong component" in text


def test_independent_inputs_are_spoken_of_only_where_they_differ(read):
    assert "independent" not in read({"r": 0.79}, {"r": 0.82})


def test_predictions_state_their_distance_and_name_what_departs(geometry):
    def said(gap):
        layers = [
            dataclasses.replace(
                layer,
                **{
                    family: dataclasses.replace(
                        getattr(layer, family),
                        predicted_pearson_r=getattr(layer, family).pearson_r + gap * (family == "both_binarized"),
                    )
                    for family in ("weights_binarized", "activations_binarized", "both_binarized")
                },
            )
            for layer in geometry.layers
        ]
        return reading(dataclasses.replace(geometry, layers=tuple(layers)))[0]

    close, far = said(0.008), said(0.01)  # three standard errors are .0085
    assert "predicted to within 0.000 (weights), 0.000 (activations), 0.008 (both), mean over layers" in close
    assert "No difference is larger than three standard errors" in close
    assert "On training images the same r is 0.001 apart" in close
    assert "standard errors: conv1 (both), conv2 (both), conv3 (both), 2 others." in far


def test_permuting_is_spoken_of_only_where_it_explains(read):
    assert "falls from 0.19 to 0.00" in read({"r": 0.61}, {"r": 0.8})
    assert "permuted" not in read({"r": 0.61, "permuted": 0.65}, {"r": 0.8})
    assert "permuted" not in read({"r": 0.79}, {"r": 0.8})


def test_zeros_of_ternary_layers_are_counted(synthetic, geometry):
    assert "of a layer's weights are zero" in reading(synthetic.geometry(ternary=True))[-1]
    assert not any("zero" in text for text in reading(geometry))


def test_nothing_is_said_of_nothing(geometry):
    assert reading(dataclasses.replace(geometry, layers=())) == []
    layer = dataclasses.replace(geometry.layers[0], weight_quantizer="Identity()")
    assert reading(dataclasses.replace(geometry, layers=(layer,))) == []


def test_numbers_that_are_missing_are_not_spoken_of(read):
    text = read({"angle": math.nan, "r": math.nan}, {"angle": 37.2, "predicted_angle": math.nan, "r": 0.9})
    assert "nan" not in text
    assert "conv1 has" not in text
