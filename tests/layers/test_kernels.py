"""Layers on bits give what the float layers give, bit for bit."""

import pytest
import torch
from torch import nn

from hypersign._checks import HypersignError
from hypersign.layers import QuantConv1d, QuantConv2d, QuantLinear, train_on_bits, use_kernels
from hypersign.models import resnet20, vgg
from hypersign.quantizers import BitNet, GroupScaled, Identity, Int8, MeanScale, Optimal, Sign, Ternary


@pytest.mark.parametrize("inputs", [Sign(), Ternary(0.3)], ids=["binary", "ternary"])
@pytest.mark.parametrize(
    "weights",
    [Sign(), Sign(scale=MeanScale()), Ternary(0.2), Ternary(Optimal())],
    ids=["sign", "scale", "t", "optimal"],
)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": 1},
        {"padding": (1, 2), "pad_value": 1, "stride": (2, 1)},
        {"groups": 3, "dilation": 2, "padding": 2, "bias": False},
    ],
    ids=["plain", "padded", "ones", "groups"],
)
def test_convolution_bit_for_bit(inputs: nn.Module, weights: nn.Module, options: dict) -> None:
    torch.manual_seed(0)
    layer = QuantConv2d(6, 9, 3, input_quantizer=inputs, weight_quantizer=weights, **options)
    x = torch.randn(2, 6, 7, 9)
    with torch.no_grad():
        assert torch.equal(use_kernels(layer).model(x), layer(x))


@pytest.mark.parametrize("shape", [(0, 33), (1, 33), (2, 3, 33)])
def test_linear_bit_for_bit(shape: tuple[int, ...]) -> None:
    layer = QuantLinear(33, 5, input_quantizer=Sign(), weight_quantizer=Ternary(0.1))
    x = torch.randn(shape)
    with torch.no_grad():
        assert torch.equal(use_kernels(layer).model(x), layer(x))


def small() -> nn.Sequential:
    model = vgg((3, 8, 8), widths=(33, 40), pools=(2,), hidden=(65,)).eval()
    with torch.no_grad():  # away from the mean of zero and variance of one of a new network
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(0, 5)
                module.running_var.uniform_(1, 50)
    return model


def test_a_network_compiled_and_exported() -> None:
    model = small()
    result = use_kernels(model)
    assert result.converted == ("conv2", "fc1", "fc2")
    assert "Identity" in result.kept["conv1"]
    x = torch.rand(4, 3, 8, 8)
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(result.model(x), expected)
        assert torch.allclose(torch.compile(result.model, fullgraph=True, backend="aot_eager")(x), expected)
        exported = torch.export.export(result.model, (x,)).module()
        assert torch.allclose(exported(x), expected)


def test_residual_network_bit_for_bit() -> None:
    # In one memory order: torch adds up the float layers around the shortcuts in another order in another.
    model = resnet20((3, 9, 9), widths=(8, 16)).eval().to(memory_format=torch.channels_last)
    x = torch.rand(2, 3, 9, 9).to(memory_format=torch.channels_last)
    with torch.no_grad():
        assert torch.equal(use_kernels(model).model(x), model(x))


def test_the_original_is_left_alone() -> None:
    model = small().train()
    use_kernels(model)
    assert model.training
    assert isinstance(model.fc1, QuantLinear)


def test_what_cannot_run_on_bits_is_named() -> None:
    layer = QuantConv1d(4, 4, 3, input_quantizer=Sign(), weight_quantizer=Sign())
    with pytest.raises(HypersignError, match="QuantConv1d has no kernel"):
        use_kernels(nn.Sequential(layer))
    with pytest.raises(HypersignError, match="it has no quantized layers"):
        use_kernels(nn.Linear(3, 2))
    with pytest.raises(HypersignError, match="its inputs are not binary or ternary"):
        use_kernels(QuantLinear(3, 2, input_quantizer=Identity(), weight_quantizer=Sign()))
    with pytest.raises(
        HypersignError, match=r"its weights are not binary or ternary: GroupScaled has a scale per group"
    ):
        use_kernels(QuantLinear(3, 2, input_quantizer=Sign(), weight_quantizer=GroupScaled(Sign(), 2)))


def test_signs_with_a_zero_run_as_ternary_levels() -> None:
    layer = QuantLinear(70, 9, input_quantizer=Sign(zero=0), weight_quantizer=Sign(zero=0))
    x = torch.randn(5, 70)
    with torch.no_grad():
        layer.weight[:, ::3] = 0
        x[:, ::4] = 0
        assert torch.equal(use_kernels(layer).model(x), layer(x))


def test_nan_weight_is_refused() -> None:
    layer = QuantLinear(3, 2, input_quantizer=Sign(), weight_quantizer=Sign())
    with torch.no_grad():
        layer.weight[0, 0] = torch.nan
    with pytest.raises(HypersignError, match="must not hold NaN"):
        use_kernels(layer)


def test_shared_quantizers_and_layers_in_several_places() -> None:
    """One Sign in all layers, one layer in two places: each place runs on bits."""
    torch.manual_seed(0)
    binary = {"input_quantizer": Sign(), "weight_quantizer": Sign()}
    twice = QuantLinear(16, 16, **binary)
    model = nn.Sequential(
        QuantLinear(8, 16, **binary), twice, nn.Sequential(twice), twice, QuantLinear(16, 3, **binary)
    )
    found = use_kernels(model)
    assert found.converted == ("0", "1", "4")
    assert not any(isinstance(module, QuantLinear) for module in found.model.modules())
    assert found.model[1] is found.model[2][0] is found.model[3]
    x = torch.randn(5, 8)
    assert torch.equal(found.model(x), model(x))


@pytest.mark.parametrize("weights", [Sign(), Ternary(0.2)], ids=["binary", "ternary"])
def test_a_packed_layer_has_a_weight_that_others_may_ask(weights: nn.Module) -> None:
    for layer in (
        QuantLinear(65, 5, input_quantizer=Sign(), weight_quantizer=weights),
        QuantConv2d(6, 9, 3, groups=3, input_quantizer=Sign(), weight_quantizer=weights),
        QuantConv2d(65, 2, (1, 2), input_quantizer=Sign(), weight_quantizer=weights, dtype=torch.bfloat16),
    ):
        packed = use_kernels(layer).model
        assert packed.weight.dtype == layer.weight.dtype
        assert torch.equal(packed.weight, layer.quantized_weight())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_outputs_have_the_type_of_the_inputs(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = QuantLinear(33, 5, input_quantizer=Sign(), weight_quantizer=Sign(scale=MeanScale())).to(dtype)
    x = torch.randn(3, 33, dtype=dtype)
    with torch.no_grad():
        y = use_kernels(layer).model(x)
        assert y.dtype == dtype
        tolerance = 1e-12 if dtype == torch.float64 else 0.03
        torch.testing.assert_close(y, layer(x), rtol=tolerance, atol=tolerance)


def test_one_image_without_a_batch() -> None:
    layer = QuantConv2d(3, 4, 3, padding=1, input_quantizer=Sign(), weight_quantizer=Sign())
    x = torch.randn(3, 6, 5)
    with torch.no_grad():
        assert torch.equal(use_kernels(layer).model(x), layer(x))


def test_whoever_holds_a_layer_holds_the_packed_one() -> None:
    model = nn.Sequential(QuantLinear(8, 3, input_quantizer=Sign(), weight_quantizer=Sign()))
    seen: list[nn.Module] = []
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(module))
    model.order = [model[0]]
    packed = use_kernels(model).model
    assert packed.order[0] is packed[0]
    packed(torch.randn(2, 8))
    assert seen == [packed[0]]


@pytest.mark.parametrize("weights", [BitNet(), Sign(), Sign(scale=MeanScale()), Ternary(0.02)])
@pytest.mark.parametrize("shape", [(70,), (1, 70), (5, 9, 70), (0, 70)])
def test_8_bit_inputs_bit_for_bit(weights: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = QuantLinear(70, 33, input_quantizer=Int8(), weight_quantizer=weights)
    packed = use_kernels(nn.Sequential(layer))
    x = torch.randn(shape)
    assert packed.kept == {}
    assert torch.equal(packed.model(x), layer(x))
    assert torch.equal(packed.model[0].weight, layer.quantized_weight())


@pytest.mark.parametrize("weights", [Sign(), Ternary(0.3)])
@pytest.mark.parametrize(("features", "group"), [(256, 128), (130, 64), (70, 200), (65, 1)])
def test_scales_per_group(weights: nn.Module, features: int, group: int) -> None:
    layer = QuantLinear(features, 9, input_quantizer=Int8(), weight_quantizer=GroupScaled(weights, group))
    x = torch.randn(3, 4, features)
    found = use_kernels(nn.Sequential(layer))
    assert found.converted == ("0",)
    with torch.no_grad():
        levels = layer.input_quantizer(x)
        wanted = levels.double() @ layer.quantized_weight().double().T
        wanted = wanted * layer.input_quantizer.scale(x, levels) + layer.bias
        torch.testing.assert_close(found.model(x).double(), wanted, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.model(x), layer(x), atol=1e-5, rtol=1e-5)
        kernel = found.model[0]
        kernel.scale = kernel.scale * 2  # a new tensor: no stale filters
        torch.testing.assert_close(found.model(x) - layer.bias, 2 * (layer(x) - layer.bias), atol=1e-5, rtol=1e-5)
    torch.compiler.reset()  # other tests compiled this forward too, and the number of times is limited
    assert torch.equal(torch.compile(found.model, fullgraph=True, backend="eager")(x), found.model(x))


@pytest.mark.parametrize("weights", [BitNet(), Sign()])
def test_training_with_8_bit_inputs_is_that_of_float32(weights: nn.Module) -> None:
    torch.manual_seed(0)
    layer = QuantLinear(70, 33, input_quantizer=Int8(), weight_quantizer=weights)
    x, upstream = torch.randn(6, 5, 70, requires_grad=True), torch.randn(6, 5, 33)
    expected = torch.autograd.grad(y := layer(x), (x, *layer.parameters()), upstream)
    assert train_on_bits(nn.Sequential(layer)) == {}
    found = torch.autograd.grad(z := layer(x), (x, *layer.parameters()), upstream)
    assert torch.equal(y, z)
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("training", [False, True])
def test_inputs_of_another_size_are_refused(training: bool) -> None:
    """7 and 8 channels take one word each, so the words alone cannot tell."""
    layers = {"input_quantizer": Sign(), "weight_quantizer": Sign()}
    convolution, linear = QuantConv2d(8, 4, 3, **layers), QuantLinear(8, 4, **layers)
    if training:
        for layer in (convolution, linear):
            train_on_bits(layer)
    else:
        convolution, linear = use_kernels(convolution).model, use_kernels(linear).model
    assert convolution(torch.randn(8, 5, 5)).shape == (4, 3, 3)
    for layer, shape in ((convolution, (2, 7, 5, 5)), (convolution, (7, 5, 5)), (linear, (2, 7)), (linear, (16, 4))):
        with pytest.raises((HypersignError, RuntimeError), match=r"8, H, W|\.\.\., 8|shape|channels"):
            layer(torch.randn(shape))


def test_packed_layers_are_traced() -> None:
    layers = {"input_quantizer": Sign(), "weight_quantizer": Sign(scale=MeanScale())}
    net = nn.Sequential(
        QuantConv2d(3, 8, 3, padding=1, pad_value=1, **layers), nn.Flatten(), QuantLinear(8 * 16, 5, **layers)
    )
    packed = use_kernels(net).model
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(torch.fx.symbolic_trace(packed)(x), packed(x))
