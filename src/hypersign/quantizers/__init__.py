"""Quantizers: a forward rule that gives exact levels, a backward rule, and perhaps a scale per filter.

Each name is loaded at its first use: the table of names in `methods` imports no torch.
"""

from typing import TYPE_CHECKING

from hypersign._lazy import lazily

if TYPE_CHECKING:
    from hypersign.quantizers.base import PackedForm, Quantizer, Rule
    from hypersign.quantizers.grouped import GroupScaled
    from hypersign.quantizers.identity import Identity
    from hypersign.quantizers.methods import QUANTIZERS, SURROGATES, Quantization, quantizer_of, surrogate_of
    from hypersign.quantizers.rotated import Rotated
    from hypersign.quantizers.scales import ConstantScale, MeanScale, TensorScale
    from hypersign.quantizers.sign import Sign
    from hypersign.quantizers.surrogates import HardTanh, Polynomial, StraightThrough, Surrogate, Tanh, Triangle
    from hypersign.quantizers.ternary import Deviations, Optimal, Ternary
    from hypersign.quantizers.uniform import Grid, Uniform

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
    "TensorScale",
    "ConstantScale",
    "GroupScaled",
    "Uniform",
    "Grid",
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

_MODULES = {
    "base": ("Quantizer", "PackedForm", "Rule"),
    "grouped": ("GroupScaled",),
    "identity": ("Identity",),
    "methods": ("Quantization", "QUANTIZERS", "SURROGATES", "quantizer_of", "surrogate_of"),
    "rotated": ("Rotated",),
    "scales": ("MeanScale", "TensorScale", "ConstantScale"),
    "sign": ("Sign",),
    "surrogates": ("Surrogate", "HardTanh", "Polynomial", "Tanh", "Triangle", "StraightThrough"),
    "ternary": ("Ternary", "Optimal", "Deviations"),
    "uniform": ("Uniform", "Grid"),
}
__getattr__, __dir__ = lazily(__name__, {name: module for module, names in _MODULES.items() for name in names})
