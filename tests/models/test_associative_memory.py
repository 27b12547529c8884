import numpy as np
import pytest
import torch

from hypersign._checks import HypersignError
from hypersign.models import associative_memory, build, one_pass_recall
from hypersign.rotations import HadamardRotation

SHAPE = (1, 8, 8)


def test_is_its_formula():
    memory = associative_memory(SHAPE, 3, hidden=(100,))
    x = torch.randn(5, *SHAPE)
    torch.nn.init.normal_(memory.fc.weight)
    signs = torch.where(HadamardRotation(64, outputs=100)(x.flatten(1)) >= 0, 1.0, -1.0)
    torch.testing.assert_close(memory(x), signs @ memory.fc.weight.T)


def test_one_step_on_one_example_is_exact():
    memory = associative_memory(SHAPE, 4, hidden=(128,))
    for seed in range(3):  # whatever was learned before
        torch.manual_seed(seed)
        x, target = torch.randn(1, *SHAPE), torch.randn(1, 4)
        memory.learn(x, target)
        torch.testing.assert_close(memory(x), target, atol=1e-6, rtol=1e-5)


def test_passes_store_what_fits():
    torch.manual_seed(0)
    memory = associative_memory(SHAPE, 1, hidden=(128,))
    x, target = torch.randn(32, *SHAPE), torch.sign(torch.randn(32, 1))
    for _ in range(60):
        memory.learn(x, target)
    torch.testing.assert_close(memory(x), target, atol=1e-3, rtol=0)


@pytest.mark.parametrize("load", [0.25, 1.0, 2.0])
def test_the_capacity_curve(load):
    """Against the rule itself, written in NumPy, on many memories at once."""
    n, memories = 128, 100
    generator = np.random.default_rng(0)
    count = int(load * n)
    signs = generator.choice([-1.0, 1.0], (count, memories, n))
    answers = generator.choice([-1.0, 1.0], (count, memories))
    weights = np.zeros((memories, n))
    for s, t in zip(signs, answers, strict=True):
        weights += (t - (weights * s).sum(1))[:, None] * s / n
    recalled = np.einsum("kmn,mn->km", signs, weights) * answers > 0
    spread = recalled.mean(0).std(ddof=1) / memories**0.5
    assert recalled.mean() == pytest.approx(one_pass_recall(load), abs=4.5 * spread + 0.3 / n)


def test_capacity_at_the_ends():
    assert one_pass_recall(1e-3) == pytest.approx(1)
    assert one_pass_recall(1000) == pytest.approx(0.5, abs=1e-3)
    with pytest.raises(HypersignError, match="load"):
        one_pass_recall(0)


def test_what_cannot_be_built_or_learned():
    with pytest.raises(HypersignError, match=r"must be one number, of the memory's features; got \(3, 4\)"):
        associative_memory(SHAPE, 2, hidden=(3, 4))
    memory = build("associative-memory", SHAPE, 2, hidden=[64], levels=3)
    with pytest.raises(HypersignError, match="needs binary features"):
        memory.learn(torch.ones(1, *SHAPE), torch.ones(1, 2))
    with pytest.raises(HypersignError, match="needs binary features"):
        memory.integer_logits(np.ones((1, *SHAPE), int))
