"""Normals: the same bits from every back end, independent, and normal; sums over rows are sums over rows."""

import numpy as np
import pytest
from scipy import stats

from hypersign.bits.backend import available_backends, forced
from hypersign.geometry.gaussian import normals, row_sums


@pytest.mark.parametrize("d", [1, 15, 16, 17, 1000])
@pytest.mark.parametrize("backend", available_backends())
def test_every_back_end_draws_the_same_bits(backend: str, d: int) -> None:
    with forced("numpy"):
        expected = normals(2**64 - 1, 5, 70, d)
    with forced(backend):
        np.testing.assert_array_equal(normals(2**64 - 1, 5, 70, d, threads=2), expected)


def test_a_row_is_known_by_its_number() -> None:
    together = normals(3, 0, 200, 33)
    assert np.array_equal(np.concatenate([normals(3, 0, 1, 33), normals(3, 1, 199, 33)]), together)
    assert np.array_equal(normals(3, -1, 2, 33)[1], together[0])


def test_normal_and_independent() -> None:
    x = normals(0, 0, 4000, 256).astype(np.float64)
    flat = x.ravel()
    assert stats.kstest(flat, "norm").pvalue > 0.001
    for moment, variance in ((2, 2), (4, 96), (6, 10170)):  # Var x^k = E x^2k - (E x^k)^2
        expected = {2: 1, 4: 3, 6: 15}[moment]
        assert abs((flat**moment).mean() - expected) < 4 * (variance / flat.size) ** 0.5
    # The two numbers that share a radius, and any two lanes and steps, are uncorrelated, as are their squares.
    for y in (x, x**2 - 1):
        correlation = np.corrcoef(y, rowvar=False)
        np.fill_diagonal(correlation, 0)
        assert np.abs(correlation).max() < 6 / len(x) ** 0.5
    assert abs(np.corrcoef(flat[1:], flat[:-1])[0, 1]) < 4 / flat.size**0.5
    assert abs(np.corrcoef(x[1:].ravel(), x[:-1].ravel())[0, 1]) < 4 / flat.size**0.5
    other = normals(1, 0, 4000, 256).ravel()
    assert abs(np.corrcoef(flat, other)[0, 1]) < 4 / flat.size**0.5


def test_tails_reach_as_far_as_they_should() -> None:
    x = np.abs(normals(11, 0, 4000, 1024).ravel())
    for limit in (3, 4, 4.5):
        expected = x.size * 2 * stats.norm.sf(limit)
        assert abs((x > limit).sum() - expected) < 5 * expected**0.5
    assert x.max() < 6.67


@pytest.mark.parametrize("d", [1, 3, 48, 5000])
@pytest.mark.parametrize("backend", available_backends())
def test_sums_are_those_of_the_rows(backend: str, d: int) -> None:
    scale = np.linspace(0.5, 2, d).astype(np.float32)
    thresholds = np.float32([0.0, 0.612, 5.0])
    with forced("numpy"):
        x = (normals(9, 3, 131, d) * scale).astype(np.float64)
    size = np.abs(x[1:])
    with forced(backend):
        found = row_sums(9, 4, 130, d, scale=scale, thresholds=thresholds, products=True, threads=2)
        plain = row_sums(9, 4, 130, d)
    close = {"rtol": 1e-6, "atol": 1e-6}
    np.testing.assert_allclose(found.absolute, size.sum(1), **close)
    np.testing.assert_allclose(found.square, (size**2).sum(1), **close)
    lengths = np.linalg.norm(x, axis=1)
    assert np.all(np.abs(found.product - (x[1:] * x[:-1]).sum(1)) <= 1e-6 * lengths[1:] * lengths[:-1] + 1e-12)
    for i, threshold in enumerate(thresholds):
        np.testing.assert_allclose(found.above[:, i], np.where(size > threshold, size, 0).sum(1), **close)
        assert np.array_equal(found.number[:, i], (size > threshold).sum(1))
    assert plain.above.shape == (130, 0)
    assert not plain.product.any()
