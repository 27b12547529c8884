"""Rules by name."""

from typing import TYPE_CHECKING

from hypersign import optimizers
from hypersign.quantizers.methods import made

if TYPE_CHECKING:
    from hypersign.optimizers import LatentRule

__all__ = ["RULES", "rule_of"]

RULES = {
    "bop": "Bop",
    "bop-second-order": "BopSecondOrder",
    "proxquant": "ProxQuant",
    "askew-sgd": "AskewSGD",
    "ovsw": "OvSW",
    "lab": "LossAwareRule",
    "centred": "Centred",
    "percentiles": "Percentiles",
}
"""The class of `hypersign.optimizers` that each name stands for."""


def rule_of(text: str) -> "LatentRule":
    """The rule that a text names: "NAME" or "NAME:option=value,option=value".

    Raises:
        HypersignError: an unknown name or option, or a value outside its range.

    >>> rule_of("bop:threshold=1e-6").threshold
    1e-06
    """
    return made("latent rule", RULES, text, {}, optimizers)
