import contextlib
import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from hypersign import HypersignError
from hypersign.layers import QuantLinear
from hypersign.quantizers import Identity, Sign, Tanh
from hypersign.tasks import Classification, cross_entropy
from hypersign.training import RECIPES
from hypersign.training.step import Step, latent_weights, make_optimizer


def network(**options):
    torch.manual_seed(0)
    first = QuantLinear(6, 5, bias=False, weight_quantizer=Sign(surrogate=Tanh()))
    second = QuantLinear(5, 3, bias=False, input_quantizer=Sign())
    return nn.Sequential(first, nn.BatchNorm1d(5), second)


def stepper(model, guard=True, **fields):
    recipe = dataclasses.replace(RECIPES["anderson-berg-2018"], loss="cross-entropy", **fields)
    optimizer = make_optimizer(recipe, list(model.parameters()))
    return Step(model, recipe, Classification(), optimizer, contextlib.nullcontext, guard=guard)


def batch(seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(8, 6, generator=generator), torch.randint(3, (8,), generator=generator)


def naive_adam(parameters, gradients, state, t, rate, *, corrected, decay=0.0):
    """Kingma & Ba, algorithm 1 ("corrected") or its closing remark of section 2; in float64."""
    for i, (p, g) in enumerate(zip(parameters, gradients, strict=True)):
        m, v = state.setdefault(i, (np.zeros_like(p), np.zeros_like(p)))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        state[i] = m, v
        p -= rate * decay * p
        if corrected:
            p -= rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        else:
            p -= rate * math.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-8)


@pytest.mark.parametrize(
    ("fields", "corrected", "decay"),
    [
        ({}, True, 0.0),
        ({"adam_epsilon": "uncorrected"}, False, 0.0),
        ({"optimizer": "adamw", "weight_decay": 0.5}, True, 0.5),
    ],
    ids=["adam", "uncorrected", "adamw"],
)
def test_adam_by_hand(fields, corrected, decay):
    """Gradients of 1e-9: there the place of epsilon decides the step."""
    model = nn.Linear(6, 3).double()
    step = stepper(model, latent_clip="none", gradient_clip=None, **fields)
    ours = [p.detach().numpy().copy() for p in model.parameters()]
    state: dict = {}
    tiny = 1e-9
    step._forward = lambda x, y: (tiny * cross_entropy(model(x), y), {})
    for t in range(1, 6):
        x, labels = batch(t)
        x = x.double()
        gradients = torch.autograd.grad(tiny * cross_entropy(model(x), labels), list(model.parameters()))
        rate = 0.1 / t
        naive_adam(ours, [g.numpy() for g in gradients], state, t, rate, corrected=corrected, decay=decay)
        step(x, labels, rate)
        for p, expected in zip(model.parameters(), ours, strict=True):
            np.testing.assert_allclose(p.detach().numpy(), expected, rtol=1e-9, atol=1e-12)


def test_nesterov_sgd_by_hand():
    model = nn.Linear(6, 3).double()
    step = stepper(model, optimizer="sgd", weight_decay=0.25, gradient_clip=0.03)
    parameters = [p.detach().clone() for p in model.parameters()]
    momenta = [torch.zeros_like(p) for p in parameters]
    step._forward = lambda x, y: (cross_entropy(model(x), y), {})  # in float64 to the end
    for t in range(4):
        x, labels = batch(t)
        leaves = [p.clone().requires_grad_() for p in parameters]
        loss = cross_entropy(nn.functional.linear(x.double(), *leaves), labels)
        clipped = 0
        for p, m, g in zip(parameters, momenta, torch.autograd.grad(loss, leaves), strict=True):
            clipped += int((g.abs() > 0.03).sum())
            g = g.clamp(-0.03, 0.03) + 0.25 * p
            m.mul_(0.9).add_(g)
            p.sub_(0.5 * (g + 0.9 * m))
        assert clipped
        step(x.double(), labels, 0.5)
    torch.testing.assert_close(list(model.parameters()), parameters, rtol=1e-12, atol=1e-12)


def test_the_length_of_clipped_gradients_is_scaled():
    model = nn.Linear(6, 3).double()
    step = stepper(model, optimizer="sgd", gradient_clip=0.03, gradient_norm=0.05)
    step._forward = lambda x, y: (cross_entropy(model(x), y), {})
    x, labels = batch(0)
    before = [p.detach().clone() for p in model.parameters()]
    gradients = torch.autograd.grad(cross_entropy(model(x.double()), labels), list(model.parameters()))
    clipped = [g.clamp(-0.03, 0.03) for g in gradients]
    length = math.sqrt(sum(float((g**2).sum()) for g in clipped))
    assert length > 0.05
    step(x.double(), labels, 0.1)
    for p, old, g in zip(model.parameters(), before, clipped, strict=True):
        torch.testing.assert_close(old - p.detach(), 0.1 * 1.9 * g * (0.05 / (length + 1e-6)), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("when", ["after-step", "before-forward", "none"])
def test_latent_clip(when):
    model = network()
    with torch.no_grad():
        model[0].weight[0, 0] = 3.0
        model[2].weight[0, 0] = 3.0  # its weights are real: never clipped
    step = stepper(model, latent_clip=when)
    seen = []
    model[0].register_forward_pre_hook(lambda module, _: seen.append(float(module.weight.detach().abs().max())))
    for t in range(3):
        step(*batch(t), 1.0)
    largest = float(model[0].weight.detach().abs().max())
    if when == "after-step":
        assert seen == [3.0, 1.0, 1.0]
        assert largest == 1.0
    elif when == "before-forward":
        assert seen == [1.0, 1.0, 1.0]
        assert largest > 1.0  # by the last step
    else:
        assert min(seen) > 1.5
    assert float(model[2].weight.detach().abs().max()) > 1.5


def test_latent_weights_are_those_behind_a_weight_quantizer():
    assert list(latent_weights(network())) == ["0"]
    assert latent_weights(nn.Sequential(QuantLinear(2, 2, weight_quantizer=Identity()))) == {}


def test_returns_loss_correct_and_finite():
    model = network()
    before = copy.deepcopy(model)
    x, labels = batch()
    loss, measured, finite = stepper(model)(x, labels, 0.1)
    logits = before(x)
    assert loss == cross_entropy(logits, labels)
    assert measured == {"accuracy": (logits.argmax(1) == labels).sum()}
    assert finite.tolist() == [True] * 6  # the loss, four parameters, and the latent weights of one layer


@pytest.mark.parametrize("guard", [True, False])
def test_a_step_that_is_not_finite(guard):
    model = network()
    with torch.no_grad():
        model[2].weight[1, 1] = torch.inf
    before = [p.detach().clone() for p in model.parameters()]
    _, _, finite = stepper(model, guard=guard)(*batch(), 0.1)
    assert not finite[0]
    kept = all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    assert kept == guard


def test_one_bad_gradient_is_found():
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3))
    model[1].bias.register_hook(lambda g: g * torch.nan)
    _, _, finite = stepper(model)(*batch(), 0.1)
    assert finite.tolist() == [True, True, True, True, False]


def test_anneals_every_surrogate():
    model = network()
    stepper(model).anneal(0.5)
    assert model[0].weight_quantizer.surrogate.t == pytest.approx(1.0)


def test_rounding_seeds_depend_on_run_step_and_layer():
    def seeds(run):
        model = nn.Sequential(*(QuantLinear(6, 6) for _ in range(3)), nn.Linear(6, 3))
        for layer in model[:3]:
            layer.rounding_seed = torch.tensor(0)
        step = stepper(model, seed=run)
        found = []

        def forward(x, y):
            found.append([int(layer.rounding_seed) for layer in model[:3]])
            return cross_entropy(model[3](x), y), {}

        step._forward = forward
        for t in range(4):
            step(*batch(t), 0.1)
        return found

    # seeds of runs that were trained before stay what they were
    runs = [seeds(run) for run in (0, 1, 2, 2**23 - 1)]
    assert runs[1] == seeds(1) == [[(1 << 40) + 3 * t + i for i in range(3)] for t in range(1, 5)]
    runs += [seeds(run) for run in (2**23, 2**23 + 1, 2**24, 5 * 2**23 + 2, 2**46, 2**63 - 1)]
    flat = [seed for found in runs for step in found for seed in step]
    assert len(set(flat)) == 10 * 4 * 3  # no two calls of a product round alike
    assert min(flat) >= 0


def test_a_compiled_step_without_gradients_is_told(monkeypatch):
    """A compiler that cuts the gradient of quantized layers, as torch 2.11 does on CUDA."""
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    norm = next(module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))

    def cut(function, **options):
        def compiled(inputs, targets):
            loss, measured = function(inputs, targets)
            return loss.detach() + norm.bias.sum(), measured

        return compiled

    monkeypatch.setattr(torch, "compile", cut)
    step = stepper(model, compile=True)
    first = next(iter(latent_weights(model)))
    with pytest.raises(HypersignError, match=f"loses the gradient of {first}: leave out --compile"):
        step(*batch(), 0.1)
    for name in latent_weights(model):
        torch.testing.assert_close(model.state_dict()[f"{name}.weight"], before[f"{name}.weight"], rtol=0, atol=0)


def test_a_compiled_step_with_gradients_passes(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    plain, compiled = network(), network()
    compiled.load_state_dict(plain.state_dict())
    stepper(plain)(*batch(), 0.1)
    stepper(compiled, compile=True)(*batch(), 0.1)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], value, rtol=0, atol=0)
