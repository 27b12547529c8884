"""Rules for latent weights that work beside an optimizer or in its place: flips, proximal maps, corrected gradients.

Each name is loaded at its first use: the table of names in `methods` imports no torch.
"""

from typing import TYPE_CHECKING

from hypersign._lazy import lazily

if TYPE_CHECKING:
    from hypersign.optimizers.constrained import AskewSGD, ProxQuant
    from hypersign.optimizers.corrected import Centred, LossAwareRule, OvSW, Percentiles
    from hypersign.optimizers.flips import Bop, BopSecondOrder
    from hypersign.optimizers.methods import RULES, rule_of
    from hypersign.optimizers.rule import Latent, LatentRule, Moment

__all__ = [
    "LatentRule",
    "Latent",
    "Moment",
    "RULES",
    "rule_of",
    "Bop",
    "BopSecondOrder",
    "ProxQuant",
    "AskewSGD",
    "OvSW",
    "LossAwareRule",
    "Centred",
    "Percentiles",
]

_MODULES = {
    "constrained": ("AskewSGD", "ProxQuant"),
    "corrected": ("Centred", "LossAwareRule", "OvSW", "Percentiles"),
    "flips": ("Bop", "BopSecondOrder"),
    "methods": ("RULES", "rule_of"),
    "rule": ("Latent", "LatentRule", "Moment"),
}
__getattr__, __dir__ = lazily(__name__, {name: module for module, names in _MODULES.items() for name in names})
