import json
import shutil

import numpy as np
import pytest
import torch
from rich.console import Console

from hypersign import models
from hypersign._checks import HypersignError
from hypersign.runs import FORMAT, Run, load, load_weights, read_tensors, write_tensors
from hypersign.training import Recipe, train


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run, on data of its own, with images held out."""
    folder = tmp_path_factory.mktemp("runs")
    generator = np.random.default_rng(0)
    arrays = {
        "images": generator.integers(256, size=(60, 1, 6, 6), dtype=np.uint8),
        "labels": np.arange(60) % 3,
        "test_images": generator.integers(256, size=(9, 1, 6, 6), dtype=np.uint8),
        "test_labels": np.arange(9) % 3,
    }
    np.savez(folder / "data.npz", **arrays)
    recipe = Recipe(data=str(folder / "data.npz"), model="mlp", hidden=(8,), epochs=2, batch_size=10, validation=10)
    train(recipe, folder / "run", device="cpu", console=Console(quiet=True))
    return folder / "run"


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of it to break."""
    return shutil.copytree(trained, tmp_path / "run")


def test_a_run_folder(trained):
    run = load(trained)
    assert run.name == "run"
    assert run.finished
    assert run.info["format"] == FORMAT == 1
    assert run.info["model"] == {
        "name": "mlp",
        "shape": [1, 6, 6],
        "classes": 3,
        "options": {"hidden": [8], "levels": 2},
    }
    assert Recipe(**run.info["recipe"]).validation == 10
    assert run.info["data"]["train_images"] == 60
    assert run.info["results"]["test"]["images"] == 9
    assert run.info["versions"]["torch"] == torch.__version__
    assert sorted(path.name for path in trained.iterdir()) == [
        "best.safetensors",
        "metrics.jsonl",
        "model.safetensors",
        "run.json",
    ]
    assert [row["epoch"] for row in run.metrics()] == [1, 2]
    assert run.data().shape == (1, 6, 6)
    assert run.data() is run.data()


@pytest.mark.parametrize("weights", ["last", "best"])
def test_weights(trained, weights):
    model = load(trained).load_model(weights)
    assert not model.training
    tensors, _ = read_tensors(trained / {"last": "model.safetensors", "best": "best.safetensors"}[weights])
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, tensors[name])


def test_the_name_is_the_folder_s_own(trained, monkeypatch):
    monkeypatch.chdir(trained)
    assert load(".").name == "run"


def test_no_folder(tmp_path):
    with pytest.raises(HypersignError, match=r"a run folder was expected at .*none; there is none: check the path"):
        load(tmp_path / "none")


def test_no_run_json(tmp_path):
    with pytest.raises(
        HypersignError,
        match=r"must be a run folder, with a run.json .*: No such file .*check the path",
    ):
        load(tmp_path)


@pytest.mark.parametrize("size", [0, 1, 100])
def test_run_json_cut_off(folder, size):
    path = folder / "run.json"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(HypersignError, match=r"run\.json must be JSON"):
        load(folder)


def test_run_json_of_no_text(folder):
    (folder / "run.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(HypersignError, match=r"run\.json must be JSON"):
        load(folder)


@pytest.mark.parametrize("content", [{"format": 2}, {}, [], 3], ids=repr)
def test_another_version(folder, content):
    (folder / "run.json").write_text(json.dumps(content))
    with pytest.raises(
        HypersignError, match=r"run.json says version (2|None): open it with the|must be a JSON object"
    ):
        load(folder)


def test_run_json_that_lacks_something(folder):
    info = load(folder).info
    del info["model"], info["data"]
    (folder / "run.json").write_text(json.dumps(info))
    with pytest.raises(HypersignError, match=r"run\.json lacks model, data: restore the file or train again"):
        load(folder)


@pytest.mark.parametrize("size", [0, 7, 200, -1])
def test_weights_cut_off(folder, size):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(
        HypersignError, match=r"model\.safetensors must be a whole safetensors file; .*restore it from"
    ):
        load(folder).load_model()


def test_weights_that_are_missing(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(HypersignError, match=r"run has no last weights .* resume with: hypersign train --resume"):
        load(folder).load_model()
    (folder / "best.safetensors").unlink()
    run = load(folder)
    with pytest.raises(HypersignError, match=r"run has no best weights .* hypersign train --resume"):
        run.load_model("best")
    run.info["recipe"]["validation"] = 0
    with pytest.raises(HypersignError, match=r"run has no best weights .*no images were held out to select them"):
        run.load_model("best")
    with pytest.raises(HypersignError, match=r"weights must be one of last, best; got 'first'"):
        run.load_model("first")


def test_weights_of_another_network(folder):
    other = models.build("mlp", (1, 6, 6), 4, hidden=[8])
    tensors = other.state_dict()
    del tensors["norm1.bias"]
    tensors["extra"] = torch.zeros(1)
    write_tensors(folder / "model.safetensors", tensors)
    with pytest.raises(HypersignError) as caught:
        load(folder).load_model()
    message = str(caught.value)
    assert message.startswith(f"{folder / 'model.safetensors'} does not fit the network: ")
    for part in (
        "norm1.bias is missing",
        "extra has no place in the network",
        "fc2.weight has shape (4, 8), the network needs (3, 8)",
        "norm2.running_mean has shape (4,), the network needs (3,)",
    ):
        assert part in message


def test_loading_is_all_or_nothing():
    model = models.build("mlp", (1, 2, 2), 2, hidden=[3])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = {name: tensor + 1 for name, tensor in before.items()}
    tensors["fc2.weight"] = torch.zeros(5, 3)
    with pytest.raises(HypersignError, match=r"^here does not fit"):
        load_weights(model, tensors, origin="here")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_data_that_has_changed(folder, tmp_path):
    run = load(folder)
    with np.load(run.info["data"]["source"], allow_pickle=False) as file:
        arrays = dict(file)
    arrays["images"][0, 0, 0, 0] ^= 1
    np.savez(tmp_path / "data.npz", **arrays)
    changed = run.update(data={**run.info["data"], "source": str(tmp_path / "data.npz")})
    with pytest.raises(
        HypersignError, match=r"run was trained on data with hash \w{12}, but .*npz now gives \w{12}: put"
    ):
        load(folder).data()
    assert changed.info == load(folder).info


@pytest.mark.parametrize("content", [b'{"epoch": 1}\n{"epo', b"\xff\n"], ids=["cut", "no text"])
def test_metrics_that_are_broken(folder, content):
    (folder / "metrics.jsonl").write_bytes(content)
    with pytest.raises(HypersignError, match=r"line \d of .*metrics\.jsonl must be JSON"):
        load(folder).metrics()


def test_no_metrics_yet(folder):
    (folder / "metrics.jsonl").unlink()
    assert load(folder).metrics() == []


def test_update_changes_the_file_and_not_the_object(folder):
    run = load(folder)
    assert isinstance(run.update(finished=False), Run)
    assert run.finished
    assert not load(folder).finished


def test_a_header_that_is_not_ours(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.ones(2)}, tmp_path / "a", metadata={"format": "pt"})
    save_file({"x": torch.ones(2)}, tmp_path / "b")
    save_file({"x": torch.ones(2)}, tmp_path / "c", metadata={"json": "{"})
    assert read_tensors(tmp_path / "a")[1] == read_tensors(tmp_path / "b")[1] == {}
    with pytest.raises(HypersignError, match="must be a whole safetensors file"):
        read_tensors(tmp_path / "c")


@pytest.mark.parametrize(
    "line", ["3", "null", "[]", '"x"', "[" * 100_000, "9" * 5000, "{"], ids=lambda text: text[:5]
)
def test_metrics_that_are_no_objects(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n' + line + "\n")
    with pytest.raises(HypersignError, match=r"line \d of .*metrics\.jsonl must be"):
        Run(tmp_path, {}).metrics()


@pytest.mark.parametrize(
    ("kind", "fits"), [(torch.float16, True), (torch.float64, True), (torch.int32, False), (torch.bool, False)]
)
def test_weights_of_another_type(kind, fits):
    model = torch.nn.Linear(3, 2)
    tensors = {name: torch.ones_like(tensor).to(kind) for name, tensor in model.state_dict().items()}
    if fits:
        load_weights(model, tensors, origin="here")
        assert model.weight.dtype == torch.float32
        assert (model.weight == 1).all()
    else:
        with pytest.raises(
            HypersignError, match=rf"here does not fit the network: weight is {kind}, the network needs"
        ):
            load_weights(model, tensors, origin="here")


def test_many_differences_are_counted():
    tensors = {f"\x1b[31m{i}": torch.ones(1) for i in range(100)}
    with pytest.raises(HypersignError, match=r"and 82 more$") as caught:
        load_weights(torch.nn.Linear(3, 2), tensors, origin="here")
    assert "\x1b" not in str(caught.value)
