import contextlib
import os
import re
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hypersign._checks import HypersignError
from hypersign._files import is_part, make_folder, remove_parts, write_atomic
from hypersign.runs import read_tensors, write_tensors

SOURCE = Path(__file__).parents[1] / "src" / "hypersign"


def test_writes_text_bytes_and_what_a_function_writes(tmp_path):
    write_atomic(tmp_path / "text", "é\n")
    write_atomic(tmp_path / "bytes", b"\x00\xff")
    write_atomic(tmp_path / "function", lambda part: part.write_text("made"))
    assert (tmp_path / "text").read_bytes() == "é\n".encode()
    assert (tmp_path / "bytes").read_bytes() == b"\x00\xff"
    assert (tmp_path / "function").read_text() == "made"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bytes", "function", "text"]


def test_the_umask_decides_who_may_read(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "file", "x")
    finally:
        assert os.umask(before) == 0o027
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_an_exception_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_atomic(path, "old")

    def write(part: Path) -> None:
        part.write_text("half")
        assert path.read_text() == "old"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, write)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_no_such_folder(tmp_path):
    with pytest.raises(HypersignError, match=r"no/file could not be written: No such file or directory; make room"):
        write_atomic(tmp_path / "no" / "file", "x")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def full_disk():
    """With it, no file can grow beyond 100 kB: a real limit of the system's."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    @contextlib.contextmanager
    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    return limited


@pytest.mark.parametrize("kind", ["text", "tensors"])
def test_a_disk_that_is_full(tmp_path, full_disk, kind):
    path = tmp_path / "file"

    def write(size):
        if kind == "text":
            write_atomic(path, "x" * size)
        else:
            write_tensors(path, {"x": torch.full((size // 4,), float(size))})

    write(1000)
    before = path.read_bytes()
    with (
        full_disk(),
        pytest.raises(
            HypersignError, match=r"file could not be written: .*File too large.*; make room there or write"
        ),
    ):
        write(1_000_000)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == before


def test_folders(tmp_path):
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(HypersignError, match=r"the folder .*file/b could not be made: Not a directory; name another"):
        make_folder(tmp_path / "file" / "b")


def test_parts_that_killed_processes_left(tmp_path):
    files = [tmp_path / name for name in ("a", "a.b", "b", "[ab]", "[ab].b")]

    def die(part: Path) -> None:
        part.with_name(f"{part.name[:-6]}-.part").touch()  # survives what follows, as after kill -9

    def left() -> set[str]:
        return {path.name[: -len(".12345678.part")] for path in tmp_path.iterdir() if is_part(path)}

    for path in files:
        write_atomic(path, die)
    assert left() == {".a", ".a.b", ".b", ".[ab]", ".[ab].b"}
    remove_parts(tmp_path, "a")
    assert left() == {".a.b", ".b", ".[ab]", ".[ab].b"}
    write_atomic(tmp_path / "[ab]", "x")
    assert left() == {".a.b", ".b", ".[ab].b"}
    remove_parts(tmp_path.parent)
    assert left() == set()
    assert [path.name for path in files if path.exists()] == ["a", "a.b", "b", "[ab]", "[ab].b"]


def test_parts_of_live_writers_stay(tmp_path):
    path = tmp_path / "file"

    def write(part: Path) -> None:
        part.write_text("first")
        remove_parts(tmp_path)
        write_atomic(path, "second")
        assert path.read_text() == "second"

    write_atomic(path, write)
    assert path.read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


HAMMER = """
import sys
from pathlib import Path
from hypersign._files import remove_parts, write_atomic
path = Path(sys.argv[1])
for _ in range(200):
    write_atomic(path, sys.argv[2] * 10000)
    remove_parts(path.parent)
    text = path.read_text()
    assert len(text) == 10000 and len(set(text)) == 1
"""


def test_many_writers_of_one_file(tmp_path):
    processes = [subprocess.Popen([sys.executable, "-c", HAMMER, str(tmp_path / "file"), text]) for text in "abc"]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_tensors_keep_type_shape_and_bits(tmp_path):
    tensors = {
        "a": torch.tensor([[1.0, -0.0], [torch.nan, torch.inf]]),
        "b": torch.tensor(7),
        "c": torch.arange(24.0).view(1, 2, 3, 4).to(memory_format=torch.channels_last),
        "d": torch.zeros(0, 3, dtype=torch.uint8),
        "e": torch.randn(3, 4).t(),
    }
    write_tensors(tmp_path / "file", tensors, {"epoch": 3, "rate": 0.1})
    back, header = read_tensors(tmp_path / "file")
    assert header == {"epoch": 3, "rate": 0.1}
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        torch.testing.assert_close(back[name], tensor, rtol=0, atol=0, equal_nan=True)


def test_nothing_is_ever_unpickled():
    for path in SOURCE.rglob("*.py"):
        code = path.read_text()
        for word in ("torch.load(", "torch.save(", "import pickle", "pickle.load", "joblib", "allow_pickle=True"):
            assert word not in code, f"{path}: {word}"
        assert code.count("np.load(") == len(re.findall(r"np\.load\([^)]*allow_pickle=False", code)), path
