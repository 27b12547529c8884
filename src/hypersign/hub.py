"""A run as a model repository: in a folder, or on a model hub, through huggingface_hub's mixin.

run.json           the run
model.safetensors  its weights
metrics.jsonl      the metrics of its epochs
config.json        its card, for programs
README.md          its card, to read
network.hypersign  the packed network, if it can be packed
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelHubMixin, snapshot_download
from torch import Tensor

from hypersign import packing, runs
from hypersign._checks import HypersignError
from hypersign._files import make_folder, write_atomic
from hypersign._machine import machine
from hypersign.layers import quant_layers
from hypersign.packed import PackedModel
from hypersign.packed.profile import profile
from hypersign.pretrained import PACKED, Card
from hypersign.pretrained.card import CONFIG
from hypersign.runs import Run
from hypersign.summaries import summary

__all__ = ["from_pretrained", "push_to_hub", "save_pretrained"]

FILES = ("run.json", "metrics.jsonl")


def save_pretrained(
    run: Run, folder: str | Path, *, twin: Run | None = None, command: str = "", half: bool = False
) -> Path:
    """Writes a run as a model repository into a folder, and returns the folder.

    Args:
        run: a finished run for classification.
        folder: where to write; its last name is the network's name.
        twin: the run of the float twin, whose accuracy the card shows.
        command: the command that made the run, for the card.
        half: store the latent weights of quantized layers in float16. No weight changes its sign, and the packed
            network must stay the same.

    Raises:
        HypersignError: the run is not finished or has no accuracy, or `half` changes the packed network.
    """
    folder = Path(folder)
    found, weights = _card_and_weights(run, folder.name, twin, command, half)
    make_folder(folder)
    for name in FILES:
        if (run.path / name).exists():
            write_atomic(folder / name, (run.path / name).read_bytes())
    runs.write_tensors(folder / "model.safetensors", weights)
    card, packed = found
    if packed is not None:
        write_atomic(folder / PACKED, packed)
    write_atomic(folder / "README.md", card.text())
    write_atomic(folder / CONFIG, card.config())
    return folder


def push_to_hub(run: Run, repository: str, *, twin: Run | None = None, command: str = "", **options: Any) -> str:
    """Uploads a run as a model repository, and returns the address of the commit.

    Args:
        run: a finished run for classification.
        repository: the name of the repository, "user/name".
        twin: the run of the float twin, whose accuracy the card shows.
        command: the command that made the run, for the card.
        options: those of huggingface_hub's `ModelHubMixin.push_to_hub`, such as `private`.
    """
    return str(_Repository(run, repository.rpartition("/")[2], twin, command).push_to_hub(repository, **options))


def from_pretrained(repository: str | Path, **options: Any) -> Run:
    """Opens a model repository: a folder, or a repository on the hub, which it downloads into the hub's cache.

    Args:
        repository: a folder, or "user/name".
        options: those of huggingface_hub's `ModelHubMixin.from_pretrained`, such as `revision`.

    Raises:
        HypersignError: the folder or repository holds no run.
    """
    return _Repository.from_pretrained(repository, **options).run


class _Repository(ModelHubMixin, library_name="hypersign"):
    """What the mixin uploads and downloads."""

    def __init__(self, run: Run, name: str = "", twin: Run | None = None, command: str = "") -> None:
        self.run, self.name, self.twin, self.command = run, name, twin, command

    def _save_pretrained(self, save_directory: Path) -> None:
        with tempfile.TemporaryDirectory() as made:  # the mixin's own folder has a random name
            folder = save_pretrained(self.run, Path(made) / self.name, twin=self.twin, command=self.command)
            shutil.copytree(folder, save_directory, dirs_exist_ok=True)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, config: Any = None, **options: Any) -> "_Repository":
        folder = Path(model_id)
        return cls(runs.load(folder if folder.is_dir() else snapshot_download(model_id, **options)))


def _card_and_weights(
    run: Run, name: str, twin: Run | None, command: str, half: bool
) -> tuple[tuple[Card, bytes | None], dict[str, Tensor]]:
    info = run.info
    result = _accuracy(run)
    model = run.load_model()
    weights = model.state_dict()
    packed = _packed(run)
    if half:
        latent = {f"{layer}.weight" for layer in quant_layers(model)}
        weights = {key: _float16(tensor) if key in latent else tensor for key, tensor in weights.items()}
        model.load_state_dict(weights)
        if packed is None or _pack(model, run) != packed:
            raise HypersignError(f"float16 changes the packed network of {run.name}; store it without half")
    size, seconds, processor = None, None, ""
    if packed is not None:
        size, (seconds, processor) = len(packed), _speed(packed)
    card = Card(
        name=name,
        data=info["data"]["name"],
        network=info["model"]["name"],
        options=info["model"]["options"],
        accuracy=result["accuracy"],
        test_images=result[run.unit],
        twin_accuracy=None if twin is None else _accuracy(twin)["accuracy"],
        packed_bytes=size,
        float_bytes=summary(run).float_bytes,
        seconds_per_image=seconds,
        processor=processor,
        training_seconds=info["results"]["seconds"],
        recipe=info["recipe"],
        command=command,
    )
    return (card, packed), weights


def _accuracy(run: Run) -> dict[str, Any]:
    result = run.info.get("results", {}).get("test", {})
    if "accuracy" not in result:
        raise HypersignError(
            f"{run.name} has no test accuracy yet; finish it with: hypersign train --resume {run.path}"
        )
    return dict(result)


def _packed(run: Run) -> bytes | None:
    """The packed file of a run; None if the network has no packed form."""
    try:
        return _pack(run.load_model(), run)
    except HypersignError:
        return None


def _pack(model: torch.nn.Module, run: Run) -> bytes:
    data = run.info["data"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / PACKED
        packing.pack(
            model, path, run.info["model"]["shape"], pixel_range=data["pixel_range"], classes=data.get("classes")
        )
        return path.read_bytes()


def _speed(packed: bytes) -> tuple[float, str]:
    """The time of one image, and the processor with its kernels."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / PACKED
        path.write_bytes(packed)
        times = profile(PackedModel.load(path), repeats=200)
    return times.seconds_per_image, f"{machine()['processor']}, {times.backend}"


def _float16(latent: Tensor) -> Tensor:
    """Rounds to float16. What would become 0 becomes the smallest number of its sign, so that signs stay."""
    smallest = torch.finfo(torch.float16).smallest_normal * torch.finfo(torch.float16).eps
    return torch.copysign(latent.abs().clamp_min(smallest), torch.where(latent < 0, -1.0, 1.0)).half()
