"""Random damage to files, for tests of their readers.

A reader refuses a file with a HypersignError or reads it; anything else is a failure. With HYPERSIGN_LONG, as
`.ci/long` sets it, there are ten times as many files.
"""

import contextlib
import json
import os
import signal
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hypersign._checks import HypersignError

SECONDS = 10
"""A reader that takes longer hangs."""


def cases(few: int) -> int:
    """How many files to try: a few, or ten times as many."""
    return few * (10 if "HYPERSIGN_LONG" in os.environ else 1)


@contextlib.contextmanager
def bounded(size: int) -> Iterator[None]:
    """Fails if what is done takes more than 64 MB and 20 times the bytes of the file, or hangs."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"a reader still runs after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert peak < 64e6 + 20 * size, f"{peak:,} bytes for a file of {size:,}"


def refusals(path: Path, make: Callable[[int], bytes], read: Callable[[Path], object], count: int) -> int:
    """How many of `count` files that `make` gives by a seed, written to `path`, are refused by `read`.

    A message is at most a few lines long, whatever the file holds.
    """
    said: list[str] = []
    for seed in range(count):
        data = make(seed)
        path.write_bytes(data)
        try:
            with bounded(len(data)):
                read(path)
        except HypersignError as error:
            said.append(str(error))
        except BaseException as error:
            error.add_note(f"of the file of seed {seed}, {len(data)} bytes")
            raise
    assert max(map(len, said), default=0) < 8000
    return len(said)


NUMBERS = (0, 1, 2, 3, 7, 32, 64, 255, 2**16, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)


def damaged(random: np.random.Generator, data: bytes, head: int) -> bytes:
    """A file cut, extended, or changed in a few places, half of them in its first `head` bytes."""
    changed = bytearray(data)
    for _ in range(random.integers(1, 4)):
        if not changed:
            break
        i = int(random.integers(min(head, len(changed)) if random.random() < 0.5 else len(changed)))
        way = random.integers(6)
        if way == 0:
            changed[i] ^= 1 << random.integers(8)
        elif way == 1:
            piece = random.bytes(random.integers(1, 16))
            changed[i : i + len(piece)] = piece
        elif way == 2:
            del changed[i : i + random.integers(1, 50)]
        elif way == 3:
            changed[i:i] = changed[i : i + random.integers(1, 50)]
        elif way == 4:
            width = int(random.choice([1, 2, 4, 8]))
            value = NUMBERS[random.integers(len(NUMBERS))] % 256**width
            changed[i : i + width] = value.to_bytes(width, random.choice(["little", "big"]))
        else:
            del changed[i:]
    return bytes(changed)


DTYPES = ["BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "F64", "I64"]
DTYPES += ["U64", "C64", "F8_E8M0", "F4", "F6_E2M3", "f32", "", "F128"]


def json_value(random: np.random.Generator) -> Any:
    """A JSON value that is seldom the one expected."""
    values = [
        None,
        True,
        False,
        -1,
        0,
        1,
        2,
        3,
        2**31,
        2**63,
        10**400,
        1.5,
        -0.0,
        float("nan"),
        float("inf"),
        "",
        "2",
    ]
    values += [[], {}, [1, "x"], {"recipe": {}}, {"recipe": 3, "data": []}, "/dev/zero", "..", "x" * 10_000]
    i = random.integers(len(values) + 1)
    if i < len(values):
        return values[i]
    deep: Any = []
    for _ in range(900):
        deep = [deep]
    return deep


def edited(random: np.random.Generator, content: Any) -> Any:
    """JSON with one to three things replaced, removed, renamed, or moved to the place of others."""
    content = json.loads(json.dumps(content))
    for _ in range(random.integers(1, 4)):
        places: list[tuple[Any, Any]] = []
        _walk(content, places)
        if not places:
            break
        thing, key = places[random.integers(len(places))]
        way = random.integers(4)
        if way == 0:
            del thing[key]
        elif way == 1 and isinstance(thing, dict):
            thing[f"{key}x"] = thing.pop(key)
        elif way == 2:
            other, place = places[random.integers(len(places))]
            thing[key] = json.loads(json.dumps(other[place]))
        else:
            thing[key] = json_value(random)
    return content


def _walk(thing: Any, places: list[tuple[Any, Any]], depth: int = 0) -> None:
    for key in list(thing) if isinstance(thing, dict) else range(len(thing)):
        places.append((thing, key))
        if isinstance(thing[key], dict | list) and depth < 20:
            _walk(thing[key], places, depth + 1)


class Mutator:
    """Mutations of the bytes of a safetensors file, as functions of a seed.

    `key` names the JSON object in its metadata.
    """

    def __init__(self, content: bytes, key: str = "json") -> None:
        self.key = key
        end = 8 + int.from_bytes(content[:8], "little")
        self.content, self.body = content, content[end:]
        self.entries: dict[str, Any] = json.loads(content[8:end])
        self.saved = json.loads(self.entries.pop("__metadata__")[key])

    def mutated(self, seed: int) -> bytes:
        random = np.random.default_rng(seed)
        tensors = {
            name: [entry["dtype"], entry["shape"], self.body[slice(*entry["data_offsets"])]]
            for name, entry in self.entries.items()
        }
        saved = json.loads(json.dumps(self.saved))
        metadata: Any = None
        kind = random.integers(10)
        for _ in range(random.integers(1, 4)):
            name = str(random.choice(list(tensors) or [""]))
            tensors.setdefault(name, ["F32", [1], bytes(4)])
            if kind == 0:
                tensors[name] = self._shape(random, *tensors[name])
            elif kind == 1:
                tensors[name][0] = str(random.choice(DTYPES))
            elif kind == 2:
                tensors[name] = self._typed(random, tensors[name][1])
            elif kind == 3:
                del tensors[name]
            elif kind == 4:
                tensors[self._name(random, name)] = tensors[name] if random.random() < 0.5 else tensors.pop(name)
            elif kind == 5:
                tensors[name][2] = self._noise(random, tensors[name][2])
            elif kind == 6 or (kind == 7 and "belongs" not in saved):
                key = str(random.choice([*saved, "epochs"]))
                saved[key] = json_value(random)
            elif kind == 7:
                field = str(random.choice([*saved["belongs"]["recipe"], "seeds"]))
                saved["belongs"]["recipe"][field] = json_value(random)
            elif kind == 8:
                metadata = json_value(random)
        data = self._joined(tensors, saved, metadata)
        if kind == 9:
            data = self._bytes(random, data)
        return data

    def _shape(self, random: np.random.Generator, dtype: str, shape: list[int], data: bytes) -> list[Any]:
        way = random.integers(5)
        if way == 0:
            return [dtype, list(random.permutation(shape).tolist()), data]
        if way == 1:
            return [dtype, [int(np.prod(shape))], data]
        if way == 2:
            return [dtype, [1, *shape], data]
        shape = [int(random.choice([0, 1, 2, 7, 2**20, 2**40, 2**63, -1])) for _ in range(random.integers(4))]
        return [dtype, shape, data] if way == 3 else [dtype, shape, bytes(min(4 * abs(int(np.prod(shape))), 10**5))]

    def _typed(self, random: np.random.Generator, shape: list[int]) -> list[Any]:
        """A tensor of another type that is as long as its shape says."""
        name, width = [("U8", 1), ("F8_E4M3", 1), ("F16", 2), ("BF16", 2), ("I32", 4), ("F64", 8), ("BOOL", 1)][
            random.integers(7)
        ]
        return [
            name,
            shape,
            random.bytes(width * int(np.prod(shape))) if name != "BOOL" else bytes(int(np.prod(shape))),
        ]

    def _name(self, random: np.random.Generator, name: str) -> str:
        ways = [name + "x", name[1:], name.rpartition("/")[0], "", "/", name.upper(), "\x1b[31m", "x" * 10_000]
        return str(random.choice([*ways, "optimizer/", "optimizer//", f"optimizer/{name}", "signs/", "model/"]))

    def _noise(self, random: np.random.Generator, data: bytes) -> bytes:
        if random.random() < 0.3:
            value = random.choice(np.array([np.nan, np.inf, -np.inf, -1, 1e38], np.float32))
            return struct.pack("<f", value) * (len(data) // 4) + bytes(len(data) % 4)
        return random.bytes(len(data))

    def _bytes(self, random: np.random.Generator, data: bytes) -> bytes:
        way = random.integers(5)
        if way == 0:
            return data[: random.integers(len(data))]
        if way == 1:
            return data + random.bytes(random.integers(1, 100))
        changed = bytearray(data)
        if way == 2:
            changed[:8] = int(random.choice([0, 1, 2, 2**20, 2**40, 2**63, len(data)])).to_bytes(8, "little")
            return bytes(changed)
        last = len(data) if way == 3 else 8 + int.from_bytes(data[:8], "little")
        for _ in range(random.integers(1, 6)):
            changed[random.integers(last)] = random.integers(256)
        return bytes(changed)

    def _joined(self, tensors: dict[str, list[Any]], saved: Any, metadata: Any) -> bytes:
        header: dict[str, Any] = {"__metadata__": {self.key: json.dumps(saved)} if metadata is None else metadata}
        if isinstance(metadata, str | list | dict) and metadata:
            header["__metadata__"] = {self.key: metadata if isinstance(metadata, str) else json.dumps(metadata)}
        body = b""
        for name, (dtype, shape, data) in tensors.items():
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
            body += data
        head = json.dumps(header).encode()
        head += b" " * (-len(head) % 8)
        return len(head).to_bytes(8, "little") + head + body
