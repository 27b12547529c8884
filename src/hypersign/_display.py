"""Results as they show themselves: a table of text in a terminal, the same in a notebook."""

import io
import shutil
from typing import Any

__all__ = ["as_html", "as_text"]

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
