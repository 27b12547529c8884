"""Every surrogate's derivative against a second, naive writing, and by integration against its smooth function."""

import math

import numpy as np
import pytest
import torch

from hypersign._checks import HypersignError
from hypersign.quantizers import (
    HardTanh,
    Polynomial,
    Power,
    Sign,
    SignSwish,
    StraightThrough,
    Surrogate,
    Tanh,
    Tent,
    Ternary,
    Triangle,
)


def annealed(progress: float, kind: type[Surrogate] = Tanh, **options: float) -> Surrogate:
    surrogate = kind(**options)
    surrogate.anneal(progress)
    return surrogate


def naive_tanh(t: float):
    return lambda x: max(1 / t, 1) * t * (1 - math.tanh(t * x) ** 2)


def naive_tent(t: float):
    return lambda x: max(0.0, max(1 / t, 1) * (2 * math.sqrt(t * t / 2) - abs(t * t * x)))


def naive_power(o: float):
    def derivative(x: float) -> float:
        x = abs(x)
        if x <= 0.1:
            return 0.1 ** (1 / o) / 0.1  # the chord
        return 0.0 if x > 1.5 else x ** ((1 - o) / o) / o

    return derivative


def naive_swish(x: float) -> float:
    u = 5 * x
    return 0.0 if abs(u) > 300 else 5 * (2 - u * math.tanh(u / 2)) / (1 + math.cosh(u))


# name: (surrogate, its derivative at one number, written from the papers)
SURROGATES = {
    "hardtanh": (HardTanh(), lambda x: 1.0 if -1 < x < 1 else 0.0),
    "hardtanh-clip": (HardTanh(clip=0.25), lambda x: 1.0 if -0.25 < x < 0.25 else 0.0),
    "polynomial": (Polynomial(), lambda x: 2 + 2 * x if -1 <= x < 0 else 2 - 2 * x if 0 <= x < 1 else 0.0),
    "triangle": (Triangle(), lambda x: 1 - abs(x) if abs(x) < 1 else 0.0),
    "triangle-clip": (Triangle(clip=2), lambda x: 1 - abs(x) / 2 if abs(x) < 2 else 0.0),
    "tanh-start": (Tanh(), naive_tanh(0.1)),
    "tanh-middle": (annealed(0.5), naive_tanh(1.0)),
    "tanh-end": (annealed(1.0), naive_tanh(10.0)),
    "tanh-other": (annealed(0.25, first=1.0, last=16.0), naive_tanh(2.0)),
    "straight-through": (StraightThrough(), lambda x: 1.0),
    "tent-start": (Tent(), naive_tent(0.01)),
    "tent-end": (annealed(1.0, Tent), naive_tent(10.0)),
    "power-start": (Power(), naive_power(1.0)),
    "power-middle": (annealed(0.5, Power), naive_power(1 + 2 * (1 - math.cos(math.pi / 4)))),
    "power-end": (annealed(1.0, Power), naive_power(3.0)),
    "sign-swish": (SignSwish(), naive_swish),
}
cases = pytest.mark.parametrize(("surrogate", "naive"), SURROGATES.values(), ids=SURROGATES)
EDGES = [0.0, -0.0, 0.25, -0.25, 1.0, -1.0, 2.0, -2.0, 1 - 1e-7, 1 + 1e-7, 40.0, math.inf, -math.inf]


def points() -> np.ndarray:
    return np.concatenate([np.random.default_rng(0).normal(size=500), EDGES])


@cases
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("quantizer", [Sign, lambda **o: Sign(zero=0, **o), lambda **o: Ternary(0.3, **o)])
def test_backward_matches_a_naive_writing(surrogate: Surrogate, naive, dtype: torch.dtype, quantizer) -> None:
    """Of the quantizer, by autograd: the surrogate is the same for the sign and for ternary levels."""
    x = torch.tensor(points(), dtype=dtype, requires_grad=True)
    grad = torch.tensor(np.random.default_rng(1).normal(size=len(x)), dtype=dtype)
    quantizer(surrogate=surrogate)(x).backward(grad)
    assert x.grad.dtype == dtype
    expected = np.array([naive(v) * g for v, g in zip(x.tolist(), grad.tolist(), strict=True)])
    tolerance = {torch.float32: 2e-6, torch.float64: 1e-7, torch.bfloat16: 0.03}[dtype]  # Tanh's t is float32
    np.testing.assert_allclose(x.grad.double().numpy(), expected, rtol=tolerance, atol=tolerance)


@cases
def test_gradient_is_the_derivative(surrogate: Surrogate, naive) -> None:
    x = torch.tensor(points())
    expected = [naive(v) for v in x.tolist()]
    np.testing.assert_allclose(surrogate.gradient(x).numpy(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("surrogate", "smooth"),
    [
        (HardTanh(clip=0.5), lambda x: x.clamp(-0.5, 0.5)),
        (Polynomial(), lambda x: torch.where(x < 0, 2 * x + x**2, 2 * x - x**2).where(x.abs() < 1, x.sign())),
        (Triangle(), lambda x: torch.where(x < 0, x + x**2 / 2, x - x**2 / 2).where(x.abs() < 1, 0.5 * x.sign())),
        (annealed(0.5), torch.tanh),
        (StraightThrough(), lambda x: x),
    ],
    ids=["hardtanh", "polynomial", "triangle", "tanh", "straight-through"],
)
def test_derivative_of_its_smooth_function_by_autograd(surrogate: Surrogate, smooth) -> None:
    x = torch.linspace(-1.9, 1.9, 191, dtype=torch.float64).requires_grad_()  # no point on an edge but 0
    smooth(x).sum().backward()
    torch.testing.assert_close(surrogate.gradient(x.detach()), x.grad, rtol=1e-6, atol=1e-6)


def test_hardtanh_is_zero_at_the_clip_itself() -> None:
    """The original's rule; torch.clamp passes the gradient there."""
    x = torch.tensor([-1.0, 1.0, math.nextafter(1, 0)], dtype=torch.float64)
    assert HardTanh().gradient(x).tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize(("progress", "t"), [(0, 0.1), (0.25, 10**-0.5), (0.5, 1.0), (0.75, 10**0.5), (1, 10.0)])
def test_tanh_anneals_geometrically(progress: float, t: float) -> None:
    surrogate = annealed(progress)
    assert surrogate.t.item() == pytest.approx(t, rel=1e-6)
    # k t at 0: 1 while the tanh is flat, t once it is steep
    assert surrogate.gradient(torch.zeros(1)).item() == pytest.approx(max(1.0, t), rel=1e-6)


def test_annealing_goes_both_ways_and_leaves_no_trace_in_the_state() -> None:
    surrogate = Tanh()
    surrogate.anneal(1.0)
    surrogate.anneal(0.0)
    assert surrogate.t.item() == pytest.approx(0.1)
    assert surrogate.state_dict() == {}
    HardTanh().anneal(0.5)  # every surrogate can be told


@pytest.mark.parametrize("progress", [-0.1, 1.1, math.nan, "half"])
def test_progress_outside_its_range(progress: object) -> None:
    with pytest.raises(HypersignError, match="progress must be a number >= 0 and <= 1; got"):
        Tanh().anneal(progress)


@pytest.mark.parametrize("value", [0, -1.0, math.nan, "1", True])
@pytest.mark.parametrize(
    ("kind", "option"), [(HardTanh, "clip"), (Triangle, "clip"), (Tanh, "first"), (Tanh, "last")]
)
def test_options_outside_their_range(kind: type[Surrogate], option: str, value: object) -> None:
    with pytest.raises(HypersignError, match=f"{option} must be a number > 0; got"):
        kind(**{option: value})


def test_repr_shows_the_options() -> None:
    assert repr(HardTanh(clip=0.5)) == "HardTanh(clip=0.5)"
    assert repr(Power()) == "Power(last=3, near=0.1, far=1.5)"
    assert repr(Tent()) == "Tent(first=0.01, last=10)"
    assert repr(SignSwish()) == "SignSwish(slope=5)"
    assert repr(Triangle()) == "Triangle(clip=1)"
    assert repr(Tanh()) == "Tanh(first=0.1, last=10)"


def test_base_class_says_what_to_implement() -> None:
    with pytest.raises(NotImplementedError):
        Surrogate().gradient(torch.zeros(1))
