"""Results as they show themselves: a table of text in a terminal, the same in a notebook."""

import dataclasses
import html
import io
import shutil
from typing import Any, TypeVar

__all__ = ["as_html", "as_text", "brief", "shown"]

T = TypeVar("T")

_PRE = '<pre style="white-space:pre;overflow-x:auto;line-height:1.2">{code}</pre>'
NOTEBOOK_WIDTH = 120


def as_text(*parts: Any) -> str:
    """Rich tables and strings as plain text, as wide as the terminal."""
    from rich.console import Console

    width = shutil.get_terminal_size((100, 25)).columns
    console = Console(file=io.StringIO(), width=width, markup=False, emoji=False, highlight=False)
    with console.capture() as captured:
        console.print(*parts, sep="\n")
    return "\n".join(line.rstrip() for line in captured.get().rstrip().splitlines())


def as_html(*parts: Any) -> str:
    """Rich tables and strings as HTML for a notebook."""
    from rich.console import Console

    console = Console(
        file=io.StringIO(), width=NOTEBOOK_WIDTH, record=True, markup=False, emoji=False, highlight=False
    )
    console.print(*parts, sep="\n")
    return console.export_html(inline_styles=True, code_format=_PRE)


LONGEST = 6
"""Numbers of a sequence that a result shows; of more it shows how many there are."""


def shown(cls: type[T]) -> type[T]:
    """Gives a dataclass of results a short representation: long sequences and nested results in one word.

    >>> import dataclasses
    >>> @shown
    ... @dataclasses.dataclass
    ... class Found:
    ...     mean: float
    ...     per_filter: tuple[float, ...]
    >>> Found(0.79788456, (0.0,) * 432)
    Found(mean=0.7979, per_filter=<432 numbers>)
    """
    setattr(cls, "__repr__", _short)  # noqa: B010  (mypy knows no assignment to a method)
    setattr(cls, "_repr_html_", _rows)  # noqa: B010
    return cls


def _short(self: Any) -> str:
    fields = ", ".join(f"{field.name}={brief(getattr(self, field.name))}" for field in dataclasses.fields(self))
    return f"{type(self).__name__}({fields})"


def _rows(self: Any) -> str:
    rows = "".join(
        f"<tr><th style='text-align:left'>{field.name}</th>"
        f"<td style='text-align:left'>{html.escape(brief(getattr(self, field.name)))}</td></tr>"
        for field in dataclasses.fields(self)
    )
    return f"<table><caption>{type(self).__name__}</caption>{rows}</table>"


def brief(value: Any) -> str:
    """A value in a few words.

    >>> brief(0.79788456), brief((1, 2, 3)), brief([0.5] * 100), brief({"a": 1.0}), len(brief("x" * 100))
    ('0.7979', '(1, 2, 3)', '<100 numbers>', "{'a': 1}", 62)
    """
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "...")
    if dataclasses.is_dataclass(value):
        return f"{type(value).__name__}(...)"
    if isinstance(value, list | tuple):
        kinds = {type(item).__name__ for item in value}
        simple = kinds <= {"int", "float", "str", "bool"}
        if len(value) <= LONGEST and simple:
            return f"({', '.join(map(brief, value))})"
        what = "numbers" if kinds <= {"int", "float"} else kinds.pop() if len(kinds) == 1 else "items"
        return f"<{len(value)} {what}>"
    if isinstance(value, dict):
        if len(value) <= LONGEST and all(isinstance(item, int | float | str) for item in value.values()):
            return "{" + ", ".join(f"{key!r}: {brief(item)}" for key, item in value.items()) + "}"
        return f"<{len(value)} entries>"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"<{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}>"
    text = repr(value)
    return text if len(text) <= 60 and "\n" not in text else f"{type(value).__name__}(...)"
