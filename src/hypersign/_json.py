"""Results as JSON: what JSON can hold of them, and where they are written."""

import json
import math
import sys
from pathlib import Path
from typing import Any

from hypersign._files import write_atomic

__all__ = ["plain", "prints_text", "write_json"]


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
