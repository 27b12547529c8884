"""The run folder: everything about one training run. All later steps read it.

    run.json           the network and its options, recipe, data and their hash, versions, results
    model.safetensors  the last weights (in a finished run: with re-estimated batch-norm statistics)
    best.safetensors   the weights that were best on validation data, if some was held out
    metrics.jsonl      one JSON object per epoch
    state/             the state to resume from (training/checkpoint.py)

Files are written atomically, so none is ever partial. No file is ever unpickled.
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_bytes
from safetensors.torch import save
from torch import Tensor, nn

from hypersign import models, pretrained
from hypersign._checks import HypersignError, check_choice
from hypersign._files import open_file, write_atomic
from hypersign._json import parse_object
from hypersign.data import Data
from hypersign.data import load as load_data
from hypersign.data.text import LENGTH
from hypersign.tasks import Task

__all__ = [
    "FORMAT",
    "Run",
    "check_weights",
    "listed",
    "load_weights",
    "misfits",
    "load",
    "read_tensors",
    "write_tensors",
]

FORMAT = 1
"""The version of the run folder; a folder of another version is an error."""

MOST_LISTED = 20
"""The largest number of differences in a message."""

MOST_MEMBERS = 64
"""The largest number of members of an ensemble."""

WEIGHTS = {"last": "model.safetensors", "best": "best.safetensors"}


@dataclasses.dataclass(frozen=True)
class Run:
    """An existing run folder.

    Args:
        path: the folder.
        info: the content of its `run.json`.
        given_data: the data set, if the run was trained on a data set made in Python.
        given_model: the function that builds the network, if the run trained a network made in Python.
    """

    path: Path
    info: dict[str, Any]
    given_data: Data | None = None
    given_model: Callable[[], nn.Module] | None = None

    def __repr__(self) -> str:
        test = self.info.get("results", {}).get("test", {})
        state = "finished" if self.finished else "not finished"
        if "accuracy" in test:
            state += f", {test['accuracy']:.2%} of {test[self.unit]:,} test {self.unit}"
        return f"Run({str(self.path)!r}: {self.info['model']['name']} on {self.info['data']['name']}, {state})"

    def _repr_html_(self) -> str:
        recipe = {key: value for key, value in self.info["recipe"].items() if value is not None}
        facts = {"run": repr(self), "recipe": "  ".join(f"{key}={value}" for key, value in recipe.items())}
        rows = (
            f"<tr><th>{key}</th><td style='text-align:left'>{escape(text)}</td></tr>" for key, text in facts.items()
        )
        return f"<table>{''.join(rows)}</table>"

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.path.resolve().name

    @property
    def results_folder(self) -> Path:
        """Where results about the run are written: its folder, or for a network that comes with HyperSign a folder of
        its name in the working directory."""
        shipped = self.path.resolve().parent == pretrained.NETWORKS
        return Path(self.name) if shipped else self.path

    @property
    def unit(self) -> str:
        """What the data's examples are called: "images" or "examples"."""
        return next(key for key in self.info["data"] if key.startswith("train_")).removeprefix("train_")

    @property
    def finished(self) -> bool:
        """Whether training reached its last epoch."""
        return bool(self.info["finished"])

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of `metrics.jsonl`, one per finished epoch."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        with open_file(path) as file:
            return [parse_object(f"line {number} of {path}", line) for number, line in enumerate(file, 1)]

    @cached_property
    def _data(self) -> Data:
        wanted = self.info["data"]
        source = wanted["source"]
        if self.given_data is not None:
            data: Data = self.given_data
        elif source is None:
            raise HypersignError(
                f"{self.name} was trained on {wanted['name']}, a data set made in Python: give it again, as in "
                f"load({str(self.path)!r}, data=...)"
            )
        else:
            data = load_data(source, seed=wanted["seed"], **self._text_length())
        if data.sha256 != wanted["sha256"]:
            raise HypersignError(
                f"{self.name} was trained on data with hash {wanted['sha256'][:12]}, but {source or data.name} now "
                f"gives {data.sha256[:12]}: put the data it was trained on back in place"
            )
        return data

    def _text_length(self) -> dict[str, int]:
        """The length of sequences, as an option of `load_data`; empty for data other than texts."""
        length = self.info["recipe"].get("length", LENGTH)
        return {"length": length} if self.reads_text and length != LENGTH else {}

    @property
    def reads_text(self) -> bool:
        """Whether it is a network for text: its data are counted in characters or bytes."""
        return self.unit in ("characters", "bytes")

    def data(self) -> Any:
        """The data set the run was trained on.

        Raises:
            HypersignError: the data set cannot be loaded, or is not the one that the run was trained on.
        """
        return self._data

    def task(self) -> Task:
        """The network's task: the task of the data, with the recipe's loss if the data do not fix one.

        Raises:
            HypersignError: for the same reasons as in `data`.
        """
        return self._data.task_with(self.info["recipe"].get("loss"))

    def build_model(self) -> nn.Module:
        """The run's network, with fresh weights, in float32.

        Raises:
            HypersignError: a function made the network, and `load` was called without that function.
        """
        model = self.info["model"]
        with float32_default():
            if self.given_model is not None:
                network = self.given_model()
                if not isinstance(network, nn.Module):
                    raise HypersignError(
                        f"the function that builds the network must return an nn.Module; got {type(network).__name__}"
                    )
                return network
            if model.get("given"):
                raise HypersignError(
                    f"{self.name} was trained on your own network, {model['name']}: give the function that builds "
                    f"it, as in load({str(self.path)!r}, model=...)"
                )
            count = model.get("members", 0)
            networks = [
                models.build(model["name"], tuple(model["shape"]), model["classes"], **model["options"])
                for _ in range(count or 1)
            ]
            return models.Ensemble(networks) if count else networks[0]

    def load_model(self, weights: str = "last") -> nn.Module:
        """The trained network, on the CPU, in evaluation mode.

        Args:
            weights: "last", or "best" on validation data.

        Raises:
            HypersignError: the run has no such weights (yet), or they do not fit the network.
        """
        check_choice("weights", weights, WEIGHTS)
        path = self.path / WEIGHTS[weights]
        if not path.exists():
            why = (
                "no images were held out to select them; use the last"
                if weights == "best" and not self.info["recipe"].get("validation")
                else f"none were saved yet; resume with: hypersign train --resume {self.path}"
            )
            raise HypersignError(f"{self.name} has no {weights} weights ({path.name}): {why}")
        tensors, _ = read_tensors(path)
        if self.given_model is None:
            with torch.device("meta"):  # takes no memory: the sizes in run.json may be any
                check_weights(self.build_model(), tensors, origin=str(path))
        model = self.build_model()
        load_weights(model, tensors, origin=str(path))
        return model.eval()

    def update(self, **fields: Any) -> "Run":
        """Replaces these fields in `run.json`, and returns the new run."""
        run = dataclasses.replace(self, info={**self.info, **fields})
        write_atomic(self.path / "run.json", json.dumps(run.info, indent=2) + "\n")
        return run


@contextlib.contextmanager
def float32_default() -> Iterator[None]:
    """Makes float32 torch's default type, whatever the user has set, because training computes in float32."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def check_given(data: Any, model: Any) -> None:
    """Raises HypersignError if a data set or a network made in Python has the wrong type; None is accepted."""
    if data is not None and not isinstance(data, Data):
        raise HypersignError(
            f"data must be a data set, as TensorData or hypersign.data.load make them; got {type(data).__name__}"
        )
    if model is not None and (isinstance(model, nn.Module) or not callable(model)):
        raise HypersignError(
            "model must be a function that builds the network, so that the seed decides its initial weights; got "
            f"{type(model).__name__}: give the class or a function, as in model=lambda: nn.Sequential(...)"
        )


def load(path: str | Path, *, data: Data | None = None, model: Callable[[], nn.Module] | None = None) -> Run:
    """Opens a run folder, or a network that comes with HyperSign.

    Args:
        path: the folder, or the name of a network (`pretrained.names()`) where there is no such folder.
        data: the data set, if the run was trained on a data set made in Python.
        model: the function that builds the network, if the run trained a network made in Python.

    Raises:
        HypersignError: the folder is missing, is not a run folder, is damaged, or has another version; `data` or
            `model` has the wrong type.
    """
    check_given(data, model)
    folder = Path(path)
    if not folder.exists() and str(path) in pretrained.names():
        folder = pretrained.folder(str(path))
    file = folder / "run.json"
    if folder.is_file():
        raise HypersignError(
            f"a run folder was expected; {folder} is a file: name the folder that holds its run.json; "
            "hypersign bench FILE shows the layers of a packed network"
        )
    if not folder.is_dir():
        raise HypersignError(
            f"a run folder was expected at {folder}; there is none: check the path, or name a network that comes "
            f"with HyperSign ({', '.join(pretrained.names())})"
        )
    try:
        stream = open_file(file)
    except HypersignError as error:
        raise HypersignError(f"{folder} must be a run folder, with a run.json that can be read; {error}") from error
    with stream:
        info = parse_object(f"{file}", stream.read())
    version = info.get("format")
    if version != FORMAT or isinstance(version, bool):
        raise HypersignError(
            f"{folder} must be a run folder of version {FORMAT}; its run.json says version {version!r:.40}: "
            "open it with the HyperSign that wrote it"
        )
    _check_info(file, info)
    return Run(folder, info, data, model)


_SECTIONS: dict[str, dict[str, Any]] = {
    "model": {"name": str, "shape": list, "classes": int, "options": dict},
    "data": {"name": str, "source": str | None, "seed": int | None, "sha256": str},
    "recipe": {},
    "versions": {},
}
"""Sections of run.json, and the types of what is read of them."""


def _check_info(file: Path, info: Mapping[str, Any]) -> None:
    """Raises HypersignError if a run.json lacks what is read of it, or has it of another type."""
    missing = [key for key in (*_SECTIONS, "finished") if key not in info]
    missing += [
        f"{section}.{key}"
        for section, kinds in _SECTIONS.items()
        if isinstance(info.get(section), dict)
        for key in kinds
        if key not in info[section]
    ]
    if missing:
        raise HypersignError(f"{file} lacks {', '.join(missing)}: restore the file or train again")
    wrong = [section for section in _SECTIONS if not isinstance(info[section], dict)]
    wrong += [
        f"{section}.{key}"
        for section, kinds in _SECTIONS.items()
        if section not in wrong
        for key, kind in kinds.items()
        if not isinstance(info[section][key], kind) or isinstance(info[section][key], bool)
    ]
    wrong += [] if isinstance(info["finished"], bool) else ["finished"]
    wrong += [] if isinstance(info.get("results", {}), dict) else ["results"]
    count = info["model"].get("members", 0) if not wrong else 0
    if type(count) is not int or not 0 <= count <= MOST_MEMBERS:
        wrong.append("model.members")
    if not wrong and not all(type(size) is int for size in info["model"]["shape"]):
        wrong.append("model.shape")
    if not wrong and not any(key.startswith("train_") for key in info["data"]):
        wrong.append("data (it lacks the number of training examples)")
    if wrong:
        raise HypersignError(f"{file} has another kind of {', '.join(wrong)}: restore the file or train again")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> None:
    """Writes tensors, with `metadata` as JSON in the header, to one safetensors file, atomically."""
    header = {"json": json.dumps(metadata or {})}
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # Written as bytes, because safetensors' own writer uses a temporary file that a killed process leaves behind.
    write_atomic(path, save(plain, metadata=header))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads the tensors and the metadata that `write_tensors` wrote.

    Raises:
        HypersignError: the file is missing, truncated or not a safetensors file.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is not a file")
        # From bytes: while safetensors' own reader calls torch on a file, a Ctrl-C would become an error of shapes.
        tensors = load_bytes(path.read_bytes())
        with safe_open(path, framework="np") as file:
            header = json.loads((file.metadata() or {}).get("json", "{}"))
        if not isinstance(header, dict):
            raise ValueError("its metadata is not a JSON object")
    except (OSError, SafetensorError, ValueError, TypeError, RuntimeError) as error:
        # torch raises the last two for impossible shapes
        why = (getattr(error, "strerror", None) or str(error)).partition("\n")[0]
        raise HypersignError(
            f"{path} must be a whole safetensors file; {why:.200}: restore it from a copy or train again"
        ) from error
    return tensors, header


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], *, origin: str) -> None:
    """Loads `tensors` into `model`, all or nothing.

    Raises:
        HypersignError: names, shapes or types differ; the message begins with `origin`.
    """
    check_weights(model, tensors, origin=origin)
    with torch.no_grad():
        model.load_state_dict(dict(tensors))


def check_weights(model: nn.Module, tensors: Mapping[str, Tensor], *, origin: str) -> None:
    """Raises the HypersignError that `load_weights` would raise; its message begins with `origin`."""
    problems = misfits(model.state_dict(), tensors)
    if problems:
        raise HypersignError(f"{origin} does not fit the network: {listed(problems, '; ')}")


def misfits(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    """Lists how tensors differ in name, shape or type from the wanted ones; any floating type fits another."""
    problems = [f"{name} is missing" for name in wanted if name not in tensors]
    problems += [f"{_shown(name)} has no place in the network" for name in tensors if name not in wanted]
    for name, tensor in wanted.items():
        found = tensors.get(name)
        if found is not None and found.shape != tensor.shape:
            problems.append(f"{name} has shape {tuple(found.shape)}, the network needs {tuple(tensor.shape)}")
        elif (
            found is not None
            and found.dtype != tensor.dtype
            and not (found.dtype.is_floating_point and tensor.dtype.is_floating_point)
        ):
            problems.append(f"{name} is {found.dtype}, the network needs {tensor.dtype}")
    return problems


def listed(words: Sequence[str], between: str = ", ") -> str:
    """Joins the first `MOST_LISTED` words, and says how many more there are."""
    more = f"{between}and {len(words) - MOST_LISTED} more" if len(words) > MOST_LISTED else ""
    return between.join(words[:MOST_LISTED]) + more


def _shown(name: str) -> str:
    """A name from an untrusted file, made safe for a message."""
    return name if name.isprintable() and len(name) <= 100 else f"{name!a:.100}"
