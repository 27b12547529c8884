import json
import math

import pytest
import torch
from rich.console import Console
from torch import nn

from hypersign.layers import QuantLinear
from hypersign.models import build
from hypersign.quantizers import Sign, Ternary
from hypersign.tasks import Classification, NextToken
from hypersign.training.monitor import Monitor, StepClock, first_broken_layer, layer_metrics, negative_signs
from hypersign.training.recipe import RECIPES, Recipe

ROW = {
    "epoch": 1,
    "step": 7,
    "seconds": 0.5,
    "images_per_second": 1234.0,
    "learning_rate": 1e-3,
    "loss": 0.25,
    "accuracy": 0.5,
    "validation_loss": None,
    "validation_accuracy": None,
    "layers": {"fc1": {"flipped_signs": 0.125, "angle_degrees": None}},
}


def watching(folder, epochs, task=None, unit="images", **options):
    return Monitor(folder, epochs, task or Classification(), unit=unit, **{"tensorboard": False, **options})


def test_flipped_signs_against_a_naive_count():
    model = build("vgg", (1, 8, 8), 10, widths=(3, 4), pools=(), hidden=(5,), float_weights=("fc1",))
    layers = {name: module for name, module in model.named_children() if name in ("conv1", "conv2", "fc2")}
    before = {name: layer.weight.detach().clone() for name, layer in layers.items()}
    signs = negative_signs(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in layers.values():
            layer.weight += torch.randn(layer.weight.shape, generator=generator) * layer.weight.std()
    measured = layer_metrics(model, signs)
    assert list(measured) == ["conv1", "conv2", "fc2"]
    for name, layer in layers.items():
        old, new = before[name].flatten().tolist(), layer.weight.flatten().tolist()
        flips = sum((a >= 0) != (b >= 0) for a, b in zip(old, new, strict=True))
        assert 0 < flips < len(old)
        assert measured[name]["flipped_signs"] == pytest.approx(flips / len(old), rel=1e-6)


def test_angle_by_closed_form():
    layer = QuantLinear(2, 2, bias=False, weight_quantizer=Sign())
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 1.0], [1.0, 0.0]]))  # 0 and 45 degrees
    model = nn.Sequential(layer)
    assert layer_metrics(model, negative_signs(model))["0"]["angle_degrees"] == pytest.approx(22.5)


def test_a_layer_that_is_all_zero_has_no_angle():
    model = nn.Sequential(QuantLinear(2, 2, weight_quantizer=Ternary(0.999)))
    assert layer_metrics(model, negative_signs(model)) == {"0": {"flipped_signs": 0.0, "angle_degrees": None}}


def test_first_broken_layer():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU(), nn.Linear(2, 2)), nn.Linear(2, 2))
    x = torch.ones(3, 2)
    assert first_broken_layer(model, x) is None
    with torch.no_grad():
        model[1][1].weight[0, 0] = torch.inf
        model[2].bias[0] = torch.nan
    assert first_broken_layer(model, x) in ("1.1", "2")
    with torch.no_grad():
        model[0].bias.fill_(1.0)
        model[0].weight.fill_(1.0)
    assert first_broken_layer(model, x) == "1.1"
    assert not any(module._forward_hooks for module in model.modules())


def test_a_log_has_a_line_an_epoch(tmp_path, capsys):
    with watching(tmp_path, 20) as monitor:
        monitor.batch(1, 3, 7, loss=0.5, metrics=[0.1], rate=1e-3, speed=99.0)
        monitor.epoch(ROW, [ROW])
        monitor.epoch({**ROW, "epoch": 2, "validation_accuracy": 0.75}, [ROW, ROW])
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "epoch   1/20  loss 0.2500  accuracy 50.00%  rate 1.0e-03  1,234 images/s",
        "epoch   2/20  loss 0.2500  accuracy 50.00%  validation 75.00%  rate 1.0e-03  1,234 images/s",
    ]
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [ROW, ROW]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_log_of_another_task(tmp_path, capsys):
    row = {
        **{key: ROW[key] for key in ("epoch", "step", "learning_rate", "layers")},
        "examples_per_second": 99.0,
        "loss": 1.5,
        "bits_per_token": 2.25,
        "accuracy": 0.5,
        "validation_loss": 1.0,
        "validation_bits_per_token": 1.5,
        "validation_accuracy": 0.25,
    }
    with watching(tmp_path, 3, NextToken(), "examples") as monitor:
        monitor.epoch(row, [row])
    assert capsys.readouterr().err.splitlines() == [
        "epoch   1/3  loss 1.5000  bits per token 2.250  accuracy 50.00%  validation 1.500  rate 1.0e-03  "
        "99 examples/s"
    ]


def test_a_terminal_of_80_columns_has_a_bar(tmp_path):
    console = Console(record=True, force_terminal=True, width=80, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file, watching(tmp_path, 100, console=console) as monitor:
        monitor.batch(99, 3, 7, loss=0.5, metrics=[0.125], rate=1e-3, speed=1999.0)
        monitor.progress.refresh()
        shown = console.export_text()
    for part in ("99/100", "━━━", "loss 0.5000", "accuracy 12.50%", "rate 1e-03", "1,999 images/s"):
        assert part in shown


def test_tensorboard(tmp_path):
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with watching(tmp_path, 2, tensorboard=True, console=Console(quiet=True)) as monitor:
        monitor.epoch(ROW, [ROW])
    events = reading.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert "flipped_signs/fc1" in events.Tags()["scalars"]
    (loss,) = events.Scalars("loss")
    assert (loss.step, loss.value) == (7, 0.25)
    tags = events.Tags()["scalars"]
    assert not any("validation" in tag or math.isnan(events.Scalars(tag)[0].value) for tag in tags)


def told(clock: StepClock, times: list[float]) -> list[tuple[int, str]]:
    """The steps after which the clock says something, and what."""
    said = [(i, clock.step(now)) for i, now in enumerate(times, 1)]
    return [(i, text) for i, text in said if text]


def test_the_clock_says_once_how_long_the_rest_takes():
    """Steps of half a second after two slow ones: due after 2 s, at step 6; 494 steps are left."""
    times = [10.0, 20.0, *(20 + 0.5 * i for i in range(1, 60))]
    assert told(StepClock(Recipe(batch_size=50), 500, faster_on_bits=True), times) == [
        (6, "494 more steps of 50 at 0.5 s: about 4 min on this machine")
    ]
    quick = [0.001 * i for i in range(1, 100)]
    ((step, text),) = told(StepClock(Recipe(batch_size=50), 10_000, faster_on_bits=True), quick)
    assert step == StepClock.WARM_UP + StepClock.STEPS == 22
    assert text == "9,978 more steps of 50 at 0.001 s: about 10 s on this machine"
    assert told(StepClock(Recipe(), 10, faster_on_bits=True), quick[:10]) == []


def test_the_clock_says_what_would_be_faster():
    times = [0.0, 4.3, 8.6, 12.9]
    ((step, text),) = told(StepClock(RECIPES["modern"], 50_000, faster_on_bits=True), times)
    assert step == 3
    assert text == (
        "49,997 more steps of 100 at 4.3 s: about 2.5 days on this machine; faster: "
        "--precision bits (up to 4 times), fewer --epochs (now 100), smaller --widths or --hidden"
    )
    ((_, text),) = told(StepClock(RECIPES["modern"], 50_000, faster_on_bits=False), times)
    assert "--precision" not in text
