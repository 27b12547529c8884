"""Ten million vectors from end to end, each command killed at random moments and run again.

    python benchmarks/bench_ten_million.py [--counts 10000000 1000000] [--folder FOLDER] [--json [FILE]]

For each count, a .npy file of clustered uint8 vectors (128 components; 1.28 GB for ten million) and a thousand
queries are made in a temporary folder. Then four commands run one after the other, each in a process of its own:

    hash          codes of 128 bits, with bounds
    change        removes 1 % of the ids, adds half of them again from their vectors, saves under another name
    search        the 10 nearest of each query, from 40 candidates rescored by their original vectors
    exact search  the 10 nearest of one query in 50, by bounds

Peak memory is read from /proc: what a process has of its own (RssAnon), and mapped pages of files (RssFile), which
the system may take back; it is also read for the other commands of hashing: level codes, --pca, --skip and --packed,
and for up to a million vectors plans, inspect, a folder and other formats of files. Then the four run again in
another folder, killed (SIGKILL) at random moments of the seconds that they took before. After every kill and at the
end, a file that is there must be that of the undisturbed run, byte by byte, and no other file may be left.
"""

import argparse
import filecmp
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.ipc
import pyarrow.parquet
from interleaved import show

from hypersign._json import write_json
from hypersign._machine import machine, versions
from hypersign.hashing import HammingIndex, open_vectors, recall

DIMENSION, BITS, K, FACTOR = 128, 128, 10, 4
FILES = ("codes", "index", "found.npz", "exact.npz")
"""What the commands write, in their order."""


def make(folder: Path, count: int, queries: int) -> None:
    """Vectors around centres, spread along 16 directions and a little in all; queries are made alike."""
    random = np.random.default_rng(0)
    centres = random.normal(128, 25, (max(10, count // 1000), DIMENSION)).astype(np.float32)
    directions = random.normal(0, 5, (16, DIMENSION)).astype(np.float32)

    def rows(number: int) -> np.ndarray:
        along = random.standard_normal((number, 16), np.float32) @ directions
        noise = random.integers(-6, 7, (number, DIMENSION), np.int8)
        return np.clip(centres[random.integers(0, len(centres), number)] + along + noise, 0, 255).astype(np.uint8)

    for name, number in (("vectors.npy", count), ("queries.npy", queries), ("few.npy", max(1, queries // 50))):
        with (folder / name).open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (number, DIMENSION)}
            np.lib.format.write_array_header_1_0(file, header)
            if name == "few.npy":
                file.write(np.load(folder / "queries.npy")[:number].tobytes())
            else:
                for start in range(0, number, 20_000):
                    file.write(rows(min(20_000, number - start)).tobytes())
            file.flush()
            os.fsync(file.fileno())


def change(vectors: Path, codes: Path, output: Path) -> None:
    """What runs in a process of its own: an index with 1 % of its ids removed and half of these added again."""
    index, stored = HammingIndex.load(codes), open_vectors(vectors)
    gone = np.random.default_rng(1).permutation(len(index))[: len(index) // 100]
    index.remove(gone)
    index.add(np.asarray(stored[np.sort(gone[::2])]), np.sort(gone[::2]))
    index.save(output)


def commands(inputs: Path, folder: Path) -> dict[str, list[str]]:
    vectors, search = str(inputs / "vectors.npy"), ["-m", "hypersign", "search"]
    codes, index, found, exact = (str(folder / name) for name in FILES)
    rescore = ["--rescore", vectors, "-k", str(K)]
    return {
        "hash": ["-m", "hypersign", "hash", vectors, "-o", codes, "--bits", str(BITS), "--bounds"],
        "change": [__file__, "--change", vectors, codes, index],
        "search": [*search, index, str(inputs / "queries.npy"), *rescore, "--factor", str(FACTOR), "-o", found],
        "exact search": [*search, codes, str(inputs / "few.npy"), *rescore, "--exact", "-o", exact],
    }


def other_commands(inputs: Path, folder: Path, count: int) -> dict[str, list[str]]:
    """The other commands of hashing, for their memory; some of them only up to a million vectors."""
    vectors, queries, codes = str(inputs / "vectors.npy"), str(inputs / "queries.npy"), str(folder / "codes")
    levels = str(inputs / "levels")

    def hashed(source: str, *options: str, output: str = str(inputs / "codes")) -> list[str]:
        return ["-m", "hypersign", "hash", source, "-o", output, *options]

    search = ["-m", "hypersign", "search"]
    found = {
        "hash without bounds": hashed(vectors, "--bits", str(BITS)),
        "hash --skip": hashed(vectors, "--bits", str(BITS), "--skip"),
        "hash --packed": hashed(vectors, "--packed"),  # as bits, 8 per component
        "hash of 2 bits per dimension": hashed(vectors, "--bits-per-dimension", "2", output=levels),
        "hash --pca": hashed(vectors, "--bits-per-dimension", "4", "--pca", "64"),
        "search without vectors": [*search, codes, queries, "-k", str(K)],
        "search of 2 bits per dimension": [*search, levels, queries, "-k", str(K)],
        "search --rescore of 2 bits per dimension": [*search, levels, queries, "-k", str(K), "--rescore", vectors],
    }
    if count <= 1_000_000:
        found["hash --plan"] = ["-m", "hypersign", "hash", vectors, "--plan", "--queries", "20"]
        found["hash --plan, 200 queries"] = ["-m", "hypersign", "hash", vectors, "--plan"]
        found["inspect"] = ["-m", "hypersign", "inspect", vectors]
        for name in write_formats(inputs):
            found[f"hash of {name}"] = hashed(str(inputs / name), "--bits", str(BITS))
    return found


def write_formats(folder: Path) -> tuple[str, ...]:
    """Writes the vectors as files of other formats, and as a folder of two; returns their names."""
    vectors = np.load(folder / "vectors.npy")
    (folder / "folder").mkdir()
    for i, part in enumerate(np.array_split(vectors, 2)):
        np.save(folder / "folder" / f"{i}.npy", part)
    np.savez(folder / "vectors.npz", vectors)
    with h5py.File(folder / "vectors.h5", "w") as file:
        file.create_dataset("vectors", data=vectors, chunks=(min(1000, len(vectors)), DIMENSION))
    table = pyarrow.table({"vector": pyarrow.FixedSizeListArray.from_arrays(vectors.ravel(), DIMENSION)})
    pyarrow.parquet.write_table(table, folder / "vectors.parquet", row_group_size=50_000)
    with pyarrow.ipc.new_file(str(folder / "vectors.arrow"), table.schema) as file:
        file.write_table(table, max_chunksize=50_000)
    return "folder", "vectors.npz", "vectors.h5", "vectors.parquet", "vectors.arrow"


def run(words: list[str], stop: float | None = None) -> dict[str, float] | None:
    """Runs a command, and returns its seconds and peak megabytes; None if it was killed after `stop` seconds."""
    begin = time.perf_counter()
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL)
    peaks = {"RssAnon": 0, "RssFile": 0}
    while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
        if stop is not None and time.perf_counter() - begin > stop:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return None
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in peaks:
                peaks[name] = max(peaks[name], int(value.split()[0]))
        time.sleep(0.005)
    process.returncode = os.waitstatus_to_exitcode(ended[1])
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}")
    return {
        "seconds": time.perf_counter() - begin,
        "processor_seconds": ended[2].ru_utime + ended[2].ru_stime,
        "own_megabytes": peaks["RssAnon"] * 1024 / 1e6,
        "mapped_megabytes": peaks["RssFile"] * 1024 / 1e6,
    }


def disturbed(inputs: Path, whole: Path, folder: Path, rows: dict[str, Any], kills: int) -> int:
    """Runs all commands again with kills; returns how many processes were killed before they ended."""
    random, killed = np.random.default_rng(2), 0
    for file, (name, words) in zip(FILES, commands(inputs, folder).items(), strict=True):
        for _ in range(kills):
            killed += run(words, stop=random.uniform(0.05, 1) * rows[name]["seconds"]) is None
            if (folder / file).exists():  # it was ready: once more from the start
                check_equal(folder / file, whole / file)
                (folder / file).unlink()
        run(words)
        check_equal(folder / file, whole / file)
    left = sorted(path.name for path in folder.iterdir())
    if left != sorted(FILES):
        raise SystemExit(f"more files are there than the commands write: {', '.join(left)}")
    return killed


def check_equal(file: Path, other: Path) -> None:
    if not filecmp.cmp(file, other, shallow=False):
        raise SystemExit(f"{file.name} is not that of the undisturbed run")


def nearest(inputs: Path) -> np.ndarray:
    """The true neighbours of the few queries, by comparing all vectors."""
    queries = np.load(inputs / "few.npy").astype(np.float32)
    vectors = np.load(inputs / "vectors.npy", mmap_mode="r")
    squares, ids = np.full((len(queries), K), np.inf), np.zeros((len(queries), K), np.int64)
    for start in range(0, len(vectors), 50_000):
        block = np.array(vectors[start : start + 50_000], np.float32)
        distances = np.square(queries).sum(1)[:, None] + np.square(block).sum(1) - 2 * queries @ block.T
        both = np.concatenate([squares, distances], axis=1)
        numbers = np.concatenate([ids, np.broadcast_to(start + np.arange(len(block)), distances.shape)], axis=1)
        best = np.argpartition(both, K - 1, axis=1)[:, :K]
        squares, ids = np.take_along_axis(both, best, 1), np.take_along_axis(numbers, best, 1)
    return ids


def measure(count: int, options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        inputs, whole, again = (Path(name) / part for part in ("inputs", "whole", "again"))
        for folder in (inputs, whole, again):
            folder.mkdir()
        make(inputs, count, options.queries)
        rows: dict[str, Any] = {step: run(words) for step, words in commands(inputs, whole).items()}
        rows |= {step: run(words) for step, words in other_commands(inputs, whole, count).items()}
        rows["killed"] = {"processes": disturbed(inputs, whole, again, rows, options.kills)}
        truth = nearest(inputs)
        with np.load(whole / "found.npz") as found, np.load(whole / "exact.npz") as exact:
            kept = np.isin(truth, HammingIndex.load(whole / "index").ids)
            hits = [
                np.isin(t[k], f).mean() for t, k, f in zip(truth, kept, found["indices"], strict=False) if k.any()
            ]
            rows["search"]["recall"] = float(np.mean(hits))
            rows["exact search"]["recall"] = recall(exact["indices"], truth, K)
        rows["files"] = {f"{file}_megabytes": (whole / file).stat().st_size / 1e6 for file in ("codes", "index")} | {
            "vectors_megabytes": (inputs / "vectors.npy").stat().st_size / 1e6
        }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000_000, 1_000_000], help="vectors in a file")
    parser.add_argument("--queries", type=int, default=1000, help="queries (default 1000)")
    parser.add_argument("--kills", type=int, default=4, help="kills of each command (default 4)")
    parser.add_argument("--folder", type=Path, help="where there is room for five times the largest file")
    parser.add_argument("--change", type=Path, nargs=3, help=argparse.SUPPRESS)
    parser.add_argument(
        "--json", type=Path, nargs="?", const="-", metavar="FILE", help="print JSON, or write it there"
    )
    options = parser.parse_args()
    if options.change:
        change(*options.change)
        return
    result: dict[str, Any] = {
        "benchmark": "ten-million",
        "machine": machine(),
        "versions": versions("numpy"),
        "dimension": DIMENSION,
        "bits": BITS,
        "queries": options.queries,
        "rows": {},
    }
    for count in options.counts:
        for name, row in measure(count, options).items():
            result["rows"][f"{count:,} vectors, {name}"] = row
        if options.json is not None and str(options.json) != "-":
            write_json(result, options.json)  # what is measured is kept if a later count is stopped
    show(result, f"From vectors to neighbours, {BITS} bits of {DIMENSION} components, one thread", options.json)


if __name__ == "__main__":
    main()
