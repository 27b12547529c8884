"""Runs as model repositories: the layout of their files, and what the mixin uploads and downloads."""

import json
from pathlib import Path

import huggingface_hub
import pytest
import torch

import hypersign
from hypersign import HypersignError, PackedModel, hub, pretrained

FILES = {"run.json", "metrics.jsonl", "model.safetensors", "config.json", "README.md", pretrained.PACKED}


@pytest.fixture(scope="module")
def run():
    return hypersign.load("digits")


def same(one, other):
    ours, theirs = one.load_model().state_dict(), other.load_model().state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_repository_has_the_files_of_a_model_hub_and_of_a_run(run, tmp_path):
    folder = hub.save_pretrained(run, tmp_path / "mine", twin=run, command="hypersign demo")
    assert {path.name for path in folder.iterdir()} == FILES
    card = json.loads((folder / "config.json").read_text())
    assert card["library_name"] == "hypersign"
    assert (
        card["hypersign"]["twin_accuracy"] == card["hypersign"]["accuracy"] == run.info["results"]["test"]["accuracy"]
    )
    text = (folder / "README.md").read_text()
    assert text.startswith("---\nlicense: apache-2.0\nlibrary_name: hypersign\n")
    assert huggingface_hub.ModelCard(text).data.library_name == "hypersign"
    assert PackedModel.load(folder / pretrained.PACKED).sha256 == PackedModel.pretrained("digits").sha256
    assert same(run, hub.from_pretrained(folder))
    assert same(run, hypersign.load(folder))


def test_half_halves_the_weights_and_keeps_the_packed_network(run, tmp_path):
    full = hub.save_pretrained(run, tmp_path / "full")
    half = hub.save_pretrained(run, tmp_path / "half", half=True)
    assert (full / pretrained.PACKED).read_bytes() == (half / pretrained.PACKED).read_bytes()
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (half, full)]
    assert sizes[0] < 0.55 * sizes[1]


def test_an_unfinished_run_is_refused(run, tmp_path):
    unfinished = hypersign.runs.Run(run.path, {**run.info, "results": {}})
    with pytest.raises(HypersignError, match="has no test accuracy yet"):
        hub.save_pretrained(unfinished, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


class Hub:
    """Stands for the hub: keeps what is uploaded in a folder."""

    def __init__(self, folder):
        self.folder = folder

    def create_repo(self, repo_id, **options):
        (self.folder / repo_id).mkdir(parents=True)
        return type("Address", (), {"repo_id": repo_id})()

    def upload_folder(self, *, repo_id, folder_path, **options):
        for path in Path(folder_path).iterdir():
            (self.folder / repo_id / path.name).write_bytes(path.read_bytes())
        return f"https://hub/{repo_id}/commit/1"


def test_uploads_and_downloads_by_the_mixin(run, tmp_path, monkeypatch):
    there = Hub(tmp_path)
    mixin = huggingface_hub.hub_mixin
    monkeypatch.setattr(mixin, "HfApi", lambda **options: there)
    assert hub.push_to_hub(run, "me/digits", private=True) == "https://hub/me/digits/commit/1"
    assert {path.name for path in (tmp_path / "me" / "digits").iterdir()} == FILES
    assert json.loads((tmp_path / "me" / "digits" / "config.json").read_text())["hypersign"]["name"] == "digits"
    asked = []

    def download(repository, **options):
        asked.append((repository, options["revision"]))
        return str(tmp_path / repository)

    monkeypatch.setattr(mixin, "hf_hub_download", lambda repo_id, filename, **options: tmp_path / repo_id / filename)
    monkeypatch.setattr(hub, "snapshot_download", download)
    assert same(run, hub.from_pretrained("me/digits", revision="v1"))
    assert asked == [("me/digits", "v1")]
