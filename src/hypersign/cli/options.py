"""Options that several commands share, and how results are printed."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from hypersign._files import write_atomic

__all__ = ["JsonTarget", "RunPath", "Weights", "parse", "prints_text", "write_json"]

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


def write_json(value: object, target: Path | None) -> None:
    """Prints `value` as JSON for `-`, writes it into a file for another path, does nothing for None."""
    if target is None:
        return
    text = json.dumps(value, indent=2) + "\n"
    if target == Path("-"):
        sys.stdout.write(text)
    else:
        write_atomic(target, text)


def prints_text(target: Path | None) -> bool:
    """Whether tables are printed: always, unless JSON goes to the terminal instead."""
    return target != Path("-")


def parse(function: Any, words: Any, verb: str) -> None:
    """Calls `function` with its arguments from the command line."""
    tyro.cli(function, args=list(words), prog=f"hypersign {verb}")
