"""`hypersign data`: get a data set, and see which are there."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from rich.table import Table

from hypersign._json import prints_text, write_json
from hypersign.cli.options import JsonTarget, Option, parse_one_of
from hypersign.cli.printing import console, say

__all__ = ["fetch", "list_"]


def fetch(name: Annotated[str, Option(metavar="NAME")], /) -> None:
    """Download, check and unpack a data set, and print its folder.

    Files in the folder that HYPERSIGN_DATA names are checked and used where they are. Downloads go into your cache
    folder; an interrupted one resumes when you run the command again.

    Example:
        hypersign data fetch digits

    Args:
        name: digits, mnist, fashion-mnist or cifar-10.
    """
    from hypersign import data

    say(str(data.fetch(name)))


def list_(*, json: JsonTarget = None) -> None:
    """List the named data sets: their size, and where they are on this machine.

    Every command that takes a data set also accepts a folder with one folder of images per class, or a .npz file
    with the arrays images and labels.

    Example:
        hypersign data list
    """
    from hypersign import data

    found = data.status()
    write_json([dataclasses.asdict(item) for item in found], json)
    if prints_text(json):
        console().print(_table(found))


def _table(found: list[Any]) -> Table:
    table = Table(title="Data sets")
    table.add_column("Name", no_wrap=True)
    for column in ("Training", "Test", "Shape", "Classes"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("Where", overflow="fold")
    for item in found:
        where = f"{item.place}: {item.path}"
        if item.path is None:
            where = f"{item.place}, {item.download_bytes / 1e6:.0f} MB to download"
        counts = (item.train_images, item.test_images, "x".join(map(str, item.shape)), item.classes)
        table.add_row(item.name, *map(str, counts), where)
    return table


COMMANDS: dict[str, Callable[..., None]] = {"fetch": fetch, "list": list_}


def run(words: Sequence[str]) -> None:
    """Parses `hypersign data fetch|list` and carries it out."""
    parse_one_of(COMMANDS, words, "data", "list and download data sets")
