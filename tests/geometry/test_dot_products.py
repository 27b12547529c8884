import numpy as np
import pytest
import torch
from scipy import stats

from hypersign._checks import HypersignError
from hypersign.geometry import dot_products
from hypersign.geometry.dot_products import BINS, DotProductAccumulator, ProductSums

FAMILIES = {"one": ("x", "y"), "two": ("z", "x")}


def _products(n=900, filters=5, mean=0.0, seed=0, scale=(1.0, 1.0, 1.0)):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, filters)) * scale[0] + mean * np.arange(1, filters + 1)
    y = 0.7 * x + scale[1] * 0.5 * rng.standard_normal((n, filters))
    z = scale[2] * rng.standard_normal((n, filters)) - 0.3 * x
    return {k: torch.from_numpy(v.astype(np.float32)) for k, v in {"x": x, "y": y, "z": z}.items()}


def _accumulate(products, size=200, **options):
    total = DotProductAccumulator(products["x"].shape[1], FAMILIES, **options)
    for start in range(0, len(products["x"]), size):
        total.update({k: v[start : start + size] for k, v in products.items()})
    return total


@pytest.mark.parametrize("chunk", [1 << 18, 64])
@pytest.mark.parametrize("mean", [0.0, 3.0, 20.0])
def test_against_scipy_in_float64(mean, chunk, monkeypatch):
    monkeypatch.setattr(dot_products, "_CHUNK", chunk)
    products = _products(mean=mean)
    total = _accumulate(products)
    for name, pair in FAMILIES.items():
        x, y = (products[kind].numpy().astype(float) for kind in pair)
        found = total.result(name, independent=0.5)
        line = stats.linregress(x.ravel(), y.ravel())
        assert found.pearson_r == pytest.approx(line.rvalue, abs=1e-6)
        assert found.slope == pytest.approx(line.slope, rel=1e-5)
        assert found.intercept == pytest.approx(line.intercept, abs=1e-5 + 1e-6 * mean)
        expected = [stats.pearsonr(x[:, i], y[:, i]).statistic for i in range(x.shape[1])]
        np.testing.assert_allclose(found.pearson_r_per_filter, expected, atol=1e-6)
        assert found.sign_disagreement == np.mean((x < 0) != (y < 0))
        assert found.predicted_sign_disagreement == pytest.approx(1 / 3)  # arccos(.5)/pi


def test_histogram_is_numpys_with_the_rest_in_the_outermost_bins():
    products = _products(n=5000)
    found = _accumulate(products, size=500).result("one")
    x_edges, y_edges = (np.array(e) for e in (found.histogram.x_edges, found.histogram.y_edges))
    assert len(x_edges) == len(y_edges) == BINS + 1
    assert x_edges[BINS // 2] == 0
    inside = [
        np.clip(products[k].numpy().astype(float).ravel(), e[0], np.nextafter(e[-1], 0))
        for k, e in (("x", x_edges), ("y", y_edges))
    ]
    expected = np.histogram2d(*inside, bins=[x_edges, y_edges])[0]
    # an element may lie within rounding of an edge
    assert np.abs(np.array(found.histogram.counts) - expected).sum() <= 4
    assert np.sum(found.histogram.counts) == 5000 * 5


def test_outliers_after_the_first_batch_are_counted():
    total = DotProductAccumulator(1, FAMILIES)
    ordinary = torch.linspace(-1, 1, 100)[:, None]
    total.update(dict.fromkeys("xyz", ordinary))
    total.update(dict.fromkeys("xyz", torch.tensor([[1e6], [-1e6]])))
    counts = total.result("one").histogram.counts
    assert np.sum(counts) == 102
    assert counts[0][0] == counts[-1][-1] == 1


def test_zero_counts_as_positive():
    total = DotProductAccumulator(1, FAMILIES)
    zero = torch.tensor([[0.0], [-0.0], [1.0], [-1.0]])
    other = torch.tensor([[1.0], [1.0], [1.0], [1.0]])
    total.update({"x": zero, "y": other, "z": -other})
    assert total.result("one").sign_disagreement == 1 / 4
    assert total.result("two").sign_disagreement == 3 / 4


@pytest.mark.parametrize(("d", "values"), [(27, 28), (1152, 1153)])
def test_bins_hold_equally_many_integers(d, values):
    rng = np.random.default_rng(0)
    sums = torch.from_numpy(2.0 * rng.binomial(d, 0.5, (4000, 3)) - d).float()  # of d signs
    total = DotProductAccumulator(3, FAMILIES)
    total.update(dict.fromkeys("xyz", sums))
    edges = np.array(total.result("one").histogram.x_edges)
    possible = np.arange(-d, d + 1, 2)
    held = np.histogram(possible, edges)[0]
    assert len(possible) == values
    inner = held[(edges[:-1] > -d) & (edges[1:] < d)][:-1]  # NumPy's last bin has both its edges
    assert len(set(inner.tolist())) == 1


def test_accumulators_add_up():
    first, second = _products(seed=0, mean=2), _products(n=333, seed=1, mean=-1)
    whole = _accumulate(first)
    apart = DotProductAccumulator(5, FAMILIES, bin_widths=whole.bin_widths)
    for kind in (second,):
        whole.update(kind)
        apart.update(kind)
    begun = _accumulate(first)
    begun.merge(apart)
    begun.merge(DotProductAccumulator(5, FAMILIES, bin_widths=whole.bin_widths))  # nothing seen: nothing added
    for name in FAMILIES:
        a, b = (t.result(name) for t in (whole, begun))
        assert a.histogram == b.histogram
        assert a.sign_disagreement == b.sign_disagreement
        assert (a.pearson_r, a.slope) == pytest.approx((b.pearson_r, b.slope), abs=1e-12)
        np.testing.assert_allclose(a.pearson_r_per_filter, b.pearson_r_per_filter, atol=1e-12)


def test_accumulators_that_differ_are_not_added():
    with pytest.raises(HypersignError, match="must agree in bin widths"):
        _accumulate(_products()).merge(_accumulate(_products(scale=(2.0, 2.0, 2.0))))


def test_products_that_do_not_vary():
    total = DotProductAccumulator(2, FAMILIES)
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    x[:, 1] = 0.1
    constant = torch.full((50, 2), 0.1)
    total.update({"x": x, "y": x, "z": constant})
    found = total.result("one")
    assert np.isnan(found.pearson_r_per_filter).tolist() == [False, True]
    assert found.pearson_r == pytest.approx(1)
    found = total.result("two")
    assert np.isnan(found.pearson_r_per_filter).all()
    assert np.isnan([found.pearson_r, found.slope, found.intercept]).all()


def test_one_pair_has_no_correlation():
    total = DotProductAccumulator(1, FAMILIES)
    total.update(dict.fromkeys("xyz", torch.tensor([[2.0]])))
    assert np.isnan(total.result("one").pearson_r)


def test_nothing_seen():
    found = DotProductAccumulator(2, FAMILIES).result("one")
    assert np.isnan([found.pearson_r, found.slope, found.sign_disagreement]).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite(bad):
    total = DotProductAccumulator(1, FAMILIES)
    with pytest.raises(HypersignError, match="must be finite"):
        total.update(dict.fromkeys("xyz", torch.tensor([[1.0], [bad]])))
    assert total.count == 0


def test_the_error_of_each_filter_is_that_of_repetitions():
    """The jackknife of one set of images against the deviation of r over many sets."""
    torch.manual_seed(0)
    found, errors = [], []
    for _ in range(60):
        sums = ProductSums(2, {"family": ("x", "y")})
        x = torch.randn(100, 2)
        sums.update({"x": x, "y": x + torch.tensor([0.3, 2.0]) * torch.randn(100, 2)}, images=100)
        found.append(sums.correlation("family")[1])
        errors.append(sums.filter_errors("family"))
    assert np.mean(errors, 0) == pytest.approx(np.std(found, 0), rel=0.25)
    assert np.isnan(ProductSums(2, {"family": ("x", "y")}).filter_errors("family")).all()
