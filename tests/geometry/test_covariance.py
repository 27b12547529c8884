import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import linalg
from torch import nn
from torch.nn import functional as F

from hypersign import theory
from hypersign._checks import HypersignError
from hypersign.geometry import covariance, inspect
from hypersign.geometry.covariance import (
    CovarianceAccumulator,
    LayerCovariance,
    LloydMax,
    effective_dimension,
    input_covariances,
    input_patches,
    predicted_r,
    spectrum,
    what_if,
    what_if_table,
)
from hypersign.geometry.covariance.convolutions import add_inputs
from hypersign.geometry.covariance.sample import VectorSample
from hypersign.layers import QuantConv1d, QuantConv2d, QuantLinear
from hypersign.quantizers import GroupScaled, MeanScale, Optimal, Rotated, Sign, Ternary
from hypersign.rotations import HaarRotation, HadamardRotation


def planted(c: np.ndarray, weights: np.ndarray, levels: np.ndarray | None = None) -> LayerCovariance:
    """A layer with this covariance of its inputs (one group), and no mean."""
    c = np.asarray(c, dtype=float)
    weights = np.asarray(weights, dtype=float)
    return LayerCovariance(
        "layer", "Linear", 1, np.zeros((1, len(c))), c[None], weights, weights if levels is None else levels
    )


def inputs_of(c: np.ndarray, mean: np.ndarray) -> torch.Tensor:
    """2d inputs whose covariance is exactly C: the mean plus and minus each column of a root of d C."""
    root = np.linalg.cholesky(len(c) * np.asarray(c, dtype=float)).T
    return torch.tensor(np.concatenate([mean + root, mean - root]))


CONVOLUTIONS = {
    "plain": dict(kernel_size=3),
    "padded": dict(kernel_size=3, padding=1),
    "ones around": dict(kernel_size=(3, 2), padding=(2, 1), pad_value=1),
    "strided": dict(kernel_size=3, padding=1, stride=(2, 3)),
    "dilated": dict(kernel_size=(2, 3), dilation=(3, 2)),
    "same": dict(kernel_size=(5, 3), padding="same"),
    "reflected": dict(kernel_size=3, padding=2, padding_mode="reflect"),
    "circular": dict(kernel_size=3, padding=1, padding_mode="circular"),
    "grouped": dict(kernel_size=3, padding=1, groups=2, stride=2),
    "one by one": dict(kernel_size=1),
}


@pytest.mark.parametrize("numbers", [1 << 21, 200], ids=["at once", "row by row"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_patches_times_filters_are_the_product(name, numbers, monkeypatch):
    monkeypatch.setattr(covariance.patches, "NUMBERS", numbers)
    torch.manual_seed(0)
    layer = QuantConv2d(4, 6, bias=False, **CONVOLUTIONS[name]).double()
    x = torch.randn(5, 4, 9, 8, dtype=torch.float64)
    expected = layer.product(x, layer.weight).transpose(0, 1).flatten(1)  # (filters, everything)
    chunks = list(input_patches(layer, x))
    filters = layer.weight.view(layer.groups, -1, layer.fan_in)
    found = torch.cat([(filters @ chunk).flatten(0, 1) for chunk in chunks], dim=1)
    # chunks go through the images in order only if whole images are in each: compare as sets of columns
    assert found.shape == expected.shape
    order, wanted = (np.lexsort(values.detach().numpy()) for values in (found, expected))
    np.testing.assert_allclose(found.detach().numpy()[:, order], expected.detach().numpy()[:, wanted], atol=1e-12)
    assert len(chunks) == 1 or numbers == 200


@pytest.mark.parametrize("shape", [(5, 4, 11), (4, 11)], ids=["batch", "single"])
def test_patches_of_one_dimension(shape):
    torch.manual_seed(0)
    layer = QuantConv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2, pad_value=1, bias=False)
    x = torch.randn(shape)
    (patches,) = input_patches(layer, x)
    expected = layer.product(x, layer.weight).view(-1, 6, 6).transpose(0, 1).flatten(1)
    found = (layer.weight.view(2, 3, -1) @ patches).flatten(0, 1)
    np.testing.assert_allclose(found.detach(), expected.detach(), atol=1e-6)


@pytest.mark.parametrize("levels", [False, True])
@pytest.mark.parametrize("numbers", [1 << 21, 200], ids=["at once", "row by row"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_sums_over_rows_are_those_of_patches(name, numbers, levels, monkeypatch):
    monkeypatch.setattr(covariance.patches, "NUMBERS", numbers)
    torch.manual_seed(0)
    layer = QuantConv2d(4, 6, bias=False, **CONVOLUTIONS[name])
    x = torch.randn(7, 4, 12, 11) + 0.5
    x = x.sign() if levels else x
    kinds = [CovarianceAccumulator(layer.groups, layer.fan_in, levels=levels) for _ in range(2)]
    samples = [VectorSample(30) for _ in range(2)]
    for part in x.split(3):
        add_inputs(layer, part, kinds[0], samples[0])
        for patches in input_patches(layer, part):
            kinds[1].update(patches)
            samples[1].update(patches)
    assert kinds[0].count == kinds[1].count
    for first, second in zip(*(sums.result() for sums in kinds), strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-12, atol=1e-13)
    assert torch.equal(samples[0].places, samples[1].places)
    assert torch.equal(samples[0].vectors, samples[1].vectors)


def test_a_constant_input_inside_padding_has_no_variance_at_all():
    layer = QuantConv2d(1, 1, 3, padding=1)
    sums = CovarianceAccumulator(1, 9)
    for n in (3, 2):
        add_inputs(layer, torch.full((n, 1, 8, 8), 0.1), sums, VectorSample(4))
    assert sums.result()[1][0, 4, 4] == 0  # the middle of the kernel never meets the padding


def test_patches_are_copies():
    layer, x = nn.Linear(3, 2), torch.ones(4, 3)
    (patches,) = input_patches(layer, x)
    x.zero_()
    assert patches.min() == 1


@pytest.mark.parametrize("levels", [False, True])
@pytest.mark.parametrize(("groups", "d"), [(1, 1), (1, 63), (3, 65), (1, 600)])
def test_the_accumulator_is_numpys_covariance(groups, d, levels):
    torch.manual_seed(0)
    x = torch.randn(groups, d, 300) * 2 + 1
    x = x.sign() if levels else x
    sums = CovarianceAccumulator(groups, d, levels=levels)
    for part in x.split(77, dim=2):
        sums.update(part)
        sums._reduce()
    mean, c = sums.result()
    for g in range(groups):
        exact = x[g].double().numpy()
        np.testing.assert_allclose(mean[g], exact.mean(1), atol=1e-13)
        np.testing.assert_allclose(c[g], np.cov(exact, bias=True).reshape(d, d), atol=1e-12)
        assert (c[g] == c[g].T).all()


def test_a_large_mean_costs_no_digits():
    torch.manual_seed(0)
    x = torch.randn(1, 3, 1000, dtype=torch.float64)
    sums = CovarianceAccumulator(1, 3)
    for part in (x + 1e8).split(100, dim=2):
        sums.update(part)
        sums._reduce()
    np.testing.assert_allclose(sums.result()[1][0], np.cov(x[0].numpy(), bias=True), rtol=1e-6)


def test_constant_inputs_have_no_variance_at_all():
    for levels, value in ((False, 0.1), (True, -1.0)):
        sums = CovarianceAccumulator(1, 2, levels=levels)
        for n in (7, 1000, 3):
            sums.update(torch.stack([torch.full((n,), value), torch.randn(n).sign()])[None])
            sums._reduce()
        c = sums.result()[1][0]
        assert c[0].tolist() == [0.0, 0.0]
        assert c[1, 1] > 0.5


def test_accumulators_add_up():
    torch.manual_seed(0)
    x = torch.randn(2, 5, 100)
    first, second, empty = (CovarianceAccumulator(2, 5) for _ in range(3))
    first.update(x[..., :30])
    second.update(x[..., 30:])
    first.merge(second)
    first.merge(empty)
    assert first.count == 100
    np.testing.assert_allclose(first.result()[1][1], np.cov(x[1].double().numpy(), bias=True), atol=1e-14)
    with pytest.raises(HypersignError, match="agree in groups and dimension"):
        empty.merge(CovarianceAccumulator(1, 5))
    with pytest.raises(HypersignError, match="at least one vector"):
        empty.result()


class _Everything(nn.Module):
    """Every kind of layer: quantized and plain, groups, strides, padding with ones, scales and biases."""

    def __init__(self):
        super().__init__()
        self.plain = nn.Conv2d(3, 4, 3, padding=1)
        self.grouped = QuantConv2d(
            4, 6, 3, stride=2, padding=1, groups=2, pad_value=1,
            input_quantizer=Sign(), weight_quantizer=Ternary(Optimal(), scale=MeanScale()),
        )  # fmt: skip
        self.sequence = QuantConv1d(6, 5, 3, padding=1, input_quantizer=Ternary(0.3), weight_quantizer=Sign())
        self.tokens = QuantLinear(5, 7, weight_quantizer=Sign(scale=MeanScale()))
        self.norm = nn.BatchNorm1d(7)
        self.classes = QuantLinear(7, 3, bias=False, input_quantizer=Sign(), weight_quantizer=Sign())

    def forward(self, x):
        x = self.grouped(self.plain(x)).flatten(2)  # (N, 6, positions)
        x = self.tokens(input=self.sequence(x).transpose(1, 2))  # (N, positions, 7)
        return self.classes(self.norm(x.mean(1)))


@pytest.fixture(scope="module")
def everything():
    torch.manual_seed(0)
    model = _Everything()
    images = torch.randn(60, 3, 9, 8) + 0.5
    with torch.no_grad():
        model(images)  # batch norm meets data once
    return model, images, torch.arange(60) % 3


def test_prediction_on_the_same_images_is_the_measurement(everything):
    model, images, labels = everything
    batches = list(zip(images.split(16), labels.split(16), strict=True))
    found = input_covariances(model, batches)
    assert list(found.layers) == ["plain", "grouped", "sequence", "tokens", "classes"]
    assert (found.images, found.unmeasured) == (60, {})
    for layer in inspect(model, batches).layers:
        predicted = predicted_r(found.layers[layer.name])
        np.testing.assert_allclose(predicted, layer.weights_binarized.pearson_r_per_filter, atol=1e-5)
        assert layer.fan_in == found.layers[layer.name].fan_in


def test_quantizers_of_a_float_layer_are_measured_as_predicted():
    """Every kind of what-if against the correlation and the signs of dot products in float64."""
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 8, 3)
    images = torch.randn(400, 3, 6, 6) + 2 * torch.randn(400, 1, 1, 1) + 0.3
    quantizers = {
        "sign": Sign(),
        "fixed threshold": Ternary(0.08),
        "best threshold": Ternary(Optimal()),
        "levels": LloydMax(5),
        "groups": GroupScaled(Sign(), 4),
        "haar": Rotated(Sign(), HaarRotation(27, seed=1)),
        "hadamard": Rotated(Ternary(0.1), HadamardRotation(27, rounds=2, seed=3)),
    }
    found = what_if(input_covariances(layer, [images]).layers[""], quantizers)
    assert [row.quantizer for row in found] == list(quantizers)
    weights = layer.weight.detach().double()
    x = F.conv2d(images.double(), weights).transpose(0, 1).flatten(1).numpy()
    for row in found:
        values = quantizers[row.quantizer](weights.flatten(1))
        y = F.conv2d(images.double(), values.view_as(weights)).transpose(0, 1).flatten(1).numpy()
        for f in range(8):
            assert row.pearson_r[f] == pytest.approx(np.corrcoef(x[f], y[f])[0, 1], abs=1e-9)
            assert row.sign_flip_share[f] == pytest.approx(np.mean((x[f] < 0) != (y[f] < 0)), abs=0.03)
        cosine = (weights.flatten(1) * values).sum(1) / weights.flatten(1).norm(dim=1) / values.norm(dim=1)
        np.testing.assert_allclose(np.cos(np.radians(row.angle_degrees)), cosine.numpy(), atol=1e-9)


def test_levels_of_what_ifs():
    x = torch.tensor([[3.0, -1.0, 0.5, 0.2, -0.1], [1.0, 1.0, -2.0, 0.0, 0.0]], dtype=torch.float64)
    groups = GroupScaled(Sign(), 2)(x)
    np.testing.assert_allclose(groups, [[2.0, -2.0, 0.35, 0.35, -0.1], [1.0, 1.0, -1.0, 1.0, 0.0]], atol=1e-15)
    assert LloydMax(2)(x)[1].sign().tolist() == [1, 1, -1, 1, 1]  # the sign of 0 is +1
    for k in (2, 3, 4, 7):
        x = x[:1]
        law, sigma = theory.lloyd_max(k), x.square().mean(1, keepdim=True).sqrt()
        nearest = np.abs((x / sigma).numpy()[..., None] - np.array(law.levels)).argmin(-1)
        np.testing.assert_allclose(LloydMax(k)(x), sigma.numpy() * np.array(law.levels)[nearest])
    assert LloydMax(3)(torch.zeros(1, 2)).tolist() == [[0, 0]]
    for wrong in (0, 1.5, True):
        with pytest.raises(HypersignError, match="must be an integer"):
            LloydMax(wrong)


def test_a_planted_covariance_gives_exactly_its_r_and_flips():
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((6, 6))
    c, mean = mixing @ mixing.T + np.eye(6), rng.standard_normal(6)
    model = nn.Linear(6, 5).double()
    found = input_covariances(model, inputs_of(c, mean).split(3)).layers[""]
    np.testing.assert_allclose(found.covariance[0], c, atol=1e-12)
    np.testing.assert_allclose(found.mean[0], mean, atol=1e-12)
    found = dataclasses.replace(found, sample=found.sample[:, :, :0])  # without one, flips are the normal's
    (row,) = what_if(found, {"sign": Sign()})
    w = model.weight.detach().numpy()
    for f, b in enumerate(np.sign(w)):
        variance, other = w[f] @ c @ w[f], b @ c @ b
        r = w[f] @ c @ b / math.sqrt(variance * other)
        assert row.pearson_r[f] == pytest.approx(r, abs=1e-12)
        flips = theory.sign_flip_share(r, w[f] @ mean / math.sqrt(variance), b @ mean / math.sqrt(other))
        assert row.sign_flip_share[f] == pytest.approx(flips, abs=1e-9)


def test_known_answers():
    # Along the shared component (1, 1, 1, 1) filter and sign agree; across it the sign brings what the filter avoids.
    c = np.eye(4) + 9 * np.ones((4, 4))
    row = what_if(planted(c, [[1, 1, 1, 1], [3, -1, -1, -1]]), {"sign": Sign()})[0]
    assert row.pearson_r[0] == pytest.approx(1)
    assert row.angle_degrees[0] == pytest.approx(0, abs=1e-6)
    assert row.pearson_r[1] == pytest.approx(6 / math.sqrt(12 * (4 + 9 * 4)))
    assert row.angle_degrees[1] == pytest.approx(30)
    assert row.sign_flip_share[1] == pytest.approx(math.acos(row.pearson_r[1]) / math.pi)
    assert effective_dimension(planted(c, np.eye(4))) == pytest.approx(40**2 / (4 * 100 + 12 * 81))


def test_inputs_of_one_variance_give_the_cosine():
    weights = np.random.default_rng(0).standard_normal((20, 65))
    (row,) = what_if(planted(3 * np.eye(65), weights), {"sign": Sign()})
    np.testing.assert_allclose(row.pearson_r, np.cos(np.radians(row.angle_degrees)), atol=1e-12)
    assert np.mean(row.pearson_r) == pytest.approx(
        theory.sign_cosine(65), abs=4 * theory.sign_cosine_std(65) / 20**0.5
    )


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_a_planted_rank(rank):
    rng = np.random.default_rng(rank)
    basis = linalg.qr(rng.standard_normal((8, 8)))[0]
    c = 2 * basis[:, :rank] @ basis[:, :rank].T
    filters = np.stack([basis[:, 0] * 3, basis[:, -1], np.zeros(8), np.full(8, np.nan)])
    layer = planted(c, filters)
    found = spectrum(layer)
    assert effective_dimension(layer) == pytest.approx(rank)
    np.testing.assert_allclose(found.eigenvalues[0], [2] * rank + [0] * (8 - rank), atol=1e-12)
    assert found.variance_share(rank) == pytest.approx(1)
    energy = found.weight_energy(rank)
    np.testing.assert_allclose(energy[:2], [1, 1 if rank == 8 else 0], atol=1e-12)
    assert np.isnan(energy[2:]).all()
    np.testing.assert_allclose(
        found.components[0].T @ np.diag(found.eigenvalues[0]) @ found.components[0], c, atol=1e-12
    )
    np.testing.assert_allclose(found.alignment[:2], filters[:2] / [[3], [1]] @ found.components[0].T, atol=1e-12)


def test_groups_have_spectra_of_their_own():
    torch.manual_seed(0)
    layer = nn.Conv1d(4, 6, 1, groups=2)
    x = torch.randn(500, 4, 3)
    x[:, 0] *= 5
    found = input_covariances(layer, [x]).layers[""]
    assert (found.groups, found.filters, found.fan_in, found.patches) == (2, 6, 2, 1500)
    for g in range(2):
        c = np.cov(x[:, 2 * g : 2 * g + 2].transpose(0, 1).flatten(1).double().numpy(), bias=True)
        np.testing.assert_allclose(found.covariance[g], c, atol=1e-12)
        np.testing.assert_allclose(spectrum(found).eigenvalues[g], np.linalg.eigvalsh(c)[::-1])
    assert 1 < effective_dimension(found) < 2
    alignment = spectrum(found).alignment
    np.testing.assert_allclose((alignment**2).sum(1), 1)


def test_what_cannot_be_told_is_nan():
    c = np.diag([1.0, 2.0, 0.0])  # the last input is dead
    filters = [[1, 2, 3], [0, 0, 0], [0, 0, 1], [np.nan, 1, 1], [1, 1, 0]]
    row = what_if(planted(c, filters), {"sign": Sign()})[0]
    assert np.isnan(row.pearson_r).tolist() == [False, True, True, True, False]
    assert np.isnan(row.angle_degrees).tolist() == [False, True, False, True, False]
    assert np.isnan(row.sign_flip_share).tolist() == [False, True, True, True, False]
    assert row.median("pearson_r") == pytest.approx(np.mean([row.pearson_r[0], row.pearson_r[4]]))
    dead = planted(np.zeros((3, 3)), filters)
    assert np.isnan(what_if(dead, {"sign": Sign()})[0].median("pearson_r"))
    assert np.isnan([effective_dimension(dead), spectrum(dead).variance_share(1)]).all()
    # products that cancel up to rounding do not vary: inputs that are always the same, filters of sum 0
    same = planted(np.full((3, 3), 0.1), [[0.1, 0.2, -0.3], [1, 1, 1]])
    assert np.isnan(what_if(same, {"same": lambda w: w})[0].pearson_r).tolist() == [True, False]
    one = planted([[2.0]], [[-0.5], [0.25]])
    assert what_if(one, {"sign": Sign()})[0].pearson_r == (1, 1)


def test_a_quantizer_of_another_shape():
    with pytest.raises(HypersignError, match=r"keep the shape \(2, 2\) of the filters; half returned \(2, 1\)"):
        what_if(planted(np.eye(2), np.eye(2)), {"half": lambda w: w[:, :1]})


def test_the_usual_table():
    rng = np.random.default_rng(0)
    for d in (1, 2, 27, 100):
        rows = what_if(planted(np.eye(d), rng.standard_normal((4, d))))
        table = what_if_table(rows)
        assert table.row_count == len(rows) == 6 + (d > 8) + (d > 64)
    r = {row.quantizer: row.median("pearson_r") for row in rows}
    assert r["sign"] < r["ternary, best threshold"] < r["4 levels"] < r["8 levels"] < 1


def test_rotation_restores_filters_along_few_inputs():
    # Filters with a few large weights: the sign is far off, in a rotated frame at 37 degrees.
    filters = np.random.default_rng(0).standard_normal((50, 64)) * np.exp(-0.3 * np.arange(64))
    plain, rotated = what_if(
        planted(np.eye(64), filters), {"plain": Sign(), "rotated": Rotated(Sign(), HadamardRotation(64, seed=1))}
    )
    assert plain.median("pearson_r") < 0.5
    assert rotated.median("pearson_r") == pytest.approx(theory.sign_cosine(64), abs=0.02)


def test_continuous_inputs_on_request(everything):
    model, images, _ = everything
    found = input_covariances(model, [images], continuous=True).layers["grouped"]
    with torch.no_grad():
        x = F.pad(model.plain(images), (1, 1, 1, 1), value=1.0).double()
    patches = F.unfold(x, 3, stride=2).transpose(0, 1).flatten(1).view(2, 18, -1).numpy()
    np.testing.assert_allclose(found.covariance[1], np.cov(patches[1], bias=True), atol=1e-10)
    np.testing.assert_allclose(found.mean, patches.mean(2), atol=1e-10)
    levels = input_covariances(model, [images]).layers["grouped"]
    assert levels.mean.max() <= 1
    assert not np.allclose(levels.covariance, found.covariance)


def test_results_do_not_depend_on_the_batches_or_on_where_they_are_kept(everything, monkeypatch):
    model, images, _ = everything
    mapped = []
    make = covariance.accumulator._mapped
    monkeypatch.setattr(
        covariance.accumulator, "_mapped", lambda shape, dtype: mapped.append(shape) or make(shape, dtype)
    )
    one = input_covariances(model, [images])
    assert not mapped
    # The smallest are kept in memory, as many as fit: those of fan-in 5 and 7 and of 18, not of 27 and of 2 x 18.
    for other in (
        input_covariances(model, images.split(7)),
        input_covariances(model, [images], memory_bytes=12 * (25 + 49 + 324)),
    ):
        for name, layer in one.layers.items():
            np.testing.assert_allclose(layer.covariance, other.layers[name].covariance, atol=1e-12)
            assert layer.patches == other.layers[name].patches
    assert mapped == [(1, 27, 27), (2, 18, 18), (2, 18, 18)]  # the grouped layer quantizes its inputs: also real ones


def test_batches_of_any_kind():
    layer, x, y = nn.Linear(2, 1), torch.tensor([[1.0, 2.0], [3.0, 6.0]]), torch.zeros(2)

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(3, 2), layer

        def forward(self, tokens, scale=1.0):
            return self.head(self.embed(tokens) * scale)

    kinds = [[x], [(x, y)], [[x, y]], iter([x[:1], x[1:]]), [x.double()], [{"input": x}]]
    for batches in kinds:
        found = input_covariances(layer, batches)
        assert found.images == 2
        np.testing.assert_allclose(found.layers[""].covariance, [[[1, 2], [2, 4]]])
    assert input_covariances(Named(), [{"tokens": torch.tensor([0, 1, 2]), "scale": 2.0}]).images == 3
    for wrong in ([()], ["words"], [{}], [torch.tensor(1.0)]):
        with pytest.raises(HypersignError, match="a batch must be a tensor"):
            input_covariances(layer, wrong)


def test_what_is_not_measured_has_a_reason(monkeypatch):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.unused, self.second = nn.Linear(4, 3), nn.Linear(4, 4), nn.Linear(3, 2)

        def forward(self, x):
            return self.second(self.first(x))

    model = Odd()
    with torch.no_grad():
        model.first.weight[1, 2] = math.nan
    found = input_covariances(model, [torch.randn(5, 4)])
    assert list(found.layers) == ["first"]
    assert found.unmeasured == {
        "unused": "the forward pass does not call it",
        "second": "its input holds NaN or infinity",
    }
    np.testing.assert_allclose(predicted_r(found.layers["first"]), [1, math.nan, 1])  # a plain layer has no levels
    assert np.isnan(what_if(found.layers["first"], {"sign": Sign()})[0].pearson_r).tolist() == [False, True, False]
    monkeypatch.setattr(covariance.measure, "MOST_FAN_IN", 3)
    assert input_covariances(model, [torch.randn(5, 4)]).unmeasured["first"] == "its fan-in of 4 is above 3"


def test_bad_input_is_named(monkeypatch, tmp_path):
    with pytest.raises(HypersignError, match=r"layers that can be quantized .* it has none"):
        input_covariances(nn.Sequential(nn.ReLU()), [torch.ones(2, 2)])
    with pytest.raises(HypersignError, match="at least one image"):
        input_covariances(nn.Linear(2, 1), [])
    with pytest.raises(HypersignError, match="memory_bytes must be an integer"):
        input_covariances(nn.Linear(2, 1), [], memory_bytes=-1)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=7))
    with pytest.raises(HypersignError, match="name a larger folder in TMPDIR"):
        input_covariances(nn.Linear(2, 1), [torch.ones(2, 2)], memory_bytes=0)


def _state(model):
    return (
        [value.tolist() for value in model.state_dict().values()],
        [m.training for m in model.modules()],
        [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        torch.is_grad_enabled(),
        torch.random.get_rng_state().tolist(),
    )


class _Noisy(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


def test_the_model_is_left_as_found():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), _Noisy(), nn.Dropout(), nn.Linear(3, 2)).train()
    model[1].eval()
    before = _state(model)
    x = torch.ones(5, 4)
    input_covariances(model, [x])
    assert _state(model) == before
    with pytest.raises(RuntimeError):
        input_covariances(model, [x, torch.ones(5, 7)])
    assert _state(model) == before


def test_nothing_is_shared_with_the_model():
    layer = nn.Linear(3, 2).double()
    found = input_covariances(layer, [torch.eye(3).double()]).layers[""]
    with torch.no_grad():
        layer.weight.zero_()
    assert np.abs(found.weights).min() > 0


@pytest.mark.parametrize("numbers", [1 << 21, 200], ids=["at once", "row by row"])
@pytest.mark.parametrize("name", ["padded", "ones around", "strided", "grouped"])
def test_sign_flips_are_counted_on_the_inputs(name, numbers, monkeypatch):
    monkeypatch.setattr(covariance.patches, "NUMBERS", numbers)
    torch.manual_seed(0)
    layer = QuantConv2d(4, 6, bias=True, **CONVOLUTIONS[name], input_quantizer=Sign(), weight_quantizer=Sign())
    images = torch.randn(7, 4, 9, 8)
    found = input_covariances(layer, [images[:3], images[3:]]).layers[""]
    with torch.no_grad():
        signs = torch.where(images < 0, -1.0, 1.0)
        x, y = (layer.product(signs, w) for w in (layer.weight, layer.effective_weight()))
        expected = ((x < 0) != (y < 0)).double().mean((0, 2, 3))
    np.testing.assert_allclose(found.sign_flips, expected.numpy(), atol=1e-12)
    assert not len(input_covariances(torch.nn.Conv2d(4, 6, 3), [images]).layers[""].sign_flips)


def test_counts_hold_where_products_are_not_normal():
    """Inputs that are mostly zero: the bivariate normal is far off on the very inputs it was made of."""
    torch.manual_seed(0)
    layer = QuantLinear(20, 16, bias=False, weight_quantizer=Sign())

    def draw():
        return torch.where(torch.rand(20_000, 20) < 0.15, -torch.rand(20_000, 20).log(), 0.0)

    found = input_covariances(layer, [draw()]).layers[""]
    images = draw()
    with torch.no_grad():
        x, y = (layer.product(images, w) for w in (layer.weight, layer.effective_weight()))
        measured = ((x < 0) != (y < 0)).double().mean(0).numpy()
    counted, normal = (
        np.asarray(what_if(layer, {"sign": Sign()})[0].sign_flip_share)
        for layer in (found, dataclasses.replace(found, sample=found.sample[:, :, :0]))
    )
    assert np.abs(normal - measured).max() > 0.05
    assert np.abs(counted - measured).max() < 4 * np.sqrt(0.12 * 0.88 / found.sample.shape[2])
    assert np.abs(found.sign_flips - measured).max() < 4 * np.sqrt(2 * 0.25 / 20_000)
