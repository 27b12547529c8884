"""`hypersign models`: the networks that come with HyperSign."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

from rich.table import Table

from hypersign import pretrained
from hypersign._json import prints_text, write_json
from hypersign.cli.options import JsonTarget, Option, parse
from hypersign.cli.printing import console


def run(words: Sequence[str]) -> None:
    """Parses `hypersign models`' options and prints."""
    parse(models, words, "models")


def models(*, card: Annotated[str | None, Option(metavar="NAME")] = None, json: JsonTarget = None) -> None:
    """List the networks that come with HyperSign, trained and packed.

    A name stands for a packed file in hypersign run, bench and play, and for a run in every command that takes one.

    Examples:
        hypersign models
        hypersign models --card digits

    Args:
        card: print the whole card of this network: data, recipe, accuracy, size, speed, licence.
    """
    if card is not None:
        print(pretrained.card(card).text())
        return
    cards = [pretrained.card(name) for name in pretrained.names()]
    write_json({one.name: dataclasses.asdict(one) for one in cards}, json)
    if prints_text(json):
        console().print(_table(cards))


def _table(cards: Sequence[pretrained.Card]) -> Table:
    table = Table(
        caption="float twin: the same network with real weights and ReLUs; seeds: number of trainings, whose mean "
        "the card has; µs: per image on one core, packed, and the float twin in torch",
        caption_justify="left",
    )
    table.add_column("name", no_wrap=True)
    for title in ("accuracy", "float\ntwin", "seeds", "packed\nbytes", "times\nsmaller", "µs", "float\nµs"):
        table.add_column(title, justify="right", no_wrap=True)
    for card in cards:
        table.add_row(
            card.name,
            f"{card.accuracy:.2%}",
            "-" if card.twin_accuracy is None else f"{card.twin_accuracy:.2%}",
            str(max(len(card.seeds), 1)),
            "-" if card.packed_bytes is None else f"{card.packed_bytes:,}",
            "-" if card.packed_bytes is None else f"{card.float_bytes / card.packed_bytes:.1f}",
            *("-" if s is None else f"{1e6 * s:,.0f}" for s in (card.seconds_per_image, card.twin_seconds_per_image)),
        )
    return table
