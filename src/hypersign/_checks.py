"""Argument checks. Their messages say what was expected, what came, and what to do."""

from collections.abc import Iterable
from numbers import Integral, Real

__all__ = ["HypersignError", "check_int", "check_real", "check_choice", "check_threads"]

MOST_THREADS = 4096
"""More threads than any machine has, and few enough to start."""


class HypersignError(ValueError):
    """An error that a user can fix. Its text is one sentence: what was expected, what came, what to do.

    Commands print only the text and exit with status 1. Any other exception is our bug and keeps its traceback.
    """


def check_int(name: str, value: object, *, min: int | None = None, max: int | None = None) -> int:
    """Returns `value` as an int. Raises HypersignError if it is no integer or out of range."""
    if type(value) is int:
        number = value  # the usual case: a check against abstract classes takes longer than everything else
    elif isinstance(value, bool) or not isinstance(value, Integral):
        raise HypersignError(f"{name} must be an integer{_range(min, max)}; got {value!r:.60}")
    else:
        number = int(value)
    if (min is not None and number < min) or (max is not None and number > max):
        raise HypersignError(f"{name} must be an integer{_range(min, max)}; got {number}")
    return number


def check_threads(value: object, name: str = "threads") -> int:
    """Returns a number of threads as an int, or raises HypersignError."""
    return check_int(name, value, min=1, max=MOST_THREADS)


def check_real(
    name: str,
    value: object,
    *,
    min: float | None = None,
    max: float | None = None,
    below: float | None = None,
    above: float | None = None,
) -> float:
    """Returns `value` as a float. Raises HypersignError if it is no number or out of range."""
    bounds = [
        f"{sign} {bound:g}"
        for sign, bound in ((">=", min), (">", above), ("<=", max), ("<", below))
        if bound is not None
    ]
    wanted = f"{name} must be a number" + (f" {' and '.join(bounds)}" if bounds else "")
    if isinstance(value, bool) or not isinstance(value, Real):
        raise HypersignError(f"{wanted}; got {value!r:.60}")
    try:
        number = float(value)
    except OverflowError:
        raise HypersignError(f"{wanted}; got one that is too large for a float") from None
    inside = (
        number == number
        and (min is None or number >= min)
        and (above is None or number > above)
        and (max is None or number <= max)
        and (below is None or number < below)
    )
    if not inside:
        raise HypersignError(f"{wanted}; got {number:g}")
    return number


def check_choice(name: str, value: str, choices: Iterable[str]) -> str:
    """Returns `value`. Raises HypersignError if it is not one of the choices."""
    names = list(choices)
    if value not in names:
        raise HypersignError(f"{name} must be one of {', '.join(names)}; got {value!r:.60}")
    return value


def _range(min: int | None, max: int | None) -> str:
    if min is not None and max is not None:
        return f" from {min} to {max}"
    if min is not None:
        return f" >= {min}"
    if max is not None:
        return f" <= {max}"
    return ""
