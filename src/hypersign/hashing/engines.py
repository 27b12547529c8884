"""Hashes vectors that engines hold, on their workers: Ray Data, Dask and Spark.

Each worker adds its vectors to an `ExactMean`. One reduction gives the mean of all, and with it the hasher; then
each worker hashes its vectors. The mean is exact, so codes do not depend on the number of workers or on how the
vectors are divided: they equal those of `SignHasher.fit` on one machine, bit for bit.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypersign._checks import HypersignError
from hypersign.hashing.hasher import SignHasher
from hypersign.hashing.mean import ExactMean

__all__ = ["hash_dataset"]


def hash_dataset(data: Any, hasher: SignHasher, *, column: str = "vector", code: str = "code") -> Any:
    """Fits the hasher to the vectors of a data set, and hashes them where they are.

    The data are read twice: now for the mean, and for the codes when the engine runs the result. Rows keep their
    order and number.

    Args:
        data: vectors, as one of
            - a `ray.data.Dataset` with a column of vectors, of numbers of one length;
            - a `dask.array.Array` (n, dimension);
            - a `pyspark.sql.DataFrame` with a column of arrays.
        hasher: a hasher; it is fitted to these vectors.
        column: the column with the vectors; a Dask array has none.
        code: the column that is added.

    Returns what `data` is: the data set with the column `code`, which holds the rows of `SignHasher.codes` (in Spark
    as bytes, little endian); of a Dask array, the array of codes.

    Raises:
        HypersignError: `data` is none of these, lacks the column, holds no vectors, or `SignHasher` refuses a vector.
            An error of a worker comes in the engine's own words.

    With Dask:

        vectors = dask.array.from_npy_stack("vectors")
        codes = hash_dataset(vectors, hasher := SignHasher(bits=256))
        index = HammingIndex(hasher, codes.compute())
    """
    engine = type(data).__module__.partition(".")[0]
    engines: dict[str, Callable[[Any, SignHasher, str, str], Any]] = {"ray": _ray, "dask": _dask, "pyspark": _spark}
    if engine not in engines:
        raise HypersignError(
            f"data must be a Ray Data set, a Dask array or a Spark data frame; got {type(data).__name__}; arrays and "
            "files go to SignHasher and hash_file"
        )
    if engine != "dask":
        names = data.schema().names if engine == "ray" else data.columns
        if column not in names:
            raise HypersignError(f"the data need a column {column!r} of vectors; they have {', '.join(names)}")
        if code in names:
            raise HypersignError(f"the data have a column {code!r} already; name another one for the codes")
    return engines[engine](data, hasher, column, code)


def vectors_of(column: Any) -> NDArray[Any]:
    """A column of vectors as an array (n, dimension)."""
    array = np.asarray(column)
    if array.dtype == object and len(array):
        lengths = {np.size(row) for row in array}
        if len(lengths) > 1:
            raise HypersignError(f"vectors must be of one length; they have {min(lengths)} to {max(lengths)} numbers")
        array = np.stack([np.asarray(row) for row in array])
    return array


def _part(hasher: SignHasher, x: NDArray[Any]) -> bytes:
    """What a worker knows of the mean; the engine carries it to its driver."""
    return (hasher.add_block(ExactMean(), x) if len(x) else ExactMean()).to_bytes()


def _codes(hasher: SignHasher, x: NDArray[Any]) -> NDArray[Any]:
    """The codes of a part, which may have no vectors."""
    return hasher.codes(x) if len(x) else hasher.empty_codes(0)


def _fit(hasher: SignHasher, parts: Iterable[bytes]) -> SignHasher:
    mean = ExactMean()
    for part in parts:
        mean.merge(ExactMean.from_bytes(part))
    if not mean.count:
        raise HypersignError("the data hold no vectors")
    return hasher.fit_mean(mean, mean.dimension)


def _ray(data: Any, hasher: SignHasher, column: str, code: str) -> Any:
    def part(batch: dict[str, Any]) -> dict[str, Any]:
        return {"part": np.array([_part(hasher, vectors_of(batch[column]))], object)}

    options = {"batch_format": "numpy", "batch_size": None}
    _fit(hasher, (row["part"] for row in data.select_columns([column]).map_batches(part, **options).iter_rows()))

    def codes(batch: dict[str, Any]) -> dict[str, Any]:
        return batch | {code: _codes(hasher, vectors_of(batch[column]))}

    return data.map_batches(codes, **options)


def _dask(data: Any, hasher: SignHasher, column: str, code: str) -> Any:
    import dask

    if data.ndim != 2:
        raise HypersignError(f"vectors must be of shape (n, dimension); the array has {data.ndim} dimensions")
    data = data.rechunk({1: -1})  # a vector may not be divided
    part = dask.delayed(_part)
    _fit(hasher, dask.compute(*(part(hasher, block) for block in data.to_delayed()[:, 0])))
    form = hasher.empty_codes(0)
    options = {"dtype": form.dtype, "chunks": (data.chunks[0], (form.shape[1],)), "meta": form}
    return data.map_blocks(functools.partial(_codes, hasher), **options)


def _spark(data: Any, hasher: SignHasher, column: str, code: str) -> Any:
    import pyarrow
    from pyspark.sql.types import BinaryType, StructField, StructType

    def part(batches: Iterator[Any]) -> Iterator[Any]:
        mean = ExactMean()
        for batch in batches:
            if len(batch):
                hasher.add_block(mean, _arrow(batch.column(column)))
        yield pyarrow.RecordBatch.from_arrays([pyarrow.array([mean.to_bytes()], pyarrow.binary())], ["part"])

    _fit(hasher, (bytes(row[0]) for row in data.select(column).mapInArrow(part, "part binary").collect()))

    def codes(batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            found = hasher.codes(_arrow(batch.column(column))) if len(batch) else hasher.empty_codes(0)
            rows = [row.tobytes() for row in found.astype(found.dtype.newbyteorder("<"), copy=False)]
            arrays = [*batch.columns, pyarrow.array(rows, pyarrow.binary())]
            yield pyarrow.RecordBatch.from_arrays(arrays, names=[*batch.schema.names, code])

    return data.mapInArrow(codes, StructType([*data.schema.fields, StructField(code, BinaryType())]))


def _arrow(column: Any) -> NDArray[Any]:
    """Arrow's column of lists as an array, without a copy where all lists are of one length."""
    lengths = np.diff(column.offsets.to_numpy())
    if column.null_count or (lengths != lengths[0]).any():
        raise HypersignError("vectors must be of one length, and none may be missing")
    return np.asarray(column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1))
