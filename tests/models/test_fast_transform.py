"""The network of additions, shifts and comparisons: a second, naive writing of it, and integers that cannot be
multiplied."""

import numpy as np
import pytest
import torch

from hypersign._checks import HypersignError
from hypersign.models import Switch, associative_memory, build, fast_transform
from hypersign.models.fast_transform import PowersOfTwo, _Switched
from hypersign.quantizers import Quantization
from hypersign.rotations import random_signs
from hypersign.tasks import cross_entropy
from hypersign.training import Recipe

SHAPE = (1, 4, 4)


class Adder:
    """An integer that adds, shifts and compares, counts that, and cannot do anything else."""

    counts: dict[str, int]

    def __init__(self, value):
        self.value = int(value)

    def __add__(self, other):
        return self._counted("additions", self.value + other.value)

    def __sub__(self, other):
        return self._counted("additions", self.value - other.value)

    def __lshift__(self, bits):
        return self._counted("shifts", self.value << int(bits))

    def __rshift__(self, bits):
        return self._counted("shifts", self.value >> int(bits))

    def __ge__(self, other):
        assert other == 0
        Adder.counts["comparisons"] += 1
        return self.value >= 0

    def __neg__(self):
        return self._counted("sign_flips", -self.value)

    def _counted(self, kind, value):
        Adder.counts[kind] += 1
        return Adder(value)


@pytest.fixture
def counts():
    Adder.counts = {"additions": 0, "sign_flips": 0, "shifts": 0, "comparisons": 0}
    return Adder.counts


def adders(x):
    made = np.empty(x.shape, object)
    made.ravel()[:] = [Adder(value) for value in x.ravel()]
    return made


def trained(model, steps=5):
    """A model whose weights have moved."""
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        images = torch.rand(20, *SHAPE, generator=generator) * 2 - 1
        cross_entropy(model(images), torch.randint(3, (20,), generator=generator)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def test_is_what_its_drawing_says():
    torch.manual_seed(0)
    model = trained(fast_transform(SHAPE, 3, hidden=(32, 32)))
    x = torch.randn(6, *SHAPE)
    h = torch.tensor([[1 - 2 * (bin(i & j).count("1") % 2) for j in range(32)] for i in range(32)]).float()
    y = torch.cat((x.flatten(1), torch.zeros(6, 16)), 1)
    for stream in range(2):
        y = y * torch.from_numpy(random_signs(32, 0, stream)) @ h / 32**0.5
    levels = torch.tensor([1, 0.5, 0.25, 0.125])
    for number, shift in ((1, 2), (2, 1)):
        slopes = getattr(model, f"switch{number}").slopes.detach()
        nearest = levels[(slopes.abs()[..., None] - levels).abs().argmin(-1)] * torch.where(slopes < 0, -1, 1)
        y = torch.where(y >= 0, nearest[0] * y, nearest[1] * y) @ h / 2**shift
    expected = y @ torch.where(model.fc.weight < 0, -1.0, 1.0).T
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)


def test_slopes_learn_straight_through():
    quantizer = PowersOfTwo()
    x = torch.tensor([-1.5, -0.8, -0.1, 0.0, 0.2, 0.4, 0.7, 0.75, 1.2], requires_grad=True)
    y = quantizer(x)
    assert y.tolist() == [-1, -1, -0.125, 0.125, 0.25, 0.5, 0.5, 1, 1]
    assert set(y.tolist()) <= set(quantizer.levels)
    y.sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 1, 1, 1, 0]
    model = trained(fast_transform(SHAPE, 3, hidden=(16,)))
    model(torch.randn(2, *SHAPE)).sum().backward()
    assert (model.switch1.slopes.grad != 0).any(1).all()


@pytest.mark.parametrize(
    ("make", "levels"),
    # not ternary features of the memory: their threshold is in the unit of the pixels
    [(fast_transform, 2), (fast_transform, 3), (associative_memory, 2)],
)
def test_integers_without_a_multiplication(make, levels, counts):
    torch.manual_seed(0)
    hidden = (16, 16) if make is fast_transform else (16,)
    model = trained(make(SHAPE, 3, Quantization.of(levels=levels), hidden=hidden))
    with torch.no_grad():  # weights that 16 bits hold
        model.fc.weight.copy_((model.fc.weight * 2**16).round() / 2**16)
    pixels = np.random.default_rng(0).integers(0, 256, (4, *SHAPE))
    images = pixels + pixels - 255
    real = model.double()(torch.from_numpy(images / 255)).detach().numpy()
    whole = model.integer_logits(images)
    assert whole.dtype == np.int64
    ratios = (whole / real).ravel()
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-5)
    assert ratios[0] > 0
    one = model.integer_logits(adders(images[:1]))  # anything but what Adder can do raises
    if make is fast_transform:
        assert [value.value for value in one[0]] == whole[0].tolist()
    else:
        assert one[0].tolist() == whole[0].tolist()
        counts["additions"] += 3 * 15  # sums of weights, which are plain integers
        counts["sign_flips"] += 3 * 16
    expected = model.operations()
    assert expected.pop("multiplications") == 0
    assert counts == expected


def test_the_test_notices_a_multiplication():
    with pytest.raises(TypeError):
        adders(np.ones(2, int)) * 3


def test_built_by_name_and_trained_like_others():
    recipe = Recipe(model="fast-transform", hidden=[64], data="digits", levels=3)
    model = build(recipe.model, (1, 8, 8), 10, **recipe.model_options())
    assert model.fc.weight_quantizer.levels == (-1.0, 0.0, 1.0)
    assert model.switch1.slopes.shape == (2, 64)


def test_what_cannot_be_built():
    for hidden in ((), (8,), (48,), (16, 32)):
        with pytest.raises(HypersignError, match="a power of two that holds the 16 numbers of an image"):
            fast_transform(SHAPE, 3, hidden=hidden)
    with pytest.raises(HypersignError, match="classes must be"):
        fast_transform(SHAPE, 0, hidden=(16,))
    with pytest.raises(HypersignError, match="integers from -255 to 255; got 256"):
        fast_transform(SHAPE, 3, hidden=(16,)).integer_logits(np.full((1, *SHAPE), 256))


def test_a_switchs_gradient_is_that_of_its_formula():
    torch.manual_seed(0)
    switch = Switch(8).double()
    x = torch.randn(3, 2, 8, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(
        lambda x, *slopes: _Switched.apply(x, *slopes), (x, *switch.slopes.detach().requires_grad_())
    )
    y = switch(x)
    above, below = switch.quantizer(switch.slopes.detach())
    assert torch.equal(y, torch.where(x >= 0, above * x, below * x))
