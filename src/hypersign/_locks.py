"""One writer per target: a lock that names its holder.

The lock of a folder is the file `.lock` in it; the lock of a file `x` is `.x.lock` beside it. The operating system
drops the lock when its process ends, however it ends, so a lock file that a killed process left behind locks nothing.
Where a file system has no such locks (some network file systems), the existence of the file is the lock: a left-over
one is recognised if its process ran on this machine; from another machine it must be removed by hand.

The lock file says who holds it, in lines: process id, host, since when, command. Readers never take a lock.
"""

import contextlib
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from hypersign._checks import HypersignError
from hypersign._files import make_folder

__all__ = ["is_lock", "writing_file", "writing_folder"]

LOCK = ".lock"
LOOKS = 20
PAUSE = 0.05
"""Seconds between looks: a holder needs a moment to write who it is, or to go."""

_held: ContextVar[frozenset[str]] = ContextVar("locks this caller holds", default=frozenset())


def writing_folder(folder: Path, *, wait: Callable[[str], object] | None = None) -> contextlib.AbstractContextManager:
    """Holds the lock of `folder` while its block runs; the folder is made if it does not exist.

    A caller that holds the lock may take it again. A folder that was made and is still empty at the end is removed.

    Args:
        folder: the target.
        wait: called once with who holds the lock, which is then waited for; None raises instead of waiting.

    Raises:
        HypersignError: another writer holds the lock (the message names it), or the folder cannot be written to.
    """
    return _writing(folder, folder / LOCK, wait)


def writing_file(file: Path) -> contextlib.AbstractContextManager:
    """Holds the lock of `file` while its block runs; like `writing_folder`."""
    if file.name in ("", ".."):
        raise HypersignError(f"{file} is a folder; name a file for the output")
    return _writing(file, file.with_name(f".{file.name}{LOCK}"), None)


def is_lock(path: Path) -> bool:
    """Whether a file is a lock file."""
    return path.name.startswith(".") and path.name.endswith(LOCK)


@contextlib.contextmanager
def _writing(target: Path, lock: Path, wait: Callable[[str], object] | None) -> Iterator[None]:
    key = os.path.join(os.path.realpath(lock.parent), lock.name)
    if key in _held.get():
        yield
        return
    made = [folder for folder in (lock.parent, *lock.parent.parents) if not folder.exists()]
    try:
        held = _acquire(target, lock, wait)
        before = _held.set(_held.get() | {key})
        try:
            yield
        finally:
            _held.reset(before)
            # Removed while it is held: whoever opened it before finds that it has no name any more, and tries again.
            # A lock that is the file's existence removes its file itself.
            with contextlib.suppress(OSError):
                if _by_system(held):
                    lock.unlink()
            held.release()
    finally:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _acquire(target: Path, lock: Path, wait: Callable[[str], object] | None) -> BaseFileLock:
    looks = 0
    while True:
        make_folder(lock.parent)
        try:
            # In a shared folder everybody who may write there can lock what a killed process of another user left.
            held = FileLock(lock, timeout=0, mode=0o666)
            with warnings.catch_warnings(action="ignore"):  # that it uses the file's existence
                held.acquire()
            with contextlib.suppress(OSError):  # a full disk; the lock holds all the same
                _write_holder(lock, held)
            return held
        except Timeout:
            looks += 1
        except FileNotFoundError:  # the folder went between the two lines: its last writer failed
            looks += 1
        except OSError as error:
            raise HypersignError(
                f"{target} could not be locked for writing: {error.strerror or error}; write elsewhere"
            ) from error
        holder = _holder(lock)
        if looks >= LOOKS or holder:
            if wait is None:
                raise HypersignError(
                    f"{target} is being written by {holder or 'another process'}; wait for it or stop it, or choose "
                    "another output"
                )
            wait(f"{target} is being written by {holder or 'another process'}; waiting for it")
            wait = _nothing
        time.sleep(PAUSE)


def _nothing(_: str) -> None:
    pass


def _write_holder(lock: Path, held: BaseFileLock) -> None:
    if not _by_system(held):
        return  # the file is the lock, and has the holder's process and host in it
    command = " ".join([_program(), *sys.argv[1:]])
    lines = (str(os.getpid()), socket.gethostname(), f"{time.time():.0f}", _printable(command))
    with lock.open("r+b") as file:
        file.truncate()
        file.write("".join(f"{line}\n" for line in lines).encode())


def _by_system(held: BaseFileLock) -> bool:
    return not isinstance(held, SoftFileLock)


def _program() -> str:
    name = Path(sys.argv[0] if sys.argv else "").name
    return "hypersign" if name == "__main__.py" else name or "python"


def _holder(lock: Path) -> str | None:
    """Who holds a lock, in words; None if the file does not say (yet)."""
    try:
        with lock.open("rb") as file:
            lines = file.read(4096).decode(errors="replace").splitlines()
        pid, host = int(lines[0]), _printable(lines[1])
    except (OSError, ValueError, IndexError):
        return None
    if host == socket.gethostname() and not _alive(pid):
        return None  # an earlier holder, which was killed
    words = f"process {pid} on {host}"
    try:
        since, now = time.localtime(int(lines[2])), time.localtime()
        clock = time.strftime("%H:%M" if since[:3] == now[:3] else "%Y-%m-%d %H:%M", since)
        return f"{words} ({_printable(lines[3])}, since {clock})"
    except (ValueError, IndexError, OverflowError, OSError):
        return words


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError, ValueError):
        return False
    except OSError:
        return True  # somebody else's
    return True


def _printable(text: str) -> str:
    """At most 200 characters, and none that would move a terminal's cursor."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= 200 else f"{text[:197]}..."
