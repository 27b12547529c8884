"""Quantized weights of safetensors checkpoints, put together from their integers and their scales.

    format                 integers                      w[output, input]
    MLX                    X.weight (U32)                scale q + bias, per group
    GPTQ                   X.qweight (I32, by inputs)    scale (q - (zero + 1) mod 2^bits), per group; version 2: no 1
    AWQ                    X.qweight (I32, by outputs)   scale (q - zero), per group
    compressed-tensors     X.weight_packed (I32)         scale (q - 2^(bits - 1)), per group
    FP8                    X.weight (F8)                 scale times the number, per tensor, filter or square block
    BitNet                 X.weight (U8)                 (q - 1) times or divided by X.weight_scale

Integers lie in 32-bit words, lowest bits first. AWQ has eight outputs of a word in the order 0 2 4 6 1 3 5 7. Row r
of BitNet's R rows of bytes holds the outputs r, r + R, r + 2R and r + 3R.
Sources: the public decoders of mlx, AutoGPTQ, AutoAWQ, compressed-tensors, DeepSeek-V3 and transformers.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hypersign.weight_files.stored import StoredTensor

__all__ = ["assemble", "plain_name"]

_AWQ_ORDER = np.array([0, 4, 1, 5, 2, 6, 3, 7])
"""The place in a word of each of eight adjacent outputs."""

Tensors = Mapping[str, StoredTensor]
Rows = Callable[[Any], np.ndarray]


class _Unclear(Exception):
    """Integers that cannot be read, and why."""


def assemble(tensors: Tensors, config: Mapping[str, Any]) -> dict[str, StoredTensor]:
    """The same tensors, in which quantized ones of a known format are weights.

    Args:
        tensors: the tensors of a checkpoint, as the file has them.
        config: the checkpoint's config.json; empty if there is none.
    """
    return {name: _assembled(tensor, tensors, config) for name, tensor in tensors.items()}


def plain_name(name: str) -> str:
    """The name that float weights have: X.weight for X.qweight or X.weight_packed; other names as they are.

    >>> plain_name("X.qweight"), plain_name("norm.weight")
    ('X.weight', 'norm.weight')
    """
    ending = next((ending for ending, _, _ in _FORMATS if name.endswith(ending)), None)
    return name if ending is None else name.removesuffix(ending) + ".weight"


def _assembled(tensor: StoredTensor, tensors: Tensors, config: Mapping[str, Any]) -> StoredTensor:
    for ending, kind, make in _FORMATS:
        base = tensor.name.removesuffix(ending)
        if tensor.name.endswith(ending) and tensor.dtype in kind and len(tensor.shape) == 2 and 0 not in tensor.shape:
            parts = {name[len(base) + 1 :]: part for name, part in _parts(base, tensors)}
            try:
                found = make(tensor, parts, config)
            except _Unclear as unclear:
                reason = f"type {tensor.dtype} holds no float weights that can be read: {unclear}"
                return dataclasses.replace(tensor, unreadable=reason)
            if found is not None:
                word, shape, rows = found
                return dataclasses.replace(tensor, dtype=word, shape=shape, unreadable="", _rows=rows)
    return tensor


def _parts(base: str, tensors: Tensors) -> list[tuple[str, StoredTensor]]:
    names = (f"{base}.{word}" for word in _WORDS)
    return [(name, tensors[name]) for name in names if name in tensors]


_WORDS = (
    *("scales", "biases", "qzeros", "g_idx"),
    *("weight_scale", "weight_scale_inv", "weight_shape", "weight_zero_point", "weight_g_idx"),
)

_Found = tuple[str, tuple[int, ...], Rows] | None
"""The format's name, the shape of the weights, and what reads rows of them."""


def _numbers(tensor: StoredTensor, what: str) -> np.ndarray:
    """All numbers of a small tensor of scales, in its shape."""
    if tensor.unreadable:
        raise _Unclear(f"its {what} are of type {tensor.dtype}")
    return tensor.read(slice(None)).reshape(tensor.shape)


def _integers(tensor: StoredTensor, what: str) -> np.ndarray:
    """The integers of a tensor, in its shape; not copied."""
    kinds = {"I32": "<i4", "I64": "<i8", "U32": "<u4"}
    if tensor.dtype not in kinds:
        raise _Unclear(f"its {what} are of type {tensor.dtype}")
    return tensor.raw.view(kinds[tensor.dtype]).reshape(tensor.shape)


def _fields(words: np.ndarray, bits: int) -> np.ndarray:
    """Integers of `bits` bits, lowest first, of 32-bit words (..., n) -> (..., 32 n / bits)."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    fields = words.astype(np.uint32)[..., None] >> shifts & np.uint32((1 << bits) - 1)
    return fields.reshape(*words.shape[:-1], -1)


def _groups(values: np.ndarray, length: int, what: str) -> np.ndarray:
    """Numbers (rows, groups) for each of `length` inputs."""
    if values.shape[1] < 1 or length % values.shape[1]:
        raise _Unclear(f"its {values.shape[1]} {what} per row do not divide {length} weights")
    return np.repeat(values, length // values.shape[1], axis=1)


def _bits(words: int, length: int) -> int:
    """Bits of an integer, if `length` of them lie in `words` words."""
    bits = 32 * words // length if length else 0
    if bits not in (1, 2, 4, 8) or 32 * words != bits * length:
        raise _Unclear(f"{length} integers do not fit {words} words in 1, 2, 4 or 8 bits each")
    return bits


def _mlx(tensor: StoredTensor, parts: Tensors, config: Mapping[str, Any]) -> _Found:
    if not {"scales", "biases"} <= parts.keys():
        return None
    scales, biases = _numbers(parts["scales"], "scales"), _numbers(parts["biases"], "biases")
    rows, words = tensor.shape
    if scales.shape != biases.shape or scales.ndim != 2 or len(scales) != rows:
        raise _Unclear(f"its scales {scales.shape} and biases {biases.shape} do not fit {rows} rows")
    said = config.get("quantization")
    if not isinstance(said, dict):
        raise _Unclear("the model's config.json is missing here, which says how many weights share a scale")
    own = said.get(tensor.name.removesuffix(".weight"))
    said = own if isinstance(own, dict) else said
    group = said.get("group_size")
    if type(group) is not int or group < 1:
        raise _Unclear(f"config.json names groups of {group!r:.40}")
    length = scales.shape[1] * group
    bits = _bits(words, length)
    if bits != said.get("bits"):
        raise _Unclear(f"groups of {group} make {bits} bits, and config.json names {said.get('bits')!r:.40}")
    values = _integers(tensor, "weights")

    def read(which: Any) -> np.ndarray:
        scale, bias = (_groups(part[which], length, "scales") for part in (scales, biases))
        return scale * _fields(values[which], bits) + bias

    return f"MLX, {bits} bits", (rows, length), read


def _gptq_or_awq(tensor: StoredTensor, parts: Tensors, config: Mapping[str, Any]) -> _Found:
    if not {"scales", "qzeros"} <= parts.keys():
        return None
    scales, zeros = _numbers(parts["scales"], "scales"), _integers(parts["qzeros"], "zeros")
    if scales.ndim != 2 or zeros.ndim != 2 or len(zeros) != len(scales):
        raise _Unclear(f"its scales {scales.shape} do not fit zeros of shape {zeros.shape}")
    outputs = scales.shape[1]
    bits = _bits(zeros.shape[1], outputs)
    if tensor.shape[1] == outputs:
        return _gptq(tensor, parts, config, scales, _fields(zeros, bits), bits)
    if tensor.shape[1] != zeros.shape[1] or bits != 4:
        raise _Unclear(f"{tensor.shape[1]} words do not hold {outputs} outputs in {bits} bits each")
    return _awq(tensor, scales, zeros)


def _gptq(
    tensor: StoredTensor,
    parts: Tensors,
    config: Mapping[str, Any],
    scales: np.ndarray,
    zeros: np.ndarray,
    bits: int,
) -> _Found:
    said = config.get("quantization_config")
    said = said if isinstance(said, dict) else {}
    one = 0 if said.get("checkpoint_format") == "gptq_v2" else 1
    length, outputs = tensor.shape[0] * 32 // bits, scales.shape[1]
    if "g_idx" in parts:
        group = _integers(parts["g_idx"], "groups").reshape(-1)
    else:
        group = np.repeat(np.arange(len(scales)), -(-length // max(len(scales), 1)))[:length]
    if len(group) != length or group.min(initial=0) < 0 or group.max(initial=0) >= len(scales):
        raise _Unclear(f"its groups of {len(group)} inputs do not fit {length} inputs and {len(scales)} groups")
    words = _integers(tensor, "weights")
    zeros = (zeros + np.uint32(one) & np.uint32((1 << bits) - 1)).astype(np.float32)

    def read(which: Any) -> np.ndarray:
        q = _fields(np.ascontiguousarray(words[:, which].T), bits).astype(np.float32)
        return scales[:, which].T[:, group] * (q - zeros[:, which].T[:, group])

    return f"GPTQ, {bits} bits", (outputs, length), read


def _awq(tensor: StoredTensor, scales: np.ndarray, zeros: np.ndarray) -> _Found:
    length, outputs = tensor.shape[0], scales.shape[1]
    words, each = _integers(tensor, "weights"), _in_awq_order(zeros).astype(np.float32)
    if not len(scales) or length % len(scales):
        raise _Unclear(f"its {len(scales)} groups do not divide {length} inputs")

    def read(which: Any) -> np.ndarray:
        rows = np.arange(outputs)[which]
        first, last = (rows.min() // 8, rows.max() // 8 + 1) if len(rows) else (0, 0)
        q = _in_awq_order(words[:, first:last])[:, rows - 8 * first].T.astype(np.float32)
        scale, zero = (_groups(part[:, rows].T, length, "groups") for part in (scales, each))
        return scale * (q - zero)

    return "AWQ, 4 bits", (outputs, length), read


def _in_awq_order(words: np.ndarray) -> np.ndarray:
    fields = _fields(words, 4)
    return fields.reshape(len(words), -1, 8)[..., _AWQ_ORDER].reshape(len(words), -1)


def _compressed(tensor: StoredTensor, parts: Tensors, config: Mapping[str, Any]) -> _Found:
    if not {"weight_scale", "weight_shape"} <= parts.keys():
        return None
    if "weight_zero_point" in parts or "weight_g_idx" in parts:
        raise _Unclear("compressed-tensors with zero points or reordered inputs are not read")
    scales, shape = _numbers(parts["weight_scale"], "scales"), _integers(parts["weight_shape"], "shape").reshape(-1)
    rows, words = tensor.shape
    if len(shape) != 2 or shape[0] != rows or shape[1] < 1 or scales.ndim != 2 or len(scales) != rows:
        raise _Unclear(f"its scales {scales.shape} and shape {shape.tolist()} do not fit {rows} rows")
    length = int(shape[1])
    bits = _bits(words, length)
    _groups(scales[:1], length, "scales")  # or it is refused
    values = _integers(tensor, "weights")

    def read(which: Any) -> np.ndarray:
        q = _fields(values[which], bits).astype(np.float32) - np.float32(1 << (bits - 1))
        return _groups(scales[which], length, "scales") * q

    return f"compressed-tensors, {bits} bits", (rows, length), read


def _fp8(tensor: StoredTensor, parts: Tensors, config: Mapping[str, Any]) -> _Found:
    name = next((word for word in ("weight_scale_inv", "weight_scale") if word in parts), None)
    if name is None:
        return None
    scales = _numbers(parts[name], "scales")
    table = _float8(4, 3) if tensor.dtype == "F8_E4M3" else _float8(5, 2)
    rows, length = tensor.shape
    values = tensor.raw.reshape(rows, length)
    if scales.size == 1:
        scales = scales.reshape(1, 1)
    elif scales.shape == (rows,):
        scales = scales[:, None]
    said = config.get("quantization_config")
    block = said.get("weight_block_size", [128, 128]) if isinstance(said, dict) else [128, 128]
    if scales.shape in ((1, 1), (rows, 1)):
        block = [rows if len(scales) == 1 else 1, length]
    if not isinstance(block, list) or len(block) != 2 or not all(type(n) is int and n > 0 for n in block):
        raise _Unclear(f"config.json names blocks of {block!r:.40}")
    if scales.shape != (-(-rows // block[0]), -(-length // block[1])):
        raise _Unclear(f"its scales {scales.shape} do not fit {rows} x {length} weights in blocks of {block}")
    column = np.arange(length) // block[1]

    def read(which: Any) -> np.ndarray:
        return table[values[which]] * scales[np.arange(rows)[which] // block[0]][:, column]

    return tensor.dtype, tensor.shape, read


def _float8(exponent: int, fraction: int) -> np.ndarray:
    """The 256 numbers of an 8-bit float: E4M3 without infinities (0x7F and 0xFF are NaN), or E5M2 as IEEE has it."""
    code = np.arange(128)
    power, rest = code >> fraction, code & ((1 << fraction) - 1)
    bias = (1 << (exponent - 1)) - 1
    values = np.where(
        power > 0, (1 + rest / 2**fraction) * 2.0 ** (power - bias), rest / 2**fraction * 2.0 ** (1 - bias)
    )
    if exponent == 4:
        values[127] = np.nan
    else:
        values[power == 31] = np.where(rest[power == 31] == 0, np.inf, np.nan)
    return np.concatenate([values, -values]).astype(np.float32)


def _bitnet(tensor: StoredTensor, parts: Tensors, config: Mapping[str, Any]) -> _Found:
    said = config.get("quantization_config")
    method = said.get("quant_method") if isinstance(said, dict) else None
    if "weight_scale" not in parts or (method is not None and method != "bitnet"):
        return None
    if not isinstance(said, dict) or method != "bitnet":
        raise _Unclear(
            "the model's config.json is missing here, which says whether these are BitNet's and whether their scale "
            "multiplies or divides"
        )
    scale = _numbers(parts["weight_scale"], "scales")
    if scale.size != 1 or (number := float(scale.reshape(()))) == 0 or not np.isfinite(number):
        raise _Unclear("BitNet's weights have one scale that is not 0")
    kind = said.get("linear_class", "bitlinear")
    if kind not in ("bitlinear", "autobitlinear"):
        raise _Unclear(f"config.json names the linear_class {kind!r:.40}, not bitlinear or autobitlinear")
    factor = np.float32(number if kind == "autobitlinear" else 1 / number)
    quarter, length = tensor.shape
    values = tensor.raw.reshape(quarter, length)

    def read(which: Any) -> np.ndarray:
        rows = np.arange(4 * quarter)[which]
        q = values[rows % quarter] >> (2 * (rows // quarter)).astype(np.uint8)[:, None] & 3
        return (q.astype(np.float32) - 1) * factor

    return "BitNet, 2 bits", (4 * quarter, length), read


_FORMATS: tuple[tuple[str, tuple[str, ...], Callable[[StoredTensor, Tensors, Mapping[str, Any]], _Found]], ...] = (
    (".weight", ("U32",), _mlx),
    (".qweight", ("I32",), _gptq_or_awq),
    (".weight_packed", ("I32",), _compressed),
    (".weight", ("F8_E4M3", "F8_E5M2"), _fp8),
    (".weight", ("U8",), _bitnet),
)
