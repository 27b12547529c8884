"""A training step on bits of this version against that of another checkout, such as one of an older version.

    python benchmarks/bench_training_versions.py CHECKOUT [--threads N] [--rounds 4] [--steps 10] [--json [FILE]]

CHECKOUT is a folder with this repository, with its own `.venv` and this benchmark's `bench_training_step.py`. The
versions alternate, each round in a new process, because a process keeps its memory. The table has the fastest and the
median step of all rounds. The network is the paper's, with batches of 50. Run it with `OMP_WAIT_POLICY=PASSIVE`.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
from pathlib import Path

import rich
import rich.table

from hypersign._json import prints_text, write_json
from hypersign._machine import machine, versions
from hypersign.bits import backend

HERE = Path(__file__).resolve().parents[1]

STEPS = """
import json, sys, time
sys.path.insert(0, "benchmarks")
import torch
from bench_training_step import network, ours
from hypersign.layers import train_on_bits
torch.set_num_threads(int(sys.argv[1]))
generator = torch.Generator().manual_seed(1)
images = (torch.rand(50, 3, 32, 32, generator=generator) * 2 - 1).contiguous(memory_format=torch.channels_last)
labels = torch.randint(10, (50,), generator=generator)
model = network(128, 2)
train_on_bits(model)
step = ours(model)
times = []
for _ in range(2 + int(sys.argv[2])):  # the first two allocate
    start = time.perf_counter()
    step(images, labels)
    times.append(time.perf_counter() - start)
print(json.dumps(times[2:]))
"""


def seconds(python: Path, folder: Path, threads: int, steps: int) -> list[float]:
    """The seconds of each step in a new process."""
    command = [str(python), "-c", STEPS, str(threads), str(steps)]
    found = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    times: list[float] = json.loads(found.stdout)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="folder of the other version")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default 2)")
    parser.add_argument("--rounds", type=int, default=4, help="rounds of both versions (default 4)")
    parser.add_argument("--steps", type=int, default=10, help="steps of a round (default 10)")
    parser.add_argument(
        "--json", type=Path, nargs="?", const="-", metavar="FILE", help="print JSON, or write it there"
    )
    options = parser.parse_args()
    other = options.checkout.resolve()
    sides = {"this": (Path(sys.executable), HERE), "other": (other / ".venv/bin/python", other)}
    times: dict[str, list[list[float]]] = {name: [] for name in sides}
    for i in range(options.rounds):
        for name in list(sides)[:: 1 if i % 2 else -1]:
            times[name].append(seconds(*sides[name], options.threads, options.steps))
    best = {name: min(min(each) for each in rounds) for name, rounds in times.items()}
    middle = {name: statistics.median(itertools.chain.from_iterable(rounds)) for name, rounds in times.items()}
    result = {
        "benchmark": "training_versions",
        "machine": machine() | {"threads": options.threads},
        "versions": versions("torch", "numpy"),
        "backend": backend(),
        "batch": 50,
        "seconds": times,
        "ratio_of_fastest": best["other"] / best["this"],
        "ratio_of_medians": middle["other"] / middle["this"],
    }
    write_json(result, options.json)
    if not prints_text(options.json):
        return
    title = f"Training step; threads: {options.threads}"
    table = rich.table.Table("version", "fastest, ms", "median, ms", title=title)
    for name in sides:
        table.add_row(name, f"{1000 * best[name]:.1f}", f"{1000 * middle[name]:.1f}")
    table.add_row("other / this", f"{result['ratio_of_fastest']:.2f}", f"{result['ratio_of_medians']:.2f}")
    rich.print(table)


if __name__ == "__main__":
    main()
