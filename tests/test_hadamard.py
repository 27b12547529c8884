import numpy as np
import pytest
import torch
from scipy import linalg

from hypersign._checks import HypersignError
from hypersign.hadamard import hadamard_transform


@pytest.mark.parametrize("n", [1, 2, 4, 32, 64, 128])
def test_is_the_product_with_scipys_matrix(n):
    x = np.random.default_rng(0).standard_normal((3, 2, n))
    expected = x @ linalg.hadamard(n)
    np.testing.assert_allclose(hadamard_transform(x, orthonormal=False), expected, atol=1e-12)
    np.testing.assert_allclose(hadamard_transform(x), expected / np.sqrt(n), atol=1e-12)
    ours = hadamard_transform(torch.from_numpy(x))
    np.testing.assert_allclose(ours.numpy(), expected / np.sqrt(n), atol=1e-12)


@pytest.mark.parametrize("kind", [np.int8, np.int64])
def test_integers_stay_exact_integers(kind):
    x = np.random.default_rng(0).integers(-1, 2, (5, 64)).astype(kind)
    y = hadamard_transform(x, orthonormal=False)
    assert y.dtype == kind
    np.testing.assert_array_equal(y, x @ linalg.hadamard(64))
    z = hadamard_transform(torch.from_numpy(x), orthonormal=False)
    assert z.dtype == torch.from_numpy(x).dtype
    np.testing.assert_array_equal(z.numpy(), y)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_is_its_own_inverse_and_leaves_its_input(kind):
    x = np.random.default_rng(0).standard_normal((2, 1 << 12)).astype(kind)
    before = x.copy()
    y = hadamard_transform(x)
    assert y.dtype == kind
    np.testing.assert_array_equal(x, before)
    np.testing.assert_allclose(hadamard_transform(y), x, atol=1e-12 if kind == np.float64 else 1e-5)
    np.testing.assert_allclose(np.linalg.norm(y, axis=1), np.linalg.norm(x, axis=1), rtol=1e-5)


def test_a_size_of_one_is_a_copy():
    x = np.array([[3.0], [4.0]])
    y = hadamard_transform(x, orthonormal=False)
    y += 1
    assert x.tolist() == [[3.0], [4.0]]


def test_a_million():
    x = torch.zeros(1 << 20)
    x[5] = 1.0
    y = hadamard_transform(x, orthonormal=False)
    index = np.arange(1 << 20)
    parity = (index & 1) ^ (index >> 2 & 1)  # i and 5 = bits 0 and 2
    np.testing.assert_array_equal(y.numpy(), 1 - 2 * parity)


def test_gradients_pass():
    x = torch.randn(2, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(hadamard_transform, (x,))


def test_what_it_cannot_transform():
    for x in (np.ones(3), np.ones((2, 0)), np.float64(1.0), torch.ones(12)):
        with pytest.raises(HypersignError, match="power of two"):
            hadamard_transform(x)
    with pytest.raises(HypersignError, match="needs floating numbers"):
        hadamard_transform(np.ones(4, np.int32))
    with pytest.raises(HypersignError, match="needs floating numbers"):
        hadamard_transform(torch.ones(4, dtype=torch.int32))
