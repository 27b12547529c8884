"""Every format gives the rows that were written; damaged files are refused in one sentence or read."""

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from hypersign._checks import HypersignError
from hypersign._safetensors import header_bytes
from hypersign.hashing import HammingIndex, SignHasher, StoredVectors, hash_file, open_vectors, plan, vector_formats
from hypersign.hashing.stored import Rows, read_blocks

X = np.random.default_rng(0).standard_normal((500, 6)).astype(np.float32)


def write(path: Path, x: np.ndarray) -> None:
    """Writes vectors in the format of the path's suffix."""
    suffix = path.name.partition(".")[2]
    if suffix == "npy":
        np.save(path, x)
    elif suffix == "F.npy":
        np.save(path, np.asfortranarray(x))
    elif suffix == "npz":
        np.savez(path, vectors=x, ids=np.arange(len(x)))
    elif suffix == "deflated.npz":
        np.savez_compressed(path, vectors=np.asfortranarray(x), names=np.array(["a"]))
    elif suffix in ("fvecs", "bvecs", "ivecs"):
        rows = np.empty(len(x), [("d", "<i4"), ("x", vector_formats.VECS["." + suffix], x.shape[1:])])
        rows["d"], rows["x"] = x.shape[1], x
        rows.tofile(path)
    elif suffix == "safetensors":
        save_file({"vectors": x, "ids": np.arange(len(x))}, path)
    elif suffix in ("h5", "chunked.h5"):
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            options = (
                {"chunks": (min(64, len(x)), x.shape[1]), "compression": "gzip"} if suffix == "chunked.h5" else {}
            )
            file.create_dataset("a/vectors", data=x, **options)
            file["ids"] = np.arange(len(x))
    else:
        write_arrow(path, suffix, x)


def write_arrow(path: Path, suffix: str, x: np.ndarray) -> None:
    arrow = pytest.importorskip("pyarrow")
    flat = arrow.array(x.ravel())
    lists = {
        "fixed": lambda: arrow.FixedSizeListArray.from_arrays(flat, x.shape[1]),
        "large": lambda: arrow.LargeListArray.from_arrays(np.arange(0, x.size + 1, x.shape[1]), flat),
    }.get(suffix.partition(".")[0], lambda: arrow.ListArray.from_arrays(np.arange(0, x.size + 1, x.shape[1]), flat))
    table = arrow.table({"id": np.arange(len(x)), "vectors": lists()})
    kind = suffix.rpartition(".")[2]
    if kind == "parquet":
        from pyarrow import parquet

        parquet.write_table(table, path, row_group_size=150)
    elif kind == "feather":
        from pyarrow import feather

        feather.write_feather(table, str(path), chunksize=90)  # LZ4, as pandas writes it
    else:
        with arrow.ipc.new_stream(str(path), table.schema) as stream:
            stream.write_table(table, max_chunksize=110)


FORMATS = ["npy", "F.npy", "npz", "deflated.npz", "fvecs", "safetensors", "h5", "chunked.h5"]
FORMATS += ["parquet", "fixed.parquet", "large.parquet", "feather", "fixed.feather", "arrow", "fixed.arrow"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_rows(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(vector_formats, "BATCH", 40 * 6)
    monkeypatch.setattr("hypersign.hashing.stored.BLOCK", 64 * 6)
    path = tmp_path / f"x.{suffix}"
    write(path, X)
    found = open_vectors(path)
    assert (found.shape, found.ndim, len(found), found.dtype) == (X.shape, 2, 500, np.float32)
    np.testing.assert_array_equal(np.asarray(found), X)
    for key in (3, -1, slice(10, 20), slice(490, 600), slice(7, 7), [499, 0, 250, 0], np.array([[1, 2], [400, 3]])):
        np.testing.assert_array_equal(found[key], X[key])
    for start in (0, 64, 448):
        blocks = list(read_blocks(found, start))
        assert [first for first, _ in blocks] == list(range(start, 500, 64))
        np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), X[start:])
    hash_file(path, tmp_path / "codes", SignHasher(64))
    np.save(tmp_path / "y.npy", X)
    hash_file(tmp_path / "y.npy", tmp_path / "expected", SignHasher(64))
    assert (tmp_path / "codes").read_bytes() == (tmp_path / "expected").read_bytes()
    if suffix == "chunked.h5":  # any that is not mapped
        index = HammingIndex.load(tmp_path / "codes")
        candidates = index.search(X[:20], 40)
        expected, found = (index.rescore(X[:20], candidates, vectors, 10) for vectors in (X, found))
        np.testing.assert_array_equal(found.indices, expected.indices)
        assert (
            plan(open_vectors(path), bits=(32,), k=3, sample=20).as_dict()
            == plan(X, bits=(32,), k=3, sample=20).as_dict()
        )


@pytest.mark.parametrize("kind", ["uint8", "int8", "int16", "int32", "int64", "float16", "float64"])
@pytest.mark.parametrize("suffix", ["npz", "safetensors", "h5", "parquet", "fixed.feather"])
def test_types(tmp_path, suffix, kind):
    x = np.random.default_rng(0).integers(0, 100, (9, 4)).astype(kind)
    write(tmp_path / f"x.{suffix}", x)
    found = open_vectors(tmp_path / f"x.{suffix}")
    assert found.dtype == x.dtype
    np.testing.assert_array_equal(np.asarray(found), x)


@pytest.mark.parametrize(("suffix", "kind"), [("bvecs", "uint8"), ("ivecs", "int32")])
def test_vecs_of_integers(tmp_path, suffix, kind):
    x = np.random.default_rng(0).integers(0, 256, (9, 4)).astype(kind)
    write(tmp_path / f"x.{suffix}", x)
    found = open_vectors(tmp_path / f"x.{suffix}")
    assert found.dtype == x.dtype
    np.testing.assert_array_equal(found[[8, 2]], x[[8, 2]])


def test_bfloat16_is_read_as_float32(tmp_path):
    upper = (X.view(np.uint32) >> 16).astype("<u2")
    (tmp_path / "x.safetensors").write_bytes(header_bytes({"x": ("BF16", X.shape)}, {}) + upper.tobytes())
    found = open_vectors(tmp_path / "x.safetensors")
    np.testing.assert_array_equal(np.asarray(found), (X.view(np.uint32) & 0xFFFF0000).view(np.float32))
    np.testing.assert_array_equal(found[[4, 2]], np.asarray(found)[[4, 2]])


def test_one_of_several_arrays_is_named(tmp_path):
    np.savez(tmp_path / "x.npz", train=X, test=X[:2], ids=np.arange(3))
    assert open_vectors(f"{tmp_path}/x.npz::test").shape == (2, 6)
    with pytest.raises(HypersignError, match=r"it has 2; they are train, test: name one, as in x.npz::train"):
        open_vectors(tmp_path / "x.npz")
    with pytest.raises(HypersignError, match=r"must hold a matrix called ids .*; it has train, test"):
        open_vectors(f"{tmp_path}/x.npz::ids")
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(HypersignError, match="holds one array, which has no name; leave ::train out"):
        open_vectors(f"{tmp_path}/x.npy::train")


@pytest.mark.parametrize("suffixes", [["npy"] * 3, ["npz", "fvecs", "safetensors"]])
def test_a_folder_is_its_files_one_after_the_other(tmp_path, suffixes):
    parts = np.split(X, [100, 101])
    (tmp_path / "x").mkdir()
    for name, suffix, part in zip("cab", suffixes, (parts[2], parts[0], parts[1]), strict=True):
        write(tmp_path / "x" / f"{name}.{suffix}", part)
    for ignored in ("README.md", ".hidden.npy", "_metadata.npy"):
        (tmp_path / "x" / ignored).write_text("no vectors")
    found = open_vectors(tmp_path / "x")
    np.testing.assert_array_equal(np.asarray(found), X)
    np.testing.assert_array_equal(found[[400, 99, 100, 5]], X[[400, 99, 100, 5]])
    np.save(tmp_path / "y.npy", X)
    hash_file(tmp_path / "x", tmp_path / "c", SignHasher(64))
    hash_file(tmp_path / "y.npy", tmp_path / "d", SignHasher(64))
    assert (tmp_path / "c").read_bytes() == (tmp_path / "d").read_bytes()
    with pytest.raises(HypersignError, match="the codes must not be in the folder of the vectors"):
        hash_file(tmp_path / "x", tmp_path / "x" / "codes", SignHasher(64))
    np.save(tmp_path / "x" / "d.npy", X[:, :3])
    with pytest.raises(
        HypersignError, match=r"one dimension and type; .* has dimension 6 of float32, .* 3 of float32"
    ):
        open_vectors(tmp_path / "x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(HypersignError, match=r"must have files of vectors .*; it has none"):
        open_vectors(tmp_path / "empty")


def test_rows_without_some():
    without = np.array([0, 3, 4, 499])
    found, expected = Rows(X, without), np.delete(X, without, axis=0)
    np.testing.assert_array_equal(np.asarray(found), expected)
    np.testing.assert_array_equal(found[[0, 1, 2, 495]], expected[[0, 1, 2, 495]])
    np.testing.assert_array_equal(found[1:3], expected[1:3])
    np.testing.assert_array_equal(X[found.numbers(np.arange(496))], expected)


@pytest.mark.parametrize(("suffix", "module"), [("h5", "h5py"), ("parquet", "pyarrow"), ("arrow", "pyarrow")])
def test_a_missing_package_is_named(tmp_path, monkeypatch, suffix, module):
    write(tmp_path / f"x.{suffix}", X)
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(HypersignError, match=rf"reading x.{suffix} needs the package {module}, .*\[files\]"):
        open_vectors(tmp_path / f"x.{suffix}")


def test_lists_that_are_no_vectors(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "x.parquet"
    for column, message in (
        ([[1.0, 2.0], [1.0]], "one length; row 1 has 1 numbers, the first 2"),
        ([["a"], ["b"]], "must hold a column of lists of numbers .*; it has none"),
        ([1.0, 2.0], "must hold a column of lists of numbers"),
        ([[1, 2], None], "the integers of .* must all be there"),
    ):
        parquet.write_table(arrow.table({"x": column}), path)
        with pytest.raises(HypersignError, match=message):
            np.asarray(open_vectors(path))
    parquet.write_table(arrow.table({"x": [[1.0, 2.0], None, [3.0, None]]}), path)
    np.testing.assert_array_equal(np.asarray(open_vectors(path)), [[1, 2], [np.nan, np.nan], [3, np.nan]])


def test_codes_are_no_vectors(tmp_path):
    index = HammingIndex(SignHasher(64).fit(X), SignHasher(64).fit_transform(X))
    index.save(tmp_path / "x.safetensors")
    with pytest.raises(HypersignError, match="must hold vectors; it holds codes that hypersign hash wrote"):
        open_vectors(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "suffix", ["npz", "deflated.npz", "fvecs", "safetensors", "chunked.h5", "parquet", "arrow", "feather"]
)
def test_damaged_files_are_refused_or_read(tmp_path, mutations, suffix):
    write(tmp_path / f"good.{suffix}", X[:40])
    good = (tmp_path / f"good.{suffix}").read_bytes()

    def make(seed):
        random = np.random.default_rng(seed)
        data = good[::-1] if seed % 3 == 0 else good  # the ends of some have the structure
        changed = mutations.damaged(random, data, 200)
        return changed[::-1] if seed % 3 == 0 else changed

    def read(path):
        found = open_vectors(path)
        assert found.ndim == 2
        if found.shape[0] * found.shape[1] < 1 << 20:
            np.asarray(found).tobytes()
        assert isinstance(found, np.ndarray | StoredVectors)

    count = mutations.cases(60)
    refused = mutations.refusals(tmp_path / f"x.{suffix}", make, read, count)
    assert 0 < refused <= count


def test_archives_with_a_wrong_length(tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        content = io.BytesIO()
        np.save(content, X)
        archive.writestr("x.npy", content.getvalue()[:-4])
    (tmp_path / "x.npz").write_bytes(stream.getvalue())
    with pytest.raises(HypersignError, match=r"must hold a matrix of real numbers; it has none"):
        open_vectors(tmp_path / "x.npz")
