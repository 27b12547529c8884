"""A small packed network made by hand, without torch, that has an operation of every kind."""

from typing import Any

import numpy as np
import pytest

from hypersign import bits
from hypersign.packed import Graph, Node
from hypersign.packed.decisions import CLASSIFICATION, NUMBERS
from hypersign.packed.graph import Output

WINDOW = {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1]}


@pytest.fixture(scope="session")
def network() -> tuple[Graph, dict[str, np.ndarray[Any, Any]]]:
    """Images of 2 x 5 x 6 through an image convolution, a pool, ternary levels, a real convolution and a shortcut."""
    rng = np.random.default_rng(1)
    nodes = [
        Node("image_conv2d", "conv1", ("input",), {"kernel": [3, 3], **WINDOW, "multiplier": 2, "shift": -255}),
        Node(
            "max_pool2d",
            "pool1",
            ("conv1",),
            {"size": [2, 2], "stride": [2, 2], "padding": [0, 0], "ceil_mode": True},
        ),
        Node("conv2d", "conv2", ("pool1",), {"kernel": [3, 3], **WINDOW, "groups": 1, "pad_value": 0}),
        Node("affine", "norm2", ("conv2",), {}),
        Node("quantize", "quantize3", ("norm2",), {}),
        Node("unpack", "unpack3", ("quantize3",), {}),
        Node("real_conv2d", "conv3", ("unpack3",), {"kernel": [3, 3], **WINDOW, "groups": 2}),
        Node("clip", "clip3", ("conv3",), {"low": -1.0, "high": None}),
        Node("add", "add", ("clip3", "norm2"), {}),
        Node(
            "avg_pool2d",
            "pool",
            ("add",),
            {"size": [3, 3], "stride": [3, 3], "padding": [0, 0], "ceil_mode": False, "count_include_pad": True},
        ),
        Node(
            "real_conv2d",
            "fc",
            ("pool",),
            {"kernel": [1, 1], "stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1},
        ),
    ]
    tensors = {
        "conv1.weight": bits.pack(rng.normal(size=(70, 18))),
        "conv1.low": rng.integers(-900, 900, 70).astype(np.int32),
        "conv1.high": np.full(70, 1000, np.int32),
        "conv1.flip": rng.random(70) < 0.3,
        "pool1.flip": rng.random(70) < 0.3,
        "conv2.weight": bits.pack_ternary(rng.normal(size=(4, 630)), low=-0.5, high=0.5),
        "norm2.scale": rng.normal(size=4).astype(np.float32),
        "norm2.shift": rng.normal(size=4).astype(np.float32),
        "quantize3.low": np.array([0, -np.inf, np.inf, 0.5], np.float32),
        "quantize3.flip": np.array([False, True, False, True]),
        "conv3.weight": rng.normal(size=(4, 3, 3, 2)).astype(np.float32),
        "fc.weight": bits.pack(rng.normal(size=(3, 4))),
    }
    return Graph((2, 5, 6), (-1.0, 1.0), ("a", "b", "c"), tuple(nodes)), tensors


@pytest.fixture(scope="session")
def rotated() -> tuple[Graph, dict[str, np.ndarray[Any, Any]]]:
    """Images of 1 x 2 x 3 through a rotation, a switch, a transform and signed sums, and beside them the pixels."""
    rng = np.random.default_rng(2)
    nodes = (
        Node(
            "rotate", "rotation", ("input",), {"multiplier": 2, "shift": -255, "size": 8, "outputs": 8, "exponent": 3}
        ),
        Node("switch", "switch", ("rotation",), {"exponent": -1}),
        Node("hadamard", "transform", ("switch",)),
        Node("signed_sum", "sums", ("transform",), {"exponent": -2}),
        Node("affine", "logits", ("sums",)),
        Node("pixels", "pixels", ("input",)),
        Node(
            "avg_pool2d",
            "mean",
            ("pixels",),
            {"size": [2, 3], "stride": [1, 1], "padding": [0, 0], "ceil_mode": False, "count_include_pad": True},
        ),
        Node("add", "add", ("logits", "mean")),
    )
    tensors = {
        "rotation.signs": bits.pack(rng.normal(size=(3, 8))),
        "switch.slopes": bits.pack(rng.normal(size=(2, 3, 8))),
        "sums.weight": bits.pack_ternary(rng.normal(size=(1, 8)), low=-0.5, high=0.5),
        "logits.scale": np.array([0.25], np.float32),
        "logits.shift": np.array([-3], np.float32),
    }
    return Graph((1, 2, 3), (0.0, 510.0), ("a",), nodes), tensors


@pytest.fixture(scope="session")
def packed_rotated(rotated, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of its file."""
    from hypersign.packed.format import write

    path = tmp_path_factory.mktemp("packed") / "net.hypersign"
    write(path, *rotated)
    return path.read_bytes()


@pytest.fixture(scope="session")
def packed(network, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of its file."""
    from hypersign.packed.format import write

    path = tmp_path_factory.mktemp("packed") / "net.hypersign"
    write(path, *network)
    return path.read_bytes()


@pytest.fixture(scope="session")
def wide() -> tuple[Graph, dict[str, np.ndarray[Any, Any]]]:
    """An image of 3 x 4 x 6 and a vector of 4, through all operations of real numbers, to a map and a sequence."""
    rng = np.random.default_rng(3)
    nodes = (
        Node("quantize", "levels", ("input",)),
        Node("zero_pad2d", "zeros", ("levels",), {"stride": [1, 2], "before": [0, 1], "after": [1, 0]}),
        Node(
            "conv2d", "conv", ("zeros",),
            {"kernel": [2, 2], "stride": [1, 2], "padding": [0, 0], "dilation": [1, 1], "groups": 1, "pad_value": 0},
        ),
        Node("affine", "norm", ("conv",)),
        Node("group_norm", "groups", ("norm",), {"groups": 2, "eps": 1e-5}),
        Node("activation", "gelu", ("groups",), {"function": "gelu"}),
        Node("multiply", "gate", ("gelu", "input2")),
        Node("resize2d", "map", ("gate",), {"size": [8, 6], "mode": "bilinear"}),
        Node("rearrange", "tokens", ("gate",), {"split": [4, 6, 2, 2], "order": [2, 0, 1, 3], "shape": [2, 24, 2]}),
        Node("constant", "place", ()),
        Node("add", "placed", ("tokens", "place")),
        Node("layer_norm", "layer", ("placed",), {"eps": 1e-5, "centre": True}),
        Node("attention", "attended", ("layer", "layer", "placed"), {"scale": 0.5, "causal": True}),
        Node("slice", "some", ("attended",), {"axis": 1, "start": 1, "stop": 9, "step": 2}),
        Node("rearrange", "turned", ("some",), {"split": [2, 4, 2], "order": [0, 2, 1], "shape": [2, 2, 4]}),
        Node("matmul", "product", ("some", "turned")),
        Node("softmax", "shares", ("product",), {"log": False}),
    )  # fmt: skip
    tensors = {
        "levels.low": np.full(3, 100, np.int32),
        "levels.flip": np.array([True, False, True]),
        "conv.weight": bits.pack(rng.normal(size=(4, 12))),
        "place.value": rng.normal(size=(1, 24, 2)).astype(np.float32),
    }
    for name, size in (("norm", 4), ("groups", 4), ("layer", 2)):
        for role in ("scale", "shift"):
            tensors[f"{name}.{role}"] = rng.normal(size=size).astype(np.float32)
    outputs = Output("map", "map", (8, 6, 4), CLASSIFICATION), Output("shares", "shares", (2, 4, 4), NUMBERS)
    graph = Graph(
        (3, 4, 6), (0.0, 1.0), (), nodes, more_inputs=(("input2", (4, 1, 1)),), outputs=outputs
    )  # fmt: skip
    return graph, tensors


@pytest.fixture(scope="session")
def packed_wide(wide, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of its file."""
    from hypersign.packed.format import write

    path = tmp_path_factory.mktemp("packed") / "net.hypersign"
    write(path, *wide)
    return path.read_bytes()
