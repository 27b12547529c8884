"""Quantized checkpoints of others, packed here by plain loops, are read as the weights they stand for."""

import ctypes
import importlib.util
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from hypersign._checks import HypersignError
from hypersign.cli import main
from hypersign.weight_files import Levels, inspect_pair, inspect_weights, open_tensors, write_bitnet, write_gguf

GENERATOR = np.random.default_rng(0)


def words(values, bits, axis):
    """Integers packed along an axis into 32-bit words, lowest bits first."""
    values = np.moveaxis(np.asarray(values, np.uint64), axis, -1)
    each = 32 // bits
    packed = np.zeros((*values.shape[:-1], values.shape[-1] // each), np.uint64)
    for i in range(each):
        packed |= values[..., i::each] << np.uint64(bits * i)
    return np.ascontiguousarray(np.moveaxis(packed, -1, axis)).astype(np.uint32)


def opened(tmp_path, tensors, config=None):
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, tmp_path / "model.safetensors")
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    return open_tensors(tmp_path / "model.safetensors")


def read_all_ways(tensor, expected):
    """All rows, a slice and single rows."""
    assert tensor.unreadable == ""
    assert (tensor.rows, tensor.row_length) == expected.shape
    np.testing.assert_allclose(tensor.read(slice(None)), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(tensor.read(slice(3, 7)), expected[3:7], rtol=1e-6, atol=1e-6)
    rows = np.array([11, 0, 5])
    np.testing.assert_allclose(tensor.read(rows), expected[rows], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("bits", "group"), [(4, 64), (2, 64), (8, 32), (1, 128)])
def test_mlx(bits, group, tmp_path):
    q = GENERATOR.integers(0, 2**bits, (16, 256))
    scale, bias = GENERATOR.standard_normal((2, 16, 256 // group)).astype(np.float16)
    expected = q * np.repeat(scale, group, 1).astype(float) + np.repeat(bias, group, 1)
    tensors = {"X.weight": words(q, bits, 1), "X.scales": scale, "X.biases": bias}
    file = opened(tmp_path, tensors, {"quantization": {"group_size": group, "bits": bits}})
    read_all_ways(file.tensors["X.weight"], expected)
    found = inspect_weights(file)
    assert [tensor.name for tensor in found.tensors] == ["X.weight"]
    assert len(found.unmeasured) == 2


def test_mlx_with_a_group_size_per_layer(tmp_path):
    """4 bits in groups of 128 take as many words as 8 bits in groups of 64: only config.json can tell."""
    q = GENERATOR.integers(0, 16, (16, 256))
    scale, bias = GENERATOR.standard_normal((2, 16, 2)).astype(np.float32)
    tensors = {"a.X.weight": words(q, 4, 1), "a.X.scales": scale, "a.X.biases": bias}
    common, own = {"group_size": 64, "bits": 4}, {"group_size": 128, "bits": 4}
    expected = q * np.repeat(scale, 128, 1) + np.repeat(bias, 128, 1)
    for said in ({**common, "a.X": own}, {**own, "a.X": True}, {**own, "X": common}):
        read_all_ways(opened(tmp_path, tensors, {"quantization": said}).tensors["a.X.weight"], expected)
    for said, reason in (
        (common, "groups of 64 make 8 bits, and config.json names 4"),
        ({**own, "a.X": common}, "groups of 64 make 8 bits"),
        ({**own, "a.X": {"group_size": 128}}, "config.json names None"),
        ({"bits": 4}, "groups of None"),
    ):
        assert reason in opened(tmp_path, tensors, {"quantization": said}).tensors["a.X.weight"].unreadable
    (tmp_path / "config.json").unlink()
    assert "config.json is missing" in open_tensors(tmp_path / "model.safetensors").tensors["a.X.weight"].unreadable


@pytest.mark.parametrize("version", [None, "gptq", "gptq_v2"])
@pytest.mark.parametrize(("bits", "reordered"), [(4, False), (2, True), (8, True)])
def test_gptq(bits, reordered, version, tmp_path):
    inputs, outputs, group = 128, 32, 64
    q, zero = GENERATOR.integers(0, 2**bits, (inputs, outputs)), GENERATOR.integers(0, 2**bits, (2, outputs))
    zero[:, ::5] = 0  # the first version stores 2^bits - 1
    scale = GENERATOR.random((2, outputs)).astype(np.float16)
    index = np.arange(inputs) // group
    tensors = {}
    if reordered:
        index = GENERATOR.permutation(index)
        tensors["X.g_idx"] = index.astype(np.int32)
    stored = (zero - (version != "gptq_v2")) % 2**bits
    tensors |= {
        "X.qweight": words(q, bits, 0).view(np.int32),
        "X.qzeros": words(stored, bits, 1).view(np.int32),
        "X.scales": scale,
    }
    config = {"quantization_config": {"checkpoint_format": version}} if version else None
    file = opened(tmp_path, tensors, config)
    read_all_ways(file.tensors["X.qweight"], ((q - zero[index]) * scale[index].astype(float)).T)


def test_awq(tmp_path):
    inputs, outputs, group = 128, 32, 64
    q, zero = GENERATOR.integers(0, 16, (inputs, outputs)), GENERATOR.integers(0, 16, (2, outputs))
    scale = GENERATOR.random((2, outputs)).astype(np.float16)

    def packed(values):
        words = np.zeros((len(values), outputs // 8), np.uint32)
        for word in range(outputs // 8):
            for place, output in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
                words[:, word] |= values[:, 8 * word + output].astype(np.uint32) << np.uint32(4 * place)
        return words.view(np.int32)

    file = opened(tmp_path, {"X.qweight": packed(q), "X.qzeros": packed(zero), "X.scales": scale})
    index = np.arange(inputs) // group
    assert file.tensors["X.qweight"].dtype == "AWQ, 4 bits"
    read_all_ways(file.tensors["X.qweight"], ((q - zero[index]) * scale[index].astype(float)).T)


@pytest.mark.parametrize("groups", [1, 2])
def test_compressed_tensors(groups, tmp_path):
    q = GENERATOR.integers(-8, 8, (16, 128))
    scale = GENERATOR.random((16, groups)).astype(np.float32)
    tensors = {
        "X.weight_packed": words(q + 8, 4, 1).view(np.int32),
        "X.weight_scale": scale,
        "X.weight_shape": np.array([16, 128]),
    }
    expected = q * np.repeat(scale, 128 // groups, 1)
    read_all_ways(opened(tmp_path, tensors).tensors["X.weight_packed"], expected)
    tensors["X.weight_zero_point"] = np.zeros((2, groups), np.int32)
    assert "zero points" in opened(tmp_path, tensors).tensors["X.weight_packed"].unreadable


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("scaled", ["tensor", "row", "block"])
def test_fp8(kind, scaled, tmp_path):
    from safetensors.torch import save_file as save

    shape = (200, 300)
    w = torch.from_numpy(GENERATOR.standard_normal(shape)).to(getattr(torch, kind))
    scale = torch.rand({"tensor": (1,), "row": (200, 1), "block": (2, 3)}[scaled])
    spread = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[:200, :300] if scaled == "block" else scale
    name = "X.weight_scale_inv" if scaled == "block" else "X.weight_scale"
    save({"X.weight": w, name: scale}, tmp_path / "model.safetensors")
    read_all_ways(open_tensors(tmp_path / "model.safetensors").tensors["X.weight"], (w.float() * spread).numpy())


def test_every_8_bit_float(tmp_path):
    from safetensors.torch import save_file as save

    for kind in (torch.float8_e4m3fn, torch.float8_e5m2):
        w = torch.arange(256, dtype=torch.uint8).view(kind).reshape(16, 16)
        save({"X.weight": w, "X.weight_scale": torch.ones(1)}, tmp_path / "model.safetensors")
        read = open_tensors(tmp_path / "model.safetensors").tensors["X.weight"].read(slice(None))
        assert np.array_equal(read, w.float().numpy(), equal_nan=True)


@pytest.mark.parametrize(("kind", "factor"), [("bitlinear", 0.25), ("autobitlinear", 4.0), (None, 0.25)])
def test_bitnet(kind, factor, tmp_path):
    levels = GENERATOR.integers(-1, 2, (16, 70))
    packed = np.zeros((4, 70), np.uint8)
    for row, output in enumerate(levels):
        packed[row % 4] |= (output + 1).astype(np.uint8) << (2 * (row // 4))
    config = {"quantization_config": {"quant_method": "bitnet"} | ({"linear_class": kind} if kind else {})}
    tensors = {"X.weight": packed, "X.weight_scale": np.array([4.0], np.float32)}
    file = opened(tmp_path, tensors, config)
    read_all_ways(file.tensors["X.weight"], levels * factor)
    (tmp_path / "config.json").unlink()
    assert "config.json" in open_tensors(tmp_path / "model.safetensors").tensors["X.weight"].unreadable


def test_what_does_not_fit_is_not_read(tmp_path):
    q = words(np.zeros((16, 256)), 4, 1)
    for scales, group, reason in (
        (np.zeros((15, 4), np.float32), 64, "do not fit 16 rows"),
        (np.zeros((16, 3), np.float32), 64, "do not fit 32 words"),
        (np.zeros((16, 4), np.float32), 0, "groups of 0"),
        (np.zeros((16, 4), np.int32), 64, "scales are of type I32"),
    ):
        tensors = {"X.weight": q, "X.scales": scales, "X.biases": scales}
        file = opened(tmp_path, tensors, {"quantization": {"group_size": group, "bits": 4}})
        assert reason in file.tensors["X.weight"].unreadable
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(HypersignError, match=r"config\.json"):
        open_tensors(tmp_path / "model.safetensors")


def test_bitnet_comes_back(tmp_path):
    levels, norm = GENERATOR.integers(-1, 2, (16, 70)), GENERATOR.standard_normal(9).astype(np.float32)
    write_bitnet(tmp_path, {"X.weight": Levels(levels, 0.3), "norm.weight": norm})
    file = open_tensors(tmp_path)
    read_all_ways(file.tensors["X.weight"], levels * np.float32(0.3))
    assert np.array_equal(file.tensors["norm.weight"].read(slice(None))[0], norm)
    for wrong in (
        Levels(levels[:3], 1.0),
        Levels(levels, np.arange(1, 17)),
        Levels(levels, -1.0),
        Levels(2 * levels),
    ):
        with pytest.raises(HypersignError):
            write_bitnet(tmp_path / "wrong", {"X.weight": wrong})


@pytest.mark.parametrize("kind", ["Q1_0", "TQ1_0", "TQ2_0"])
def test_gguf_comes_back(kind, tmp_path):
    pytest.importorskip("gguf")
    levels = GENERATOR.choice([-1, 1], (16, 512)) if kind == "Q1_0" else GENERATOR.integers(-1, 2, (16, 512))
    if kind != "Q1_0":
        levels[3, :256] = 0
    scale, norm = GENERATOR.random(16) + 0.1, GENERATOR.standard_normal(9).astype(np.float32)
    tensors = {"X.weight": Levels(levels, scale), "Y.weight": Levels(levels, 0.5), "norm.weight": norm}
    write_gguf(tmp_path / "m.gguf", tensors, kind=kind, metadata={"llama.block_count": 1, "general.name": "a"})
    file = open_tensors(tmp_path / "m.gguf")
    assert (file.tensors["X.weight"].dtype, file.metadata["general.name"]) == (kind, "a")
    read_all_ways(file.tensors["X.weight"], levels * scale.astype(np.float16).astype(np.float32)[:, None])
    read_all_ways(file.tensors["Y.weight"], levels * 0.5)
    assert np.array_equal(file.tensors["norm.weight"].read(slice(None))[0], norm)


@pytest.mark.parametrize(
    ("weights", "kind", "message"),
    [
        (Levels(np.ones((2, 100), np.int8)), "TQ2_0", "a multiple of 256"),
        (Levels(np.zeros((2, 256), np.int8)), "Q1_0", "which has no zeros"),
        (Levels(np.ones((2, 256), np.int8), 1e-9), "TQ1_0", "that float16 holds"),
        (Levels(np.ones((2, 256), np.int8), 1e6), "TQ1_0", "that float16 holds"),
        (Levels(np.ones((2, 256), np.int8), [1, 2, 3]), "TQ1_0", "one per row"),
        (Levels(np.full((2, 256), 0.5)), "TQ1_0", "levels -1, 0 and"),
        (Levels(np.ones((2, 256), np.int8)), "Q8_0", "kind must be one of"),
    ],
)
def test_what_gguf_cannot_hold(weights, kind, message, tmp_path):
    pytest.importorskip("gguf")
    with pytest.raises(HypersignError, match=message):
        write_gguf(tmp_path / "m.gguf", {"X.weight": weights}, kind=kind)
    assert not list(tmp_path.iterdir())


def save_typed(path, tensors):
    """A GGUF file by hand: name -> (number of the type, shape, bytes)."""
    header = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), 0)
    body = b""
    for name, (kind, shape, data) in tensors.items():
        header += struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", len(shape))
        header += struct.pack(f"<{len(shape)}Q", *reversed(shape)) + struct.pack("<IQ", kind, len(body))
        body += data + bytes(-len(data) % 32)
    path.write_bytes(header + bytes(-len(header) % 32) + body)
    return path


@pytest.mark.parametrize("block", [64, 128])
def test_q2_0_of_both_forks(block, tmp_path):
    pytest.importorskip("gguf")
    q, data = GENERATOR.integers(0, 4, (16, 256)), b""
    scale = GENERATOR.random((16, 256 // block)).astype(np.float16)
    for row in range(16):
        for i in range(256 // block):
            part = q[row, i * block : (i + 1) * block]
            data += scale[row, i].tobytes()
            data += bytes(
                int(sum(int(v) << (2 * j) for j, v in enumerate(part[4 * k : 4 * k + 4]))) for k in range(block // 4)
            )
    path = save_typed(tmp_path / "m.gguf", {"a": (42, (16, 256), data), "b": (0, (1, 8), bytes(32))})
    read_all_ways(open_tensors(path).tensors["a"], (q - 1) * np.repeat(scale.astype(float), block, 1))
    with pytest.raises(HypersignError, match="no whole GGUF file"):
        open_tensors(save_typed(path, {"a": (42, (16, 256), data[:-32]), "b": (0, (1, 8), bytes(32))}))


def test_i2_s(tmp_path):
    pytest.importorskip("gguf")
    q = GENERATOR.integers(0, 3, (16, 256))
    packed = np.zeros((16, 2, 32), np.uint8)
    for place in range(256):
        block, i = divmod(place, 128)
        packed[:, block, i % 32] |= (q[:, place] << (6 - 2 * (i // 32))).astype(np.uint8)
    data = packed.tobytes() + np.array([0.75, 0, 0, 0, 0, 0, 0, 0], np.float32).tobytes()
    path = save_typed(tmp_path / "m.gguf", {"a": (36, (16, 256), data)})
    read_all_ways(open_tensors(path).tensors["a"], (q - 1) * 0.75)
    path = save_typed(tmp_path / "m.gguf", {"a": (36, (16, 256), data[:-32] + bytes(32))})
    assert "another program" in open_tensors(path).tensors["a"].unreadable


@pytest.mark.parametrize("features", [256, 192])
def test_i2_s_of_arm(features, tmp_path, capsys):
    pytest.importorskip("gguf")
    q = GENERATOR.integers(0, 3, (16, features))
    packed = np.zeros((16, features // 64, 16), np.uint8)
    for place in range(features):
        block, i = divmod(place, 64)
        packed[:, block, i % 16] |= (q[:, place] << (6 - 2 * (i // 16))).astype(np.uint8)
    data = packed.tobytes() + np.array([0.75, 0, 0, 0, 0, 0, 0, 0], np.float32).tobytes()
    path = save_typed(tmp_path / "m.gguf", {"w.weight": (36, (16, features), data)})
    other = {} if features % 128 else {"arm": True}
    read_all_ways(open_tensors(path, **other).tensors["w.weight"], (q - 1) * 0.75)
    save_file({"w.weight": ((q - 1) * 0.75).astype(np.float32)}, tmp_path / "w.safetensors")
    words = ["--against", str(tmp_path / "w.safetensors"), "--json", "-"]
    main(["inspect", str(path), "--arm", *words])
    (pair,) = json.loads(capsys.readouterr().out)["tensors"]
    assert pair["cosine"]["mean"] == pytest.approx(1)
    if not other:
        return
    main(["inspect", str(path), *words])
    (pair,) = json.loads(capsys.readouterr().out)["tensors"]
    assert pair["cosine"]["mean"] < 0.6


def gptq_tensors(q, zero, scale, name="X"):
    """The second version's, which keeps zeros as they are; by inputs."""
    packed = {"qweight": words(q, 4, 0).view(np.int32), "qzeros": words(zero, 4, 1).view(np.int32), "scales": scale}
    return {f"{name}.{key}": value for key, value in packed.items()}


def as_gptq(q, scale, name):
    """Levels (outputs, inputs) around 8."""
    return gptq_tensors(q.T + 8, np.full((1, len(q)), 8), np.full((1, len(q)), scale, np.float32), name)


def as_compressed(q, scale, name):
    return {
        f"{name}.weight_packed": words(q + 8, 4, 1).view(np.int32),
        f"{name}.weight_scale": np.full((len(q), 1), scale, np.float32),
        f"{name}.weight_shape": np.array(q.shape),
    }


def as_awq(q, scale, name):
    packed = np.zeros((q.shape[1], len(q) // 8), np.uint32)
    for word in range(len(q) // 8):
        for place, output in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
            packed[:, word] |= (q[8 * word + output] + 8).astype(np.uint32) << np.uint32(4 * place)
    zeros = np.full((1, len(q) // 8), 0x88888888, np.uint32).view(np.int32)
    return {
        f"{name}.qweight": packed.view(np.int32),
        f"{name}.qzeros": zeros,
        f"{name}.scales": np.full((1, len(q)), scale, np.float32),
    }


@pytest.mark.parametrize("make", [as_gptq, as_awq, as_compressed])
@pytest.mark.parametrize("other", ["safetensors", "stacked", "gguf"])
def test_quantized_weights_against_their_original(make, other, tmp_path):
    """Their format calls them X.qweight or X.weight_packed, and the original has X.weight, alone or in a stack."""
    w = GENERATOR.standard_normal((2, 16, 128)).astype(np.float32)
    q = np.clip(np.rint(w / 0.3), -7, 7).astype(int)
    high = tmp_path / ("high.gguf" if other == "gguf" else "high.safetensors")
    names = [f"model.layers.0.mlp.experts.{i}.up_proj" for i in range(2)]
    if other == "gguf":
        pytest.importorskip("gguf")
        names = ["model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"]
        tensors = {f"blk.{i}.ffn_up.weight": x for i, x in enumerate(w)}
        write_gguf(high, tensors, architecture="llama", metadata={"llama.block_count": 2})
    elif other == "stacked":
        save_file({"model.layers.0.mlp.experts.up_proj": w}, high)
    else:
        save_file({f"{name}.weight": x for name, x in zip(names, w, strict=True)}, high)
    low = {}
    for name, levels in zip(names, q, strict=True):
        low |= make(levels, 0.3, name)
    config = {"quantization_config": {"checkpoint_format": "gptq_v2"}}
    found = inspect_pair(opened(tmp_path, low, config), open_tensors(high))
    assert not found.missing
    cosine = np.mean((w * q).sum(2) / np.sqrt((w * w).sum(2) * (q * q).sum(2)))
    assert [pair.rows for pair in found.tensors] == ([32] if other == "stacked" else [16, 16])
    assert np.mean([pair.cosine.mean for pair in found.tensors]) == pytest.approx(cosine, rel=1e-6)


@pytest.mark.parametrize("apart", ["low", "high"])
@pytest.mark.parametrize("short", [False, True])
def test_experts_stacked_on_one_side(apart, short, tmp_path):
    w = GENERATOR.standard_normal((3, 16, 128)).astype(np.float32)
    low = np.where(w >= 0, 1, -1) * np.abs(w).mean((1, 2), keepdims=True)
    name = "model.layers.0.mlp.experts.{}up_proj.weight"
    for side, values in (("low", low), ("high", w)):
        tensors = {name.format("").removesuffix(".weight" if short else "!"): values}
        if side == apart:
            tensors = {name.format(f"{i}."): np.ascontiguousarray(value) for i, value in enumerate(values)}
        save_file({key: value.astype(np.float32) for key, value in tensors.items()}, tmp_path / f"{side}.safetensors")
    found = inspect_pair(*(open_tensors(tmp_path / f"{side}.safetensors") for side in ("low", "high")))
    (pair,) = found.tensors
    assert (pair.rows, pair.row_length, pair.levels, pair.sign_agreement) == (48, 128, 2, 1)
    assert not found.missing
    assert not found.unmeasured


def test_experts_stacked_in_gguf(tmp_path):
    pytest.importorskip("gguf")
    levels = GENERATOR.integers(-1, 2, (4, 64, 256)).astype(np.int8)
    apart = {f"model.layers.0.mlp.experts.{i}.up_proj.weight": x.astype(np.float32) for i, x in enumerate(levels)}
    save_file(apart, tmp_path / "apart.safetensors")
    stack = {"blk.0.ffn_up_exps.weight": levels.astype(np.float32)}
    write_gguf(tmp_path / "m.gguf", stack, architecture="qwen2moe", metadata={"qwen2moe.block_count": 1})
    (pair,) = inspect_pair(open_tensors(tmp_path / "m.gguf"), open_tensors(tmp_path / "apart.safetensors")).tensors
    assert (pair.rows, round(pair.cosine.mean, 6)) == (256, 1)


@pytest.fixture(scope="module")
def ggml() -> ctypes.CDLL:
    """The library that the package llama_cpp has; the package itself is not imported."""
    found = importlib.util.find_spec("llama_cpp")
    folders = [] if found is None else list(found.submodule_search_locations or ())
    libraries = [path for folder in folders for path in Path(folder).glob("lib*/libggml-base.*")]
    if not libraries:
        pytest.skip("needs the package llama-cpp-python")
    return ctypes.CDLL(str(libraries[0]))


def dequantized(ggml: ctypes.CDLL, kind: str, raw: np.ndarray, count: int) -> np.ndarray:
    """ggml's weights of rows of raw bytes."""
    function = ggml[f"dequantize_row_{kind.lower()}"]
    function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64], None
    raw, weights = np.ascontiguousarray(raw), np.empty((len(raw), count), np.float32)
    for row, to in zip(raw, weights, strict=True):
        function(row.ctypes.data, to.ctypes.data, count)
    return weights


@pytest.mark.parametrize("kind", ["Q1_0", "TQ1_0", "TQ2_0"])
def test_written_weights_are_those_of_ggml(ggml: ctypes.CDLL, kind: str, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    generator = np.random.default_rng(0)
    levels = generator.choice([-1, 1] if kind == "Q1_0" else [-1, 0, 1], (9, 768)).astype(np.int8)
    scale = generator.random(9).astype(np.float16).astype(np.float32)
    write_gguf(tmp_path / "m.gguf", {"w": Levels(levels, scale)}, kind=kind)
    raw = next(tensor.data for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors if tensor.name == "w")
    weights = dequantized(ggml, kind, raw, 768)
    np.testing.assert_array_equal(weights, levels * scale[:, None])
    np.testing.assert_array_equal(open_tensors(tmp_path / "m.gguf").tensors["w"].read(slice(None)), weights)


@pytest.mark.parametrize(("kind", "block", "size"), [("Q1_0", 128, 18), ("Q2_0", 64, 18)])
def test_read_weights_are_those_of_ggml(ggml: ctypes.CDLL, kind: str, block: int, size: int, tmp_path: Path) -> None:
    """All bytes that a block can have, in types that the package gguf may not decode."""
    pytest.importorskip("gguf")
    generator = np.random.default_rng(1)
    blocks = generator.integers(0, 256, (7, 512 // block, size), dtype=np.uint8)
    blocks[..., :2] = generator.standard_normal((7, 512 // block, 1)).astype(np.float16).view(np.uint8)
    raw = blocks.reshape(7, -1)
    number = {"Q1_0": 41, "Q2_0": 42}[kind]
    last = (0, (1, 8), bytes(32))  # tells the fork whose blocks are of 128 weights apart
    path = save_typed(tmp_path / "m.gguf", {"w": (number, (7, 512), raw.tobytes()), "last": last})
    read = open_tensors(path).tensors["w"]
    assert read.unreadable == ""
    np.testing.assert_array_equal(read.read(slice(None)), dequantized(ggml, kind, raw, 512))
