"""Tensors that are no weights: scales, offsets and indices of a tensor that is stored quantized.

A quantized checkpoint stores a layer's integers beside what turns them into weights. A tensor is such a companion if
its name says so and the quantized tensor it belongs to is there too. A layer that merely has such a name is measured.

    format                   quantized tensor              companions
    MLX                      X.weight (U32)                X.scales, X.biases
    GPTQ, AWQ                X.qweight (I32)               X.scales, X.qzeros, X.g_idx
    FP8, int8                X.weight (F8, I8)             X.weight_scale, X.weight_scale_inv, X.input_scale
    compressed-tensors       X.weight_packed (I32)         X.weight_scale, X.weight_zero_point
    bitsandbytes             X.weight (U8, I8)             X.weight.absmax, X.weight.quant_map, X.SCB
    HQQ, Quanto              X.W_q, X.weight._data         X.scale, X.zero, X.weight._scale, X.weight._shift
    AQLM, QuIP#              X.codes, X.Qidxs              X.codebooks, X.scales, X.SU, X.SV
    EXL2, EXL3               X.q_weight, X.trellis         X.q_scale, X.q_groups, X.suh, X.svh
"""

import dataclasses
from collections.abc import Mapping

from hypersign.weight_files.stored import FLOATS, StoredTensor

__all__ = ["mark_companions"]

_QUANTIZED = (
    "",  # a name that ends in weight itself, or a stack of experts
    ".weight",
    ".qweight",
    ".weight_packed",
    ".q_weight",
    ".W_q",
    ".codes",
    ".Qidxs",
    ".indices",
    ".trellis",
    "._data",
    "._packed",
    "_packed",
    "_blocks",
)
"""How names of quantized tensors go on after the common beginning."""

_COMPANIONS = (
    *("scales", "scale", "biases", "zeros", "zero", "qzeros", "g_idx", "perm", "zero_point", "shift", "shape", "s"),
    *("scale_inv", "scale_2", "global_scale", "scale_ub", "scb", "absmax", "quant_map"),
    *("nested_absmax", "nested_quant_map", "weight_format", "meta"),
    *("weight_scale", "weight_scale_inv", "weight_scale_2", "weight_global_scale", "weight_zero_point"),
    *("weight_g_idx", "weight_shape", "qscale", "qzero"),
    *("input_scale", "input_scale_ub", "input_global_scale", "input_zero_point", "output_scale", "act_scale"),
    *("codebooks", "codebook", "codebook_id", "centroids", "su", "sv", "suh", "svh", "wscale"),
    *("q_scale", "q_scale_max", "q_groups", "q_perm", "q_invperm", "q_group_map"),
)
"""How names of companions go on after it, after a dot or an underscore; in any case of letters."""

_WHOLE = frozenset((*FLOATS, "BOOL", "I64", "U64", "C64"))
"""Types in which no format stores quantized weights."""


def mark_companions(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The same tensors; those that are companions say of which tensor (`StoredTensor.part_of`)."""
    return {name: _marked(tensor, _owner(name, tensors)) for name, tensor in tensors.items()}


def _marked(tensor: StoredTensor, owner: StoredTensor | None) -> StoredTensor:
    return tensor if owner is None else dataclasses.replace(tensor, part_of=f"{owner.name} ({owner.dtype})")


def _owner(name: str, tensors: Mapping[str, StoredTensor]) -> StoredTensor | None:
    """The quantized tensor that this one belongs to, if it is a companion."""
    lower = name.lower()
    for word in _COMPANIONS:
        begin = name[: -len(word) - 1]
        if lower.endswith(word) and name[len(begin) : len(begin) + 1] in (".", "_"):
            for ending in _QUANTIZED:
                found = tensors.get(begin.rstrip("._") + ending)
                if found is not None and found.name != name and found.dtype not in _WHOLE:
                    return found
    return None
