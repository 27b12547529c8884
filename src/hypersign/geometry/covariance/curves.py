"""What-ifs as functions of the threshold, the number of levels and a rotation, for the sliders of a report."""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from hypersign import theory
from hypersign._checks import check_int
from hypersign.geometry.covariance.measure import LayerCovariance
from hypersign.geometry.covariance.spectrum import spectrum
from hypersign.geometry.covariance.what_if import LloydMax, WhatIf, _Products
from hypersign.geometry.results import Components, WhatIfCurve
from hypersign.quantizers import Deviations, Sign, Ternary
from hypersign.rotations import HadamardRotation

__all__ = ["COMPONENTS_FAN_IN", "CURVE_FILTERS", "CURVE_LEVELS", "CURVE_THRESHOLDS", "components", "what_if_curves"]

CURVE_THRESHOLDS = tuple(round(0.1 * i, 1) for i in range(16))
"""The ternary thresholds of a curve, in standard deviations of each filter; 0 is the sign."""

CURVE_LEVELS = (2, 3, 4, 5, 6, 7, 8, 16)
"""The numbers of levels of a curve."""

CURVE_FILTERS = 32
"""Curves are medians over this number of filters, evenly spread over the layer (over each group)."""

CURVE_SAMPLE = 256
"""Sign flips in curves are counted on this number of inputs."""

INPUT_FAN_IN = 576
"""Curves for input quantizers are left out above this fan-in, because each value needs a covariance of its own."""

INPUT_THRESHOLDS = (0.0, 0.3, 0.6, 1.0)
"""The thresholds of input curves, in standard deviations of the layer's inputs."""

INPUT_LEVELS = (2, 4, 8)
"""The numbers of levels of input curves."""

COMPONENTS_FAN_IN = 2304
"""Principal components are left out above this fan-in, because they need of the order of d^3 operations."""

FIELDS = ("angle_degrees", "pearson_r", "sign_flip_share", "activations_pearson_r", "both_pearson_r")

ROTATIONS: dict[str, Callable[[int], HadamardRotation] | None] = {
    "none": None,
    "hadamard": lambda d: HadamardRotation(d, rounds=3, seed=0),
}


def what_if_curves(layer: LayerCovariance, filters: int = CURVE_FILTERS) -> tuple[WhatIfCurve, ...]:
    """Predicts angle, r and sign flips for each threshold and number of levels, of weights and of inputs.

    A filter w becomes R' q(R w). For a threshold t, q is sign(x) [|x| > t sigma]; for k levels, q rounds to the k
    Lloyd-Max levels. R is the identity ("none") or three rounds of a randomized Hadamard transform ("hadamard"). r
    and sign flips are those of `what_if`. The curves for inputs keep the layer's own levels of the weights (signs, if
    it has none) and quantize the real inputs by thresholds and Lloyd-Max levels, in standard deviations of all inputs
    of the layer; above a fan-in of 576 they are left out.

    Args:
        layer: the covariance of a layer's inputs, with its latent filters.
        filters: the number of filters in each median; they are evenly spaced.

    Raises:
        HypersignError: `filters` is below 1.

    >>> _ = torch.manual_seed(0)
    >>> from hypersign.geometry.covariance import input_covariances
    >>> layer = input_covariances(torch.nn.Linear(256, 32), [torch.randn(2000, 256)]).layers[""]
    >>> curve = what_if_curves(layer)[0]
    >>> curve.rotation, curve.kind, curve.values[:2], round(curve.pearson_r[0], 2)
    ('none', 'threshold', (0.0, 0.1), 0.86)
    """
    few = _few(layer, check_int("filters", filters, min=1))
    products = _Products(few)
    broken = ~np.isfinite(few.weights).all(1, keepdims=True)
    latent = torch.from_numpy(np.where(broken, 0, few.weights))
    curves = []
    for name, make in ROTATIONS.items():
        rotation = None if make is None else make(few.fan_in)
        # as arrays: tensors would load torch's compiler, which takes a second
        turned = latent if rotation is None else torch.from_numpy(rotation(latent.numpy()))
        families: dict[str, dict[float, Callable[[Tensor], Tensor]]] = {
            "threshold": {t: Ternary(Deviations(t)) if t else Sign() for t in CURVE_THRESHOLDS},
            "levels": {float(k): LloydMax(k) for k in CURVE_LEVELS},
        }
        for kind, quantizers in families.items():
            rows: list[WhatIf] = []
            for quantizer in quantizers.values():
                levels = quantizer(turned).numpy()
                back = levels if rotation is None else rotation.inverse(levels)
                rows.append(products.against("", np.where(broken, np.nan, back)))
            columns = {field: tuple(row.median(field) for row in rows) for field in FIELDS}
            curves.append(WhatIfCurve(name, kind, len(few.weights), tuple(quantizers), **columns))
    return (*curves, *_input_curves(few))


def _input_curves(few: LayerCovariance) -> Iterator[WhatIfCurve]:
    """The curves for quantizers of inputs."""
    if few.real is None or few.fan_in > INPUT_FAN_IN or not few.real.deviation > 0:
        return
    own = few.levels if few.levels is not few.weights else np.where(few.weights < 0, -1.0, 1.0)
    families = {
        "input threshold": {t: theory.Steps.of([-t, t], [-1, 0, 1]) for t in INPUT_THRESHOLDS},
        "input levels": {float(k): _lloyd_max(k) for k in INPUT_LEVELS},
    }
    for kind, rules in families.items():
        rows = []
        for rule in rules.values():
            steps = theory.Steps(few.real.deviation * rule.thresholds, rule.levels)
            rows.append(_Products(few, (steps,) * few.groups).against("", own))
        columns = {field: tuple(row.median(field) for row in rows) for field in FIELDS}
        yield WhatIfCurve("none", kind, len(few.weights), tuple(rules), **columns)


def components(layer: LayerCovariance) -> Components:
    """The shares of the inputs' variance and of the filters' squared lengths in the k leading principal components.

    k is 1, 2, 4, ... and the fan-in. Shares of filters are means over the filters that are not zero, NaN if all are
    zero. Above a fan-in of 2,304 the result is empty, because the components would take too long.

    >>> c = np.array([[[2.0, 1.0], [1.0, 2.0]]])
    >>> found = components(LayerCovariance("", "", 9, np.zeros((1, 2)), c, np.array([[3.0, 1.0]]), np.ones((1, 2))))
    >>> found.numbers, [round(share, 3) for share in found.variance], [round(x, 3) for x in found.weight_energy]
    ((1, 2), [0.75, 1.0], [0.8, 1.0])
    """
    if layer.fan_in > COMPONENTS_FAN_IN:
        return Components()
    single = layer.covariance.astype(np.float32)  # shares need no more digits, and it takes half the time
    found = spectrum(dataclasses.replace(layer, covariance=single))
    numbers = [1]
    while numbers[-1] < layer.fan_in:
        numbers.append(min(2 * numbers[-1], layer.fan_in))

    def mean(alignment: np.ndarray) -> tuple[float, ...]:
        energy = np.cumsum(alignment**2, axis=1)[:, [k - 1 for k in numbers]]
        known = energy[np.isfinite(energy).all(1)]
        return tuple(known.mean(0).tolist()) if len(known) else (np.nan,) * len(numbers)

    return Components(
        tuple(numbers),
        tuple(found.variance_share(k) for k in numbers),
        mean(found.alignment),
        mean(found.levels_alignment),
    )


def _lloyd_max(k: int) -> theory.Steps:
    found = theory.lloyd_max(k)
    return theory.Steps.of(found.thresholds, found.levels)


def _few(layer: LayerCovariance, count: int) -> LayerCovariance:
    """The layer with about `count` of its filters: the same number from each group, at least one."""
    each = layer.filters // layer.groups
    taken = min(each, -(-count // layer.groups))
    places = np.linspace(0, each - 1, taken).round().astype(int)
    chosen = (each * np.arange(layer.groups)[:, None] + places).ravel()
    every = max(1, layer.sample.shape[2] // CURVE_SAMPLE)
    weights = layer.weights[chosen]
    levels = weights if layer.levels is layer.weights else layer.levels[chosen]
    return dataclasses.replace(layer, weights=weights, levels=levels, sample=layer.sample[:, :, ::every])
