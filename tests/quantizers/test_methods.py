"""Names, their options, and what a Quantization gives to layers."""

import json

import pytest
import torch

from hypersign._checks import HypersignError
from hypersign.models import MODELS, build, resnet20, vgg
from hypersign.quantizers import (
    QUANTIZERS,
    SURROGATES,
    GroupScaled,
    HardTanh,
    Identity,
    MeanScale,
    Optimal,
    Quantization,
    Quantizer,
    Rotated,
    Sign,
    StraightThrough,
    Surrogate,
    Tanh,
    Ternary,
    Triangle,
    quantizer_of,
    surrogate_of,
)
from hypersign.rotations import HadamardRotation
from hypersign.runs import Run
from hypersign.training import Recipe


@pytest.mark.parametrize("name", QUANTIZERS)
def test_quantizers_by_name(name: str) -> None:
    made = quantizer_of(name)
    assert isinstance(made, Quantizer)
    assert type(made).__name__ == QUANTIZERS[name]


OF_WEIGHTS = (
    "uniform",
    "greedy",
    "ls-2",
    "adabin",
    "ir-net",
    "recu",
    "siman",
    "rbnn",
    "two-values",
    "bit",
    "bitnet",
    "paretoq",
    "parq",
    "binary-relax",
    "real-until",
    "lab",
    "random-levels",
    "chosen",
)
"""Quantizers whose scale or levels belong to filters or to a weight matrix."""
NETWORKS: dict[str, tuple[tuple[int, ...], dict]] = {
    "vgg": ((3, 8, 8), {"widths": (4,), "pools": (1,), "hidden": (8,)}),
    "lstm": ((5,), {"hidden": (8,)}),
}


@pytest.mark.parametrize("model", NETWORKS)
@pytest.mark.parametrize(
    ("side", "name"),
    [("weights", name) for name in QUANTIZERS] + [("inputs", name) for name in QUANTIZERS if name not in OF_WEIGHTS],
)
def test_each_quantizer_trains_on_each_side(side: str, name: str, model: str) -> None:
    torch.manual_seed(0)
    shape, options = NETWORKS[model]
    network = build(model, shape, 10, **options, **{side: name})
    inputs = torch.randint(10, (7, *shape)) if model == "lstm" else torch.randn(7, *shape)
    network(inputs).square().mean().backward()
    assert any(p.grad.abs().sum() > 0 for p in network.parameters() if p.grad is not None)
    assert network.eval()(inputs[:1]).isfinite().all()


@pytest.mark.parametrize("model", NETWORKS)
@pytest.mark.parametrize("name", OF_WEIGHTS)
def test_quantizers_of_weights_alone_are_refused_for_inputs(name: str, model: str) -> None:
    shape, options = NETWORKS[model]
    with pytest.raises(HypersignError, match=r"^inputs must .+(filter|weight).*; got \w+\(.*\)$"):
        build(model, shape, 10, **options, inputs=name)


@pytest.mark.parametrize("name", SURROGATES)
def test_surrogates_by_name(name: str) -> None:
    made = surrogate_of(name)
    assert isinstance(made, Surrogate)
    assert type(made).__name__ == SURROGATES[name]


def test_the_table_names_every_public_class() -> None:
    import hypersign.quantizers as public

    def classes(base: type) -> set[type]:
        found = (getattr(public, name) for name in public.__all__)
        return {kind for kind in found if isinstance(kind, type) and issubclass(kind, base)}

    wrappers = {Quantizer, GroupScaled, Rotated}  # they need a quantizer
    assert classes(Quantizer) - wrappers == {getattr(public, name) for name in QUANTIZERS.values()}
    assert classes(Surrogate) - {Surrogate} == {getattr(public, name) for name in SURROGATES.values()}


def test_a_name_in_the_table_is_all_that_the_rest_needs(monkeypatch, tmp_path) -> None:
    import hypersign.quantizers as public

    class Steps(Quantizer):
        """Multiples of a step."""

        def __init__(self, *, step: float = 0.5, surrogate: Surrogate | None = None) -> None:
            super().__init__(surrogate=surrogate)
            self.step = step

        def round(self, x: torch.Tensor) -> torch.Tensor:
            return (x / self.step).round() * self.step

    monkeypatch.setattr(public, "Steps", Steps, raising=False)
    monkeypatch.setitem(QUANTIZERS, "steps", "Steps")
    recipe = Recipe(model="mlp", hidden=(8,), weights="steps:step=0.25", surrogate="tanh")
    assert Recipe(**json.loads(json.dumps(recipe.as_dict()))) == recipe
    info = {"model": {"name": "mlp", "shape": [1, 4, 4], "classes": 3, "options": recipe.model_options()}}
    layer = Run(tmp_path, json.loads(json.dumps(info))).build_model().fc2
    assert (type(layer.weight_quantizer), layer.weight_quantizer.step) == (Steps, 0.25)
    assert isinstance(layer.weight_quantizer.surrogate, Tanh)
    assert isinstance(layer.input_quantizer, Sign)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("float", Identity()),
        ("sign:zero=0", Sign(zero=0)),
        ("sign:scale=filter", Sign(scale=MeanScale())),
        ("ternary:threshold=0.25,surrogate=tanh", Ternary(0.25, surrogate=Tanh())),
        ("ternary:threshold=optimal", Ternary(Optimal())),
        ("sign:surrogate=straight-through,group=8", GroupScaled(Sign(surrogate=StraightThrough()), 8)),
    ],
)
def test_options_in_a_text(text: str, expected: Quantizer) -> None:
    assert repr(quantizer_of(text)) == repr(expected)


def test_options_of_surrogates_and_defaults() -> None:
    assert repr(surrogate_of("tanh:first=1,last=20")) == repr(Tanh(first=1.0, last=20.0))
    assert repr(quantizer_of("ternary", threshold=0.4, zero=0)) == repr(Ternary(0.4))  # zero is not its option
    assert repr(quantizer_of("ternary:threshold=0.5", threshold=0.4)) == repr(Ternary(0.5))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cubic", "quantizer must be one of float, relu, sign, ternary, .*; got 'cubic'"),
        ("sign:thresh=1", "options of the quantizer sign must be option=value with scale, offset, surrogate, zero"),
        ("sign:zero", "got 'zero'"),
        ("float:zero=1", "with no option at all; got 'zero=1'"),
        ("ternary:threshold=best", "threshold must be a number or optimal or least-squares; got 'best'"),
        ("ternary:threshold=2", "threshold .* must be a number >= 0 and < 1; got 2"),
        ("sign:surrogate=cubic", "surrogate must be one of"),
        ("sign:group=0", "size of a group must be an integer >= 1"),
        ("sign:zero=x", "zero must be a number; got 'x'"),
    ],
)
def test_errors_in_a_text(text: str, message: str) -> None:
    with pytest.raises(HypersignError, match=message):
        quantizer_of(text)


def test_layers_get_copies() -> None:
    quantization = Quantization(Sign(surrogate=Tanh()), Ternary(0.5))
    one, other = quantization.weight_quantizer("a"), quantization.weight_quantizer("b")
    one.surrogate.anneal(1.0)
    assert other.surrogate.t.item() == pytest.approx(0.1)
    assert quantization.weights.surrogate.t.item() == pytest.approx(0.1)
    model = vgg((3, 8, 8), 4, quantization, widths=(4, 6), pools=(2,), hidden=(8,))
    assert len({id(m) for m in model.modules() if isinstance(m, Tanh)}) == 4
    assert model.fc2.input_quantizer.describe() == "Ternary(threshold=0.5)"
    assert isinstance(model.conv1.input_quantizer, Identity)


_FLAT = ("fast-transform", "associative-memory")


def test_any_quantizer_in_any_network() -> None:
    class Halves(Quantizer):
        def round(self, x: torch.Tensor) -> torch.Tensor:
            return (2 * x).round() / 2

    options = {"vgg": {"widths": (4,), "pools": (), "hidden": ()}, "mlp": {"hidden": (8,)}, "lstm": {"hidden": (8,)}}
    for name, model in MODELS.items():
        if name == "gpt":  # of tokens
            net = model((7,), 5, Quantization(Halves(), Halves()), width=8, blocks=1, heads=1)
            net(torch.randint(5, (3, 7))).sum().backward()
            continue
        small = options.get(name, {"hidden": (256,)} if name in _FLAT else {"widths": (4, 4)})
        net = model((3, 8, 8), 5, Quantization(Halves(), Halves()), **small)
        assert any(isinstance(module, Halves) for module in net.modules())
        net(torch.randn(3, 3, 8, 8)).sum().backward()


def test_groups_and_rotations_as_objects() -> None:
    model = resnet20((3, 8, 8), 4, Quantization(GroupScaled(Sign(), 4), Sign()), widths=(4,))
    assert model.stage1_block1.conv.weight_quantizer.describe() == "GroupScaled(Sign(), 4)"
    assert (
        Quantization(Rotated(Sign(), HadamardRotation(64))).weight_quantizer().describe().startswith("Rotated(Sign()")
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weights": "sign"}, r"weights must be a quantizer object such as Sign\(\); got 'sign'"),
        ({"inputs": Ternary(Optimal())}, "inputs must have a number as threshold"),
        ({"inputs": Sign(scale=MeanScale())}, "inputs must have no scale per filter"),
        ({"first_layer": "gabor"}, "first_layer must be one of plain, thermometer"),
    ],
)
def test_errors_of_the_fields(fields: dict, message: str) -> None:
    with pytest.raises(HypersignError, match=message):
        Quantization(**fields)


def test_a_network_refuses_what_it_does_not_have() -> None:
    with pytest.raises(HypersignError, match="resnet20 has no float_weights, first_layer: leave them out"):
        resnet20((3, 8, 8), 4, Quantization(float_weights=("conv1",), first_layer="haar"))


# The plain options of 0.1.0, which run folders hold, and the quantizers that they meant.
OLD = {
    "vgg": (
        {
            "widths": [4, 6], "pools": [2], "hidden": [8], "levels": 3, "threshold": "optimal",
            "surrogate": "triangle", "sign_zero": 1, "weight_scale": "filter",
            "float_weights": ["conv1"], "float_inputs": ["fc2"],
            "first_layer": "thermometer", "first_dimensions": 4, "pixel_range": [0.0, 1.0], "norm_scale": True,
        },
        {
            "conv1": (Identity(), Identity()),
            "conv2": (Ternary(Optimal(), scale=MeanScale(), surrogate=Triangle()), Ternary(0.6120032)),
            "fc2": (Ternary(Optimal(), scale=MeanScale(), surrogate=Triangle()), Identity()),
        },
    ),
    "mlp": (
        {"hidden": [8], "levels": 2, "sign_zero": 0, "weight_scale": 4},
        {"fc2": (GroupScaled(Sign(zero=0), 4), Sign(zero=0))},
    ),
    "resnet20": (
        {"widths": [4, 6], "levels": 3, "threshold": 0.1, "norm_epsilon": 1e-4},
        {"stage2_block1.conv": (Ternary(0.1), Ternary(0.1))},
    ),
    "resnet18": ({"widths": [4], "levels": 2}, {"stage1_block1.conv": (Sign(), Sign())}),
    "fast-transform": ({"hidden": [256], "levels": 3, "threshold": 0.3}, {"fc": (Ternary(0.3), Identity())}),
    "associative-memory": ({"hidden": [256], "levels": 3}, {"fc": (Identity(), Ternary(0.02))}),
}  # fmt: skip


@pytest.mark.parametrize("name", OLD)
def test_run_folders_of_the_first_version_build_what_they_held(name: str, tmp_path) -> None:
    options, expected = OLD[name]
    info = json.loads(json.dumps({"model": {"name": name, "shape": [3, 8, 8], "classes": 5, "options": options}}))
    model = Run(tmp_path, info).build_model()
    for layer, (weights, inputs) in expected.items():
        found = model.get_submodule(layer)
        assert found.weight_quantizer.describe() == weights.describe()
        assert found.input_quantizer.describe() == inputs.describe()
    assert repr(model) == repr(build(name, (3, 8, 8), 5, **options))


def test_old_continuous_networks() -> None:
    model = build("vgg", (3, 8, 8), 5, widths=[4, 6], pools=[2], hidden=[8], continuous=True)
    assert [model.conv2.quantizes_weights, model.conv2.quantizes_inputs] == [False, False]
    assert [model.fc1.quantizes_weights, model.fc1.quantizes_inputs] == [True, False]
    assert [model.fc2.quantizes_weights, model.fc2.quantizes_inputs] == [True, True]


def test_recipes_make_one_quantization() -> None:
    recipe = Recipe(levels=3, threshold="optimal", surrogate="tanh", float_weights=("conv1",), first_layer="haar")
    found = recipe.quantization()
    assert found.weights.describe() == Ternary(Optimal()).describe()
    assert found.inputs.describe() == "Ternary(threshold=0.612003)"
    assert isinstance(found.weights.surrogate, Tanh)
    assert (found.float_weights, found.first_layer) == (("conv1",), "haar")
    assert Recipe(weights="sign:scale=filter", inputs="float").quantization().weights.scale == MeanScale()
    assert isinstance(Recipe().quantization().weights.surrogate, HardTanh)
    with pytest.raises(HypersignError, match=r"quantizer must be one of float, relu, sign, ternary, .*; got 'cubic'"):
        Recipe(weights="cubic")
