"""Tools that need an environment of their own read what HyperSign exports; `.ci/long` makes the environments."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from hypersign.export import write_qonnx
from hypersign.packed import PackedModel

HERE = Path(__file__).parent / "others"
HLS4ML, FINN = os.environ.get("HYPERSIGN_HLS4ML"), os.environ.get("HYPERSIGN_FINN")


@pytest.fixture(scope="module")
def unpadded(tmp_path_factory: pytest.TempPathFactory) -> tuple[PackedModel, np.ndarray]:
    """The demo's network without padding, trained on digits for seconds, and 1,000 images."""
    import hypersign
    from hypersign.data import load
    from hypersign.packing import pack

    folder = tmp_path_factory.mktemp("unpadded")
    recipe = hypersign.Recipe(
        data="digits", widths=(32, 32), pools=(2,), padding="valid", hidden=(64,), epochs=5, batch_size=50
    )
    run = hypersign.train(recipe, folder / "run")
    data = load("digits")
    images = np.concatenate([data.test.images.numpy(), data.train.images.numpy()])[:1000]
    options = {"pixel_range": run.info["data"]["pixel_range"]}
    pack(run.load_model(), folder / "net.hypersign", tuple(run.info["model"]["shape"]), **options)
    return PackedModel.load(folder / "net.hypersign"), images


def outputs_of(python: str, script: str, file: Path, images: np.ndarray) -> tuple[np.ndarray, str]:
    """What a tool's script computes, and what it prints."""
    folder = file.parent
    np.save(folder / "images.npy", images)
    words = [python, str(HERE / script), str(file), str(folder / "images.npy"), str(folder / "outputs.npy")]
    result = subprocess.run(words, capture_output=True, text=True, cwd=folder)
    assert result.returncode == 0, result.stderr[-2000:]
    return np.load(folder / "outputs.npy"), result.stdout


@pytest.mark.skipif(HLS4ML is None, reason="HYPERSIGN_HLS4ML names no Python with hls4ml")
def test_hls4mls_cpp_agrees(unpadded: tuple[PackedModel, np.ndarray], tmp_path: Path) -> None:
    model, images = unpadded
    write_qonnx(model, tmp_path / "net.onnx", channels_last=True)
    assert HLS4ML is not None
    found, _ = outputs_of(HLS4ML, "hls4ml_outputs.py", tmp_path / "net.onnx", images)
    expected = model.predict(images)
    assert len(found) == 1000
    assert np.array_equal(found.argmax(1), expected.argmax(1))
    assert np.abs(found - expected).max() < 2e-3  # its numbers have 16 bits behind the point


@pytest.mark.skipif(FINN is None, reason="HYPERSIGN_FINN names no Python with finn-plus")
@pytest.mark.parametrize("activations", ["quant", "multithreshold"])
def test_finns_front_end_agrees(unpadded: tuple[PackedModel, np.ndarray], tmp_path: Path, activations: str) -> None:
    model, images = unpadded
    write_qonnx(model, tmp_path / "net.onnx", activations=activations)  # type: ignore[arg-type]
    assert FINN is not None
    found, printed = outputs_of(FINN, "finn_outputs.py", tmp_path / "net.onnx", images[:50])
    assert np.array_equal(found.argmax(1), model.predict(images[:50]).argmax(1))
    assert "BipolarQuant" not in printed
    assert printed.split().count("XnorPopcountMatMul") == 3  # all products but the first, which reads pixels
