"""Ensembles: what members train on, their votes, and one run folder and one packed file of all."""

import math
import os
import signal

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from hypersign._checks import HypersignError
from hypersign.cli import train as command
from hypersign.data import load as load_data
from hypersign.geometry import inspect
from hypersign.models import Ensemble, mlp, resnet20
from hypersign.packed import PackedModel
from hypersign.packing import pack, verify
from hypersign.runs import load
from hypersign.training import InterruptedTrainingError, Recipe, train_ensemble
from hypersign.training.ensembles import _vote
from hypersign.training.step import Step

QUIET = {"device": "cpu", "console": Console(quiet=True)}


def recipe(**fields):
    small = {"data": "digits", "model": "mlp", "hidden": (16,), "epochs": 3, "images": 200, "batch_size": 20}
    return Recipe(**{**small, "reestimate_images": 100, "learning_rate": 0.01, **fields})


def test_boosting_by_hand(tmp_path):
    run = train_ensemble(recipe(), tmp_path / "run", members=3, scheme="boosting", **QUIET)
    data = load_data("digits", seed=0)
    split = data.train[:200]
    low, high = data.pixel_range
    x = split.images.float() * ((high - low) / 255) + low
    p, votes = np.full(200, 1 / 200), []
    for i in range(3):
        rows = np.random.default_rng((i, i)).choice(200, 200, p=p)
        drawn = torch.from_numpy(rows)
        member = load(tmp_path / "run" / "members" / str(i))
        assert member.info["recipe"]["seed"] == i
        network = load(member.path, data=_given(data, split, drawn, i)).load_model()
        with torch.no_grad():
            right = (network(x).argmax(1) == split.labels).numpy()
        error = sum(share for share, fine in zip(p, right, strict=True) if not fine)
        votes.append(0.5 * (math.log((1 - error) / error) + math.log(9)))
        p = np.array(
            [share * math.exp(-votes[-1] if fine else votes[-1]) for share, fine in zip(p, right, strict=True)]
        )
        p /= p.sum()
    assert run.info["ensemble"]["votes"] == pytest.approx(votes)
    model = run.load_model()
    assert model.votes.tolist() == pytest.approx(votes)
    assert run.info["results"]["test"]["accuracy"] > 0.5


def _given(data, split, drawn, number):
    import dataclasses

    from hypersign.data import Split, fingerprint

    rows = Split(split.images[drawn], split.labels[drawn])
    return dataclasses.replace(data, name=f"digits-{number}", train=rows, sha256=fingerprint(rows, data.test))


def test_the_vote():
    assert _vote(0.5, 10, 0) == pytest.approx(math.log(9) / 2)
    assert _vote(0.2, 2, 0) == pytest.approx(math.log(4) / 2)  # AdaBoost's
    assert math.isfinite(_vote(0.0, 10, 0))
    with pytest.raises(HypersignError, match=r"member 3 misses 95.0% of its weighted images: train longer"):
        _vote(0.95, 10, 3)


def test_an_ensemble_stops_resumes_inspects_and_packs(tmp_path, monkeypatch, capsys):
    words = (
        *("--data", "digits", "--model", "mlp", "--hidden", "16", "--images", "100", "--epochs", "2"),
        *("--batch-size", "25", "--reestimate-images", "100", "--device", "cpu", "--members", "2"),
    )
    command.run([*words, "--output", str(tmp_path / "whole")])
    assert "Next:" in capsys.readouterr().out
    call, seen = Step.__call__, []

    def stopping(self, *batch):
        seen.append(batch)
        if len(seen) == 11:  # in the second member
            os.kill(os.getpid(), signal.SIGINT)
        return call(self, *batch)

    monkeypatch.setattr(Step, "__call__", stopping)
    with pytest.raises(InterruptedTrainingError, match=r"^training stopped in member 1; .* the same command again$"):
        command.run([*words, "--output", str(tmp_path / "stopped")])
    command.run([*words, "--output", str(tmp_path / "stopped")])
    whole, run = load(tmp_path / "whole"), load(tmp_path / "stopped")
    for left, right in zip(*(r.load_model().state_dict().values() for r in (whole, run)), strict=True):
        assert torch.equal(left, right)
    assert run.info["ensemble"] == {"scheme": "bagging", "votes": [0.5, 0.5]}
    model, data = run.load_model(), run.data()
    found = inspect(model, data.batches(data.test[:50], 50), task=run.task())
    assert [layer.name for layer in found.layers][:2] == ["members.0.fc1", "members.0.fc2"]
    pack(run, tmp_path / "net")
    assert verify(model, PackedModel.load(tmp_path / "net"), data.test.images[:100].numpy()).wrong == 0
    with pytest.raises(HypersignError, match="is finished: choose another"):
        command.run([*words, "--output", str(tmp_path / "stopped")])


def test_members_of_another_ensemble_are_refused(tmp_path, monkeypatch):
    call, seen = Step.__call__, []

    def stopping(self, *batch):
        seen.append(batch)
        if len(seen) == 31:  # the second member's first step
            os.kill(os.getpid(), signal.SIGINT)
        return call(self, *batch)

    monkeypatch.setattr(Step, "__call__", stopping)
    with pytest.raises(InterruptedTrainingError):
        train_ensemble(recipe(), tmp_path / "run", members=2, **QUIET)
    for other in ({"epochs": 2}, {"images": 190}, {"learning_rate": 0.02}):
        with pytest.raises(
            HypersignError, match=r"members/0 is a member of another ensemble, with another recipe or"
        ):
            train_ensemble(recipe(**other), tmp_path / "run", members=2, **QUIET)
    assert train_ensemble(recipe(), tmp_path / "run", members=2, **QUIET).finished
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(
        HypersignError, match=r"the run folder must be new, or hold unfinished members; .*notes is not"
    ):
        train_ensemble(recipe(), tmp_path / "notes", members=2, **QUIET)
    with pytest.raises(HypersignError, match="--ensemble draws images for several members: give --members"):
        command.run(["--data", "digits", "--ensemble", "boosting", "--output", str(tmp_path / "one")])


def test_members_share_real_pixels(tmp_path):
    torch.manual_seed(0)
    model = Ensemble([resnet20((1, 8, 8), 3, widths=(4,)), mlp((1, 8, 8), 3, hidden=(8,))], votes=[0.75, 0.25]).eval()
    pack(model, tmp_path / "net", (1, 8, 8), pixel_range=(0.0, 1.3))
    images = np.random.default_rng(0).integers(0, 256, (20, 1, 8, 8)).astype(np.uint8)
    packed = PackedModel.load(tmp_path / "net")
    assert [node.op for node in packed.graph.nodes].count("pixels") == 1
    x = torch.from_numpy(images).float() * (1.3 / 255)
    with torch.no_grad():
        expected = 0.75 * model.members[0](x) + 0.25 * model.members[1](x)
    np.testing.assert_allclose(packed.predict(images), expected.numpy(), rtol=1e-4, atol=1e-4)
    assert verify(model, packed, images).wrong == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ensemble([]), "an ensemble needs members, and one vote for each; got 0"),
        (lambda: Ensemble([nn.Identity()], votes=[1.0, 2.0]), r"got 1 and \[1.0, 2.0\]"),
        (lambda: train_ensemble(recipe(), "x", members=1), "members must be an integer from 2 to 64; got 1"),
        (
            lambda: train_ensemble(recipe(), "x", members=2, scheme="stacking"),
            "scheme must be one of bagging, boosting",
        ),
        (lambda: command.run(["--members", "2", "--report"]), "--members trains new networks, without --report"),
    ],
)
def test_bad_ensembles(make, message):
    with pytest.raises(HypersignError, match=message):
        make()
