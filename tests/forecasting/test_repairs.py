"""After repair every channel has the mean and deviation that it has in the original network."""

import copy

import pytest
import torch
from torch import nn

from hypersign._checks import HypersignError
from hypersign.forecasting import forecast, repair
from hypersign.layers import convert
from hypersign.packed import PackedModel
from hypersign.packing import pack
from hypersign.quantizers import Grid, GroupScaled, Identity, MeanScale, Sign, Ternary

QUANTIZERS = {
    "scaled": Sign(scale=MeanScale()),
    "groups": GroupScaled(Sign(), 16),
    "no scale": Sign(),
    "fixed threshold": Ternary(0.1, scale=MeanScale()),
}


def outputs(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """The outputs of layers and norms, channels first."""
    found = []
    for layer in model:
        x = layer(x)
        if isinstance(layer, nn.BatchNorm2d) or (hasattr(layer, "weight") and layer.weight.dim() > 1):
            found.append(x.transpose(0, 1).flatten(1))
    return found


@pytest.mark.parametrize("quantizer", QUANTIZERS.values(), ids=QUANTIZERS)
@pytest.mark.parametrize("norm", [True, False])
def test_channels_have_the_moments_of_the_original(quantizer, norm, net, normed, images) -> None:
    model, x = normed if norm else net, images[:200]
    quantized = convert(model, weight_quantizer=quantizer).model
    before = (quantized(x) - model(x)).square().mean()
    assert len(repair(quantized, [(x[:100], None), (x[100:], None)], original=model)) == 3
    skip = 1 if norm else 0  # the repair of the first layer is in its batch norm
    pairs = list(zip(outputs(quantized, x), outputs(model, x), strict=True))[skip:]
    last = pairs[-1]
    for ours, theirs in [pairs[0], last]:
        torch.testing.assert_close(ours.mean(1), theirs.mean(1), atol=0.02, rtol=0.02)
        torch.testing.assert_close(ours.std(1), theirs.std(1), atol=0.02, rtol=0.03)
    assert (quantized(x) - model(x)).square().mean() < before


def test_in_one_batch_the_match_is_exact_and_a_second_repair_changes_nothing(net, images) -> None:
    model, x = net, images[:100]
    quantized = convert(model, weight_quantizer=Sign(scale=MeanScale())).model
    repair(quantized, [x], original=model)
    for ours, theirs in zip(outputs(quantized, x), outputs(model, x), strict=True):
        torch.testing.assert_close(ours.mean(1), theirs.mean(1), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(ours.std(1), theirs.std(1), atol=1e-5, rtol=1e-4)
    once = quantized(x)
    repair(quantized, [x], original=model)
    torch.testing.assert_close(quantized(x), once, atol=1e-5, rtol=1e-4)


def test_without_an_original_the_latent_weights_are_it(normed, images) -> None:
    model, x = normed, images[:100]
    first, second, third = (
        convert(model, weight_quantizer=Sign(scale=MeanScale()), keep=["0"]).model for _ in range(3)
    )
    # Our layers add the bias after the product, torch's on some processors before: bits are equal among ours.
    ours = convert(model, weight_quantizer=Identity(), keep=["0"]).model
    assert (
        repair(first, [x], original=ours) == repair(second, [x]) == repair(third, [x], original=model) == ("3", "6")
    )
    assert torch.equal(first(x), second(x))
    torch.testing.assert_close(third(x), second(x), atol=1e-5, rtol=1e-5)


def test_inputs_of_one_bit_are_repaired_too(normed, images) -> None:
    model, x = normed, images[:100]
    quantized = convert(model, input_quantizer={"3": Grid(2, low=0.1, step=0.8)}).model
    before = (quantized(x) - model(x)).square().mean()
    repair(quantized, [x], original=model)
    assert (quantized(x) - model(x)).square().mean() < 0.7 * before


def test_a_repaired_network_is_what_the_forecast_measured_and_packs(normed, images, tmp_path) -> None:
    model, x = normed, images[:128]
    found = forecast(model, [x], formats=["binary"], repaired=True, mixtures=0)
    everything = dict.fromkeys(("0", "3", "6"), "binary")
    quantized = convert(model, weight_quantizer=Sign(scale=MeanScale())).model
    repair(quantized, [x], original=model)
    measured = found.measure(everything)
    logits = [(z - z.mean(1, keepdim=True)).flatten() for z in (model(x).detach(), quantized(x).detach())]
    assert measured.r.value == pytest.approx(float(torch.corrcoef(torch.stack(logits))[0, 1]), abs=1e-4)
    pack(quantized, tmp_path / "net.hypersign", (3, 6, 6))
    packed = PackedModel.load(tmp_path / "net.hypersign").predict(x.numpy())
    torch.testing.assert_close(torch.from_numpy(packed), quantized(x).detach(), atol=1e-4, rtol=1e-4)


def test_errors_in_one_sentence(normed, images) -> None:
    model, x = normed, images[:100]
    quantized = convert(model, weight_quantizer=Sign()).model
    with pytest.raises(HypersignError, match="repair needs the float network"):
        repair(model, [x])
    with pytest.raises(HypersignError, match="repair needs inputs; got none"):
        repair(quantized, [], original=model)
    with pytest.raises(HypersignError, match="6 gets 1: use batches of 128 inputs"):
        repair(quantized, x.split(1), original=model)
    with pytest.raises(HypersignError, match="must have the same layers; only one of them has 6"):
        repair(quantized, [x], original=model[:6])
    with pytest.raises(HypersignError, match="holds NaN or infinity"):
        repair(quantized, [x * torch.nan], original=model)
    unchanged = copy.deepcopy(model)
    assert repair(unchanged, [x], original=model) == ()
