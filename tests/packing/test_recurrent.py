"""Packed recurrent networks that read images: torch's logits, the certificate, and files that are refused."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from hypersign import HypersignError
from hypersign.cli import main
from hypersign.export import onnx_model, write_c
from hypersign.models import build
from hypersign.packed import PackedModel
from hypersign.packed.format import read, write
from hypersign.packing import file_size, pack, verify
from hypersign.packing.replica import Replica

OPTIONS = {
    "binary": {},
    "two layers": {"hidden": [12, 8]},
    "gru by pixels": {"scan": "pixels", "cell": "gru"},
    "rnn, permuted": {"scan": "permuted", "cell": "rnn"},
    "batch norm per step": {"norm": "batch", "step_statistics": True},
    "layer norm, 8-bit states": {"norm": "layer", "inputs": "int8"},
    "signs of states": {"inputs": "sign"},
    "float": {"weights": "float"},
    "ternary": {"levels": 3, "norm": "none"},
}


def network(shape=(1, 6, 5), **options):
    torch.manual_seed(0)
    model = build("lstm", shape, 4, **{"hidden": [16], **options})
    model.train()
    model(torch.randn(30, *shape))  # running statistics
    return model.eval()


def packed(model, folder, shape=(1, 6, 5)):
    pack(model, folder / "net", shape, pixel_range=(-1.0, 1.0))
    return PackedModel.load(folder / "net")


def images(shape=(1, 6, 5), count=40):
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(1, 6, 5), (3, 4, 6)])
@pytest.mark.parametrize("name", OPTIONS)
def test_logits_are_those_of_torch(name, shape, tmp_path):
    model = network(shape, **OPTIONS[name])
    found, x = packed(model, tmp_path, shape), images(shape)
    with torch.no_grad():
        wanted = model(torch.from_numpy(x).float() * (2 / 255) - 1).numpy()
    np.testing.assert_allclose(found.predict(x), wanted, atol=2e-6)
    certificate = verify(model, found, x)
    assert (certificate.images, certificate.wrong) == (40, 0)
    assert file_size(model, shape, pixel_range=(-1.0, 1.0)) == (tmp_path / "net").stat().st_size


def test_the_replica_sees_a_wrong_weight(tmp_path):
    model = network()
    found, x = packed(model, tmp_path), images()
    with torch.no_grad():
        model.layer1.weight_hh_l0[3, 2] *= -1
    assert set(Replica(model, found).follow([x], [found.predict(x)]).wrong) == {"layer1"}


def test_the_command_packs_and_runs_it(tmp_path, capsys):
    run, file = tmp_path / "run", tmp_path / "net.hypersign"
    words = ["--data", "digits", "--model", "lstm", "--hidden", "12", "--epochs", "1", "--device", "cpu"]
    main(["train", *words, "--output", str(run)])
    main(["pack", str(run), "-o", str(file), "--verify"])
    assert "0 with a different class" in " ".join(capsys.readouterr().out.split())
    assert json.loads((tmp_path / "net.hypersign.json").read_text())["wrong"] == 0


def test_other_formats_refuse_it(tmp_path):
    found = packed(network(), tmp_path)
    with pytest.raises(
        HypersignError, match="no exact form of the operation recurrent in float32; run the packed file"
    ):
        onnx_model(found)
    with pytest.raises(HypersignError, match="C has no recurrent operation; run the packed file"):
        write_c(found, tmp_path / "net.c")


def test_networks_for_text_are_refused(tmp_path):
    with pytest.raises(HypersignError, match="it reads tokens: pack it as a language model"):
        pack(build("lstm", (5,), 4, hidden=[8]), tmp_path / "net", (1, 6, 5), pixel_range=(-1.0, 1.0))


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("cell", "LSTMX", "cell must be"),
        ("units", 0, "units must be"),
        ("units", 15, r"layer1.ih_levels must be uint64 of shape \(60, 1\) or \(2, 60, 1\)"),
        ("steps", "columns", "steps must be"),
        ("outputs", "first", "outputs must be"),
        ("hidden", "int4", "hidden must be"),
        ("outputs", "all", "head"),
    ],
)
def test_wrong_options(option, value, message, tmp_path):
    packed(network(), tmp_path)
    content = read(tmp_path / "net")
    nodes = [
        dataclasses.replace(node, options={**node.options, option: value}) if node.op == "recurrent" else node
        for node in content.graph.nodes
    ]
    tensors = {f"{node.name}.{role}": tensor for node in content.nodes for role, tensor in node.tensors.items()}
    with pytest.raises(HypersignError, match=message):
        write(tmp_path / "other", dataclasses.replace(content.graph, nodes=tuple(nodes)), tensors)


def test_wrong_numbers(tmp_path):
    packed(network(norm="batch", scan="permuted"), tmp_path)
    content = read(tmp_path / "net")
    tensors = {f"{node.name}.{role}": tensor for node in content.nodes for role, tensor in node.tensors.items()}
    for name, change, message in (
        ("layer1.norm_hh_variance", lambda t: t - 9, "must hold no negative number"),
        ("layer1.order", np.zeros_like, "must hold each of the 30 steps once"),
        ("layer1.ih_scale", lambda t: t * np.nan, "NaN or infinity"),
        ("layer1.hh_levels", lambda t: t | np.uint64(2**63), "zeros in the bits past 16"),
    ):
        with pytest.raises(HypersignError, match=message):
            write(tmp_path / "other", content.graph, {**tensors, name: change(tensors[name])})
