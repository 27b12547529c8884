"""Updates in one pass: what clipping, torch's step and clipping again give, up to the last digits."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from hypersign.bits.backend import native
from hypersign.training.updates import norms_of, update_in_one_pass

pytestmark = pytest.mark.skipif(native() is None, reason="the compiled kernels are not installed")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(5, 7, 3), nn.Conv2d(7, 6, 1), nn.Linear(40, 9)).to(
        memory_format=torch.channels_last
    )


def give_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        gradient = torch.empty_like(parameter)
        parameter.grad = gradient.copy_(torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("limits", [(0.5, 0.1), (None, None)])
def test_the_same_numbers(kind: Any, limits: tuple[float | None, float | None]) -> None:
    ours = network()
    theirs = copy.deepcopy(ours)
    pairs = [(model, kind(model.parameters(), 0.01, weight_decay=0.1, fused=True)) for model in (ours, theirs)]
    for step in range(4):
        for model, optimizer in pairs:
            give_gradients(model, step)
            latent = [model[0].weight, model[2].weight]
            norms = update_in_one_pass(optimizer, latent, limits) if model is ours else None
            assert (norms is None) == (model is theirs or step == 0)  # the first step makes the moments
            if norms is not None:
                torch.testing.assert_close(norms, torch.stack([x.norm() for x in latent]))
                assert all(parameter.grad is None for parameter in model.parameters())
                continue
            for parameter in model.parameters():
                if limits[0] is not None:
                    parameter.grad.clamp_(-limits[0], limits[0])
            optimizer.step()
            with torch.no_grad():
                for weight in latent:
                    if limits[1] is not None:
                        weight.clamp_(-limits[1], limits[1])
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    for a, b in zip(*(optimizer.state_dict()["state"].values() for _, optimizer in pairs), strict=True):
        assert a["step"] == b["step"]
        for name in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(a[name], b[name], rtol=1e-6, atol=1e-7)


def test_what_it_leaves_to_torch() -> None:
    model = network()
    give_gradients(model, 0)
    sgd = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, fused=True)
    assert update_in_one_pass(sgd, [], (None, None)) is None
    adam = torch.optim.Adam(model.parameters(), 0.1, fused=True)
    adam.step()
    model[0].weight.grad = model[0].weight.grad.contiguous()  # another order in memory
    before = [parameter.clone() for parameter in model.parameters()]
    assert update_in_one_pass(adam, [], (None, None)) is None
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_latent_weight_that_is_not_finite_shows() -> None:
    model = network()
    adam = torch.optim.Adam(model.parameters(), 0.1, fused=True)
    for _ in range(2):
        give_gradients(model, 0)
        with torch.no_grad():
            model[2].weight[0, 0] = torch.nan
        norms = update_in_one_pass(adam, [model[0].weight, model[2].weight], (None, 1.0))
        if norms is None:
            adam.step()
    assert norms is not None
    assert norms.isfinite().tolist() == [True, False]


def test_norms() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = [(), (1,), (63,), (65,), (3, 5, 2, 2), (40000,), (0,)]
    tensors = [torch.randn(size, generator=generator) for size in sizes]
    tensors[4] = tensors[4].contiguous(memory_format=torch.channels_last)
    expected = torch.stack([x.double().norm() for x in tensors]).float()
    torch.testing.assert_close(norms_of(tensors), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        norms_of([*tensors, torch.ones(4, 6).T]), torch.cat([expected, torch.full((1,), 24**0.5)])
    )
    tensors[5][39999] = torch.nan
    tensors[2][1] = -torch.inf
    assert norms_of(tensors).isfinite().tolist() == [True, True, False, True, True, False, True]
