"""Opens files of weights: safetensors, whole or in shards, and GGUF."""

import re
from pathlib import Path
from typing import Any

from hypersign._checks import HypersignError
from hypersign._files import open_file
from hypersign._json import parse_object
from hypersign._safetensors import read_header
from hypersign.weight_files.companions import mark_companions
from hypersign.weight_files.gguf_files import open_gguf
from hypersign.weight_files.packed_formats import assemble
from hypersign.weight_files.stored import FLOATS, StoredTensor, TensorFile, mapped, undecoded

__all__ = ["is_tensor_file", "open_tensors"]

_LONGEST_NAME = 255  # characters of a file's name
_INDEX = "*.safetensors.index.json"
_PART = re.compile(r".*-(\d{5})-of-(\d{5})\.safetensors")


def is_tensor_file(path: Path) -> bool:
    """Whether `open_tensors` is for this path: a .safetensors or .gguf file, or a folder that has .safetensors."""
    path = Path(path)
    if path.suffix.lower() in (".safetensors", ".gguf"):
        return True
    return path.is_dir() and any(path.glob("*.safetensors*"))


def open_tensors(path: Path, *, arm: bool = False) -> TensorFile:
    """Opens a .safetensors file, a folder of one or of shards with their index, or a .gguf file (all its parts).

    Only headers are read. Raises HypersignError where a file is missing, truncated or corrupt.

    Args:
        path: the file or folder.
        arm: whether I2_S tensors of a .gguf file are in the order that bitnet.cpp writes on ARM.

    >>> import tempfile
    >>> import numpy as np
    >>> from safetensors.numpy import save_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_file({"w": np.array([[1, -2], [3, 4]], np.float16)}, f"{folder}/model.safetensors")
    ...     tensor = open_tensors(Path(folder)).tensors["w"]
    >>> tensor.dtype, tensor.rows, tensor.read(slice(1, 2)).tolist()
    ('F16', 2, [[3.0, 4.0]])
    """
    path = Path(path)
    if path.exists() and not is_tensor_file(path):
        raise HypersignError(
            f"weights are read from .safetensors and .gguf files and from folders of .safetensors; got {path}"
        )
    if path.suffix.lower() == ".gguf" and not path.is_dir():
        return open_gguf(path, arm=arm)
    tensors = _folder(path) if path.is_dir() else _safetensors(path)
    return TensorFile(path, assemble(mark_companions(tensors), _config(path)))


def _config(path: Path) -> dict[str, Any]:
    """The config.json in the folder of a checkpoint; empty if there is none."""
    file = (path if path.is_dir() else path.parent) / "config.json"
    if not file.is_file():
        return {}
    with open_file(file) as opened:
        return parse_object(f"{file}", opened.read())


def _safetensors(path: Path) -> dict[str, StoredTensor]:
    with open_file(path) as file:
        try:
            header = read_header(file)
        except HypersignError as error:
            raise HypersignError(
                f"{path} is no whole safetensors file ({error}); download or save it again"
            ) from error
    data = mapped(path)[len(header.raw) :]
    tensors = {}
    for name, entry in sorted(header.tensors.items(), key=lambda item: _natural(item[0])):
        unreadable = ""
        if entry.dtype not in FLOATS:
            unreadable = f"type {entry.dtype} holds no float weights that can be read without their scales"
        tensors[name] = StoredTensor(
            name,
            entry.dtype,
            entry.shape,
            entry.stop - entry.start,
            unreadable,
            data[entry.start : entry.stop],
            FLOATS.get(entry.dtype, undecoded),
        )
    return tensors


def _natural(name: str) -> list[tuple[int, str]]:
    """layers.2 before layers.10: the writer of a safetensors file orders tensors by their type."""
    pieces = re.split(r"([0-9]+)", name)  # digits at odd places, compared by their length first
    return [(len(piece.lstrip("0")), piece.lstrip("0")) if i % 2 else (-1, piece) for i, piece in enumerate(pieces)]


def _folder(path: Path) -> dict[str, StoredTensor]:
    indices, files = sorted(path.glob(_INDEX)), sorted(path.glob("*.safetensors"))
    if len(indices) > 1 or (not indices and len(files) != 1):
        names = ", ".join(file.name for file in indices or files) or "none"
        raise HypersignError(
            f"{path} must hold one safetensors file or one index of shards; it has {names}; name one"
        )
    if not indices:
        part = _PART.fullmatch(files[0].name)
        if part and int(part[2]) > 1:
            raise HypersignError(
                f"{path} must hold all parts of the weights and their index; it has part {int(part[1])} of "
                f"{int(part[2])} alone: download the others, or name {files[0].name} to measure it alone"
            )
        return _safetensors(files[0])
    shards = _shards(indices[0])
    opened = {}
    for name in sorted(set(shards.values())):
        if Path(name).name != name or len(name) > _LONGEST_NAME:
            raise HypersignError(f"{indices[0]} must name files beside it; it names {name!r:.100}; download it again")
        opened[name] = _safetensors(path / name)
    wrong = [name for name, shard in shards.items() if name not in opened[shard]]
    wrong += [name for tensors in opened.values() for name in tensors if name not in shards]
    if wrong:
        raise HypersignError(
            f"{indices[0]} and its files must name the same tensors; {len(wrong)} are in one alone, as "
            f"{wrong[0]!r:.100}; download them again"
        )
    return {name: opened[shards[name]][name] for name in sorted(shards, key=_natural)}


def _shards(index: Path) -> dict[str, str]:
    """The file of each tensor, by an index of shards."""
    with open_file(index) as file:
        found = parse_object(f"{index}", file.read()).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(name, str) and name for name in found.values()):
        raise HypersignError(f"{index} must be JSON with a weight_map of tensors to files; download it again")
    return found
