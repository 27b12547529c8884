"""Correlations of dot products, accumulated batch by batch in constant memory.

A layer has four kinds of dot product: its continuous or quantized inputs (`a_c`, `a_b`) times its latent or
quantized weights (`w_c`, `w_b`). A family compares two kinds. The accumulator keeps a count, means and sums of
products of deviations (float64) per filter, and a 2-D histogram per family, so accumulators of several processes can
be added.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hypersign import theory
from hypersign._checks import HypersignError
from hypersign.geometry.results import DotProducts, Histogram

__all__ = ["DotProductAccumulator", "BINS"]

BINS = 50  # per axis of a histogram, as in the paper's figures; even, so that 0 is an edge

# Numbers of one kind per chunk: 1 MiB in float32, so that all passes stay in the cache.
_CHUNK = 1 << 18


class DotProductAccumulator:
    """Streams dot products of one layer and reports, for each family (x, y), how y depends on x.

        r = sum (x - mean x)(y - mean y) / sqrt( sum (x - mean x)^2 * sum (y - mean y)^2 )

    r is computed per filter and pooled. `slope` is the pooled sum of products, divided by that of x's squares.
    `sign_disagreement` is the share of pairs in which exactly one value is negative; it is counted from the
    histogram, because 0 is one of its edges. Sums over a chunk are computed in float32 about the chunk's own mean,
    and chunks are combined in float64 (Chan et al. 1983). This keeps r within 1e-6 if the mean is below 100 standard
    deviations.

    The first batch fixes the edges of the histograms: 50 equal bins from -s to s, with s = 1.5 times the .999
    quantile of |x|. If all products are integers, a bin holds two of them (or 4, 6, ...), because sums of an even
    number of signs are all even, and of an odd number all odd.

    Args:
        filters: the number of filters of the layer.
        families: maps the name of each family to (kind of x, kind of y).
        bin_widths: maps each kind to the width of its bins; pass the `bin_widths` of another accumulator to merge
            the two later. None to choose them from the first batch.

    >>> pairs = DotProductAccumulator(1, {"weights": ("quantized", "latent")})
    >>> x = torch.tensor([[-1.0], [1.0], [3.0]])
    >>> pairs.update({"quantized": x, "latent": 0.5 * x + 0.25})
    >>> found = pairs.result("weights", predicted_pearson_r=0.798)
    >>> round(found.pearson_r, 6), round(found.slope, 6), round(found.intercept, 6)
    (1.0, 0.5, 0.25)
    """

    def __init__(
        self,
        filters: int,
        families: Mapping[str, tuple[str, str]],
        *,
        bin_widths: Mapping[str, float] | None = None,
    ) -> None:
        self.filters = filters
        self.families = dict(families)
        self.kinds = tuple(dict.fromkeys(kind for pair in self.families.values() for kind in pair))
        self.bin_widths = None if bin_widths is None else dict(bin_widths)
        self.count = 0  # dot products per filter
        self._means = {kind: np.zeros(filters) for kind in self.kinds}
        self._pairs = tuple(dict.fromkeys([*((k, k) for k in self.kinds), *self.families.values()]))
        self._deviations = {pair: np.zeros(filters) for pair in self._pairs}
        self._histograms = {name: np.zeros(BINS * BINS, np.int64) for name in self.families}

    def update(self, products: Mapping[str, Tensor]) -> None:
        """Adds a batch: one tensor of shape `(n, filters)` per kind, with the same n pairs in each.

        Raises HypersignError if a product is NaN or infinite; then discard the batch.
        """
        if self.bin_widths is None:
            self.bin_widths = {kind: _bin_width(products[kind]) for kind in self.kinds}
        rows = max(1, _CHUNK // self.filters)
        n = len(products[self.kinds[0]])
        for start in range(0, n, rows):
            self._update_chunk({kind: products[kind][start : start + rows] for kind in self.kinds})

    def _update_chunk(self, products: Mapping[str, Tensor]) -> None:
        n = len(products[self.kinds[0]])
        centred, means, bins = {}, {}, {}
        assert self.bin_widths is not None
        for kind, x in products.items():
            mean = x.sum(0) / n
            means[kind] = _float64(mean)
            if not np.isfinite(means[kind]).all():
                raise HypersignError("dot products must be finite numbers; NaN or infinity came")
            centred[kind] = x - mean
            # floor, so that exactly the x >= 0 fall into the bins from BINS/2 on
            bins[kind] = torch.mul(x, 1 / self.bin_widths[kind]).floor_().clamp_(-BINS // 2, BINS // 2 - 1)
        deviations = {(a, b): _float64((centred[a] * centred[b]).sum(0)) for a, b in self._pairs}
        self._combine(n, means, deviations)
        for name, (x_kind, y_kind) in self.families.items():
            # Indices below 2500 are exact in every float type but bfloat16, and inspection runs in float32.
            index = torch.add(bins[y_kind], bins[x_kind], alpha=BINS).add_(BINS // 2 * (BINS + 1))
            counts = torch.bincount(index.to(torch.int16).flatten(), minlength=BINS * BINS)
            self._histograms[name] += counts.cpu().numpy()

    def _combine(
        self, n: int, means: Mapping[str, np.ndarray], deviations: Mapping[tuple[str, str], np.ndarray]
    ) -> None:
        """Adds n pairs, given their means and the sums of products of their deviations."""
        total = self.count + n
        shifts = {kind: means[kind] - self._means[kind] for kind in self.kinds}
        for a, b in self._pairs:
            self._deviations[a, b] += deviations[a, b] + shifts[a] * shifts[b] * (self.count * n / total)
        for kind in self.kinds:
            self._means[kind] += shifts[kind] * (n / total)
        self.count = total

    def merge(self, other: "DotProductAccumulator") -> None:
        """Adds the pairs of another accumulator.

        Raises HypersignError if the two differ in filters, families or bin widths.
        """
        ours, theirs = ((a.filters, a.families, a.bin_widths) for a in (self, other))
        if ours != theirs:
            raise HypersignError(
                "accumulators must agree in filters, families and bin widths to be merged; got "
                f"{ours} and {theirs}; make the second with bin_widths= of the first"
            )
        if other.count:
            self._combine(other.count, other._means, other._deviations)
        for name, counts in other._histograms.items():
            self._histograms[name] += counts

    def result(self, family: str, *, predicted_pearson_r: float) -> DotProducts:
        """The measures of one family, beside the predicted correlation."""
        x, y = self.families[family]
        xx, yy, xy = (self._deviations[pair] for pair in ((x, x), (y, y), (x, y)))
        x_mean, y_mean = self._means[x], self._means[y]
        n = self.count
        # Smaller deviations are float32 rounding errors of a constant.
        x_varies = xx > n * (1e-6 * x_mean) ** 2
        y_varies = yy > n * (1e-6 * y_mean) ** 2
        per_filter = np.full(self.filters, np.nan)
        np.divide(xy, np.sqrt(xx * yy), out=per_filter, where=x_varies & y_varies)
        # Every filter has the same number of pairs, so the pooled mean is the mean of the means.
        x_shift, y_shift = x_mean - x_mean.mean(), y_mean - y_mean.mean()
        pooled_xx = float(xx.sum() + n * (x_shift**2).sum())
        pooled_yy = float(yy.sum() + n * (y_shift**2).sum())
        pooled_xy = float(xy.sum() + n * (x_shift * y_shift).sum())
        x_varies_pooled = bool(x_varies.any()) or float(np.ptp(x_mean)) > 0
        y_varies_pooled = bool(y_varies.any()) or float(np.ptp(y_mean)) > 0
        r = np.nan
        if x_varies_pooled and y_varies_pooled:
            r = pooled_xy / np.sqrt(pooled_xx * pooled_yy)
        slope = pooled_xy / pooled_xx if x_varies_pooled else np.nan
        counts = self._histograms[family].reshape(BINS, BINS)
        half = BINS // 2
        differing = int(counts[:half, half:].sum() + counts[half:, :half].sum())
        widths = self.bin_widths or dict.fromkeys(self.kinds, 1.0)
        return DotProducts(
            pearson_r=float(np.clip(r, -1, 1)),
            pearson_r_per_filter=tuple(np.clip(per_filter, -1, 1).tolist()),
            predicted_pearson_r=predicted_pearson_r,
            slope=float(slope),
            intercept=float(y_mean.mean() - slope * x_mean.mean()),
            sign_disagreement=differing / (n * self.filters) if n else np.nan,
            predicted_sign_disagreement=float(theory.sign_disagreement(predicted_pearson_r)),
            histogram=Histogram(_edges(widths[x]), _edges(widths[y]), tuple(tuple(row) for row in counts.tolist())),
        )


def _float64(values: Tensor) -> np.ndarray:
    return values.cpu().double().numpy()  # in this order, because Apple's devices have no float64


def _edges(width: float) -> tuple[float, ...]:
    return tuple((np.arange(-(BINS // 2), BINS // 2 + 1) * width).tolist())


def _bin_width(x: Tensor) -> float:
    """The width of the bins for numbers such as `x`, estimated from about 20,000 of them."""
    sample: Any = x.flatten()
    sample = sample[:: sample.numel() // 20_000 | 1]  # an odd stride meets every filter
    reach = 1.5 * float(torch.quantile(sample.abs().float(), 0.999))
    width = 2 * reach / BINS
    if not np.isfinite(width) or width <= 0:
        return 1.0
    if bool((sample == sample.round()).all()):
        return 2.0 * np.ceil(width / 2)
    return width
