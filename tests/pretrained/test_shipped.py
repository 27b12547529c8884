"""The networks in the package: what their cards say is what they are."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

import hypersign
from hypersign import HypersignError, PackedModel, packing, pretrained
from hypersign.cli.main import main
from hypersign.evaluate import evaluate

NAMES = pretrained.names()
GIVEN = os.environ.get("HYPERSIGN_DATA")


def test_the_networks_that_are_promised_are_there():
    assert {"digits", "cifar10-quarter"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_has_its_files_and_is_small(name):
    files = {path.name: path.stat().st_size for path in pretrained.folder(name).iterdir()}
    assert set(files) == {
        "config.json", "README.md", "run.json", "metrics.jsonl", "model.safetensors", pretrained.PACKED
    }  # fmt: skip
    assert sum(files.values()) <= 2_000_000


@pytest.mark.parametrize("name", NAMES)
def test_the_card_says_what_the_files_hold(name):
    card, folder, run = pretrained.card(name), pretrained.folder(name), hypersign.load(name)
    assert card.name == name
    assert card.accuracy == run.info["results"]["test"]["accuracy"]
    assert card.packed_bytes == (folder / pretrained.PACKED).stat().st_size
    assert card.float_bytes == hypersign.summary(run.load_model(), PackedModel.pretrained(name).shape).float_bytes
    assert (folder / "README.md").read_text() == card.text()
    assert (folder / "config.json").read_text() == card.config()
    assert str(folder) not in (folder / "config.json").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_weights_and_packed_file_are_one_network(name, tmp_path):
    run, packed = hypersign.load(name), PackedModel.pretrained(name)
    packing.pack(
        run.load_model(),
        tmp_path / "again",
        packed.shape,
        pixel_range=tuple(run.info["data"]["pixel_range"]),
        classes=run.info["data"]["classes"],
    )
    assert (tmp_path / "again").read_bytes() == (pretrained.folder(name) / pretrained.PACKED).read_bytes()


def test_the_packed_digits_network_has_the_cards_accuracy():
    test = hypersign.load("digits").data().test
    found = PackedModel.pretrained("digits").predict(test.images.numpy()).argmax(1)
    assert (found == test.labels.numpy()).mean() == pretrained.card("digits").accuracy


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"digits"}))
def test_the_packed_network_has_the_cards_accuracy_on_all_test_images(name):
    card = pretrained.card(name)
    if not (GIVEN and (Path(GIVEN) / card.data).is_dir()):
        pytest.skip(f"HYPERSIGN_DATA names no folder with {card.data}")
    test = hypersign.load(name).data().test
    found = PackedModel.pretrained(name).predict(test.images.numpy()).argmax(1)
    # float32's rounding of the pixels decides a few of 10,000 images otherwise
    assert (found == test.labels.numpy()).mean() == pytest.approx(card.accuracy, abs=5e-4)


def test_a_run_of_the_package_is_evaluated_as_any_other():
    run = hypersign.load("digits")
    data = run.data()
    result = evaluate(run.load_model(), data.batches(data.test, 100), task=run.task())
    assert result.accuracy == pretrained.card("digits").accuracy


def test_unknown_names_are_answered_with_the_known_ones():
    for load in (hypersign.load, PackedModel.pretrained, pretrained.card):
        with pytest.raises(HypersignError, match="cifar10-quarter, digits"):
            load("resnet-1000")


def test_a_folder_of_the_same_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("digits").mkdir()
    with pytest.raises(HypersignError, match=r"digits must be a run folder, with a run\.json"):
        hypersign.load("digits")


def test_results_about_a_network_of_the_package_go_to_the_working_directory(tmp_path):
    run = hypersign.load("digits")
    assert run.results_folder == Path("digits")
    assert hypersign.runs.Run(tmp_path, run.info).results_folder == tmp_path


def test_models_lists_them(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    main(["models"])
    text = capsys.readouterr().out
    assert all(name in text for name in NAMES)
    assert "…" not in text
    main(["models", "--json"])
    assert set(json.loads(capsys.readouterr().out)) == set(NAMES)
    main(["models", "--card", "digits"])
    assert "CC BY 4.0" in capsys.readouterr().out


def test_commands_take_their_names(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    images = np.zeros((2, 1, 8, 8), np.uint8)
    np.save("images.npy", images)
    main(["run", "digits", "-i", "images.npy", "-o", "logits.npy"])
    np.testing.assert_array_equal(np.load("logits.npy"), PackedModel.pretrained("digits").predict(images))
    main(["play", "digits", "-o", "page.html"])
    main(["info", "digits"])
    assert "98.05%" in capsys.readouterr().out
