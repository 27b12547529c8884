"""Are the drawn normals normal? Moments, tails, the whole distribution, and correlations, in standard errors.

    python experiments/normals.py [--numbers 1e9] [--json [FILE]]

Draws rows of 8,192 numbers as the simulations do, and holds each of these sums against what it is for independent
standard normals: the first eight powers; how many exceed 2, 3, 4, 5 and 6 in magnitude; of one number in 13, counts
in 4,096 equally likely intervals (chi-square); products of neighbours, of numbers 2, 8 (the other of a pair), 16 (the
next step) and 8,192 (the next row) places apart, and of their squares less 1; and the sums of |x| and x^2 over rows,
which are drawn without components. Distances are in standard errors: of 26, the largest is expected at 2 to 3.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
from scipy import stats

from hypersign._json import write_json
from hypersign._machine import machine, versions
from hypersign.simulation import gaussian

WIDTH, ROWS, INTERVALS = 8192, 256, 4096
POWERS = range(1, 9)
LIMITS = (2, 3, 4, 5, 6)
LAGS = (1, 2, 8, 16, WIDTH)


def moment(k: int) -> int:
    """E x^k of a standard normal."""
    return 0 if k % 2 else math.prod(range(1, k, 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--numbers", type=float, default=1e9, help="how many to draw (default 1e9)")
    parser.add_argument("--seed", type=int, default=1, help="key of the generator (default 1)")
    parser.add_argument(
        "--json", type=Path, nargs="?", const="-", metavar="FILE", help="print JSON, or write it there"
    )
    options = parser.parse_args()

    blocks = math.ceil(options.numbers / (WIDTH * ROWS))
    numbers = blocks * WIDTH * ROWS
    powers, over = np.zeros(len(POWERS)), np.zeros(len(LIMITS))
    lags, square_lags = np.zeros(len(LAGS)), np.zeros(len(LAGS))
    counts = np.zeros(INTERVALS)
    edges = stats.norm.ppf(np.arange(1, INTERVALS) / INTERVALS).astype(np.float32)
    size = square = 0.0
    start = time.perf_counter()
    for block in range(blocks):
        drawn = gaussian.normals(options.seed, block * ROWS, ROWS, WIDTH).ravel()
        x = drawn.astype(np.float64)
        x2 = x * x
        power = np.ones_like(x)
        for i in range(len(POWERS)):
            power *= x
            powers[i] += power.sum()
        magnitude = np.abs(drawn)
        over += [np.count_nonzero(magnitude > limit) for limit in LIMITS]
        counts += np.bincount(np.searchsorted(edges, drawn[::13]), minlength=INTERVALS)  # one in 13, of all lanes
        x2 -= 1
        for i, lag in enumerate(LAGS):
            lags[i] += x[lag:] @ x[:-lag]
            square_lags[i] += x2[lag:] @ x2[:-lag]
        sums = gaussian.row_sums(options.seed, block * ROWS, ROWS, WIDTH)
        size, square = size + sums.absolute.sum(), square + sums.square.sum()

    distances = {}
    for i, k in enumerate(POWERS):
        error = math.sqrt((moment(2 * k) - moment(k) ** 2) / numbers)
        distances[f"mean of x^{k}"] = (powers[i] / numbers - moment(k)) / error
    for i, limit in enumerate(LIMITS):
        expected = 2 * stats.norm.sf(limit) * numbers
        distances[f"|x| > {limit}"] = (over[i] - expected) / math.sqrt(expected)
    expected = counts.sum() / INTERVALS
    chi_square = ((counts - expected) ** 2).sum() / expected
    distances[f"chi-square of {INTERVALS} intervals"] = (chi_square - INTERVALS + 1) / math.sqrt(2 * (INTERVALS - 1))
    for i, lag in enumerate(LAGS):
        pairs = numbers - blocks * lag
        distances[f"x times x {lag} on"] = lags[i] / math.sqrt(pairs)
        distances[f"(x^2 - 1) times that {lag} on"] = square_lags[i] / math.sqrt(4 * pairs)
    distances["row sums of |x|"] = (size - numbers * math.sqrt(2 / math.pi)) / math.sqrt(numbers * (1 - 2 / math.pi))
    distances["row sums of x^2"] = (square - numbers) / math.sqrt(2 * numbers)
    result = {
        "benchmark": "normals",
        "machine": machine(),
        "versions": versions("numpy"),
        "numbers": numbers,
        "seed": options.seed,
        "seconds": time.perf_counter() - start,
        "numbers_over": {str(limit): int(count) for limit, count in zip(LIMITS, over, strict=True)},
        "standard_errors_from_theory": {name: round(float(value), 3) for name, value in distances.items()},
        "largest": round(max(abs(float(value)) for value in distances.values()), 3),
    }
    write_json(result, options.json or Path("-"))


if __name__ == "__main__":
    main()
