"""Runs an exported file with the tool that it is for, and compares it with the packed network."""

import dataclasses
import functools
import importlib.metadata
import re
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypersign._checks import HypersignError
from hypersign.packed import PackedModel, PackedText

__all__ = ["Agreement", "compare"]

BATCH = 500
"""Images that a tool gets at once."""

CHANNELS_LAST = "qonnx.custom_op.channels_last"

ROUNDING = 1e-4
"""Outputs that differ by at most this share of the largest output differ by float32 rounding."""


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How an exported file agrees with the packed network on images.

    Args:
        images: number of images, or of next tokens.
        differ: those with another decision.
        wrong: those among them whose outputs differ by more than float32 rounding explains.
        largest_difference: the largest difference of an output.
        tool: what ran the file, with its version.
        what: "images" or "next tokens".
    """

    images: int
    differ: int
    wrong: int
    largest_difference: float
    tool: str
    what: str = "images"

    def sentence(self) -> str:
        """The comparison in words."""
        ties = f" ({self.differ - self.wrong} of them ties that rounding decides)" if self.differ else ""
        counted = f"{self.images:,} {self.what}, {self.differ:,} with another decision{ties}"
        return f"{self.tool}: {counted}; outputs differ by at most {self.largest_difference:.1e}"


def compare(model: PackedModel | PackedText, path: Path, form: str, images: NDArray[Any]) -> Agreement:
    """Runs the exported file `path` and the packed network on images.

    Args:
        model: the packed network, or the packed language model.
        path: the exported file.
        form: "onnx" runs with ONNX Runtime; "qonnx" with the executor of the package qonnx, which is slow; "c" is
            compiled with the system's C compiler, cc.
        images: images as `PackedModel.predict` takes them; token sequences (N, T) of a language model.

    Raises:
        HypersignError: the tool is not installed, or it fails.
    """
    if isinstance(model, PackedText):
        return _compare_text(model, path, images)
    expected = model.predict(images)
    pixel_range = model.graph.pixel_range
    outputs, tool = TOOLS[form](path, images, pixel_range)
    difference = np.abs(outputs.astype(np.float64) - expected).max(1, initial=0)
    differ = ~model.graph.task.same(outputs, expected)
    rounding = ROUNDING * np.abs(expected).max(initial=1)
    return Agreement(
        images=len(images),
        differ=int(differ.sum()),
        wrong=int((differ & (difference > rounding)).sum()) + int(np.isnan(outputs).any(1).sum()),
        largest_difference=float(difference.max(initial=0)),
        tool=tool,
    )


def _compare_text(model: PackedText, path: Path, tokens: NDArray[Any]) -> Agreement:
    """Logits of every position; those of all sequences would not fit in memory."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    count = differ = wrong = 0
    largest = 0.0
    for start in range(0, len(tokens), BATCH):
        piece = tokens[start : start + BATCH]
        expected = model.predict(piece)
        outputs = session.run(None, {"tokens": np.asarray(piece, np.int64)})[0]
        difference = np.abs(outputs - expected).max(2)
        differing = outputs.argmax(2) != expected.argmax(2)
        rounding = ROUNDING * np.abs(expected).max(initial=1)
        count, differ = count + piece.size, differ + int(differing.sum())
        wrong += int((differing & ~(difference <= rounding)).sum())
        largest = max(largest, float(difference.max(initial=0)))
    return Agreement(count, differ, wrong, largest, f"ONNX Runtime {onnxruntime.__version__}", "next tokens")


Pixels = tuple[float, float] | None


def _onnx(path: Path, images: NDArray[Any], pixels: Pixels) -> tuple[NDArray[np.float32], str]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    batches = [session.run(None, {"images": images[i : i + BATCH]})[0] for i in range(0, len(images), BATCH)]
    return np.concatenate(batches), f"ONNX Runtime {onnxruntime.__version__}"


def _qonnx(path: Path, images: NDArray[Any], pixels: Pixels) -> tuple[NDArray[np.float32], str]:
    """Files that HyperSign exports get pixels; others the numbers that pixels stand for, one image at a time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from qonnx.core.modelwrapper import ModelWrapper
        from qonnx.core.onnx_exec import execute_onnx
        from qonnx.transformation.change_batchsize import ChangeBatchSize
        from qonnx.transformation.infer_shapes import InferShapes
        from qonnx.util.cleanup import cleanup_model

        network = ModelWrapper(str(path))
        own = network.model.producer_name == "hypersign"
        if not own:
            network = cleanup_model(network)
        source, target = network.graph.input[0].name, network.graph.output[0].name
        last = any(entry.domain == CHANNELS_LAST for entry in network.model.opset_import)
        if last:  # its batch is 1
            images, own = images.transpose(0, 2, 3, 1), False

        @functools.cache
        def sized(batch: int) -> Any:
            return ModelWrapper(str(path)).transform(ChangeBatchSize(batch)).transform(InferShapes())

        outputs = []
        for start in range(0, len(images), BATCH if own else 1):
            batch = images[start : start + (BATCH if own else 1)]
            if not (own or last) and pixels is not None:
                batch = pixels[0] + batch.astype(np.float64) * (pixels[1] - pixels[0]) / 255
            feeds = {source: batch.astype(np.float32)}
            outputs.append(execute_onnx(sized(len(batch)) if own else network, feeds)[target])
    return np.concatenate(outputs).reshape(len(images), -1), f"qonnx {importlib.metadata.version('qonnx')}"


def _c(path: Path, images: NDArray[Any], pixels: Pixels) -> tuple[NDArray[np.float32], str]:
    compiler = shutil.which("cc")
    if compiler is None:
        raise HypersignError(
            "checking a C file needs a C compiler, cc, on the PATH; install one, or leave out --images"
        )
    found = re.search(r"^#ifdef (\w+_MAIN)$", path.read_text("utf-8"), re.MULTILINE)
    assert found is not None
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "network"
        words = [compiler, "-std=c99", "-O2", f"-D{found[1]}", "-o", str(program), "-x", "c", str(path.resolve())]
        made = subprocess.run(words, capture_output=True, text=True)
        if made.returncode:
            raise HypersignError(f"{compiler} does not compile {path}: {made.stderr.strip()[-300:]}")
        last = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        result = subprocess.run([program], input=last.tobytes(), capture_output=True, check=True)
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout.partition("\n")[0]
    return np.loadtxt(result.stdout.decode().splitlines(), np.float32, ndmin=2), version


TOOLS: dict[str, Callable[[Path, NDArray[Any], Pixels], tuple[NDArray[np.float32], str]]] = {
    "onnx": _onnx,
    "qonnx": _qonnx,
    "c": _c,
}
"""What runs each format on images whose pixels 0 and 255 stand for two numbers: outputs, and the tool's name."""
