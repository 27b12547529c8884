"""Normals: the same bits from every back end, independent, and normal; sums over rows are sums over rows."""

import numpy as np
import pytest
from scipy import stats

from hypersign.bits.backend import available_backends, forced
from hypersign.simulation import gaussian
from hypersign.simulation.gaussian import normals, row_sums


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
    assert x.max() < 6.57


@pytest.mark.parametrize("d", [1, 3, 48, 5000])
@pytest.mark.parametrize("backend", available_backends())
def test_sums_are_those_of_the_rows(backend: str, d: int) -> None:
    scale = np.linspace(0.5, 2, d).astype(np.float32)
    thresholds = np.float32([0.0, 0.612, 5.0])
    with forced("numpy"):
        x = (normals(9, 2, 132, d) * scale).astype(np.float64)
    size = np.abs(x[2:])
    with forced(backend):
        found = row_sums(9, 4, 130, d, scale=scale, thresholds=thresholds, threads=2)
        with_products = row_sums(9, 4, 130, d, scale=scale, thresholds=thresholds, products=True)
    close = {"rtol": 1e-6, "atol": 1e-6}
    np.testing.assert_allclose(found.absolute, size.sum(1), **close)
    np.testing.assert_allclose(found.square, (size**2).sum(1), **close)
    np.testing.assert_allclose(with_products.square, found.square, **close)
    lengths = np.linalg.norm(x, axis=1)
    for lag, found_dots in ((1, with_products.product), (2, with_products.product_two_before)):
        before = slice(2 - lag, -lag)
        limit = 1e-6 * lengths[2:] * lengths[before] + 1e-12
        assert np.all(np.abs(found_dots - (x[2:] * x[before]).sum(1)) <= limit)
    assert not with_products.absolute.any()
    assert not found.product.any()
    assert not found.product_two_before.any()
    for i, threshold in enumerate(thresholds):
        np.testing.assert_allclose(found.above[:, i], np.where(size > threshold, size, 0).sum(1), **close)
        assert np.array_equal(found.number[:, i], (size > threshold).sum(1))
        assert np.array_equal(with_products.above[:, i], found.above[:, i])


@pytest.mark.parametrize("d", [1, 8, 16, 17, 31, 5000])
@pytest.mark.parametrize("backend", available_backends())
def test_sums_without_components_are_those_of_the_rows(backend: str, d: int) -> None:
    """Radii and directions give |x| and x^2 of a row before there are components."""
    with forced("numpy"):
        x = normals(9, 4, 130, d).astype(np.float64)
    with forced(backend):
        found = row_sums(9, 4, 130, d)
        others = [row_sums(9, 4, 130, d, products=True), row_sums(9, 4, 130, d, thresholds=np.float32([1]))]
    for other in others:
        np.testing.assert_allclose(other.square, (x**2).sum(1), rtol=4e-6)
    np.testing.assert_allclose(found.absolute, np.abs(x).sum(1), rtol=2e-6)
    np.testing.assert_allclose(found.square, (x**2).sum(1), rtol=4e-6)
    assert found.above.shape == (130, 0)


@pytest.mark.parametrize("backend", available_backends())
def test_threads_change_nothing(backend: str) -> None:
    def everything(threads: int) -> list[np.ndarray]:
        plain = row_sums(2, 0, 1000, 40, threads=threads)
        products = row_sums(2, 0, 1000, 40, thresholds=np.float32([0.5]), products=True, threads=threads)
        return [normals(2, 0, 1000, 40, threads=threads), *vars(plain).values(), *vars(products).values()]

    with forced(backend):
        alone = everything(1)
        for threads in (2, 3, 8):
            assert all(np.array_equal(*pair) for pair in zip(everything(threads), alone, strict=True))


def test_functions_are_as_exact_as_they_say() -> None:
    mantissas = np.arange(2**23, 2**24, 5, dtype=np.float32)
    for power in (0, 1, 6, 7):
        uniform = mantissas * np.float32(2.0**power)
        error = gaussian._energy(-uniform) - (31 - np.log2(uniform.astype(np.float64)))
        assert np.abs(error).max() < (7e-7 if power > 5 else 2e-6)  # float32's own rounding, where the sum is large
    assert gaussian._energy(np.float32([2**31, 2**31 - 128])).min() > 0
    s = np.linspace(-1, 1, 100_001, dtype=np.float32)
    factor, angle = np.sqrt(2 * np.log(2)), np.pi / 4 * s.astype(np.float64)
    sine = gaussian._polynomial(gaussian._SINE, s * s) * s
    np.testing.assert_allclose(sine, factor * np.sin(angle), rtol=2e-6)
    np.testing.assert_allclose(gaussian._polynomial(gaussian._COSINE, s * s), factor * np.cos(angle), rtol=3e-7)
