"""Rules for latent weights: trajectories of 50 steps on a toy problem against a second writing in NumPy."""

import contextlib
import math

import numpy as np
import pytest
import torch
from torch import nn

from hypersign._checks import HypersignError
from hypersign.layers import QuantConv2d, QuantLinear
from hypersign.optimizers import RULES, LatentRule, rule_of
from hypersign.quantizers import (
    PARQ,
    BinaryRelax,
    LossAware,
    RealUntil,
    Sign,
    SiMaN,
    StraightThrough,
    quantizer_of,
)
from hypersign.tasks import Regression
from hypersign.training import Recipe
from hypersign.training.step import Step, latent_weights, make_optimizer, make_rule

STEPS, FILTERS, N = 50, 3, 8
RNG = np.random.default_rng(0)
X = RNG.normal(size=(STEPS, 16, N))
TRUE = np.where(RNG.normal(size=(FILTERS, N)) > 0, 1.0, -1.0)
Y = X @ TRUE.T + 0.1 * RNG.normal(size=(STEPS, 16, FILTERS))
START = 0.5 * RNG.normal(size=(FILTERS, N))
CLOSE = {"rtol": 1e-6, "atol": 1e-9}


def trajectory(quantizer, rule, rate=0.05, optimizer="sgd", epochs=10):
    """The latent weights after each step of `hypersign train`'s own step."""
    model = nn.Sequential(QuantLinear(N, FILTERS, bias=False, weight_quantizer=quantizer)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor(START))
    model[0].fit_quantizers()
    recipe = Recipe(
        latent_rule=rule,
        optimizer=optimizer,
        epochs=epochs,
        gradient_clip=None,
        latent_clip="none",
        learning_rate=rate,
    )
    made = make_rule(recipe, model)
    alone = list(latent_weights(model).values()) if made is not None and made.alone else []
    optimizer = make_optimizer(recipe, list(model.parameters()), alone)
    step = Step(model, recipe, Regression(tolerance=0.1), optimizer, contextlib.nullcontext, guard=True, rule=made)
    # in float64 to the end
    step._forward = lambda x, y: (((model(x) - y) ** 2).mean(), {"accuracy": torch.zeros(())})
    step.anneal(0.0)
    for latent in step.latents:
        if made is not None:
            made.start(latent)
    found = []
    for t in range(STEPS):
        step(torch.tensor(X[t]), torch.tensor(Y[t]), rate)
        step.anneal((t + 1) / STEPS)
        found.append(model[0].weight.detach().numpy().copy())
    return found, model[0]


def gradient(w, t):
    return 2 * (X[t] @ w.T - Y[t]).T @ X[t] / Y[t].size


class Nesterov:
    """torch's SGD with momentum 0.9."""

    def __init__(self, rate):
        self.rate, self.m = rate, None

    def __call__(self, w, g):
        self.m = g.copy() if self.m is None else 0.9 * self.m + g
        return w - self.rate * (g + 0.9 * self.m)


class Adam:
    def __init__(self, rate):
        self.rate, self.m, self.v, self.t = rate, 0.0, 0.0, 0

    def __call__(self, w, g):
        self.t += 1
        self.m, self.v = 0.9 * self.m + 0.1 * g, 0.999 * self.v + 0.001 * g * g
        return w - self.rate * (self.m / (1 - 0.9**self.t)) / (np.sqrt(self.v / (1 - 0.999**self.t)) + 1e-8)


def sgn(x):
    return np.where(x >= 0, 1.0, -1.0)


def test_bop():
    found, _ = trajectory(Sign(surrogate=StraightThrough()), "bop:gamma=0.3,threshold=0.02,stages=2")
    w, m, flips = sgn(START), np.zeros_like(START), 0
    for t in range(STEPS):
        gamma = 0.3 if t / STEPS < 0.5 else 0.03
        m = m + gamma * (gradient(w, t) - m)
        flip = m * w > 0.02
        flips += flip.sum()
        w = np.where(flip, -w, w)
        np.testing.assert_allclose(found[t], w, **CLOSE)
    assert flips > 5
    assert (w == TRUE).mean() > 0.9  # it solves the problem


def test_bop_of_the_second_order():
    found, _ = trajectory(
        Sign(surrogate=StraightThrough()), "bop-second-order:gamma=0.1,sigma=0.05,threshold=0.2,stages=1"
    )
    w, m, v, flips = sgn(START), np.zeros_like(START), np.zeros_like(START), 0
    for t in range(STEPS):
        g = gradient(w, t)
        m, v = m + 0.1 * (g - m), v + 0.05 * (g * g - v)
        flip = w * m / (np.sqrt(v) + 1e-10) > 0.2
        flips += flip.sum()
        w = np.where(flip, -w, w)
        np.testing.assert_allclose(found[t], w, **CLOSE)
    assert flips > 5


def test_parq():
    """u collects gradients taken at w = prox(u)."""
    found, layer = trajectory(PARQ(), None)
    sigmoid = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    u, optimizer = START.copy(), Nesterov(0.05)
    for t in range(STEPS):
        rho = (sigmoid(-10 * (t / STEPS - 0.5)) - sigmoid(-5)) / (sigmoid(5) - sigmoid(-5))
        v = np.abs(u).mean(1, keepdims=True)
        u = optimizer(u, gradient(np.clip(u / rho, -v, v), t))
        np.testing.assert_allclose(found[t], u, **CLOSE)
    assert set(np.unique(layer.quantized_weight().detach().numpy())) == {-1.0, 1.0}  # hard at the end


def test_binary_relax():
    found, _ = trajectory(BinaryRelax(), None)
    u, optimizer = START.copy(), Nesterov(0.05)
    for t in range(STEPS):
        theta, q = t / STEPS, np.abs(u).mean(1, keepdims=True) * sgn(u)
        u = optimizer(u, gradient((1 - theta) * u + theta * q, t))
        np.testing.assert_allclose(found[t], u, **CLOSE)


def test_askew_sgd():
    found, _ = trajectory(RealUntil(), "askew-sgd:alpha=0.5,hold=1,decay=0.3", rate=0.01)
    w, optimizer, turned = START.copy(), Nesterov(0.01), 0
    for t in range(STEPS):
        g, bound = gradient(w, t), 0.3 ** max(0, 10 * t / STEPS - 1)
        for i in np.ndindex(*w.shape):
            c = bound - (w[i] ** 2 - 1) ** 2
            if w[i] == 0 or c >= 0:
                continue
            k = 0.5 * c / (4 * w[i] * (w[i] ** 2 - 1))
            if not -g[i] * k > k * k:
                g[i], turned = -k, turned + 1
        w = np.clip(optimizer(w, g), -1, 1)
        np.testing.assert_allclose(found[t], w, **CLOSE)
    assert turned > 5


@pytest.mark.parametrize("count", [2, 3])
def test_proxquant(count):
    hard = 0.8
    found, _ = trajectory(
        RealUntil(hard_from=hard, count=count),
        f"proxquant:strength=0.3,hard_from={hard}",
        optimizer="adam",
        rate=0.02,
    )
    w, optimizer = START.copy(), Adam(0.02)
    for t in range(STEPS):
        levels = (lambda w: sgn(w)) if count == 2 else (lambda w: np.sign(w) * (np.abs(w) > 0.5))
        if t / STEPS >= hard:
            w = levels(w)
        else:
            w = optimizer(w, gradient(w, t))
            strength = 0.3 * 0.02 * 10 * t / STEPS
            if count == 3:
                w = (w + strength * levels(w)) / (1 + strength)
            else:
                far = np.abs(w) - 1
                w = sgn(w) * (1 + np.sign(far) * np.maximum(0, np.abs(far) - strength))
            w = np.clip(w, -1, 1)
        np.testing.assert_allclose(found[t], w, **CLOSE)
    assert set(np.unique(w)) <= {-1.0, 0.0, 1.0}


def test_ovsw():
    found, _ = trajectory(Sign(surrogate=StraightThrough()), "ovsw:delta=3,decay=0.1,momentum=0.5,silent=0.01")
    w, optimizer, m, before = START.copy(), Nesterov(0.05), np.zeros_like(START), None
    for t in range(STEPS):
        g = gradient(sgn(w), t)
        for f in range(FILTERS):
            share = np.linalg.norm(g[f]) / np.linalg.norm(w[f])
            if share < 3:
                g[f] *= 3 / share
        g += 0.1 * w * (m < 0.01)
        w = optimizer(w, g)
        negative = w < 0
        if before is not None:
            m = 0.5 * m + 0.5 * (negative != before)
        before = negative
        np.testing.assert_allclose(found[t], w, **CLOSE)
    assert (m > 0).any()


def test_lab():
    found, layer = trajectory(LossAware(), "lab", optimizer="adam", rate=0.02)
    w, optimizer, alpha = START.copy(), Adam(0.02), np.abs(START).mean()
    for t in range(STEPS):
        w = optimizer(w, gradient(alpha * sgn(w), t))
        d = np.sqrt(optimizer.v) + 1e-8
        alpha = (d * np.abs(w)).sum() / d.sum()
        np.testing.assert_allclose(found[t], w, **CLOSE)
    assert layer.weight_scale().tolist() == pytest.approx([alpha] * FILTERS)


def test_centred():
    found, _ = trajectory(Sign(), "centred", rate=0.5)
    w, optimizer = np.clip(START - START.mean(1, keepdims=True), -1, 1), Nesterov(0.5)
    for t in range(STEPS):
        w = optimizer(w, gradient(sgn(w), t) * (np.abs(w) < 1))
        w = np.clip(w - w.mean(1, keepdims=True), -1, 1)
        np.testing.assert_allclose(found[t], w, **CLOSE)
    conv = QuantConv2d(4, 2, 3, weight_quantizer=Sign())
    recipe = Recipe(latent_rule="centred")
    rule = make_rule(recipe, nn.Sequential(conv))
    rule.start(Step(conv, recipe, None, None, None, guard=False).latents[0])
    torch.testing.assert_close(conv.weight.mean(1), torch.zeros(2, 3, 3))


def test_percentiles():
    found, layer = trajectory(SiMaN(), "percentiles:first=20", rate=0.05)
    alpha = np.abs(START).mean(1, keepdims=True)
    w, optimizer, scale = START.copy(), Nesterov(0.05), Nesterov(0.05)
    for t in range(STEPS):
        deviation = w.std(1, ddof=1, keepdims=True)
        z = (w - w.mean(1, keepdims=True)) / deviation
        levels = np.where(np.argsort(np.argsort(-np.abs(z), axis=1, kind="stable"), axis=1) < N // 2, 1.0, -1.0)
        g = gradient(alpha * levels, t)
        by_z = alpha * g * np.sign(z)
        through = by_z - by_z.mean(1, keepdims=True) - z * (by_z * z).sum(1, keepdims=True) / (N - 1)
        w = optimizer(w, through / deviation)
        alpha = scale(alpha, (g * levels).sum(1, keepdims=True))
        w = w - w.mean(1, keepdims=True)
        low, high = np.percentile(np.abs(w), [20 * (1 - t / STEPS), 100 - 20 * (1 - t / STEPS)])
        w = np.clip(np.abs(w), low, high) * np.sign(w)
        np.testing.assert_allclose(found[t], w, **CLOSE)
    np.testing.assert_allclose(layer.weight_quantizer.scale.alpha.detach(), alpha[:, 0], **CLOSE)


def test_rules_by_name():
    for name in RULES:
        assert isinstance(rule_of(name), LatentRule)
    with pytest.raises(HypersignError, match=r"latent rule must be one of bop, .*; got 'boop'"):
        rule_of("boop")
    with pytest.raises(HypersignError, match="options of the latent rule bop must be option=value with gamma"):
        rule_of("bop:tau=1")


@pytest.mark.parametrize(
    ("rule", "weights", "optimizer", "message"),
    [
        ("bop", "sign", "adam", "cannot train 0: it keeps weights at -1 and .* no gradient: use --weights sign:surr"),
        ("bop", "ternary", "adam", r"it flips signs, and the weights' levels are \(-1.0, 0.0, 1.0\)"),
        ("lab", "sign", "adam", "it sets the scale of the quantizer lab: use --weights lab"),
        ("lab", "lab", "sgd", "it reads Adam's averages; got the optimizer sgd"),
        ("askew-sgd", "real-until", "adam", "its steps are those of sgd; got adam"),
        ("askew-sgd", "sign", "sgd", "its weights are real during training, and the quantizer's are not"),
        (
            "proxquant",
            "real-until",
            "adam",
            "real until 0.6667 of training, and the quantizer's are not: use --weights",
        ),
        ("centred", "float", "adam", "needs a layer with quantized weights: there is none"),
    ],
)
def test_a_rule_says_which_layer_it_cannot_train(rule, weights, optimizer, message):
    model = nn.Sequential(QuantLinear(4, 3, weight_quantizer=quantizer_of(weights)))
    with pytest.raises(HypersignError, match=message):
        make_rule(Recipe(latent_rule=rule, optimizer=optimizer), model)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bop:gamma=0", "gamma must be a number > 0 and <= 1; got 0"),
        ("bop:stages=0", "stages must be an integer >= 1; got 0"),
        ("bop-second-order:sigma=2", "sigma must be a number > 0 and <= 1; got 2"),
        ("proxquant:strength=-1", "strength must be a number >= 0; got -1"),
        ("askew-sgd:decay=2", "decay must be a number > 0 and <= 1; got 2"),
        ("ovsw:momentum=1", "momentum must be a number >= 0 and < 1; got 1"),
        ("percentiles:first=50", "first must be a number >= 0 and < 50; got 50"),
    ],
)
def test_options_outside_their_range(text, message):
    with pytest.raises(HypersignError, match=message):
        rule_of(text)
