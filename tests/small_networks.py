"""Packed networks with every operation, and images for them."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hypersign import packing
from hypersign.layers import QuantConv2d, QuantLinear
from hypersign.models import build, mlp
from hypersign.packed import PackedModel
from hypersign.quantizers import Identity, MeanScale, Sign, Ternary

SMALL: dict[str, Any] = {"widths": (16, 8, 70), "pools": (2, 3), "hidden": (40,), "norm_scale": True}
TERNARY: dict[str, Any] = {"levels": 3, "threshold": 0.05}


def every_layer() -> nn.Module:
    """Strides, dilations, groups, pads of one, scales, clips, and pools of levels and of real numbers."""

    def conv(*arguments: Any, **options: Any) -> QuantConv2d:
        return QuantConv2d(*arguments, **{"input_quantizer": Sign(), "weight_quantizer": Sign(), **options})

    return nn.Sequential(
        conv(3, 8, (2, 3), stride=(2, 1), padding=(1, 2), dilation=(1, 2)), nn.BatchNorm2d(8), nn.Hardtanh(),
        nn.MaxPool2d(3, 1, 1), nn.BatchNorm2d(8),
        conv(8, 12, 3, groups=4, padding=1, pad_value=1, weight_quantizer=Ternary(0.1, scale=MeanScale())),
        nn.ReLU(), nn.BatchNorm2d(12), conv(12, 70, 2, input_quantizer=Ternary(0.4)),
        nn.AvgPool2d(2, 1, 1, count_include_pad=False), nn.MaxPool2d(2), nn.Hardtanh(-2, 3),
        conv(70, 8, 1, input_quantizer=Identity()), nn.ReLU6(), nn.AvgPool2d(2, 2, 1, ceil_mode=True), nn.Flatten(),
        QuantLinear(48, 5, input_quantizer=None, weight_quantizer=Sign()),
    )  # fmt: skip


def vgg(**options: Any) -> Callable[[], nn.Module]:
    return lambda: build("vgg", (3, 9, 9), 5, **SMALL, **options)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int], tuple[float, float]]] = {
    "vgg": (vgg(), (3, 9, 9), (-1.0, 1.0)),
    "unpadded": (
        lambda: build("vgg", (3, 12, 13), 5, **{**SMALL, "padding": "valid", "pools": (2,)}), (3, 12, 13), (-1.0, 1.0)
    ),
    "ones": (vgg(padding="ones"), (3, 9, 9), (-1.0, 1.0)),
    "ternary": (vgg(**TERNARY), (3, 9, 9), (0.0, 1.0)),
    "ternary, padded by ones": (vgg(**TERNARY, padding="ones"), (3, 9, 9), (-1.0, 1.0)),
    "float weights": (vgg(float_weights=("conv1", "conv2", "fc1")), (3, 9, 9), (-1.0, 1.0)),
    "odd pixels": (vgg(), (3, 9, 9), (-0.7, 1.1)),
    "images less their mean": (vgg(inputs="image-sign"), (3, 9, 9), (-1.0, 1.0)),
    "mlp": (lambda: mlp((1, 7, 9), 10, hidden=(64, 65)), (1, 7, 9), (-1.0, 1.0)),
    "resnet20": (lambda: build("resnet20", (3, 9, 10), 7, widths=(4, 8)), (3, 9, 10), (-1.0, 1.0)),
    "every layer": (every_layer, (3, 9, 9), (-1.0, 1.0)),
}  # fmt: skip


class Side(nn.Module):
    """Two convolutions side by side."""

    def __init__(self) -> None:
        super().__init__()
        options: dict[str, Any] = {"input_quantizer": Sign(), "weight_quantizer": Sign(), "bias": False}
        self.first, self.norm = QuantConv2d(3, 6, 3, weight_quantizer=Sign(), bias=False), nn.BatchNorm2d(6)
        self.left, self.right = QuantConv2d(6, 5, 1, **options), QuantConv2d(6, 3, 1, **options)
        self.last = QuantLinear(8 * 49, 5, **options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.first(x))
        return self.last(torch.flatten(torch.cat([self.left(x), self.right(x)], 1), 1))


NETWORKS["side by side"] = (Side, (3, 9, 9), (-1.0, 1.0))

WITHOUT_PRODUCTS = {"fast-transform": (64, 64), "associative-memory": (200,)}


def settled(model: nn.Module) -> nn.Module:
    """The network with parameters and statistics that depend on their names and shapes alone."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                uniform = np.random.default_rng(zlib.crc32(name.encode())).random(tuple(tensor.shape))
                tensor.copy_(torch.from_numpy(2 * uniform + (1 if name.endswith("running_var") else -1)))
    return model.eval()


def packed(name: str, folder: Path) -> PackedModel:
    """One of `NETWORKS` or `WITHOUT_PRODUCTS`, packed."""
    if name in WITHOUT_PRODUCTS:
        shape, pixel_range = (1, 7, 9), (-1.0, 1.0)
        model = build(name, shape, 10, hidden=WITHOUT_PRODUCTS[name])
    else:
        make, shape, pixel_range = NETWORKS[name]
        model = make()
    packing.pack(settled(model), folder / "net.hypersign", shape, pixel_range=pixel_range)
    return PackedModel.load(folder / "net.hypersign")


def images_for(model: PackedModel, count: int) -> np.ndarray:
    """Random pixels."""
    return np.random.default_rng(3).integers(0, 256, (count, *model.shape)).astype(np.uint8)
