"""Correlations of dot products, accumulated batch by batch in constant memory.

A layer has four kinds of dot product: its continuous or quantized inputs (`a_c`, `a_b`) times its latent or
quantized weights (`w_c`, `w_b`). A family compares two kinds. `ProductSums` keeps counts, sums and sums of products
(float64) per filter and per group of images: enough for every correlation and its standard error.
`DotProductAccumulator` adds a 2-D histogram per family. Accumulators of several processes can be added.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hypersign import theory
from hypersign._checks import HypersignError
from hypersign.geometry.results import DotProducts, Histogram

__all__ = ["BINS", "DotProductAccumulator", "IMAGE_GROUPS", "ProductSums"]

BINS = 50  # per axis of a histogram, as in the paper's figures; even, so that 0 is an edge

IMAGE_GROUPS = 20
"""Images are dealt to this number of groups, five at a time; a jackknife leaves out one group at a time."""

_RUN = 5  # consecutive images of the same group

# Numbers of one kind per chunk: 1 MiB in float32, so that all passes stay in the cache.
_CHUNK = 1 << 18


class ProductSums:
    """Streams dot products of one layer and gives, for each family (x, y), the correlation of x and y.

        r = sum (x - mean x)(y - mean y) / sqrt( sum (x - mean x)^2 * sum (y - mean y)^2 )

    r is computed per filter and pooled. Sums over a chunk are computed in float32 about the chunk's own mean, and
    moved, in float64, to the mean of the first chunk. This keeps r within 1e-6 if the mean is below 100 standard
    deviations.

    Args:
        filters: the number of filters of the layer.
        families: maps the name of each family to (kind of x, kind of y).

    >>> sums = ProductSums(1, {"weights": ("quantized", "latent")})
    >>> x = torch.arange(10.0)[:, None]
    >>> sums.update({"quantized": x, "latent": x.square()}, images=10)
    >>> pooled, per_filter, error = sums.correlation("weights")
    >>> round(pooled, 4), round(error, 4)
    (0.9627, 0.0188)
    """

    def __init__(self, filters: int, families: Mapping[str, tuple[str, str]]) -> None:
        self.filters = filters
        self.families = dict(families)
        self.kinds = tuple(dict.fromkeys(kind for pair in self.families.values() for kind in pair))
        self._pairs = tuple(dict.fromkeys([*((k, k) for k in self.kinds), *self.families.values()]))
        self.images = 0
        self._counts = np.zeros(IMAGE_GROUPS)  # dot products per filter
        shape = IMAGE_GROUPS, filters
        self._origins = {kind: np.zeros(filters) for kind in self.kinds}
        self._sums = {kind: np.zeros(shape) for kind in self.kinds}  # of x - origin
        self._squares = {pair: np.zeros(shape) for pair in self._pairs}  # of (x - origin)(y - origin)
        self._flips = {name: np.zeros(filters) for name in self.families}

    @property
    def count(self) -> int:
        """The number of dot products per filter."""
        return int(self._counts.sum())

    def update(self, products: Mapping[str, Tensor], images: int = 1) -> None:
        """Adds a batch: one tensor of shape `(n, filters)` per kind, with the same n pairs in each.

        Args:
            products: the tensors by kind.
            images: how many images they are from; each has the same number of consecutive rows.

        Raises HypersignError if a product is NaN or infinite; then discard the batch.
        """
        n = len(products[self.kinds[0]])
        if not n:
            return
        rows, most = n // images, max(1, _CHUNK // self.filters)
        done = 0
        while done < images:
            place = (self.images + done) % _RUN
            runs = 0 if place else (images - done) // _RUN
            runs = min(runs, max(1, most // (_RUN * rows)))
            taken = runs * _RUN if runs else min(_RUN - place, images - done)
            start, stop = done * rows, (done + taken) * rows
            first = (self.images + done) // _RUN
            for low in range(start, stop, most if runs < 2 else stop - start):
                high = min(low + most, stop) if runs < 2 else stop
                chunk = {
                    kind: products[kind][low:high].reshape(max(1, runs), -1, self.filters) for kind in self.kinds
                }
                self._add(chunk, (first + np.arange(max(1, runs))) % IMAGE_GROUPS)
            done += taken
        self.images += images

    def _add(self, products: Mapping[str, Tensor], groups: np.ndarray) -> None:
        """Adds a chunk of shape (runs of images, rows, filters), whose runs belong to `groups`."""
        runs, rows, _ = products[self.kinds[0]].shape
        member = (groups == np.arange(IMAGE_GROUPS)[:, None]).astype(np.float64)  # (groups, runs)
        counts = member.sum(1, keepdims=True) * rows
        centred, sums, shifts = {}, {}, {}
        for kind, x in products.items():
            mean = x.sum((0, 1)) / (runs * rows)
            value = _float64(mean)
            if not np.isfinite(value).all():
                raise HypersignError("dot products must be finite numbers; NaN or infinity came")
            if not self._counts.any():
                self._origins[kind] = value
            centred[kind], shifts[kind] = x - mean, value - self._origins[kind]
            sums[kind] = member @ _float64(centred[kind].sum(1))
            self._sums[kind] += sums[kind] + counts * shifts[kind]
        for a, b in self._pairs:
            self._squares[a, b] += member @ _float64((centred[a] * centred[b]).sum(1))
            self._squares[a, b] += shifts[a] * sums[b] + shifts[b] * sums[a] + counts * shifts[a] * shifts[b]
        self._counts += counts[:, 0]
        self._add_signs(products)

    def _add_signs(self, products: Mapping[str, Tensor]) -> None:
        """Counts the pairs in which exactly one product is negative."""
        negative = {kind: x < 0 for kind, x in products.items()}
        for name, (a, b) in self.families.items():
            if a != b:
                self._flips[name] += _float64((negative[a] ^ negative[b]).sum((0, 1)))

    def merge(self, other: "ProductSums") -> None:
        """Adds the pairs of another accumulator.

        Raises HypersignError if the two differ in filters or families.
        """
        ours, theirs = ((a.filters, a.families) for a in (self, other))
        if ours != theirs:
            raise HypersignError(
                f"accumulators must agree in filters and families to be merged; got {ours} and {theirs}"
            )
        if not self.count:
            self._origins = dict(other._origins)
        shifts = {kind: other._origins[kind] - self._origins[kind] for kind in self.kinds}
        n = other._counts[:, None]
        for a, b in self._pairs:
            moved = shifts[a] * other._sums[b] + shifts[b] * other._sums[a] + n * shifts[a] * shifts[b]
            self._squares[a, b] += other._squares[a, b] + moved
        for kind in self.kinds:
            self._sums[kind] += other._sums[kind] + n * shifts[kind]
        for name, flips in other._flips.items():
            self._flips[name] += flips
        self._counts += other._counts
        self.images += other.images

    def means(self, kind: str) -> np.ndarray:
        """The mean of each filter's products, of shape (filters,)."""
        return self._origins[kind] + self._sums[kind].sum(0) / max(self.count, 1)

    def variances(self, kind: str) -> np.ndarray:
        """The variance of each filter's products, of shape (filters,)."""
        return self._moments(self._counts.sum(), kind, kind)[0] / max(self.count, 1)

    def sign_flips(self, family: str) -> np.ndarray:
        """The share of pairs of each filter in which exactly one product is negative; NaN without pairs."""
        return self._flips[family] / self.count if self.count else np.full(self.filters, np.nan)

    def correlation(self, family: str) -> tuple[float, np.ndarray, float]:
        """r pooled over filters, r of each filter, and the standard error of the pooled r (NaN for up to 5 images).

        The error is a jackknife over up to 20 groups of images: sqrt((k - 1)/k sum (r_-i - mean r_-i)^2), with r_-i
        the correlation without group i.
        """
        pooled, per_filter = self._correlate(family, None)
        seen = np.flatnonzero(self._counts)
        error = np.nan
        if len(seen) > 1:
            without = np.array([self._correlate(family, int(group))[0] for group in seen])
            error = float(np.sqrt((len(seen) - 1) / len(seen) * ((without - without.mean()) ** 2).sum()))
        return pooled, per_filter, error

    def filter_errors(self, family: str) -> np.ndarray:
        """The standard error of each filter's r, by the same jackknife, of shape (filters,)."""
        seen = np.flatnonzero(self._counts)
        if len(seen) < 2:
            return np.full(self.filters, np.nan)
        without = np.array([self._correlate(family, int(group))[1] for group in seen])
        return np.asarray(np.sqrt((len(seen) - 1) / len(seen) * ((without - without.mean(0)) ** 2).sum(0)))

    def _moments(self, n: float, a: str, b: str, without: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Sum of products of deviations, and mean of kind `a`, over all groups but one."""
        sums = []
        for values in (self._sums[a], self._sums[b], self._squares[a, b]):
            sums.append(values.sum(0) if without is None else values.sum(0) - values[without])
        n = max(n, 1)
        return sums[2] - sums[0] * sums[1] / n, self._origins[a] + sums[0] / n

    def _correlate(self, family: str, without: int | None) -> tuple[float, np.ndarray]:
        x, y = self.families[family]
        n = float(self._counts.sum() - (0 if without is None else self._counts[without]))
        (xx, x_mean), (yy, y_mean) = (self._moments(n, kind, kind, without) for kind in (x, y))
        xy = self._moments(n, x, y, without)[0]
        # Smaller deviations are float32 rounding errors of a constant.
        xx = np.where(xx > n * (1e-6 * x_mean) ** 2, xx, 0.0)
        yy = np.where(yy > n * (1e-6 * y_mean) ** 2, yy, 0.0)
        return theory.pooled_r(xy / max(n, 1), xx / max(n, 1), yy / max(n, 1), x_mean, y_mean)

    def line(self, family: str) -> tuple[float, float]:
        """Slope and intercept of the least-squares line of y on x, over all filters; NaN if x does not vary."""
        x, y = self.families[family]
        n = max(self._counts.sum(), 1)
        (xx, x_mean), (_, y_mean) = (self._moments(n, kind, kind) for kind in (x, y))
        xy = self._moments(n, x, y)[0]
        xx = np.where(xx > n * (1e-6 * x_mean) ** 2, xx, 0.0)
        spread = float(xx.mean() / n + x_mean.var())
        both = float(xy.mean() / n + ((x_mean - x_mean.mean()) * (y_mean - y_mean.mean())).mean())
        slope = both / spread if spread > 0 else np.nan
        return slope, float(y_mean.mean() - slope * x_mean.mean())


class DotProductAccumulator(ProductSums):
    """`ProductSums` with a 2-D histogram per family: everything that `DotProducts` holds.

    `sign_disagreement` is the share of pairs in which exactly one value is negative. The first batch fixes the edges
    of the histograms: 50 equal bins from -s to s, with s = 1.5 times the .999 quantile of |x|. If all products are
    integers, a bin holds two of them (or 4, 6, ...), because sums of an even number of signs are all even, and of an
    odd number all odd.

    Args:
        filters: the number of filters of the layer.
        families: maps the name of each family to (kind of x, kind of y).
        bin_widths: maps each kind to the width of its bins; pass the `bin_widths` of another accumulator to merge
            the two later. None to choose them from the first batch.

    >>> pairs = DotProductAccumulator(1, {"weights": ("quantized", "latent")})
    >>> x = torch.tensor([[-1.0], [1.0], [3.0]])
    >>> pairs.update({"quantized": x, "latent": 0.5 * x + 0.25})
    >>> found = pairs.result("weights")
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
        super().__init__(filters, families)
        self.bin_widths = None if bin_widths is None else dict(bin_widths)
        self._histograms = {name: np.zeros(BINS * BINS, np.int64) for name in self.families}

    def update(self, products: Mapping[str, Tensor], images: int = 1) -> None:
        if self.bin_widths is None:
            self.bin_widths = {kind: _bin_width(products[kind]) for kind in self.kinds}
        super().update(products, images)

    def _add_signs(self, products: Mapping[str, Tensor]) -> None:
        """Fills the histograms, whose edges include 0."""
        assert self.bin_widths is not None
        bins = {}
        for kind in self.kinds:
            # floor, so that exactly the x >= 0 fall into the bins from BINS/2 on
            scaled = torch.mul(products[kind], 1 / self.bin_widths[kind])
            bins[kind] = scaled.floor_().clamp_(-BINS // 2, BINS // 2 - 1)
        for name, (x_kind, y_kind) in self.families.items():
            # Indices below 2500 are exact in every float type but bfloat16, and inspection runs in float32.
            index = torch.add(bins[y_kind], bins[x_kind], alpha=BINS).add_(BINS // 2 * (BINS + 1))
            counts = torch.bincount(index.to(torch.int16).flatten(), minlength=BINS * BINS)
            self._histograms[name] += counts.cpu().numpy()

    def merge(self, other: "ProductSums") -> None:
        """Adds the pairs of another accumulator.

        Raises HypersignError if the two differ in filters, families or bin widths.
        """
        if not isinstance(other, DotProductAccumulator) or self.bin_widths != other.bin_widths:
            widths = getattr(other, "bin_widths", None)
            raise HypersignError(
                f"accumulators must agree in bin widths to be merged; got {self.bin_widths} and {widths}; "
                "make the second with bin_widths= of the first"
            )
        super().merge(other)
        for name, counts in other._histograms.items():
            self._histograms[name] += counts

    def result(
        self,
        family: str,
        *,
        training: ProductSums | None = None,
        predicted: tuple[float, np.ndarray] | None = None,
        independent: float = np.nan,
    ) -> DotProducts:
        """The measures of one family, beside r on training images and the predicted r.

        Args:
            family: the name of the family.
            training: the sums over training images, with the same family; None if there are none.
            predicted: the predicted r, pooled and of each filter; None if there is none.
            independent: the reference r for independent inputs.
        """
        x, y = self.families[family]
        pooled, per_filter, error = self.correlation(family)
        slope, intercept = self.line(family)
        widths = self.bin_widths or dict.fromkeys(self.kinds, 1.0)
        counts = self._histograms[family].reshape(BINS, BINS)
        half = BINS // 2
        differing = int(counts[:half, half:].sum() + counts[half:, :half].sum())
        learned = (np.nan, np.empty(0), np.nan) if training is None else training.correlation(family)
        flips, expected = np.nan, float(theory.sign_disagreement(independent))
        if training is not None:
            flips = float(training.sign_flips(family).mean())
            with np.errstate(divide="ignore", invalid="ignore"):
                first, second = (training.means(kind) / np.sqrt(training.variances(kind)) for kind in (x, y))
            shares = theory.sign_flip_share(learned[1], first, second)
            expected = float(np.mean(shares[~np.isnan(shares)])) if not np.isnan(shares).all() else np.nan
        return DotProducts(
            pearson_r=pooled,
            pearson_r_per_filter=tuple(per_filter.tolist()),
            slope=slope,
            intercept=intercept,
            sign_disagreement=differing / (self.count * self.filters) if self.count else np.nan,
            histogram=Histogram(_edges(widths[x]), _edges(widths[y]), tuple(tuple(row) for row in counts.tolist())),
            pearson_r_error=error,
            training_pearson_r=learned[0],
            training_pearson_r_error=learned[2],
            training_pearson_r_per_filter=tuple(learned[1].tolist()),
            predicted_pearson_r=np.nan if predicted is None else predicted[0],
            predicted_pearson_r_per_filter=() if predicted is None else tuple(predicted[1].tolist()),
            independent_pearson_r=independent,
            training_sign_disagreement=flips,
            predicted_sign_disagreement=expected,
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
