"""Ternary against NumPy, at its threshold and in every precision."""

import math

import numpy as np
import pytest
import torch

from hypersign import theory
from hypersign._checks import HypersignError
from hypersign.quantizers import Deviations, MeanScale, Optimal, Ternary

FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("threshold", [0, 0.02, 0.1, 0.3, 0.5, 0.612, 0.99])
def test_levels_around_the_threshold(dtype: torch.dtype, threshold: float) -> None:
    limit = torch.tensor(threshold, dtype=dtype)  # the threshold as a number of this precision
    step = torch.finfo(dtype).eps
    above = limit * (1 + step) if threshold else torch.tensor(torch.finfo(dtype).tiny, dtype=dtype)
    below = limit * (1 - step)
    assert below <= limit < above
    x = torch.stack([limit, above, below, -limit, -above, -below, limit * 0, -limit * 0]).repeat(9)
    expected = [0, 1, 0, 0, -1, 0, 0, 0] * 9
    quantizer = Ternary(threshold)
    levels = quantizer(x)
    assert levels.dtype == dtype
    assert levels.tolist() == expected
    # `thresholds` says what `round` does.
    assert torch.equal(quantizer.thresholds(x[:, None]), limit.expand(len(x)))


def test_infinities_and_nan() -> None:
    infinite = torch.tensor([-math.inf, math.inf, math.nan])
    assert Ternary(0.02)(infinite).tolist() == [-1.0, 1.0, 0.0]


def test_matches_numpy_on_random_numbers() -> None:
    x = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    expected = np.where(x > 0.3, 1, np.where(x < -0.3, -1, 0))
    np.testing.assert_array_equal(Ternary(0.3)(torch.from_numpy(x)).numpy(), expected)


@pytest.mark.parametrize("shape", [(4, 9), (4, 3, 5), (4, 3, 3, 3)])
def test_optimal_threshold_is_a_share_of_each_filters_deviation(shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(1)
    weight = generator.normal(0.1, 1, shape) * np.array([0.01, 0.1, 1, 10]).reshape(4, *[1] * (len(shape) - 1))
    quantizer = Ternary(Optimal())
    expected, limits = np.zeros(shape), np.zeros(4)
    for f in range(4):
        centred = weight[f] - weight[f].sum() / weight[f].size
        limits[f] = theory.OPTIMAL_THRESHOLD * math.sqrt((centred**2).sum() / weight[f].size)
        expected[f] = np.where(weight[f] > limits[f], 1, np.where(weight[f] < -limits[f], -1, 0))
    tensor = torch.from_numpy(weight)
    np.testing.assert_allclose(quantizer.thresholds(tensor).numpy(), limits, rtol=1e-12)
    np.testing.assert_array_equal(quantizer(tensor).numpy(), expected)
    assert {-1.0, 0.0, 1.0} == set(quantizer(tensor).flatten().tolist())


def test_optimal_keeps_the_share_and_the_direction_that_theory_says() -> None:
    weight = torch.randn(20, 20_000, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    levels = Ternary(Optimal())(weight)
    assert (levels == 0).double().mean().item() == pytest.approx(0.459, abs=0.002)  # theory.md: 45.9 % zeros
    cosine = torch.nn.functional.cosine_similarity(weight, levels).mean().item()
    assert cosine == pytest.approx(0.89990, abs=1e-3)
    for threshold in (0.512, 0.712):  # and it is a maximum
        other = Ternary(threshold)(weight)
        assert torch.nn.functional.cosine_similarity(weight, other).mean().item() < cosine


def test_no_gradient_flows_through_the_optimal_threshold() -> None:
    weight = torch.randn(3, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64).mul_(0.3)
    weight.requires_grad_()
    Ternary(Optimal())(weight).sum().backward()
    assert weight.grad.tolist() == (weight.detach().abs() < 1).double().tolist()


@pytest.mark.parametrize("threshold", [-0.01, 1, 1.0, 2, math.nan, math.inf, "optimal", None, True, Optimal])
def test_threshold_outside_its_range(threshold: object) -> None:
    with pytest.raises(HypersignError, match=r"threshold .* must be a number >= 0 and < 1; got"):
        Ternary(threshold)


def test_levels_and_repr() -> None:
    assert Ternary().levels == (-1.0, 0.0, 1.0)
    assert Ternary().threshold == 0.02
    assert repr(Ternary(0.5)).startswith("Ternary(\n  threshold=0.5")
    assert "scale=MeanScale()" in repr(Ternary(Optimal(), scale=MeanScale()))
    assert Optimal().deviations == theory.OPTIMAL_THRESHOLD


def test_weights_at_a_threshold_in_deviations_are_zero() -> None:
    weight = torch.tensor([[1.0, -1.0, 1.0, -1.0], [3.0, -3.0, 1.0, -1.0]])  # standard deviations 1 and sqrt(5)
    assert Ternary(Deviations(1.0))(weight).tolist() == [[0, 0, 0, 0], [1, -1, 0, 0]]
