"""Published methods by name: bundles of a recipe's options. Each option can still be set on its own."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from hypersign._checks import HypersignError

__all__ = ["METHODS", "Method", "distinct"]


@dataclasses.dataclass(frozen=True)
class Method:
    """A named choice of quantizers, surrogate, activation function, rule for latent weights, and training.

    Args:
        name: its name in its paper.
        source: year and arXiv number.
        parts: the options of a recipe that make the method. They apply where the recipe leaves an option out.
            "{levels}" stands for the recipe's levels.
        training: defaults of the recipe's options for training, as far as the paper or its public code states them
            for networks like ours; the others are those of the base recipe.
        levels: the level counts of weights that it has; the first is the default.
    """

    name: str
    source: str
    parts: Mapping[str, Any]
    training: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    levels: tuple[int, ...] = (2,)

    @property
    def weights(self) -> str:
        """Its quantizer of weights, as `quantizer_of` takes it, with its first level count.

        >>> METHODS["paretoq"].weights
        'paretoq:count=2'
        """
        return str(self.parts["weights"]).format(levels=self.levels[0])

    def defaults(self) -> dict[str, Any]:
        """Defaults of the recipe's options, without the parts."""
        return {"levels": self.levels[0], "gradient_clip": None, **self.training}

    def fill(self, key: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """The parts for the options of a recipe that are None.

        Args:
            key: the method's name in `METHODS`, for the message.
            options: the recipe's options.

        Raises:
            HypersignError: the recipe has a level count that the method does not have.
        """
        levels = options["levels"]
        if levels not in self.levels:
            counts = " or ".join(map(str, self.levels))
            raise HypersignError(
                f"levels must be {counts} with the method {key}, whose weights have no other; got {levels!r}"
            )
        # An activation function follows batch norm: networks without it have none to choose.
        without = ("activation",) if options["model"] in ("lstm", "gpt") else ()
        return {
            part: value.format(levels=levels) if isinstance(value, str) else value
            for part, value in self.parts.items()
            if options[part] is None and part not in without
        }


_SGD: dict[str, Any] = {
    "optimizer": "sgd",
    "loss": "cross-entropy",
    "learning_rate": 0.1,
    "final_learning_rate": 0.0,
    "schedule": "cosine",
    "latent_clip": "none",
}
_FREE: dict[str, Any] = {"latent_clip": "none"}

METHODS = {
    "bnn": Method(
        "BNN",
        "Courbariaux & Hubara 2016 (arXiv 1602.02830)",
        {"weights": "sign", "inputs": "sign", "surrogate": "hardtanh"},
        {
            "optimizer": "adam",
            "loss": "squared-hinge",
            "epochs": 500,
            "batch_size": 50,
            "learning_rate": 1e-3,
            "final_learning_rate": 3e-7,
            "schedule": "exponential",
            "schedule_per": "epoch",
        },
    ),
    "xnor": Method(
        "XNOR-Net",
        "Rastegari et al. 2016 (arXiv 1603.05279)",
        {"weights": "sign:scale=filter", "inputs": "sign", "latent_rule": "centred"},
    ),
    "ls-1": Method(
        "LS-1", "Pouransari & Tuzel 2020 (arXiv 2001.02786)", {"weights": "sign:scale=filter", "inputs": "sign"}
    ),
    "ls-2": Method("LS-2", "Pouransari & Tuzel 2020 (arXiv 2001.02786)", {"weights": "ls-2", "inputs": "sign"}),
    "ls-t": Method(
        "LS-T",
        "Pouransari & Tuzel 2020 (arXiv 2001.02786)",
        {"weights": "ternary:threshold=least-squares,scale=filter", "inputs": "sign"},
        levels=(3,),
    ),
    "greedy": Method("greedy planes", "Guo et al. 2017 (arXiv 1706.02021)", {"weights": "greedy", "inputs": "sign"}),
    "adabin": Method(
        "AdaBin",
        "Tu et al. 2022 (arXiv 2208.08084)",
        {"weights": "adabin", "inputs": "adabin-inputs", "activation": "maxout"},
        {**_SGD, "epochs": 400, "weight_decay": 1e-4},
    ),
    "ir-net": Method(
        "IR-Net",
        "Qin et al. 2020 (arXiv 1909.10788)",
        {"weights": "ir-net", "inputs": "sign:surrogate=tanh", "activation": "hardtanh"},
        {**_SGD, "epochs": 400, "weight_decay": 1e-4},
    ),
    "recu": Method(
        "ReCU",
        "Xu et al. 2021 (arXiv 2103.12369)",
        {"weights": "recu", "inputs": "sign:surrogate=polynomial", "activation": "hardtanh"},
        {**_SGD, "epochs": 600, "weight_decay": 5e-4, "warmup": 5, "batch_size": 256},
    ),
    "siman": Method(
        "SiMaN",
        "Lin et al. 2021 (arXiv 2102.07981)",
        {"weights": "siman", "inputs": "image-sign", "latent_rule": "percentiles"},
        {**_SGD, "epochs": 400, "warmup": 5, "batch_size": 256},
    ),
    "rbnn": Method(
        "RBNN",
        "Lin et al. 2020 (arXiv 2009.13055)",
        {"weights": "rbnn", "inputs": "sign:surrogate=tent", "activation": "hardtanh"},
        {**_SGD, "epochs": 1000, "weight_decay": 1e-4, "batch_size": 256},
    ),
    "hadanets": Method("HadaNets", "Akhauri 2019", {"weights": "sign:group=16", "inputs": "sign"}),
    "distribution-aware": Method(
        "distribution-aware binarization",
        "Ding et al. 2018 (arXiv 1804.02941)",
        {"weights": "two-values", "inputs": "sign"},
    ),
    "biper": Method(
        "BiPer",
        "Vargas et al. 2024 (arXiv 2404.01278)",
        {"weights": "biper", "inputs": "sign", "activation": "hardtanh"},
        {**_SGD, "epochs": 900, "learning_rate": 0.021, "weight_decay": 1.6e-3, "warmup": 5, "batch_size": 256},
    ),
    "reste": Method(
        "ReSTE",
        "Wu et al. 2023 (arXiv 2308.06689)",
        {"weights": "sign:scale=tensor,surrogate=power", "inputs": "sign:surrogate=power"},
        {**_SGD, "epochs": 1000, "weight_decay": 1e-4, "warmup": 5, "batch_size": 256},
    ),
    "reactnet": Method(
        "ReActNet",
        "Liu et al. 2020 (arXiv 2003.03488)",
        {"weights": "sign:scale=filter", "inputs": "rsign", "activation": "rprelu"},
        {
            "optimizer": "adam",
            "loss": "cross-entropy",
            "epochs": 128,
            "batch_size": 512,
            "learning_rate": 2.5e-3,
            "final_learning_rate": 0.0,
            "schedule": "linear",
        },
    ),
    "bitnet": Method(
        "BitNet b1.58",
        "Ma et al. 2024 (arXiv 2402.17764)",
        {"weights": "bitnet", "inputs": "int8", "activation": "hardtanh"},
        _FREE,
        levels=(3,),
    ),
    "paretoq": Method(
        "ParetoQ",
        "Liu et al. 2025 (arXiv 2502.02631)",
        {"weights": "paretoq:count={levels}", "inputs": "float", "activation": "hardtanh"},
        _FREE,
        levels=(2, 3),
    ),
    "bit": Method("BiT", "Liu et al. 2022 (arXiv 2205.13016)", {"weights": "bit", "inputs": "bit-inputs"}, _FREE),
    "bop": Method(
        "Bop",
        "Helwegen et al. 2019 (arXiv 1906.02107)",
        {"weights": "sign:surrogate=straight-through", "inputs": "sign", "latent_rule": "bop"},
        {
            "optimizer": "adam",
            "loss": "squared-hinge",
            "epochs": 500,
            "batch_size": 50,
            "learning_rate": 0.01,
            "flip": True,
            "crop_padding": 4,
        },
    ),
    "bop-second-order": Method(
        "second-order Bop",
        "Suarez-Ramirez et al. 2021 (arXiv 2104.05124)",
        {"weights": "sign:surrogate=straight-through", "inputs": "sign", "latent_rule": "bop-second-order"},
        {"optimizer": "adam", "learning_rate": 0.01},
    ),
    "proxquant": Method(
        "ProxQuant",
        "Bai, Wang & Liberty 2019 (arXiv 1810.00861)",
        {
            "weights": "real-until:hard_from=0.6666666666666666,count={levels}",
            "inputs": "float",
            "activation": "hardtanh",
            "latent_rule": "proxquant",
        },
        {**_FREE, "optimizer": "adam", "learning_rate": 0.01, "epochs": 300, "batch_size": 128},
        levels=(2, 3),
    ),
    "parq": Method(
        "PARQ",
        "Jin et al. 2025 (arXiv 2503.15748)",
        {"weights": "parq:count={levels}", "inputs": "float", "activation": "hardtanh"},
        {**_SGD, "epochs": 200, "weight_decay": 2e-4, "batch_size": 128},
        levels=(2, 3),
    ),
    "binary-relax": Method(
        "BinaryRelax",
        "Yin et al. 2018 (arXiv 1801.06313)",
        {"weights": "binary-relax:count={levels}", "inputs": "float", "activation": "hardtanh"},
        _FREE,
        levels=(2, 3),
    ),
    "askew-sgd": Method(
        "AskewSGD",
        "Leconte, Schechtman & Moulines 2023 (AISTATS)",
        {"weights": "real-until", "inputs": "float", "activation": "hardtanh", "latent_rule": "askew-sgd"},
        _SGD,
    ),
    "ovsw": Method(
        "OvSW",
        "Xiang et al. 2024 (arXiv 2407.05257)",
        {"weights": "sign:scale=filter", "inputs": "sign", "activation": "hardtanh", "latent_rule": "ovsw"},
        {**_SGD, "epochs": 600, "weight_decay": 5e-4, "warmup": 5, "batch_size": 256},
    ),
    "lab": Method(
        "loss-aware binarization",
        "Hou, Yao & Kwok 2017 (arXiv 1611.01600)",
        {"weights": "lab", "inputs": "float", "activation": "hardtanh", "latent_rule": "lab"},
        {**_FREE, "optimizer": "adam"},
    ),
    "mpt": Method(
        "multi-prize tickets",
        "Diffenderfer & Kailkhura 2021 (arXiv 2103.09377)",
        {"weights": "chosen", "inputs": "sign"},
        {**_FREE, "optimizer": "adam", "learning_rate": 2e-4, "epochs": 100, "batch_size": 128},
    ),
}
"""Methods, each a bundle of options; `Recipe.of("ir-net", epochs=5)` makes a recipe of one."""


def distinct() -> dict[str, str]:
    """The quantizer of weights of each method whose name comes first, of those that have the same one.

    >>> list(distinct())[:3], distinct()["xnor"]
    (['bnn', 'xnor', 'ls-2'], 'sign:scale=filter')
    """
    found: dict[str, str] = {}
    for name, method in METHODS.items():
        found.setdefault(method.weights, name)
    return {name: text for text, name in found.items()}
