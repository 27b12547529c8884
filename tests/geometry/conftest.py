"""The network of the original authors' oracle, rebuilt from our layers with the saved variables."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hypersign.layers import QuantConv2d, QuantLinear
from hypersign.quantizers import Sign


def _sign() -> Sign:
    return Sign(zero=0)  # the original's sign(0) is 0


class Oracle:
    """Arrays of `binary_forward.npz` and the model they belong to."""

    def __init__(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as arrays:
            self.arrays = dict(arrays)
        self.model = nn.Sequential()
        for name, module in {
            "conv1": QuantConv2d(3, 16, 3, padding=1, bias=False, weight_quantizer=_sign()),
            "norm1": nn.BatchNorm2d(16, eps=1e-3),
            "conv2": QuantConv2d(16, 32, 3, padding=1, bias=False, input_quantizer=_sign(), weight_quantizer=_sign()),
            "pool2": nn.MaxPool2d(2),
            "norm2": nn.BatchNorm2d(32, eps=1e-3),
            "flatten": nn.Flatten(),
            "fc1": QuantLinear(1152, 24, bias=False, input_quantizer=_sign(), weight_quantizer=_sign()),
            "norm3": nn.BatchNorm1d(24, eps=1e-3),
            "fc2": QuantLinear(24, 10, bias=False, input_quantizer=_sign(), weight_quantizer=_sign()),
            "norm4": nn.BatchNorm1d(10, eps=1e-3),
        }.items():
            self.model.add_module(name, module)
        scopes = {"layer_1": "1", "layer_2": "2", "fc_layer_1": "3", "fc_layer_2": "4"}
        state = {}
        for scope, i in scopes.items():
            weight = torch.from_numpy(self.arrays[f"var/{scope}/W"])
            # HWIO -> OIHW; (in, out) -> (out, in)
            weight = weight.permute(3, 2, 0, 1) if weight.dim() == 4 else weight.T
            layer = f"conv{i}" if scope.startswith("layer") else f"fc{int(i) - 2}"
            if layer == "fc1":  # inputs flattened as (height, width, channel) there, (channel, height, width) here
                weight = weight.reshape(24, 6, 6, 32).permute(0, 3, 1, 2).reshape(24, 1152)
            state[f"{layer}.weight"] = weight
            for ours, theirs in {
                "bias": "beta",
                "running_mean": "moving_mean",
                "running_var": "moving_variance",
            }.items():
                state[f"norm{i}.{ours}"] = torch.from_numpy(self.arrays[f"var/{scope}/BatchNorm/{theirs}"])
            state[f"norm{i}.weight"] = torch.ones_like(state[f"norm{i}.bias"])
            state[f"norm{i}.num_batches_tracked"] = torch.tensor(0)
        self.model.load_state_dict(state)
        self.model.eval()

    @property
    def images(self) -> torch.Tensor:
        return torch.from_numpy(self.arrays["x"]).permute(0, 3, 1, 2)  # NHWC -> NCHW

    @property
    def labels(self) -> torch.Tensor:
        return torch.from_numpy(self.arrays["y"]).long()


@pytest.fixture(scope="session")
def oracle() -> Oracle:
    root = Path(__file__).parents[2]
    folder = Path(os.environ.get("HYPERSIGN_ORACLE", root / ".." / "shared" / "oracle"))
    path = folder / "binary_forward.npz"
    if not path.exists():
        pytest.skip(f"{path} is absent; HYPERSIGN_ORACLE names the oracle's folder")
    return Oracle(path)
