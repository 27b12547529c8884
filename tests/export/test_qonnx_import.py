"""Packed networks come back from QONNX, published ones run on bits, and what cannot is refused in one sentence."""

import contextlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hypersign import HypersignError
from hypersign.export import compare, import_qonnx, pixel_range_of, write_qonnx
from hypersign.export.onnx_graph import ACTIVATIONS, QONNX_DOMAIN
from hypersign.packed import PackedModel

from ..small_networks import images_for, packed

GIVEN = Path(os.environ.get("HYPERSIGN_DATA", "")) / "qonnx"
LONG = os.environ.get("HYPERSIGN_LONG") == "1"
UNSIGNED = ("unpadded", "ones", "ternary", "ternary, padded by ones", "mlp")


@pytest.fixture(autouse=True)
def _quiet():
    """The executor's own packages warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


@pytest.mark.parametrize("activations", ACTIVATIONS)
@pytest.mark.parametrize("name", UNSIGNED)
def test_what_was_exported_comes_back(name: str, activations: Any, tmp_path: Path) -> None:
    model = packed(name, tmp_path)
    write_qonnx(model, tmp_path / "net.onnx", activations=activations)
    import_qonnx(tmp_path / "net.onnx", tmp_path / "back.hypersign")
    back = PackedModel.load(tmp_path / "back.hypersign")
    images = images_for(model, 50)
    assert np.array_equal(back.predict(images), model.predict(images))
    assert back.float_nodes == (back.graph.nodes[-1].name,)
    assert len(back.to_bytes()) < 1.1 * len(model.to_bytes())
    assert back.classes == model.classes
    assert pixel_range_of(tmp_path / "net.onnx") == (0, 255)


@pytest.mark.real_data
@pytest.mark.skipif(not GIVEN.is_dir(), reason="HYPERSIGN_DATA has no folder qonnx")
@pytest.mark.parametrize(("name", "accuracy", "ternary"), [("TFC_1W1A", 0.9296, False), ("TFC_1W2A", 0.9474, True)])
def test_published_networks(name: str, accuracy: float, ternary: bool, tmp_path: Path) -> None:
    """Published: 93.17 % and 94.79 %. The executor takes one image at a time."""
    from hypersign.data import load

    file = GIVEN / f"{name}.onnx"
    import_qonnx(file, tmp_path / "net.hypersign")
    model = PackedModel.load(tmp_path / "net.hypersign")
    test = load("mnist").test
    images = test.images.numpy()
    assert (model.decide(model.predict(images)) == test.labels.numpy()).mean() == pytest.approx(accuracy, abs=5e-5)
    assert any(value.ternary for value in model.values.values()) == ternary
    assert model.float_nodes == (model.graph.nodes[-1].name,)
    found = compare(model, file, "qonnx", images[: 1000 if LONG else 20])
    assert (found.differ, found.largest_difference < 1e-5) == (0, True)


# ------------------------------------------------------------------------------------------------- small graphs


def save(
    folder: Path, nodes: list[onnx.NodeProto], constants: dict[str, Any], shape: list[int], **options: Any
) -> Path:
    """A file with these operators, from `x` to `y`."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "K"])],
        [
            numpy_helper.from_array(
                np.asarray(value, np.float32 if np.asarray(value).dtype.kind == "f" else None), name
            )
            for name, value in constants.items()
        ],
    )
    sets = [helper.make_opsetid("", 17), helper.make_opsetid(QONNX_DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=sets, ir_version=8, **options)
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    return folder / "net.onnx"


def node(kind: str, *words: str, domain: str = "", **attributes: Any) -> onnx.NodeProto:
    *inputs, output = words
    return helper.make_node(kind, inputs, [output], domain=domain, **attributes)


def quant(kind: str, *words: str, **attributes: Any) -> onnx.NodeProto:
    return node(kind, *words, domain=QONNX_DOMAIN, **attributes)


RANDOM = np.random.default_rng(5)
SIGNS = np.where(RANDOM.random((12, 3)) < 0.5, -1.0, 1.0)


def predicted(file: Path, images: np.ndarray, **options: Any) -> np.ndarray:
    import_qonnx(file, file.with_suffix(".hypersign"), **options)
    return PackedModel.load(file.with_suffix(".hypersign")).predict(images)


def test_scales_signs_and_a_batch_norm(tmp_path: Path) -> None:
    """Against NumPy: scaled levels, filters with scales of their own, and channels that a batch norm turns around."""
    scale = RANDOM.random(3) + 0.5
    norm = {"g": [-1.0, 2.0, 0.5], "b": [0.3, -0.2, 0.1], "m": [1.0, 0.0, -2.0], "v": [1.0, 4.0, 0.25]}
    nodes = [
        node("Flatten", "x", "f"),
        node("Sub", "f", "half", "c"),
        quant("BipolarQuant", "c", "s", "q"),
        node("MatMul", "q", "w", "z"),
        node("BatchNormalization", "z", "g", "b", "m", "v", "n", epsilon=0.0),
        quant("BipolarQuant", "n", "one", "r"),
        node("MatMul", "r", "u", "o"),
        node("Add", "o", "bias", "y"),
    ]
    u = np.where(RANDOM.random((3, 2)) < 0.5, -1.0, 1.0)
    constants = {"half": 0.4, "s": 0.5, "one": 1.0, "w": SIGNS * scale, "u": u, "bias": [0.25, -1.0], **norm}
    file = save(tmp_path, nodes, constants, [1, 1, 3, 4])
    images = RANDOM.integers(0, 256, (200, 1, 3, 4)).astype(np.uint8)
    q = np.where(images.reshape(200, 12) / 255 >= 0.4, 0.5, -0.5)
    z = (q @ (SIGNS * scale) - norm["m"]) / np.sqrt(norm["v"]) * norm["g"] + norm["b"]
    expected = np.where(z >= 0, 1, -1) @ u + [0.25, -1.0]
    assert np.abs(predicted(file, images) - expected).max() < 1e-6


def test_real_layers_stay_real(tmp_path: Path) -> None:
    """Weights of many values, a ReLU and a residual sum run in float32."""
    weights = RANDOM.standard_normal((12, 4))
    nodes = [
        node("Flatten", "x", "f"),
        node("Sub", "f", "half", "c"),
        quant("BipolarQuant", "c", "one", "q"),
        node("MatMul", "q", "w", "z"),
        node("Relu", "z", "a"),
        node("Mul", "z", "two", "t"),
        node("Add", "a", "t", "y"),
    ]
    file = save(tmp_path, nodes, {"half": 0.5, "one": 1.0, "two": 2.0, "w": weights}, [1, 1, 3, 4])
    images = RANDOM.integers(0, 256, (50, 1, 3, 4)).astype(np.uint8)
    z = np.where(images.reshape(50, 12) >= 128, 1, -1) @ np.float32(weights)
    assert np.abs(predicted(file, images) - (np.maximum(z, 0) + 2 * z)).max() < 1e-5


def test_a_constant_level(tmp_path: Path) -> None:
    """A batch norm whose shift no sum can cross."""
    nodes = [
        node("Flatten", "x", "f"), node("Sub", "f", "half", "c"), quant("BipolarQuant", "c", "one", "q"),
        node("MatMul", "q", "w", "z"), node("Add", "z", "far", "n"), quant("BipolarQuant", "n", "one", "r"),
        node("MatMul", "r", "u", "y"),
    ]  # fmt: skip
    constants = {"half": 0.5, "one": 1.0, "w": SIGNS, "far": [100.0, -100.0, 0.5], "u": np.ones((3, 1))}
    file = save(tmp_path, nodes, constants, [1, 1, 3, 4])
    images = RANDOM.integers(0, 256, (50, 1, 3, 4)).astype(np.uint8)
    z = np.where(images.reshape(50, 12) >= 128, 1, -1) @ SIGNS[:, 2]
    assert np.array_equal(predicted(file, images)[:, 0], np.where(z + 0.5 >= 0, 1, -1))


REFUSED = {
    "an unknown operator": ([node("LSTM", "x", "w", "w", "y")], "a packed network has no such operation"),
    "four levels": (
        [node("Flatten", "x", "f"), node("Sub", "f", "half", "c"),
         quant("IntQuant", "c", "quarter", "zero", "two", "q", signed=1, narrow=0), node("MatMul", "q", "w", "y")],
        r"its levels must be -s and \+s",
    ),
    "pixels without a layer": ([node("Flatten", "x", "y")], "pixels must go through a product or a quantizer first"),
    "nothing of the input": ([node("Add", "one", "one", "y")], "does not depend on the input"),
    "another domain": ([node("Magic", "x", "y", domain="my.own")], "operators of the domain 'my.own' are unknown"),
    "weights that do not fit": ([node("Flatten", "x", "f"), node("MatMul", "f", "bad", "y")], "12 x outputs weights"),
    "a value from nowhere": ([node("Add", "x", "ghost", "y")], "not valid ONNX .*ghost"),
    "activations as weights": ([node("Flatten", "x", "f"), node("MatMul", "f", "f", "y")], "must be constant"),
    "a growing constant": ([node("Tile", "one", "many", "t"), node("Add", "x", "t", "y")], "not read on constants"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_run_is_refused_by_name(name: str, tmp_path: Path) -> None:
    nodes, reason = REFUSED[name]
    constants = {
        "one": 1.0,
        "zero": 0.0,
        "two": 2.0,
        "half": 0.5,
        "quarter": 0.25,
        "w": SIGNS,
        "bad": np.ones((5, 2)),
        "many": np.array([10**9]),
    }
    file = save(tmp_path, nodes, constants, [1, 1, 3, 4])
    with pytest.raises(HypersignError, match=reason):
        import_qonnx(file, tmp_path / "net.hypersign")
    assert not (tmp_path / "net.hypersign").exists()


def changed(folder: Path, change: Callable[[onnx.ModelProto], Any]) -> Path:
    """A small network's file after a change."""
    nodes = [node("Flatten", "x", "f"), node("Sub", "f", "half", "c"), quant("BipolarQuant", "c", "one", "q"),
             node("MatMul", "q", "w", "y")]  # fmt: skip
    file = save(folder, nodes, {"half": 0.5, "one": 1.0, "w": SIGNS}, [1, 1, 3, 4])
    proto = onnx.load(file)
    change(proto)
    file.write_bytes(proto.SerializeToString())
    return file


def free_size(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"


def outside(proto: onnx.ModelProto) -> None:
    tensor = proto.graph.initializer[2]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "missing.bin"


CHANGES: dict[str, tuple[Callable[[onnx.ModelProto], Any], str]] = {
    "a free size": (free_size, r"the sizes of the input must be numbers, except the batch; height is free: set it"),
    "a shape of three": (lambda m: m.graph.input[0].type.tensor_type.shape.dim.pop(), "it is \\[1, 1, 3\\]"),
    "an old opset": (
        lambda m: setattr(m.opset_import[0], "version", 6),
        "opset 6; opsets 7 to .* are read: convert it",
    ),
    "a new opset": (lambda m: setattr(m.opset_import[0], "version", 99), "uses the operators of opset 99"),
    "channels last": (
        lambda m: setattr(m.graph.node[3], "domain", "qonnx.custom_op.channels_last"),
        "'qonnx.custom_op.channels_last' are unknown.*: export it without channels last",
    ),
    "a domain": (
        lambda m: setattr(m.graph.node[3], "domain", "my.own"),
        "operators of the domain 'my.own' are unknown",
    ),
    "weights in a missing file": (outside, "keeps the tensor 'w' in another file; save it as one file first"),
    "two inputs": (
        lambda m: m.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1])),
        "must have one input and one output; it has 2 and 1",
    ),
    "a new file version": (lambda m: setattr(m, "ir_version", 99), "not valid ONNX .*ir_version 99"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_files_of_other_kinds_are_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    change, reason = CHANGES[name]
    with pytest.raises(HypersignError, match=reason) as refused:
        import_qonnx(changed(tmp_path, change), tmp_path / "net.hypersign")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "net.hypersign").exists()
    import_qonnx(changed(tmp_path, lambda _: None), tmp_path / "net.hypersign")


def test_files_that_are_none(tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    with pytest.raises(HypersignError, match=r"net\.onnx"):
        import_qonnx(file, tmp_path / "out")
    for content in (b"", b"\x00" * 100, b"not a network"):
        file.write_bytes(content)
        with pytest.raises(HypersignError, match="no ONNX file"):
            import_qonnx(file, tmp_path / "out")
    write_qonnx(packed("mlp", tmp_path), file)
    proto = onnx.load(file)
    proto.graph.initializer[0].data_location = TensorProto.EXTERNAL
    file.write_bytes(proto.SerializeToString())
    with pytest.raises(HypersignError, match="in another file; save it as one file first"):
        import_qonnx(file, tmp_path / "out")
    write_qonnx(packed("mlp", tmp_path), file)
    with pytest.raises(HypersignError, match="first below the second"):
        import_qonnx(file, tmp_path / "out", pixel_range=(1.0, 1.0))


@pytest.mark.parametrize("name", ["mlp", "ternary"])
def test_mutated_files_are_refused_or_read(name: str, tmp_path: Path) -> None:
    """Random bytes, cuts and copies: a network, or one sentence."""
    write_qonnx(packed(name, tmp_path), tmp_path / "net.onnx")
    whole = (tmp_path / "net.onnx").read_bytes()
    random = np.random.default_rng(1)
    for _ in range(2000 if LONG else 100):
        data = bytearray(whole)
        for _ in range(int(random.integers(1, 4))):
            at = int(random.integers(0, len(data)))
            if random.random() < 0.3:
                del data[at : at + int(random.integers(1, 40))]
            else:
                data[at] = int(random.integers(0, 256))
        (tmp_path / "net.onnx").write_bytes(data)
        with contextlib.suppress(HypersignError):
            import_qonnx(tmp_path / "net.onnx", tmp_path / "out.hypersign")
