"""Downloads one file with pooch: checked, atomic and resumable.

The bytes received so far are kept as `NAME.part` in the same folder. After a broken connection, or in a later call,
only the rest is requested. The file gets its name when it is complete and its SHA-256 is correct, never before.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from hypersign._checks import HypersignError
from hypersign.data.sources import Stored

__all__ = ["download", "byte_progress"]

ATTEMPTS = 5
PAUSE = 1.0
"""Seconds before the second attempt; the pause doubles before each further attempt."""
CHUNK = 1 << 14
"""Bytes per read; a broken connection loses at most one chunk."""
TIMEOUT = (10.0, 30.0)
"""Seconds to wait for the connection, and for the next byte."""
PATIENCE = 60.0
"""Seconds to wait for the next CHUNK. TIMEOUT alone never stops a server that sends a byte now and then."""
SLOWEST = 10_000
"""The minimum speed of a whole download in bytes per second, after PATIENCE seconds."""
REDIRECTS = 10


def download(stored: Stored, folder: Path) -> Path:
    """Downloads a file into `folder`, which must exist, and returns its path.

    Raises:
        HypersignError: the file cannot be downloaded, is not the expected file, or cannot be written. The received
            bytes stay as a `.part` file for the next call, unless they are wrong or the disk is full.
    """
    import pooch
    from requests import RequestException
    from urllib3.exceptions import HTTPError

    part = folder / f"{stored.name}.part"
    url = f"{stored.address}{stored.name}"
    resumed = part.exists()
    try:
        try:
            _retrieve(pooch, url, stored, folder, part)
        except _WrongContentError:
            if not resumed:
                raise
            # The part of an earlier call may be from another version of the file, so start again.
            _retrieve(pooch, url, stored, folder, part)
    except (RequestException, HTTPError, _WrongContentError) as error:
        raise HypersignError(f"{stored.name} could not be downloaded from {url}: {_reason(error)}") from error
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)  # frees the space on a full disk
        raise HypersignError(
            f"{stored.name}, {stored.size} bytes, could not be written into {folder}: "
            f"{error.strerror or error}; make room or let XDG_CACHE_HOME name another cache folder"
        ) from error
    return folder / stored.name


def byte_progress() -> Progress:
    """Returns a progress bar on standard error that counts bytes."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


class _WrongContentError(Exception):
    """All bytes arrived, but they are not the expected file."""


def _retrieve(pooch: Any, url: str, stored: Stored, folder: Path, part: Path) -> None:
    whole = False

    def arrive(url: str, output_file: str, _: Any) -> None:
        nonlocal whole
        _download_part(url, stored, part)
        part.replace(output_file)
        whole = True

    try:
        pooch.retrieve(url, f"sha256:{stored.sha256}", fname=stored.name, path=str(folder), downloader=arrive)
    except ValueError as error:
        if not whole:
            raise  # requests also raises ValueError for bad addresses
        raise _WrongContentError(
            f"the download has {stored.size} bytes but not the SHA-256 {stored.sha256}"
        ) from error


def _download_part(url: str, stored: Stored, part: Path) -> None:
    """Downloads the rest of the file into `part`, in several attempts."""
    from requests import ConnectionError, HTTPError, RequestException, Timeout
    from requests.exceptions import ChunkedEncodingError

    end = time.monotonic() + PATIENCE + stored.size / SLOWEST
    with byte_progress() as progress:
        task = progress.add_task(stored.name, total=stored.size)
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(PAUSE * 2 ** (attempt - 1))
            error: RequestException | None = None
            try:
                _request(url, stored, part, end, lambda done: progress.update(task, completed=done))
            except (ConnectionError, ChunkedEncodingError, Timeout) as broken:
                error = broken
            except HTTPError as refused:
                code = refused.response.status_code if refused.response is not None else 0
                if 400 <= code < 500 and code not in (408, 416, 429):
                    raise  # another attempt will not help
                error = refused
            arrived = part.stat().st_size if part.exists() else 0
            if arrived == stored.size:
                return
            if arrived > stored.size:
                part.unlink()
                raise _WrongContentError(f"the server sent more than the expected {stored.size} bytes")
            if time.monotonic() > end:
                break
    reason = f" ({_reason(error)})" if error else ""
    raise ConnectionError(
        f"{arrived} of {stored.size} bytes arrived in {attempt + 1} attempts{reason}; "
        "the next call resumes from there"
    )


def _request(url: str, stored: Stored, part: Path, end: float, report: Any) -> None:
    """Requests the missing rest of `part` once, and appends the bytes that arrive before the time `end`.

    `end` is a time of `time.monotonic`.
    """
    arrived = part.stat().st_size if part.exists() else 0
    if arrived >= stored.size:
        return
    stopped = threading.Event()
    pieces = _in_time(_pieces(url, arrived, stopped), end, stopped)
    try:
        answer = next(pieces)
        if answer == "another file":
            part.unlink()  # the server's file is shorter than our part, so the part is from another file
            return
        with part.open("ab" if answer == "rest" else "wb") as file:
            for piece in pieces:
                file.write(piece)
                report(file.tell())
                if file.tell() > stored.size:
                    return
    finally:
        stopped.set()


def _pieces(url: str, arrived: int, stopped: threading.Event) -> Iterator[Any]:
    """Yields "rest", "whole" or "another file", then the bytes, until `stopped` is set."""
    import requests

    headers = {"Accept-Encoding": "identity"}  # otherwise a .gz may be unpacked in transit
    if arrived:
        headers["Range"] = f"bytes={arrived}-"
    session = requests.Session()
    # Redirects are followed here, because requests would read the whole body of each.
    session.get_redirect_target = lambda _: None  # type: ignore[assignment, method-assign]
    for _ in range(REDIRECTS + 1):
        with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            if response.is_redirect:
                url = _redirected(url, response.headers["location"])
                continue
            if response.status_code == requests.codes.requested_range_not_satisfiable and arrived:
                yield "another file"
                return
            response.raise_for_status()
            continues = response.status_code == requests.codes.partial_content and response.headers.get(
                "Content-Range", ""
            ).startswith(f"bytes {arrived}-")
            yield "rest" if continues else "whole"
            for piece in response.iter_content(CHUNK):
                if stopped.is_set():
                    return
                yield piece
            return
    raise requests.TooManyRedirects(f"the server redirects more than {REDIRECTS} times")


def _redirected(url: str, location: str) -> str:
    import requests

    try:
        url = urljoin(url, location)
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known:
        raise requests.exceptions.InvalidURL(
            f"the server redirects to {location!r}, and only http and https addresses are followed"
        )
    return url


def _in_time(pieces: Iterator[Any], end: float, stopped: threading.Event) -> Iterator[Any]:
    """Yields pieces that a separate thread reads, and raises Timeout if the next one is late."""
    import requests

    ready: queue.Queue[tuple[Any, Exception | None]] = queue.Queue()
    space = threading.Semaphore(8)

    def read() -> None:
        try:
            for piece in pieces:
                ready.put((piece, None))
                while not space.acquire(timeout=1):
                    if stopped.is_set():
                        return
            ready.put((None, None))
        except Exception as error:  # raised again below, in the caller's thread
            ready.put((None, error))

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            piece, error = ready.get(timeout=max(0.0, min(PATIENCE, end - time.monotonic())))
        except queue.Empty:
            raise requests.Timeout(
                f"less than {CHUNK} bytes in {PATIENCE:.0f} s, or less than {SLOWEST} bytes per second in all"
            ) from None
        space.release()
        if error is not None:
            raise error
        if piece is None:
            return
        yield piece


def _reason(error: Exception) -> str:
    """The innermost cause in words, because requests wraps the original error several times."""
    while isinstance(error.args[0] if error.args else None, Exception):
        error = error.args[0]
    cause = getattr(error, "reason", None)
    if isinstance(cause, Exception):
        return _reason(cause)
    return str(error) or type(error).__name__
