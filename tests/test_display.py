"""What results print at the end of a cell: short, and as HTML too."""

import dataclasses

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

import hypersign
from hypersign import study
from hypersign._display import as_html, as_text, brief, shown
from hypersign.geometry import input_covariances
from hypersign.hashing import HammingIndex, SignHasher, inspect_vectors, plan
from hypersign.packed.profile import profile
from hypersign.quantizers import Sign
from hypersign.simulation import sign
from hypersign.training import Recipe, train

LONGEST = 2500
"""Characters of a result; what it holds may be a thousand times that."""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("shown")
    recipe = Recipe(widths=(8, 16), pools=(1, 2), hidden=(16,), epochs=1, batch_size=50)
    run = train(recipe, folder / "run", console=Console(quiet=True))
    found = hypersign.inspect(run, images=40)
    ablation, depth = study.ablate_run(run, images=40, reestimate_images=40, rounds=1, depth=True)
    hypersign.pack(run, folder / "net")
    packed = hypersign.PackedModel.load(folder / "net")
    data, model = run.data(), run.load_model()
    vectors = np.random.default_rng(0).standard_normal((300, 32))
    hasher = SignHasher(64).fit(vectors)
    return {
        "run": run,
        "geometry": found,
        "layer": found.layers[0],
        "angles": found.layers[0].angle_degrees,
        "products": found.layers[0].weights_binarized,
        "summary": hypersign.summary(run),
        "ablation": ablation,
        "depth": depth,
        "packed": packed,
        "profile": profile(packed, repeats=1),
        "data": data,
        "split": data.test,
        "covariances": input_covariances(model, data.batches(data.test, 100)),
        "conversion": hypersign.convert(nn.Sequential(nn.Linear(8, 4)), weight_quantizer=Sign()),
        "neighbours": HammingIndex(hasher, hasher.transform(vectors)).search(vectors[:50], k=10),
        "vectors": inspect_vectors(vectors),
        "plan": plan(vectors, bits=(64,), sample=20),
        "simulation": sign(draws=100),
    }


NAMES = [
    "run",
    "geometry",
    "layer",
    "angles",
    "products",
    "summary",
    "ablation",
    "depth",
    "packed",
    "profile",
    "data",
    "split",
    "covariances",
    "conversion",
    "neighbours",
    "vectors",
    "plan",
    "simulation",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_result_is_short_and_has_html(
    name: str, results: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    text = repr(results[name])
    assert 20 < len(text) < LONGEST
    html = results[name]._repr_html_()
    assert html.startswith(("<table", "<pre"))
    assert html.count("<td") == html.count("</td>")


def test_what_they_say(results: dict[str, object]) -> None:
    run, found = results["run"], results["geometry"]
    assert f"{run.info['results']['test']['accuracy']:.2%} of 359 test images" in repr(run)
    lines = repr(found).splitlines()
    (conv2,) = (line.split() for line in lines if line.startswith("conv2"))
    layer = found.layers[1]
    assert conv2 == [
        "conv2",
        "72",
        f"{layer.angle_degrees.mean:.1f}",
        f"{layer.angle_degrees.predicted_mean:.1f}",
        f"{layer.weights_binarized.pearson_r:.2f}",
        f"{layer.weights_binarized.predicted_pearson_r:.2f}",
    ]
    assert "per_filter=<16 numbers>" in repr(layer.angle_degrees)
    assert repr(results["packed"]).startswith("PackedModel(1 x 8 x 8 -> 10 classes, ")
    assert f"{results['summary'].file_bytes:,} bytes)" in repr(results["packed"])


def test_a_recipe_still_prints_what_makes_it_again() -> None:
    recipe = Recipe(levels=3, widths=(8, 8))
    assert eval(repr(recipe), {"Recipe": Recipe}) == recipe


def test_values_in_a_word() -> None:
    @shown
    @dataclasses.dataclass
    class Found:
        name: str
        rows: tuple[object, ...]

    assert repr(Found("<b>", (1.0, np.nan))) == "Found(name='<b>', rows=(1, nan))"
    assert "&lt;b&gt;" in Found("<b>", ())._repr_html_()
    assert brief(torch.zeros(2, 3)) == "<float32 (2, 3)>"
    assert brief((Found("", ()),) * 2) == "<2 Found>"
    assert brief({i: i for i in range(9)}) == "<9 entries>"
    assert as_text("one", "two") == "one\ntwo"
    assert "&lt;b&gt;" in as_html("<b>")
