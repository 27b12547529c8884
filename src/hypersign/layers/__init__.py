"""Layers that hold their quantizers, and the conversion of float networks into quantized ones."""

from hypersign.layers.conv import QuantConv1d, QuantConv2d
from hypersign.layers.conversion import Conversion, convert
from hypersign.layers.input_codes import BitPlanes, Thermometer
from hypersign.layers.kernels import PackedConv2d, PackedLinear, train_on_bits, use_kernels
from hypersign.layers.layer import QuantLayer, quant_layers
from hypersign.layers.linear import QuantLinear
from hypersign.layers.rotation import PatchRotation, Rotation

__all__ = [
    "QuantLinear",
    "QuantConv1d",
    "QuantConv2d",
    "QuantLayer",
    "quant_layers",
    "Rotation",
    "PatchRotation",
    "Thermometer",
    "BitPlanes",
    "convert",
    "Conversion",
    "use_kernels",
    "train_on_bits",
    "PackedLinear",
    "PackedConv2d",
]
