"""Names in files and on the terminal: brackets, escapes, bytes that are not UTF-8, formulas; targets; numbers."""

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from torch import nn

from hypersign.cli import main, search
from hypersign.cli.printing import console, printable
from hypersign.hashing import HammingIndex
from hypersign.layers import QuantLinear
from hypersign.packed import PackedModel
from hypersign.packing import pack
from hypersign.quantizers import Sign
from hypersign.report.document import save

HOSTILE = ["a[red]b", "[/]", "[bold]", ":smile:", "x\x1b[2Jy", "\x9b31m", "tab\rback\b", "\u202egnp.exe", "caf\udce9"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def network(names: tuple[str, ...] = ("fc1", "fc2"), classes: tuple[str, ...] = ("0", "1", "2")) -> None:
    """Writes `net`, for gray images of 4 x 4."""
    layers = nn.Sequential()
    layers.add_module("flat", nn.Flatten())
    sizes = [16, 8, len(classes)]
    for name, size, outputs in zip(names, sizes, sizes[1:], strict=False):
        layers.add_module(name, QuantLinear(size, outputs, bias=False, weight_quantizer=Sign()))
    pack(layers.eval(), Path("net"), (1, 4, 4), pixel_range=(-1.0, 1.0), classes=classes)


def ends(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit, match=r"^1$"):
        main(words)
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


@pytest.mark.parametrize("name", HOSTILE)
def test_printed_names_are_harmless_and_complete(name: str, capsys) -> None:
    console().print(name, soft_wrap=True)
    printed = capsys.readouterr().out
    assert printed == f"{printable(name)}\n"
    assert printed[:-1].isprintable()
    printed.encode("utf-8")


def test_printable_keeps_what_is_harmless() -> None:
    assert printable("äöü 漢字 → [x]\n\t") == "äöü 漢字 → [x]\n\t"
    assert printable("\x1b[2J\x9b\udcff\u202e") == r"\x1b[2J\x9b\udcff\u202e"


@pytest.mark.parametrize("name", [name for name in HOSTILE if "\udce9" not in name])
def test_tensors_and_paths_are_printed_as_they_are(name: str, capsys) -> None:
    file = f"{name.replace('/', '')}.safetensors"
    save_file({name: np.eye(64, dtype=np.float32), f"{name}.bias": np.ones(3, np.float32)}, file)
    main(["inspect", file])
    printed = "".join(capsys.readouterr().out.split())
    assert "".join(printable(name).split()) in printed
    assert not {"\x1b", "\x9b", "\r", "\b", "\u202e"} & set(printed)


@pytest.mark.parametrize("name", ["a[/red]b", *HOSTILE])
def test_a_missing_path_is_named_in_one_line(name: str, capsys) -> None:
    for verb in ("info", "evaluate", "inspect", "bench"):
        line = ends([verb, name], capsys)
        assert printable(name) in line
        assert "\x1b" not in line


@pytest.mark.parametrize("name", [name for name in HOSTILE if "/" not in name])
def test_images_of_any_name_are_predicted(name: str, capsys) -> None:
    network()
    os.mkdir("in")
    Image.new("L", (4, 4)).save("plain.png")
    os.rename("plain.png", f"in/{name}.png")
    main(["run", "net", "-i", "in", "-o", "out.csv"])
    assert "1 image " in capsys.readouterr().out
    (row,) = csv.DictReader(io.StringIO(Path("out.csv").read_bytes().decode(), newline=""))
    assert row["image"] == f"{printable(name)}.png"


def test_csv_has_no_formulas() -> None:
    network(classes=("=1+1", "@x", "-1"))
    np.save("in.npy", np.zeros((2, 1, 4, 4), np.uint8))
    main(["run", "net", "-i", "in.npy", "-o", "out.csv"])
    header, *rows = csv.reader(io.StringIO(Path("out.csv").read_text(encoding="utf-8")))
    assert header == ["image", "label", "'=1+1", "'@x", "-1"]  # a number is none
    assert all(row[1] in header[2:] for row in rows)
    os.mkdir("images")
    Image.new("L", (4, 4)).save("images/=cmd()|x.png")
    main(["run", "net", "-i", "images", "-o", "out.csv"])
    assert "\n'=cmd()|x.png," in Path("out.csv").read_text()


@pytest.mark.parametrize("names", [("input", "pixels"), ("pixels", "input"), ("=1", "a[/red]b"), ("x\x1b", "y")])
def test_layers_of_any_name_are_packed(names: tuple[str, str], capsys) -> None:
    network(names)
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 4, 4), np.uint8)
    network()
    expected = PackedModel.load("net").predict(images).shape
    network(names)
    assert PackedModel.load("net").predict(images).shape == expected
    main(["bench", "net", "--batch-sizes", "1", "--repeats", "1"])
    assert "\x1b" not in capsys.readouterr().out


def test_targets_are_checked_before_the_work(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    def works(*words: object, **options: object) -> None:
        raise AssertionError("the work began")

    monkeypatch.setattr(search.HammingIndex, "load", works)
    monkeypatch.setattr("hypersign.simulation.sign", works)
    monkeypatch.setattr("hypersign.hashing.open_vectors", works)
    Path("file").touch()
    np.save("v.npy", np.zeros((3, 4)))
    for words, message in (
        (["search", "c", "q.npy", "-o", "x.csv"], "--output must name a .npz file; got x.csv"),
        (["search", "c", "q.npy", "-o", "none/x.npz"], "--output must name a file in a folder that exists; none is"),
        (["simulate", "sign", "--figures", "file"], "--figures must name a folder; got file, but file is a file"),
        (["simulate", "sign", "--figures", "file/x"], "--figures must name a folder; got file/x, but "),
        (["simulate", "sign", "--json", "none/x"], "--json must name a file in a folder that exists; none is none"),
        (["inspect", "v.npy", "--json", "."], "--json must name a file; got the folder ."),
    ):
        line = ends(words, capsys)
        assert message in line, line
    assert sorted(os.listdir()) == ["file", "v.npy"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["run", "net", "-i", "v.npy", "-o", "x.csv", "--threads", "3000000000"],
            "--threads must be an integer from 1 to",
        ),
        (["bench", "net", "--threads", "3000000000"], "--threads must be an integer from 1 to 4096; got 3000000000"),
        (["search", "c", "v.npy", "--threads", "3000000000"], "--threads must be an integer from 1 to 4096"),
        (["hash", "v.npy", "-o", "c", "--bits", str(2**40)], "bits must be an integer from 1 to 1048576"),
        (["hash", "v.npy", "--plan", "--bits", str(2**40)], "bits must be an integer from 1 to 1048576"),
        (["inspect", "v.npy", "--bits", str(2**40)], "bits must be an integer from 1 to 1048576"),
        (["hash", "v.npy", "-o", "c", "--rounds", "1000000"], "rounds must be an integer from 1 to 100"),
        (["hash", "v.npy", "-o", "c", "--seed", "-1"], "seed must be an integer"),
        (["bench", "net", "--batch-sizes", "0"], "--batch-sizes must be an integer"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_numbers_out_of_range_are_one_sentence(words: list[str], message: str, capsys) -> None:
    network()
    np.save("v.npy", np.random.default_rng(0).standard_normal((60, 16)))
    assert message in ends(words, capsys)


def test_json_is_json(capsys) -> None:
    """Vectors on one line, all the same: nothing may be NaN in JSON."""
    np.save("v.npy", np.ones((60, 16)))
    for words in (["inspect", "v.npy", "--json"], ["theory", "table", "--json"], ["theory", "ternary", "--json"]):
        try:
            main(words)
        except SystemExit:
            continue
        json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))


def test_files_and_classes_whose_names_are_no_text(capsys) -> None:
    """Linux takes any bytes as a name; Python shows those that are no UTF-8 as single surrogates."""
    np.save("plain.npy", np.random.default_rng(0).standard_normal((30, 8)))
    os.rename("plain.npy", "\udcff.npy")
    main(["hash", "\udcff.npy", "-o", "codes", "--bits", "64"])
    assert len(HammingIndex.load("codes")) == 30
    save(Path("page.html"), "a class called \udcff, and one called é")
    assert Path("page.html").read_bytes() == b"a class called \\udcff, and one called \xc3\xa9"


def test_no_images_still_have_a_shape(capsys) -> None:
    network()
    np.save("in.npy", np.zeros((0, 1, 4, 4), np.uint8))
    main(["run", "net", "-i", "in.npy"])
    assert "0 images" in capsys.readouterr().out
    np.save("in.npy", np.zeros((0, 10**9), np.float32))
    with pytest.raises(SystemExit):
        main(["run", "net", "-i", "in.npy"])
    assert "images must be uint8 of shape (N, 1, 4, 4)" in capsys.readouterr().err
