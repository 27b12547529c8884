"""The table of handlers. A new layer needs a handler in a file beside this one, and its row here."""

from torch import nn

from hypersign.layers import (
    Maxout,
    QuantConv1d,
    QuantConv2d,
    QuantConvTranspose1d,
    QuantConvTranspose2d,
    QuantLinear,
    Rotation,
    RPReLU,
)
from hypersign.models import (
    AssociativeMemory,
    BinaryBlock,
    ChannelCopies,
    Ensemble,
    FastTransform,
    RecurrentNetwork,
    ShiftBatchNorm1d,
    ShiftBatchNorm2d,
    Switch,
    Transform,
)
from hypersign.packing import steps
from hypersign.packing.folding import Handler
from hypersign.packing.handlers import arranging, reals
from hypersign.packing.handlers.channels import channel_copies
from hypersign.packing.handlers.clips import hardtanh, relu, tanh
from hypersign.packing.handlers.containers import block, ensemble, flatten, identity, quantizer, sequence
from hypersign.packing.handlers.norms import batch_norm
from hypersign.packing.handlers.pools import adaptive_avg_pool, adaptive_max_pool, avg_pool, max_pool
from hypersign.packing.handlers.products import convolution, linear, transposed_convolution
from hypersign.packing.handlers.recurrent import recurrent_network
from hypersign.packing.handlers.slopes import slopes
from hypersign.packing.handlers.transforms import rotation, switch, transform
from hypersign.quantizers import Identity, Sign, Ternary

__all__ = ["HANDLERS"]

HANDLERS: dict[type[nn.Module], Handler] = {
    nn.Sequential: sequence,
    FastTransform: sequence,
    AssociativeMemory: sequence,
    BinaryBlock: block,
    ChannelCopies: channel_copies,
    Ensemble: ensemble,
    RecurrentNetwork: recurrent_network,
    nn.Flatten: flatten,
    nn.Identity: identity,
    Identity: identity,
    nn.Dropout: identity,
    nn.Dropout1d: identity,
    nn.Dropout2d: identity,
    nn.Conv2d: convolution,
    QuantConv2d: convolution,
    nn.Conv1d: convolution,
    QuantConv1d: convolution,
    nn.ConvTranspose1d: transposed_convolution,
    nn.ConvTranspose2d: transposed_convolution,
    QuantConvTranspose1d: transposed_convolution,
    QuantConvTranspose2d: transposed_convolution,
    nn.Linear: linear,
    QuantLinear: linear,
    nn.BatchNorm1d: batch_norm,
    nn.BatchNorm2d: batch_norm,
    ShiftBatchNorm1d: batch_norm,
    ShiftBatchNorm2d: batch_norm,
    nn.ReLU: relu,
    nn.ReLU6: hardtanh,
    nn.Hardtanh: hardtanh,
    nn.Tanh: tanh,
    RPReLU: slopes,
    Maxout: slopes,
    nn.PReLU: slopes,
    nn.LeakyReLU: slopes,
    Sign: quantizer,
    Ternary: quantizer,
    nn.MaxPool2d: max_pool,
    nn.AvgPool2d: avg_pool,
    nn.AdaptiveAvgPool2d: adaptive_avg_pool,
    nn.AdaptiveMaxPool2d: adaptive_max_pool,
    Rotation: rotation,
    Switch: switch,
    Transform: transform,
    steps.View: arranging.view,
    steps.Permute: arranging.permute,
    steps.Slice: arranging.slice_,
    steps.Concat: arranging.concat,
    steps.Constant: arranging.constant,
    steps.ZeroPad: arranging.zero_pad,
    steps.Affine: reals.affine,
    steps.Add: reals.add,
    steps.Multiply: reals.multiply,
    steps.MatMul: reals.matmul,
    steps.Attention: reals.attention,
    steps.Mean: reals.mean,
    steps.Softmax: reals.softmax,
    steps.LayerNorm: reals.layer_norm,
    steps.GroupNorm: reals.group_norm,
    steps.Resize: reals.resize,
    steps.Function: reals.function,
}
"""The handler of each type of layer; a type that is not here is refused."""
