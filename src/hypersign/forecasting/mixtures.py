"""Measures formats of several layers together."""

from collections.abc import Mapping

from hypersign.forecasting.bench import Bench
from hypersign.forecasting.effects import Effect, effect, unseen
from hypersign.forecasting.formats import Format

__all__ = ["together"]


def together(
    bench: Bench, assignment: Mapping[str, tuple[Format | None, Format | None]], *, repaired: bool
) -> Effect:
    """The measured effect of a mixture; with repair, as on inputs that repair has not seen."""
    if not repaired or not bench.splits:
        return effect(bench.original, bench.together(assignment, repaired=repaired), bench.groups)
    original, same, other = bench.halves(assignment)
    groups = None if bench.groups is None else bench.groups[bench.half_order]
    return unseen(effect(original, same, groups), effect(original, other, groups))
