import json
import os
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file

from hypersign._checks import HypersignError
from hypersign.weight_files.measure import inspect_weights
from hypersign.weight_files.pair import inspect_pair
from hypersign.weight_files.tensors import is_tensor_file, open_tensors

gguf = pytest.importorskip("gguf")


def save_raw(path, tensors):
    """A safetensors file by hand, of types that NumPy does not have: name -> (dtype, shape, bytes)."""
    header, place = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [place, place + len(data)]}
        place += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values()))
    return path


def save_gguf(path, tensors, *, architecture="llama", **metadata):
    """A GGUF file by the package's own writer: name -> array, or (array of bytes, type)."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_token_list(["a", "bc"])  # an array of texts, to be passed over
    for key, value in metadata.items():
        writer.add_uint32(f"{architecture}.{key.replace('__', '.')}", value)
    for name, value in tensors.items():
        values, kind = value if isinstance(value, tuple) else (value, None)
        writer.add_tensor(name, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def weights():
    return np.random.default_rng(0).standard_normal((6, 256)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_floats_of_safetensors(dtype, weights, tmp_path):
    if dtype == "BF16":
        data = (weights.view(np.uint32) >> 16).astype("<u2").tobytes()
        expected = (weights.view(np.uint32) & 0xFFFF0000).view(np.float32)
    else:
        stored = weights.astype({"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype])
        data, expected = stored.tobytes(), stored
    # A byte in front makes every later offset odd.
    path = save_raw(tmp_path / "m.safetensors", {"a": ("U8", (1,), b"\1"), "w": (dtype, (6, 256), data)})
    opened = open_tensors(path)
    tensor = opened.tensors["w"]
    assert (tensor.dtype, tensor.rows, tensor.row_length, tensor.nbytes) == (dtype, 6, 256, len(data))
    assert tensor.read(slice(0, 6)).dtype == (np.float64 if dtype == "F64" else np.float32)
    np.testing.assert_array_equal(tensor.read(slice(1, 4)), expected[1:4])
    np.testing.assert_array_equal(tensor.read(np.array([5, 0])), expected[[5, 0]])
    assert "holds no float weights" in opened.tensors["a"].unreadable
    with pytest.raises(HypersignError, match="a cannot be read as weights: type U8"):
        opened.tensors["a"].read(slice(0, 1))


@pytest.mark.parametrize(
    ("shape", "rows"),
    [((), 1), ((5,), 1), ((4, 7), 4), ((4, 3, 5), 4), ((4, 3, 64), 12), ((4, 3, 3, 3), 4), ((0, 3), 0)],
)
def test_rows(shape, rows, tmp_path):
    save_file({"w": np.zeros(shape, np.float32)}, tmp_path / "m.safetensors")
    tensor = open_tensors(tmp_path / "m.safetensors").tensors["w"]
    assert tensor.rows == rows
    assert tensor.row_length * max(rows, 1) == np.prod(shape)


def test_a_folder_of_shards_in_natural_order(weights, tmp_path):
    for name, i in (("1.safetensors", 10), ("2.safetensors", 2)):
        save_file({f"layers.{i}.w": weights * i}, tmp_path / name)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"layers.10.w": "1.safetensors", "layers.2.w": "2.safetensors"}}))
    opened = open_tensors(tmp_path)
    assert list(opened.tensors) == ["layers.2.w", "layers.10.w"]
    np.testing.assert_array_equal(opened.tensors["layers.10.w"].read(slice(0, 6)), weights * 10)
    for content, message in (
        ({"layers.10.w": "1.safetensors"}, "must name the same tensors; 1 are in one alone, as 'layers.2.w'"),
        ({"layers.10.w": "2.safetensors", "layers.2.w": "2.safetensors"}, "as 'layers.10.w'"),
        ({"w": "../1.safetensors"}, "must name files beside it"),
        ({"w": "3.safetensors"}, "3.safetensors could not be read"),
    ):
        if content == {"layers.10.w": "1.safetensors"}:
            content |= {"layers.3.w": "2.safetensors"}
            message = "must name the same tensors; 2 are in one alone, as 'layers.3.w'"
        index.write_text(json.dumps({"weight_map": content}))
        with pytest.raises(HypersignError, match=message):
            open_tensors(tmp_path)
    index.write_text("{")
    with pytest.raises(HypersignError, match="must be JSON"):
        open_tensors(tmp_path)
    index.unlink()
    with pytest.raises(HypersignError, match=r"it has 1.safetensors, 2.safetensors"):
        open_tensors(tmp_path)
    (tmp_path / "1.safetensors").unlink()
    assert list(open_tensors(tmp_path).tensors) == ["layers.2.w"]
    assert is_tensor_file(tmp_path)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K", "TQ1_0", "TQ2_0"])
def test_types_of_gguf(kind, weights, tmp_path):
    """Ternary weights times a power of two are exact in every type but the last few bits of none."""
    number = gguf.GGMLQuantizationType[kind]
    exact = kind in ("F32", "F16", "BF16", "TQ1_0", "TQ2_0")
    values = np.sign(weights) * (np.abs(weights) > 0.6) * np.float32(0.25) if exact else weights
    if kind == "Q4_K":  # the package decodes it only
        raw = np.random.default_rng(1).integers(0, 100, (6, 144), dtype=np.uint8)
    else:
        raw = gguf.quantize(values, number) if kind != "F32" else values
    path = save_gguf(tmp_path / "m.gguf", {"w": (raw, number)})
    tensor = open_tensors(path).tensors["w"]
    assert (tensor.dtype, tensor.shape, tensor.nbytes) == (kind, (6, 256), raw.nbytes)
    expected = values if exact else gguf.dequantize(raw, number)
    np.testing.assert_array_equal(tensor.read(slice(2, 5)), expected[2:5])
    if kind in ("Q8_0", "Q4_0"):
        assert np.abs(expected - weights).max() < (0.02 if kind == "Q8_0" else 0.5)


def test_one_bit_of_gguf(tmp_path):
    """Two blocks written by hand: scale, then the bits, the first weight lowest; 1 is +."""
    first = np.float16(0.5).tobytes() + bytes([0b00000101]) + bytes(15)
    second = np.float16(2).tobytes() + bytes([255] * 15) + bytes([0b01111111])
    raw = np.frombuffer(first + second, np.uint8).reshape(1, 36)
    path = save_gguf(tmp_path / "m.gguf", {"w": (raw, gguf.GGMLQuantizationType.Q1_0)})
    tensor = open_tensors(path).tensors["w"]
    assert tensor.shape == (1, 256)
    expected = np.full(256, -0.5, np.float32)
    expected[[0, 2]] = 0.5
    expected[128:] = 2
    expected[255] = -2
    np.testing.assert_array_equal(tensor.read(slice(0, 1))[0], expected)


def test_gguf_metadata_reversed_shapes_and_parts(weights, tmp_path):
    stack = np.arange(2 * 3 * 64, dtype=np.float32).reshape(2, 3, 64)
    one, two = (tmp_path / f"m-0000{i}-of-00002.gguf" for i in (1, 2))
    save_gguf(one, {"a": stack}, block_count=7)
    save_gguf(two, {"b": weights, "c": (weights.astype(np.int8), None)})
    opened = open_tensors(two)
    assert list(opened.tensors) == ["a", "b", "c"]
    assert opened.metadata["general.architecture"] == "llama"
    assert opened.metadata["llama.block_count"] == 7
    assert opened.tensors["a"].shape == (2, 3, 64)
    np.testing.assert_array_equal(opened.tensors["a"].read(slice(4, 5))[0], stack[1, 1])
    assert opened.tensors["c"].unreadable == "the installed gguf package cannot decode type I8"
    save_gguf(two, {"a": weights})
    with pytest.raises(HypersignError, match="must not share tensors; a is in two"):
        open_tensors(one)
    two.unlink()
    with pytest.raises(HypersignError, match=r"00002-of-00002.gguf could not be read: No such file"):
        open_tensors(one)


def test_a_truncated_file_is_one_sentence_wherever_it_ends(weights, tmp_path):
    save_file({"w": weights, "b": weights[0]}, tmp_path / "m.safetensors")
    save_gguf(tmp_path / "m.gguf", {"w": weights, "b": weights[0]}, block_count=1)
    for suffix in ("safetensors", "gguf"):
        whole = (tmp_path / f"m.{suffix}").read_bytes()
        cut = tmp_path / f"cut.{suffix}"
        for length in [*range(0, 200, 7), 300, 500, len(whole) // 2, len(whole) - 1]:
            cut.write_bytes(whole[:length])
            with pytest.raises(HypersignError, match=rf"cut.{suffix} (is no whole|could not be read)"):
                open_tensors(cut)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, b"GGML", "it does not begin with GGUF"),
        (4, struct.pack("<I", 1), "its version is 1"),
        (4, struct.pack(">I", 3), "its numbers are big-endian"),
        (8, struct.pack("<Q", 2**60), "is no whole GGUF file"),
        (16, struct.pack("<Q", 2**60), "is no whole GGUF file"),
        (24, struct.pack("<Q", 2**63), "a text of 9223372036854775808 bytes"),
    ],
)
def test_a_corrupt_gguf_header(place, value, message, weights, tmp_path):
    path = save_gguf(tmp_path / "m.gguf", {"w": weights})
    data = bytearray(path.read_bytes())
    data[place : place + len(value)] = value
    path.write_bytes(data)
    with pytest.raises(HypersignError, match=message):
        open_tensors(path)


def gguf_by_hand(path, tensors, data, *, keys=(), alignment=32):
    """A GGUF file that the package's writer would not write; tensors are (name, reversed shape, type, offset)."""

    def text(value):
        return struct.pack("<Q", len(value)) + value.encode()

    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    head += b"".join(text(name) + value for name, value in keys)
    for name, shape, kind, offset in tensors:
        head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
    path.write_bytes(head + bytes(-len(head) % alignment) + data)
    return path


def test_gguf_types_that_the_package_does_not_know_are_named(weights, tmp_path):
    """31 was given up; 9999 may come."""
    tensors = [("old", (64, 6), 31, 0), ("w", (256, 6), 0, 224), ("new", (8,), 9999, 224 + weights.nbytes)]
    path = gguf_by_hand(tmp_path / "m.gguf", tensors, bytes(224) + weights.tobytes() + bytes(40))
    found = open_tensors(path).tensors
    assert (found["old"].dtype, found["old"].nbytes) == ("type 31", 224)
    assert (found["new"].dtype, found["new"].nbytes) == ("type 9999", 40)
    assert found["old"].unreadable == "the installed gguf package does not know type 31"
    np.testing.assert_array_equal(found["w"].read(slice(None)), weights)
    gguf_by_hand(path, [("old", (64, 6), 31, 2**63)], bytes(224))
    with pytest.raises(
        HypersignError, match=r"old begins at byte 9223372036854775808, and the tensors before it end at 0"
    ):
        open_tensors(path)


def test_a_gguf_tensor_without_dimensions(tmp_path):
    path = gguf_by_hand(tmp_path / "m.gguf", [("one", (), 0, 0)], struct.pack("<f", 2))
    assert open_tensors(path).tensors["one"].read(slice(None)).tolist() == [[2.0]]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (struct.pack("<Ii", 5, -8), "alignment is -8"),
        (struct.pack("<If", 6, 1.5), "alignment is 1.5"),
        (struct.pack("<II", 4, 0), "alignment is 0"),
        (struct.pack("<IIQ", 9, 0, 2**63), "it ends within its header"),
        (struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 5000, "an array is more than 8 deep"),
    ],
    ids=["below 0", "no integer", "0", "endless", "nested"],
)
def test_gguf_keys_of_a_strange_kind_are_one_sentence(value, message, tmp_path):
    path = gguf_by_hand(tmp_path / "m.gguf", [("w", (1,), 0, 0)], bytes(4), keys=[("general.alignment", value)])
    with pytest.raises(HypersignError, match=rf"is no whole GGUF file \(.*{message}"):
        open_tensors(path)


def test_gguf_scales_that_are_nan_or_infinite_are_read_without_a_warning(tmp_path):
    """Infinity times a weight of 0; a bfloat16 NaN that signals when it is turned into a float64."""
    blocks = (b"\x00\x7c" + bytes(32)) * 2
    signals = struct.pack("<16H", *[0x7FA0] * 16)
    tensors = [("q", (32, 2), 8, 0), ("b", (8, 2), 30, 96)]
    opened = open_tensors(gguf_by_hand(tmp_path / "m.gguf", tensors, blocks.ljust(96, b"\0") + signals))
    for tensor in opened.tensors.values():
        assert np.isnan(tensor.read(slice(None))).all()
    alone = [tensor.reason for tensor in inspect_weights(opened).unmeasured]
    assert alone == [f"{n} of its {n} weights are NaN or infinite" for n in (64, 16)]
    pair = [tensor.reason for tensor in inspect_pair(opened, opened).unmeasured]
    assert pair == [f"weights of {name} are NaN or infinite, in rows 0 to 1 first" for name in "qb"]


def test_what_is_no_file_of_weights(tmp_path):
    with pytest.raises(HypersignError, match=r"missing.gguf could not be read: No such file"):
        open_tensors(tmp_path / "missing.gguf")
    other = tmp_path / "model.bin"
    other.write_bytes(b"x")
    assert not is_tensor_file(other)
    assert not is_tensor_file(tmp_path)
    for path in (other, tmp_path):
        with pytest.raises(HypersignError, match=r"are read from .safetensors and .gguf files"):
            open_tensors(path)


def test_gguf_tensors_lie_one_after_the_other(weights, tmp_path):
    """Sizes that do not fit the next offset, or the file's end, are those of another program's types."""
    path, n = tmp_path / "m.gguf", weights.nbytes
    body = weights.tobytes() * 2

    def opened(*tensors, data=body):
        return open_tensors(gguf_by_hand(path, [(name, (256, 6), *rest) for name, *rest in tensors], data))

    assert len(opened(("a", 0, n), ("b", 0, 0)).tensors) == 2
    for tensors, data, message in (
        ((("a", 0, 0), ("b", 0, n - 32)), body, f"b begins at byte {n - 32}, and the tensors before it end at {n}"),
        ((("a", 0, 0), ("b", 0, 0)), body, f"b begins at byte 0, and the tensors before it end at {n}: they overlap"),
        ((("a", 0, 0), ("b", 0, n + 32)), body + bytes(32), f"b begins at byte {n + 32}, .* leave a gap"),
        ((("a", 0, 0), ("b", 0, n + 1)), body + bytes(1), f"b begins at byte {n + 1}"),
        ((("a", 0, 32),), body, "a begins at byte 32"),
        ((("a", 1, 0), ("b", 0, n)), body, f"b begins at byte {n}, and the tensors before it end at {n // 2}"),
        ((("a", 0, 0),), body, f"{n} bytes follow after the last tensor; its type may be one that another program"),
        ((("a", 0, 0), ("b", 0, n)), body[:-1], "b ends 1 bytes behind the file"),
        ((("a", 0, 0), ("b", 9999, n + 32)), body, "b begins at byte"),
        ((("a", 0, 0), ("a", 0, n)), body, "a is in it twice"),
    ):
        with pytest.raises(HypersignError, match=rf"is no whole GGUF file \({message}"):
            opened(*tensors, data=data)


@pytest.mark.parametrize(
    ("shape", "kind", "message"),
    [
        ((), 2, "w has rows of 1, no multiple of Q4_0's 32"),
        ((33,), 2, "w has rows of 33"),
        ((1,) * 5, 0, "'w' has 5 dimensions, more than 4"),
        ((2**63, 0), 0, "'w' has a dimension of 9223372036854775808"),
        ((2**62, 2**62), 0, "w ends .* bytes behind the file"),
    ],
)
def test_gguf_shapes_that_no_tensor_has(shape, kind, message, tmp_path):
    path = gguf_by_hand(tmp_path / "m.gguf", [("w", shape, kind, 0)], bytes(64))
    with pytest.raises(HypersignError, match=message):
        open_tensors(path)


def test_a_gguf_array_past_the_end(tmp_path):
    keys = [("a", struct.pack("<IIQ", 9, 0, 1000))]
    with pytest.raises(HypersignError, match="it ends within its header"):
        open_tensors(gguf_by_hand(tmp_path / "m.gguf", [], b"", keys=keys))
    assert open_tensors(gguf_by_hand(tmp_path / "m.gguf", [], bytes(64))).tensors == {}  # a vocabulary alone


def test_one_part_of_a_split_is_not_the_whole(weights, tmp_path):
    def split(number, count, total):
        return [
            ("split.no", struct.pack("<IH", 2, number)),
            ("split.count", struct.pack("<IH", 2, count)),
            ("split.tensors.count", struct.pack("<Ii", 5, total)),
        ]

    def save(name, keys):
        return gguf_by_hand(tmp_path / name, [(name, (256, 6), 0, 0)], weights.tobytes(), keys=keys)

    parts = [save(f"m-0000{i + 1}-of-00002.gguf", split(i, 2, 2)) for i in range(2)]
    assert len(open_tensors(parts[1]).tensors) == 2
    with pytest.raises(HypersignError, match=r"renamed.gguf is part 2 of 2 by its own words; keep all parts"):
        open_tensors(save("renamed.gguf", split(1, 2, 2)))
    assert len(open_tensors(save("whole.gguf", split(0, 1, 1))).tensors) == 1
    for number in (0, 3):
        with pytest.raises(HypersignError, match=f"must be named as part 1 to 2 of 2; it is named as part {number}"):
            open_tensors(save(f"m-0000{number}-of-00002.gguf", []))
    with pytest.raises(HypersignError, match="must be named as part 1 to 0 of 0"):
        open_tensors(save("x-00000-of-00000.gguf", []))
    save(parts[1].name, split(0, 2, 2))
    with pytest.raises(HypersignError, match=r"00002-of-00002.gguf is part 1 of 2 by its own words"):
        open_tensors(parts[0])
    for i in range(2):
        save(parts[i].name, split(i, 2, 5))
    with pytest.raises(HypersignError, match=r"must hold 5 tensors in all its parts; they hold 2"):
        open_tensors(parts[0])


def test_one_shard_of_a_folder_is_not_the_whole(weights, tmp_path):
    shard = tmp_path / "model-00001-of-00002.safetensors"
    save_file({"w": weights}, shard)
    with pytest.raises(HypersignError, match="it has part 1 of 2 alone: download the others, or name model-00001"):
        open_tensors(tmp_path)
    assert list(open_tensors(shard).tensors) == ["w"]


@pytest.mark.parametrize("weight_map", [{"w": 3}, {"w": None}, {"w": ["m"]}, {"w": ""}, [["w", "m"]], 3, None])
def test_an_index_with_other_things_than_names(weight_map, tmp_path):
    (tmp_path / "m.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(HypersignError, match="must be JSON with a weight_map of tensors to files"):
        open_tensors(tmp_path)


@pytest.mark.parametrize("name", ["..", "\0", "x" * 5000, "m.safetensors.index.json/x", "\ud800"])
def test_an_index_with_names_of_no_files(name, tmp_path):
    (tmp_path / "m.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(HypersignError, match=r"could not be read|must name files beside it"):
        open_tensors(tmp_path)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":1' + "0" * 5000 + "}", '{"weight_map":{},"weight_map":{}}', "\xff"]
)
def test_an_index_that_is_no_json(text, tmp_path):
    (tmp_path / "m.safetensors.index.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(HypersignError, match=r"must be JSON|must name every entry once"):
        open_tensors(tmp_path)


@pytest.mark.parametrize("name", ["m.safetensors", "m.gguf", "m.safetensors.index.json"])
def test_a_pipe_is_no_file_of_weights(name, tmp_path):
    os.mkfifo(tmp_path / name)
    with pytest.raises(HypersignError, match="must be a regular file"):
        open_tensors(tmp_path if name.endswith("json") else tmp_path / name)


def test_suffixes_in_capitals(weights, tmp_path):
    save_file({"w": weights}, tmp_path / "M.SAFETENSORS")
    save_gguf(tmp_path / "M.GGUF", {"w": weights})
    for name in ("M.SAFETENSORS", "M.GGUF"):
        assert is_tensor_file(tmp_path / name)
        assert list(open_tensors(tmp_path / name).tensors) == ["w"]


def test_names_of_any_digits(weights, tmp_path):
    names = ["²", "١", "1" * 5000, "a1", "a01", "2", "10"]
    save_file({name: weights for name in names}, tmp_path / "m.safetensors")
    assert set(open_tensors(tmp_path / "m.safetensors").tensors) == set(names)
