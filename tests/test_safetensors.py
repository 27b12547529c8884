"""Headers of safetensors files: what the library writes is read, what we write the library reads."""

import contextlib
import io
import json
from typing import Any

import numpy as np
import pytest
import safetensors
from safetensors.numpy import save

from hypersign._checks import HypersignError
from hypersign._safetensors import BITS, Entry, header_bytes, read_header


def file_of(header: Any, body: int = 0) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(body)


def entry(dtype: str = "U8", shape: Any = (4,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_reads_what_the_library_writes() -> None:
    arrays = {"b": np.zeros((2, 0, 3), np.float32), "é\n": np.arange(6.0).reshape(2, 3), "": np.array(3, np.int8)}
    data = save(arrays, {"key": '{"a": "\\u00e9"}'})
    header = read_header(io.BytesIO(data))
    assert header.metadata == {"key": '{"a": "\\u00e9"}'}
    assert {name: found.shape for name, found in header.tensors.items()} == {"b": (2, 0, 3), "é\n": (2, 3), "": ()}
    found = header.tensors["é\n"]
    assert np.frombuffer(data[len(header.raw) :][found.start : found.stop]).tolist() == list(range(6))
    assert data.startswith(header.raw)


COMMON = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL")


@pytest.mark.parametrize("dtype", BITS)
def test_the_library_reads_every_type_that_is_written(dtype: str) -> None:
    data = header_bytes({"w": (dtype, (2, 4))}, {"a": "b"}) + bytes(BITS[dtype])
    # The library's first versions know fewer types.
    unknown = () if dtype in COMMON else safetensors.SafetensorError
    with contextlib.suppress(unknown):
        assert [name for name, _ in safetensors.deserialize(data)] == ["w"]
    assert read_header(io.BytesIO(data)).tensors == {"w": Entry(dtype, (2, 4), 0, BITS[dtype])}


def test_spaces_and_any_order() -> None:
    text = (
        b' \n{ "b" : {"data_offsets": [1 , 3],"shape":[2],"dtype":"U8"}\t,"a":'
        + json.dumps(entry("I8", (), (0, 1))).encode()
    )
    header = read_header(io.BytesIO(file_of(text + b" } ", 3)))
    assert header.tensors == {"b": Entry("U8", (2,), 1, 3), "a": Entry("I8", (), 0, 1)}
    assert read_header(io.BytesIO(file_of({}))).tensors == {}


REFUSED = {
    "nothing": (b"", "truncated"),
    "a short file": (bytes(7), "truncated"),
    "a long header": ((2**40).to_bytes(8, "little") + b"{}", "truncated"),
    "no UTF-8": (file_of(b"\xff{}"), "in UTF-8"),
    "a list": (file_of([]), "must be JSON"),
    "deep": (file_of(b"[" * 100_000), "must be JSON"),
    "a deep entry": (file_of(b'{"a":{"dtype":' + b"[" * 100_000 + b"}"), "tensor 'a' is not"),
    "a deep entry of a few levels": (file_of(b'{"a":{"dtype":' + b"[" * 4000 + b"}"), "tensor 'a' is not"),
    "deep metadata": (file_of(b'{"__metadata__":{"a":' + b"[" * 100_000), "metadata must be texts"),
    "metadata of numbers": (file_of({"__metadata__": {"a": 1}}), "metadata must be texts"),
    "metadata no object": (file_of({"__metadata__": []}), "must be JSON"),
    "metadata twice": (file_of(b'{"__metadata__":{},"__metadata__":{}}'), "'__metadata__' is there twice"),
    "a text twice": (file_of(b'{"__metadata__":{"a":"","a":""}}'), "'a' is there twice"),
    "a name twice": (file_of(b'{"a":%b,"a":%b}' % ((json.dumps(entry()).encode(),) * 2), 4), "'a' is there twice"),
    "a key twice": (file_of(b'{"a":{"dtype":"U8","dtype":"U8","shape":[],"data_offsets":[0,1]}}', 1), "once"),
    "more after it": (file_of(b"{}{}"), "must be JSON"),
    "no end": (file_of(b'{"a":%b,' % json.dumps(entry()).encode(), 4), "must be JSON"),
    "no comma": (file_of(b'{"a":%b "b"' % json.dumps(entry()).encode(), 4), "must be JSON"),
    "a name without quotes": (file_of(b"{a:3}"), "must be JSON"),
    "a name without an end": (file_of(b'{"a'), "must be JSON"),
    "an entry that is a number": (file_of({"a": 3}), "dtype of"),
    "an unknown type": (file_of({"a": entry("F128")}, 4), "dtype of"),
    "a type that is a list": (file_of({"a": entry(["U8"])}, 4), "dtype of"),
    "a shape of 400 digits": (file_of({"a": entry(shape=(10**399,))}, 4), "dtype of"),
    "a shape of 5,000 digits": (file_of(b'{"a":{"dtype":"U8","shape":[1' + b"0" * 5000 + b"]}}"), "is not"),
    "a shape past int64": (file_of({"a": entry(shape=(2**63,))}, 4), "dtype of"),
    "large shapes": (file_of({"a": entry(shape=(2**62,) * 32)}, 4), "must take the more than 10"),
    "a negative shape": (file_of({"a": entry(shape=(-4, -1))}, 4), "dtype of"),
    "a shape of truths": (file_of({"a": entry(shape=(True, 4))}, 4), "dtype of"),
    "a shape of floats": (file_of({"a": entry(shape=(4.0,))}, 4), "dtype of"),
    "one offset": (file_of({"a": entry(offsets=(0,))}, 4), "dtype of"),
    "another key": (file_of({"a": {**entry(), "x": 1}}, 4), "dtype of"),
    "a shape of other bytes": (file_of({"a": entry(shape=(5,))}, 4), "5 bytes of its shape from byte 0"),
    "half a byte": (file_of({"a": entry("F4", (1,), (0, 0))}), "bytes of its shape"),
    "an overlap": (file_of({"a": entry(), "b": entry(offsets=(2, 6))}, 6), "from byte 4 on; its offsets are 2 and 6"),
    "the same bytes": (file_of({"a": entry(), "b": entry()}, 4), "from byte 4 on; its offsets are 0 and 4"),
    "a gap": (file_of({"a": entry(), "b": entry(offsets=(5, 9))}, 9), "from byte 4 on; its offsets are 5 and 9"),
    "a gap before": (file_of({"a": entry(offsets=(1, 5))}, 5), "from byte 0 on; its offsets are 1 and 5"),
    "offsets in reverse": (file_of({"a": entry(offsets=(4, 0))}, 4), "bytes of its shape"),
    "a short body": (file_of({"a": entry()}, 3), "must take 4 bytes by its header; there are 3"),
    "a long body": (file_of({"a": entry()}, 5), "there are 5"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    data, message = REFUSED[name]
    with pytest.raises(HypersignError, match=message) as error:
        read_header(io.BytesIO(data))
    assert len(str(error.value)) < 500


def test_limits_of_a_caller() -> None:
    data = file_of({"a": entry()}, 4)
    with pytest.raises(HypersignError, match=r"dtype of F32"):
        read_header(io.BytesIO(data), dtypes=("F32",))
    with pytest.raises(HypersignError, match="at most 20 bytes; it says 60"):
        read_header(io.BytesIO(data), max=20)
