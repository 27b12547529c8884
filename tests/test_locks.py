import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from hypersign._checks import HypersignError
from hypersign._locks import is_lock, writing_file, writing_folder

HOLD = """
import sys
from pathlib import Path
from hypersign import _locks
with getattr(_locks, sys.argv[1])(Path(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(what, target):
    """A process that holds the lock of `target` while the block runs."""
    command = [sys.executable, "-c", HOLD, what, str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.stdin.close()


def take(what, target):
    return {"writing_file": writing_file, "writing_folder": writing_folder}[what](target)


@pytest.mark.parametrize("what", ["writing_file", "writing_folder"])
def test_the_second_writer_hears_who_holds_the_target(tmp_path, what):
    target = tmp_path / "target"
    with holder(what, target) as process:
        with pytest.raises(HypersignError) as said, take(what, target):
            pass
        host = re.escape(socket.gethostname())
        sentence = (
            rf"{re.escape(str(target))} is being written by process {process.pid} on {host} "
            rf"\(-c {what} .*target, since \d\d:\d\d\); wait for it or stop it, or choose another output"
        )
        assert re.fullmatch(sentence, str(said.value))
        with take(what, tmp_path / "another"):
            pass
    with take(what, target):
        pass
    assert list(tmp_path.iterdir()) == []  # neither locks nor empty folders


@pytest.mark.parametrize("what", ["writing_file", "writing_folder"])
def test_a_killed_holder_holds_nothing(tmp_path, what):
    target = tmp_path / "target"
    with holder(what, target) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert [is_lock(path) for path in tmp_path.rglob("*") if path.is_file()] == [True]
    with take(what, target):
        (lock,) = (path for path in tmp_path.rglob("*") if path.is_file())
        assert lock.read_text().splitlines()[0] == str(os.getpid())
        assert stat.S_IMODE(lock.stat().st_mode) == 0o666  # another user may lock it
    assert not lock.exists()


@pytest.mark.parametrize("content", ["", "x", "999999999\nhere\n", "1\nelsewhere\n1\nhypersign train\n", "\0" * 5000])
def test_a_lock_file_alone_holds_nothing(tmp_path, content):
    (tmp_path / ".lock").write_text(content)
    with writing_folder(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_holder_that_does_not_say_who_it_is_or_says_more_than_a_line(tmp_path):
    with holder("writing_folder", tmp_path):
        for content, words in [
            ("", "another process"),
            ("7\n", "another process"),
            ("7\nelsewhere\n", "process 7 on elsewhere"),
            ("7\nelsewhere\nnever\nx\n", "process 7 on elsewhere"),
            ("7\nelsewhere\n0\n\x1b[2J" + "x" * 1000 + "\n", "process 7 on elsewhere (?[2J" + "x" * 193 + "..."),
        ]:
            (tmp_path / ".lock").write_text(content)
            with pytest.raises(HypersignError, match=re.escape(words)), writing_folder(tmp_path):
                pass


def test_one_caller_takes_a_lock_twice_and_another_thread_does_not(tmp_path):
    said = []

    def other():
        try:
            with writing_folder(tmp_path):
                said.append("held")
        except HypersignError as error:
            said.append(str(error))

    with writing_folder(tmp_path):
        with writing_folder(tmp_path / ".." / tmp_path.name):
            pass
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert f"process {os.getpid()} " in said[0]
    other()
    assert said[1] == "held"


def test_waiting_says_for_whom(tmp_path):
    said = []
    with holder("writing_folder", tmp_path) as process:

        def hear(sentence):
            said.append(sentence)
            process.stdin.close()  # which ends it

        with writing_folder(tmp_path, wait=hear):
            assert process.wait() == 0
    assert len(said) == 1
    assert f"is being written by process {process.pid} on " in said[0]
    assert said[0].endswith("; waiting for it")


def test_folders_that_were_made_go_with_the_lock_unless_something_is_in_them(tmp_path):
    with writing_file(tmp_path / "a" / "b" / "file"):
        assert (tmp_path / "a" / "b").is_dir()
    assert not (tmp_path / "a").exists()
    with writing_file(tmp_path / "a" / "b" / "file"):
        (tmp_path / "a" / "b" / "file").write_text("x")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["file"]


def test_a_place_that_cannot_be_locked(tmp_path):
    for folder in (".", "..", "/"):
        with pytest.raises(HypersignError, match="is a folder; name a file for the output"):
            take("writing_file", Path(folder))
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(HypersignError, match=r"file could not be made: .*; name another place"),
        writing_folder(tmp_path / "file"),
    ):
        pass
    (tmp_path / ".x.lock").mkdir()
    with (
        pytest.raises(HypersignError, match="x could not be locked for writing: Is a directory; write elsewhere"),
        take("writing_file", tmp_path / "x"),
    ):
        pass


def test_where_the_file_system_has_no_locks_the_file_is_the_lock(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", none)
    with writing_folder(tmp_path):
        assert (tmp_path / ".lock").read_text().splitlines()[:2] == [str(os.getpid()), socket.gethostname()]
        with pytest.raises(HypersignError, match=f"process {os.getpid()} on "):
            thread_take(tmp_path)
    assert list(tmp_path.iterdir()) == []
    process = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], stdout=subprocess.PIPE, check=True
    )
    (tmp_path / ".lock").write_text(f"{process.stdout.decode().strip()}\n{socket.gethostname()}\n")  # it has ended
    with writing_folder(tmp_path):
        pass
    (tmp_path / ".lock").write_text("1\nelsewhere\n")
    with pytest.raises(HypersignError, match="process 1 on elsewhere"), writing_folder(tmp_path):
        pass


def thread_take(folder):
    """Takes the lock in a context of its own, which holds none."""
    errors = []

    def attempt():
        try:
            with writing_folder(folder):
                pass
        except HypersignError as error:
            errors.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    for error in errors:
        raise error


COUNT = """
import sys, time
from pathlib import Path
from hypersign._checks import HypersignError
from hypersign._locks import writing_folder
folder = Path(sys.argv[1])
taken = 0
for _ in range(300):
    try:
        with writing_folder(folder / "target"):
            taken += 1
            with open(folder / "inside", "x"):  # fails where two are inside
                time.sleep(0.001)
            (folder / "inside").unlink()
    except HypersignError:
        pass
print(taken)
"""


def test_never_two_inside(tmp_path):
    """The lock file comes and goes, and so does the folder."""
    processes = [
        subprocess.Popen([sys.executable, "-c", COUNT, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    taken = [int(process.communicate()[0]) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert sum(taken) > 0
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
