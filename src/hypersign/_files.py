"""Writing files so that they are complete or absent, and opening them for reading."""

import contextlib
import glob
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from hypersign._checks import HypersignError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "as_utf8",
    "check_file",
    "check_folder",
    "is_part",
    "make_folder",
    "open_file",
    "remove_parts",
    "write_atomic",
]

PART = ".part"


def write_atomic(path: Path, write: bytes | str | Callable[[Path], object]) -> None:
    """Writes a file under a temporary name, flushes it to the disk, then renames it.

    At any moment, even if the process is killed, `path` is the old file or the new one, never an incomplete one. If
    several processes write at once, the last one wins. Temporary files that killed processes left are removed.

    Args:
        path: path of the file.
        write: the content (text as UTF-8), or a function that writes the content to the path passed to it.

    Raises:
        HypersignError: the file cannot be written. No incomplete file remains, and an existing file does not change.
    """
    part: Path | None = None
    descriptor = -1
    try:
        remove_parts(path.parent, path.name)
        descriptor, part = _make_part(path)
        if isinstance(write, bytes | str):
            part.write_bytes(as_utf8(write) if isinstance(write, str) else write)
        else:
            write(part)
        # Open the path again, because `write` may have replaced the file that mkstemp made.
        with part.open("rb") as file:
            os.fsync(file.fileno())
        # mkstemp makes files private. Use the permissions of ordinary files, which the umask decides.
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o666 & ~umask)
        os.replace(part, path)
        part = None
    except OSError as error:
        raise HypersignError(
            f"{path} could not be written: {error.strerror or error}; make room there or write elsewhere, "
            "then try again"
        ) from error
    finally:
        if part is not None:
            with contextlib.suppress(OSError):
                part.unlink()
        if descriptor >= 0:
            os.close(descriptor)


def as_utf8(text: str) -> bytes:
    r"""A text as UTF-8; what is no text, such as a byte of a file name that is no UTF-8, is escaped.

    >>> as_utf8("a\udcff")
    b'a\\udcff'
    """
    return text.encode(errors="backslashreplace")


def check_file(name: str, path: Path) -> None:
    """Raises HypersignError, which calls the argument `name`, where `write_atomic` could not write `path`.

    It is for the start of long work; nothing is written.
    """
    if path.is_dir():
        raise HypersignError(f"{name} must name a file; got the folder {path}")
    if not path.parent.is_dir():
        raise HypersignError(f"{name} must name a file in a folder that exists; {path.parent} is none: make it first")
    if not os.access(path.parent, os.W_OK):
        raise HypersignError(f"{name} must name a file in a folder that you may write to; got {path}")


def check_folder(name: str, path: Path) -> None:
    """Raises HypersignError, which calls the argument `name`, where `path` could not be made a folder and written to.

    It is for the start of long work; nothing is made.
    """
    found = next((folder for folder in (path, *path.absolute().parents) if os.path.lexists(folder)), path)
    if not found.is_dir():
        raise HypersignError(f"{name} must name a folder; got {path}, but {found} is a file")
    if not os.access(found, os.W_OK):
        raise HypersignError(f"{name} must name a folder that you may write to; got {path}")


def open_file(path: Path, purpose: str = "") -> BinaryIO:
    """Opens a regular file for reading. Rejects pipes, which can block forever, and devices, which may never end.

    Args:
        path: path of the file.
        purpose: words for the error message, such as " as a packed network".

    Raises:
        HypersignError: the file does not exist or cannot be read.
    """
    try:
        if stat.S_ISREG(path.stat().st_mode):
            return path.open("rb")
        reason = "it must be a regular file, not a folder, pipe or device"
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        reason = getattr(error, "strerror", None) or str(error)
    raise HypersignError(f"{path} could not be read{purpose}: {reason}; check the path")


def make_folder(path: Path) -> None:
    """Makes a folder and its parents if they do not exist.

    Raises:
        HypersignError: the folder cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HypersignError(
            f"the folder {path} could not be made: {error.strerror or error}; name another place"
        ) from error


def is_part(path: Path) -> bool:
    """Whether a file is a part: a temporary file that `write_atomic` is writing, or that a killed process left."""
    return path.name.startswith(".") and path.name.endswith(PART)


def remove_parts(folder: Path, name: str | None = None) -> None:
    """Removes the parts that killed processes left: those of the file `name` in `folder`, or all below `folder`.

    The parts of running processes stay, because a process locks its part until it ends.
    """
    if fcntl is None:
        return
    # mkstemp adds 8 characters to the name
    pattern = f"{'**/.?*' if name is None else '.' + glob.escape(name)}.????????{PART}"
    for part in list(folder.glob(pattern)):
        with contextlib.suppress(OSError), part.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()


def _make_part(path: Path) -> tuple[int, Path]:
    """Makes an empty part of `path`; returns its descriptor and path. It is locked while the descriptor is open."""
    while True:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=PART, dir=path.parent)
        if fcntl is None:
            os.close(descriptor)
            return -1, Path(name)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # `remove_parts` of another process locked it first and removes it
            os.close(descriptor)
            continue
        except OSError:  # this file system has no locks, so `remove_parts` removes nothing there
            return descriptor, Path(name)
        if os.fstat(descriptor).st_nlink:
            return descriptor, Path(name)
        os.close(descriptor)
