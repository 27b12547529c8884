"""Two processes, started by torchrun, on gloo: each takes half of every batch."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch

from hypersign import models
from hypersign._checks import HypersignError
from hypersign.data import Batches
from hypersign.data import load as load_data
from hypersign.layers import quant_layers
from hypersign.runs import load
from hypersign.tasks import squared_hinge
from hypersign.training.processes import any_process, first_process_first, make_accelerator

FIELDS = {
    "data": "digits",
    "widths": (4, 6),
    "pools": (1, 2),
    "hidden": (16,),
    "images": 200,
    "epochs": 2,
    "batch_size": 50,
    "validation": 40,
    "reestimate_images": 0,
}


SCENES = """
    import os, signal, sys
    from pathlib import Path
    from rich.console import Console
    from hypersign._checks import HypersignError
    from hypersign.cli import main
    import dataclasses
    from hypersign.training import RECIPES, resume, train
    from hypersign.training.step import Step

    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    fields = {fields}
    how = dict(device="cpu", console=Console(quiet=True))

    main(["train", *sys.argv[2:], "--output", str(folder / "whole")])

    def attempt(name, **changes):
        try:
            recipe = dataclasses.replace(RECIPES["anderson-berg-2018"], **{{**fields, **changes}})
            train(recipe, folder / name, **how)
        except HypersignError as error:
            (folder / f"{{name}}-{{rank}}.txt").write_text(str(error))

    attempt("uneven", batch_size=51)
    (folder / "taken").mkdir(exist_ok=True)
    (folder / "taken" / "notes").write_text("mine")
    attempt("taken")

    call, seen = Step.__call__, [0]

    def signalled(self, images, labels, rate):
        seen[0] += 1
        if seen[0] == 5:
            holder = (folder / "stopped" / ".lock").read_text().split()[0]
            (folder / f"holder-{{rank}}.txt").write_text(f"{{holder}} {{os.getpid()}}")
        if seen[0] == 6 and rank == 1:  # Ctrl-C reaches one process before the other, and twice
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return call(self, images, labels, rate)

    Step.__call__ = signalled
    attempt("stopped")
    Step.__call__ = call
    resume(folder / "stopped", **how)
"""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """What two processes did: a folder with their runs and their error messages, and their output."""
    folder = tmp_path_factory.mktemp("scenes")
    (folder / "scenes.py").write_text(textwrap.dedent(SCENES).format(fields=FIELDS))
    words = ["--recipe", "anderson-berg-2018", "--device", "cpu", "--save-seconds", "0"]
    for name, value in FIELDS.items():
        words += [f"--{name.replace('_', '-')}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    # torchrun; --standalone finds a free port
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = subprocess.Popen(
        [*launch, str(folder / "scenes.py"), str(folder), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    try:
        output, error = process.communicate(timeout=150)
    except subprocess.TimeoutExpired:  # one waits for the other
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"two processes hang: {process.communicate()[1]}")
    assert process.returncode == 0, error
    return folder, output, error


def two_halves():
    """The same training in one process, each half of a batch on its own through the same weights."""
    data = load_data("digits")
    torch.manual_seed(0)
    model = models.build("vgg", data.shape, 10, widths=(4, 6), pools=(1, 2), hidden=(16,))
    optimizer = torch.optim.Adam(model.parameters(), fused=False, foreach=False)
    norms = [module for module in model.modules() if hasattr(module, "running_mean")]
    losses, right, step = [], [], 0
    for epoch in (1, 2):
        batches = Batches(data.train[: len(data.train) - 40][:200], 50, pixel_range=data.pixel_range, seed=0)
        optimizer.param_groups[0]["lr"] = 1e-3 * (3e-7 / 1e-3) ** (epoch / 2)
        for x, labels in batches.epoch(epoch):
            step += 1
            model.train()
            first = model(x[:25])
            statistics = [(norm.running_mean.clone(), norm.running_var.clone()) for norm in norms]
            second = model(x[25:])
            loss = (squared_hinge(first, labels[:25]) + squared_hinge(second, labels[25:])) / 2
            optimizer.zero_grad()
            loss.backward()
            for p in model.parameters():
                p.grad.clamp_(-1, 1)
            optimizer.step()
            for norm, (mean, variance) in zip(norms, statistics, strict=True):  # the first process's are kept
                norm.running_mean.copy_(mean)
                norm.running_var.copy_(variance)
            with torch.no_grad():
                for layer in quant_layers(model).values():
                    layer.weight.clamp_(-1, 1)
            losses.append(loss.item())
            right.append(int((torch.cat([first, second]).argmax(1) == labels).sum()))
    rows = [{"loss": sum(losses[n : n + 4]) / 4, "accuracy": sum(right[n : n + 4]) / 200} for n in (0, 4)]
    return model, rows


def test_two_processes_are_two_halves(scenes):
    folder, output, error = scenes
    run = load(folder / "whole")
    assert run.finished
    model, rows = two_halves()
    trained = run.load_model().state_dict()
    for name, tensor in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.allclose(trained[name], tensor, rtol=0, atol=1e-6), name
    for ours, expected in zip(run.metrics(), rows, strict=True):  # each epoch once
        assert ours["loss"] == pytest.approx(expected["loss"], rel=1e-6)
        assert ours["accuracy"] == expected["accuracy"]
    # One of them writes, and one of them speaks.
    assert sorted(path.name for path in run.path.iterdir()) == [
        "best.safetensors",
        "metrics.jsonl",
        "model.safetensors",
        "run.json",
    ]
    assert output.count("Next:") == 1
    assert error.count("epoch   1/2") == 1


def test_what_happens_to_one_happens_to_both(scenes, weights, assert_same):
    folder, *_ = scenes
    said = {path.stem: path.read_text() for path in folder.glob("*.txt")}
    for rank in "01":
        assert said[f"uneven-{rank}"] == "batch_size must be a multiple of the number of processes, 2; got 51"
        assert said[f"stopped-{rank}"].startswith("training stopped in epoch 2 of 2, step 6; its state is saved.")
    assert {said[f"holder-{rank}"].split()[0] for rank in "01"} == {said["holder-0"].split()[1]}  # the first process
    assert said["taken-0"].startswith("the run folder must be new or empty; ")
    assert said["taken-1"] == "another process of the group could not go on: its message says why"
    assert not (folder / "uneven").exists()
    assert [path.name for path in (folder / "taken").iterdir()] == ["notes"]
    whole, stopped = load(folder / "whole"), load(folder / "stopped")
    assert_same(weights(stopped.path), weights(whole.path))
    assert_same(weights(stopped.path, "best.safetensors"), weights(whole.path, "best.safetensors"))
    for left, right in zip(stopped.metrics(), whole.metrics(), strict=True):
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-12)
        assert [left[key] for key in ("step", "accuracy", "validation_loss", "layers")] == [
            right[key] for key in ("step", "accuracy", "validation_loss", "layers")
        ]


def test_one_process_alone():
    accelerator = make_accelerator("cpu")
    assert any_process(accelerator, True, False) == (True, False)
    assert first_process_first(accelerator, lambda: 3) == 3

    def fails():
        raise HypersignError("no")

    with pytest.raises(HypersignError, match=r"^no$"):
        first_process_first(accelerator, fails)
