"""Which nodes of a packed network run together, and that it changes no number."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hypersign import bits
from hypersign._checks import HypersignError
from hypersign.bits import available_backends
from hypersign.bits.backend import forced
from hypersign.packed import Graph, Node, PackedModel
from hypersign.packed.format import write

pytestmark = pytest.mark.skipif(len(available_backends()) == 1, reason="the compiled kernels are not installed")

WINDOW = {"kernel": [3, 3], "stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "groups": 1, "pad_value": 0}
POINT = {"kernel": [1, 1], "stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1}
WHOLE = {"size": [4, 5], "stride": [4, 5], "padding": [0, 0], "ceil_mode": False, "count_include_pad": True}


def made(nodes: list[Node], tensors: dict[str, Any], channels: int) -> PackedModel:
    names = tuple(map(str, range(channels)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net"
        write(path, Graph((channels, 4, 5), None, names, tuple(nodes)), tensors)
        return PackedModel.load(path)


def blocks(count: int, channels: int) -> PackedModel:
    """Blocks with a shortcut, a window sum and an offset that depends on no image; then the mean."""
    generator = np.random.default_rng(0)
    nodes: list[Node] = []
    tensors: dict[str, Any] = {}

    def real(*shape: int) -> Any:
        return generator.standard_normal(shape, dtype=np.float32)

    def node(op: str, name: str, *inputs: str, options: Any = None, **own: Any) -> str:
        nodes.append(Node(op, name, inputs, options or {}))
        tensors.update({f"{name}.{role}": value for role, value in own.items()})
        return name

    def affine(name: str, x: str, n: int, scale: Any = None) -> str:
        return node("affine", name, x, scale=real(n) if scale is None else scale, shift=real(n))

    x = "input"
    for i in range(count):
        levels = node("quantize", f"q{i}", x, low=real(channels), flip=generator.random(channels) < 0.5)
        words = bits.pack(real(channels, 9 * channels))
        y = affine(f"norm{i}", node("conv2d", f"conv{i}", levels, options=WINDOW, weight=words), channels)
        ones = bits.pack(np.ones((1, 9 * channels)))
        sums = affine(f"m{i}", node("conv2d", f"window{i}", levels, options=WINDOW, weight=ones), 1)
        y = node(
            "add", f"sum{i}", y, node("real_conv2d", f"o{i}", sums, options=POINT, weight=real(channels, 1, 1, 1))
        )
        one = affine(f"one{i}", sums, 1, np.zeros(1, np.float32))
        options = {key: value for key, value in WINDOW.items() if key != "pad_value"}
        border = node("real_conv2d", f"border{i}", one, options=options, weight=real(channels, 3, 3, 1))
        x = node("clip", f"clip{i}", node("add", f"next{i}", node("add", f"b{i}", y, border), x),
                 options={"low": -3.0, "high": None})  # fmt: skip
    node("avg_pool2d", "mean", x, options=WHOLE)
    return made(nodes, tensors, channels)


@pytest.mark.parametrize("channels", [1, 63, 64, 65])
@pytest.mark.parametrize("images", [1, 2, 17])
def test_outputs_are_those_of_the_nodes_one_by_one(images: int, channels: int) -> None:
    model = blocks(3, channels)
    x = np.random.default_rng(1).standard_normal((images, channels, 4, 5), dtype=np.float32)
    with forced("numpy"):
        expected = model.predict(x)
    for name in available_backends()[1:]:
        with forced(name):
            for threads in (1, 3):
                assert np.array_equal(model.predict(x, threads=threads), expected)
            assert np.array_equal(model.trace(x)["mean"].reshape(images, -1), expected)


def test_a_block_is_one_pass() -> None:
    model = blocks(2, 16)
    block = ("conv0", "norm0", "window0", "m0", "sum0", "o0", "b0", "next0", "clip0", "q1")
    assert {name: set(nodes) for name, nodes in model.passes.items()} == {
        "q0": {"q0"},
        "conv0": set(block),
        "conv1": {name.replace("0", "1") for name in block[:-1]},
        "mean": {"mean"},
    }
    times = model.times(np.zeros((2, 16, 4, 5), np.float32))
    assert list(times) == list(model.passes)
    with forced("numpy"):
        assert list(model.passes) == [node.name for node in model.graph.nodes]


def test_nan_between_layers_is_an_error() -> None:
    large = np.full(2, 3e38, np.float32)
    nodes = [
        Node("affine", "up", ("input",)),
        Node("affine", "down", ("input",)),
        Node("add", "nan", ("up", "down")),
        Node("quantize", "q", ("nan",)),
        Node("unpack", "u", ("q",)),
        Node("avg_pool2d", "mean", ("u",), WHOLE),
    ]
    tensors = {"up.scale": large, "up.shift": large, "down.scale": -large, "down.shift": -large}
    tensors |= {"q.low": np.zeros(2, np.float32), "q.flip": np.zeros(2, np.bool_)}
    model = made(nodes, tensors, 2)
    for name in available_backends()[1:]:
        with forced(name), pytest.raises(HypersignError, match="must not hold NaN"):
            model.predict(np.full((1, 2, 4, 5), 9, np.float32))


@pytest.mark.parametrize("channels", [1, 3])
def test_no_pass_writes_over_what_its_product_reads(channels: int) -> None:
    """With one channel, levels and real numbers have arrays of one shape."""
    batch = blocks(3, channels)._batch({"input": np.zeros((17, channels, 4, 5), np.float32)})
    for each in batch.passes:
        read = {name for of in each.products for name in of.node.inputs}
        assert not any(np.shares_memory(batch.arrays[a], batch.arrays[b]) for a in read for b in each.outputs)
