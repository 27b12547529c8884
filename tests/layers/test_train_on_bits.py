"""Layers that train on bits: forward the same to the last bit, backward the same on average."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.library import opcheck

from hypersign import ops
from hypersign._checks import HypersignError
from hypersign.layers import QuantConv1d, QuantConv2d, QuantLinear, train_on_bits
from hypersign.models import resnet20, vgg
from hypersign.quantizers import GroupScaled, HardTanh, MeanScale, Sign, Ternary


def set_seed(model: nn.Module, seed: int) -> None:
    for i, layer in enumerate(model.modules()):
        if getattr(layer, "rounding_seed", None) is not None:
            layer.rounding_seed.fill_(1000 * seed + i)


def gradients(model: nn.Module, x: Tensor, gradient: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(model(x), [*model.parameters(), x], gradient))


@pytest.mark.parametrize(
    "layer",
    [
        QuantConv2d(5, 7, 3, padding=1, input_quantizer=Sign(), weight_quantizer=Sign()),
        QuantConv2d(5, 7, (3, 2), 2, 1, pad_value=1, input_quantizer=Sign(), weight_quantizer=Ternary(0.1)),
        QuantConv2d(5, 7, 3, dilation=2, input_quantizer=Ternary(0.4), weight_quantizer=Sign(scale=MeanScale())),
        QuantConv2d(5, 7, 3, padding=2, input_quantizer=Ternary(0.4), weight_quantizer=Ternary(0.1)),
    ],
    ids=["binary", "ternary weights", "ternary inputs", "ternary"],
)  # fmt: skip
def test_convolution(layer: QuantConv2d) -> None:
    check_layer(layer, torch.randn(3, 5, 9, 8))


@pytest.mark.parametrize("shape", [(4, 33), (2, 3, 33)])
def test_linear(shape: tuple[int, ...]) -> None:
    check_layer(QuantLinear(33, 6, input_quantizer=Sign(), weight_quantizer=Sign()), torch.randn(shape))


def check_layer(layer: nn.Module, x: Tensor) -> None:
    torch.manual_seed(0)
    on_bits = copy.deepcopy(layer)
    assert train_on_bits(on_bits) == {}
    x = (0.7 * x).requires_grad_()
    y = layer(x)
    assert torch.equal(on_bits(x), y)
    gradient = torch.randn_like(y)
    expected = gradients(layer, x, gradient)
    draws: list[list[Tensor]] = []
    for seed in range(200):
        set_seed(on_bits, seed)
        draws.append(gradients(on_bits, x, gradient))
    for exact, *found in zip(expected, *draws, strict=True):
        values = torch.stack(found)
        # The mean of n draws is off by 1/n of their variance, all entries together.
        assert (values.mean(0) - exact).square().sum() < 2 * values.var(0).sum() / len(draws) + 1e-6
        assert torch.nn.functional.cosine_similarity(values[0].flatten(), exact.flatten(), 0) > 0.99


def test_seed_decides() -> None:
    layer = QuantLinear(65, 6, input_quantizer=Sign(), weight_quantizer=Sign())
    train_on_bits(layer)
    x, gradient = torch.randn(4, 65).requires_grad_(), torch.randn(4, 6)
    first, again, other = [], [], []
    for found, seed in ((first, 1), (other, 2), (again, 1)):
        set_seed(layer, seed)
        found += gradients(layer, x, gradient)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_every_call_rounds_anew_in_anybodys_loop() -> None:
    layers = [QuantLinear(65, 6, input_quantizer=Sign(), weight_quantizer=Sign()) for _ in range(2)]
    train_on_bits(nn.ModuleList(layers))
    layers[1].load_state_dict(layers[0].state_dict())
    x, gradient = torch.randn(4, 65).requires_grad_(), torch.randn(4, 6)
    outputs = [layer(x) for layer in layers for _ in range(2)]  # several graphs alive at once
    with torch.no_grad():
        layers[0](x)  # rounds nothing: moves no seed
    found = [torch.autograd.grad(y, x, gradient)[0] for y in outputs]
    assert not any(torch.equal(found[i], found[j]) for i in range(4) for j in range(i))
    assert layers[0].rounding_seed == 2


@pytest.mark.parametrize("kind", ["conv2d", "linear"])
@pytest.mark.parametrize("clip", [1.0, 0.3])
def test_the_product_clips_as_the_surrogate_does(kind: str, clip: float) -> None:
    quantizers = [Sign(surrogate=HardTanh(clip=clip)) for _ in range(2)]
    options = {"input_quantizer": quantizers[0], "weight_quantizer": quantizers[1], "bias": False}
    layer = QuantConv2d(70, 9, 3, padding=1, **options) if kind == "conv2d" else QuantLinear(70, 9, **options)
    train_on_bits(layer)
    x = torch.randn(3, 70, 5, 4) if kind == "conv2d" else torch.randn(3, 70)
    with torch.no_grad():
        layer.weight.copy_(torch.randn_like(layer.weight))
        x.view(-1)[:4] = torch.tensor([clip, -clip, 0.0, float("nan")])
    found = gradients_of_levels(layer, x, clipped=True)
    expected = gradients_of_levels(layer, x, clipped=False)
    for gradient, plain, numbers in zip(found, expected, (x, layer.weight), strict=True):
        assert torch.equal(gradient, torch.where(numbers.abs() < clip, plain, 0.0))
        assert gradient.any()


def gradients_of_levels(layer: nn.Module, x: Tensor, *, clipped: bool) -> tuple[Tensor, ...]:
    """Gradients of inputs and weights of one product on bits, with the surrogate's clips or without."""
    operands = (x.detach().clone().requires_grad_(), layer.weight.detach().clone().requires_grad_())
    layer.rounding_seed.fill_(5)
    clips = (layer.input_quantizer.surrogate.clip,) * 2 if clipped else (None, None)
    y = layer.product_on_bits(*operands, clips)
    return torch.autograd.grad(y, operands, torch.linspace(-1, 1, y.numel()).view(y.shape))


def test_ternary_levels_have_no_clip() -> None:
    x = torch.ones(1, 2, 1, 1)
    with pytest.raises(HypersignError, match="only binary levels have a clip"):
        ops.conv2d_of_levels(x, x, torch.tensor(0), ternary=(True, False), clips=(1.0, None))


def test_what_stays_in_float_is_told() -> None:
    model = nn.ModuleDict(
        {
            "real": QuantLinear(4, 4, weight_quantizer=Sign()),
            "conv1d": QuantConv1d(2, 2, 3, input_quantizer=Sign(), weight_quantizer=Sign()),
            "groups": QuantConv2d(2, 2, 3, groups=2, input_quantizer=Sign(), weight_quantizer=Sign()),
            "same": QuantConv2d(2, 2, 3, padding="same", input_quantizer=Sign(), weight_quantizer=Sign()),
            "scaled": QuantLinear(4, 4, input_quantizer=Sign(), weight_quantizer=GroupScaled(Sign(), 2)),
            "zeros": QuantLinear(4, 4, input_quantizer=Sign(zero=0), weight_quantizer=Sign()),
            "bits": QuantLinear(4, 4, input_quantizer=Sign(), weight_quantizer=Sign()),
        }
    )
    kept = train_on_bits(model)
    assert list(kept) == ["real", "conv1d", "groups", "same", "scaled"]
    assert kept["real"] == "its inputs are not binary or ternary: Identity()"
    assert kept["conv1d"] == "QuantConv1d has no kernel"
    assert kept["groups"] == "it has groups of channels"
    assert kept["same"] == "padding 'same' in mode 'zeros' has no kernel"
    form = "GroupScaled has a scale per group of weights, and packed layers have one per filter"
    assert kept["scaled"] == f"its weights are not binary or ternary: {form}"
    assert model["bits"].rounding_seed is not None
    assert model["real"].rounding_seed is None
    with pytest.raises(HypersignError, match=r"this one has none \(0: its inputs are not binary or ternary"):
        train_on_bits(nn.Sequential(QuantLinear(4, 4, weight_quantizer=Sign())))
    with pytest.raises(HypersignError, match="it has no quantized layers"):
        train_on_bits(nn.Linear(3, 3))


@pytest.mark.parametrize(
    ("build", "kept"),
    [(lambda: vgg(widths=(9, 12), pools=(2,), hidden=(20,)), {"conv1"}), (lambda: resnet20(widths=(4, 5, 6)), set())],
    ids=["vgg", "resnet20"],
)
def test_networks_compute_the_same(build, kept) -> None:
    torch.manual_seed(0)
    model = build().to(memory_format=torch.channels_last)  # in which the products on bits come
    on_bits = copy.deepcopy(model)
    assert set(train_on_bits(on_bits)) == kept  # a resnet's first and last layers are no quantized layers
    x = torch.randn(2, 3, 32, 32).to(memory_format=torch.channels_last)
    torch.testing.assert_close(on_bits(x), model(x))  # batch norm sums in another order
    on_bits.load_state_dict(model.state_dict())
    assert torch.equal(on_bits.eval()(x), model.eval()(x))
    assert {*on_bits.state_dict()} == {*model.state_dict()}


def test_compiled_is_the_same() -> None:
    layer = QuantConv2d(5, 7, 3, padding=1, bias=False, input_quantizer=Sign(), weight_quantizer=Sign())
    train_on_bits(layer)
    compiled = torch.compile(layer, fullgraph=True)
    x = torch.randn(2, 5, 6, 6).requires_grad_()
    for seed in range(3):  # not baked in
        set_seed(layer, seed)
        y = layer(x)
        gradient = torch.ones_like(y) * torch.randn(1, 7, 1, 1)
        eager = torch.autograd.grad(y, (x, layer.weight), gradient)
        set_seed(layer, seed)
        fast = torch.autograd.grad(compiled(x), (x, layer.weight), gradient)
        assert all(torch.equal(a, b) for a, b in zip(eager, fast, strict=True))


@pytest.mark.parametrize("ternary", [[False, False], [True, True]])
def test_torch_finds_no_fault(ternary: list[bool]) -> None:
    x, weight = (torch.randn(shape).sign().requires_grad_() for shape in ((2, 70, 5, 4), (3, 70, 3, 3)))
    arguments = (x, weight, torch.tensor(5), ternary, [1, 2], [1, 1], [1, 1], 0, [0.0 if ternary[0] else 1.0, 0.0])
    assert set(opcheck(ops._conv2d_of_levels, arguments).values()) == {"SUCCESS"}


def test_not_finite_gradients_are_not_hidden() -> None:
    layer = QuantLinear(8, 3, input_quantizer=Sign(), weight_quantizer=Sign())
    train_on_bits(layer)
    y = layer(torch.randn(4, 8))
    gradient = torch.ones_like(y)
    gradient[1, 2] = torch.nan
    y.backward(gradient)
    assert layer.weight.grad is not None
    assert layer.weight.grad[2].isnan().all()
    assert layer.weight.grad[:2].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_compute_as_float32_does(dtype: torch.dtype) -> None:
    """Sums up to 256 are exact in every type, and so are the gradients' roundings."""
    torch.manual_seed(0)
    plain = nn.Sequential(
        QuantConv2d(4, 8, 3, input_quantizer=Sign(), weight_quantizer=Sign()),
        nn.Flatten(),
        QuantLinear(8 * 4, 3, input_quantizer=Sign(), weight_quantizer=Sign()),
    )
    other = copy.deepcopy(plain).to(dtype)
    x = torch.randn(5, 4, 4, 4)
    outputs = []
    for model in (plain, other):
        train_on_bits(model)
        outputs.append(model(x.to(dtype if model is other else torch.float32)))
        outputs[-1].sum().backward()
    assert outputs[1].dtype == dtype
    torch.testing.assert_close(outputs[1].float(), outputs[0], rtol=0.02, atol=0.2)
    for ours, theirs in zip(other.parameters(), plain.parameters(), strict=True):
        assert ours.grad.dtype == dtype
        assert torch.isfinite(ours.grad).all()
        assert ours.grad.shape == theirs.grad.shape


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_trains_under_autocast(dtype: torch.dtype) -> None:
    model = nn.Sequential(QuantLinear(32, 3, input_quantizer=Sign(), weight_quantizer=Sign()))
    train_on_bits(model)
    with torch.autocast("cpu", dtype=dtype):
        model(torch.randn(4, 32)).square().sum().backward()
    assert torch.isfinite(model[0].weight.grad).all()
