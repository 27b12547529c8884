"""The least-squares scale against numpy.linalg.lstsq and finite differences."""

import numpy as np
import pytest
import torch

from hypersign.quantizers import GroupScaled, MeanScale, Optimal, Quantizer, Sign, TensorScale, Ternary

QUANTIZERS = {"sign": Sign(), "sign-zero": Sign(zero=0), "ternary": Ternary(0.3), "optimal": Ternary(Optimal())}
cases = pytest.mark.parametrize("quantizer", QUANTIZERS.values(), ids=QUANTIZERS)


def weights(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(4).normal(size=shape))


@cases
@pytest.mark.parametrize("shape", [(5, 11), (5, 2, 3), (5, 2, 3, 3)])
def test_is_the_least_squares_solution(quantizer: torch.nn.Module, shape: tuple[int, ...]) -> None:
    weight = weights(*shape)
    levels = quantizer(weight)
    scales = MeanScale()(weight, levels)
    assert scales.shape == (5,)
    for w, q, scale in zip(weight.numpy(), levels.numpy(), scales.tolist(), strict=True):
        solution = np.linalg.lstsq(q.reshape(-1, 1), w.reshape(-1), rcond=None)[0]
        assert scale == pytest.approx(solution[0], rel=1e-12)


def test_binary_scale_is_the_mean_magnitude() -> None:
    weight = weights(4, 30)
    torch.testing.assert_close(MeanScale()(weight, Sign()(weight)), weight.abs().mean(1))


def test_ternary_scale_is_the_mean_magnitude_of_what_is_not_zero() -> None:
    weight = weights(4, 30)
    expected = torch.stack([w[w.abs() > 0.3].abs().mean() for w in weight])
    torch.testing.assert_close(MeanScale()(weight, Ternary(0.3)(weight)), expected)


def test_filter_of_zeros_has_scale_zero() -> None:
    weight = torch.full((2, 3), 0.01)
    assert MeanScale()(weight, Ternary(0.5)(weight)).tolist() == [0.0, 0.0]


@cases
def test_gradient_by_finite_differences(quantizer: torch.nn.Module) -> None:
    """Away from thresholds the levels do not move, so the scale is a smooth function of the weights."""
    weight = weights(3, 7).requires_grad_()
    levels = quantizer(weight)
    # Moving one weight by 1e-6 must not move a level.
    assert (weight.abs() - quantizer.thresholds(weight)[:, None]).abs().min() > 1e-4
    assert torch.autograd.gradcheck(lambda w: MeanScale()(w, quantizer(w)), (weight,))
    MeanScale()(weight, levels).sum().backward()
    torch.testing.assert_close(weight.grad, levels / levels.abs().sum(1, keepdim=True))


def test_bf16_scale_stays_near_the_exact_one() -> None:
    weight = weights(2, 4608)
    exact = weight.abs().mean(1)
    scales = MeanScale()(weight.bfloat16(), Sign()(weight.bfloat16()))
    torch.testing.assert_close(scales.double(), exact, rtol=2**-7, atol=0)


@pytest.mark.parametrize("rule", [MeanScale(), TensorScale()])
def test_few_or_small_levels(rule) -> None:
    """<q, q> may be 1, or below 1: the scale stays the least-squares one."""
    one = torch.tensor([[0.1, -0.7, 0.2]])
    assert rule(one, torch.tensor([[0.0, -1.0, 0.0]])).tolist() == pytest.approx([0.7])
    weight = torch.tensor([[1.0, -3.0]])
    levels = torch.tensor([[0.25, -0.25]])
    assert rule(weight, levels).tolist() == [8.0]  # 8 * .25 is the mean magnitude
    assert rule(weight, 0 * levels).tolist() == [0.0]


def test_group_scales_of_small_levels() -> None:
    class Quarter(Quantizer):
        levels = (-0.25, 0.25)

        def round(self, x: torch.Tensor) -> torch.Tensor:
            return 0.25 * x.sign()

    assert GroupScaled(Quarter(), 2)(torch.tensor([[1.0, -3.0, 0.5]])).tolist() == [[2.0, -2.0, 0.5]]
