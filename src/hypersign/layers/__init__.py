"""Layers that hold their quantizers, and the conversion of float networks into quantized ones."""

from hypersign.layers.activations import Maxout, RPReLU, activation
from hypersign.layers.attention import AttentionProduct, QuantMultiheadAttention
from hypersign.layers.conv import (
    QuantConv1d,
    QuantConv2d,
    QuantConv3d,
    QuantConvTranspose1d,
    QuantConvTranspose2d,
    QuantConvTranspose3d,
)
from hypersign.layers.conversion import Conversion, convert
from hypersign.layers.embedding import QuantEmbedding
from hypersign.layers.input_codes import BitPlanes, Thermometer
from hypersign.layers.kernels import Packed8Linear, PackedConv2d, PackedLinear, train_on_bits, use_kernels
from hypersign.layers.layer import OwnedProduct, QuantLayer, fit_quantizers, quant_layers
from hypersign.layers.linear import QuantLinear
from hypersign.layers.own_forward import OwnForward
from hypersign.layers.recurrent import QuantGRU, QuantLSTM, QuantRecurrent, QuantRNN, RecurrentProduct, StepNorm
from hypersign.layers.rotation import PatchRotation, Rotation
from hypersign.layers.stateful import SequenceNetwork, Stateful, carrying

__all__ = [
    "QuantLinear",
    "QuantConv1d",
    "QuantConv2d",
    "QuantConv3d",
    "QuantConvTranspose1d",
    "QuantConvTranspose2d",
    "QuantConvTranspose3d",
    "QuantEmbedding",
    "QuantMultiheadAttention",
    "AttentionProduct",
    "OwnedProduct",
    "OwnForward",
    "QuantRNN",
    "QuantLSTM",
    "QuantGRU",
    "QuantRecurrent",
    "RecurrentProduct",
    "StepNorm",
    "SequenceNetwork",
    "Stateful",
    "carrying",
    "QuantLayer",
    "quant_layers",
    "fit_quantizers",
    "Rotation",
    "PatchRotation",
    "Thermometer",
    "BitPlanes",
    "convert",
    "Conversion",
    "activation",
    "RPReLU",
    "Maxout",
    "use_kernels",
    "train_on_bits",
    "PackedLinear",
    "Packed8Linear",
    "PackedConv2d",
]
