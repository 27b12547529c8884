"""Handler of activation functions with two slopes per channel, between two shifts."""

import torch
from torch import Tensor, nn

from hypersign.layers import Maxout, RPReLU
from hypersign.packing.folding import Flow, Folding, Monotone, refusal

__all__ = ["Sloped", "pieces", "slopes"]

Sloped = RPReLU | Maxout | nn.PReLU | nn.LeakyReLU


def pieces(module: Sloped, channels: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """b, l, r and a of the function: l (x + b) + a where x + b < 0, else r (x + b) + a; one of each per channel."""
    if isinstance(module, RPReLU | Maxout):
        return module.pieces()
    zero, one = torch.zeros(channels), torch.ones(channels)
    slope = module.weight.detach() if isinstance(module, nn.PReLU) else torch.tensor(module.negative_slope)
    return zero, slope.expand(channels), one, zero


def slopes(folding: Folding, name: str, module: Sloped, x: Flow) -> Flow:
    """Waits to be folded where it is monotone in each channel; elsewhere it is computed in float32.

    It is monotone where no channel's slopes have different signs.
    """
    if isinstance(module, nn.PReLU) and module.num_parameters > 1:
        x = folding.as_image(name, x)
    if isinstance(module, nn.PReLU) and module.num_parameters not in (1, x.channels):
        raise refusal(name, module, f"it has {module.num_parameters} slopes; its input has {x.channels} channels")

    def apply(v: Tensor) -> Tensor:
        return module(v.view(1, -1)).view(-1)

    function = Monotone(name, apply, real=lambda folding, y: _real(folding, name, module, y))
    _, left, right, _ = (values.detach() for values in pieces(module, x.channels))
    waiting = x.then(function)
    return waiting if bool((left * right >= 0).all()) else folding.real(waiting)


def _real(folding: Folding, name: str, module: Sloped, y: Flow) -> Flow:
    """right max(0, y + before) + after, plus left min(0, y + before): a clip and an affine on either side."""
    shifted = y.after(
        _affine(folding, f"{name}.before", y, lambda: (torch.ones(y.channels), pieces(module, y.channels)[0]))
    )
    sides = []
    for side, low, high, values in (
        ("right", 0.0, None, lambda: pieces(module, y.channels)[2:]),
        ("left", None, 0.0, lambda: (pieces(module, y.channels)[1], torch.zeros(y.channels))),
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
