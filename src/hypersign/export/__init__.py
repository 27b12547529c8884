"""Packed networks in the formats of other tools: ONNX, QONNX, and C for microcontrollers; and QONNX back."""

from typing import TYPE_CHECKING

from hypersign._lazy import lazily

if TYPE_CHECKING:
    from hypersign.export.c_code import c_source, write_c
    from hypersign.export.check import Agreement, compare
    from hypersign.export.onnx_graph import onnx_model, qonnx_model, write_onnx, write_qonnx
    from hypersign.export.onnx_text import onnx_text_model, write_onnx_text
    from hypersign.export.qonnx_import import import_qonnx, pixel_range_of

__all__ = [
    "Agreement",
    "c_source",
    "compare",
    "import_qonnx",
    "onnx_model",
    "onnx_text_model",
    "pixel_range_of",
    "qonnx_model",
    "write_c",
    "write_onnx",
    "write_onnx_text",
    "write_qonnx",
]

_MODULES = {
    "c_code": ("c_source", "write_c"),
    "check": ("Agreement", "compare"),
    "onnx_graph": ("onnx_model", "qonnx_model", "write_onnx", "write_qonnx"),
    "onnx_text": ("onnx_text_model", "write_onnx_text"),
    "qonnx_import": ("import_qonnx", "pixel_range_of"),
}

__getattr__, __dir__ = lazily(__name__, {name: module for module, names in _MODULES.items() for name in names})
