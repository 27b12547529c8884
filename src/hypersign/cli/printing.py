"""What commands print: names as they are, without markup, and without characters that move a terminal's cursor."""

import math
import shutil
import sys
import unicodedata
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hypersign._installation import program

__all__ = ["beside", "bits_words", "command_table", "console", "number", "printable", "say", "say_next"]

_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that reverse the direction of writing: they make one name look like another."""


def printable(text: str) -> str:
    r"""`text` with control characters, reversals of direction and bytes that are not UTF-8 written as escapes.

    >>> print(printable("a[/red]\x1b[2J.png"))
    a[/red]\x1b[2J.png
    """
    return "".join(
        character.encode("unicode_escape").decode()
        if character in _DIRECTIONS or (unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t")
        else character
        for character in text
    )


class _Console(Console):
    def render_str(self, text: str, **options: Any) -> Text:
        """Every string passes here: lines, titles, cells of tables."""
        return super().render_str(printable(text), **options)


def console(*, stderr: bool = False) -> Console:
    """A console that prints strings as they are: no markup, emoji codes or highlighting."""
    return _Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def number(value: float, digits: int) -> str:
    """A number for a table, "-" where there is none.

    >>> number(0.798, 2), number(math.nan, 2)
    ('0.80', '-')
    """
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def beside(measured: float, predicted: float, digits: int) -> str:
    """A measured number beside the predicted one."""
    return f"{number(measured, digits)} / {number(predicted, digits)}"


def bits_words(result: Mapping[str, Any], unit: str) -> str:
    """The end of a sentence on a text's loss: bits per character or byte; empty for other results.

    >>> bits_words({"bits_per_token": 2.0}, "characters"), bits_words({"accuracy": 0.9}, "images")
    (', 2.000 bits per character', '')
    """
    bits = result.get("bits_per_token")
    what = unit.removesuffix("s") if unit in ("characters", "bytes") else "token"
    return "" if bits is None else f", {bits:.3f} bits per {what}"


def command_table(name: str, rows: Mapping[str, str], text: str, note: str) -> Table:
    """The commands below `name` and what each does."""
    table = Table(
        title=f"{name} COMMAND [options]: {text}",
        title_justify="left",
        box=None,
        show_header=False,
        caption=f"{name} COMMAND --help shows a command's options.\n{note}",
        caption_justify="left",
    )
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for command, sentence in rows.items():
        table.add_row(command, sentence)
    return table


def say_next(title: str, rows: Mapping[str, str]) -> None:
    """Prints commands to type next, and what each does as the shell's comment, which may be typed too.

    `hypersign` is written as it can be typed here.
    """
    typed = {
        f"{program()} {words.removeprefix('hypersign ')}" if words.startswith("hypersign ") else words: text
        for words, text in rows.items()
    }
    width = max(map(len, typed))
    beside = width + max(map(len, typed.values())) + 7 <= shutil.get_terminal_size().columns
    say(title)
    for words, text in typed.items():
        say(f"  {words:{width}}   # {text}" if beside else f"  # {text}\n  {words}")


def say(text: str, *, error: bool = False) -> None:
    """Prints a line on standard output, or standard error, without wrapping it."""
    print(printable(text), file=sys.stderr if error else sys.stdout)
