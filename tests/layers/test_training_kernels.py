"""Batch norm, activation functions and max pool with faster passes: torch's results, classes, states and hooks."""

import copy
import io

import pytest
import torch
from torch import Tensor, nn

from hypersign._pooled_gradient import PooledGradient
from hypersign.layers import QuantConv2d, train_on_bits
from hypersign.layers.activations import Maxout, RPReLU
from hypersign.layers.training_kernels import FastForward, use_training_kernels
from hypersign.models.norm import ShiftBatchNorm1d, ShiftBatchNorm2d
from hypersign.quantizers import Sign


def fast(module: nn.Module) -> nn.Module:
    module = copy.deepcopy(module)
    use_training_kernels(module)
    return module


def images(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (3 * torch.randn(shape, generator=generator) + 1).to(memory_format=torch.channels_last)


def run(module: nn.Module, x: Tensor) -> list[Tensor]:
    """Output, gradients of inputs and parameters, and buffers."""
    x = x.detach().clone().requires_grad_()
    y = module(x)
    gradient = torch.sin(torch.arange(y.numel(), dtype=torch.float32)).view(y.shape).to(x.dtype)
    return [y, *torch.autograd.grad(y, [x, *module.parameters()], gradient), *module.buffers()]


NORMS = {
    "2d": (nn.BatchNorm2d(37, momentum=0.3), images(4, 37, 6, 5)),
    "1d": (nn.BatchNorm1d(37), torch.randn(19, 37, generator=torch.Generator().manual_seed(1)) + 2),
    "shift 2d": (ShiftBatchNorm2d(37, eps=1e-3), images(4, 37, 6, 5)),
    "shift 1d": (ShiftBatchNorm1d(37), torch.randn(19, 37, generator=torch.Generator().manual_seed(1))),
    "without parameters": (nn.BatchNorm2d(37, affine=False, track_running_stats=False), images(4, 37, 6, 5)),
}


@pytest.mark.parametrize("name", NORMS)
def test_batch_norm_is_torchs(name: str) -> None:
    norm, x = NORMS[name]
    norm = copy.deepcopy(norm)
    with torch.no_grad():
        for i, parameter in enumerate(norm.parameters()):
            parameter.uniform_(0.5, 2, generator=torch.Generator().manual_seed(i))
    ours, exact = fast(norm), copy.deepcopy(norm).double()
    for found, expected in zip(run(ours, x), run(exact, x.double()), strict=True):
        torch.testing.assert_close(found, expected.to(found.dtype), rtol=1e-5, atol=1e-5)
    assert torch.equal(ours.eval()(x), nn.Module.__call__(copy.deepcopy(norm).eval(), x)) or norm.training


@pytest.mark.parametrize(
    "pool",
    [nn.MaxPool2d(2, ceil_mode=True), nn.MaxPool2d((3, 2)), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, dilation=2)],
)
def test_max_pool_is_torchs(pool: nn.MaxPool2d) -> None:
    x = images(3, 20, 7, 9).round()  # equal maxima
    for found, expected in zip(run(fast(pool), x), run(pool, x), strict=True):
        assert torch.equal(found, expected)
        assert found.stride() == expected.stride()


@pytest.mark.parametrize("kind", [RPReLU, Maxout])
@pytest.mark.parametrize("shape", [(4, 37, 6, 5), (19, 37)])
def test_learned_activation_functions_are_torchs(kind: type[nn.Module], shape: tuple[int, ...]) -> None:
    function = kind(37)
    with torch.no_grad():
        for i, parameter in enumerate(function.parameters()):
            parameter.normal_(generator=torch.Generator().manual_seed(i))
    x = images(*shape) if len(shape) == 4 else images(*shape, 1, 1).flatten(1)
    ours = run(fast(function), x)
    y, to_x, *_ = run(function, x)
    assert torch.equal(ours[0], y)
    assert torch.equal(ours[1], to_x)
    assert ours[0].stride() == y.stride()
    for found, expected in zip(ours, run(function.double(), x.double()), strict=True):
        torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [RPReLU, Maxout])
def test_activation_functions_that_do_not_learn(kind: type[nn.Module]) -> None:
    function = fast(kind(5))
    function.requires_grad_(False)
    x = images(2, 5, 4, 4).requires_grad_()
    function(x).sum().backward()
    assert x.grad is not None
    assert all(parameter.grad is None for parameter in function.parameters())
    with torch.no_grad():
        assert torch.equal(function(x), kind(5)(x))


@pytest.mark.parametrize(
    ("norm", "x"),
    [
        (nn.BatchNorm2d(5).eval(), images(2, 5, 3, 3)),
        (nn.BatchNorm2d(5), images(2, 5, 3, 3).contiguous()),
        (nn.BatchNorm2d(5), images(2, 5, 3, 3).double()),
        (nn.BatchNorm2d(5, momentum=None), images(2, 5, 3, 3)),
        (nn.BatchNorm1d(5), torch.randn(3, 5, 4)),
    ],
    ids=["evaluation", "channels first", "float64", "mean of all batches", "1d images"],
)
def test_the_rest_goes_torchs_way(norm: nn.Module, x: Tensor) -> None:
    norm = norm.to(x.dtype)
    for found, expected in zip(run(fast(norm), x), run(norm, x), strict=True):
        assert torch.equal(found, expected)


def test_one_value_per_channel_is_refused_as_before() -> None:
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        fast(nn.BatchNorm1d(5))(torch.randn(1, 5))
    with pytest.raises(ValueError, match="expected 4D input"):
        fast(nn.BatchNorm2d(5))(torch.randn(4, 5))


def test_classes_states_and_hooks_stay() -> None:
    model = nn.Sequential(nn.BatchNorm2d(5), nn.MaxPool2d(2))
    seen: list[Tensor] = []
    model[0].register_forward_hook(lambda module, args, y: seen.append(y))
    keys = list(model.state_dict())
    use_training_kernels(model)
    assert isinstance(vars(model[0])["forward"], FastForward)
    assert [type(module) for module in model] == [nn.BatchNorm2d, nn.MaxPool2d]
    assert list(model.state_dict()) == keys
    x = images(2, 5, 4, 4)
    y = model(x)
    assert torch.equal(nn.functional.max_pool2d(seen[0], 2), y)
    copied = copy.deepcopy(model)
    assert vars(copied[0])["forward"].module is copied[0]
    file = io.BytesIO()
    torch.save(nn.Sequential(fast(nn.BatchNorm2d(5))), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert vars(loaded[0])["forward"].module is loaded[0]
    assert loaded(x).shape == x.shape


def test_a_gradient_that_only_parameters_need() -> None:
    norm = fast(nn.BatchNorm2d(5))
    y = norm(images(2, 5, 4, 4))
    y.sum().backward()
    assert torch.equal(norm.bias.grad, torch.full((5,), 32.0))


@pytest.mark.parametrize("watched", ["nobody", "a hook", "a kept gradient", "batch norm between"])
def test_the_gradient_of_a_max_pool_before_a_product(watched: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = QuantConv2d(3, 5, 3, padding=1, bias=False, input_quantizer=Sign(), weight_quantizer=Sign())
    between = nn.BatchNorm2d(5) if watched == "batch norm between" else nn.Identity()
    model = nn.Sequential(layer, between, nn.MaxPool2d(2, ceil_mode=True)).to(memory_format=torch.channels_last)
    ours = copy.deepcopy(model)
    train_on_bits(ours)
    written: list[PooledGradient] = []
    written_by = PooledGradient.written
    monkeypatch.setattr(PooledGradient, "written", lambda self: written.append(self) or written_by(self))
    found = []
    for each in (model, ours):
        x = images(4, 3, 5, 7).requires_grad_()
        products = each[1](each[0](x))
        if watched == "a hook":
            products.register_hook(lambda g: g * 1)
        if watched == "a kept gradient":
            products.retain_grad()
        y = each[2](products)
        # Whole numbers whose maximum is 31 are rounded to themselves.
        g = torch.randint(-31, 32, y.shape, generator=torch.Generator().manual_seed(1)).float()
        g[:, :, 0, 0] = 31
        y.backward(g.contiguous(memory_format=torch.channels_last))
        found.append((x.grad, each[0].weight.grad))
    if watched != "batch norm between":  # whose gradients are rounded
        for a, b in zip(*found, strict=True):
            assert torch.equal(a, b)
    assert bool(written) == (watched != "nobody")


def test_every_operation_reads_a_pooled_gradient() -> None:
    outputs, place = images(2, 3, 2, 2), torch.zeros(2, 3, 2, 2, dtype=torch.uint8)
    place = place.contiguous(memory_format=torch.channels_last)
    lazy = PooledGradient(outputs, place, (2, 2), (2, 3, 4, 4))
    plain = torch.zeros(2, 3, 4, 4)
    plain[:, :, ::2, ::2] = outputs
    assert lazy.stride() == plain.to(memory_format=torch.channels_last).stride()
    for found in (lazy + 0, lazy.clone(), lazy.detach() * 1, lazy.sum((2, 3)), torch.stack([lazy, lazy])[0]):
        assert type(found) is Tensor
    assert torch.equal(lazy + 0, plain)
    assert torch.equal(plain - lazy, torch.zeros_like(plain))
