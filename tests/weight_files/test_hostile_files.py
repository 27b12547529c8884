"""Damaged files of weights are refused in one sentence, or measured."""

import json
import struct

import numpy as np
import pytest

from hypersign.weight_files import inspect_weights, open_tensors

WEIGHTS = np.random.default_rng(0).standard_normal((4, 32)).astype(np.float32)


def measure(path):
    found = inspect_weights(open_tensors(path), sample=64)
    assert len(json.dumps(found.as_dict(), allow_nan=False)) > 10


def test_damaged_safetensors(tmp_path, mutations):
    header, body = {"__metadata__": {"json": "{}"}}, b""
    for name, kind, width in (("a.weight", "F32", 4), ("a.scales", "F16", 2), ("b", "BF16", 2), ("c", "I8", 1)):
        data = WEIGHTS.tobytes()[: 128 * width]
        header[name] = {"dtype": kind, "shape": [4, 32], "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    data = struct.pack("<Q", len(text)) + text + body
    mutator = mutations.Mutator(data)

    def make(seed):
        random = np.random.default_rng(seed)
        return mutator.mutated(seed) if seed % 2 else mutations.damaged(random, data, 8 + len(text))

    count = mutations.cases(300)
    refused = mutations.refusals(tmp_path / "m.safetensors", make, measure, count)
    assert count // 3 < refused < count


def test_damaged_gguf(tmp_path, mutations):
    pytest.importorskip("gguf")
    count = mutations.cases(500)
    refused = mutations.refusals(tmp_path / "m.gguf", lambda seed: gguf_file(mutations, seed), measure, count)
    assert count // 3 < refused < count


def gguf_file(mutations, seed):
    """A GGUF file of a few keys and tensors of any types, sometimes damaged, sometimes laid out wrongly."""
    random = np.random.default_rng(seed)
    number = lambda: int(random.choice(np.array(mutations.NUMBERS, object)))  # noqa: E731

    def text(value):
        return struct.pack("<Q", len(value)) + value

    def value(kind, depth=0):
        if kind == 8:
            return text(random.bytes(random.integers(5)) if random.random() < 0.3 else b"llama")
        if kind == 9:
            item, length = int(random.integers(13)), int(random.integers(4))
            content = b"".join(value(item, depth + 1) for _ in range(length)) if depth < 12 else b""
            return struct.pack("<IQ", item, length if random.random() < 0.9 else number() % 2**64) + content
        return random.bytes({0: 1, 1: 1, 7: 1, 2: 2, 3: 2, 10: 8, 11: 8, 12: 8}.get(kind, 4))

    keys, tensors, body, wild = b"", b"", b"", random.random() < 0.5
    count, key_count = int(random.integers(4)), int(random.integers(4))
    names = [b"general.alignment", b"split.count", b"split.no", b"split.tensors.count", b"general.architecture"]
    for name in random.permutation(names)[:key_count]:
        kind = int(random.integers(14)) if wild else 8
        keys += text(bytes(name)) + struct.pack("<I", kind) + value(kind)
    for i in range(count):
        # F32, F16, Q4_0, Q8_0, Q6_K, I8, F64, BF16, TQ2_0, unknown
        kind = int(random.choice([0, 1, 2, 8, 14, 24, 28, 30, 35, 41, 99] if wild else [0, 1, 2, 8, 30]))
        shape = [
            int(random.choice([0, 1, 32, 33, 256]) if wild else 32) for _ in range(random.integers(5 if wild else 3))
        ]
        if random.random() < 0.05:
            shape.append(number())
        size = {0: 4, 1: 2, 2: 18 / 32, 8: 34 / 32, 30: 2}.get(kind, 1) * np.prod(shape, dtype=np.float64)
        offset = len(body) if random.random() < 0.95 else number()
        tensors += text(b"w%d" % i) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
        content = random.bytes(int(min(size, 10_000)))
        body += content + bytes(-len(content) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, count, key_count) + keys + tensors
    data = head + bytes(-len(head) % 32) + body
    return mutations.damaged(random, data, len(head)) if random.random() < 0.4 else data


def test_damaged_indices(tmp_path, mutations):
    """An index and its shards: the index is damaged."""
    for i in range(2):
        text = json.dumps({f"w{i}": {"dtype": "F32", "shape": [4, 32], "data_offsets": [0, 512]}}).encode()
        (tmp_path / f"{i}.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + WEIGHTS.tobytes())
    content = {"metadata": {"total": 1024}, "weight_map": {"w0": "0.safetensors", "w1": "1.safetensors"}}

    def make(seed):
        random = np.random.default_rng(seed)
        found = mutations.edited(random, content)
        text = json.dumps(found).encode()
        return mutations.damaged(random, text, len(text)) if seed % 3 == 0 else text

    count = mutations.cases(200)
    refused = mutations.refusals(
        tmp_path / "m.safetensors.index.json", make, lambda path: measure(path.parent), count
    )
    assert count // 3 < refused < count
