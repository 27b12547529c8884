"""Options that several commands share, and their progress bars."""

import contextlib
import dataclasses
import math
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import tyro
from rich.console import Console
from rich.progress import Progress, TaskID
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    UnsupportedTypeAnnotationError,
)

__all__ = ["JsonTarget", "RunPath", "Weights", "beside", "number", "parse", "progress_bars"]

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


def number(value: float, digits: int) -> str:
    """A number for a table, "-" where there is none.

    >>> number(0.798, 2), number(math.nan, 2)
    ('0.80', '-')
    """
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def beside(measured: float, predicted: float, digits: int) -> str:
    """A measured number beside the predicted one."""
    return f"{number(measured, digits)} / {number(predicted, digits)}"


@contextlib.contextmanager
def progress_bars(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """Gives a function that shows, on a terminal, how much of what is done: `progress(what, done, total)`."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                for task in tasks.values():
                    bars.update(task, visible=False)
                tasks[what] = bars.add_task(what)
            bars.update(tasks[what], completed=done, total=total)

        yield show


def parse(function: Any, words: Any, verb: str) -> None:
    """Calls `function` with its arguments from the command line."""
    tyro.cli(function, args=list(words), prog=f"hypersign {verb}", registry=_REGISTRY)


_REGISTRY = ConstructorRegistry()
_asking = threading.local()


@_REGISTRY.primitive_rule
def _optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | UnsupportedTypeAnnotationError | None:
    """Shows an optional value as `INT`, where tyro shows `{None}|INT`. The word None is accepted all the same."""
    optional = get_origin(info.type) in (Union, UnionType) and NoneType in get_args(info.type)
    if not optional or getattr(_asking, "tyro", False):
        return None
    _asking.tyro = True
    try:
        spec = ConstructorRegistry.get_primitive_spec(info)
    finally:
        _asking.tyro = False
    if isinstance(spec, UnsupportedTypeAnnotationError):
        return spec
    shown = spec.metavar.replace("{None}|", "").replace("{None,", "{")
    return dataclasses.replace(spec, metavar=re.sub(r"\{\[(\w+) \[\w+ \.\.\.\]\]\}", r"[\1 ...]", shown))
