"""r of attention by head and position, against NumPy."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from hypersign import HypersignError, study
from hypersign.cli import main
from hypersign.geometry import PositionR, position_r
from hypersign.models import build
from hypersign.runs import load

TOKENS = torch.randint(9, (400, 6), generator=torch.Generator().manual_seed(0))


def test_r_of_each_head_and_position():
    torch.manual_seed(0)
    model = build("gpt", (6,), 9, width=16, blocks=2, heads=2, weights="sign").eval()
    found = position_r(model, TOKENS[:200], TOKENS[200:])
    assert [row.name for row in found][:4] == [
        "block1.attention.query",
        "block1.attention.key",
        "block1.attention.value",
        "block1.attention.output",
    ]
    first, layer = found[1], model.block1.attention.key
    with torch.no_grad():
        x = model.block1.norm1(model.embedding(TOKENS[:200])).numpy()
        w = layer.weight.numpy()
    for head, position in ((0, 0), (1, 4)):
        a, b = x[:, position] @ w.T, x[:, position] @ np.where(w >= 0, 1, -1).T
        wanted = np.mean([np.corrcoef(a[:, j], b[:, j])[0, 1] for j in range(8 * head, 8 * head + 8)])
        assert first.r[head][position] == pytest.approx(wanted, abs=1e-5)
    for row in found:
        assert np.abs(np.subtract(row.r, row.predicted_r)).max() < 0.05


@pytest.mark.parametrize("kind", ["swiglu", "gelu"])
def test_r_of_the_other_layers_over_all_their_units(kind):
    torch.manual_seed(0)
    model = build("gpt", (6,), 9, width=16, blocks=1, heads=2, weights="sign", feed_forward=kind).eval()
    found = {row.name: row for row in position_r(model, TOKENS[:200], TOKENS[200:])}
    parts = ["attention.query", "attention.key", "attention.value", "attention.output"]
    parts += ["feed_forward.gate"] * (kind == "swiglu") + ["feed_forward.up", "feed_forward.down"]
    assert list(found) == [f"block1.{part}" for part in parts]
    seen = {}
    for name in ("attention.output", *parts[4:]):
        model.get_submodule(f"block1.{name}").register_forward_pre_hook(
            lambda layer, args, name=name: seen.update({name: args[0].detach().numpy()})
        )
    model(TOKENS[:200])
    for name, x in seen.items():
        w = model.get_submodule(f"block1.{name}").weight.detach().numpy()
        row = found[f"block1.{name}"]
        assert (len(row.r), len(row.r[0])) == (1, 6)
        for position in (0, 5):
            a, b = x[:, position] @ w.T, x[:, position] @ np.where(w >= 0, 1, -1).T
            wanted = np.mean([np.corrcoef(a[:, j], b[:, j])[0, 1] for j in range(len(w))])
            assert row.r[0][position] == pytest.approx(wanted, abs=1e-5)
        assert np.abs(np.subtract(row.r, row.predicted_r)).max() < 0.06
    down = ["block1.feed_forward.down"]
    others = [name for name in found if name not in down]
    model = build(
        "gpt",
        (6,),
        9,
        width=16,
        blocks=1,
        heads=2,
        weights="sign",
        inputs="float",
        float_weights=others,
        feed_forward=kind,
    )
    assert [row.name for row in position_r(model, TOKENS[:20], TOKENS[20:40])] == down


def test_means_over_positions_leave_out_what_is_unknown():
    row = PositionR("a", ((0.5, 0.7, math.nan), (0.1, 0.2, 0.3)), ((0.4, math.nan, 0.9), (0.3, 0.3, 0.3)))
    assert row.by_head() == [(0.5, 0.4), (pytest.approx(0.2), pytest.approx(0.3))]
    assert row.overall() == (pytest.approx(0.35), pytest.approx(0.35))
    unknown = ((math.nan,), (0.2,)), ((0.1,), (0.4,))
    assert PositionR("a", *unknown).overall() == (0.2, 0.4)
    assert np.isnan(PositionR("a", ((math.nan,),), ((math.nan,),)).overall()).all()


def test_inspect_shows_heads_and_positions(tmp_path, capsys):
    file, run = tmp_path / "rhyme.txt", tmp_path / "run"
    file.write_text("the cat sat on the mat and the rat ate the hat " * 80)
    words = [
        "--model",
        "gpt",
        "--width",
        "8",
        "--blocks",
        "1",
        "--heads",
        "2",
        "--weights",
        "sign",
        "--epochs",
        "1",
        "--batch-size",
        "8",
        "--length",
        "12",
    ]
    main(["train", "--data", f"text:{file}", *words, "--output", str(run), "--device", "cpu"])
    main(["inspect", str(run), "--images", "20"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "Positions and heads" in shown
    assert "test sequences" in shown
    assert "20 training sequences" in shown
    kept = json.loads((run / "positions.json").read_text())["positions"]
    opened = load(run)
    data = opened.data()
    inputs = next(iter(data.batches(data.test[: 20 * 12 + 1], 20)))[0]
    wanted = position_r(opened.load_model(), inputs, inputs)
    np.testing.assert_allclose(kept[0]["r"], wanted[0].r, atol=1e-6)
    parts = [f"attention.{part}" for part in ("query", "key", "value", "output")]
    parts += [f"feed_forward.{part}" for part in ("gate", "up", "down")]
    assert [row["name"] for row in kept] == [f"block1.{part}" for part in parts]
    page = (run / "report.html").read_text()
    assert '<option value="2">block1.attention.value</option>' in page
    assert f"{wanted[0].by_head()[1][0]:.3f}" in page
    (run / "report.html").unlink()
    study.refresh_report(opened)  # takes attention from its file
    assert "block1.attention.value</option>" in (run / "report.html").read_text()


def test_networks_without_it():
    with pytest.raises(HypersignError, match="a transformer with quantized layers"):
        position_r(nn.Linear(2, 2), TOKENS, TOKENS)
    with pytest.raises(HypersignError, match="a transformer with quantized layers"):
        position_r(build("gpt", (6,), 9, width=16, blocks=1, heads=2, weights="float"), TOKENS, TOKENS)
    with pytest.raises(HypersignError, match="number of test sequences"):
        position_r(nn.Linear(2, 2), TOKENS[:1], TOKENS)
