"""The networks in the package, by name: each a run folder with its card and its packed file."""

from pathlib import Path

from hypersign._checks import HypersignError
from hypersign.pretrained.card import CONFIG, Card

__all__ = ["NETWORKS", "PACKED", "card", "folder", "names"]

NETWORKS = Path(__file__).resolve().with_name("networks")
"""The folder of the networks."""

PACKED = "network.hypersign"
"""The name of the packed file in a network's folder."""


def names() -> tuple[str, ...]:
    """The names of the networks that come with the package.

    >>> "digits" in names()
    True
    """
    return tuple(sorted(path.parent.name for path in NETWORKS.glob(f"*/{CONFIG}")))


def folder(name: str) -> Path:
    """The folder of a network: a run folder, with its card and its packed file.

    Raises:
        HypersignError: no network has this name.
    """
    if name not in names():
        raise HypersignError(f"the networks that come with HyperSign are {', '.join(names())}; got {name!r:.60}")
    return NETWORKS / name


def card(name: str) -> Card:
    """The card of a network.

    Raises:
        HypersignError: no network has this name.

    >>> card("digits").data
    'digits'
    """
    return Card.read(folder(name))
