"""Scales and indices of quantized tensors are no weights; layers that merely have such names are."""

import json
import struct

import numpy as np
import pytest

from hypersign.weight_files import inspect_weights, open_tensors

WEIGHTS = np.random.default_rng(0).standard_normal((8, 16)).astype(np.float32)
WIDTHS = {"F32": 4, "F16": 2, "BF16": 2, "U32": 4, "I32": 4, "I16": 2, "U8": 1, "I8": 1, "F8_E4M3": 1, "I64": 8}


def inspected(path, **types):
    """Names that were measured, and the reasons of the others, in a file of tensors (8, 16) of these types."""
    header, body = {}, b""
    for name, kind in types.items():
        data = WEIGHTS.tobytes() if kind == "F32" else bytes([1, 2]) * (64 * WIDTHS[kind])
        header[name] = {"dtype": kind, "shape": [8, 16], "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    found = inspect_weights(open_tensors(path))
    return {tensor.name for tensor in found.tensors}, {tensor.name: tensor.reason for tensor in found.unmeasured}


FORMATS = {
    "MLX": ("X.weight", "U32", ["X.scales", "X.biases"]),
    "GPTQ": ("X.qweight", "I32", ["X.scales", "X.qzeros", "X.g_idx"]),
    "FP8": ("X.weight", "F8_E4M3", ["X.weight_scale", "X.input_scale", "X.output_scale"]),
    "blocks of FP8": ("X.weight", "F8_E4M3", ["X.weight_scale_inv"]),
    "experts of FP8": ("X.up_proj", "F8_E4M3", ["X.up_proj_scale_inv"]),
    "NVFP4": ("X.weight", "U8", ["X.weight_scale", "X.weight_scale_2"]),
    "compressed": ("X.weight_packed", "I32", ["X.weight_scale", "X.weight_zero_point", "X.weight_g_idx"]),
    "bitsandbytes": ("X.weight", "U8", ["X.weight.absmax", "X.weight.quant_map", "X.weight.nested_absmax"]),
    "LLM.int8": ("X.weight", "I8", ["X.SCB"]),
    "BitNet": ("X.weight", "U8", ["X.weight_scale"]),
    "MXFP4": ("X.down_proj_blocks", "U8", ["X.down_proj_scales"]),
    "HQQ": ("X.W_q", "U8", ["X.scale", "X.zero"]),
    "Quanto": ("X.weight._data", "U8", ["X.weight._scale", "X.weight._shift"]),
    "AQLM": ("X.codes", "I16", ["X.codebooks", "X.scales"]),
    "QuIP#": ("X.Qidxs", "I16", ["X.SU", "X.SV"]),
}


@pytest.mark.parametrize("name", FORMATS)
def test_scales_of_a_quantized_tensor(name, tmp_path):
    quantized, kind, companions = FORMATS[name]
    tensors = {"X.norm": "F32", quantized: kind, **dict.fromkeys(companions, "F32"), "scales.weight": "F32"}
    measured, reasons = inspected(tmp_path / "m.safetensors", **tensors)
    assert measured == {"X.norm", "scales.weight"}
    assert reasons.pop(quantized).startswith(f"type {kind} holds no float weights")
    assert reasons == dict.fromkeys(companions, f"no weights: it belongs to the quantized {quantized} ({kind})")


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "I64"])
def test_names_alone_make_no_scales(kind, tmp_path):
    names = ["X.scales", "scales", "X.biases", "X.weight_scale", "Y.scale", "Y.scale.weight", "X.shape"]
    measured, _ = inspected(
        tmp_path / "m.safetensors", **{"X.weight": kind, "weight": kind, **dict.fromkeys(names, "F32")}
    )
    assert set(names) <= measured


def test_scales_in_another_shard(tmp_path):
    inspected(tmp_path / "1.safetensors", **{"X.qweight": "I32"})
    inspected(tmp_path / "2.safetensors", **{"X.scales": "F32"})
    (tmp_path / "m.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"X.qweight": "1.safetensors", "X.scales": "2.safetensors"}})
    )
    found = inspect_weights(open_tensors(tmp_path))
    assert not found.tensors
    assert found.unmeasured[1].reason == "no weights: it belongs to the quantized X.qweight (I32)"
