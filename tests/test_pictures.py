"""Only the formats that are meant are opened, whatever a file's name says, and nothing large is decoded."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageFile

from hypersign._checks import HypersignError
from hypersign._pictures import FORMATS, SUFFIXES, opened
from hypersign.cli.run import _image
from hypersign.data import load

Image.init()

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 4\n%%EndComments\nshowpage\n%%EOF\n"


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    )


@pytest.fixture
def ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `gs` on the path that leaves a mark where it was started."""
    mark, folder = tmp_path / "started", tmp_path / "bin"
    folder.mkdir()
    (folder / "gs").write_text(f"#!/bin/sh\ntouch {mark}\nexit 1\n")
    (folder / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    return mark


def folder_with(tmp_path: Path, name: str, content: bytes) -> Path:
    for label in ("cat", "dog"):
        for number in range(5):
            file = tmp_path / "pets" / label / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (5, 4)).save(file)
    (tmp_path / "pets" / "cat" / name).write_bytes(content)
    return tmp_path / "pets"


def test_no_interpreter_is_started(tmp_path: Path, ghostscript: Path) -> None:
    pets = folder_with(tmp_path, "x.png", EPS)
    with Image.open(pets / "cat" / "x.png") as image, pytest.raises(Exception, match=r"gs|status"):
        image.load()
    assert ghostscript.exists()  # Pillow by itself starts it
    ghostscript.unlink()
    message = r"x\.png: cannot be read as an image \(it must be one of PNG, .* whatever its name is\)"
    with pytest.raises(HypersignError, match=message):
        load(str(pets))
    with pytest.raises(HypersignError, match=message):
        _image(pets / "cat" / "x.png", (3, 4, 5))
    assert not ghostscript.exists()


@pytest.mark.parametrize("kind", FORMATS)
def test_formats_that_are_meant(tmp_path: Path, kind: str) -> None:
    pixels = np.full((4, 5, 3), 200, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x", kind)
    with opened(tmp_path / "x") as image:
        assert image.size == (5, 4)
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - 200).max() < 4


def test_every_ending_names_such_a_format() -> None:
    assert {Image.EXTENSION[suffix] for suffix in SUFFIXES} == set(FORMATS)


OTHERS = ["AVIF", "DDS", "EPS", "ICNS", "ICO", "JPEG2000", "PCX", "PDF", "QOI", "SGI", "SPIDER", "TGA"]


@pytest.mark.parametrize("kind", OTHERS)
def test_other_formats_are_refused(tmp_path: Path, kind: str) -> None:
    try:
        Image.new("RGB", (16, 16)).save(tmp_path / "x.kind", kind)
    except (OSError, KeyError):
        pytest.skip(f"Pillow writes no {kind} here")
    (tmp_path / "x.kind").rename(tmp_path / "x.png")
    with pytest.raises(HypersignError, match="must be one of PNG"), opened(tmp_path / "x.png"):
        pass


@pytest.mark.parametrize("side", [9_500, 40_000, 2**31 - 1])
def test_more_pixels_than_the_limit(tmp_path: Path, side: int) -> None:
    pets = folder_with(tmp_path, "0.png", png(side, side))
    for action in (lambda: load(str(pets)), lambda: _image(pets / "cat" / "0.png", (1, 4, 5))):
        with pytest.raises(HypersignError, match=r"0\.png: .*pixels"):
            action()


def test_an_image_of_another_size_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pets = folder_with(tmp_path, "x.png", png(9_000, 9_000, bytes(1000)))
    original = ImageFile.ImageFile.load
    sizes = []

    def load_and_note(self, *arguments):  # type: ignore[no-untyped-def]
        sizes.append(self.size)
        return original(self, *arguments)

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load_and_note)
    with pytest.raises(HypersignError, match="one size and mode"):
        load(str(pets))
    with pytest.raises(HypersignError, match="must be 5x4 of mode RGB for this network; it is 9000x9000"):
        _image(pets / "cat" / "x.png", (3, 4, 5))
    assert (9_000, 9_000) not in sizes
