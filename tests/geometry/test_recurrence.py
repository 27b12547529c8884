"""Recurrent layers over time: r by hand, predictions, the float replica."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn

from hypersign import HypersignError
from hypersign.cli import main
from hypersign.geometry.recurrence import over_time
from hypersign.layers import QuantLSTM
from hypersign.models import build, lstm
from hypersign.quantizers import Sign

TOKENS = torch.randint(9, (900, 14), generator=torch.Generator().manual_seed(0))


def small(**options):
    torch.manual_seed(1)
    return build("lstm", (14,), 9, hidden=[24], embedding=12, **options)


def by_hand(model, tokens):
    """States of a binary LSTM with weight norm, and r_t, in NumPy."""
    layer = model.layer1
    x = model.embedding.weight.detach().double().numpy()[tokens.numpy()]
    values = {name: p.detach().double().numpy() for name, p in layer.named_parameters()}
    signs = {kind: np.where(values[f"weight_{kind}_l0"] >= 0, 1.0, -1.0) for kind in ("ih", "hh")}
    rows = {k: values[f"{k}_l0.gain"][:, None] * s / np.sqrt(s.shape[1]) for k, s in signs.items()}
    h = c = np.zeros((len(tokens), 24))
    found = []
    for t in range(tokens.shape[1]):
        if t:
            a, b = h @ values["weight_hh_l0"].T, h @ rows["hh"].T
            found.append(np.mean([np.corrcoef(a[:, j], b[:, j])[0, 1] for j in range(96)]))
        z = x[:, t] @ rows["ih"].T + h @ rows["hh"].T + values["bias_ih_l0"] + values["bias_hh_l0"]
        i, f, g, o = np.split(z, 4, 1)
        c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        h = np.tanh(c) / (1 + np.exp(-o))
    return found, h


def test_r_is_that_of_the_products_by_hand():
    model = small()
    found = over_time(model, TOKENS[:200], TOKENS[200:400]).layers[0]
    wanted, _ = by_hand(model, TOKENS[:200])
    np.testing.assert_allclose(found.r, wanted, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"inputs": "sign"}, {"norm": "layer"}, {"cell": "gru"}, {"levels": 3}])
def test_predictions_hold(options):
    found = over_time(small(**options), TOKENS[:450], TOKENS[450:]).layers[0]
    assert len(found.r) == 13
    assert found.departs() == []
    gap = np.abs(np.subtract(found.accumulated, found.predicted_accumulated))
    assert gap.max() < (0.3 if options.get("inputs") == "sign" else 0.1)
    assert all(0 < error < 0.05 for error in found.r_error)
    assert (np.array(found.accumulated) <= np.array(found.r) + 0.05).all()


def test_real_weights_keep_everything():
    model = small(float_weights=["layer1.hh"])
    found = over_time(model, TOKENS[:100], TOKENS[100:200]).layers[0]
    np.testing.assert_allclose(found.r, 1.0, atol=1e-5)
    assert found.accumulated[0] < 1  # the inputs' weights are binary
    assert found.latent_norm == pytest.approx(found.quantized_norm, rel=1e-4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.layer1.observer is None


def test_moments_of_the_states():
    model = small()
    found = over_time(model, TOKENS[:100, :2], TOKENS[100:200, :2]).layers[0]
    with torch.no_grad():
        _, memory = model.read(TOKENS[:100, :1])
    h = memory[0][0][0]
    assert found.state_mean == pytest.approx((float(h.mean()),), abs=1e-6)
    assert found.state_mean_square == pytest.approx((float(h.square().mean()),), abs=1e-6)
    cosine = h.abs().sum(1) / h.norm(dim=1) / 24**0.5
    assert found.sign_angle_degrees == pytest.approx((float(torch.rad2deg(cosine.arccos()).mean()),), abs=1e-2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lstm((4,), 9, hidden=(4,)), "the number of test sequences must be"),
        (lambda: build("lstm", (4,), 9, hidden=[4], weights="float"), "a recurrent layer with quantized weights"),
        (lambda: nn.Sequential(QuantLSTM(3, 4, num_layers=2, recurrent_weight_quantizer=Sign())), "one layer in one"),
    ],
)
def test_bad_networks(make, message):
    with pytest.raises(HypersignError, match=message):
        over_time(make(), TOKENS[:5], TOKENS[5:50])
    with pytest.raises(HypersignError, match="at least 2 steps"):
        over_time(small(), TOKENS[:40, :1], TOKENS[40:80, :1])


def test_inspect_writes_page_and_numbers(tmp_path, capsys):
    file = tmp_path / "rhyme.txt"
    file.write_text("the cat sat on the mat and the rat ate the hat " * 80)
    run = str(tmp_path / "run")
    words = ["--model", "lstm", "--hidden", "12", "--epochs", "1", "--batch-size", "8", "--length", "12"]
    main(["train", "--data", f"text:{file}", *words, "--output", run, "--device", "cpu"])
    capsys.readouterr()
    main(["inspect", run, "--images", "30"])
    shown = capsys.readouterr().out
    assert "over time" in shown
    numbers = json.loads((tmp_path / "run" / "recurrence.json").read_text())
    assert len(numbers["layers"][0]["r"]) == 11
    assert numbers["test_sequences"] == 30
    page = (tmp_path / "run" / "report.html").read_text()
    assert "data:image/png;base64," in page
    assert "bits per character" in page


def test_departures_are_counted_from_the_sixth_step():
    found = over_time(small(), TOKENS[:40], TOKENS[40:80]).layers[0]
    off = dataclasses.replace(found, predicted_r=(0.0, *found.r[1:7], 0.0, *found.r[8:]))
    assert off.departs() == [8]
