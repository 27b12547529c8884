"""Simulation against per-sample loops as the original's notebook writes them: one vector at a time.

    OMP_NUM_THREADS=1 python benchmarks/bench_simulate.py [--threads 1 2] [--draws 10000] [--dimension 1000]
        [--device cpu] [--json [FILE]]

Loop and HyperSign do each experiment, interleaved. The loop draws one vector, quantizes it by comparisons and
computes its angle. HyperSign gives the same means and spreads, with standard errors and predictions. The ternary
experiment has five thresholds; each, as in the original, also draws an angle of two random vectors. The rotation
experiment is timed twice: as a whole, where the loop makes its rotation as the original does, by multiplying d - 1
matrices; and with the loop's rotation given, so that it only multiplies a vector per draw. HyperSign makes its 16
Haar rotations in both.

HyperSign's time is wall-clock time, predictions and histogram included, with the given number of threads. The loop
has one thread, and its time is processor time, so other work on the machine does not count against it. The minimum
over rounds counts. OMP_NUM_THREADS=1 is for NumPy's products in the loop; it does not change HyperSign's threads.

A normal takes half a nanosecond of a core with AVX2, sums included; NumPy's takes 8 ns (csrc/gaussian says why), a
loop 20 to 30. The gain is larger if one draw is used for several cases, such as thresholds. Rotated vectors cost
one multiplication per component and per direction that varies visibly, 167 of the 1000.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rich
import rich.table
import torch

from hypersign import simulation
from hypersign._json import prints_text, write_json
from hypersign._machine import machine, versions
from hypersign.rotations import HaarRotation

THRESHOLDS = (0.01, 0.02 / 0.18, 0.2, 0.3, 0.5)
RATE = 0.1


def angle(u: np.ndarray, v: np.ndarray) -> float:
    norm = np.sqrt(np.dot(u, u) * np.dot(v, v))
    return np.arccos(np.dot(u, v) / norm) if norm else 0.0


def binarized(x: np.ndarray) -> np.ndarray:
    return -1 * (x < 0) + 0 * (x == 0) + 1 * (x > 0)


def product_of_reflections(d: int, normal: Callable[[int], np.ndarray]) -> np.ndarray:
    """A Haar rotation as the original makes it: a random reflection in each dimension, all multiplied as matrices."""
    rotation = np.eye(d)
    for size in range(2, d + 1):
        v = normal(size)
        v[0] += np.copysign(np.linalg.norm(v), v[0])
        reflection = np.eye(d)
        reflection[-size:, -size:] -= np.outer(v, v) * (2 / np.dot(v, v))
        rotation = np.dot(rotation, reflection)
    return rotation


def loops(d: int, draws: int) -> dict[str, Callable[[], list[np.ndarray]]]:
    """The experiments, a vector at a time; each returns the angles of its cases."""
    generator = np.random.default_rng(0)
    normal = generator.standard_normal
    scale = np.exp(RATE * (np.arange(d) - d / 2))
    given = HaarRotation(d, 0).matrix

    def pair() -> float:
        return angle(normal(d), normal(d))

    def binary_pair() -> float:
        return angle(2 * generator.integers(0, 2, d) - 1, 2 * generator.integers(0, 2, d) - 1)

    def with_sign() -> float:
        x = normal(d)
        return angle(binarized(x), x)

    def with_scaled_sign(rotation: np.ndarray | None = None) -> float:
        x = normal(d) * scale
        if rotation is not None:
            x = np.dot(x, rotation)
        return angle(binarized(x), x)

    def with_ternary(t: float) -> float:
        x = normal(d)
        return angle((abs(x) > t) * np.sign(x), x)

    def each(*functions: Callable[[], float]) -> list[np.ndarray]:
        return [np.array([function() for _ in range(draws)]) for function in functions]

    def rotated(rotation: np.ndarray) -> list[np.ndarray]:
        return each(with_scaled_sign, lambda: with_scaled_sign(rotation))

    return {
        "pairs": lambda: each(pair),
        "sign": lambda: each(with_sign),
        "ternary": lambda: [
            angles
            for t in THRESHOLDS
            for angles in each(lambda t=t: with_ternary(t), pair)  # type: ignore[misc]
        ],
        "binary pairs": lambda: each(binary_pair),
        "rotated": lambda: rotated(product_of_reflections(d, normal)),
        "rotated, rotation given": lambda: rotated(given),
    }


def ours(d: int, draws: int, device: str) -> dict[str, Callable[[], list[simulation.Simulation]]]:
    """The same experiments, vectorised."""
    options = {"draws": draws, "device": device}

    def rotated() -> list[simulation.Simulation]:
        return [simulation.rotated([d], rate=RATE, **options)]  # type: ignore[arg-type]

    return {
        "pairs": lambda: [simulation.pairs([d], **options)],  # type: ignore[arg-type]
        "sign": lambda: [simulation.sign([d], **options)],  # type: ignore[arg-type]
        "ternary": lambda: [
            simulation.ternary(THRESHOLDS, dimension=d, **options),  # type: ignore[arg-type]
            simulation.pairs([d], **options),  # type: ignore[arg-type]
        ],
        "binary pairs": lambda: [simulation.binary_pairs([d], draws=draws)],
        "rotated": rotated,
        "rotated, rotation given": rotated,
    }


def seconds(function: Callable[[], object], device: str) -> tuple[float, float, object]:
    """Wall time, processor time of all threads, and what came."""
    start, processor = time.perf_counter(), time.process_time()
    value = function()
    if device != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start, time.process_time() - processor, value


def measure(
    loop: Callable[[], list[np.ndarray]],
    ours: Callable[[], list[simulation.Simulation]],
    options: argparse.Namespace,
    name: str,
) -> dict[str, Any]:
    """The least times of several rounds, ours of `repeats` runs in each, and how many times as fast ours is."""
    loops, runs = [], {threads: [] for threads in options.threads}  # type: ignore[var-annotated]
    for _ in range(options.rounds):
        for threads in options.threads:
            torch.set_num_threads(threads)
            for _ in range(options.repeats):
                wall, processor, found = seconds(ours, options.device)
                runs[threads].append((wall, processor))
        wall, processor, angles = seconds(loop, "cpu")
        loops.append((wall, processor))
        check(name, angles, found)  # type: ignore[arg-type]
    loop_wall, loop_processor = (min(part) for part in zip(*loops, strict=True))
    row: dict[str, Any] = {"loop_seconds": loop_wall, "loop_processor_seconds": loop_processor, "threads": {}}
    for threads, times in runs.items():
        wall, processor = (min(part) for part in zip(*times, strict=True))
        ratio = loop_processor / wall
        row["threads"][str(threads)] = {"seconds": wall, "processor_seconds": processor, "times_as_fast": ratio}
    return row


def check(name: str, angles: list[np.ndarray], found: list[simulation.Simulation]) -> None:
    """Stops unless both experiments meet the same predictions: what is compared must be the same thing."""
    cases = [case for simulation in found for case in simulation.cases]
    if name == "ternary":  # the loop has a set of pairs a threshold, ours one
        cases = [case for threshold in cases[:-1] for case in (threshold, cases[-1])]
    for case, values in zip(cases, np.degrees(angles), strict=True):
        expected = case.angle_degrees.predicted_mean
        for mean, error in ((case.angle_degrees.mean, case.angle_degrees.mean_error), (values.mean(), None)):
            # One rotation of all the loop's vectors moves their mean by up to .3 degrees.
            least = 0.3 if case.label.endswith("haar") else 0.0
            limit = max(5 * (error or values.std() / len(values) ** 0.5), least)
            if not abs(mean - expected) < limit:
                raise SystemExit(f"{name}, {case.label}: {mean} is not {expected}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=10_000, help="draws a case (default 10000)")
    parser.add_argument("--dimension", type=int, default=1000, help="of the vectors (default 1000)")
    parser.add_argument("--device", default="cpu", help="of our side; loops are NumPy's (default cpu)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of ours (default 1 2)")
    parser.add_argument("--rounds", type=int, default=3, help="of both; the least time counts (default 3)")
    parser.add_argument("--repeats", type=int, default=20, help="runs of ours a round (default 20)")
    parser.add_argument(
        "--json", type=Path, nargs="?", const="-", metavar="FILE", help="print JSON, or write it there"
    )
    options = parser.parse_args()
    load = os.getloadavg()[0]

    vectorised = ours(options.dimension, options.draws, options.device)
    rows = {
        name: measure(loop, vectorised[name], options, name)
        for name, loop in loops(options.dimension, options.draws).items()
    }
    result = {
        "benchmark": "simulate",
        "machine": machine(),
        "versions": versions("torch", "numpy"),
        "load_before_and_after": [load, os.getloadavg()[0]],
        "device": options.device,
        "dimension": options.dimension,
        "draws": options.draws,
        "experiments": rows,
    }
    write_json(result, options.json)
    if not prints_text(options.json):
        return
    title = f"{options.draws:,} draws of d = {options.dimension}, {options.device}"
    table = rich.table.Table("experiment", "loop, ms", "threads", "ours, ms", "times as fast", title=title)
    for name, row in rows.items():
        for threads, run in row["threads"].items():
            cells = f"{1e3 * row['loop_processor_seconds']:.0f}", threads, f"{1e3 * run['seconds']:.1f}"
            table.add_row(name, *cells, f"{run['times_as_fast']:.0f}")
    rich.print(table)


if __name__ == "__main__":
    main()
