"""Packed networks in the formats of other tools: ONNX, QONNX, and C for microcontrollers; and QONNX back."""

from typing import TYPE_CHECKING

from hypersign._lazy import lazily

if TYPE_CHECKING:
    from hypersign.export.c_code import c_source, write_c
    from hypersign.export.check import Agreement, compare
    from hypersign.export.onnx_graph import onnx_model, qonnx_model, write_onnx, write_qonnx
    from hypersign.export.qonnx_import import import_qonnx, pixel_range_of

__all__ = [
    "Agreement",
    "c_source",
    "compare",
    "import_qonnx",
    "onnx_model",
    "pixel_range_of",
    "qonnx_model",
    "write_c",
    "write_onnx",
    "write_qonnx",
]

MODULES = {
    "Agreement": "check",
    "c_source": "c_code",
    "compare": "check",
    "import_qonnx": "qonnx_import",
    "onnx_model": "onnx_graph",
    "pixel_range_of": "qonnx_import",
    "qonnx_model": "onnx_graph",
    "write_c": "c_code",
    "write_onnx": "onnx_graph",
    "write_qonnx": "onnx_graph",
}

__getattr__, __dir__ = lazily(__name__, MODULES)
