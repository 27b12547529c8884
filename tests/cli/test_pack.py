"""`hypersign pack` and `hypersign run`, as a user would, on a small trained network."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hypersign.cli import main
from hypersign.packed import PackedModel
from hypersign.runs import load


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "small"
    words = (
        "--data digits --widths 16 32 --pools 1 2 --hidden 32 --epochs 6 --batch-size 50 --learning-rate 3e-3 "
        "--no-flip --crop-padding 0"
    )
    main(["train", *words.split(), "--device", "cpu", "--output", str(folder)])
    return folder


@pytest.fixture(scope="module")
def file(run: Path) -> Path:
    main(["pack", str(run), "-o", str(run.parent / "net.hypersign"), "--verify"])
    return run.parent / "net.hypersign"


def fails(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line a command prints as it fails with status 1."""
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_pack_writes_a_certificate(run: Path, file: Path) -> None:
    found = json.loads(Path(f"{file}.json").read_text())
    assert (found["images"], found["decisions_differ"], found["ties"], found["holds"]) == (359, 0, 0, True)
    assert (found["wrong"], found["differences"]) == (0, [])
    assert found["largest_difference"] <= 1e-5 * found["largest_logit"]
    assert found["sha256"] == PackedModel.load(file).sha256
    assert found["data"] == {"name": "digits", "sha256": load(run).info["data"]["sha256"]}
    assert {"machine", "versions", "run", "weights", "file"} <= set(found)


def test_the_packed_network_is_as_accurate(run: Path, file: Path) -> None:
    """A network that was really trained: its test accuracy, from bits alone."""
    opened = load(run)
    test = opened.data().test
    classes = PackedModel.load(file).predict(test.images.numpy()).argmax(1)
    assert (classes == test.labels.numpy()).mean() == opened.info["results"]["test"]["accuracy"] > 0.5


def test_pack_prints_what_runs_where(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["pack", str(run), "--output", str(tmp_path / "net")])
    text = capsys.readouterr().out
    size = (tmp_path / "net").stat().st_size
    assert f"{size:,} bytes, as predicted ({size:,})" in text
    rows = {line.split("│")[1].strip(): line for line in text.splitlines() if line.count("│") == 5}
    assert rows["conv1"].split("│")[4].strip() == "integers"
    assert rows["conv2"].split("│")[4].strip() == "bits"
    assert rows["norm4"].split("│")[4].strip() == "float32"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net"], "no certificate without --verify"


def test_a_difference_fails(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    real = PackedModel.predict
    monkeypatch.setattr(PackedModel, "predict", lambda self, x, **options: -real(self, x, **options))
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["pack", str(run), "-o", str(tmp_path / "net"), "--verify"])
    printed = capsys.readouterr()
    (message,) = printed.err.splitlines()
    assert (
        "the packed network is wrong on 359 of 359 test images: rounding does not explain its classes or logits"
        in message
    )
    assert "(image 0, from norm4 on); do not use" in message
    assert "judged by a float64 replica: 359 images; the packed network is wrong on 359" in printed.out
    assert "packed is nearer on 0 images, float32 on 359" in printed.out
    assert json.loads((tmp_path / "net.json").read_text())["holds"] is False


def test_run_on_an_array(run: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = load(run).data().test.images.numpy()[:70]
    np.save(tmp_path / "images.npy", images)
    main(["run", str(file), "--input", str(tmp_path / "images.npy"), "--output", str(tmp_path / "out.npy")])
    expected = PackedModel.load(file).predict(images)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)
    assert "70 images in" in capsys.readouterr().out
    words = ["--output", str(tmp_path / "out.csv"), "--batch-size", "3", "--threads", "2"]
    main(["run", str(file), "--input", str(tmp_path / "images.npy"), *words])
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert [row["image"] for row in rows] == [str(i) for i in range(70)]
    assert [int(row["label"]) for row in rows] == expected.argmax(1).tolist()
    np.testing.assert_allclose([float(row["3"]) for row in rows], expected[:, 3], rtol=1e-5)


def test_run_on_a_folder(run: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = load(run).data().test.images.numpy()[:5]
    (tmp_path / "in" / "below").mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image[0]).save(tmp_path / "in" / ("below" * (i > 2)) / f"{i}.png")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    main(["run", str(file), "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out.csv")])
    rows = list(csv.reader((tmp_path / "out.csv").read_text().splitlines()))
    assert [row[0] for row in rows] == ["image", "0.png", "1.png", "2.png", "below/3.png", "below/4.png"]
    expected = PackedModel.load(file).predict(images).argmax(1)
    assert [int(row[1]) for row in rows[1:]] == expected.tolist()
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(tmp_path / "in" / "wide.png")
    words = ["run", str(file), "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out2.csv")]
    capsys.readouterr()
    assert "wide.png: must be 8x8 of mode L for this network; it is 9x8" in fails(words, capsys)
    assert not (tmp_path / "out2.csv").exists()


def test_run_on_one_image_prints_its_class(
    run: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = load(run).data().test.images.numpy()[:1]
    Image.fromarray(image[0, 0]).save(tmp_path / "digit.png")
    capsys.readouterr()
    main(["run", str(file), "--input", str(tmp_path / "digit.png")])
    text = capsys.readouterr().out
    logits = np.sort(PackedModel.load(file).predict(image)[0])
    (row,) = ([cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "digit.png" in line)
    assert row[1] == str(PackedModel.load(file).predict(image).argmax())
    assert row[2:] == [f"{logits[-1]:.3g}", f"{float(logits[-1]) - float(logits[-2]):.3g}"]
    assert "1 image in" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digit.png"]


def test_bad_input_is_said(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def line(source: Path, *words: str) -> str:
        return fails(["run", str(file), "--input", str(source), *words], capsys)

    output = ("--output", str(tmp_path / "out.npy"))
    assert "must end in .npy, .csv or .npz" in line(tmp_path, "--output", "out.txt")
    assert "has none" in line(tmp_path, *output)
    assert "must be a .npy file, an image or a folder" in line(tmp_path / "missing.npy", *output)
    (tmp_path / "text.npy").write_text("no array")
    assert "must be a .npy file, an image or a folder" in line(tmp_path / "text.npy", *output)
    np.save(tmp_path / "flat.npy", np.zeros((3, 64), np.uint8))
    assert "images must be uint8 of shape (N, 1, 8, 8)" in line(tmp_path / "flat.npy", *output)
    np.save(tmp_path / "float.npy", np.zeros((3, 1, 8, 8), np.float32))
    assert "images must be uint8" in line(tmp_path / "float.npy", *output)
    assert "No such file" in fails(["run", str(tmp_path / "net"), "--input", str(tmp_path), *output], capsys)


@pytest.mark.parametrize("name", ["x.NPY", "x"])
def test_arrays_of_any_name_and_order(file: Path, tmp_path: Path, name: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 1, 8, 8)).astype(np.uint8)
    np.save(tmp_path / "c.npy", images)
    with (tmp_path / name).open("wb") as stream:
        np.save(stream, np.asfortranarray(images))
    for source in ("c.npy", name):
        output = tmp_path / f"{source}.out.npy"
        main(["run", str(file), "--input", str(tmp_path / source), "--output", str(output)])
    np.testing.assert_array_equal(np.load(tmp_path / "c.npy.out.npy"), np.load(output))


def test_running_imports_no_torch(file: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((2, 1, 8, 8), np.uint8))
    words = ["run", str(file), "--input", str(tmp_path / "images.npy"), "--output", str(tmp_path / "out.npy")]
    code = f"import sys; from hypersign.cli import main; main({words!r}); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "False"
    assert np.load(tmp_path / "out.npy").shape == (2, 10)
