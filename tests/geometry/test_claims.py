"""The verdicts on made-up results whose answers are known."""

import dataclasses
import math

import numpy as np
import pytest

from hypersign import simulation
from hypersign._checks import HypersignError
from hypersign.geometry.claims import Claim, network_claims, simulation_claims


@pytest.mark.parametrize(
    ("relation", "measured", "holds"),
    [
        ("near", 1.09, True),
        ("near", 1.11, False),
        ("near", math.nan, False),
        ("at least", 0.9, True),
        ("at least", 0.89, False),
        ("at least", 7.0, True),
        ("at most", 1.1, True),
        ("at most", 1.11, False),
        ("at most", -7.0, True),
        ("at most", math.nan, False),
        ("below", 0.99, True),
        ("below", 1.0, False),
    ],
)
def test_verdict(relation: str, measured: float, holds: bool) -> None:
    claim = Claim("c", "s", "q", measured, 1.0, relation, 0.1)  # type: ignore[arg-type]
    assert claim.holds is holds
    assert claim.as_dict()["verdict"] == ("holds" if holds else "does not hold")


def test_nan_is_no_number_in_json() -> None:
    assert Claim("c", "s", "q", math.nan, 1.0).as_dict()["measured"] is None


def of(claims, words: str) -> dict[str, Claim]:
    return {claim.subject: claim for claim in claims if words in claim.claim}


def test_each_claim_takes_its_numbers_from_its_measure(geometry) -> None:
    claims = network_claims(geometry)
    for layer in geometry.layers:
        angle = of(claims, "angle of Gaussian")[layer.name]
        assert (angle.measured, angle.predicted) == (layer.angle_degrees.mean, layer.angle_degrees.predicted_mean)
        weights = of(claims, "binarizing weights")[layer.name]
        assert weights.measured == layer.weights_binarized.pearson_r
        moments = of(claims, "own moments")[layer.name]
        assert (moments.measured, moments.predicted) == (layer.angle_degrees.mean, layer.angle_degrees.moments_mean)
        permuted = of(claims, "brings r to")[layer.name]
        assert (permuted.measured, permuted.predicted) == (
            layer.permuted.pearson_r,
            layer.permuted.independent_pearson_r,
        )
        filters = of(claims, "brings each filter")[layer.name]
        assert filters.measured == pytest.approx(np.nanmean(layer.permuted.pearson_r_per_filter))
        assert filters.predicted == layer.permuted.independent_pearson_r
        signs = of(claims, "change sign")[layer.name]
        assert signs.predicted == pytest.approx(math.acos(layer.weights_binarized.pearson_r) / math.pi)


def planted(geometry, exponent: float):
    """The geometry with spreads that follow a power of the fan-in exactly."""
    layers = tuple(
        dataclasses.replace(
            layer,
            fan_in=10 * 4**i,
            angle_degrees=dataclasses.replace(layer.angle_degrees, std=(10 * 4**i) ** exponent),
        )
        for i, layer in enumerate(geometry.layers)
    )
    return dataclasses.replace(geometry, layers=layers)


@pytest.mark.parametrize(("exponent", "holds"), [(-0.5, True), (-0.55, True), (-0.3, False)])
def test_slope_of_the_spread(geometry, exponent: float, holds: bool) -> None:
    (claim,) = of(network_claims(planted(geometry, exponent)), "spread").values()
    assert claim.measured == pytest.approx(exponent)
    assert claim.holds is holds


def test_first_layer_is_held_against_the_worst_of_the_others(geometry) -> None:
    first, *others = geometry.layers
    claims = of(network_claims(geometry), "first layer")
    if first.input_quantizer.startswith("Identity"):
        assert claims[first.name].predicted == min(layer.weights_binarized.pearson_r for layer in others)
    first = dataclasses.replace(first, input_quantizer="Sign()")
    assert not of(network_claims(dataclasses.replace(geometry, layers=(first, *others))), "first layer")


def test_simulations_agree_with_theory_and_wrong_theory_shows() -> None:
    simulated = simulation.sign((3, 27), draws=2000, seed=1)
    claims = simulation_claims([simulated])
    assert [claim.holds for claim in claims] == [True, True]
    case = simulated.cases[0]
    wrong = dataclasses.replace(case.angle_degrees, predicted_mean=case.angle_degrees.predicted_mean + 3)
    case = dataclasses.replace(case, angle_degrees=wrong)
    assert not simulation_claims([dataclasses.replace(simulated, cases=(case,))])[0].holds


def test_a_network_without_quantized_layers_has_no_claims(geometry) -> None:
    with pytest.raises(HypersignError, match="claims are about quantized layers"):
        network_claims(dataclasses.replace(geometry, layers=()))


def test_r_is_claimed_on_training_images_and_from_the_covariance(geometry):
    claims = [claim for claim in network_claims(geometry) if claim.claim.startswith("r with ")]
    kinds = {claim.claim for claim in claims if claim.subject == geometry.layers[0].name}
    assert kinds == {
        "r with weights binarized is the same on training images",
        "r with weights binarized follows from the inputs' covariance",
    }  # its inputs are real
    products = geometry.layers[1].both_binarized
    (training, predicted) = [c for c in claims if c.subject == "conv2" and "weights and activations" in c.claim]
    assert training.tolerance == 3 * products.difference_error
    assert training.holds == (not products.training_departs)
    assert (predicted.measured, predicted.predicted) == (products.pearson_r, products.predicted_pearson_r)
