"""Measures formats of several layers together."""

from collections.abc import Mapping

from hypersign.forecasting.bench import Bench
from hypersign.forecasting.effects import Effect, effect, unseen
from hypersign.forecasting.formats import Format

__all__ = ["SPLIT", "together"]

SPLIT = 16
"""Batches of fewer inputs are not split to measure repair on inputs that it has not seen."""


def together(
    bench: Bench, assignment: Mapping[str, tuple[Format | None, Format | None]], *, repaired: bool
) -> Effect:
    """The measured effect of a mixture; with repair, as on inputs that repair has not seen."""
    if not repaired or bench.smallest < SPLIT:
        return effect(bench.original, bench.together(assignment, repaired=repaired))
    original, same, other = bench.halves(assignment)
    return unseen(effect(original, same), effect(original, other))
