import numpy as np
import pytest
import torch
from scipy import linalg

from hypersign import ops
from hypersign._checks import HypersignError
from hypersign.bits import available_backends, hadamard_transform
from hypersign.bits.backend import forced

TYPES = [np.float32, np.float64, np.int32, np.int16]


def numbers(shape, kind, seed=0):
    generator = np.random.default_rng(seed)
    if np.dtype(kind).kind == "f":
        return generator.standard_normal(shape).astype(kind)
    limits = np.iinfo(kind)
    return generator.integers(limits.min, limits.max, shape, dtype=kind, endpoint=True)


@pytest.mark.parametrize("backend", available_backends())
@pytest.mark.parametrize("kind", TYPES)
def test_every_back_end_adds_in_the_same_order(backend, kind):
    """Stage after stage, neighbours first: floating numbers agree bit by bit, integers modulo their range."""
    for n in [1 << stages for stages in range(16)]:
        x = numbers((3, n), kind, seed=n)
        y = x.astype(np.int64) if kind in (np.int16, np.int32) else x
        stride = 1
        while stride < n:
            pairs = y.reshape(3, -1, 2, stride)
            y = np.stack((pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]), 2).reshape(3, n)
            stride *= 2
        with forced(backend):
            ours = hadamard_transform(x, orthonormal=False)
            np.testing.assert_array_equal(ours, y.astype(kind))
            assert ours.dtype == kind
            if y.dtype.kind == "f":
                np.testing.assert_array_equal(hadamard_transform(x), y * kind(n**-0.5))
            np.testing.assert_array_equal(hadamard_transform(x, orthonormal=False, threads=3), ours)
            np.testing.assert_array_equal(ops.hadamard(torch.from_numpy(x), 1.0).numpy(), ours)
            hadamard_transform(x, orthonormal=False, out=x)
            np.testing.assert_array_equal(x, ours)


@pytest.mark.parametrize("backend", available_backends())
def test_integers_equal_scipys_product(backend):
    for n in (1, 2, 16, 256, 1024):
        x = np.random.default_rng(n).integers(-30, 31, (4, n))  # 1024 of them fit into 16 bits
        expected = x @ linalg.hadamard(n)
        with forced(backend):
            for kind in (np.int16, np.int32):
                np.testing.assert_array_equal(hadamard_transform(x.astype(kind), orthonormal=False), expected)


@pytest.mark.parametrize("backend", available_backends())
def test_no_rows_rows_apart_and_overlapping_output(backend):
    with forced(backend):
        assert hadamard_transform(np.empty((0, 3, 8), np.float32)).shape == (0, 3, 8)
        whole = numbers((6, 64), np.float32)
        expected = hadamard_transform(whole[::2, 16:48].copy())
        np.testing.assert_array_equal(hadamard_transform(whole[::2, 16:48]), expected)
        shared = numbers(96, np.float32)
        expected = hadamard_transform(shared[:64].copy())
        assert hadamard_transform(shared[:64], out=shared[32:]).base is shared
        np.testing.assert_array_equal(shared[32:], expected)
        big = numbers((2, 8), np.float32).astype(">f4")
        np.testing.assert_array_equal(hadamard_transform(big), hadamard_transform(big.astype("f4")))


def test_torch_elsewhere_adds_in_the_same_order():
    """Butterflies in torch, which tensors on other devices and of other types take."""
    x = torch.from_numpy(numbers((2, 3, 128), np.float32))
    y = ops.hadamard(x.to(torch.complex64), 0.25)
    assert torch.equal(y.real, ops.hadamard(x, 0.25))
    assert torch.equal(ops.hadamard(x.double().long(), 1.0), ops.hadamard(x.double().long().int(), 1.0).long())
    assert ops.hadamard(torch.ones(2, 1).long(), 1.0).tolist() == [[1], [1]]
    torch.library.opcheck(torch.ops.hypersign.hadamard, (x.requires_grad_(), 0.5, 0))


@pytest.mark.parametrize("n", [1, 2, 4, 32, 64, 128])
def test_is_the_product_with_scipys_matrix(n):
    x = np.random.default_rng(0).standard_normal((3, 2, n))
    expected = x @ linalg.hadamard(n)
    np.testing.assert_allclose(hadamard_transform(x, orthonormal=False), expected, atol=1e-12)
    np.testing.assert_allclose(hadamard_transform(x), expected / np.sqrt(n), atol=1e-12)
    ours = ops.hadamard_transform(torch.from_numpy(x))
    np.testing.assert_allclose(ours.numpy(), expected / np.sqrt(n), atol=1e-12)


@pytest.mark.parametrize("kind", [np.int8, np.int64])
def test_integers_stay_exact_integers(kind):
    x = np.random.default_rng(0).integers(-1, 2, (5, 64)).astype(kind)
    y = hadamard_transform(x, orthonormal=False)
    assert y.dtype == kind
    np.testing.assert_array_equal(y, x @ linalg.hadamard(64))
    z = ops.hadamard_transform(torch.from_numpy(x), orthonormal=False)
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
    y = ops.hadamard_transform(x, orthonormal=False)
    index = np.arange(1 << 20)
    parity = (index & 1) ^ (index >> 2 & 1)  # i and 5 = bits 0 and 2
    np.testing.assert_array_equal(y.numpy(), 1 - 2 * parity)


def test_gradients_pass():
    x = torch.randn(2, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ops.hadamard_transform, (x,))
    assert torch.autograd.gradgradcheck(lambda x: ops.hadamard_transform(x).pow(3), (x,))


def test_what_it_cannot_transform():
    for x in (np.ones(3), np.ones((2, 0)), np.float64(1.0)):
        with pytest.raises(HypersignError, match="power of two"):
            hadamard_transform(x)
    with pytest.raises(HypersignError, match="power of two"):
        ops.hadamard_transform(torch.ones(12))
    with pytest.raises(HypersignError, match="needs floating numbers"):
        hadamard_transform(np.ones(4, np.int32))
    with pytest.raises(HypersignError, match="needs floating numbers"):
        ops.hadamard_transform(torch.ones(4, dtype=torch.int32))
    with pytest.raises(HypersignError, match=r"power of two up to 2\^24; got shape \(33554432,\)"):
        ops.hadamard_transform(torch.empty(1 << 25, device="meta"))
    with pytest.raises(HypersignError, match="adds numbers; got bool"):
        hadamard_transform(np.ones(4, bool), orthonormal=False)
    x = np.ones((2, 4), np.float32)
    for out in (np.ones((2, 4)), np.ones((4, 2), np.float32).T, np.ones(4, np.float32), [1.0]):
        with pytest.raises(
            HypersignError, match=r"out must be a C-contiguous array of type float32 and shape \(2, 4\)"
        ):
            hadamard_transform(x, out=out)
    with pytest.raises(HypersignError, match="threads must be an integer from 1 to 4096; got 0"):
        hadamard_transform(x, threads=0)
    with pytest.raises(HypersignError, match="threads must be an integer from 1 to 4096; got 0"):
        ops.hadamard_transform(torch.ones(4), threads=0)
