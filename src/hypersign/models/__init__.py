"""Networks as the papers draw them, built by name from options."""

from hypersign.models.build import MODELS, build, options_of
from hypersign.models.norm import ShiftBatchNorm1d, ShiftBatchNorm2d
from hypersign.models.resnet import BinaryBlock, resnet18, resnet20
from hypersign.models.vgg import mlp, vgg

__all__ = [
    "build",
    "MODELS",
    "options_of",
    "vgg",
    "mlp",
    "resnet20",
    "resnet18",
    "BinaryBlock",
    "ShiftBatchNorm1d",
    "ShiftBatchNorm2d",
]
