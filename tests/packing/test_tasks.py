"""Packed networks of other tasks than classes of images: vectors, numbers to predict."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import hypersign
from hypersign._checks import HypersignError
from hypersign.cli import main
from hypersign.data import TensorData, TensorSplit
from hypersign.layers import QuantLinear
from hypersign.packed import PackedModel
from hypersign.packing import file_size, pack, verify
from hypersign.quantizers import MeanScale, Sign
from hypersign.tasks import NextToken, Regression


def network(outputs: int = 2) -> nn.Module:
    torch.manual_seed(0)
    binary = {"weight_quantizer": Sign(scale=MeanScale()), "input_quantizer": Sign()}
    model = nn.Sequential(
        nn.Linear(7, 65),
        nn.BatchNorm1d(65),
        QuantLinear(65, 33, **binary),
        nn.BatchNorm1d(33),
        nn.Linear(33, outputs),
    )
    for layer in (model[1], model[3]):
        nn.init.uniform_(layer.running_mean, -0.5, 0.5)
    return model.eval()


VECTORS = np.random.default_rng(0).standard_normal((200, 7)).astype(np.float32)


def test_a_regression_of_vectors(tmp_path: Path) -> None:
    model, task = network(), Regression(tolerance=0.01)
    pack(model, tmp_path / "net", (7,), task=task)
    assert (tmp_path / "net").stat().st_size == file_size(model, (7,), pixel_range=None, task=task)
    packed = PackedModel.load(tmp_path / "net")
    assert (packed.graph.task.name, packed.classes, packed.shape, packed.outputs) == ("regression", (), (7, 1, 1), 2)
    found = packed.predict(VECTORS)
    with torch.no_grad():
        expected = model(torch.from_numpy(VECTORS)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found, packed.predict(VECTORS[:, :, None, None]))
    assert packed.decide(found) is found
    np.save(tmp_path / "x.npy", VECTORS)
    main(["run", f"{tmp_path}/net", "-i", f"{tmp_path}/x.npy", "-o", f"{tmp_path}/y.csv"])
    rows = [line.split(",") for line in (tmp_path / "y.csv").read_text().splitlines()]
    assert rows[0] == ["image", "output 0", "output 1"]
    np.testing.assert_allclose(np.float32([row[1:] for row in rows[1:]]), found, rtol=1e-5)
    certificate = verify(model, packed, VECTORS)
    assert certificate.holds
    assert (certificate.images, certificate.decisions_differ) == (200, 0)


def test_a_classifier_of_vectors(tmp_path: Path) -> None:
    model = network(3)
    pack(model, tmp_path / "net", (7,), classes=("a", "b", "c"))
    packed = PackedModel.load(tmp_path / "net")
    found = packed.predict(VECTORS)
    np.testing.assert_array_equal(packed.decide(found), found.argmax(1))
    assert len(set(found.argmax(1).tolist())) == 3
    assert verify(model, packed, VECTORS).holds


def test_a_wrong_regression_is_told(tmp_path: Path) -> None:
    """The bias of the last layer is off by .02: beyond the tolerance of .01, within that of .03."""
    model = network()
    with torch.no_grad():
        model[-1].bias += 0.02
    for tolerance, differ in ((0.01, 200), (0.03, 0)):
        pack(model, tmp_path / "net", (7,), task=Regression(tolerance=tolerance))
        found = verify(network(), PackedModel.load(tmp_path / "net"), VECTORS)
        assert (found.decisions_differ, found.wrong, found.holds) == (differ, 200, False)
        assert len(found.differences[0].packed_decision) == 2


def test_a_run_of_a_regression_packs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.from_numpy(VECTORS)
    splits = (TensorSplit(x, x[:, :2] ** 2), TensorSplit(x[::3], x[::3, :2] ** 2))
    data = TensorData("squares", *splits, Regression(tolerance=0.1))
    recipe = hypersign.Recipe(epochs=1, batch_size=50, flip=False, crop_padding=0)
    run = hypersign.train(recipe, tmp_path / "run", data=data, model=network)
    hypersign.pack(run, tmp_path / "net")
    packed = PackedModel.load(tmp_path / "net")
    assert packed.graph.task == type(packed.graph.task)(tolerance=0.1)
    assert verify(run.load_model(), packed, VECTORS).holds


def test_what_has_no_packed_form(tmp_path: Path) -> None:
    with pytest.raises(HypersignError, match="the task 'next token' has no packed form"):
        pack(network(), tmp_path / "net", (7,), task=NextToken())
    with pytest.raises(HypersignError, match=r"images \(channels, height, width\), signals"):
        pack(network(), tmp_path / "net", (7, 2, 2, 2))
    assert list(tmp_path.iterdir()) == []
