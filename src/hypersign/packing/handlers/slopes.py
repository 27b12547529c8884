"""Handler of learned activation functions: two slopes per channel, between two shifts."""

import torch
from torch import Tensor

from hypersign.layers import Maxout, RPReLU
from hypersign.packing.folding import Flow, Folding, Monotone

__all__ = ["slopes"]


def slopes(folding: Folding, name: str, module: RPReLU | Maxout, x: Flow) -> Flow:
    """Waits to be folded where it is monotone in each channel; elsewhere it is computed in float32.

    It is monotone where no channel's slopes have different signs.
    """

    def apply(v: Tensor) -> Tensor:
        return module(v.view(1, -1)).view(-1)

    function = Monotone(name, apply, real=lambda folding, y: _real(folding, name, module, y))
    _, left, right, _ = (values.detach() for values in module.pieces())
    waiting = x.then(function)
    return waiting if bool((left * right >= 0).all()) else folding.real(waiting)


def _real(folding: Folding, name: str, module: RPReLU | Maxout, y: Flow) -> Flow:
    """right max(0, y + before) + after, plus left min(0, y + before): a clip and an affine on either side."""
    shifted = y.after(_affine(folding, f"{name}.before", y, lambda: (torch.ones(y.channels), module.pieces()[0])))
    sides = []
    for side, low, high, values in (
        ("right", 0.0, None, lambda: module.pieces()[2:]),
        ("left", None, 0.0, lambda: (module.pieces()[1], torch.zeros(y.channels))),
    ):
        half = shifted.after(folding.node("clip", f"{name}.{side}", shifted.name, low=low, high=high))
        sides.append(_affine(folding, f"{name}.{side}_slope", half, values))
    return y.after(folding.node("add", name, *sides))


def _affine(folding: Folding, name: str, y: Flow, values: object) -> str:
    node = folding.node("affine", name, y.name)
    for i, role in enumerate(("scale", "shift")):
        folding.tensor(
            node,
            role,
            "float32",
            (y.channels,),
            lambda i=i: values()[i].detach().float().numpy(),  # type: ignore
        )
    return node
