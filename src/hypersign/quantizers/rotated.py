"""The generalized binarization: quantize in a rotated frame, then rotate back."""

from torch import Tensor, nn

from hypersign._checks import HypersignError
from hypersign.quantizers.quantizer import Quantizer
from hypersign.rotations import HaarRotation, HadamardRotation

__all__ = ["Rotated"]


class Rotated(nn.Module):
    """A quantizer in a rotated frame: the generalized binarization of Anderson & Berg.

        theta_R(x) = R' theta(R x)          dtheta_R/dx := R' diag(dtheta) R

    R is `rotation`, theta is `quantizer`. What R makes of a vector has its sign at about 37 degrees whatever the
    vector was, so that inputs along few directions (the pixels of a first layer) keep theirs. Everything behind
    the first dimension of `x` is one vector: an image, an input of a fully connected layer, a filter.

    With a `HadamardRotation` no step multiplies but for one common factor of a power of sqrt(2): sign flips,
    additions and comparisons. And since R'R = 1 where a rotation drops no output, a product of two vectors
    quantized in one frame is the product of their levels: theta_R(w).theta_R(x) = theta(R w).theta(R x).

    `levels` is empty: the levels are exact in the rotated frame, not in that of `x`.

    Args:
        quantizer: what quantizes the rotated vectors, such as `Sign()`.
        rotation: of the vectors' dimension; it must drop no output.

    Raises:
        HypersignError: a quantizer or rotation of another kind, or a rotation that drops outputs; in calls, vectors
            of another dimension.

    Source: Anderson & Berg 2018 (arXiv 1705.07199), the generalized binarization transformation.

    >>> import torch
    >>> from hypersign.quantizers import Sign
    >>> binarize = Rotated(Sign(), HadamardRotation(64, seed=1))
    >>> x = torch.exp(-torch.arange(64.0))[None]
    >>> [round(float(torch.cosine_similarity(x, f(x))), 2) for f in (Sign(), binarize)]
    [0.18, 0.8]
    """

    levels: tuple[float, ...] = ()

    def __init__(self, quantizer: Quantizer, rotation: HaarRotation | HadamardRotation) -> None:
        super().__init__()
        if not isinstance(quantizer, Quantizer):
            raise HypersignError(f"the quantizer to rotate must be one such as Sign(); got {quantizer!r}")
        if not isinstance(rotation, HaarRotation | HadamardRotation):
            raise HypersignError(f"rotation must be a HaarRotation or a HadamardRotation; got {rotation!r}")
        needed = getattr(rotation, "size", rotation.dimension)
        if rotation.outputs < needed:
            raise HypersignError(
                f"a rotation that is undone must keep all {needed} outputs; this one keeps {rotation.outputs}: "
                "leave `outputs` out"
            )
        self.quantizer = quantizer
        self.rotation = rotation

    @property
    def scale(self) -> object:
        """The scale of `quantizer`; a rotation leaves it as it is."""
        return self.quantizer.scale

    def thresholds(self, weight: Tensor) -> Tensor:
        """The threshold of each filter in the rotated frame: shape `(filters,)`."""
        return self.quantizer.thresholds(self.rotation(weight.flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        """theta_R of every vector of `x`, of the shape of `x`."""
        rotated = self.rotation(x.flatten(1))
        return self.rotation.inverse(self.quantizer(rotated)).view_as(x)

    def extra_repr(self) -> str:
        return f"rotation={self.rotation!r}"
