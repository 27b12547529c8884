"""Files that appear whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from hypersign._checks import HypersignError

__all__ = ["write_atomic"]


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
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
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
