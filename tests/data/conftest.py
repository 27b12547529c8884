"""Tiny official data sets, and a server on this machine that can misbehave."""

import contextlib
import dataclasses
import gzip
import hashlib
import io
import struct
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from hypersign.data import download
from hypersign.data.sources import SOURCES, Source, Stored


def stored(name: str, data: bytes, address: str | None = None) -> Stored:
    return Stored(name, len(data), hashlib.sha256(data).hexdigest(), address)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def tar(files: dict[str, bytes], mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """An empty cache, no given folder, no waiting between attempts."""
    monkeypatch.setattr(download, "PAUSE", 0.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    if request.node.get_closest_marker("real_data") is None:
        monkeypatch.delenv("HYPERSIGN_DATA", raising=False)
    return tmp_path / "cache" / "hypersign"


class Server:
    """Serves `contents` at `address`; each entry of `faults` spoils one request, in turn.

    A fault is ("cut", n): the connection breaks after n bytes; ("status", code); ("no range",): the whole
    file whatever was asked for; ("redirect", address); ("drip", n): a byte of the body every n seconds;
    ("drip header", n): the same of a header. Dripping ends after 10 seconds. `ranges` lists the Range header of
    every request.
    """

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.faults: list[tuple] = []
        self.ranges: list[str | None] = []
        serving = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = self.headers.get("Range")
                serving.ranges.append(wanted)
                fault = serving.faults.pop(0) if serving.faults else ("none",)
                body = serving.contents.get(self.path.lstrip("/"))
                if fault[0] == "status" or body is None:
                    self.send_error(fault[1] if fault[0] == "status" else 404)
                    return
                if fault[0] == "redirect":
                    self.send_response(302)
                    self.send_header("Location", fault[1])
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                if fault[0] == "drip header":
                    self.drip(b"HTTP/1.1 200 OK\r\nX-Long: " + bytes(10**6), fault[1])
                    return
                start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
                if fault[0] == "no range":
                    start = 0
                if start and start >= len(body):
                    self.send_error(416)
                    return
                self.send_response(206 if start else 200)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
                self.send_header("Content-Length", str(len(body) - start))
                self.end_headers()
                if fault[0] == "drip":
                    self.drip(body[start:], fault[1])
                    return
                self.wfile.write(body[start : start + fault[1] if fault[0] == "cut" else None])

            def drip(self, data: bytes, pause: float) -> None:
                end = time.monotonic() + 10
                with contextlib.suppress(OSError):
                    while data and time.monotonic() < end:
                        self.wfile.write(data[:1])
                        data = data[1:]
                        time.sleep(pause)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}/"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.stop()


@dataclasses.dataclass
class Tiny:
    """A tiny stand-in for an official set: its table entry, its arrays, its files and archives as bytes."""

    source: Source
    images: np.ndarray
    labels: np.ndarray
    files: dict[str, bytes]
    archives: dict[str, bytes]

    def write(self, folder: Path, *names: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / name).write_bytes({**self.files, **self.archives}[name])


@pytest.fixture
def tiny_mnist(server: Server, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """Stands in for mnist: 6 + 4 images, at the server's address."""
    generator = np.random.default_rng(1)
    images = generator.integers(256, size=(10, 28, 28), dtype=np.uint8)
    labels = generator.integers(10, size=10, dtype=np.uint8)
    arrays = (images[:6], labels[:6], images[6:], labels[6:])
    names = [file.name for file in SOURCES["mnist"].files]
    files = {name: idx(array) for name, array in zip(names, arrays, strict=True)}
    archives = {f"{name}.gz": gzip.compress(data) for name, data in files.items()}
    source = dataclasses.replace(
        SOURCES["mnist"],
        files=tuple(stored(name, data) for name, data in files.items()),
        archives=tuple(stored(name, data, server.address) for name, data in archives.items()),
        images=(6, 4),
    )
    monkeypatch.setitem(SOURCES, "mnist", source)
    server.contents |= archives
    return Tiny(source, images[:, None], labels, files, archives)


@pytest.fixture
def tiny_cifar(server: Server, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """Stands in for cifar-10: 5 x 2 + 2 images, at the server's address."""
    generator = np.random.default_rng(2)
    images = generator.integers(256, size=(12, 3, 32, 32), dtype=np.uint8)
    labels = generator.integers(10, size=12, dtype=np.uint8)
    records = np.concatenate([labels[:, None], images.reshape(12, -1)], axis=1)
    real = SOURCES["cifar-10"]
    files = {file.name: records[2 * i : 2 * i + 2].tobytes() for i, file in enumerate(real.files)}
    members = {f"{real.folder}/{name}": data for name, data in files.items()}
    archives = {real.archives[0].name: tar(members, "w:gz"), real.archives[1].name: tar(members, "w:xz")}
    return install_cifar(Tiny(real, images, labels, files, archives), server, monkeypatch)


@pytest.fixture
def tiny_cifar_100(server: Server, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """Stands in for cifar-100: 5 + 2 images; its archive is at the server's address once a test puts it there."""
    generator = np.random.default_rng(3)
    images = generator.integers(256, size=(7, 3, 32, 32), dtype=np.uint8)
    labels = generator.integers(100, size=7, dtype=np.uint8)
    records = np.concatenate([labels[:, None] // 5, labels[:, None], images.reshape(7, -1)], axis=1)
    real = SOURCES["cifar-100"]
    files = {"train.bin": records[:5].tobytes(), "test.bin": records[5:].tobytes()}
    name = real.archives[0].name
    archives = {name: tar({f"{real.folder}/{file}": data for file, data in files.items()}, "w:gz")}
    source = dataclasses.replace(
        real,
        files=tuple(stored(file, data) for file, data in files.items()),
        archives=(stored(name, archives[name], server.address),),
        images=(5, 2),
    )
    monkeypatch.setitem(SOURCES, "cifar-100", source)
    return Tiny(source, images, labels, files, archives)


def install_cifar(tiny: Tiny, server: Server, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    (first, second) = tiny.archives.items()
    source = dataclasses.replace(
        tiny.source,
        files=tuple(stored(name, data) for name, data in tiny.files.items()),
        archives=(stored(*first, server.address), stored(*second)),
        images=(10, 2),
    )
    monkeypatch.setitem(SOURCES, "cifar-10", source)
    server.contents |= {first[0]: first[1]}
    return dataclasses.replace(tiny, source=source)


@pytest.fixture
def reinstall_cifar(tiny_cifar: Tiny, server: Server, monkeypatch: pytest.MonkeyPatch):
    """Makes the table believe in other archives: `reinstall_cifar(archives) -> Tiny`."""
    return lambda archives: install_cifar(dataclasses.replace(tiny_cifar, archives=archives), server, monkeypatch)


@pytest.fixture
def make_tar():
    return tar
