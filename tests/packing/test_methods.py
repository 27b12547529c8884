"""Scales, offsets, planes and learned activations in packed networks: torch's logits, and every step of them."""

import numpy as np
import pytest
import torch
from torch import nn

from hypersign._checks import HypersignError
from hypersign.bits import available_backends
from hypersign.bits.backend import forced
from hypersign.layers import Maxout, QuantConv2d, QuantLinear, RPReLU, train_on_bits, use_kernels
from hypersign.models import resnet20
from hypersign.packed import PackedModel
from hypersign.packing import pack, verify
from hypersign.quantizers import (
    AdaBin,
    AdaBinInputs,
    BitInputs,
    BitNet,
    FilterMean,
    Greedy,
    ImageSign,
    Int8,
    LearnedNumber,
    LearnedScale,
    LeastSquaresPlanes,
    MeanScale,
    Quantization,
    ShiftedSign,
    Sign,
    Ternary,
    TwoValues,
)

PIXELS = (-1.0, 1.0)
WEIGHTS = {
    "sign": lambda: Sign(scale=LearnedScale()),
    "adabin": AdaBin,
    "two-values": TwoValues,
    "ternary-offset": lambda: Ternary(0.1, scale=MeanScale(), offset=FilterMean()),
    "bitnet": BitNet,
    "greedy": lambda: Greedy(planes=3),
    "ls-2": LeastSquaresPlanes,
}
INPUTS = {
    "sign": Sign,
    "shifted": ShiftedSign,
    "adabin": AdaBinInputs,
    "bit": BitInputs,
    "image-sign": ImageSign,
    "ternary-scale": lambda: Ternary(0.3, scale=LearnedNumber(0.7), offset=LearnedNumber(-0.4)),
}


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter and statistic at random: learned slopes, shifts, negative scales."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
                if "running_var" in name:
                    tensor.abs_().add_(0.5)
    return model.eval()


def network(weights, inputs, activation=None) -> nn.Sequential:
    act = (lambda channels: [activation(channels)]) if activation else (lambda channels: [])
    return nn.Sequential(
        QuantConv2d(2, 6, 3, padding=1, bias=False, weight_quantizer=weights()),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(6),
        *act(6),
        QuantConv2d(6, 5, 3, padding=1, stride=2, input_quantizer=inputs(), weight_quantizer=weights()),
        nn.BatchNorm2d(5),
        *act(5),
        nn.Flatten(),
        QuantLinear(20, 7, bias=False, input_quantizer=inputs(), weight_quantizer=weights()),
        nn.BatchNorm1d(7),
        *act(7),
        QuantLinear(7, 4, bias=False, input_quantizer=inputs(), weight_quantizer=weights()),
    )


def check(model: nn.Module, path, shape=(2, 8, 8), images: int = 40) -> PackedModel:
    """Packs, compares the logits, and lets the replica follow every step."""
    pack(model, path, shape, pixel_range=PIXELS)
    packed = PackedModel.load(path)
    pixels = np.random.default_rng(0).integers(0, 256, (images, *shape)).astype(np.uint8)
    certificate = verify(model, packed, pixels)
    assert certificate.wrong == 0
    x = torch.from_numpy(pixels).float() * (2 / 255) - 1
    with torch.no_grad():
        expected = model(x).numpy()
    found = packed.predict(pixels)
    for name in available_backends():  # with and without passes: the same numbers
        with forced(name):
            assert np.array_equal(packed.predict(pixels, batch_size=7, threads=2), found)
    near = np.abs(found - expected).max(1) <= 1e-4 * np.abs(expected).max()
    assert near.mean() > 0.9  # the others have a number within rounding of a threshold, which the certificate judged
    return packed


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_packed_equals_torch(weights, inputs, tmp_path):
    check(randomised(network(WEIGHTS[weights], INPUTS[inputs])), tmp_path / "net")


def test_an_offset_of_inputs_without_padding_folds_into_integer_thresholds(tmp_path):
    inputs = INPUTS["ternary-scale"]
    model = nn.Sequential(
        nn.Flatten(),
        QuantLinear(128, 9, bias=False, weight_quantizer=Sign()),
        nn.BatchNorm1d(9),
        QuantLinear(9, 7, bias=False, input_quantizer=inputs(), weight_quantizer=Sign(scale=MeanScale())),
        nn.BatchNorm1d(7),
        QuantLinear(7, 4, bias=False, input_quantizer=inputs(), weight_quantizer=Sign()),
    )
    packed = check(randomised(model), tmp_path / "net")
    assert [node.op for node in packed.graph.nodes] == ["image_conv2d", "conv2d", "conv2d", "affine"]


@pytest.mark.parametrize("signs", ["mixed", "positive"])
@pytest.mark.parametrize("activation", [RPReLU, Maxout])
def test_learned_activations(activation, signs, tmp_path):
    """Positive slopes are monotone and fold into thresholds; of others some have a minimum and stay real."""
    model = randomised(network(lambda: Sign(scale=MeanScale()), ShiftedSign, activation))
    if signs == "positive":
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, RPReLU):
                    module.slope.abs_()
                if isinstance(module, Maxout):
                    module.left.abs_()
                    module.right.abs_()
    packed = check(model, tmp_path / "net")
    inside = [node.op for node in packed.graph.nodes if node.name.startswith(("3", "6"))]
    assert bool(inside) == (signs == "mixed")


@pytest.mark.parametrize(
    ("weights", "inputs", "activation"),
    [("sign", "shifted", "rprelu"), ("adabin", "adabin", "maxout"), ("ls-2", "sign", "hardtanh")],
)
def test_residual_networks(weights, inputs, activation, tmp_path):
    torch.manual_seed(0)
    quantization = Quantization(WEIGHTS[weights](), INPUTS[inputs]())
    model = resnet20((2, 8, 8), 4, quantization, widths=(4, 6), activation=activation)
    check(randomised(model), tmp_path / "net", images=20)


def test_real_inputs_of_quantized_weights(tmp_path):
    for number, weights in enumerate(("adabin", "greedy", "bitnet")):
        model = nn.Sequential(
            nn.Conv2d(2, 4, 3),
            nn.ReLU(),
            QuantConv2d(4, 5, 3, padding=1, weight_quantizer=WEIGHTS[weights]()),
            nn.Flatten(),
            QuantLinear(5 * 36, 4, weight_quantizer=WEIGHTS[weights]()),
        )
        check(randomised(model), tmp_path / f"net{number}")


def test_the_replica_sees_a_wrong_offset(tmp_path):
    model = randomised(network(AdaBin, AdaBinInputs))
    pixels = np.random.default_rng(0).integers(0, 256, (20, 2, 8, 8)).astype(np.uint8)
    pack(model, tmp_path / "net", (2, 8, 8), pixel_range=PIXELS)
    with torch.no_grad():
        model[8].input_quantizer.offset.value.mul_(1.001)
    assert verify(model, PackedModel.load(tmp_path / "net"), pixels).wrong > 10


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            lambda: QuantConv2d(2, 4, 3, groups=2, weight_quantizer=AdaBin()),
            r"0 \(QuantConv2d\) cannot be packed: its offset needs the sums of each group's windows; use one group",
        ),
        (
            lambda: QuantConv2d(2, 4, 3, input_quantizer=Int8(), weight_quantizer=Sign()),
            r"0 \(QuantConv2d\) cannot be packed: its 8-bit inputs have one scale per token",
        ),
    ],
)
def test_what_cannot_be_packed(layer, message, tmp_path):
    model = nn.Sequential(layer(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(HypersignError, match=message):
        pack(model, tmp_path / "net", (2, 8, 8), pixel_range=PIXELS)
    assert not (tmp_path / "net").exists()


def test_on_bits_with_scales_and_offsets():
    """Training on bits gives the same outputs; kernels for inference say what they lack."""
    for weights, inputs in ((AdaBin, AdaBinInputs), (TwoValues, BitInputs)):
        torch.manual_seed(0)
        layer = QuantConv2d(8, 6, 3, padding=1, input_quantizer=inputs(), weight_quantizer=weights())
        model, x = nn.Sequential(layer), torch.randn(4, 8, 6, 6)
        expected = model(x)
        with pytest.raises(HypersignError, match=r"its inputs (are transformed|have a scale)"):
            use_kernels(model)
        assert train_on_bits(model) == {}
        found = model(x)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
        found.sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
