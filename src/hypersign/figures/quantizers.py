"""The figure of a quantizer's forward and backward curves."""

from typing import TYPE_CHECKING

from hypersign._checks import check_real
from hypersign.figures.style import MEASURED, PREDICTED, axes, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hypersign.quantizers import Quantizer

__all__ = ["quantizer_curves"]


def quantizer_curves(quantizer: "Quantizer", ax: "Axes | None" = None, *, limit: float = 1.5) -> "Axes":
    """Draws the levels of a quantizer (forward) and the derivative of its surrogate (backward) on [-limit, limit].

    Raises:
        HypersignError: `limit` is not a number above 0, or matplotlib is not installed.

    >>> from hypersign.quantizers import Sign
    >>> ax = quantizer_curves(Sign())
    >>> [line.get_label() for line in ax.lines]
    ['forward', 'backward']
    """
    import torch

    limit = check_real("limit", limit, above=0)
    ax = axes(ax)
    x = torch.linspace(-limit, limit, 1201, requires_grad=True)
    # One row, so that a threshold that depends on a filter's weights depends on the whole curve.
    levels = quantizer(x[None])[0]
    (derivative,) = torch.autograd.grad(levels.sum(), x)
    ax.plot(x.detach(), levels.detach(), color=MEASURED, label="forward")
    ax.plot(x.detach(), derivative, color=PREDICTED, linestyle="--", label="backward")
    ax.set_title(f"{quantizer.describe()}\n{quantizer.surrogate}", fontsize="small")
    ax.set(xlabel="x", ylabel="level; derivative")
    legend(ax)
    return ax
