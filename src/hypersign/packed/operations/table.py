"""The table of operations. A new one needs a file beside this one, its row here, and its row in docs/format.md."""

from hypersign.packed.operations.activation import Activation
from hypersign.packed.operations.add import Add
from hypersign.packed.operations.affine import Affine
from hypersign.packed.operations.attention import Attention
from hypersign.packed.operations.avg_pool2d import AvgPool2d
from hypersign.packed.operations.centre import Centre
from hypersign.packed.operations.clip import Clip
from hypersign.packed.operations.concat import Concat
from hypersign.packed.operations.constant import Constant
from hypersign.packed.operations.conv2d import Conv2d
from hypersign.packed.operations.group_norm import GroupNorm
from hypersign.packed.operations.hadamard import Hadamard
from hypersign.packed.operations.image_conv2d import ImageConv2d
from hypersign.packed.operations.layer_norm import LayerNorm
from hypersign.packed.operations.matmul import MatMul
from hypersign.packed.operations.max_pool2d import MaxPool2d
from hypersign.packed.operations.multiply import Multiply
from hypersign.packed.operations.operation import Operation
from hypersign.packed.operations.pixels import Pixels
from hypersign.packed.operations.quantize import Quantize
from hypersign.packed.operations.real_conv2d import RealConv2d
from hypersign.packed.operations.rearrange import Rearrange
from hypersign.packed.operations.recurrent import RecurrentLayer
from hypersign.packed.operations.resize2d import Resize2d
from hypersign.packed.operations.rotate import Rotate
from hypersign.packed.operations.signed_sum import SignedSum
from hypersign.packed.operations.slice import Slice
from hypersign.packed.operations.softmax import Softmax
from hypersign.packed.operations.switch import Switch
from hypersign.packed.operations.unpack import Unpack
from hypersign.packed.operations.zero_pad2d import ZeroPad2d

__all__ = ["OPERATIONS"]

OPERATIONS: dict[str, Operation] = {
    operation.name: operation
    for operation in (
        ImageConv2d(),
        Conv2d(),
        RealConv2d(),
        RecurrentLayer(),
        Rotate(),
        Switch(),
        Hadamard(),
        SignedSum(),
        Pixels(),
        Unpack(),
        Affine(),
        Clip(),
        Centre(),
        Quantize(),
        MaxPool2d(),
        AvgPool2d(),
        Add(),
        Concat(),
        ZeroPad2d(),
        Activation(),
        Softmax(),
        LayerNorm(),
        GroupNorm(),
        Multiply(),
        MatMul(),
        Attention(),
        Rearrange(),
        Slice(),
        Resize2d(),
        Constant(),
    )
}
"""Every operation by the name that files use."""
