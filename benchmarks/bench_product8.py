"""Products of 8-bit inputs with binary and ternary weights, against int8 and float runtimes.

    python benchmarks/bench_product8.py [--shapes 512x2048x2048 ...] [--threads 1] [--seconds 3] [--ggml FOLDER]
        [--json [FILE]]

A shape MxNxK: M rows with N filters of fan-in K. The unit is 10^9 multiply-accumulates a second. `share` compares
with a loop of vpmaddubsw and vpaddw on registers alone, in the same run. `share of read` compares with a loop in C
(machine_limits.c, compiled here with `cc`) that reads as many bytes as the weights have, from huge pages in memory.
`vpdpbusd` is a loop of that instruction on registers alone. All write to arrays that exist before, where they can.

`--ggml` names a folder with libggml-base.so and libggml-cpu.so, for TQ2_0 products: build them from the sources of
llama-cpp-python. Its time includes quantizing the inputs to Q8_K, as in llama.cpp, which has no product without.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ggml
import numpy as np
import torch
from interleaved import installed, least_seconds, limits, peak, reading, show

from hypersign._machine import machine, versions
from hypersign.bits import Filters8, backend, unpack_ternary

SHAPES = ("2048x2048x2048", "512x2048x2048", "32x2048x2048", "4x2048x2048", "1x2048x2048")
FROM_MEMORY = "1x16384x65536"


def compare(shape: str, seconds: float, threads: int, ggml: Path | None) -> dict[str, float]:
    m, n, k = map(int, shape.split("x"))
    generator = np.random.default_rng(0)
    x = generator.integers(-127, 128, (m, k), dtype=np.int8)
    words = generator.integers(0, 2**64, (2, n, -(-k // 64)), dtype=np.uint64)
    binary, ternary = Filters8(words[0], k), Filters8(words, k)
    out = np.empty((m, n), np.int32)
    loop, loop_macs = peak(2e7, of="product8")
    ways: dict[str, Callable[[], Any]] = {
        "loop": loop,
        "binary": lambda: binary.sums(x, threads=threads, out=out),
        "ternary": lambda: ternary.sums(x, threads=threads, out=out),
    }
    rounds = 20_000
    dot_macs = limits().dot_products(rounds)
    if dot_macs:
        ways["vpdpbusd"] = lambda: limits().dot_products(rounds)
    if n * k <= 1 << 24:
        ways |= peers(x, words, threads, ggml)
    if shape == FROM_MEMORY:
        for name, size in (("read binary", n * k // 8), ("read ternary", n * k // 4)):
            ways[name] = reading(size)
    least = least_seconds(ways, seconds, threads)
    speed = {name: m * n * k / spent * 1e-9 for name, spent in least.items()}
    top = loop_macs / least["loop"] * 1e-9 * threads
    row = {"loop": top}
    if dot_macs:
        row["vpdpbusd"] = dot_macs / least["vpdpbusd"] * 1e-9 * threads
    for kind in ("binary", "ternary"):
        row |= {kind: speed[kind], f"{kind}, share": speed[kind] / top}
        if f"read {kind}" in ways:
            row[f"{kind}, share of read"] = speed[kind] / speed[f"read {kind}"]
    others = [name for name in ways if name not in ("loop", "vpdpbusd", "binary", "ternary") and name[:4] != "read"]
    return row | {f"{kind} / {name}": speed[kind] / speed[name] for kind in ("ternary", "binary") for name in others}


def peers(x: np.ndarray, words: np.ndarray, threads: int, ggml: Path | None) -> dict[str, Callable[[], Any]]:
    """The same product elsewhere, with ternary weights; to these, binary ones would be no different."""
    (m, k), n = x.shape, words.shape[1]
    words = np.stack([words[0] & words[1], words[1]])  # a zero has no sign
    levels = unpack_ternary(words, k).astype(np.int8)
    expected = x.astype(np.float32) @ levels.T.astype(np.float32)
    a, w, y = torch.from_numpy(x).float(), torch.from_numpy(levels).float().T.contiguous(), torch.empty(m, n)
    ways: dict[str, Callable[[], Any]] = {"torch float32": lambda: torch.mm(a, w, out=y)}
    if installed("onnx", "onnxruntime") == ["onnx", "onnxruntime"]:
        ways["onnxruntime"], result = onnx_product(x, levels, threads)
        assert np.array_equal(result(), expected)
    if ggml is not None and k % 256 == 0:
        ways["ggml TQ2_0"], result = ggml_product(x, levels, ggml)
        close = np.abs(result() - expected).max() / np.abs(expected).max()
        assert close < 0.02, close  # Q8_K rounds the inputs once more
    return ways


def onnx_product(
    x: np.ndarray, levels: np.ndarray, threads: int
) -> tuple[Callable[[], Any], Callable[[], np.ndarray]]:
    """MatMulInteger of uint8 inputs with int8 weights."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    (m, k), n = x.shape, len(levels)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w", "zero"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [m, k])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [m, n])],
        [
            numpy_helper.from_array(np.ascontiguousarray(levels.T), "w"),
            numpy_helper.from_array(np.array(128, np.uint8), "zero"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    y = np.empty((m, n), np.int32)
    shifted = onnxruntime.OrtValue.ortvalue_from_numpy((x.astype(np.int16) + 128).astype(np.uint8))
    binding.bind_ortvalue_input("x", shifted)
    binding.bind_output("y", "cpu", 0, np.int32, [m, n], y.ctypes.data)

    def result() -> np.ndarray:
        session.run_with_iobinding(binding)
        return y  # which must live as long as the binding, that writes to it

    return result, result


def ggml_product(
    x: np.ndarray, levels: np.ndarray, folder: Path
) -> tuple[Callable[[], Any], Callable[[], np.ndarray]]:
    """A graph with one mul_mat of TQ2_0 weights and float32 inputs, on one thread."""
    (m, k), n = x.shape, len(levels)
    library = ggml.Ggml(folder, n * k * 2 + m * (n + 4 * k) * 8 + (1 << 26), nodes=8)
    weights, inputs = library.tensor(ggml.TQ2_0, k, n), library.tensor(ggml.F32, k, m)
    library.quantize(weights, levels)
    library.array(inputs, (m, k))[:] = x
    y = library.product(weights, inputs)
    run = library.planned()

    def result() -> np.ndarray:
        run()
        return library.array(y, (m, n)).copy()

    return run, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--shapes",
        nargs="+",
        default=(*SHAPES, FROM_MEMORY),
        metavar="MxNxK",
        help=f"default {' '.join(SHAPES)} {FROM_MEMORY}",
    )
    parser.add_argument("--threads", type=int, default=1, help="of ours and the others' (default 1)")
    parser.add_argument("--seconds", type=float, default=3, help="for each shape (default 3)")
    parser.add_argument("--ggml", type=Path, metavar="FOLDER", help="with libggml-base.so and libggml-cpu.so")
    parser.add_argument(
        "--json", type=Path, nargs="?", const="-", metavar="FILE", help="print JSON, or write it there"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = {shape: compare(shape, options.seconds, options.threads, options.ggml) for shape in options.shapes}
    result = {
        "benchmark": "product8",
        "machine": machine(),
        "versions": versions("torch", "numpy", *installed("onnxruntime")),
        "backend": backend(),
        "threads": options.threads,
        "load_average": os.getloadavg()[0],
        "rows": rows,
    }
    show(result, f"10^9 multiply-accumulates a second, {backend()}, threads: {options.threads}", options.json)


if __name__ == "__main__":
    main()
