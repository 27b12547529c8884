"""The generalized binarization: quantize in a rotated frame, then rotate back."""

from torch import Tensor, nn

from hypersign import theory
from hypersign._checks import HypersignError
from hypersign.quantizers.base import PackedForm, Quantizer, Rule
from hypersign.quantizers.scales import ConstantScale, LearnedNumber
from hypersign.quantizers.surrogates import Surrogate
from hypersign.rotations import HaarRotation, HadamardRotation

__all__ = ["Rotated"]


class Rotated(Quantizer):
    """A quantizer in a rotated frame: the generalized binarization of Anderson & Berg.

        theta_R(x) = R' theta(R x)          dtheta_R/dx := R' diag(dtheta) R

    R is `rotation`, theta is `quantizer`. After a rotation, the angle between a vector and its sign is about 37
    degrees for every vector. So inputs that vary in few directions, such as the pixels of a first layer, keep their
    directions. Each element of the first dimension of `x` is one vector: an image, an input of a fully connected
    layer, a filter.

    A `HadamardRotation` needs sign flips, additions and comparisons, and only one multiplication, by a power of
    sqrt(2). R'R = 1 if the rotation keeps all outputs. Then the product of two vectors that are quantized in the same
    frame is the product of their levels: theta_R(w).theta_R(x) = theta(R w).theta(R x).

    `levels` is empty, because the levels are exact in the rotated frame, and not in the frame of `x`. The scale is
    that of `quantizer`: a rotation does not change it.

    Args:
        quantizer: quantizer of the rotated vectors, such as `Sign()`, without an offset.
        rotation: a rotation of the vectors' dimension that keeps all outputs.

    Raises:
        HypersignError: `quantizer` or `rotation` has another type, or the rotation drops outputs. In calls: the
            vectors have another dimension.

    Source: Anderson & Berg 2018 (arXiv 1705.07199), the generalized binarization transformation.

    >>> import torch
    >>> from hypersign.quantizers import Sign
    >>> binarize = Rotated(Sign(), HadamardRotation(64, seed=1))
    >>> x = torch.exp(-torch.arange(64.0))[None]
    >>> [round(float(torch.cosine_similarity(x, f(x))), 2) for f in (Sign(), binarize)]
    [0.18, 0.8]
    """

    bits = 32  # the product sees real numbers
    offset = None

    def __init__(self, quantizer: Quantizer, rotation: HaarRotation | HadamardRotation) -> None:
        nn.Module.__init__(self)  # scale and surrogate are those of `quantizer`
        if not isinstance(quantizer, Quantizer) or quantizer.offset is not None:
            raise HypersignError(
                f"the quantizer to rotate must be one such as Sign(), without an offset; got {quantizer!r}"
            )
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
    def scale(self) -> Rule | None:  # type: ignore[override]
        """The scale of `quantizer`."""
        return self.quantizer.scale

    @property
    def surrogate(self) -> Surrogate:  # type: ignore[override]
        """The surrogate of `quantizer`."""
        return self.quantizer.surrogate

    def fit(self, weight: Tensor, channels: int | None = None) -> None:
        """Sizes what `quantizer` learns, to vectors."""
        self.quantizer.fit(weight.flatten(1), channels)

    def prepare(self, x: Tensor) -> Tensor:
        """R x for every vector, shape `(vectors, outputs)`."""
        return self.quantizer.prepare(self.rotation(x.flatten(1)))

    def round(self, x: Tensor) -> Tensor:
        """The levels of rotated vectors, in the rotated frame."""
        return self.quantizer.round(x)

    def thresholds(self, x: Tensor) -> Tensor | None:
        """The threshold of each filter in the rotated frame: shape `(filters,)`."""
        return self.quantizer.thresholds(self.rotation(x.flatten(1)))

    @property
    def predicted_by_thresholds(self) -> bool:
        """The same as for `quantizer`: a rotation does not change angles."""
        return self.quantizer.predicted_by_thresholds

    def predicted_cosine(self, d: float, moments: theory.Moments) -> float | None:
        """The prediction of `quantizer`: a rotation does not change angles."""
        return self.quantizer.predicted_cosine(d, moments)

    def packed_form(self, inputs: bool = False) -> PackedForm:
        return PackedForm(None, "no packed form is known of the quantizer Rotated")

    def input_refusal(self) -> str:
        fixed = self.scale is None or isinstance(self.scale, ConstantScale | LearnedNumber)
        reason = "" if fixed else "must not be rotated if its scale depends on the inputs, which are not rotated"
        return self.quantizer.input_refusal() or reason

    def forward(self, x: Tensor) -> Tensor:
        """theta_R of every vector, in the shape of `x`."""
        rotated = self.rotation(x.flatten(1))
        return self.rotation.inverse(self.quantizer(rotated)).view_as(x)

    def describe(self) -> str:
        return f"Rotated({self.quantizer.describe()}, {self.rotation!r})"

    def extra_repr(self) -> str:
        return f"rotation={self.rotation!r}"
