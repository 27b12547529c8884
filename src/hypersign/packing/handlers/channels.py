"""Handler of shortcuts that copy channels."""

import numpy as np

from hypersign.bits.windows import output_size
from hypersign.models import ChannelCopies
from hypersign.packing.folding import Flow, Folding

__all__ = ["channel_copies"]


def channel_copies(folding: Folding, name: str, module: ChannelCopies, x: Flow) -> Flow:
    """A 1x1 convolution with weights of 0 and 1, whose sums are exact."""
    x = folding.real(x)
    stride = module.stride
    window = {"kernel": [1, 1], "stride": [stride, stride], "padding": [0, 0], "dilation": [1, 1]}
    folding.node("real_conv2d", name, x.name, **window, groups=1)
    shape = (module.filters, 1, 1, module.channels)
    folding.tensor(name, "weight", np.float32, shape, lambda: module.matrix().view(shape).numpy())
    height, width = output_size((x.height, x.width), (1, 1), stride=(stride, stride), padding=(0, 0))
    return Flow(name, "real", height, width, module.filters)
