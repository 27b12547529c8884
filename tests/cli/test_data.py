import json
from pathlib import Path

import numpy as np
import pytest
import tyro

from hypersign._checks import HypersignError
from hypersign.cli.data import export, fetch, list_
from hypersign.data import NAMES, load


def run(*words):
    tyro.extras.subcommand_cli_from_dict({"export": export, "fetch": fetch, "list": list_}, args=list(words))


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    monkeypatch.delenv("HYPERSIGN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_fetch_prints_the_folder_alone(capsys):
    run("fetch", "digits")
    assert (Path(capsys.readouterr().out.strip()) / "digits.csv.gz").exists()


def test_fetch_of_an_unknown_set():
    with pytest.raises(HypersignError, match="must be one of digits, mnist"):
        run("fetch", "nope")


def test_list_is_a_table(capsys):
    run("list")
    shown = capsys.readouterr().out
    for word in (*NAMES, "50,000", "3x32x32", "170 MB to download", "scikit-learn"):
        assert word in shown


def test_list_at_80_columns_keeps_paths_and_numbers_whole(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    run("list")
    lines = capsys.readouterr().out.splitlines()
    (path,) = (line for line in lines if line.startswith("digits: "))
    assert Path(path.removeprefix("digits: "), "digits.csv.gz").exists()
    (row,) = (line for line in lines if line.startswith("│cifar-10 "))
    assert "170 MB to download" in row


@pytest.mark.parametrize("split", ["test", "train"])
def test_export_is_what_load_gives(split, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("export", "digits", "images.npy", "--split", split)
    wanted = getattr(load("digits"), split)
    images = np.load("images.npy")
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, wanted.images.numpy())
    np.testing.assert_array_equal(np.load("images-labels.npy"), wanted.labels.numpy())
    assert "images-labels.npy" in capsys.readouterr().out
    run("export", "digits", "vectors.npy", "--split", split, "--vectors")
    vectors = np.load("vectors.npy")
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, images.reshape(len(images), 64))


def test_export_of_a_wrong_name_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HypersignError, match=r"must end in \.npy; got images\.png"):
        run("export", "digits", "images.png")
    with pytest.raises(HypersignError, match="must be one of digits"):
        run("export", "nope", "images.npy")
    with pytest.raises(HypersignError, match="a folder that exists"):
        run("export", "digits", "none/images.npy")
    assert list(tmp_path.iterdir()) == []


def test_list_as_json_alone(capsys):
    run("list", "--json")
    items = json.loads(capsys.readouterr().out)
    assert [item["name"] for item in items] == list(NAMES)
    assert items[3] == {
        "name": "cifar-10",
        "train_images": 50000,
        "test_images": 10000,
        "shape": [3, 32, 32],
        "classes": 10,
        "place": "absent",
        "path": None,
        "download_bytes": 170052171,
    }


def test_list_as_json_in_a_file(capsys, tmp_path):
    run("list", "--json", str(tmp_path / "sets.json"))
    assert [item["name"] for item in json.loads((tmp_path / "sets.json").read_text())] == list(NAMES)
    assert "cifar-10" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["sets.json"]


def test_list_into_no_folder(tmp_path):
    with pytest.raises(HypersignError, match=r"no/sets\.json could not be written: No such file"):
        run("list", "--json", str(tmp_path / "no" / "sets.json"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["fetch", "list"])
def test_help_says_what_a_stranger_needs(verb, capsys):
    with pytest.raises(SystemExit) as exit_:
        run(verb, "--help")
    assert exit_.value.code == 0
    shown = capsys.readouterr().out
    assert {"fetch": "HYPERSIGN_DATA", "list": "--json [FILE]"}[verb] in shown
