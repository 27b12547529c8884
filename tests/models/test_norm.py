"""Batch norm without a scale equals torch's with its scale held at 1."""

import copy

import pytest
import torch
from torch import nn

from hypersign._checks import HypersignError
from hypersign.models import ShiftBatchNorm1d, ShiftBatchNorm2d, build


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("ours", "theirs", "shape"),
    [(ShiftBatchNorm1d, nn.BatchNorm1d, (6, 3)), (ShiftBatchNorm2d, nn.BatchNorm2d, (6, 3, 4, 5))],
)
def test_equals_torch_with_a_scale_of_1(ours: type, theirs: type, shape: tuple, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    norm, plain = ours(3, eps=1e-3, momentum=0.2).to(dtype), theirs(3, eps=1e-3, momentum=0.2).to(dtype)
    shift = torch.randn(3, generator=generator, dtype=dtype)
    norm.bias.data, plain.bias.data = shift.clone(), shift.clone()
    for _ in range(3):
        x = torch.randn(shape, generator=generator, dtype=dtype) * 3 + 1
        y, z = x.clone().requires_grad_(), x.clone().requires_grad_()
        torch.testing.assert_close(norm(y), plain(z))
        norm(y).square().sum().backward()
        plain(z).square().sum().backward()
        torch.testing.assert_close(y.grad, z.grad)
        torch.testing.assert_close(norm.bias.grad, plain.bias.grad)
    torch.testing.assert_close(norm.running_mean, plain.running_mean)
    torch.testing.assert_close(norm.running_var, plain.running_var)
    torch.testing.assert_close(norm.eval()(x), plain.eval()(x))


def test_no_state_and_no_parameter_holds_the_scale() -> None:
    norm = ShiftBatchNorm2d(3)
    assert list(norm.state_dict()) == ["bias", "running_mean", "running_var", "num_batches_tracked"]
    assert [name for name, _ in norm.named_parameters()] == ["bias"]
    copied = copy.deepcopy(norm)
    copied.weight.fill_(2.0)
    assert norm.weight.tolist() == [1.0, 1.0, 1.0]
    copied.reset_parameters()
    assert copied.weight.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("name", ["vgg", "resnet20"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm_epsilon": 0}, "norm_epsilon must be a number > 0; got 0"),
        ({"norm_momentum": 0}, "norm_momentum must be a number > 0 and <= 1; got 0"),
        ({"norm_momentum": float("nan")}, "norm_momentum must be a number > 0 and <= 1; got nan"),
    ],
)
def test_options_outside_their_range(name: str, options: dict, message: str) -> None:
    with pytest.raises(HypersignError, match=message):
        build(name, (3, 8, 8), 10, **options)
