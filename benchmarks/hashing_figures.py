"""Draws the figures of docs/hashing.md.

    python benchmarks/hashing_figures.py [RESULTS] [--output FOLDER] [--rotations 1000]

hashing_recall: recall@10 by length of code, predicted and measured, from what bench_hashing.py wrote
(docs/results/bench-hashing.json). hashing_angles: the share of bits that differ, and the deviation of the angle that
follows from it, by the angle of two vectors of 128 components, over random rotations of 128 bits each, beside theory.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from hypersign import theory
from hypersign.bits import hamming
from hypersign.figures import panels
from hypersign.figures.style import GUIDE, MEASURED, PREDICTED, axes, legend
from hypersign.hashing import SignHasher

ROOT = Path(__file__).parents[1]
TITLES = {"sift": "SIFT descriptors, 128 × uint8", "anisotropic": "anisotropic vectors, 256 × float32"}
BITS = 128


def recall_by_bits(rows: dict[str, dict[str, float]], name: str, ax: Axes) -> None:
    """Predicted lines and measured points, from codes alone and rescored; FAISS's codes of as many bytes."""
    bits = [int(row.split()[1]) for row in rows if row.startswith(f"{name}, ") and row.endswith("bits")]
    codes, rescored = ([rows[f"{name}, {m} bits{end}"] for m in bits] for end in ("", ", x4"))
    axes(ax)
    for found, line, face, label in ((codes, "-", MEASURED, "codes"), (rescored, "--", "white", "x4, rescored")):
        ax.plot(bits, [row["advised_predicted"] for row in found], line, color=PREDICTED, label=f"{label}: predicted")
        ax.plot(bits, [row["advised"] for row in found], "o", color=MEASURED, mfc=face, label=f"{label}: measured")
    ax.plot(bits, [row["predicted"] for row in codes], ":", color=PREDICTED, label="codes, all centred: predicted")
    ax.plot(bits, [row["lsh"] for row in codes], "x", color="black", label="IndexLSH, codes")
    ax.plot(bits, [row["pq"] for row in codes], "s:", color=GUIDE, markersize=4, label="IndexPQ, codes")
    ax.set(xscale="log", xlabel="bits of a code", ylabel="recall@10", ylim=(0, 1.02), title=TITLES[name])
    ax.minorticks_off()
    ax.set_xticks(bits, [str(m) for m in bits])
    if name == "anisotropic":
        legend(ax, loc="upper left")


def shares(degrees: NDArray[Any], rotations: int) -> NDArray[np.float64]:
    """The share of bits that differ between two vectors at each angle, (rotations, angles)."""
    random, angles = np.random.default_rng(0), np.radians(degrees)
    found = np.empty((rotations, len(angles)))
    for seed in range(rotations):
        pair, _ = np.linalg.qr(random.standard_normal((BITS, 2)))
        x = np.outer(np.cos(angles), pair[:, 0]) + np.outer(np.sin(angles), pair[:, 1])
        codes = SignHasher(BITS, center=False, seed=seed).fit_transform(x)
        found[seed] = hamming(codes[:1], codes)[0] / BITS
    return found


def share_by_angle(degrees: NDArray[Any], found: NDArray[np.float64], ax: Axes) -> None:
    """Mean and spread over rotations of the share of bits that differ."""
    axes(ax)
    ax.plot((0, 180), (0, 1), color=PREDICTED, label="predicted: θ/π")
    ax.errorbar(degrees, found.mean(0), found.std(0), fmt="o", color=MEASURED, ms=4, lw=1, label="measured")
    ax.set(xlabel="angle θ of two vectors, degrees", ylabel="share of bits that differ", xticks=range(0, 181, 30))
    legend(ax, loc="upper left")


def deviation_by_angle(degrees: NDArray[Any], found: NDArray[np.float64], ax: Axes) -> None:
    """Standard deviation over rotations of the angle estimated, in degrees."""
    fine = np.linspace(0, np.pi, 181)
    axes(ax)
    alone = np.sqrt(fine * (np.pi - fine) / BITS)
    tight = theory.orthogonal_hash_angle_std(fine, BITS, BITS)
    ax.plot(np.degrees(fine), np.degrees(alone), ":", color=GUIDE, label="independent hyperplanes")
    ax.plot(np.degrees(fine), np.degrees(tight), color=PREDICTED, label="predicted: rows of a rotation")
    ax.plot(degrees, 180 * found.std(0), "o", color=MEASURED, ms=4, label="measured")
    ax.set(xlabel="angle θ of two vectors, degrees", ylabel="deviation of its estimate, degrees")
    ax.set(xticks=range(0, 181, 30), ylim=(0, 12))
    legend(ax, loc="upper left")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="?", default=ROOT / "docs/results/bench-hashing.json")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/images", help="folder to write them to")
    parser.add_argument("--rotations", type=int, default=1000, help="of hashing_angles (default 1000)")
    options = parser.parse_args()
    rows: dict[str, dict[str, Any]] = json.loads(options.results.read_text(encoding="utf-8"))["rows"]
    degrees = np.arange(0, 181, 10)
    found = shares(degrees, options.rotations)
    drawn = {
        "hashing_recall": panels(lambda name, ax: recall_by_bits(rows, name, ax), list(TITLES), size=(4.6, 3.8)),
        "hashing_angles": panels(
            lambda draw, ax: draw(degrees, found, ax), (share_by_angle, deviation_by_angle), size=(4.6, 3.4)
        ),
    }
    for name, figure in drawn.items():
        figure.savefig(options.output / f"{name}.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
