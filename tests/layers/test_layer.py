"""A quantized layer equals torch's float layer with levels as inputs and weights."""

import copy

import numpy as np
import pytest
import torch
import torch.fx
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from hypersign._checks import HypersignError
from hypersign.layers import QuantConv1d, QuantConv2d, QuantLayer, QuantLinear, quant_layers
from hypersign.models import build
from hypersign.quantizers import Identity, MeanScale, Optimal, Sign, Tanh, Ternary
from hypersign.training import METHODS, Recipe

# torch's, on even kernels with padding="same"
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")

FLOAT = {QuantLinear: nn.Linear, QuantConv1d: nn.Conv1d, QuantConv2d: nn.Conv2d}


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def levels(x: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


def filled(layer: nn.Module) -> nn.Module:
    """The layer with weights and bias that do not depend on the global generator."""
    for i, parameter in enumerate(layer.parameters()):
        parameter.data = numbers(*parameter.shape, seed=10 + i).to(parameter.dtype)
    return layer


LINEAR = {"bias": {}, "no-bias": {"bias": False}}
CONV = {
    "plain": {},
    "no-bias": {"bias": False},
    "stride": {"stride": 2},
    "padding": {"padding": 1},
    "padding-2-stride": {"padding": 2, "stride": 2},
    "same": {"padding": "same"},
    "same-even-kernel": {"padding": "same", "kernel_size": 4},
    "same-dilated": {"padding": "same", "dilation": 2},
    "valid": {"padding": "valid", "stride": 2},
    "dilation": {"dilation": 2, "padding": 2},
    "groups": {"groups": 2, "padding": 1},
    "depthwise": {"groups": 4, "padding": 1},
    "1x1": {"kernel_size": 1},
}
CONV2D = {
    "padding-pair": {"padding": (2, 0)},
    "stride-pair": {"stride": (1, 3), "padding": (0, 1)},
    "kernel-pair": {"kernel_size": (1, 4), "padding": (0, 2), "dilation": (1, 2)},
    "same-pair": {"kernel_size": (2, 5), "padding": "same", "dilation": (2, 1)},
}
MODES = {mode: {"padding_mode": mode, "padding": 1} for mode in ("reflect", "replicate", "circular")}
LAYERS = {
    **{f"linear-{k}": (QuantLinear, o) for k, o in LINEAR.items()},
    **{f"conv1d-{k}": (QuantConv1d, o) for k, o in {**CONV, **MODES}.items()},
    **{f"conv2d-{k}": (QuantConv2d, o) for k, o in {**CONV, **CONV2D, **MODES}.items()},
}
cases = pytest.mark.parametrize(("kind", "options"), LAYERS.values(), ids=LAYERS)


def make(kind: type, options: dict, *, dtype: torch.dtype = torch.float32, **quantizers) -> tuple[nn.Module, Tensor]:
    """A layer and an input for it."""
    if kind is QuantLinear:
        return filled(kind(11, 6, **options, **quantizers, dtype=dtype)), numbers(3, 11).to(dtype)
    layer = kind(4, 8, **{"kernel_size": 3, **options}, **quantizers, dtype=dtype)
    return filled(layer), numbers(*((3, 4, 9) if kind is QuantConv1d else (3, 4, 9, 10))).to(dtype)


def reference(layer: nn.Module, options: dict) -> nn.Module:
    """torch's own layer with the same settings and ±1 weights."""
    if isinstance(layer, nn.Linear):
        plain = nn.Linear(11, 6, **options)
    else:
        plain = FLOAT[type(layer)](4, 8, **{"kernel_size": 3, **options})
    plain.load_state_dict({**layer.state_dict(), "weight": levels(layer.weight.detach())})
    return plain.to(layer.weight.dtype)


@cases
def test_equals_the_float_layer_with_binary_weights(kind: type, options: dict) -> None:
    layer, x = make(kind, options, input_quantizer=Sign(), weight_quantizer=Sign())
    torch.testing.assert_close(layer(x), reference(layer, options)(levels(x)))
    unbatched = layer(x[0])
    torch.testing.assert_close(unbatched, layer(x)[0])


@cases
def test_without_quantizers_it_is_the_float_layer(kind: type, options: dict) -> None:
    layer, x = make(kind, options)
    plain = reference(layer, options)
    plain.load_state_dict(layer.state_dict())  # the same keys
    torch.testing.assert_close(layer(x), plain(x))
    assert isinstance(layer, FLOAT[kind])
    assert quant_layers(nn.Sequential(layer)) == {}


@cases
def test_sums_without_a_bias_are_integers_and_the_scale_multiplies_the_output(kind: type, options: dict) -> None:
    quantizers = {"input_quantizer": Sign(), "weight_quantizer": Ternary(0.3, scale=MeanScale())}
    layer, x = make(kind, options, **quantizers)
    sums = layer.product(layer.input_quantizer(x), layer.quantized_weight())
    assert torch.equal(sums, sums.round())
    per_filter = (slice(None), *[None] * (layer.weight.dim() - 2))
    expected = sums * layer.weight_scale()[per_filter]
    if layer.bias is not None:
        expected = expected + layer.bias[per_filter]
    torch.testing.assert_close(layer(x), expected)
    # and the scale is the least-squares one: the mean of |w| where the level is not 0
    weight = layer.weight.detach()
    means = [w[w.abs() > 0.3].abs().mean() for w in weight]
    expected = torch.stack(means).nan_to_num(0.0)  # no such weight at all: 0
    torch.testing.assert_close(layer.weight_scale().detach(), expected)


PADDED = {name: case for name, case in LAYERS.items() if not name.startswith("linear") and "circular" not in name}


@pytest.mark.parametrize(
    ("kind", "options"),
    [c for n, c in PADDED.items() if "padding_mode" not in c[1]],
    ids=[n for n in PADDED if "padding_mode" not in PADDED[n][1]],
)
def test_pad_value_1_equals_padding_with_ones_first(kind: type, options: dict) -> None:
    """Padded naively: each output is computed from an input that is ones all around."""
    layer, x = make(kind, options, input_quantizer=Sign(), weight_quantizer=Sign(), pad_value=1)
    dimensions = layer.weight.dim() - 2
    padding = layer.padding
    if padding == "valid":
        sides = [(0, 0)] * dimensions
    elif padding == "same":  # torch puts the odd one at the end
        totals = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        sides = [(t // 2, t - t // 2) for t in totals]
    else:
        sides = [(p, p) for p in padding]
    padded = np.pad(levels(x).numpy(), [(0, 0), (0, 0), *sides], constant_values=1.0)
    plain = reference(layer, {**options, "padding": 0})
    torch.testing.assert_close(layer(x), plain(torch.from_numpy(padded)))
    assert "pad_value=1" in repr(layer)


def test_conv2d_against_a_loop() -> None:
    layer = filled(
        QuantConv2d(2, 3, 3, stride=2, padding=1, input_quantizer=Sign(), weight_quantizer=Sign(), pad_value=1)
    )
    x = numbers(1, 2, 5, 5)
    a = np.ones((2, 7, 7))
    a[:, 1:6, 1:6] = levels(x[0]).numpy()
    w = levels(layer.weight.detach()).numpy()
    y = layer(x)[0].detach().numpy()
    assert y.shape == (3, 3, 3)
    for f in range(3):
        for i in range(3):
            for j in range(3):
                total = sum(
                    a[c, 2 * i + u, 2 * j + v] * w[f, c, u, v] for c in range(2) for u in range(3) for v in range(3)
                )
                assert y[f, i, j] == pytest.approx(total + layer.bias[f].item(), abs=1e-5)


@cases
def test_gradients_equal_the_float_layers_times_the_surrogate(kind: type, options: dict) -> None:
    layer, x = make(kind, options, input_quantizer=Sign(), weight_quantizer=Sign())
    plain = reference(layer, options)
    a = levels(x).requires_grad_()
    x.requires_grad_()
    out = numbers(*plain(a).shape, seed=5)
    layer(x).backward(out)
    plain(a).backward(out)
    torch.testing.assert_close(x.grad, a.grad * (x.abs() < 1))
    torch.testing.assert_close(layer.weight.grad, plain.weight.grad * (layer.weight.abs() < 1))
    if layer.bias is not None:
        torch.testing.assert_close(layer.bias.grad, plain.bias.grad)


def test_gradient_of_a_scaled_layer_by_finite_differences() -> None:
    """With weights that keep their levels, only the scale moves; inputs are real."""
    layer = QuantLinear(5, 3, weight_quantizer=Sign(scale=MeanScale(), surrogate=None)).double()
    filled(layer)
    weight = layer.weight.detach().sign() * (layer.weight.detach().abs() + 1.1)  # beyond the clip: surrogate 0
    x = numbers(4, 5).double().requires_grad_()

    def function(weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
        return functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    inputs = (weight.requires_grad_(), layer.bias.detach().requires_grad_(), x)
    assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize("lead", [(), (4,), (2, 3), (2, 1, 3)], ids=str)
def test_linear_takes_any_leading_shape(lead: tuple[int, ...]) -> None:
    layer = filled(QuantLinear(5, 2, input_quantizer=Sign(), weight_quantizer=Sign(scale=MeanScale())))
    x = numbers(*lead, 5)
    expected = levels(x) @ levels(layer.weight).T * layer.weight.abs().mean(1) + layer.bias
    torch.testing.assert_close(layer(x), expected)


def test_names_of_the_paper() -> None:
    conv = QuantConv2d(6, 10, (3, 2), groups=2)
    assert (conv.fan_in, conv.filters) == (6 // 2 * 3 * 2, 10)
    linear = QuantLinear(7, 3, weight_quantizer=Ternary(0.1))
    assert (linear.fan_in, linear.filters) == (7, 3)
    assert linear.weight_scale() is None
    assert torch.equal(linear.quantized_weight(), torch.where(linear.weight.abs() > 0.1, linear.weight.sign(), 0.0))


@pytest.mark.parametrize("kind", FLOAT, ids=lambda kind: kind.__name__)
def test_float_checkpoints_load_and_come_back(kind: type) -> None:
    arguments = (4, 8) if kind is QuantLinear else (4, 8, 3)
    plain = FLOAT[kind](*arguments)
    layer = kind(*arguments, input_quantizer=Sign(surrogate=Tanh()), weight_quantizer=Ternary(0.1, scale=MeanScale()))
    assert list(layer.state_dict()) == list(plain.state_dict())
    layer.load_state_dict(plain.state_dict())
    assert torch.equal(layer.weight, plain.weight)


@cases
def test_copies_are_independent(kind: type, options: dict) -> None:
    layer, x = make(kind, options, input_quantizer=Sign(surrogate=Tanh()), weight_quantizer=Sign(scale=MeanScale()))
    before = layer(x)
    copied = copy.deepcopy(layer)
    assert torch.equal(copied(x), before)
    copied.input_quantizer.surrogate.anneal(1.0)
    with torch.no_grad():
        copied.weight.neg_()
    assert torch.equal(layer(x), before)
    assert layer.input_quantizer.surrogate.t.item() == pytest.approx(0.1)


@cases
def test_double_precision(kind: type, options: dict) -> None:
    layer, x = make(kind, options, input_quantizer=Sign(), weight_quantizer=Ternary(0.3, scale=MeanScale()))
    y = layer.double()(x.double())
    assert y.dtype == torch.float64
    assert y.shape == layer.float()(x).shape


def test_autocast_computes_the_product_in_bf16() -> None:
    layer = filled(QuantConv2d(4, 8, 3, padding=1, input_quantizer=Sign(), weight_quantizer=Sign(scale=MeanScale())))
    x = numbers(2, 4, 6, 6).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x), rtol=2**-7, atol=0.1)
    y.float().sum().backward()
    assert layer.weight.grad.dtype == x.grad.dtype == torch.float32


def test_compiled_layers_equal_eager_ones_also_after_annealing() -> None:
    """One network of every layer, in one graph; test_quantizer.py has the default backend."""
    torch.compiler.reset()
    model = nn.Sequential(
        QuantConv1d(2, 4, 3, padding="same", input_quantizer=Ternary(0.2), weight_quantizer=Ternary(Optimal())),
        nn.Unflatten(2, (3, 4)),
        QuantConv2d(4, 6, 3, padding=1, groups=2, weight_quantizer=Sign(surrogate=Tanh()), pad_value=1),
        nn.Flatten(),
        QuantLinear(72, 5, input_quantizer=Sign(surrogate=Tanh()), weight_quantizer=Sign(scale=MeanScale())),
    )
    filled(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = numbers(3, 2, 12)
    gradients = []
    for progress in (0.0, 1.0):
        for module in model.modules():
            if isinstance(module, Tanh):
                module.anneal(progress)
        results = []
        for function in (compiled, model):
            model.zero_grad()
            y = function(x)
            y.square().sum().backward()
            results.append((y.detach(), [p.grad.clone() for p in model.parameters()]))
        torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-4, atol=1e-4)
        for mine, expected in zip(results[0][1], results[1][1], strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-2)
        gradients.append(results[0][1][2])
    assert not torch.allclose(*gradients, rtol=0.1)


def test_torch_func_gives_gradients_per_sample() -> None:
    layer = filled(QuantConv2d(2, 3, 3, input_quantizer=Sign(), weight_quantizer=Sign(scale=MeanScale())))
    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    x = numbers(4, 2, 5, 5)

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(layer, parameters, (x,)).square().sum()

    together = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    for i in range(4):
        layer.zero_grad()
        layer(x[i]).square().sum().backward()
        torch.testing.assert_close(together["weight"][i], layer.weight.grad, rtol=1e-4, atol=1e-3)


def test_quant_layers_lists_what_is_quantized_in_order() -> None:
    model = nn.Sequential(
        QuantLinear(2, 2, weight_quantizer=Sign()),
        nn.Sequential(QuantLinear(2, 2), QuantConv1d(2, 2, 1, input_quantizer=Sign())),
        nn.Linear(2, 2),
        QuantLinear(2, 2, input_quantizer=Identity(), weight_quantizer=Ternary()),
    )
    found = quant_layers(model)
    assert list(found) == ["0", "1.1", "3"]
    assert all(isinstance(module, QuantLayer) and module is model.get_submodule(n) for n, module in found.items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_quantizer": Sign(scale=MeanScale())}, "input_quantizer must have no scale"),
        ({"input_quantizer": Ternary(Optimal())}, "input_quantizer must have a number as threshold"),
        ({"input_quantizer": "sign"}, r"input_quantizer must be a quantizer object such as Sign\(\); got 'sign'"),
        ({"weight_quantizer": Sign}, r"weight_quantizer must be a quantizer object such as Sign\(\); got <class"),
    ],
)
def test_errors_of_the_quantizers(options: dict, message: str) -> None:
    for make_layer in (lambda: QuantLinear(2, 2, **options), lambda: QuantConv2d(2, 2, 1, **options)):
        with pytest.raises(HypersignError, match=message):
            make_layer()


@pytest.mark.parametrize("pad_value", [-1, 2, 0.5, "1", None])
def test_pad_value_is_0_or_1(pad_value: object) -> None:
    with pytest.raises(HypersignError, match="pad_value must be 0 or 1; got"):
        QuantConv2d(2, 2, 3, pad_value=pad_value)


@pytest.mark.parametrize("kind", [QuantConv1d, QuantConv2d])
def test_pad_value_1_needs_plain_padding(kind: type) -> None:
    with pytest.raises(HypersignError, match="pad_value=1 pads with ones and needs padding_mode='zeros'"):
        kind(2, 2, 3, padding=1, padding_mode="reflect", pad_value=1)


def test_base_class_says_what_to_implement() -> None:
    with pytest.raises(NotImplementedError):
        QuantLayer().product(numbers(1), numbers(1))


@pytest.mark.parametrize("method", METHODS)
def test_torch_fx_traces_every_method(method: str) -> None:
    options = Recipe.of(method, widths=(4, 6), pools=(1,), hidden=(8,)).model_options()
    model = build("vgg", (3, 8, 8), 5, **options).eval()
    traced = torch.fx.symbolic_trace(model)
    x = numbers(4, 3, 8, 8)
    assert torch.equal(traced(x), model(x))
    model(x).sum().backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    traced(x).sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])


def test_padding_comes_after_the_input_quantizer() -> None:
    """Padded zeros stay 0: they do not become +1 by the sign."""
    layer = QuantConv2d(1, 1, 3, padding=1, bias=False, input_quantizer=Sign(), weight_quantizer=Sign())
    nn.init.ones_(layer.weight)
    x = numbers(1, 1, 4, 4).abs()
    counts = F.conv2d(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 3, 3), padding=1)
    assert torch.equal(layer(x), counts)


@pytest.mark.parametrize("name", ["vgg", "mlp", "resnet20"])
@pytest.mark.parametrize("weights", [Sign(scale=MeanScale()), Ternary(0.1)], ids=["scaled", "ternary"])
def test_torch_fx_traces_quantized_networks(name: str, weights: nn.Module) -> None:
    options = {"vgg": {"widths": (8, 8), "pools": (2,), "hidden": (16,)}, "mlp": {"hidden": (16,)}, "resnet20": {}}[
        name
    ]
    model = build(name, (3, 8, 8), 10, **options).eval()
    for layer in quant_layers(model).values():
        layer.weight_quantizer = weights
    traced = torch.fx.symbolic_trace(model)
    x = numbers(2, 3, 8, 8)
    assert torch.equal(traced(x), model(x))
    traced(x).sum().backward()
    assert all(parameter.grad is not None for parameter in traced.parameters())
    assert any("weight_quantizer" in str(node.target) for node in traced.graph.nodes if node.op == "call_module")
