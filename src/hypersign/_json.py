"""JSON: results are written, and files of others or of earlier runs are read strictly."""

import json
import math
import sys
from pathlib import Path
from typing import Any

from hypersign._checks import HypersignError
from hypersign._files import write_atomic

__all__ = ["parse_object", "plain", "prints_text", "write_json"]


def parse_object(what: str, text: str | bytes, *, finite: bool = False) -> dict[str, Any]:
    """A JSON object, in UTF-8, whose objects name every entry once.

    Args:
        what: what it is, for messages.
        text: the JSON.
        finite: whether every number must be finite; else NaN and infinities, as Python writes them, are taken.

    Raises:
        HypersignError: it is none; the message begins with `what`.

    >>> parse_object("the options", '{"bits": 64}')
    {'bits': 64}
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise HypersignError(f"{what} must name every entry once")
        return found

    def number(word: str) -> float:
        value = float(word)
        if finite and not math.isfinite(value):
            raise HypersignError(f"{what} must hold finite numbers; got {word:.40}")
        return value

    try:
        decoded = text.decode() if isinstance(text, bytes) else text
        found = json.loads(decoded, object_pairs_hook=unique, parse_constant=number, parse_float=number)
    except HypersignError:
        raise
    except (ValueError, RecursionError) as error:  # ValueError: also an integer of thousands of digits
        raise HypersignError(f"{what} must be JSON ({type(error).__name__}): it is damaged") from error
    if not isinstance(found, dict):
        raise HypersignError(f"{what} must be a JSON object; it is a {type(found).__name__}")
    return found


def plain(value: Any) -> Any:
    """`value`, made of dicts, lists and tuples, with None for each number that JSON cannot hold: NaN, infinities."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def write_json(value: object, target: Path | None) -> None:
    """Prints `value` as JSON if `target` is `-`, writes it to another path, and does nothing for None."""
    if target is None:
        return
    text = json.dumps(plain(value), indent=2, allow_nan=False) + "\n"
    if target == Path("-"):
        sys.stdout.write(text)
    else:
        write_atomic(target, text)


def prints_text(target: Path | None) -> bool:
    """Whether a command prints its tables: always, unless JSON goes to the terminal instead."""
    return target != Path("-")
