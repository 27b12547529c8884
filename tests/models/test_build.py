"""Networks by name from plain data, as a run folder stores them."""

import inspect
import json
import subprocess
import sys

import pytest
import torch
from torch import nn

from hypersign._checks import HypersignError
from hypersign.models import (
    MODELS,
    associative_memory,
    build,
    fast_transform,
    gpt,
    lstm,
    mlp,
    options_of,
    reactnet_a,
    resnet18,
    resnet20,
    vgg,
    vgg_small,
)
from hypersign.quantizers import SURROGATES, Identity, Optimal, Quantization, Quantizer, surrogate_of

OPTIONS = {
    "vgg": {
        "widths": [4, 6],
        "pools": [1],
        "filter_size": 5,
        "padding": "ones",
        "hidden": [8],
        "levels": 3,
        "threshold": "optimal",
        "weights": "ternary",
        "inputs": "ternary:threshold=0.4",
        "continuous": True,
        "float_weights": ["fc1"],
        "float_inputs": ["fc2"],
        "surrogate": "tanh",
        "norm_scale": True,
        "norm_epsilon": 1e-4,
        "norm_momentum": 0.2,
        "activation": "maxout",
        "sign_zero": 0,
        "weight_scale": "filter",
        "first_layer": "thermometer",
        "first_dimensions": 4,
        "pixel_range": [0.0, 1.0],
    },
    "mlp": {
        "hidden": [8],
        "levels": 3,
        "threshold": 0.3,
        "weights": "ternary",
        "inputs": "sign",
        "float_weights": ["fc1"],
        "float_inputs": ["fc2"],
        "surrogate": "polynomial",
        "norm_scale": True,
        "norm_epsilon": 1e-4,
        "norm_momentum": 0.2,
        "activation": "maxout",
        "sign_zero": 0,
        "weight_scale": 4,
    },
    **{
        name: {
            "widths": [4, 8],
            "levels": 3,
            "threshold": "optimal",
            "surrogate": "triangle",
            "norm_epsilon": 1e-4,
            "norm_momentum": 0.2,
            "activation": "maxout",
            "weights": "ternary:threshold=0.2",
            "inputs": "ternary:threshold=0.4",
            "sign_zero": 0,
            "weight_scale": "filter",
            **own,
        }
        for name, own in {
            "resnet20": {"form": "adabin"},
            "resnet18": {"form": "recu"},
            "reactnet-a": {},
            "vgg-small": {"float_first": False, "float_last": False},
        }.items()
    },
    **{
        name: {"hidden": [512], "levels": 3, "threshold": 0.3, "surrogate": "triangle", side: "ternary:threshold=0.2"}
        for name, side in (("fast-transform", "weights"), ("associative-memory", "inputs"))
    },
}
IMAGES = [name for name in MODELS if name not in ("lstm", "gpt")]
"""Networks for images; test_sequences.py has the others."""
BESIDE = {
    "threshold": {"levels": 3},
    "inputs": {"levels": 3, "threshold": 0.1},
    "first_dimensions": {"first_layer": "hadamard"},
    "pixel_range": {"first_layer": "bit-planes"},
}
"""What an option needs beside it to mean anything."""
SMALL = {
    "vgg": {"widths": (4, 4), "pools": (2,), "hidden": (8, 4)},
    "mlp": {"hidden": (8, 4)},
    "fast-transform": {"hidden": (256,)},
    "associative-memory": {"hidden": (256,)},
}
"""Options of a small network; the others take widths."""


@pytest.mark.parametrize("name", IMAGES)
def test_every_option_by_name_after_a_trip_through_json(name: str) -> None:
    assert set(OPTIONS[name]) == set(options_of(name))  # the list above forgets none
    options = json.loads(json.dumps(OPTIONS[name]))
    model = build(name, (3, 8, 8), 5, **options)
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 5)
    objects = dict(OPTIONS[name])
    if objects["threshold"] == "optimal":
        objects["threshold"] = Optimal()
    objects["surrogate"] = surrogate_of(objects["surrogate"])
    known = inspect.signature(MODELS[name]).parameters
    own = {option: value for option, value in objects.items() if option in known}
    quantization = Quantization.of(**{option: value for option, value in objects.items() if option not in known})
    assert repr(model) == repr(MODELS[name]((3, 8, 8), 5, quantization, **own))


@pytest.mark.parametrize("name", IMAGES)
def test_each_option_alone_changes_the_network(name: str) -> None:
    base = SMALL.get(name, {"widths": (4, 4)})
    plain = repr(build(name, (3, 8, 8), 5, **base))
    for option, value in OPTIONS[name].items():
        beside = {**base, **BESIDE.get(option, {})}
        changed = repr(build(name, (3, 8, 8), 5, **{**beside, option: value}))
        assert changed != repr(build(name, (3, 8, 8), 5, **beside)), option
    assert plain == repr(build(name, (3, 8, 8), 5, **base))


def test_the_names() -> None:
    assert dict(MODELS) == {
        "vgg": vgg,
        "mlp": mlp,
        "vgg-small": vgg_small,
        "resnet20": resnet20,
        "resnet18": resnet18,
        "reactnet-a": reactnet_a,
        "fast-transform": fast_transform,
        "associative-memory": associative_memory,
        "lstm": lstm,
        "gpt": gpt,
    }


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_surrogates_by_name(surrogate: str) -> None:
    model = build("mlp", (1, 4, 4), 2, hidden=[3], surrogate=surrogate)
    quantizers = [m for m in model.modules() if isinstance(m, Quantizer) and not isinstance(m, Identity)]
    assert len(quantizers) == 3
    assert all(type(quantizer.surrogate).__name__ == SURROGATES[surrogate] for quantizer in quantizers)


@pytest.mark.parametrize("name", IMAGES)
def test_trains_a_step_with_every_parameter(name: str) -> None:
    """Gradients reach every parameter, as training in several processes needs; buffers are no parameters."""
    model: nn.Module = build(name, (3, 8, 8), 5, **SMALL.get(name, {"widths": (4, 4)}), surrogate="straight-through")
    model(torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.shape == parameter.shape, key


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "vgg16",
            {},
            "model must be one of vgg, mlp, vgg-small, resnet20, resnet18, reactnet-a, fast-transform, "
            "associative-memory, lstm, gpt; got 'vgg16'",
        ),
        ("mlp", {"widths": [4], "depth": 3}, "mlp has no option depth, widths; its options are hidden, norm_scale"),
        ("resnet20", {"norm_scale": True}, "resnet20 has no option norm_scale; its options are widths"),
        ("vgg", {"threshold": "best"}, r"threshold \(or a number in \[0, 1\)\) must be one of optimal; got 'best'"),
        ("vgg", {"surrogate": "relu"}, "surrogate must be one of hardtanh, polynomial, .*; got 'relu'"),
    ],
)
def test_errors(name: str, options: dict, message: str) -> None:
    with pytest.raises(HypersignError, match=message):
        build(name, (3, 8, 8), 5, **options)


def test_options_of_an_unknown_network() -> None:
    with pytest.raises(HypersignError, match="model must be one of"):
        options_of("alexnet")


def test_a_network_can_be_built_first_of_all() -> None:
    """The quantizers are loaded lazily, so a fresh interpreter has not seen the types that annotations name."""
    code = "from hypersign.models import build; build('vgg', (1, 8, 8), 10, widths=[8], pools=[], hidden=[])"
    subprocess.run([sys.executable, "-c", code], check=True)
