"""What every quantizer must bear: torch.compile, autocast, double, torch.func, copies."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap

from hypersign.quantizers import (
    HardTanh,
    Identity,
    MeanScale,
    Optimal,
    Polynomial,
    Quantizer,
    Sign,
    StraightThrough,
    Tanh,
    Ternary,
    Triangle,
)

QUANTIZERS = {
    "sign": lambda: Sign(),
    "sign-zero": lambda: Sign(zero=0, surrogate=StraightThrough()),
    "sign-polynomial": lambda: Sign(surrogate=Polynomial()),
    "sign-tanh": lambda: Sign(surrogate=Tanh()),
    "ternary": lambda: Ternary(0.3),
    "ternary-triangle": lambda: Ternary(0.3, surrogate=Triangle(clip=0.7)),
    "ternary-optimal": lambda: Ternary(Optimal(), surrogate=HardTanh(clip=1.5)),
    "ternary-tanh": lambda: Ternary(Optimal(), surrogate=Tanh(), scale=MeanScale()),
}
cases = pytest.mark.parametrize("make", QUANTIZERS.values(), ids=QUANTIZERS)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def both(function, x: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """Levels and the gradient of `<out, levels>`."""
    x = x.clone().requires_grad_()
    levels = function(x)
    levels.backward(out)
    return levels.detach(), x.grad


@cases
def test_compiled_equals_eager_also_after_annealing(make) -> None:
    torch.compiler.reset()
    quantizer = make()
    compiled = torch.compile(quantizer, fullgraph=True, backend="aot_eager")
    x, out = numbers(6, 10), numbers(6, 10, seed=1)
    gradients = []
    for progress in (0.0, 0.5, 1.0):
        quantizer.surrogate.anneal(progress)
        levels, gradient = both(compiled, x, out)
        expected, expected_gradient = both(quantizer, x, out)
        assert torch.equal(levels, expected)
        torch.testing.assert_close(gradient, expected_gradient)
        gradients.append(gradient)
    # Annealing must be seen: a compiled graph that baked t in would give the same gradients three times.
    assert torch.equal(gradients[0], gradients[2]) != isinstance(quantizer.surrogate, Tanh)


def test_annealing_does_not_compile_anew() -> None:
    torch.compiler.reset()
    quantizer = Sign(surrogate=Tanh())
    compilations = []

    def backend(graph, inputs):
        compilations.append(graph)
        return graph.forward

    compiled = torch.compile(quantizer, fullgraph=True, backend=backend)
    for progress in (0.0, 0.3, 0.6, 0.9):
        quantizer.surrogate.anneal(progress)
        compiled(numbers(3, 4))
    assert len(compilations) == 1


def test_inductor_gives_the_same_levels_and_gradients() -> None:
    """The default backend, in one graph, as a compilation takes seconds; edges and thresholds included."""
    torch.compiler.reset()
    quantizers = nn.ModuleList(QUANTIZERS[name]() for name in ("sign-tanh", "ternary", "ternary-optimal"))

    def function(x: Tensor) -> Tensor:
        return torch.stack([quantizer(x) for quantizer in quantizers])

    compiled = torch.compile(function, fullgraph=True)
    edges = torch.tensor([0.0, -0.0, 0.3, -0.3, 1.0, -1.0, 0.02, 0.7, 30.0, -30.0])
    out = numbers(len(quantizers), 7, 10, seed=1)
    x = torch.cat([numbers(6, 10), edges[None]])
    for progress in (0.0, 1.0):
        for quantizer in quantizers:
            quantizer.surrogate.anneal(progress)
        levels, gradient = both(compiled, x, out)
        expected, expected_gradient = both(function, x, out)
        assert torch.equal(levels, expected)
        torch.testing.assert_close(gradient, expected_gradient)


@cases
def test_double_precision_stays_double(make) -> None:
    quantizer = make().double()
    levels, gradient = both(quantizer, numbers(4, 5).double(), numbers(4, 5, seed=1).double())
    assert levels.dtype == gradient.dtype == torch.float64
    assert set(levels.flatten().tolist()) <= set(quantizer.levels)


@cases
def test_autocast_gives_the_same_levels_and_gradients(make) -> None:
    """Levels are exact in bfloat16; only a threshold may fall elsewhere, and the input here is not rounded."""
    quantizer = make()
    x, out = numbers(4, 5), numbers(4, 5, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        levels, gradient = both(quantizer, x, out)
    expected, expected_gradient = both(quantizer, x, out)
    assert torch.equal(levels, expected)
    torch.testing.assert_close(gradient, expected_gradient)


@cases
def test_torch_func_grad_and_vmap(make) -> None:
    quantizer = make()
    x, out = numbers(3, 4, 5), numbers(4, 5, seed=1)
    expected = torch.stack([both(quantizer, one, out)[1] for one in x])
    torch.testing.assert_close(grad(lambda v: (quantizer(v) * out).sum())(x[0]), expected[0])
    torch.testing.assert_close(vmap(grad(lambda v: (quantizer(v) * out).sum()))(x), expected)
    levels = torch.stack([quantizer(one) for one in x])
    assert torch.equal(vmap(quantizer)(x), levels)
    assert torch.equal(vmap(quantizer, in_dims=2, out_dims=2)(x.permute(1, 2, 0)), levels.permute(1, 2, 0))


@cases
def test_torch_func_jacrev_is_diagonal(make) -> None:
    quantizer = make()
    x = numbers(3, 4)
    jacobian = jacrev(quantizer)(x).view(12, 12)
    torch.testing.assert_close(jacobian, quantizer.surrogate.gradient(x).flatten().diag())


@cases
def test_functional_call(make) -> None:
    x = numbers(3, 4)
    quantizer = make()
    assert torch.equal(functional_call(quantizer, {}, (x,)), quantizer(x))


def test_functional_call_replaces_the_annealed_state() -> None:
    quantizer = Sign(surrogate=Tanh())
    t = torch.tensor(10.0)
    gradient = grad(lambda v: functional_call(quantizer, {"surrogate.t": t}, (v,)).sum())(torch.zeros(1))
    assert gradient.item() == pytest.approx(10.0)


@cases
def test_copies_are_independent_and_add_no_keys(make) -> None:
    quantizer = make()
    copied = copy.deepcopy(quantizer)
    copied.surrogate.anneal(1.0)
    x, out = numbers(3, 4), numbers(3, 4, seed=1)
    same = torch.equal(both(quantizer, x, out)[1], both(copied, x, out)[1])
    assert same != isinstance(quantizer.surrogate, Tanh)
    assert quantizer.state_dict() == {}
    assert list(quantizer.parameters()) == []


@pytest.mark.parametrize("surrogate", [Tanh(), Polynomial(), Triangle()], ids=lambda s: type(s).__name__)
def test_second_derivative_is_that_of_the_surrogate(surrogate) -> None:
    x = numbers(8).double().requires_grad_()
    (first,) = torch.autograd.grad(Sign(surrogate=surrogate)(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    y = x.detach().requires_grad_()
    surrogate.gradient(y).sum().backward()
    torch.testing.assert_close(second, y.grad)


def test_identity_is_nothing() -> None:
    x = numbers(3)
    assert Identity()(x) is x
    assert Identity().levels == ()
    assert Identity().scale is None


def test_base_class_says_what_to_implement() -> None:
    with pytest.raises(NotImplementedError, match=r"Quantizer must implement round\(x\)"):
        Quantizer()(numbers(2))
