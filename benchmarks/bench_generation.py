"""Generation with a ternary network of the shape of Llama: 1.3 billion random weights, NumPy and `bits.Filters8`.

    python benchmarks/bench_generation.py [--tokens 64] [--layers 24] [--threads 1] [--ggml FOLDER] [--json [FILE]]

Every matrix is ternary, embedding and head too; inputs are 8-bit per token, as in BitNet b1.58. RMSNorm, rotary
positions, SwiGLU and a cache of keys and values are NumPy's. Peak memory is that of the whole process. The share of
the memory limit compares the bytes of all weights, read once per token, with a loop in C that reads memory.

`--ggml` names a folder with libggml-base.so and libggml-cpu.so. Its time is that of the same matrices alone, as
TQ2_0: attention, norms and sampling cost it nothing here. It runs in a process of its own.
"""

import argparse
import ctypes
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ggml
import numpy as np
from interleaved import reading, show

from hypersign._machine import machine, versions
from hypersign.bits import Filters8, backend, unpack_ternary

WIDTH, HIDDEN, HEADS, VOCABULARY = 2048, 5504, 16, 32000
MATRICES = {
    "queries": (WIDTH, WIDTH),
    "keys": (WIDTH, WIDTH),
    "values": (WIDTH, WIDTH),
    "output": (WIDTH, WIDTH),
    "gate": (HIDDEN, WIDTH),
    "up": (HIDDEN, WIDTH),
    "down": (WIDTH, HIDDEN),
}


def random_words(generator: np.random.Generator, rows: int, length: int) -> np.ndarray:
    """Planes of random levels; a quarter of them is -1, a quarter +1, and half are 0."""
    words = generator.integers(0, 2**64, (2, rows, length // 64), dtype=np.uint64)
    words[0] &= words[1]
    return words


class Network:
    """A decoder whose state is its cache of keys and values."""

    def __init__(self, layers: int, positions: int, threads: int) -> None:
        generator, self.threads, self.place = np.random.default_rng(0), threads, 0

        def matrix(rows: int, length: int) -> Filters8:
            return Filters8(random_words(generator, rows, length), length, scale=(2 / length) ** 0.5)

        self.embedding = random_words(generator, VOCABULARY, WIDTH)
        self.head = Filters8(self.embedding, WIDTH, scale=(2 / WIDTH) ** 0.5)
        self.layers = [{name: matrix(*shape) for name, shape in MATRICES.items()} for _ in range(layers)]
        size = WIDTH // HEADS
        self.cache = np.zeros((layers, 2, HEADS, positions, size), np.float32)
        angles = np.outer(np.arange(positions), 10000.0 ** (-np.arange(0, size, 2) / size))
        self.turns = np.exp(1j * angles).astype(np.complex64)

    @property
    def weights(self) -> int:
        matrices = sum(rows * length for rows, length in MATRICES.values())
        return VOCABULARY * WIDTH + len(self.layers) * matrices

    def product(self, matrices: list[Filters8], x: np.ndarray) -> list[np.ndarray]:
        scale = np.float32(max(np.abs(x).max(), 1e-5) / 127)
        levels = np.rint(x / scale).astype(np.int8)[None]
        return [matrix.matmul(levels, scale, threads=self.threads)[0] for matrix in matrices]

    def turned(self, x: np.ndarray) -> np.ndarray:
        pairs = np.ascontiguousarray(x).view(np.complex64).reshape(HEADS, -1)
        return (pairs * self.turns[self.place]).view(np.float32)

    def attention(self, cache: np.ndarray, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        cache[0, :, self.place], cache[1, :, self.place] = self.turned(k), v.reshape(HEADS, -1)
        keys, values = cache[:, :, : self.place + 1]
        scores = (keys @ self.turned(q)[:, :, None])[..., 0] / np.float32((WIDTH // HEADS) ** 0.5)
        scores = np.exp(scores - scores.max(1, keepdims=True))
        shares = scores / scores.sum(1, keepdims=True)
        return (shares[:, None] @ values)[:, 0].reshape(-1)

    def step(self, token: int) -> np.ndarray:
        """The logits of the next token."""
        x = unpack_ternary(self.embedding[:, token], WIDTH).astype(np.float32)
        for layer, cache in zip(self.layers, self.cache, strict=True):
            found = self.product([layer["queries"], layer["keys"], layer["values"]], normed(x))
            x = x + self.product([layer["output"]], self.attention(cache, *found))[0]
            gate, up = self.product([layer["gate"], layer["up"]], normed(x))
            x = x + self.product([layer["down"]], gate / (1 + np.exp(-gate)) * up)[0]
        self.place += 1
        return self.product([self.head], normed(x))[0]


def normed(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt(np.mean(x * x) + np.float32(1e-6))


def generated(options: argparse.Namespace) -> dict[str, float]:
    network = Network(options.layers, options.tokens, options.threads)
    token, seconds = 1, []
    clock = time.process_time if options.threads == 1 else time.perf_counter
    for _ in range(options.tokens):
        start = clock()
        token = int(np.argmax(network.step(token)))
        seconds.append(clock() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    size = 1 << 29  # bytes: far more than any cache
    read = size / min(timed(clock, reading(size)) for _ in range(7))
    limit = network.weights / 4 / read
    return {
        "weights, 10^9": network.weights * 1e-9,
        "peak memory, MB": peak * 1e-6,
        "seconds per token": sum(seconds) / len(seconds),
        "fastest token": min(seconds),
        "memory limit, seconds": limit,
        "share of memory limit": limit / (sum(seconds) / len(seconds)),
    }


def timed(clock: Any, function: Any) -> float:
    start = clock()
    function()
    return clock() - start


def ggml_seconds(folder: Path, layers: int, tokens: int) -> float:
    """Seconds of processor time per token for the matrices alone, as TQ2_0 products on one thread."""
    shapes = [*(list(MATRICES.values()) * layers), (VOCABULARY, WIDTH)]
    blocks = [rows * length // ggml.TQ2_0_BLOCK for rows, length in shapes]
    size = sum(8 * (rows + length) + 4096 for rows, length in shapes) + sum(blocks) * ggml.TQ2_0_BYTES + (1 << 26)
    library = ggml.Ggml(folder, size, nodes=4 * len(shapes))
    generator = np.random.default_rng(0)
    for (rows, length), count in zip(shapes, blocks, strict=True):
        weights, x = library.tensor(ggml.TQ2_0, length, rows), library.tensor(ggml.F32, length, 1)
        raw = library.array(weights, (count, ggml.TQ2_0_BYTES), ctypes.c_uint8)
        raw[:] = 0x64  # codes 0, 1, 2, 1
        raw[:, 64:] = np.array([0.03], np.float16).view(np.uint8)
        library.array(x, (length,))[:] = generator.standard_normal(length)
        library.product(weights, x)
    run = library.planned()
    run()
    start = time.process_time()
    for _ in range(tokens):
        run()
    return (time.process_time() - start) / tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=64, help="default 64")
    parser.add_argument("--layers", type=int, default=24, help="default 24: 1.3 billion weights")
    parser.add_argument("--threads", type=int, default=1, help="default 1")
    parser.add_argument("--ggml", type=Path, metavar="FOLDER", help="with libggml-base.so and libggml-cpu.so")
    parser.add_argument("--only-ggml", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--json", type=Path, nargs="?", const="-", metavar="FILE", help="print JSON, or write it there"
    )
    options = parser.parse_args()
    if options.only_ggml:
        print(json.dumps(ggml_seconds(options.ggml, options.layers, options.tokens)))
        return
    row = generated(options)
    if options.ggml is not None:
        command = [sys.executable, __file__, "--only-ggml", "--ggml", str(options.ggml)]
        command += ["--layers", str(options.layers), "--tokens", str(options.tokens)]
        other = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        row |= {"ggml TQ2_0, seconds": other, "times ggml": other / row["seconds per token"]}
    result = {
        "benchmark": "generation",
        "machine": machine(),
        "versions": versions("numpy"),
        "backend": backend(),
        "threads": options.threads,
        "load_average": os.getloadavg()[0],
        "rows": {f"{options.tokens} tokens": row},
    }
    show(result, f"Generation, {backend()}, threads: {options.threads}", options.json)


if __name__ == "__main__":
    main()
