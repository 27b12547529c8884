"""Writes binary and ternary weights as others read them: GGUF (Q1_0, TQ1_0, TQ2_0) and BitNet's safetensors."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hypersign._checks import HypersignError, check_choice
from hypersign._files import write_atomic
from hypersign._installation import missing

__all__ = ["Levels", "write_bitnet", "write_gguf"]

_TYPES = {"Q1_0": 128, "TQ1_0": 256, "TQ2_0": 256}
"""Types of GGUF that hold levels, and the weights of a block."""


class Levels(NamedTuple):
    """Weights as levels -1, 0, +1, shape (rows, n), times a scale: one number, or one per row."""

    levels: NDArray[np.int8]
    scale: ArrayLike = 1.0


def _checked(name: str, weights: Levels) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """The levels, and their scales as (rows, 1)."""
    levels = np.asarray(weights.levels)
    if levels.ndim != 2 or 0 in levels.shape or not np.isin(levels, (-1, 0, 1)).all():
        raise HypersignError(f"{name} must be a matrix of levels -1, 0 and +1; got {levels.dtype} {levels.shape}")
    scale = np.asarray(weights.scale, np.float32)
    if scale.shape not in ((), (len(levels),)) or not np.isfinite(scale).all() or (scale <= 0).any():
        raise HypersignError(f"{name} must have one positive scale, or one per row; got {weights.scale!r:.60}")
    return levels.astype(np.int8), np.broadcast_to(scale.reshape(-1, 1), (len(levels), 1)).astype(np.float32)


def write_gguf(
    path: Path | str,
    tensors: Mapping[str, Levels | NDArray[np.float32]],
    *,
    kind: str = "TQ2_0",
    architecture: str = "llama",
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes a GGUF file, complete or not at all. Levels are stored as `kind`, other arrays as float32.

    Each block of weights gets the scale of its row as a float16 number. A block of zeros has scale 0.

    Args:
        path: the file.
        tensors: matrices of levels, and float arrays, by their names in the file.
        kind: "Q1_0" (1.125 bits, binary only), "TQ1_0" (1.69 bits) or "TQ2_0" (2.06 bits).
        architecture: what general.architecture says.
        metadata: further numbers, texts and booleans by their keys.

    Raises:
        HypersignError: levels or scales are none, a zero in Q1_0, rows that are no multiple of a block, a scale that
            float16 cannot hold, or the package gguf is missing.
    """
    path = Path(path)
    try:
        import gguf
    except ModuleNotFoundError as error:
        raise HypersignError(missing(str(path), "gguf", "gguf")) from error

    block = _TYPES[check_choice("kind", kind, _TYPES)]
    stored = {
        name: (_encoded(name, value, kind, block), gguf.GGMLQuantizationType[kind])
        if isinstance(value, Levels)
        else (np.ascontiguousarray(value, np.float32), None)
        for name, value in tensors.items()
    }

    def write(partial: Path) -> None:
        writer = gguf.GGUFWriter(partial, architecture)
        for key, value in (metadata or {}).items():
            writer.add_key_value(key, value, gguf.GGUFValueType.get_type(value))
        for name, (data, number) in stored.items():
            writer.add_tensor(name, data, raw_dtype=number)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    write_atomic(path, write)


def _encoded(name: str, weights: Levels, kind: str, block: int) -> NDArray[np.uint8]:
    """Rows of bytes."""
    import gguf

    levels, scale = _checked(name, weights)
    if levels.shape[1] % block:
        raise HypersignError(
            f"{name} must have rows of a multiple of {block} weights for {kind}; got {levels.shape[1]}"
        )
    with np.errstate(over="ignore"):
        half = scale.astype(np.float16)
    if not np.isfinite(half).all() or (half == 0).any():
        raise HypersignError(
            f"{name} must have scales that float16 holds; got {scale.min():.3g} to {scale.max():.3g}"
        )
    if kind != "Q1_0":
        found: NDArray[np.uint8] = gguf.quantize(
            np.ascontiguousarray(levels * half.astype(np.float32)), gguf.GGMLQuantizationType[kind]
        )
        return found
    if (levels == 0).any():
        raise HypersignError(f"{name} must be binary for Q1_0, which has no zeros; use TQ1_0 or TQ2_0")
    blocks = (levels > 0).reshape(len(levels), -1, block)
    packed = np.packbits(blocks, axis=2, bitorder="little")
    each = np.broadcast_to(half.astype("<f2").view(np.uint8)[:, None], (*packed.shape[:2], 2))
    return np.concatenate([each, packed], axis=2).reshape(len(levels), -1)


def write_bitnet(folder: Path | str, tensors: Mapping[str, Levels | NDArray[np.float32]]) -> None:
    """Writes model.safetensors and config.json with levels as in BitNet: four per byte, one scale per matrix.

    Levels of X.weight become X.weight (uint8) and X.weight_scale (float32). config.json names the linear class
    `autobitlinear`, so that scales multiply. Other arrays are stored as float32.

    Raises:
        HypersignError: levels or scales are none, rows are no multiple of 4, a matrix has several scales, or a name
            does not end in .weight.
    """
    from safetensors.numpy import save

    folder, stored = Path(folder), {}
    for name, value in tensors.items():
        if not isinstance(value, Levels):
            stored[name] = np.ascontiguousarray(value, np.float32)
            continue
        levels, scale = _checked(name, value)
        if not name.endswith(".weight") or len(levels) % 4 or (scale != scale[0]).any():
            raise HypersignError(
                f"{name} must end in .weight, have a multiple of 4 rows and one scale for BitNet; it has "
                f"{len(levels)} rows and {len(np.unique(scale))} scales"
            )
        quarters = (levels + 1).astype(np.uint8).reshape(4, -1, levels.shape[1])
        stored[name] = quarters[0] | quarters[1] << 2 | quarters[2] << 4 | quarters[3] << 6
        stored[f"{name}_scale"] = scale[0].copy()
    config = {"quantization_config": {"quant_method": "bitnet", "linear_class": "autobitlinear"}}
    folder.mkdir(parents=True, exist_ok=True)
    data = save(stored, metadata={"format": "pt"})
    write_atomic(folder / "config.json", json.dumps(config, indent=2) + "\n")
    write_atomic(folder / "model.safetensors", data)
