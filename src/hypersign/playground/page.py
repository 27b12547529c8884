"""Writes the playground's page: the packed network, the runtime in JavaScript, and what draws the layers."""

import base64
import html
import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import hypersign
from hypersign._checks import HypersignError
from hypersign._files import make_folder, write_atomic
from hypersign.packed import PackedModel

__all__ = ["OPERATIONS", "Sample", "page", "write"]

OPERATIONS = (
    "image_conv2d",
    "conv2d",
    "real_conv2d",
    "pixels",
    "unpack",
    "affine",
    "clip",
    "centre",
    "quantize",
    "max_pool2d",
    "avg_pool2d",
    "add",
    "concat",
)
"""The operations of packed networks that the page can run."""

MOST_BYTES = 2**25
"""The largest packed network that a page takes."""


class Sample(NamedTuple):
    """An example image of the page: its name, and its pixels, uint8 (channels, height, width)."""

    name: str
    pixels: NDArray[np.uint8]


def write(path: Path | str, model: PackedModel, **options: Any) -> Path:
    """Writes the page of `page` to a file, atomically, and returns the file's path. It makes the folder if necessary.

    Raises:
        HypersignError: `page` refuses the network, or the folder cannot be written.
    """
    path, text = Path(path), page(model, **options)
    make_folder(path.parent)
    write_atomic(path, text)
    return path


def page(
    model: PackedModel, *, title: str = "network", twin: PackedModel | None = None, samples: Sequence[Sample] = ()
) -> str:
    """Returns one HTML page that runs a packed network on what a visitor draws. It needs no network and no server.

    The page gives exactly the logits of `model.predict`. It shows every layer's levels, sums against thresholds, the
    inputs and the filter of one unit, and the effect of flipped weight bits beside its prediction.

    Args:
        model: a packed network that reads 8-bit images with 1 or 3 channels.
        title: the page's title.
        twin: the packed float network of the same architecture, whose values the page shows beside each unit.
        samples: example images; the page opens with the first one.

    Raises:
        HypersignError: the network has an operation that the page cannot run, reads float32 inputs or images of
            another number of channels, has no classes, is larger than 32 MiB, or its twin or the samples do
            not fit.
    """
    _check(model, "the network")
    if twin is not None:
        _check(twin, "the twin")
        if (twin.shape, twin.classes) != (model.shape, model.classes):
            raise HypersignError(
                f"the twin must read the network's images {model.shape} and have its {len(model.classes)} classes; "
                f"it reads {twin.shape} and has {len(twin.classes)}"
            )
    for sample in samples:
        if sample.pixels.dtype != np.uint8 or sample.pixels.shape != model.shape:
            raise HypersignError(
                f"the example {sample.name!r} must be uint8 of shape {model.shape}; it is {sample.pixels.dtype} of "
                f"shape {sample.pixels.shape}"
            )
    data = {
        "network": _base64(model.to_bytes()),
        "twin": None if twin is None else _base64(twin.to_bytes()),
        "samples": [
            {"name": sample.name, "pixels": _base64(sample.pixels.transpose(1, 2, 0).tobytes())} for sample in samples
        ],
    }
    return _filled(
        _template("playground.html"),
        version=hypersign.__version__,
        title=html.escape(title),
        lead=html.escape(_lead(model)),
        sha256=model.sha256[:12],
        style=_template("playground.css"),
        data=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
        runtime=_template("runtime.js"),
        script=_template("playground.js"),
    )


def _check(model: PackedModel, what: str) -> None:
    missing = next((node for node in model.graph.nodes if node.op not in OPERATIONS), None)
    if missing is not None:
        raise HypersignError(
            f"the playground cannot run the operation {missing.op} ({what}'s node {missing.name!r}); it runs "
            f"{', '.join(OPERATIONS)}"
        )
    model.graph.check_plain("the playground", model.values)
    if model.graph.pixel_range is None or model.shape[0] not in (1, 3):
        kind = "float32 inputs" if model.graph.pixel_range is None else f"images of {model.shape[0]} channels"
        raise HypersignError(f"the playground needs 8-bit images of 1 or 3 channels; {what} reads {kind}")
    if not model.classes:
        raise HypersignError(f"the playground shows classes; {what} is for {model.graph.task.name}")
    size = len(model.to_bytes())
    if size > MOST_BYTES:
        raise HypersignError(f"the playground takes networks of at most {MOST_BYTES:,} bytes; {what} has {size:,}")


def _lead(model: PackedModel) -> str:
    """One sentence about the network."""
    size, values = len(model.to_bytes()), model.values
    units = sum(v.height * v.width * v.channels for v in values.values() if v.kind == "levels")
    ternary = any(value.ternary for value in values.values())
    kind = "ternary" if ternary else "binary" if units else "float"
    bits = f"Every picture becomes {units:,} {'levels −1, 0 or +1' if ternary else 'bits'} on its way to one of "
    return (
        f"A {kind} network of {size:,} bytes runs in this page, as hypersign run does, to the last digit. "
        f"{bits if units else 'It chooses one of '}{len(model.classes)} classes: draw, and click any unit."
    )


def _template(name: str) -> str:
    return resources.files("hypersign.playground").joinpath("template", name).read_text("utf-8").rstrip("\n")


def _filled(template: str, **texts: str) -> str:
    """Replaces each @name@ by its text, once, so that texts may contain what looks like a name."""
    return re.sub("@(" + "|".join(texts) + ")@", lambda found: texts[found[1]], template)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
