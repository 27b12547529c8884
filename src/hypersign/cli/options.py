"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.constructors import PrimitiveConstructorSpec

__all__ = ["JsonTarget", "RunPath", "Weights", "parse"]

RunPath = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
"""The run folder, a command's first word."""

Weights = Literal["last", "best"]
"""The option `--weights`: the last weights, or those of the best validation accuracy."""

JsonTarget = Annotated[
    Path | None,
    PrimitiveConstructorSpec(
        nargs=(0, 1),
        metavar="[FILE]",
        instance_from_str=lambda words: Path(words[0]) if words else Path("-"),
        is_instance=lambda value: value is None or isinstance(value, Path),
        str_from_instance=lambda value: [] if value is None else [str(value)],
    ),
    tyro.conf.arg(help_behavior_hint=""),
]
"""The option `--json [FILE]`: None without it, `Path("-")` without a file's name."""


def parse(function: Any, words: Any, verb: str) -> None:
    """Calls `function` with its arguments from the command line."""
    tyro.cli(function, args=list(words), prog=f"hypersign {verb}")
