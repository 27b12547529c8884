import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from hypersign._checks import HypersignError
from hypersign.geometry.depth import LayerR, _quantized_r, accumulated_r, back_to_float, measure_depth
from hypersign.layers import QuantConv2d, QuantLinear
from hypersign.quantizers import Identity, MeanScale, Sign, Ternary

C = math.sqrt(2 / math.pi)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.612, 1.5])
@pytest.mark.parametrize("rho", [-0.4, 0.0, 0.5, 0.99])
def test_levels_correlate_as_the_bivariate_normal_says(rho, threshold):
    pair = stats.multivariate_normal(cov=[[1, rho], [rho, 1]])
    same, opposite = (
        pair.cdf([-threshold, -threshold]),
        stats.norm.cdf(-threshold) - pair.cdf([-threshold, threshold]),
    )
    expected = 2 * (same - opposite) / (2 * stats.norm.cdf(-threshold))
    assert _quantized_r(rho, threshold) == pytest.approx(expected, abs=1e-6)
    if not threshold:
        assert expected == pytest.approx(2 / math.pi * math.asin(rho), abs=1e-9)


def test_accumulated_r_in_its_closed_forms():
    layers = [LayerR(name, 0.9, C, 0.7, 0.0) for name in "abc"]
    everything = {"weights": "abc", "inputs": "abc"}
    np.testing.assert_allclose(accumulated_r(layers, **everything), [0.7, 0.7**2, 0.7**3])
    np.testing.assert_allclose(accumulated_r(layers, inputs="b"), [1, C, 2 / math.pi * math.asin(C)])
    np.testing.assert_allclose(accumulated_r(layers, inputs="b", real="c"), [1, C, C])
    first = 2 / math.pi * math.asin(0.9)
    np.testing.assert_allclose(accumulated_r(layers, weights="a"), [0.9, first, 2 / math.pi * math.asin(first)])
    np.testing.assert_allclose(accumulated_r(layers, weights="ab")[1], 0.9 * first)
    assert accumulated_r(layers) == (1, 1, 1)


def test_filters_that_average_errors_out_pass_fewer_on():
    through, averaged = (LayerR("b", 0.9, r, 0.7, 0.0) for r in (C, 0.95))
    one, other = (
        accumulated_r([LayerR("a", 0.8, 1.0, 0.8, math.inf), b], weights="a")[1] for b in (through, averaged)
    )
    gain = (1 / 0.95**2 - 1) / (math.pi / 2 - 1)
    q = 2 / math.pi * math.asin(0.8)
    assert one == pytest.approx(q)
    assert other == pytest.approx((1 + gain * (1 / q**2 - 1)) ** -0.5)


def test_a_real_layer_is_the_quantized_one_without_its_quantizer():
    torch.manual_seed(0)
    model = nn.Sequential(
        QuantConv2d(2, 3, 3, input_quantizer=Sign(), weight_quantizer=Ternary(0.1)),
        QuantLinear(4, 2, input_quantizer=Sign(), weight_quantizer=Sign(scale=MeanScale())),
    )
    with torch.no_grad():
        model[0].weight[0] = 0
    real = back_to_float(model, weights=["0", "1"], inputs=["1"])
    w, b = model[0].weight[1:].flatten(1), model[0].quantized_weight()[1:].flatten(1)
    # Least squares: the part of the levels that lies along the filter
    expected = w * ((w * b).sum(1) / (w * w).sum(1))[:, None]
    torch.testing.assert_close(real[0].quantized_weight()[1:].flatten(1), expected)
    assert not real[0].quantized_weight()[0].any()
    torch.testing.assert_close(real[1].quantized_weight(), model[1].weight)  # the scale made the levels as large
    assert isinstance(real[0].input_quantizer, Sign)
    assert isinstance(real[1].input_quantizer, Identity)
    assert isinstance(model[0].weight_quantizer, Ternary)  # left as it was
    with pytest.raises(HypersignError, match=r"must be quantized layers \(0, 1\); got 2, x"):
        back_to_float(model, weights=["2"], inputs=["x"])


def network(widths):
    torch.manual_seed(0)
    model = nn.Sequential()
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        layer = QuantLinear(
            inputs, outputs, bias=False, input_quantizer=Sign() if i else None, weight_quantizer=Sign()
        )
        nn.init.normal_(layer.weight)
        model.extend([layer, nn.BatchNorm1d(outputs, affine=False)])
    return model


@pytest.fixture(scope="module")
def batches():
    x = torch.randn(900, 300, generator=torch.Generator().manual_seed(1))
    return [(part, torch.zeros(len(part), dtype=torch.long)) for part in x.split(300)]


def test_errors_of_random_layers_accumulate_as_predicted(batches):
    model = network((300, 400, 400, 400))
    found = measure_depth(model, batches, batches)
    assert found.images == 900
    np.testing.assert_allclose([layer.own_r for layer in found.layers], [C, C * C, C * C], atol=0.02)
    np.testing.assert_allclose([layer.r for layer in found.layers], [C, C**3, C**5], atol=0.03)
    for layer in found.layers:
        assert layer.r == pytest.approx(layer.training_r, abs=0.03)
        assert layer.input_flips == pytest.approx(layer.training_input_flips, abs=0.01)
        assert [test.kept for test in layer.permuted] == ["global", "sample", "position"]
        for test in layer.permuted:
            assert test.r == pytest.approx(test.predicted_r, abs=0.01)
    assert found.layers[0].input_flips == 0


def test_depth_against_a_plain_writing(batches):
    model = network((300, 60, 20))
    found = measure_depth(model, batches, batches)
    x = torch.cat([images for images, _ in batches]).double().numpy()
    first, second = (model[i].weight.detach().double().numpy() for i in (0, 2))

    def normal(z):  # the mean over batches of their variances, as re-estimation has it
        parts = z.reshape(3, 300, -1)
        return (z - z.mean(0)) / np.sqrt(parts.var(1, ddof=1).mean(0) + 1e-5)

    signs = np.where(normal(x @ np.sign(first).T) >= 0, 1, -1)
    real = normal(x @ first.T)
    pairs = [(x @ np.sign(first).T, x @ first.T), (signs @ np.sign(second).T, real @ second.T)]
    for layer, (a, b) in zip(found.layers, pairs, strict=True):
        expected = np.mean([np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(a.shape[1])])
        assert layer.r == pytest.approx(expected, abs=1e-4)
    assert found.layers[1].input_flips == pytest.approx(np.mean((real < 0) != (signs < 0)), abs=1e-4)


def test_depth_does_not_depend_on_the_batches_and_leaves_the_model(batches):
    model = network((300, 40, 10)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.random.get_rng_state()
    one = measure_depth(model, batches, batches, permuted_images=50)
    x = torch.cat([images for images, _ in batches])
    other = measure_depth(
        model, [(part, torch.zeros(len(part)).long()) for part in x.split(41)], batches, permuted_images=50
    )
    for a, b in zip(one.layers, other.layers, strict=True):
        assert a.r == pytest.approx(b.r, abs=1e-5)
        assert a.training_r == pytest.approx(b.training_r, abs=1e-5)
        assert a.permuted == b.permuted
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(module.training and not module._forward_hooks for module in model.modules())
    assert torch.equal(random, torch.random.get_rng_state())


def test_bad_input_is_named(batches):
    with pytest.raises(HypersignError, match="must have quantized layers"):
        measure_depth(nn.Sequential(nn.Linear(300, 3)), batches, batches)
    with pytest.raises(HypersignError, match="reestimation are read more than once"):
        measure_depth(network((300, 10)), batches, iter(batches))
    with pytest.raises(HypersignError, match="permuted_images must be an integer >= 1"):
        measure_depth(network((300, 10)), batches, batches, permuted_images=0)


def test_layers_that_share_a_quantizer_are_told_apart(batches):
    """As many objects or one of each: the same numbers."""
    apart, together = network([64, 64, 64, 10]), network([64, 64, 64, 10])
    sign = Sign()
    for layer in together.modules():
        if isinstance(layer, QuantLinear):
            layer.weight_quantizer = sign
            if not isinstance(layer.input_quantizer, Identity):
                layer.input_quantizer = sign
    images = [(x[:, :64], labels) for x, labels in batches]
    assert measure_depth(apart, images, images) == measure_depth(together, images, images)
    for name in ("weights", "inputs"):
        names = [key for key, layer in together.named_modules() if isinstance(layer, QuantLinear)][1:2]
        x = images[0][0]
        assert torch.equal(
            back_to_float(apart, **{name: names}).eval()(x), back_to_float(together, **{name: names}).eval()(x)
        )


def test_layers_that_share_a_weight_get_their_own_sizes():
    first, second = (QuantLinear(8, 8, bias=False, weight_quantizer=Sign()) for _ in range(2))
    second.weight = first.weight
    alone = back_to_float(nn.Sequential(first), weights=["0"])
    both = back_to_float(nn.Sequential(first, second), weights=["0", "1"])
    assert torch.equal(both[0].weight, alone[0].weight)
    assert torch.equal(both[1].weight, alone[0].weight)


def test_a_layer_that_runs_twice_is_named():
    layer = QuantLinear(8, 8, input_quantizer=Sign(), weight_quantizer=Sign())
    x = torch.randn(20, 8), torch.zeros(20, dtype=torch.long)
    with pytest.raises(HypersignError, match="0 runs more than once in a forward pass"):
        measure_depth(nn.Sequential(layer, layer), [x], [x])
