import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from hypersign._checks import HypersignError
from hypersign.geometry import Geometry, inspect
from hypersign.layers import QuantConv1d, QuantConv2d, QuantLinear
from hypersign.quantizers import Identity, MeanScale, Optimal, Sign, Ternary


def _batches(oracle, n, size):
    return list(zip(oracle.images[:n].split(size), oracle.labels[:n].split(size), strict=True))


@pytest.fixture(scope="module")
def found(oracle) -> Geometry:
    return inspect(oracle.model, _batches(oracle, 8, 3), name="oracle", dataset="blobs")


def _pairs(oracle, family, layer):
    names = {
        "weights_binarized": ("ab_dot_wb", "ab_dot_wc"),
        "activations_binarized": ("ac_dot_wb", "ab_dot_wb"),
        "both_binarized": ("ac_dot_wc", "ab_dot_wb"),
    }[family]
    x, y = (oracle.arrays[f"{name}/{layer}"] for name in names)
    filters = x.shape[-1]
    return x.reshape(-1, filters).astype(float), y.reshape(-1, filters).astype(float)


@pytest.mark.parametrize("layer", [1, 2])
@pytest.mark.parametrize("family", ["weights_binarized", "activations_binarized", "both_binarized"])
def test_dot_product_families_are_the_originals(oracle, found, family, layer):
    ours = getattr(found.layers[layer - 1], family)
    x, y = _pairs(oracle, family, layer)
    line = stats.linregress(x.ravel(), y.ravel())
    assert ours.pearson_r == pytest.approx(line.rvalue, abs=1e-6)
    assert ours.slope == pytest.approx(line.slope, rel=1e-5)
    assert ours.intercept == pytest.approx(line.intercept, abs=1e-5)
    per_filter = [stats.pearsonr(x[:, i], y[:, i]).statistic for i in range(x.shape[1])]
    np.testing.assert_allclose(ours.pearson_r_per_filter, per_filter, atol=2e-6)
    # A product within rounding of 0 may fall on either side; anything else must be counted the same.
    disagreements = ((x < 0) != (y < 0)).sum()
    ties = ((np.abs(x) < 1e-5) & (x != 0) | (np.abs(y) < 1e-5) & (y != 0)).sum()
    assert abs(ours.sign_disagreement * x.size - disagreements) <= ties + 1e-6
    assert np.sum(ours.histogram.counts) == x.size


def test_angles_and_levels_are_the_originals(oracle, found):
    for layer, name in zip(found.layers, ("conv1", "conv2", "fc1", "fc2"), strict=True):
        wc, wb = (oracle.arrays[f"{name}/{k}"].reshape(-1, layer.filters).astype(float) for k in ("wc", "wb"))
        cosine = (wc * wb).sum(0) / np.sqrt((wc**2).sum(0) * (wb**2).sum(0))
        np.testing.assert_allclose(layer.angle_degrees.per_filter, np.degrees(np.arccos(cosine)), atol=1e-6)
        for level, share in layer.level_shares.items():
            assert share == np.mean(wb == float(level))
        assert layer.latent_weights.std == pytest.approx(wc.std(), rel=1e-6)
    assert [layer.fan_in for layer in found.layers] == [27, 144, 1152, 24]
    assert [layer.kind for layer in found.layers] == ["QuantConv2d"] * 2 + ["QuantLinear"] * 2


def test_logits_and_accuracy_are_the_originals(oracle):
    with torch.no_grad():
        logits = oracle.model(oracle.images).numpy()
    np.testing.assert_allclose(logits, oracle.arrays["logits"], atol=1e-4)
    everything = inspect(oracle.model, _batches(oracle, 40, 16), name="oracle", dataset="blobs")
    assert everything.images == 40
    assert everything.accuracy == np.mean(oracle.arrays["pred"] == oracle.arrays["y"])


def test_theory_meets_independent_weights_and_inputs():
    # Gaussian weights, Gaussian inputs: every prediction holds, up to sampling error.
    torch.manual_seed(0)
    for quantizer in (Sign(), Ternary(0.5), Ternary(0.612)):
        layer = QuantLinear(400, 60, bias=False, input_quantizer=quantizer, weight_quantizer=quantizer)
        nn.init.normal_(layer.weight)
        batches = [(torch.randn(500, 400), torch.zeros(500, dtype=torch.long)) for _ in range(4)]
        (result,) = inspect(nn.Sequential(layer), batches).layers
        for family in ("weights_binarized", "activations_binarized", "both_binarized", "permuted"):
            found = getattr(result, family)
            assert found.pearson_r == pytest.approx(found.independent_pearson_r, abs=0.008), (quantizer, family)
            assert found.sign_disagreement == pytest.approx(found.predicted_sign_disagreement, abs=0.008)
            assert np.mean(found.pearson_r_per_filter) == pytest.approx(found.pearson_r, abs=0.01)


def test_correlated_inputs_lower_r_and_permutation_restores_it():
    # theory.md, section 4: a bright component v lowers r of zero-mean filters at d = 27 from .80 to .6 or so
    torch.manual_seed(0)
    layer = QuantLinear(27, 64, bias=False, weight_quantizer=Sign())
    with torch.no_grad():
        nn.init.normal_(layer.weight)
        layer.weight -= layer.weight.mean(1, keepdim=True)
    x = torch.randn(3000, 27) + 100**0.5 * torch.randn(3000, 1) / 27**0.5 * 1.0
    (result,) = inspect(nn.Sequential(layer), [(x, torch.zeros(3000, dtype=torch.long))]).layers
    found, permuted = result.weights_binarized, result.permuted
    assert np.mean(found.pearson_r_per_filter) < 0.72
    assert np.mean(permuted.pearson_r_per_filter) == pytest.approx(found.independent_pearson_r, abs=0.02)


class _Everything(nn.Module):
    """Every kind of layer and quantizer, inputs of 2, 3 and 4 dimensions, groups, strides, scales and biases."""

    def __init__(self):
        super().__init__()
        self.grouped = QuantConv2d(
            4, 6, 3, stride=2, padding=1, groups=2, pad_value=1,
            input_quantizer=Sign(), weight_quantizer=Ternary(Optimal(), scale=MeanScale()),
        )  # fmt: skip
        self.sequence = QuantConv1d(6, 5, 3, bias=False, input_quantizer=Ternary(0.3), weight_quantizer=Identity())
        self.tokens = QuantLinear(5, 7, weight_quantizer=Sign(scale=MeanScale()))
        self.classes = QuantLinear(7, 3, bias=False, input_quantizer=Sign(), weight_quantizer=Sign())

    def forward(self, x):
        x = self.grouped(x).flatten(2)  # (N, 6, positions)
        x = self.sequence(x)  # (N, 5, positions)
        x = self.tokens(x.transpose(1, 2))  # (N, positions, 7)
        return self.classes(x.mean(1))


def test_every_layer_kind_against_a_plain_writing():
    torch.manual_seed(0)
    model = _Everything().train()
    images, labels = torch.randn(12, 4, 8, 8), torch.arange(12) % 3
    inputs = {}
    hooks = [
        module.register_forward_hook(lambda m, args, y, name=name: inputs.update({name: args[0]}))
        for name, module in model.named_children()
    ]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    result = inspect(model, zip(images.split(5), labels.split(5), strict=True), name="r", dataset="d")
    assert [layer.name for layer in result.layers] == ["grouped", "sequence", "tokens", "classes"]
    for layer in result.layers:
        module = model.get_submodule(layer.name)
        with torch.no_grad():
            ac, wc = inputs[layer.name], module.weight
            ab, wb = module.input_quantizer(ac), module.quantized_weight()
            axis = -1 if isinstance(module, QuantLinear) else 1
            bb, bc, cb, cc = (
                module.product(a, w).movedim(axis, -1).reshape(-1, module.filters).double().numpy()
                for a, w in ((ab, wb), (ab, wc), (ac, wb), (ac, wc))
            )
        for family, x, y in (("weights", bb, bc), ("activations", cb, bb), ("both", cc, bb)):
            found = getattr(layer, f"{family}_binarized")
            assert found.pearson_r == pytest.approx(np.corrcoef(x.ravel(), y.ravel())[0, 1], abs=1e-6)
            assert found.slope == pytest.approx(np.polyfit(x.ravel(), y.ravel(), 1)[0], rel=1e-5)
            assert found.sign_disagreement == pytest.approx(np.mean((x < 0) != (y < 0)), abs=2e-3)
    assert result.layers[1].angle_degrees.mean == 0
    assert result.layers[1].weights_binarized.pearson_r == pytest.approx(1)
    assert result.layers[2].activations_binarized.independent_pearson_r == 1
    assert result.layers[2].activations_binarized.slope == pytest.approx(1)
    assert set(result.layers[0].level_shares) == {"-1", "0", "+1"}


def test_results_do_not_depend_on_the_batches(oracle):
    one = inspect(oracle.model, _batches(oracle, 40, 40))
    many = inspect(oracle.model, _batches(oracle, 40, 7))
    for a, b in zip(one.layers, many.layers, strict=True):
        for family in ("weights_binarized", "activations_binarized", "both_binarized"):
            assert getattr(a, family).pearson_r == pytest.approx(getattr(b, family).pearson_r, abs=1e-6)
            assert getattr(a, family).sign_disagreement == pytest.approx(
                getattr(b, family).sign_disagreement, abs=1e-4
            )


def test_the_seed_fixes_everything():
    torch.manual_seed(0)
    model = nn.Sequential(QuantLinear(30, 4, weight_quantizer=Sign()))
    batches = [(torch.randn(50, 30), torch.zeros(50, dtype=torch.long))]
    first, again, other = (inspect(model, batches, seed=s) for s in (0, 0, 1))
    assert first == again
    assert first.layers[0].permuted != other.layers[0].permuted
    assert first.layers[0].weights_binarized == other.layers[0].weights_binarized


def test_double_precision():
    model = nn.Sequential(QuantLinear(9, 4, input_quantizer=Sign(), weight_quantizer=Sign())).double()
    (layer,) = inspect(model, [(torch.randn(20, 9), torch.zeros(20).long())]).layers
    assert np.isfinite(layer.both_binarized.pearson_r)


def test_zero_filters_are_reported_not_hidden():
    model = nn.Sequential(QuantLinear(9, 4, bias=False, weight_quantizer=Ternary(0.5)))
    with torch.no_grad():
        model[0].weight.normal_()
        model[0].weight[2] = 0
    (layer,) = inspect(model, [(torch.randn(20, 9), torch.zeros(20).long())]).layers
    assert np.isnan(layer.angle_degrees.per_filter).tolist() == [False, False, True, False]
    assert np.isnan(layer.weights_binarized.pearson_r_per_filter).tolist() == [False, False, True, False]
    assert np.isfinite([layer.angle_degrees.mean, layer.angle_degrees.std, layer.weights_binarized.pearson_r]).all()


def test_a_network_that_is_all_zero():
    model = nn.Sequential(QuantLinear(9, 1, bias=False, weight_quantizer=Ternary(0.5)))
    nn.init.zeros_(model[0].weight)
    (layer,) = inspect(model, [(torch.randn(20, 9), torch.zeros(20).long())]).layers
    assert np.isnan([layer.angle_degrees.mean, layer.weights_binarized.pearson_r, layer.permuted.slope]).all()
    assert layer.weights_binarized.sign_disagreement == 0


def test_bad_input_is_named():
    model = nn.Sequential(QuantLinear(4, 3, weight_quantizer=Sign()))
    batch = torch.randn(5, 4), torch.zeros(5).long()
    with pytest.raises(HypersignError, match="at least one example"):
        inspect(model, [])
    with pytest.raises(HypersignError, match="must have quantized layers"):
        inspect(nn.Sequential(nn.Linear(4, 3)), [batch])
