"""The paper's claims: for each a measured number, the number it is compared with, and the verdict."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np

from hypersign._checks import HypersignError
from hypersign._json import plain
from hypersign.geometry.results import DotProducts, Geometry, LayerGeometry
from hypersign.simulation import Simulation

__all__ = ["Claim", "network_claims", "simulation_claims"]

ANGLE_DEGREES = 2.0
"""The tolerance for a layer's mean angle: nine standard deviations of a filter with fan-in 8192."""
SLOPE = 0.1
CORRELATION = 0.05
PERMUTED = 0.03
DISAGREEMENT = 0.03
PREDICTED = 0.03
FAMILIES = {
    "weights": "weights_binarized",
    "activations": "activations_binarized",
    "weights and activations": "both_binarized",
}
STANDARD_ERRORS = 4.0


@dataclasses.dataclass(frozen=True)
class Claim:
    """One claim about one case.

    `claim` is the sentence, `subject` the layer or the simulated case, `quantity` the measured quantity. `relation`
    says when the claim holds: "near" if |measured - predicted| <= tolerance, "at least" if measured >= predicted -
    tolerance, "at most" if measured <= predicted + tolerance, "below" if measured < predicted.
    """

    claim: str
    subject: str
    quantity: str
    measured: float
    predicted: float
    relation: Literal["near", "at least", "at most", "below"] = "near"
    tolerance: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether the claim holds; false if a number is NaN."""
        if self.relation == "near":
            return abs(self.measured - self.predicted) <= self.tolerance
        if self.relation == "at least":
            return self.measured >= self.predicted - self.tolerance
        if self.relation == "at most":
            return self.measured <= self.predicted + self.tolerance
        return self.measured < self.predicted

    @property
    def verdict(self) -> str:
        """ "holds" or "does not hold"."""
        return "holds" if self.holds else "does not hold"

    def as_dict(self) -> dict[str, object]:
        """The fields and the verdict, for JSON; NaN becomes None."""
        return plain({**dataclasses.asdict(self), "verdict": self.verdict})


def network_claims(geometry: Geometry) -> tuple[Claim, ...]:
    """The claims about a trained network, layer by layer, from the results of inspection.

    - Angles are near those of Gaussian filters (within 2 degrees).
    - The log spread of the angles against log fan-in has a slope of -1/2 (within .1).
    - Correlations of dot products are at least the cosine of the angle (minus .05). With permuted activations they
      equal it (within .03).
    - The first layer has a lower correlation than all others.

    Two claims have a second form, for weights that are not Gaussian and activations that have a mean: the angle from
    the layer's own moments, and the permuted r of each filter.

    - r is the same on training images (within three standard errors), and near its prediction from the covariance of
      the inputs (within .03).

    Layers without a prediction have no claim.

    Raises:
        HypersignError: the geometry has no layers.

    Source: Anderson & Berg 2018 (arXiv 1705.07199), sections 2 and 3.

    >>> Claim("near 37 degrees", "conv2", "angle", measured=37.2, predicted=37.05, tolerance=2).verdict
    'holds'
    """
    if not geometry.layers:
        raise HypersignError("claims are about quantized layers; this geometry has none: inspect a quantized network")
    quantized = [layer for layer in geometry.layers if layer.angle_degrees.predicted_mean > 0]
    return tuple(
        [
            *_angles(quantized),
            *_spread(quantized),
            *_products(geometry.layers),
            *_first_layer(geometry.layers),
            *_permuted(quantized),
            *_disagreement(quantized),
            *_predicted(geometry.layers),
        ]
    )


def simulation_claims(simulations: Iterable[Simulation]) -> tuple[Claim, ...]:
    """The claims about random vectors: each simulated mean angle is within 4 standard errors of its closed form.

    Cases without a closed form are left out.
    """
    return tuple(
        Claim(
            f"simulation and closed form agree: {simulation.title}",
            case.label,
            "mean angle, degrees",
            angle.mean,
            angle.predicted_mean,
            "near",
            STANDARD_ERRORS * angle.mean_error,
        )
        for simulation in simulations
        for case in simulation.cases
        if math.isfinite((angle := case.angle_degrees).predicted_mean)
    )


def _angles(layers: Sequence[LayerGeometry]) -> Iterator[Claim]:
    for claim, field in (
        ("quantizing turns filters by the angle of Gaussian vectors", "predicted_mean"),
        ("quantizing turns filters by the angle that their own moments give", "moments_mean"),
    ):
        for layer in layers:
            angle = layer.angle_degrees
            predicted = getattr(angle, field)
            yield Claim(claim, layer.name, "mean angle, degrees", angle.mean, predicted, "near", ANGLE_DEGREES)


def _spread(layers: Sequence[LayerGeometry]) -> Iterator[Claim]:
    points = [
        (math.log(layer.fan_in), math.log(layer.angle_degrees.std))
        for layer in layers
        if layer.angle_degrees.std > 0 and layer.fan_in > 1
    ]
    if len({x for x, _ in points}) > 1:
        x, y = np.array(points).T
        slope = float(np.polyfit(x, y, 1)[0])
        yield Claim(
            "the spread of the angle falls as 1/sqrt(fan-in)",
            "all layers",
            "slope, log std against log fan-in",
            slope,
            -0.5,
            "near",
            SLOPE,
        )


def _products(layers: Sequence[LayerGeometry]) -> Iterator[Claim]:
    for layer in layers:
        if layer.quantizes_weights:
            claim = "binarizing weights nearly keeps dot products"
            yield _correlation(claim, layer, layer.weights_binarized, "at least", CORRELATION)
    for layer in layers:
        if layer.quantizes_inputs and not math.isnan(layer.activations_binarized.independent_pearson_r):
            claim = "binarizing activations nearly keeps dot products"
            yield _correlation(claim, layer, layer.activations_binarized, "at least", CORRELATION)


def _first_layer(layers: Sequence[LayerGeometry]) -> Iterator[Claim]:
    first, others = layers[0], layers[1:]
    if others and not first.quantizes_inputs:
        yield Claim(
            "the first layer keeps dot products worse than any other",
            first.name,
            "Pearson r, weights binarized",
            first.weights_binarized.pearson_r,
            min(layer.weights_binarized.pearson_r for layer in others),
            "below",
        )


def _permuted(layers: Sequence[LayerGeometry]) -> Iterator[Claim]:
    for layer in layers:
        yield _correlation(
            "permuting the activations brings r to the cosine", layer, layer.permuted, "near", PERMUTED
        )
    # If the activations have a mean, r pooled over filters also contains the differences between the filters' means.
    for layer in layers:
        yield Claim(
            "permuting the activations brings each filter's r to the cosine",
            layer.name,
            "Pearson r, mean over filters",
            _mean(layer.permuted.pearson_r_per_filter),
            layer.permuted.independent_pearson_r,
            "near",
            PERMUTED,
        )


def _disagreement(layers: Sequence[LayerGeometry]) -> Iterator[Claim]:
    for layer in layers:
        products = layer.weights_binarized
        yield Claim(
            "few dot products change sign",
            layer.name,
            "share of signs that differ; arccos(r)/pi",
            products.sign_disagreement,
            math.acos(max(-1.0, min(1.0, products.pearson_r))) / math.pi,
            "at most",
            DISAGREEMENT,
        )


def _predicted(layers: Sequence[LayerGeometry]) -> Iterator[Claim]:
    for name, family in FAMILIES.items():
        for layer in layers:
            products = getattr(layer, family)
            changes = layer.quantizes_weights, layer.quantizes_inputs
            if changes != (True, True) and name != ("weights" if layer.quantizes_weights else "activations"):
                continue
            rows = (
                ("is the same on training images", products.training_pearson_r, 3 * products.difference_error),
                ("follows from the inputs' covariance", products.predicted_pearson_r, PREDICTED),
            )
            for claim, value, tolerance in rows:
                if math.isfinite(value) and math.isfinite(tolerance):
                    words = f"r with {name} binarized {claim}"
                    yield Claim(words, layer.name, "Pearson r", products.pearson_r, value, "near", tolerance)


def _correlation(
    claim: str, layer: LayerGeometry, products: DotProducts, relation: Literal["near", "at least"], tolerance: float
) -> Claim:
    return Claim(
        claim, layer.name, "Pearson r", products.pearson_r, products.independent_pearson_r, relation, tolerance
    )


def _mean(values: Sequence[float]) -> float:
    """The mean of the finite values; NaN if there are none."""
    known = [value for value in values if math.isfinite(value)]
    return math.fsum(known) / len(known) if known else math.nan
