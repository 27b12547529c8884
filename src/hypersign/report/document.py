"""Writes the report: one HTML file that opens without a network."""

import base64
import gzip
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypersign
from hypersign._checks import HypersignError
from hypersign._files import write_atomic
from hypersign.figures.style import layer_colours
from hypersign.geometry.results import Geometry
from hypersign.report import charts
from hypersign.report.content import (
    FAMILIES,
    ablation_content,
    across_layers,
    covariance_r,
    depth_content,
    layer_content,
    median,
    training_content,
)
from hypersign.report.reading import ANGLE_MARGIN, CORRELATION_MARGIN, reading

if TYPE_CHECKING:
    from hypersign.geometry.ablation import Ablation
    from hypersign.geometry.depth import Depth
    from hypersign.runs import Run
    from hypersign.summaries import Summary

__all__ = ["write"]


def write(
    path: Path | str,
    geometry: Geometry,
    *,
    run: "Run | None" = None,
    summary: "Summary | None" = None,
    ablation: "Ablation | None" = None,
    depth: "Depth | None" = None,
) -> Path:
    """Writes `geometry` and its run as one self-contained HTML page, and returns the path of the page.

    The page contains its charts, their data and the library that draws them. It fetches nothing, and its security
    policy forbids it to. If there is a `geometry.json` in the same folder, the page links to it.

    Args:
        path: the file to write, atomically; its folder is made if necessary.
        geometry: the result of inspection.
        run: the run that was inspected; the page draws its training and lists its settings.
        summary: the sizes and operations of each layer.
        ablation: the result of `geometry.ablate`; None leaves this part out.
        depth: the result of `geometry.measure_depth`; None leaves this part out.

    Raises:
        HypersignError: jinja2, altair or vl-convert-python is not installed, or the folder is not writable.
    """
    path = Path(path)
    text = _render(
        geometry,
        {} if run is None else run.info,
        [] if run is None else run.metrics(),
        summary,
        ablation,
        depth,
        beside="geometry.json" if path.with_name("geometry.json").is_file() else "",
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HypersignError(f"the report needs a folder; {path.parent} cannot be made: {error.strerror}") from error
    write_atomic(path, text)
    return path


def _render(
    geometry: Geometry,
    run: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    summary: "Summary | None",
    ablation: "Ablation | None",
    depth: "Depth | None",
    *,
    beside: str,
) -> str:
    try:
        import jinja2
    except ImportError as error:
        raise charts.missing("jinja2") from error
    training = training_content(metrics)
    curves = list(dict.fromkeys(row["layer"] for row in training["flipped"] + training["angle"]))
    data = {
        "charts": charts.specifications(layer_colours(len(curves)), layer_colours(len(geometry.layers))),
        "across": across_layers(geometry),
        "layers": [layer_content(layer) for layer in geometry.layers],
        "training": training,
        "ablation": ablation_content(ablation),
        "depth": depth_content(depth),
        "families": {family: {"x": x, "y": y} for family, (_, x, y) in FAMILIES.items()},
    }
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hypersign.report", "page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": _number,
        "bytes": _bytes,
        "count": _count,
        "percent": _percent,
        "one_line": _one_line,
        "median": median,
    }
    return environment.get_template("report.html").render(
        geometry=geometry,
        summary=summary,
        training=training,
        ablation=ablation,
        depth=depth,
        covariance_r={layer.name: covariance_r(layer) for layer in geometry.layers},
        families=FAMILIES,
        sentences=reading(geometry),
        details=list(_flat(run)),
        beside=beside,
        model=_model_name(run),
        departs=_departs,
        angle_margin=ANGLE_MARGIN,
        correlation_margin=CORRELATION_MARGIN,
        version=hypersign.__version__,
        vega=_packed(charts.library()),
        data=_packed(json.dumps(data, allow_nan=False, separators=(",", ":"))),
    )


def _packed(text: str) -> str:
    """Compresses text to base64. The page is then a third as large, and no text in it can end its script element."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def _model_name(run: Mapping[str, Any]) -> str:
    """The network's name with "with" after it, for a sentence about its layers; empty if the run names none."""
    model = run.get("model")
    name = model.get("name") if isinstance(model, Mapping) else None
    return f"{name} with " if name else ""


def _departs(measured: float, predicted: float, margin: float) -> str:
    """ "above" or "below" if a measured value differs from its prediction by more than the margin; otherwise ""."""
    gap = measured - predicted
    return "above" if gap > margin else "below" if gap < -margin else ""  # NaN: neither


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f} %"


def _count(value: float) -> str:
    """A count with three digits and a unit.

    >>> _count(617_000_000), _count(960)
    ('617 M', '960')
    """
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:g}"


def _bytes(value: float | None) -> str:
    """A number of bytes with three digits and a unit.

    >>> _bytes(1_750_000), _bytes(None)
    ('1.75 MB', 'unknown')
    """
    if value is None:
        return "unknown"
    return f"{_count(value)}B" if value >= 1000 else f"{value:g} B"


def _one_line(module: str) -> str:
    """The representation of a torch module on one line.

    >>> _one_line("Ternary(\\n  threshold=0.02\\n  (surrogate): HardTanh(clip=1)\\n)")
    'Ternary(threshold=0.02, surrogate=HardTanh(clip=1))'
    """
    first, *inner = [line.strip() for line in module.splitlines()] or [""]
    if not inner:
        return first
    return first + ", ".join(re.sub(r"^\((\w+)\): ", r"\1=", line) for line in inner[:-1]) + inner[-1]


def _flat(value: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """The names and values of nested mappings; names are joined by dots."""
    for key, inner in value.items():
        name = f"{before}{key}"
        if isinstance(inner, Mapping):
            yield from _flat(inner, f"{name}.")
        elif isinstance(inner, list | tuple):
            yield name, ", ".join(map(str, inner))
        else:
            yield name, str(inner)
