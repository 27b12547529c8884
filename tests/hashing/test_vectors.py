import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hypersign._checks import HypersignError
from hypersign.hashing import HammingIndex, SignHasher, hash_file, open_vectors


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.random.default_rng(0).standard_normal((1000, 20)).astype(np.float32) + 1)
    return path


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr("hypersign.hashing.stored.BLOCK", 64 * 20)


@pytest.mark.parametrize("center", [True, False])
def test_a_file_is_hashed_as_an_array(source, tmp_path, small_blocks, center):
    seen = []
    hasher = hash_file(source, tmp_path / "c", SignHasher(100, center=center), progress=lambda *at: seen.append(at))
    x = np.load(source)
    index = HammingIndex.load(tmp_path / "c")
    np.testing.assert_array_equal(index.codes, hasher.transform(x))
    np.testing.assert_allclose(index.hasher.mean_, x.mean(0) if center else np.zeros(20), atol=1e-5)
    assert index.hasher.difference(hasher) == ""
    assert seen == [(min(64 * i, 1000), 1000) for i in range(1, 17)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "x.npy"]
    assert set(load_file(tmp_path / "c")) == {"mean", "codes"}


@pytest.mark.parametrize("dtype", [">f4", "<f8", "uint8", "<i2", "<f2"])
def test_types_of_files(tmp_path, dtype):
    x = np.random.default_rng(0).integers(0, 100, (50, 8)).astype(dtype)
    np.save(tmp_path / "x.npy", x)
    hash_file(tmp_path / "x.npy", tmp_path / "c", SignHasher(64))
    native = x.astype(x.dtype.newbyteorder("="))
    np.testing.assert_array_equal(HammingIndex.load(tmp_path / "c").codes, SignHasher(64).fit_transform(native))


def resident(path):
    """Bytes of a mapped file that count as this process's memory."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    return sum(
        1024 * int(next(line for line in lines if line.startswith("Rss:")).split()[1])
        for header in lines
        if header.endswith(f" {path}")
    )


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="no list of mapped pages on this system")
def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("hypersign.hashing.stored.BLOCK", 10_000 * 20)
    source = tmp_path / "x.npy"

    def peak(blocks):
        np.save(source, np.random.default_rng(0).integers(0, 256, (blocks * 10_000, 20), np.uint8))
        seen = []
        tracemalloc.start()
        hash_file(source, tmp_path / "c", SignHasher(64), progress=lambda *_: seen.append(resident(source)))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert seen == [0] * blocks
        return most

    assert peak(10) < 1.1 * peak(2)
    mapped = open_vectors(source)
    assert mapped.sum() > 0
    assert resident(source) >= mapped.nbytes  # so blocks of the mapping itself would have counted


class Stop(Exception):
    pass


@pytest.mark.parametrize("cut", [0, 1, 100])
def test_a_stopped_one_goes_on(source, tmp_path, small_blocks, cut):
    def stop(done, total):
        if done >= 300:
            raise Stop

    with pytest.raises(Stop):
        hash_file(source, tmp_path / "c", SignHasher(100), progress=stop)
    assert not (tmp_path / "c").exists()
    (part,) = tmp_path.glob(".c.*.part")
    # a kill may cut a block short
    os.truncate(part, part.stat().st_size - cut)
    seen = []
    hash_file(source, tmp_path / "c", SignHasher(100), progress=lambda *at: seen.append(at[0]))
    assert seen[0] == (384 if cut == 0 else 320)
    assert not part.exists()
    hash_file(source, tmp_path / "whole", SignHasher(100))
    assert (tmp_path / "c").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("what", ["seed", "vectors"])
def test_what_another_hasher_or_other_vectors_left_is_not_used(source, tmp_path, small_blocks, what):
    def stop(done, total):
        raise Stop

    with pytest.raises(Stop):
        hash_file(source, tmp_path / "c", SignHasher(100, seed=0), progress=stop)
    if what == "vectors":
        np.save(source, np.load(source)[::-1])
        os.utime(source, ns=(1, 1))
    seen = []
    hasher = SignHasher(100, seed=int(what == "seed"))
    hash_file(source, tmp_path / "c", hasher, progress=lambda *at: seen.append(at[0]))
    assert seen[0] == 64
    np.testing.assert_array_equal(HammingIndex.load(tmp_path / "c").codes, hasher.transform(np.load(source)))


def test_a_second_writer_is_refused_and_the_codes_are_of_the_first(source, tmp_path, small_blocks):
    said = []

    def meanwhile(done, total):
        with ThreadPoolExecutor(1) as thread, pytest.raises(HypersignError) as error:
            thread.submit(hash_file, source, tmp_path / "c", SignHasher(100, seed=1)).result()
        said.append(str(error.value))

    hash_file(source, tmp_path / "c", SignHasher(100), progress=meanwhile)
    assert len(said) > 2
    assert said[0].startswith(f"{tmp_path / 'c'} is being written by process {os.getpid()} on ")
    hash_file(source, tmp_path / "whole", SignHasher(100))
    assert (tmp_path / "c").read_bytes() == (tmp_path / "whole").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["c", source.name, "whole"])


def test_a_killed_process_leaves_no_codes_and_the_next_goes_on(source, tmp_path):
    code = """
import sys, time
from hypersign.hashing import SignHasher, hash_file, stored
stored.BLOCK = 64 * 20
def progress(done, total):
    print(done, flush=True)
    time.sleep(60 if done >= 300 else 0)
hash_file(sys.argv[1], sys.argv[2], SignHasher(100), progress=progress)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(source), str(tmp_path / "c")], stdout=subprocess.PIPE, text=True
    )
    try:
        while int(process.stdout.readline()) < 300:
            time.sleep(0)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    assert not (tmp_path / "c").exists()
    (part,) = tmp_path.glob(".c.*.part")
    before = part.stat().st_size
    hasher = hash_file(source, tmp_path / "c", SignHasher(100))
    assert before < (tmp_path / "c").stat().st_size
    np.testing.assert_array_equal(HammingIndex.load(tmp_path / "c").codes, hasher.transform(np.load(source)))


def test_nan_is_named_by_its_row_in_the_file(source, tmp_path, small_blocks):
    x = np.load(source)
    x[700, 2] = np.nan
    np.save(source, x)
    for center in (True, False):
        with pytest.raises(HypersignError, match="got NaN in row 700, column 2"):
            hash_file(source, tmp_path / "c", SignHasher(64, center=center))
    assert list(tmp_path.iterdir()) == [source]


def test_a_place_where_codes_cannot_go(source, tmp_path):
    with pytest.raises(HypersignError, match="is a folder; name a file"):
        hash_file(source, tmp_path, SignHasher(64))
    before = source.read_bytes()
    with pytest.raises(HypersignError, match="would take the place of the vectors"):
        hash_file(source, tmp_path / ".." / tmp_path.name / source.name, SignHasher(64))
    assert source.read_bytes() == before


def changed(path, source, **saved):
    tensors = load_file(source)
    tensors |= {name: value for name, value in saved.items() if name in tensors}
    options = {"version": 1, "bits": 100, "rotation": "hadamard", "rounds": 3, "center": True, "seed": 0}
    options |= {name: value for name, value in saved.items() if name in options}
    save_file(tensors, path, {"hypersign": json.dumps(options)} if saved.get("metadata", True) else None)


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ({"metadata": False}, "no codes file"),
        ({"version": 4}, "of version 4"),
        ({"bits": 200}, "no codes file"),
        ({"bits": 0}, "bits must be"),
        ({"seed": "0"}, "seed must be"),
        ({"rounds": 10**6}, "rounds must be an integer from 1 to 100"),
        ({"bits": 2**40}, "no codes file"),
        ({"rotation": "x"}, "rotation must be"),
        ({"codes": np.ones((3, 2))}, "no codes file"),
        ({"codes": np.ones((3, 0), np.uint64)}, "must have a dimension"),
    ],
)
def test_files_that_hold_no_codes(source, tmp_path, saved, message):
    hash_file(source, tmp_path / "c", SignHasher(100))
    changed(tmp_path / "changed", tmp_path / "c")
    assert len(HammingIndex.load(tmp_path / "changed")) == 1000
    changed(tmp_path / "changed", tmp_path / "c", **saved)
    with pytest.raises(HypersignError, match=message):
        HammingIndex.load(tmp_path / "changed")


def test_broken_and_missing_codes(source, tmp_path):
    hash_file(source, tmp_path / "c", SignHasher(100))
    os.truncate(tmp_path / "c", 1000)
    os.mkfifo(tmp_path / "pipe")
    for name, message in (
        ("c", "no codes file as .* it is truncated or damaged"),
        (source.name, "no codes file as .* another kind of file"),
        ("missing", "could not be read as a codes file: No such file"),
        ("pipe", "could not be read as a codes file: it must be a regular file"),
        (".", "could not be read as a codes file: it must be a regular file"),
    ):
        with pytest.raises(HypersignError, match=message):
            HammingIndex.load(tmp_path / name)


def test_codes_files_of_the_safetensors_library_are_read(source, tmp_path):
    """Earlier versions wrote their header with other spaces and in another order."""
    hash_file(source, tmp_path / "c", SignHasher(100))
    changed(tmp_path / "old", tmp_path / "c")
    found, index = (HammingIndex.load(tmp_path / name) for name in ("old", "c"))
    np.testing.assert_array_equal(found.codes, index.codes)
    assert found.hasher.difference(index.hasher) == ""


def test_hashing_with_bounds_goes_on_after_a_stop(source, tmp_path, small_blocks):
    hash_file(source, tmp_path / "whole", SignHasher(100), bounds=True)

    def stop(done, total):
        if done == 640:
            raise KeyboardInterrupt

    for cut in (0, 5, 1600):  # bytes that are not there after the stop
        with pytest.raises(KeyboardInterrupt):
            hash_file(source, tmp_path / "c", SignHasher(100), bounds=True, progress=stop)
        (part,) = tmp_path.glob(".c.*.part")
        os.truncate(part, part.stat().st_size - cut)
        seen = []
        hash_file(
            source, tmp_path / "c", SignHasher(100), bounds=True, progress=lambda *at, seen=seen: seen.append(at)
        )
        assert seen[0][0] == {0: 704, 5: 640, 1600: 576}[cut]
        assert (tmp_path / "c").read_bytes() == (tmp_path / "whole").read_bytes()


def test_files_with_ids(source, tmp_path, monkeypatch):
    hasher = SignHasher(100).fit(np.load(source))
    index = HammingIndex(hasher, hasher.codes(np.load(source))[:4], [5, -3, 7, 2**60])
    index.save(tmp_path / "c")
    assert set(load_file(tmp_path / "c")) == {"mean", "codes", "ids"}
    found = HammingIndex.load(tmp_path / "c")
    assert found.ids.tolist() == [-3, 5, 7, 2**60]
    np.testing.assert_array_equal(found.codes, index.codes)
    monkeypatch.setattr("hypersign.hashing.vectors.CHECKED", 2)
    for ids, message in (
        (np.array([1, 2, 2, 3]), "its ids must ascend"),
        (np.array([1, 2, 4, 3]), "its ids must ascend"),
        (np.array([1, 2, 3]), r"its ids must be of type I64 and shape \(4,\)"),
        (np.arange(4.0), r"its ids must be of type I64 and shape \(4,\); got F64"),
    ):
        changed(tmp_path / "changed", tmp_path / "c", version=2, ids=ids)
        with pytest.raises(HypersignError, match=message):
            HammingIndex.load(tmp_path / "changed")


def test_codes_are_mapped_and_saving_takes_their_file_place(source, tmp_path):
    hash_file(source, tmp_path / "c", SignHasher(100))
    index = HammingIndex.load(tmp_path / "c")
    base = index.codes
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert isinstance(base, np.memmap)
    codes = index.codes.copy()
    index.remove([0])
    index.save(tmp_path / "c")
    np.testing.assert_array_equal(index.codes, codes[1:])
    assert HammingIndex.load(tmp_path / "c").ids.tolist() == list(range(1, 1000))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "x.npy"]


def test_mutated_codes_are_refused_or_searched(source, tmp_path, mutations):
    queries = open_vectors(source)[:2]
    mutators = []
    for rotation in ("hadamard", "haar"):
        hash_file(source, tmp_path / rotation, SignHasher(70, rotation=rotation))
        mutators.append(mutations.Mutator((tmp_path / rotation).read_bytes(), "hypersign"))
    hash_file(source, tmp_path / "bounds", SignHasher(70), bounds=True)
    mutators.append(mutations.Mutator((tmp_path / "bounds").read_bytes(), "hypersign"))
    index = HammingIndex.load(tmp_path / "haar")
    index.remove(range(0, 1000, 3))
    index.save(tmp_path / "ids")
    mutators.append(mutations.Mutator((tmp_path / "ids").read_bytes(), "hypersign"))

    hash_file(source, tmp_path / "levels", SignHasher(bits_per_dimension=1.5, metric="cosine"))
    mutators.append(mutations.Mutator((tmp_path / "levels").read_bytes(), "hypersign"))

    def read(path):
        index = HammingIndex.load(path)
        assert index.codes.nbytes == len(index) * index.hasher.row_bytes()
        index.search(queries, k=1)

    count = mutations.cases(500)
    refused = mutations.refusals(tmp_path / "codes", lambda seed: mutators[seed % 5].mutated(seed), read, count)
    assert count // 3 < refused < count


@pytest.mark.parametrize("shape", [(1, 40), (7000, 3), (3, 1)])
def test_fortran_order_gives_the_same_codes(tmp_path, shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    np.save(tmp_path / "c.npy", x)
    np.save(tmp_path / "f.npy", np.asfortranarray(x))
    for order in "cf":
        hash_file(tmp_path / f"{order}.npy", tmp_path / order, SignHasher(64, center=0.0))
    c, f = (HammingIndex.load(tmp_path / order).codes for order in "cf")
    np.testing.assert_array_equal(c, f)
    np.testing.assert_array_equal(c, SignHasher(64, center=0.0).fit(x).transform(x))


@pytest.mark.parametrize(
    "kind", [{"bits": 64}, {"bits": 64, "center": False}, {"bits_per_dimension": 2, "metric": "cosine"}]
)
def test_vectors_that_cannot_be_hashed_are_skipped(source, tmp_path, small_blocks, kind):
    x = np.load(source)
    good = np.setdiff1d(np.arange(1000), [0, 63, 64, 500, 999])
    expected = SignHasher(**kind).fit(x[good])
    x[[0, 500], [3, 2]] = np.nan, np.inf
    x[63:65] = np.inf
    x[999] = expected.mean_ if kind.get("center", True) and "metric" not in kind else 0
    np.save(source, x)
    if "metric" not in kind and kind.get("center", True):
        x[999] = np.nan  # the mean changes with the row that equals it
        np.save(source, x)
    hash_file(source, tmp_path / "c", SignHasher(**kind), skip=True)
    index = HammingIndex.load(tmp_path / "c")
    np.testing.assert_array_equal(index.codes, expected.codes(x[good]))
    found = index.search(x[good[:5]], 1).indices[:, 0]
    np.testing.assert_array_equal(found, good[:5])
    np.testing.assert_array_equal(
        index.rescore(x[good[:5]], index.search(x[good[:5]], 3), x, 1).indices[:, 0], good[:5]
    )
    np.save(source, x[good])
    hash_file(source, tmp_path / "d", SignHasher(**kind), skip=True)
    assert HammingIndex.load(tmp_path / "d").search(x[good[:1]], 1).indices.tolist() == [[0]]
    np.save(source, x[500:501])
    with pytest.raises(HypersignError, match="none of the 1 vectors can be hashed"):
        hash_file(source, tmp_path / "e", SignHasher(**kind), skip=True)
    assert not (tmp_path / "e").exists()


def test_rows_at_the_mean_are_skipped(tmp_path):
    x = np.array([[1.0, 2], [3, 4], [2, 3], [1, 4], [3, 2]])
    np.save(tmp_path / "x.npy", x)
    hash_file(tmp_path / "x.npy", tmp_path / "c", SignHasher(64), skip=True)
    assert HammingIndex.load(tmp_path / "c").search(x[3:4], 1).indices.tolist() == [[3]]
    assert len(HammingIndex.load(tmp_path / "c")) == 4
