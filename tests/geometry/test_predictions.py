"""The three numbers: measured, from training images, and predicted from the real inputs."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from hypersign.geometry import input_covariances, inspect, what_if
from hypersign.geometry.covariance import predict
from hypersign.geometry.covariance.real_inputs import input_steps, steps_of
from hypersign.geometry.covariance.sample import VectorSample
from hypersign.geometry.dot_products import ProductSums
from hypersign.layers import QuantConv2d, QuantLinear
from hypersign.quantizers import Quantizer, Sign, Ternary

FAMILIES = ("weights_binarized", "activations_binarized", "both_binarized")


class Halves(Quantizer):
    """Levels in steps of a half, from -1 to 1."""

    def round(self, x):
        return (2 * x).round().clamp(-2, 2) / 2


def labelled(x, size=64):
    return [(part, torch.zeros(len(part), dtype=torch.long)) for part in x.split(size)]


def correlated(n, d, seed=0):
    """Normals with a common component and means of their own."""
    torch.manual_seed(seed)
    mean = 0.5 * torch.randn(d)
    return torch.randn(n, d) + 0.7 * torch.randn(n, 1) + mean


@pytest.mark.parametrize(
    "quantizer", [Sign(), Ternary(0.5), Halves(), None], ids=["sign", "ternary", "halves", "real"]
)
def test_from_the_same_images_both_sides_are_equal(quantizer):
    torch.manual_seed(0)
    model = nn.Sequential(
        QuantConv2d(2, 5, 3, padding=1, input_quantizer=quantizer, weight_quantizer=Sign()),
        nn.Flatten(),
        QuantLinear(5 * 36, 4, input_quantizer=Sign(), weight_quantizer=Ternary(0.02)),
    )
    images = torch.randn(120, 2, 6, 6) + torch.randn(120, 1, 1, 1)
    batches = labelled(images)
    for layer in inspect(model, batches, covariances=input_covariances(model, batches)).layers:
        for family in FAMILIES:
            products = getattr(layer, family)
            assert products.training_pearson_r == pytest.approx(products.pearson_r, abs=1e-6)
            np.testing.assert_allclose(
                products.training_pearson_r_per_filter, products.pearson_r_per_filter, atol=1e-6, equal_nan=True
            )
            assert products.training_sign_disagreement == pytest.approx(products.sign_disagreement, abs=1e-12)
            assert products.training_pearson_r_error == pytest.approx(products.pearson_r_error, rel=1e-3, abs=1e-9)
            assert not products.training_departs
        weights = layer.weights_binarized  # exact for these images, whatever the inputs
        assert weights.predicted_pearson_r == pytest.approx(weights.pearson_r, abs=1e-5)
        np.testing.assert_allclose(weights.predicted_pearson_r_per_filter, weights.pearson_r_per_filter, atol=1e-5)


@pytest.mark.parametrize("quantizer", [Sign(), Ternary(0.5), Halves()], ids=["sign", "ternary", "halves"])
def test_normal_inputs_are_predicted(quantizer):
    """Against products of other inputs in float64."""
    torch.manual_seed(3)
    layer = QuantLinear(50, 12, bias=False, input_quantizer=quantizer, weight_quantizer=Sign())
    found = predict(input_covariances(layer, [correlated(20_000, 50)]).layers[""])
    a = correlated(60_000, 50).double()
    q = quantizer(a).numpy()
    a, w, b = a.numpy(), layer.weight.detach().double().numpy(), layer.effective_weight().detach().double().numpy()
    pairs = {"weights_binarized": (q @ b.T, q @ w.T), "activations_binarized": (a @ b.T, q @ b.T)}
    pairs["both_binarized"] = (a @ w.T, q @ b.T)
    for family, (x, y) in pairs.items():
        prediction = found[family]
        assert prediction.pooled == pytest.approx(np.corrcoef(x.ravel(), y.ravel())[0, 1], abs=0.006), family
        each = [np.corrcoef(x[:, f], y[:, f])[0, 1] for f in range(12)]
        np.testing.assert_allclose(prediction.per_filter, each, atol=0.02)


def test_padding_and_groups_of_a_convolution_are_predicted():
    torch.manual_seed(1)
    layer = QuantConv2d(
        4, 6, 3, padding=1, groups=2, bias=False, input_quantizer=Sign(), weight_quantizer=Sign(), pad_value=1
    )
    images = torch.randn(3000, 4, 4, 4) + 0.8 * torch.randn(3000, 1, 1, 1) + 0.3
    model = nn.Sequential(layer, nn.Flatten())
    covariances = input_covariances(model, images[1500:].split(300))
    (found,) = inspect(model, labelled(images[:1500], 300), covariances=covariances).layers
    for family in FAMILIES:
        products = getattr(found, family)
        assert products.predicted_pearson_r == pytest.approx(products.pearson_r, abs=0.015), family


def test_groups_of_similar_inputs_matter():
    """Two far groups: the law for one normal is off, that for a mixture is not."""
    torch.manual_seed(5)
    layer = QuantLinear(40, 8, bias=False, input_quantizer=Sign(), weight_quantizer=Sign())

    def draw(n):
        return torch.randn(n, 40) + 1.5 * torch.sign(torch.randn(n, 1)) * torch.linspace(0, 2, 40)

    covariance = input_covariances(layer, [draw(8000)]).layers[""]
    x = draw(20_000)
    with torch.no_grad():
        real, quantized = (layer.product(z, layer.effective_weight()).T.numpy() for z in (x, Sign()(x)))
    measured = [np.corrcoef(u, v)[0, 1] for u, v in zip(real, quantized, strict=True)]
    predicted = predict(covariance)["activations_binarized"].per_filter
    assert np.abs(predicted - measured).max() < 0.02


def test_the_jackknife_is_its_definition():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(210, 3, generator=generator)
    y = x + torch.randn(210, 3, generator=generator)
    sums = ProductSums(3, {"it": ("x", "y")})
    for start, stop in ((0, 8), (8, 21), (21, 105)):  # images, of two rows each
        sums.update({"x": x[2 * start : 2 * stop], "y": y[2 * start : 2 * stop]}, images=stop - start)
    pooled, _, error = sums.correlation("it")
    groups = np.arange(210) // 2 // 5 % 20  # five images at a time
    each = [np.corrcoef(x[groups != g].numpy().ravel(), y[groups != g].numpy().ravel())[0, 1] for g in range(20)]
    assert pooled == pytest.approx(np.corrcoef(x.numpy().ravel(), y.numpy().ravel())[0, 1], abs=1e-6)
    assert error == pytest.approx(math.sqrt(19 / 20 * np.var(each) * 20), rel=1e-4)
    halves = [ProductSums(3, {"it": ("x", "y")}) for _ in range(2)]
    halves[0].update({"x": x[:100], "y": y[:100]}, images=50)
    halves[1].update({"x": x[100:], "y": y[100:]}, images=55)
    halves[0].merge(halves[1])
    assert halves[0].correlation("it")[0] == pytest.approx(pooled, abs=1e-7)


def test_the_error_is_the_spread_of_repeated_samples():
    torch.manual_seed(0)
    found = []
    for _ in range(60):
        x = torch.randn(200, 4)
        sums = ProductSums(4, {"it": ("x", "y")})
        sums.update({"x": x, "y": x + torch.randn(200, 4)}, images=200)
        found.append(sums.correlation("it"))
    spread = np.std([pooled for pooled, _, _ in found])
    assert np.mean([error for _, _, error in found]) == pytest.approx(spread, rel=0.3)


def test_a_what_if_for_inputs_is_measured():
    """Another input quantizer, in all three families, against a layer that has it."""
    torch.manual_seed(2)
    layer = QuantLinear(60, 10, bias=False, input_quantizer=Sign(), weight_quantizer=Sign())
    found = input_covariances(layer, [correlated(20_000, 60)]).layers[""]
    (row,) = what_if(found, {"ternary": Ternary(0.01)}, inputs=Ternary(0.6))
    other = QuantLinear(60, 10, bias=False, input_quantizer=Ternary(0.6), weight_quantizer=Ternary(0.01))
    other.load_state_dict(layer.state_dict())
    (measured,) = inspect(other, labelled(correlated(20_000, 60), 5000)).layers
    for field, family in zip(("pearson_r", "activations_pearson_r", "both_pearson_r"), FAMILIES, strict=True):
        np.testing.assert_allclose(getattr(row, field), getattr(measured, family).pearson_r_per_filter, atol=0.02)


def test_a_what_if_for_weights_has_all_families():
    layer = QuantLinear(60, 10, bias=False, input_quantizer=Sign(), weight_quantizer=Sign())
    found = input_covariances(layer, [correlated(5000, 60)]).layers[""]
    (row,) = what_if(found, {"its own": Sign()})
    own = predict(found)
    for field, family in zip(("pearson_r", "activations_pearson_r", "both_pearson_r"), FAMILIES, strict=True):
        np.testing.assert_allclose(getattr(row, field), own[family].per_filter, atol=0.01)


def test_quantizers_are_read_as_steps():
    (steps,) = input_steps(QuantLinear(3, 1, input_quantizer=Halves()), 4.0)
    np.testing.assert_allclose(steps.thresholds, [[-0.75, -0.25, 0.25, 0.75]], atol=1e-5)
    assert steps.levels.tolist() == [[-1, -0.5, 0, 0.5, 1]]
    shifts = torch.tensor([0.0, 1.0])
    found = steps_of(lambda x: torch.where(x >= shifts, 1.0, -1.0), 2, 3.0, shifts)
    for channel, shift in enumerate(shifts.tolist()):  # channels share the places of steps; some steps are none
        at = np.searchsorted(found.thresholds[channel], [shift - 0.01, shift + 0.01])
        assert found.levels[channel][at].tolist() == [-1, 1]
    assert steps_of(lambda x: x.sign() * x.abs().mean(), 1, 3.0, shifts) is None  # depends on the others


def test_an_unknown_rule_has_no_prediction():
    class Relative(Quantizer):
        def round(self, x):
            return x.sign() * (x.abs() > x.abs().mean())

    layer = QuantLinear(30, 4, input_quantizer=Relative(), weight_quantizer=Sign())
    x = torch.randn(200, 30)
    (found,) = inspect(layer, labelled(x), covariances=input_covariances(layer, [x])).layers
    assert math.isnan(found.both_binarized.predicted_pearson_r)
    assert math.isfinite(found.both_binarized.training_pearson_r)
    assert math.isfinite(found.weights_binarized.predicted_pearson_r)


def test_a_sample_does_not_depend_on_the_chunks():
    stream = torch.randn(2, 3, 5000)
    one, many = VectorSample(40), VectorSample(40)
    one.update(stream)
    for part in stream.split(77, dim=2):
        many.update(part)
    assert torch.equal(one.places, many.places)
    assert torch.equal(one.vectors, many.vectors)
    assert torch.equal(one.vectors, stream[:, :, one.places])
    assert 40 <= len(one.places) <= 80
    assert one.places.diff().max() < 3 * 5000 / len(one.places)
