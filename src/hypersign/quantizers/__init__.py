"""Quantizers: a forward rule that gives exact levels, a backward rule, and perhaps a scale per filter.

Each name is loaded at its first use: the table of names in `methods` imports no torch.
"""

from typing import TYPE_CHECKING

from hypersign._lazy import lazily

if TYPE_CHECKING:
    from hypersign.quantizers.base import PackedForm, Quantizer, Rule
    from hypersign.quantizers.grouped import GroupScaled
    from hypersign.quantizers.identity import Identity
    from hypersign.quantizers.inputs import AdaBinInputs, ImageSign, ShiftedSign
    from hypersign.quantizers.loss_aware import LossAware
    from hypersign.quantizers.masks import Chosen
    from hypersign.quantizers.methods import QUANTIZERS, SURROGATES, Quantization, quantizer_of, surrogate_of
    from hypersign.quantizers.planes import Greedy, LeastSquaresPlanes
    from hypersign.quantizers.random_levels import RandomLevels
    from hypersign.quantizers.relaxed import PARQ, BinaryRelax, RealUntil
    from hypersign.quantizers.relu import ReLU
    from hypersign.quantizers.rotated import Rotated
    from hypersign.quantizers.scales import (
        ConstantScale,
        FilterMean,
        LearnedNumber,
        LearnedScale,
        MatrixScale,
        MeanScale,
        PowerOfTwo,
        Spread,
        TensorScale,
    )
    from hypersign.quantizers.sign import Sign
    from hypersign.quantizers.standardised import AdaBin, BiPer, Bit, IRNet, ReCU, SiMaN, TwoValues
    from hypersign.quantizers.surrogates import (
        HardTanh,
        Polynomial,
        Power,
        SignSwish,
        StraightThrough,
        Surrogate,
        Tanh,
        Tent,
        Triangle,
    )
    from hypersign.quantizers.ternary import Deviations, LeastSquares, Optimal, Ternary
    from hypersign.quantizers.transformers import BitInputs, BitNet, Int8, ParetoQ
    from hypersign.quantizers.turned import Turned
    from hypersign.quantizers.uniform import Grid, Uniform

__all__ = [
    "Quantizer",
    "PackedForm",
    "Rule",
    "Sign",
    "Ternary",
    "Optimal",
    "LeastSquares",
    "Deviations",
    "Greedy",
    "LeastSquaresPlanes",
    "AdaBin",
    "IRNet",
    "ReCU",
    "SiMaN",
    "TwoValues",
    "BiPer",
    "Bit",
    "BitNet",
    "ParetoQ",
    "BitInputs",
    "Int8",
    "PARQ",
    "BinaryRelax",
    "RealUntil",
    "LossAware",
    "Chosen",
    "RandomLevels",
    "Turned",
    "ShiftedSign",
    "AdaBinInputs",
    "ImageSign",
    "Rotated",
    "Identity",
    "ReLU",
    "MeanScale",
    "MatrixScale",
    "LearnedScale",
    "LearnedNumber",
    "PowerOfTwo",
    "Spread",
    "FilterMean",
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
    "Tent",
    "Power",
    "SignSwish",
    "Triangle",
    "StraightThrough",
]

_MODULES = {
    "base": (
        "Quantizer",
        "PackedForm",
        "Rule",
    ),
    "grouped": ("GroupScaled",),
    "identity": ("Identity",),
    "inputs": (
        "ShiftedSign",
        "AdaBinInputs",
        "ImageSign",
    ),
    "loss_aware": ("LossAware",),
    "masks": ("Chosen",),
    "methods": (
        "Quantization",
        "QUANTIZERS",
        "SURROGATES",
        "quantizer_of",
        "surrogate_of",
    ),
    "planes": (
        "Greedy",
        "LeastSquaresPlanes",
    ),
    "random_levels": ("RandomLevels",),
    "relaxed": (
        "PARQ",
        "BinaryRelax",
        "RealUntil",
    ),
    "relu": ("ReLU",),
    "rotated": ("Rotated",),
    "scales": (
        "MeanScale",
        "MatrixScale",
        "TensorScale",
        "ConstantScale",
        "LearnedScale",
        "LearnedNumber",
        "PowerOfTwo",
        "Spread",
        "FilterMean",
    ),
    "sign": ("Sign",),
    "standardised": (
        "AdaBin",
        "IRNet",
        "ReCU",
        "SiMaN",
        "TwoValues",
        "BiPer",
        "Bit",
    ),
    "surrogates": (
        "Surrogate",
        "HardTanh",
        "Polynomial",
        "Tanh",
        "Tent",
        "Power",
        "SignSwish",
        "Triangle",
        "StraightThrough",
    ),
    "ternary": (
        "Ternary",
        "Optimal",
        "LeastSquares",
        "Deviations",
    ),
    "transformers": (
        "BitNet",
        "ParetoQ",
        "BitInputs",
        "Int8",
    ),
    "turned": ("Turned",),
    "uniform": ("Uniform", "Grid"),
}
__getattr__, __dir__ = lazily(__name__, {name: module for module, names in _MODULES.items() for name in names})
