import numpy as np
import pytest
import torch

from hypersign import ops, theory
from hypersign._checks import HypersignError
from hypersign.bits import available_backends, forced, hadamard_transform
from hypersign.rotations import HaarRotation, HadamardRotation, random_signs

ROTATIONS = [HaarRotation(64, 3), HadamardRotation(64, seed=3), HadamardRotation(64, rounds=1, seed=3)]


def matrix_of(rotation):
    """R, column after column: what the rotation makes of the vectors along the axes."""
    return rotation(np.eye(rotation.dimension)).T


@pytest.mark.parametrize("rotation", ROTATIONS, ids=["Haar", "three rounds", "one round"])
def test_rotations_keep_products_and_can_be_undone(rotation):
    x = np.random.default_rng(0).standard_normal((5, 2, 64))
    y = rotation(x)
    flat, turned = x.reshape(-1, 64), y.reshape(-1, 64)
    np.testing.assert_allclose(turned @ turned.T, flat @ flat.T, atol=1e-12)
    assert np.abs(y - x).max() > 0.5
    np.testing.assert_allclose(rotation.inverse(y), x, atol=1e-12)
    tensor = torch.from_numpy(x)
    np.testing.assert_allclose(rotation(tensor).numpy(), y, atol=1e-12)
    np.testing.assert_allclose(rotation.inverse(rotation(tensor)).numpy(), x, atol=1e-12)
    single = rotation(x.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, y, atol=1e-5)
    assert rotation(tensor.float()).dtype == torch.float32


def test_rounds_are_signs_and_transforms_in_turn():
    rotation = HadamardRotation(32, rounds=2, seed=7)
    x = np.random.default_rng(0).standard_normal(32)
    first, second = rotation.signs(0), rotation.signs(1)
    assert not np.array_equal(first, second)
    np.testing.assert_allclose(rotation(x), hadamard_transform(second * hadamard_transform(first * x)))


def test_a_rotation_is_a_function_of_its_seed():
    for make in (HaarRotation, lambda d, seed: HadamardRotation(d, seed=seed)):
        x = np.arange(16.0)
        np.testing.assert_array_equal(make(16, 5)(x), make(16, 5)(x))
        assert not np.allclose(make(16, 5)(x), make(16, 6)(x))


def splitmix64(state: int, count: int) -> list[int]:
    """The generator, in Python's integers."""
    mask, words = 2**64 - 1, []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        words.append(z ^ (z >> 31))
    return words


@pytest.mark.parametrize("count", [0, 1, 31, 63, 64, 65, 97, 1000])
def test_signs_are_splitmixs_bits(count):
    (state,) = splitmix64(12345, 1)
    (state,) = splitmix64(state ^ 2, 1)
    words = splitmix64(state, -(-count // 64))
    expected = [1 - 2 * (words[i // 64] >> (i % 64) & 1) for i in range(count)]
    signs = random_signs(count, 12345, 2)
    assert signs.dtype == np.float32
    assert signs.tolist() == expected


def test_splitmix_of_the_tests_is_splitmix():
    # the generator's first outputs from state 1234567, as its other implementations list them
    assert splitmix64(1234567, 2) == [6457827717110365317, 3203168211198807973]


def test_signs_of_two_seeds():
    # golden: the same on every machine and in every version, or codes of old files mean something else
    first = "-+++-++-+-----+-++------+++---++++----+--+-+---++-+++++---+++-++"
    second = "-+-++-++++++-+++-++++---++---+++----++--++-+++-+++-------++++-++"
    for text, seed, stream in ((first, 0, 0), (second, 2**64 - 1, 7)):
        assert "".join("+" if sign > 0 else "-" for sign in random_signs(64, seed, stream)) == text


def test_signs_are_fair_and_streams_independent():
    n = 1 << 16
    rows = np.stack([random_signs(n, seed, stream) for seed in range(4) for stream in range(4)])
    assert np.abs(rows.mean(1)).max() < 4.5 / np.sqrt(n)
    products = rows @ rows.T / n - np.eye(16)
    assert np.abs(products).max() < 4.5 / np.sqrt(n)
    assert np.abs((rows[:, 1:] * rows[:, :-1]).mean(1)).max() < 4.5 / np.sqrt(n)


def test_haars_entries_are_those_of_a_uniform_direction():
    # every row and column is uniform on the sphere: E r^2 = 1/d, E r^4 = 3/(d(d+2))
    d = 8
    entries = np.stack([HaarRotation(d, seed).matrix for seed in range(800)])
    n = np.sqrt(len(entries))
    for power, expected in ((1, 0), (2, 1 / d), (3, 0), (4, 3 / (d * (d + 2)))):
        values = entries**power
        assert np.abs((values.mean(0) - expected) / values.std(0)).max() < 4.5 / n


def test_three_rounds_bring_the_angle_of_a_haar_rotation():
    d = 256
    x = np.random.default_rng(0).standard_normal((2000, d)) * np.exp(-0.1 * np.arange(d))
    before = np.abs(x).sum(1) / np.sqrt(d * (x * x).sum(1))
    assert before.mean() < 0.3
    y = HadamardRotation(d, seed=0)(x)
    after = np.abs(y).sum(1) / np.sqrt(d * (y * y).sum(1))
    assert after.mean() == pytest.approx(theory.sign_cosine(d), abs=0.002)
    assert after.std() == pytest.approx(theory.sign_cosine_std(d), rel=0.1)
    # a vector along an axis is binary after one round, and no longer after three
    axis = np.eye(d)[3]
    assert np.ptp(np.abs(HadamardRotation(d, rounds=1, seed=0)(axis))) < 1e-12
    assert np.ptp(np.abs(HadamardRotation(d, rounds=3, seed=0)(axis))) > 0.05


@pytest.mark.parametrize(
    ("dimension", "outputs"), [(27, 27), (27, None), (5, 64), (64, 5), (33, 100), (1, 3), (1, 1)]
)
def test_more_and_fewer_dimensions(dimension, outputs):
    rotation = HadamardRotation(dimension, seed=4, outputs=outputs)
    n = rotation.size
    assert n & (n - 1) == 0
    assert n // 2 < max(dimension, outputs or 1) <= n
    whole = matrix_of(HadamardRotation(n, seed=4))
    np.testing.assert_allclose(whole @ whole.T, np.eye(n), atol=1e-12)
    matrix = matrix_of(rotation)
    assert matrix.shape == (outputs or n, dimension)
    np.testing.assert_allclose(matrix, whole[: rotation.outputs, :dimension], atol=1e-12)
    y = np.random.default_rng(0).standard_normal((3, rotation.outputs))
    np.testing.assert_allclose(rotation.inverse(y), y @ matrix, atol=1e-12)
    np.testing.assert_allclose(rotation.inverse(torch.from_numpy(y)).numpy(), y @ matrix, atol=1e-12)
    np.testing.assert_allclose(rotation(torch.eye(dimension).double()).numpy().T, matrix, atol=1e-12)


@pytest.mark.parametrize(("dimension", "outputs"), [(6, 6), (6, 10), (10, 6), (1, 4)])
def test_haar_to_more_and_fewer_dimensions(dimension, outputs):
    rotation = HaarRotation(dimension, seed=4, outputs=outputs)
    matrix = matrix_of(rotation)
    assert matrix.shape == (outputs, dimension)
    product = matrix.T @ matrix if outputs >= dimension else matrix @ matrix.T
    np.testing.assert_allclose(product, np.eye(min(dimension, outputs)), atol=1e-12)
    y = np.random.default_rng(0).standard_normal((3, outputs))
    np.testing.assert_allclose(rotation.inverse(y), y @ matrix, atol=1e-12)


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.int16, np.int32, np.float64])
@pytest.mark.parametrize("dimension", [1, 50, 128])
def test_sums_are_the_rotation_without_its_factor(kind, dimension):
    rotation = HadamardRotation(dimension, seed=2, outputs=100)
    x = np.random.default_rng(0).integers(0, 127, (4, dimension)).astype(kind)
    x[0] = np.iinfo(kind).max if kind != np.float64 else 1
    exact = np.rint(rotation(x.astype(np.float64)) * 128**1.5)
    sums = rotation.sums(x)
    np.testing.assert_allclose(sums, exact, rtol=1e-12)
    assert sums.dtype == {np.float64: np.float64, np.int32: np.int64}.get(kind, np.int32)
    tensor = rotation.sums(torch.from_numpy(x))
    np.testing.assert_array_equal(tensor.numpy(), sums)
    assert tensor.numpy().dtype == sums.dtype


def test_gradients_pass():
    for rotation in (HaarRotation(8, 0), HadamardRotation(8)):
        x = torch.randn(2, 8, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(rotation, (x,))
        assert torch.autograd.gradcheck(rotation.inverse, (x,))


def test_what_cannot_be_rotated():
    with pytest.raises(HypersignError, match="outputs must be an integer >= 1; got 0"):
        HadamardRotation(27, outputs=0)
    with pytest.raises(HypersignError, match="rounds must be an integer >= 1"):
        HadamardRotation(8, rounds=0)
    with pytest.raises(HypersignError, match="dimension must be an integer >= 1"):
        HaarRotation(0, 0)
    for rotation in (HaarRotation(8, 0), HadamardRotation(8)):
        with pytest.raises(HypersignError, match=r"of shape \(\.\.\., 8\); got shape \(3, 4\)"):
            rotation(np.ones((3, 4)))
        with pytest.raises(HypersignError, match="got shape"):
            rotation.inverse(torch.ones(4))
    with pytest.raises(HypersignError, match="seed must be"):
        random_signs(3, -1)


def exact_sums(rotation, x):
    """H D_k ... H D_1 x in Python's integers, from the matrix written out."""
    n = rotation.size
    hadamard = [[-1 if (i & j).bit_count() % 2 else 1 for j in range(n)] for i in range(n)]
    found = []
    for row in x.tolist():
        y = row + [0] * (n - len(row))
        for number in range(rotation.rounds):
            y = [int(sign) * value for sign, value in zip(rotation.signs(number), y, strict=True)]
            y = [sum(h * value for h, value in zip(line, y, strict=True)) for line in hadamard]
        found.append(y[: rotation.outputs])
    return found


@pytest.mark.parametrize("kind", [np.int64, np.uint64, np.int32, np.uint32, np.int16])
@pytest.mark.parametrize(("dimension", "rounds"), [(1, 200), (2, 1), (2, 62), (5, 3), (8, 20), (16, 3)])
def test_sums_are_exact_or_refused(kind, dimension, rounds):
    rotation = HadamardRotation(dimension, rounds, seed=1)
    limits = np.iinfo(kind)
    random = np.random.default_rng(0)
    fitted = 0
    for bits in range(limits.bits + 1):
        low, high = max(int(limits.min), -(1 << bits)), min(int(limits.max), 1 << bits)
        x = random.integers(low, high, (3, dimension), kind, endpoint=True)
        x[0], x[1] = low, high
        expected = exact_sums(rotation, x)
        fits = rotation.fits(x)
        for row, sums, fit in zip(x, expected, fits, strict=True):
            if fit:
                assert rotation.sums(row).tolist() == rotation.sums(torch.from_numpy(row)).tolist() == sums
                fitted += 1
            else:
                for array in (row, torch.from_numpy(row)):
                    with pytest.raises(HypersignError, match=f"could leave int64: {rounds} rounds.*float64"):
                        rotation.sums(array)
                # the bound is not wasteful: the root mean square of the sums is the norm that it bounds
                assert max(map(abs, row.tolist())) ** 2 * dimension * rotation.size**rounds >= 2**126
    assert fitted > 0


def test_float16_is_rotated_where_its_sums_leave_it():
    x = np.full((2, 64), 5000, np.float16)
    x[1] *= np.where(np.arange(64) % 2, 1, -1)
    expected = hadamard_transform(x.astype(np.float64))
    np.testing.assert_allclose(hadamard_transform(x), expected, rtol=1e-3)
    np.testing.assert_allclose(ops.hadamard_transform(torch.from_numpy(x)).numpy(), expected, rtol=1e-3)


@pytest.mark.parametrize("backend", available_backends()[1:])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_rotated_one_by_one_have_the_bits_of_whole_arrays(backend, dtype):
    random = np.random.default_rng(0)
    for dimension, outputs in ((1, 1), (2, 2), (5, 7), (27, 27), (64, 64), (65, 40), (768, 768), (769, 100)):
        for tight in (True, False):
            rotation = HadamardRotation(dimension, outputs=outputs, tight=tight)
            x = random.standard_normal((3, 2, dimension)).astype(dtype)
            with forced("numpy"):
                expected = rotation(x)
            with forced(backend):
                found = rotation(x)
            assert found.dtype == dtype
            np.testing.assert_array_equal(found, expected)
    with forced(backend):
        assert HadamardRotation(3)(np.empty((0, 3), dtype)).shape == (0, 4)
