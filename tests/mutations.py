"""Random damage to safetensors files, for tests of their readers."""

import json
import struct
from typing import Any

import numpy as np

DTYPES = ["BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "F64", "I64"]
DTYPES += ["U64", "C64", "F8_E8M0", "F4", "F6_E2M3", "f32", "", "F128"]


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
                saved[key] = self._json(random)
            elif kind == 7:
                field = str(random.choice([*saved["belongs"]["recipe"], "seeds"]))
                saved["belongs"]["recipe"][field] = self._json(random)
            elif kind == 8:
                metadata = self._json(random)
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

    def _json(self, random: np.random.Generator) -> Any:
        values = [
            None,
            True,
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
            [],
            {},
        ]
        deep: Any = []
        for _ in range(900):
            deep = [deep]
        return [*values, [1, "x"], {"recipe": {}}, {"recipe": 3, "data": []}, deep][random.integers(len(values) + 4)]

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
