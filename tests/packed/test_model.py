"""The runtime: operations against plain loops, bad input, threads, and what it imports."""

import copy
import io
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hypersign import bits
from hypersign._checks import HypersignError
from hypersign.packed import Graph, Node, PackedModel
from hypersign.packed.format import write


@pytest.fixture(scope="module")
def model(packed: bytes) -> PackedModel:
    return PackedModel.load(io.BytesIO(packed))


@pytest.fixture(scope="module")
def images() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (5, 2, 5, 6)).astype(np.uint8)


def by_hand(tensors: dict[str, Any], image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The network of the fixture on one image (channels, height, width), in float64 loops."""

    def convolve(x: Any, weight: Any, groups: int = 1) -> Any:
        padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
        y = np.zeros((*x.shape[:2], len(weight)))
        depth, per_group = weight.shape[3], len(weight) // groups
        for i in range(x.shape[0]):
            for j in range(x.shape[1]):
                for f in range(len(weight)):
                    group = f // per_group
                    window = padded[i : i + 3, j : j + 3, group * depth : (group + 1) * depth]
                    y[i, j, f] = (window * weight[f]).sum()
        return y

    x = 2.0 * image.transpose(1, 2, 0) - 255
    sums = convolve(x, bits.unpack(tensors["conv1.weight"], 18).reshape(70, 3, 3, 2).astype(float))
    low, high = tensors["conv1.low"], tensors["conv1.high"]
    levels = np.where(sums < low, -1, np.where(sums >= high, 1, 0)) * np.where(tensors["conv1.flip"], -1, 1)
    pooled = np.zeros((3, 3, 70))
    for i in range(3):
        for j in range(3):
            pooled[i, j] = levels[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max((0, 1))
    pooled *= np.where(tensors["pool1.flip"], -1, 1)
    weight = bits.unpack_ternary(tensors["conv2.weight"], 630).reshape(4, 3, 3, 70).astype(float)
    real = convolve(pooled, weight) * tensors["norm2.scale"] + tensors["norm2.shift"]
    signs = np.where(real < tensors["quantize3.low"], -1, 1) * np.where(tensors["quantize3.flip"], -1, 1)
    y = np.maximum(convolve(signs, tensors["conv3.weight"].astype(float), groups=2), -1) + real
    return bits.unpack(tensors["fc.weight"], 4) @ y.mean((0, 1))


def test_predict_is_what_loops_give(network, model: PackedModel, images) -> None:
    expected = [by_hand(network[1], image) for image in images]
    np.testing.assert_allclose(model.predict(images), expected, rtol=1e-5, atol=1e-5)


def test_a_rotated_network_is_what_integers_give(rotated, packed_rotated: bytes) -> None:
    tensors = rotated[1]
    hadamard = np.array([[1 - 2 * ((i & j).bit_count() % 2) for j in range(8)] for i in range(8)])
    images = np.random.default_rng(0).integers(0, 256, (20, 1, 2, 3)).astype(np.uint8)
    images[0], images[1] = 0, 255
    y = np.zeros((20, 8), int)
    y[:, :6] = 2 * images.reshape(20, 6).astype(int) - 255
    for signs in bits.unpack(tensors["rotation.signs"], 8).astype(int):
        y = (y * signs) @ hadamard
    y = y * 8
    planes = bits.unpack(tensors["switch.slopes"], 8) < 0  # (2, 3, 8)
    minus, shifts = planes[:, 0], planes[:, 1] + 2 * planes[:, 2]
    below = (y < 0).astype(int)
    column = np.arange(8)
    y = np.floor(y / 2.0 ** (1 + shifts[below, column])).astype(int) * np.where(minus[below, column], -1, 1)
    y = np.floor(y @ hadamard / 4).astype(int)
    sums = y @ bits.unpack_ternary(tensors["sums.weight"], 8)[0].astype(int)
    model = PackedModel.load(io.BytesIO(packed_rotated))
    assert model.trace(images)["sums"].ravel().tolist() == sums.tolist()
    expected = sums * 0.25 - 3 + 2 * images.reshape(20, 6).mean(1)
    np.testing.assert_allclose(model.predict(images).ravel(), expected, rtol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_batches_and_threads_change_nothing(model: PackedModel, images, batch_size: int) -> None:
    expected = model.predict(images)
    np.testing.assert_array_equal(model.predict(images, batch_size=batch_size, threads=2), expected)


def test_no_images_and_other_layouts(model: PackedModel, images) -> None:
    assert model.predict(images[:0]).shape == (0, 3)
    channels_last = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(model.predict(channels_last), model.predict(images))
    np.testing.assert_array_equal(model.predict(images[::-2]), model.predict(images)[::-2])


def test_two_threads_at_once_give_the_same(model: PackedModel, images) -> None:
    expected = model.predict(images)
    found: list[Any] = []

    def predict() -> None:
        found.extend(model.predict(images, batch_size=1 + i % 3) for i in range(5))

    threads = [threading.Thread(target=predict) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 10
    for logits in found:
        np.testing.assert_array_equal(logits, expected)


def test_buffers_are_kept_and_results_are_not_in_them(model: PackedModel, images) -> None:
    logits, values = model.predict(images[:2]), model.trace(images[:2])
    before = [logits.copy(), *(value.copy() for value in values.values())]
    batch = model._own.batch
    model.predict(images[2:4])
    assert model._own.batch is batch
    for array, expected in zip([logits, *values.values()], before, strict=True):
        np.testing.assert_array_equal(array, expected)


def test_trace_keeps_every_value(model: PackedModel, images) -> None:
    values = model.trace(images)
    assert list(values) == ["input", *(node.name for node in model.graph.nodes)]
    assert values["conv1"].shape == (2, 5, 5, 6, 2)
    assert model.float_nodes == ("norm2", "unpack3", "conv3", "clip3", "add", "pool", "fc")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((1, 2, 5, 6), np.float32), "uint8 of shape .* got float32"),
        (np.zeros((1, 2, 5, 6), np.int64), "got int64"),
        (np.zeros((2, 5, 6), np.uint8), r"got uint8 of shape \(2, 5, 6\); pass a single image as image\[None\]"),
        (np.zeros((1, 2, 6, 5), np.uint8), r"N, 2, 5, 6.* got uint8 of shape \(1, 2, 6, 5\)"),
        ("image", "got <U5"),
    ],
)
def test_images_of_another_type_or_shape(model: PackedModel, wrong: Any, message: str) -> None:
    with pytest.raises(HypersignError, match=message):
        model.predict(wrong)


def test_numbers_of_threads_and_images(model: PackedModel, images) -> None:
    with pytest.raises(HypersignError, match="batch_size"):
        model.predict(images, batch_size=0)
    with pytest.raises(HypersignError, match="threads"):
        model.predict(images, threads=0)


def test_real_images_must_be_numbers(tmp_path) -> None:
    graph = Graph((3, 1, 1), None, ("a", "b", "c"), (Node("clip", "clip", ("input",), {"low": 0.0, "high": 1.0}),))
    write(tmp_path / "net", graph, {})
    model = PackedModel.load(tmp_path / "net")
    x = np.array([[-1.0, 0.5, 2.0]], np.float32)[:, :, None, None]
    assert model.predict(x).tolist() == [[0.0, 0.5, 1.0]]
    for wrong in (np.nan, np.inf):
        x[0, 0] = wrong
        with pytest.raises(HypersignError, match="finite"):
            model.predict(x)
    with pytest.raises(HypersignError, match="must be float32"):
        model.predict(x.astype(np.float64))


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("op", ["avg_pool2d", "max_pool2d"])
@pytest.mark.parametrize(
    ("size", "stride", "padding", "ceil_mode"), [((2, 3), (2, 2), (1, 1), True), ((3, 2), (2, 3), (1, 0), False)]
)
def test_pools_of_real_numbers(tmp_path, op: str, include: bool, size, stride, padding, ceil_mode: bool) -> None:
    """Against windows one by one: the part of each inside the padded image, and inside the image."""
    options = {"size": list(size), "stride": list(stride), "padding": list(padding), "ceil_mode": ceil_mode}
    if op == "avg_pool2d":
        options["count_include_pad"] = include
    height, width = bits.windows.output_size((7, 6), size, stride=stride, padding=padding, ceil_mode=ceil_mode)
    nodes = (
        Node(op, "pool", ("input",), options),
        Node(
            "avg_pool2d",
            "all",
            ("pool",),
            {
                "size": [height, width],
                "stride": [1, 1],
                "padding": [0, 0],
                "ceil_mode": False,
                "count_include_pad": True,
            },
        ),
    )
    write(tmp_path / "net", Graph((1, 7, 6), None, ("a",), nodes), {})
    x = np.random.default_rng(0).normal(size=(2, 1, 7, 6)).astype(np.float32)
    found = PackedModel.load(tmp_path / "net").trace(x)["pool"][..., 0]
    assert found.shape == (2, height, width)
    for i in range(height):
        for j in range(width):
            top, left = i * stride[0] - padding[0], j * stride[1] - padding[1]
            inside = x[:, 0, max(top, 0) : top + size[0], max(left, 0) : left + size[1]]
            if op == "max_pool2d":
                expected = inside.max((1, 2))
            else:
                padded = (min(top + size[0], 7 + padding[0]) - top) * (min(left + size[1], 6 + padding[1]) - left)
                expected = inside.sum((1, 2)) / (padded if include else inside[0].size)
            np.testing.assert_allclose(found[:, i, j], expected, rtol=1e-6)


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))],
    ids=["copy", "deep", "pickle"],
)
def test_copies(copied: Callable[[PackedModel], PackedModel], model: PackedModel, packed: bytes, images) -> None:
    expected = model.predict(images)
    found = copied(model)
    assert (found.sha256, found.graph, found.values) == (model.sha256, model.graph, model.values)
    np.testing.assert_array_equal(found.predict(images), expected)
    assert model.__reduce__()[1] == (packed,)


def test_the_runtime_needs_no_torch() -> None:
    code = "import sys, hypersign.packed; print(sorted({'torch', 'safetensors.torch', 'rich'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("rounds", [1, 50, 100, 108, 109, 110, 125, 126, 127, 500])
def test_rotations_of_many_rounds_are_exact_or_refused(rounds: int, tmp_path: Path) -> None:
    """Sums of two pixels double every other round: past 2^63 no type holds them."""
    random = np.random.default_rng(0)
    signs = random.integers(0, 4, (rounds, 1)).astype(np.uint64)
    exponent = -max(0, rounds // 2 - 20)
    options = {"multiplier": 1, "shift": 0, "size": 2, "outputs": 2, "exponent": exponent}
    nodes = (
        Node("rotate", "turn", ("input",), options),
        Node("affine", "out", ("turn",), {}),
    )
    graph = Graph((2, 1, 1), (0.0, 255.0), ("a", "b"), nodes)
    tensors = {"turn.signs": signs, "out.scale": np.ones(2, np.float32), "out.shift": np.zeros(2, np.float32)}
    if 255**2 * 2 * 2**rounds >= 2**126:
        with pytest.raises(HypersignError, match=f"stay below 2\\^63; {rounds} rounds"):
            write(tmp_path / "net", graph, tensors)
        return
    write(tmp_path / "net", graph, tensors)
    images = random.integers(0, 256, (20, 2, 1, 1)).astype(np.uint8)
    expected = []
    for a, b in images.reshape(-1, 2).tolist():
        for word in signs[:, 0].tolist():
            a, b = (-a if word & 1 else a), (-b if word & 2 else b)
            a, b = a + b, a - b
        expected.append([a >> -exponent, b >> -exponent])
    found = PackedModel.load(tmp_path / "net").predict(images)
    np.testing.assert_array_equal(found, np.array(expected).astype(np.float32))
