"""What each method of the field would do to given weights: the angle beside predictions, r, and sign flips."""

import dataclasses
import statistics
from collections.abc import Sequence

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from hypersign import theory
from hypersign.forecasting.formats import fitted
from hypersign.geometry.covariance import LayerCovariance, what_if
from hypersign.geometry.weights import angle_stats
from hypersign.layers import QuantLinear
from hypersign.methods import distinct
from hypersign.quantizers import BiPer, Quantizer, quantizer_of

__all__ = ["MethodGeometry", "method_geometry", "method_quantizers", "methods_table"]


@dataclasses.dataclass(frozen=True)
class MethodGeometry:
    """What a method's quantizer of weights does to a layer's latent weights, before any training with it.

    `angle_degrees` is the mean angle between filters and their quantized values. `normal_degrees` is predicted for
    normal weights of the layer's fan-in, `moments_degrees` from the moments of these weights. `pearson_r` and
    `sign_flip_share` are medians over filters of `what_if`, from the covariance of the layer's inputs. Unknown values
    are NaN.
    """

    method: str
    quantizer: str
    angle_degrees: float
    normal_degrees: float
    moments_degrees: float
    pearson_r: float = float("nan")
    sign_flip_share: float = float("nan")


def method_quantizers(weight: Tensor) -> dict[str, Quantizer]:
    """The quantizer of weights of each method, fitted to latent weights `(filters, ...)`, by the method's name.

    Of methods with the same quantizer the first is there. Numbers that quantizers learn have their starting values.

    >>> list(method_quantizers(torch.ones(2, 3)))[:3]
    ['bnn', 'xnor', 'ls-2']
    """
    weight = weight.detach()
    return {name: fitted(quantizer_of(text), weight) for name, text in distinct().items()}


def method_geometry(weight: Tensor, covariance: LayerCovariance | None = None) -> tuple[MethodGeometry, ...]:
    """What each method would do to the filters of a layer.

    Args:
        weight: the latent weights, `(filters, ...)`.
        covariance: the covariance of the layer's inputs, for r and sign flips.

    Source: `hypersign.theory`, section "What each does to the angle" of docs/methods.md.

    >>> rows = method_geometry(torch.randn(8, 4096, generator=torch.Generator().manual_seed(0)))
    >>> [(row.method, round(row.angle_degrees), round(row.normal_degrees)) for row in rows[:4]]
    [('bnn', 37, 37), ('xnor', 37, 37), ('ls-2', 20, 20), ('ls-t', 26, 26)]
    """
    rows, weight = [], weight.detach().flatten(1).float()
    known: dict[bytes, tuple[float, float]] = {}  # r and sign flips, by the levels
    for name, quantizer in method_quantizers(weight).items():
        layer = QuantLinear(weight.shape[1], len(weight), bias=False)
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.weight_quantizer = quantizer
            levels = quantizer.effective(layer.weight)
        stats = angle_stats(layer)
        key = levels.numpy().tobytes()
        if covariance is not None and key not in known:
            (row,) = what_if(covariance, {name: levels.double().expand_as})
            known[key] = row.median("pearson_r"), row.median("sign_flip_share")
        r, flips = known.get(key, (float("nan"), float("nan")))
        own = stats.moments_mean if stats.moments_mean != stats.predicted_mean else float("nan")  # it uses no moments
        normal = stats.predicted_mean
        if isinstance(quantizer, BiPer):  # its angle depends on the size of the weights
            normal = float(np.degrees(np.arccos(theory.sine_sign_cosine(quantizer.omega * float(weight.std())))))
        angles = stats.mean, normal, own
        rows.append(MethodGeometry(name, quantizer.describe(), *angles, r, flips))
    return tuple(rows)


def methods_table(layers: Sequence[Sequence[MethodGeometry]]) -> Table:
    """The methods as a table for a terminal: means over layers, of what `method_geometry` found for each."""
    table = Table(
        caption="what each method's levels would do to these latent weights, before training with it;\n"
        "means over layers. angle: measured; normal: predicted for normal weights; moments:\n"
        "predicted from the weights' moments; r: of dot products, from the inputs' covariance",
        caption_justify="left",
    )
    table.add_column("method", no_wrap=True)
    for name in ("angle", "normal", "moments", "r", "signs\nflipped"):
        table.add_column(name, justify="right", no_wrap=True)
    for rows in zip(*layers, strict=True):
        means = [
            statistics.fmean(getattr(row, field) for row in rows)
            for field in ("angle_degrees", "normal_degrees", "moments_degrees", "pearson_r", "sign_flip_share")
        ]
        cells = [f"{value:.1f}°" for value in means[:3]] + [f"{means[3]:.3f}", f"{100 * means[4]:.1f} %"]
        table.add_row(rows[0].method, *("-" if np.isnan(m) else cell for m, cell in zip(means, cells, strict=True)))
    return table
