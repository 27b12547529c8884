"""Quantizers: a forward rule that gives exact levels, a backward rule, and perhaps a scale per filter."""

from hypersign.quantizers.base import PackedForm, Quantizer, Rule
from hypersign.quantizers.grouped import GroupScaled
from hypersign.quantizers.identity import Identity
from hypersign.quantizers.methods import QUANTIZERS, SURROGATES, Quantization, quantizer_of, surrogate_of
from hypersign.quantizers.rotated import Rotated
from hypersign.quantizers.scales import MeanScale
from hypersign.quantizers.sign import Sign
from hypersign.quantizers.surrogates import (
    HardTanh,
    Polynomial,
    StraightThrough,
    Surrogate,
    Tanh,
    Triangle,
)
from hypersign.quantizers.ternary import Deviations, Optimal, Ternary

__all__ = [
    "Quantizer",
    "PackedForm",
    "Rule",
    "Sign",
    "Ternary",
    "Rotated",
    "Optimal",
    "Deviations",
    "Identity",
    "MeanScale",
    "GroupScaled",
    "Quantization",
    "QUANTIZERS",
    "SURROGATES",
    "quantizer_of",
    "surrogate_of",
    "Surrogate",
    "HardTanh",
    "Polynomial",
    "Tanh",
    "Triangle",
    "StraightThrough",
]
