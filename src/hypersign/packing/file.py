"""Pack a trained network into a file, and predict the file's size."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from hypersign._checks import HypersignError
from hypersign.packed.format import file_bytes, write
from hypersign.packing.fold import fold
from hypersign.packing.text import pack_text
from hypersign.runs import Run
from hypersign.tasks import Task

__all__ = ["file_size", "pack"]


def pack(
    model: nn.Module | Run,
    path: str | Path,
    shape: tuple[int, ...] | Sequence[tuple[int, ...]] | None = None,
    *,
    pixel_range: tuple[float, float] | None = None,
    classes: Sequence[str] | None = None,
    task: Task | Sequence[Task | None] | None = None,
    weights: str = "last",
) -> None:
    """Writes a trained network as a packed file, for `hypersign.packed.PackedModel`; a text's, for `PackedText`.

    Args:
        model: a run, which brings shape, pixel range, classes and task; or a float32 network, packed as it computes
            in eval mode and left unchanged.
        path: path of the file.
        shape: (channels, height, width) of an image, (channels, length) of a signal, or (features,) of a vector; a
            list of shapes for a network of several inputs.
        pixel_range: the values that the pixels 0 and 255 have before the first layer; None if the packed network
            takes float32 inputs. Further inputs are float32.
        classes: names of the logits; their numbers if None.
        task: the network's task: classification (None) or regression; for several outputs a list with one each,
            where None stands for numbers.
        weights: of a run: "last", or "best" by validation accuracy.

    Raises:
        HypersignError: a layer or the task has no packed form (the message names it and the reason), a network comes
            without a shape, or the file cannot be written.

    >>> import tempfile
    >>> import numpy as np
    >>> from hypersign.models import mlp
    >>> from hypersign.packed import PackedModel
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pack(mlp((1, 8, 8), 10, hidden=(64,)), f"{folder}/net.hypersign", (1, 8, 8), pixel_range=(-1.0, 1.0))
    ...     packed = PackedModel.load(f"{folder}/net.hypersign")
    >>> packed.predict(np.zeros((2, 1, 8, 8), np.uint8)).shape
    (2, 10)
    """
    if isinstance(model, Run):
        if any(given is not None for given in (shape, pixel_range, classes, task)):
            raise HypersignError("a run brings its own shape, pixel range, classes and task; leave them out")
        data, task, run, model = model.data(), model.task(), model, model.load_model(weights)
        if run.reads_text:
            pack_text(model, path, data.classes, data.unit)
            return
        shape, pixel_range, classes = data.shape, getattr(data, "pixel_range", None), data.classes or None
    if shape is None:
        raise HypersignError("a network is packed for inputs of one shape; name (channels, height, width)")
    graph, tensors = fold(model, shape, pixel_range=pixel_range, classes=classes, task=task)
    write(Path(path), graph, {name: tensor.make() for name, tensor in tensors.items()})


def file_size(
    model: nn.Module,
    shape: tuple[int, ...] | Sequence[tuple[int, ...]],
    *,
    pixel_range: tuple[float, float] | None,
    classes: Sequence[str] | None = None,
    task: Task | Sequence[Task | None] | None = None,
) -> int:
    """The size in bytes of the file that `pack` makes, from the network's structure alone; same arguments.

    Raises:
        HypersignError: a layer has no packed form.

    >>> from hypersign.models import vgg
    >>> file_size(vgg(), (3, 32, 32), pixel_range=(-1.0, 1.0))
    1778184
    """
    return file_bytes(*fold(model, shape, pixel_range=pixel_range, classes=classes, task=task))
