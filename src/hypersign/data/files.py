"""Finds the files of the official data sets, and fetches the missing ones.

The search goes first to the folder that `HYPERSIGN_DATA` names, then to the cache (`hypersign` in the user's cache
folder). In both, each data set has a folder of its name: `mnist/train-images-idx3-ubyte.gz`, with or without `.gz`;
`cifar-10/data_batch_1.bin`, `cifar-10/cifar-10-batches-bin/data_batch_1.bin`, or an archive that holds these files.
Files are not moved or copied. Downloads and extracted files go into the cache; nothing is ever written into
`HYPERSIGN_DATA`.

A file is checked whenever it is read, because it is in memory then (CIFAR-10: half a second). So there is no record
of earlier checks that could be out of date.
"""

import contextlib
import dataclasses
import gzip
import hashlib
import importlib.util
import lzma
import os
import shutil
import sys
import tarfile
import zlib
from pathlib import Path

from rich.console import Console

from hypersign._checks import HypersignError, check_choice
from hypersign._locks import writing_folder
from hypersign.data import digits
from hypersign.data.download import byte_progress, download
from hypersign.data.sources import SOURCES, TEXTS, Source, Stored, TextSource

__all__ = ["NAMES", "Status", "fetch", "status", "cache_folder", "obtain", "obtain_text", "read_file"]

NAMES: tuple[str, ...] = ("digits", *SOURCES, *TEXTS)
"""The data sets known by name."""


@dataclasses.dataclass(frozen=True)
class Status:
    """Where a known data set is.

    `place` is "scikit-learn" (inside that package), "HYPERSIGN_DATA", "cache" or "absent". `path` is the folder with
    its files, or with an archive that is not extracted yet; None if there is none. `download_bytes` is the number of
    bytes that loading must download first. This search only compares names; loading checks the SHA-256. `shape` is
    (channels, height, width); for a text it is (), and its characters are counted in place of images.
    """

    name: str
    train_images: int
    test_images: int
    shape: tuple[int, ...]
    classes: int
    place: str
    path: str | None
    download_bytes: int


def fetch(name: str) -> Path:
    """Makes a known data set ready to load, and returns its folder.

    Every file is checked. Files that are missing, or damaged in the cache, are extracted or downloaded.

    Raises:
        HypersignError: the name is unknown, a file in `HYPERSIGN_DATA` is damaged, or a download fails.

    Example:
        >>> (fetch("digits") / "digits.csv.gz").exists()
        True
    """
    check_choice("the data set", name, NAMES)
    if name == "digits":
        return digits.folder()
    if name in TEXTS:
        path = obtain_text(TEXTS[name])
        read_file(TEXTS[name], TEXTS[name].files[0], path)
        return path.parent
    source = SOURCES[name]
    located = obtain(source, check=True)
    return located[source.files[0].name].parent


def status() -> list[Status]:
    """Returns where each known data set is, in the order of `NAMES`, without reading the files.

    Raises:
        HypersignError: `HYPERSIGN_DATA` does not name a folder.

    Example:
        >>> status()[0].name, status()[0].place
        ('digits', 'scikit-learn')
    """
    place = str(digits.folder()) if importlib.util.find_spec("sklearn") else None
    return [
        Status("digits", *digits.IMAGES, digits.SHAPE, len(digits.CLASSES), "scikit-learn", place, 0),
        *(_status(source) for source in SOURCES.values()),
        *(_text_status(source) for source in TEXTS.values()),
    ]


def _text_status(source: TextSource) -> Status:
    path = next((path for path in _text_places(source) if path.is_file()), None)
    train = int(source.characters * source.shares[0])
    return Status(
        source.name,
        train,
        source.characters - int(source.characters * sum(source.shares[:-1])),
        (),
        source.classes,
        "absent" if path is None else "cache" if _in_cache(path) else "HYPERSIGN_DATA",
        None if path is None else str(path.parent),
        source.files[0].size if path is None else 0,
    )


def _status(source: Source) -> Status:
    located = _locate(source)
    missing = [file for file in source.files if file.name not in located]
    archive = _find_archive(source)
    path = None
    if not missing:
        path = located[source.files[0].name].parent
    elif archive:
        path = archive[0].parent
    return Status(
        source.name,
        *source.images,
        source.shape,
        len(source.classes),
        "absent" if path is None else "cache" if _in_cache(path) else "HYPERSIGN_DATA",
        None if path is None else str(path),
        sum(stored.size for stored in _to_download(source, missing)) if path is None else 0,
    )


def cache_folder() -> Path:
    """Returns the folder for downloads and extracted archives: `hypersign` in the user's cache folder."""
    if sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        return root / "hypersign" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "hypersign"
    return Path(os.environ.get("XDG_CACHE_HOME", "").strip() or Path.home() / ".cache") / "hypersign"


def obtain(source: Source, *, check: bool = False) -> dict[str, Path]:
    """Returns the path of each file of a data set, or of its `.gz`; extracts or downloads missing files.

    With `check`, existing files are read and compared, and damaged ones in the cache are replaced. Only one process
    at a time writes to the cache of a data set; the others name that process and wait for it.

    Raises:
        HypersignError: an archive or a file is damaged, a download fails, or the cache cannot be written.
    """
    located = _locate(source, check=check)
    if len(located) == len(source.files):
        return located
    folder = cache_folder() / source.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with writing_folder(folder, wait=_say):
            located = _locate(source, check=check, remove=True)  # another process may have been here meanwhile
            missing = [file for file in source.files if file.name not in located]
            if missing and source.folder:
                _extract(*_archive(source, folder), source, folder)
            for stored in () if source.folder else _to_download(source, missing):
                _download(source, stored, folder)
    except OSError as error:
        raise HypersignError(
            f"{source.name}: {folder} cannot be written ({error.strerror or error}); "
            "make room, or let XDG_CACHE_HOME name another cache folder"
        ) from error
    return _locate(source)


def obtain_text(source: TextSource) -> Path:
    """Returns the path of a text that is known by name; downloads it if it is missing.

    Raises:
        HypersignError: the download fails, or the cache cannot be written.
    """
    found = next((path for path in _text_places(source) if path.is_file()), None)
    if found is not None:
        return found
    folder = cache_folder() / source.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with writing_folder(folder, wait=_say):
            return _download(source, source.files[0], folder)
    except OSError as error:
        raise HypersignError(
            f"{source.name}: {folder} cannot be written ({error.strerror or error}); "
            "make room, or let XDG_CACHE_HOME name another cache folder"
        ) from error


def _text_places(source: TextSource) -> list[Path]:
    return [home / source.files[0].name for home in _homes(source)]


def _say(sentence: str) -> None:
    Console(stderr=True).print(sentence, highlight=False, markup=False, soft_wrap=True)


def read_file(source: Source | TextSource, file: Stored, path: Path) -> bytes:
    """Returns the checked content of a file of `source`, unpacked if `path` is its `.gz`.

    Raises:
        HypersignError: the file cannot be read, or differs from the file that its authors published.
    """
    stored = file if path.name == file.name else _packed(source, file)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise HypersignError(f"{path}: cannot be read ({error.strerror}); {_by_hand(source, stored)}") from error
    _compare(source, stored, path, len(data), hashlib.sha256(data).hexdigest())
    if stored is file:
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise HypersignError(f"{path}: cannot be unpacked ({error}); {_by_hand(source, stored)}") from error


class _DamagedError(HypersignError):
    """A file that differs from the file that its authors published."""


def _compare(source: Source | TextSource, stored: Stored, path: Path, size: int, sha256: str) -> None:
    if sha256 == stored.sha256:
        return
    short = size != stored.size
    expected, found = (f"{stored.size} bytes", f"{size}") if short else (f"SHA-256 {stored.sha256}", sha256)
    remedy = _by_hand(source, stored)
    if _in_cache(path):
        remedy = f"`hypersign data fetch {source.name}` replaces it, or {remedy}"
    raise _DamagedError(f"{path}: damaged, or not the official file: {expected} expected, {found} found; {remedy}")


def _by_hand(source: Source | TextSource, stored: Stored) -> str:
    """Says where to get a file and where to put it."""
    if stored.address is None:  # a file that only comes in an archive
        stored = source.archives[0] if source.folder else _packed(source, stored)
    root = _given_folder() or cache_folder()
    return f"get {stored.address}{stored.name} by hand and put it at {root / source.name / stored.name}"


def _given_folder() -> Path | None:
    named = os.environ.get("HYPERSIGN_DATA")
    if not named:
        return None
    folder = Path(named)
    if not folder.is_dir():
        raise HypersignError(f"HYPERSIGN_DATA must name a folder of data sets; there is no folder {folder}")
    return folder


def _in_cache(path: Path) -> bool:
    return cache_folder() in path.parents


def _homes(source: Source | TextSource) -> list[Path]:
    """The folders that may hold the data set, `HYPERSIGN_DATA` first."""
    return [root / source.name for root in (_given_folder(), cache_folder()) if root is not None]


def _locate(source: Source, *, check: bool = False, remove: bool = False) -> dict[str, Path]:
    """Finds files by name. With `check`, a damaged file is an error; in the cache it is skipped, or with `remove`
    deleted."""
    folders = [place for home in _homes(source) for place in dict.fromkeys((home, home / source.folder))]
    endings = ("",) if source.folder else ("", ".gz")
    located: dict[str, Path] = {}
    for file in source.files:
        for path in (folder / f"{file.name}{ending}" for folder in folders for ending in endings):
            if not path.is_file():
                continue
            if check:
                try:
                    read_file(source, file, path)
                except _DamagedError:
                    if not _in_cache(path):
                        raise
                    if remove:
                        path.unlink(missing_ok=True)
                    continue
            located[file.name] = path
            break
    return located


def _packed(source: Source | TextSource, file: Stored) -> Stored:
    return next(archive for archive in source.archives if archive.name == f"{file.name}.gz")


def _to_download(source: Source, missing: list[Stored]) -> list[Stored]:
    if source.folder:
        return [source.archives[0]] if missing else []
    return [_packed(source, file) for file in missing]


def _find_archive(source: Source) -> tuple[Path, Stored] | None:
    """An archive that holds all files, or None if there is none."""
    if source.folder:
        for home in _homes(source):
            for stored in source.archives:
                if (home / stored.name).is_file():
                    return home / stored.name, stored
    return None


def _archive(source: Source, folder: Path) -> tuple[Path, Stored]:
    """A checked archive that holds all files; it is downloaded if there is none."""
    found = _find_archive(source)
    if found is None or (found[1].address and _in_cache(found[0])):
        # pooch keeps an intact file in the cache, and replaces a damaged one
        return _download(source, source.archives[0], folder), source.archives[0]
    path, stored = found
    with path.open("rb") as file:
        _compare(source, stored, path, path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())
    return found


def _download(source: Source | TextSource, stored: Stored, folder: Path) -> Path:
    try:
        return download(stored, folder)
    except HypersignError as error:
        raise HypersignError(f"{source.name}: {error}; or {_by_hand(source, stored)}") from error


def _extract(archive: Path, stored: Stored, source: Source, folder: Path) -> None:
    """Extracts all files of a checked archive into the cache, and checks each before it gets its final name."""
    if not hasattr(tarfile, "data_filter"):
        raise HypersignError(f"{archive}: extracting it safely needs Python 3.11.4 or newer; update Python")
    scratch = folder / ".extracting"  # one fixed name, so that the next call removes what a killed process left
    try:
        with (
            byte_progress() as progress,
            progress.open(archive, "rb", description=stored.name) as packed,
            tarfile.open(fileobj=packed) as tar,
        ):
            tar.extractall(scratch, filter="data")
        for file in source.files:
            read_file(source, file, scratch / source.folder / file.name)
        (folder / source.folder).mkdir(exist_ok=True)
        for file in source.files:
            os.replace(scratch / source.folder / file.name, folder / source.folder / file.name)
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise HypersignError(f"{archive}: cannot be extracted ({error}); {_by_hand(source, stored)}") from error
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(scratch)
