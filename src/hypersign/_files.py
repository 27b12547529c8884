"""Files that appear whole or not at all."""

import contextlib
import glob
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from hypersign._checks import HypersignError

__all__ = ["is_part", "make_folder", "remove_parts", "write_atomic"]

PART = ".part"


def write_atomic(path: Path, write: bytes | str | Callable[[Path], object]) -> None:
    """Writes a file under another name, flushes it to the disk, then gives it its name.

    A reader, or a process killed at any moment, finds the old file or the new one, never a part.

    Args:
        path: the file.
        write: its content, or a function that writes the content to the path it is given.

    Raises:
        HypersignError: it cannot be written; nothing is left half-written, and an old file stays as it was.
    """
    part: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=PART, dir=path.parent)
        os.close(descriptor)
        part = Path(name)
        if isinstance(write, bytes | str):
            part.write_bytes(write.encode() if isinstance(write, str) else write)
        else:
            write(part)
        # Opened anew: `write` may have put another file in the place of the one mkstemp made.
        with part.open("rb") as file:
            os.fsync(file.fileno())
        # mkstemp makes files private; the umask decides for every other file.
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


def make_folder(path: Path) -> None:
    """Makes a folder and those above it, where they are not there yet.

    Raises:
        HypersignError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HypersignError(
            f"the folder {path} could not be made: {error.strerror or error}; name another place"
        ) from error


def is_part(path: Path) -> bool:
    """Whether a file is a part: what a `write_atomic` is writing, or a killed process left of it."""
    return path.name.startswith(".") and path.name.endswith(PART)


def remove_parts(path: Path) -> None:
    """Removes what killed processes left of a `write_atomic` of `path`; the caller holds the lock of its target."""
    # mkstemp's names have 8 characters of its own
    for part in path.parent.glob(f".{glob.escape(path.name)}.????????{PART}"):
        part.unlink(missing_ok=True)
