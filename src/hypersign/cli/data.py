"""`hypersign data`: get a data set, and see which are there."""

import dataclasses
import json as json_text
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table
from tyro.constructors import PrimitiveConstructorSpec

from hypersign._checks import HypersignError

__all__ = ["fetch", "list_"]

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


def fetch(name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")], /) -> None:
    """Download, check and unpack a data set, and print the folder it lies in.

    Files that lie in the folder HYPERSIGN_DATA names are checked and used where they are; downloads go into
    your cache folder, and go on where they broke off when you run this again.

    Args:
        name: digits, mnist, fashion-mnist or cifar-10.
    """
    from hypersign import data

    print(data.fetch(name))


def list_(*, json: JsonTarget = None) -> None:
    """List the data sets known by name: their size, and whether and where they are on this machine.

    Besides these, every command that asks for a data set takes the path of a folder with one folder of images
    for each class, or of a .npz file with the arrays images and labels.

    Args:
        json: print JSON instead of the table; with a file's name, write the JSON there as well as the table.
    """
    from hypersign import data

    found = data.status()
    if json is not None:
        _write_json([dataclasses.asdict(item) for item in found], json)
    if json != Path("-"):
        Console().print(_table(found))


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


def _write_json(value: object, target: Path) -> None:
    """Prints `value` as JSON, or writes it into a file, whole or not at all."""
    text = json_text.dumps(value, indent=2) + "\n"
    if target == Path("-"):
        sys.stdout.write(text)
        return
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(target)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise HypersignError(f"{target} cannot be written ({error.strerror}); name another file") from error


def run(words: Sequence[str]) -> None:
    """Parses `hypersign data fetch|list` and carries it out."""
    tyro.extras.subcommand_cli_from_dict(
        {"fetch": fetch, "list": list_},
        args=list(words),
        prog="hypersign data",
        description="Get and list data sets.",
    )
