"""Packed networks in the formats of other tools: ONNX, QONNX, and C for microcontrollers."""
