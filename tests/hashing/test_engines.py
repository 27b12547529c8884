"""Codes from engines equal those of one machine, bit for bit.

Ray and Spark start processes of their own, so they run with HYPERSIGN_LONG alone, which `.ci/long engines` sets.
"""

import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from hypersign._checks import HypersignError
from hypersign.hashing import SignHasher, hash_dataset

LONG = pytest.mark.skipif("HYPERSIGN_LONG" not in os.environ, reason="runs in .ci/long engines")
RANDOM = np.random.default_rng(0)
# The float64 sums of its halves differ from those of the whole.
X = (RANDOM.standard_normal((1003, 24)) * 10.0 ** RANDOM.integers(-6, 6, (1003, 24))).astype(np.float32)
HASHERS: list[dict[str, Any]] = [
    {},
    {"center": 0.5, "rotation": "haar"},
    {"center": False, "bits": 65},
    {"bits": None, "bits_per_dimension": 2, "metric": "cosine"},
]


def hasher(options: dict[str, Any]) -> SignHasher:
    return SignHasher(**{"bits": 64} | options)


@pytest.mark.parametrize("options", HASHERS, ids=str)
@pytest.mark.parametrize("chunks", [(1003, 24), (100, 24), (7, 5)])
def test_dask(options, chunks) -> None:
    array = pytest.importorskip("dask.array")
    fitted = hasher(options)
    codes = hash_dataset(array.from_array(X, chunks=chunks), fitted)
    expected = hasher(options).fit(X)
    assert (codes.dtype, codes.shape) == (fitted.codes(X).dtype, fitted.codes(X).shape)
    np.testing.assert_array_equal(codes.compute(), expected.transform(X))
    np.testing.assert_array_equal(fitted.mean_, expected.mean_)


@pytest.mark.parametrize("options", HASHERS, ids=str)
def test_dask_chunks_without_vectors(options) -> None:
    """A filter may leave nothing of a chunk."""
    array = pytest.importorskip("dask.array")
    mask = (np.arange(1003) < 200) | (np.arange(1003) >= 800)
    fitted = hasher(options)
    kept = array.from_array(X, chunks=(100, 24))[array.from_array(mask, chunks=100)]
    codes = hash_dataset(kept, fitted).compute()
    expected = hasher(options).fit(X[mask])
    np.testing.assert_array_equal(fitted.mean_, expected.mean_)
    np.testing.assert_array_equal(codes, expected.transform(X[mask]))


def test_what_cannot_be_hashed() -> None:
    array = pytest.importorskip("dask.array")
    with pytest.raises(
        HypersignError, match="must be a Ray Data set, a Dask array or a Spark data frame; got ndarray"
    ):
        hash_dataset(X, hasher({}))
    with pytest.raises(HypersignError, match=r"shape \(n, dimension\); the array has 1 dimensions"):
        hash_dataset(array.from_array(X[0]), hasher({}))
    with pytest.raises(HypersignError, match="vectors must be finite; got NaN in row 0, column 1"):
        hash_dataset(array.from_array(np.array([[1, np.nan]])), hasher({}))


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield ray
    ray.shutdown()


@LONG
@pytest.mark.filterwarnings("ignore")  # Ray's own
@pytest.mark.parametrize("options", HASHERS, ids=str)
def test_ray_on_two_workers(ray, options) -> None:
    table = [{"id": i, "vector": x} for i, x in enumerate(X)]
    data = ray.data.from_items(table, override_num_blocks=5)
    fitted = hasher(options)
    rows = hash_dataset(data, fitted).take_all()
    expected = hasher(options).fit(X)
    np.testing.assert_array_equal(fitted.mean_, expected.mean_)
    codes = np.stack([row["code"] for row in sorted(rows, key=lambda row: row["id"])])
    np.testing.assert_array_equal(codes, expected.transform(X))


@LONG
@pytest.mark.filterwarnings("ignore")
def test_ray_blocks_without_vectors(ray) -> None:
    data = ray.data.from_items([{"id": i, "vector": x} for i, x in enumerate(X)], override_num_blocks=5)
    rows = hash_dataset(data.filter(lambda row: row["id"] < 300), fitted := hasher({})).take_all()
    codes = np.stack([row["code"] for row in sorted(rows, key=lambda row: row["id"])])
    np.testing.assert_array_equal(codes, fitted.transform(X[:300]))


@LONG
@pytest.mark.filterwarnings("ignore")
def test_columns_of_ray(ray) -> None:
    data = ray.data.from_items([{"vector": x, "code": 1} for x in X[:9]])
    with pytest.raises(HypersignError, match="need a column 'x' of vectors; they have"):
        hash_dataset(data, hasher({}), column="x")
    with pytest.raises(HypersignError, match="have a column 'code' already"):
        hash_dataset(data, hasher({}))
    assert hash_dataset(data, hasher({}), code="bits").take(1)[0]["bits"].shape == (1,)


@LONG
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", HASHERS, ids=str)
def test_spark(options, monkeypatch) -> None:
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)  # else the workers take the first python3 there is
    sql = pytest.importorskip("pyspark.sql")
    session = sql.SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    types = sql.types
    form = types.StructType(
        [
            types.StructField("id", types.IntegerType()),
            types.StructField("vector", types.ArrayType(types.FloatType(), False)),
        ]
    )
    frame = session.createDataFrame([(i, x.tolist()) for i, x in enumerate(X)], form).repartition(5)
    fitted = hasher(options)
    rows = sorted(hash_dataset(frame, fitted).collect(), key=lambda row: row["id"])
    expected = hasher(options).fit(X)
    np.testing.assert_array_equal(fitted.mean_, expected.mean_)
    assert [row["code"] for row in rows] == [code.tobytes() for code in expected.transform(X)]
