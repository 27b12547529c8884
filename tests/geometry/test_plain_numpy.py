"""A small network written out in NumPy loops: what capture and inspection must find of it, needing no other file."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from hypersign.geometry import inspect
from hypersign.geometry.ablation import ablate
from hypersign.geometry.capture import capture
from hypersign.geometry.depth import measure_depth
from hypersign.layers import QuantConv2d, QuantLinear
from hypersign.quantizers import Sign
from hypersign.tasks import Classification, NextToken, Regression

IMAGES, CHANNELS, SIDE, FILTERS, CLASSES = 11, 2, 4, 3, 4


def sign(value: float) -> float:
    return 1.0 if value >= 0 else -1.0


def correlation(x: list[float], y: list[float]) -> float:
    x_mean, y_mean = sum(x) / len(x), sum(y) / len(y)
    xy = sum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True))
    xx, yy = sum((a - x_mean) ** 2 for a in x), sum((b - y_mean) ** 2 for b in y)
    return xy / math.sqrt(xx * yy)


class Plain:
    """Convolution with signs of weights, batch norm, and a linear layer with signs of weights and inputs."""

    def __init__(self) -> None:
        numbers = np.random.default_rng(3)
        self.images = numbers.normal(size=(IMAGES, CHANNELS, SIDE, SIDE)).astype(np.float32)
        self.kernel = numbers.normal(size=(FILTERS, CHANNELS, 3, 3)).astype(np.float32)
        self.mean, self.variance = numbers.normal(size=FILTERS), numbers.uniform(5, 20, size=FILTERS)
        self.matrix = numbers.normal(size=(CLASSES, FILTERS * SIDE * SIDE)).astype(np.float32)
        # layer -> kind of product -> filter -> values; inputs first, c for continuous and b for quantized
        self.products: dict[str, dict[str, list[list[float]]]] = {
            name: {kind: [[] for _ in range(count)] for kind in ("bb", "bc", "cb", "cc")}
            for name, count in (("conv", FILTERS), ("fc", CLASSES))
        }
        self.logits = [self.forward(image) for image in self.images.astype(float)]

    def forward(self, image: np.ndarray) -> list[float]:
        hidden: list[float] = []
        for f in range(FILTERS):
            for row in range(SIDE):
                for column in range(SIDE):
                    latent = binary = 0.0
                    for c in range(CHANNELS):
                        for i in range(3):
                            for j in range(3):
                                y, x = row + i - 1, column + j - 1
                                if 0 <= y < SIDE and 0 <= x < SIDE:
                                    weight = float(self.kernel[f, c, i, j])
                                    latent += image[c, y, x] * weight
                                    binary += image[c, y, x] * sign(weight)
                    for kind, value in (("bb", binary), ("bc", latent), ("cb", binary), ("cc", latent)):
                        self.products["conv"][kind][f].append(value)
                    hidden.append((binary - self.mean[f]) / math.sqrt(self.variance[f] + 1e-5))
        logits = []
        for k in range(CLASSES):
            sums = dict.fromkeys(("bb", "bc", "cb", "cc"), 0.0)
            for value, w in zip(hidden, self.matrix[k], strict=True):
                weight = float(w)
                sums["bb"] += sign(value) * sign(weight)
                sums["bc"] += sign(value) * weight
                sums["cb"] += value * sign(weight)
                sums["cc"] += value * weight
            for kind, value in sums.items():
                self.products["fc"][kind][k].append(value)
            logits.append(sums["bb"] + 0.25 * k)  # the bias: no two logits are equal
        return logits

    def network(self) -> nn.Sequential:
        model = nn.Sequential()
        model.add_module("conv", QuantConv2d(CHANNELS, FILTERS, 3, padding=1, bias=False, weight_quantizer=Sign()))
        model.add_module("norm", nn.BatchNorm2d(FILTERS, affine=False))
        model.add_module("flatten", nn.Flatten())
        fc = QuantLinear(FILTERS * SIDE * SIDE, CLASSES, input_quantizer=Sign(), weight_quantizer=Sign())
        model.add_module("fc", fc)
        with torch.no_grad():
            model.conv.weight.copy_(torch.from_numpy(self.kernel))
            model.norm.running_mean.copy_(torch.from_numpy(self.mean))
            model.norm.running_var.copy_(torch.from_numpy(self.variance))
            fc.weight.copy_(torch.from_numpy(self.matrix))
            fc.bias.copy_(0.25 * torch.arange(CLASSES))
        return model


@pytest.fixture(scope="module")
def plain() -> Plain:
    return Plain()


def labels_for(plain: Plain, right: int) -> list[int]:
    """The class with the largest logit for the first `right` images, the one with the second largest for the rest."""
    ranked = [sorted(range(CLASSES), key=logits.__getitem__, reverse=True) for logits in plain.logits]
    return [order[0] if n < right else order[1] for n, order in enumerate(ranked)]


def batches(plain: Plain, labels: list[int], size: int = 4):
    images, targets = torch.from_numpy(plain.images), torch.tensor(labels)
    return list(zip(images.split(size), targets.split(size), strict=True))


@pytest.mark.parametrize("right", [0, 7, IMAGES])
def test_accuracy(plain, right) -> None:
    pairs = batches(plain, labels_for(plain, right))
    seen = capture(plain.network(), pairs, task=Classification())
    assert (seen.examples, seen.accuracy) == (IMAGES, right / IMAGES)
    found = inspect(plain.network(), pairs, name="plain", dataset="noise")
    assert (found.images, found.accuracy) == (IMAGES, right / IMAGES)


def test_every_product_is_the_loops(plain) -> None:
    seen = capture(plain.network(), batches(plain, [0] * IMAGES))
    assert math.isnan(seen.accuracy)
    assert [layer.name for layer in seen.layers] == ["conv", "fc"]
    for layer in seen.layers:
        for kind, values in plain.products[layer.name].items():
            name = f"a_{kind[0]}.w_{kind[1]}"
            np.testing.assert_allclose(layer.products.means(name), [np.mean(v) for v in values], atol=1e-5)
        assert layer.products.count == len(plain.products[layer.name]["bb"][0])


def test_every_correlation_and_angle_is_the_loops(plain) -> None:
    found = inspect(plain.network(), batches(plain, [0] * IMAGES), name="plain", dataset="noise")
    weights = {"conv": plain.kernel.reshape(FILTERS, -1), "fc": plain.matrix}
    families = {"weights": ("bb", "bc"), "activations": ("cb", "bb"), "both": ("cc", "bb")}
    for layer in found.layers:
        for family, (x_kind, y_kind) in families.items():
            measured = getattr(layer, f"{family}_binarized")
            x, y = plain.products[layer.name][x_kind], plain.products[layer.name][y_kind]
            expected = [correlation(a, b) for a, b in zip(x, y, strict=True)]
            np.testing.assert_allclose(measured.pearson_r_per_filter, expected, atol=2e-6)
            pooled = correlation([v for values in x for v in values], [v for values in y for v in values])
            assert measured.pearson_r == pytest.approx(pooled, abs=2e-6)
        for angle, row in zip(layer.angle_degrees.per_filter, weights[layer.name], strict=True):
            cosine = sum(abs(float(w)) for w in row) / math.sqrt(len(row) * sum(float(w) ** 2 for w in row))
            assert angle == pytest.approx(math.degrees(math.acos(cosine)), abs=1e-4)
        negative = sum(float(w) < 0 for row in weights[layer.name] for w in row) / weights[layer.name].size
        assert layer.level_shares == {"-1": pytest.approx(negative), "+1": pytest.approx(1 - negative)}


def test_decisions_of_other_tasks(plain) -> None:
    """The same logits as numbers within a tolerance, and as tokens of sequences of one."""
    logits = torch.tensor(plain.logits)
    images = torch.from_numpy(plain.images)
    targets = logits.clone()
    targets[3, 1] += 0.2
    targets[5, 2] -= 0.05
    seen = capture(plain.network(), [(images, targets)], task=Regression(tolerance=0.1))
    assert seen.accuracy == pytest.approx(1 - 1 / logits.numel())
    model = nn.Sequential(plain.network(), nn.Unflatten(1, (1, CLASSES)))
    labels = torch.tensor(labels_for(plain, 7))
    assert capture(model, [(images, labels[:, None])], task=NextToken()).accuracy == 7 / IMAGES


def test_tokens_stay_integers() -> None:
    torch.manual_seed(0)
    embedding, layer = nn.Embedding(7, 5), QuantLinear(5, 7, bias=False, weight_quantizer=Sign())
    tokens = torch.arange(12).view(3, 4) % 7
    found = inspect(nn.Sequential(embedding, layer), [(tokens, tokens)], name="", dataset="", task=NextToken())
    table, weight = embedding.weight.detach().numpy(), layer.weight.detach().numpy()
    right, x, y = 0, [], []
    for token in tokens.flatten().tolist():
        logits = [sum(float(a) * sign(w) for a, w in zip(table[token], row, strict=True)) for row in weight]
        right += max(range(7), key=logits.__getitem__) == token
        x += logits
        y += [sum(float(a) * float(w) for a, w in zip(table[token], row, strict=True)) for row in weight]
    assert found.accuracy == right / 12
    assert found.layers[0].weights_binarized.pearson_r == pytest.approx(correlation(x, y), abs=1e-5)


def test_empty_batches_and_other_types_change_nothing(plain) -> None:
    pairs = batches(plain, labels_for(plain, 7))
    empty = pairs[0][0][:0], pairs[0][1][:0]
    others = [empty, *((images.double(), labels.int()) for images, labels in pairs), empty]
    model, sets = plain.network(), [pairs]
    for measure in (
        lambda given: inspect(model, given, name="plain", dataset="noise"),
        lambda given: ablate(model, given, sets),
        lambda given: measure_depth(model, given, pairs),
    ):
        assert repr(measure(others)) == repr(measure(pairs))
