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
from hypersign._files import as_utf8, write_atomic
from hypersign._installation import missing
from hypersign.geometry.results import Geometry
from hypersign.report.content import (
    FAMILIES,
    VIEWS,
    ablation_content,
    across_layers,
    confusion_content,
    depth_content,
    exactness,
    forecast_content,
    layer_content,
    position_content,
    table_rows,
    training_content,
)
from hypersign.report.reading import actions, matter, reading

if TYPE_CHECKING:
    from hypersign.geometry.ablation import Ablation
    from hypersign.geometry.depth import Depth
    from hypersign.geometry.positions import PositionR
    from hypersign.report.pictures import Pictures
    from hypersign.runs import Run
    from hypersign.summaries import Summary

__all__ = ["render", "save", "write"]

COLUMNS = (
    ("measured", "measured"),
    ("training", "from training images"),
    ("predicted", "predicted"),
    ("independent", "if independent"),
)
"""The numbers of a family of dot products, and their titles."""


def write(
    path: Path | str,
    geometry: Geometry | None,
    *,
    run: "Run | None" = None,
    summary: "Summary | None" = None,
    ablation: "Ablation | None" = None,
    depth: "Depth | None" = None,
    positions: "Sequence[PositionR] | None" = None,
    forecast: Mapping[str, Any] | None = None,
    pictures: "Pictures | None" = None,
    play: str | None = None,
    reload_seconds: float | None = None,
) -> Path:
    """Writes `geometry` and its run as one self-contained HTML page, and returns the path of the page.

    The page contains its data and the code that draws them. It fetches nothing, and its security policy forbids it
    to. If there is a `geometry.json` in the same folder, the page links to it.

    Args:
        path: the file to write, atomically; its folder is made if necessary.
        geometry: the result of inspection; None for a page about training alone.
        run: the run that was inspected; the page draws its training and lists its settings.
        summary: the sizes and operations of each layer.
        ablation: the result of `geometry.ablate`; None leaves this part out.
        depth: the result of `geometry.measure_depth`; None leaves this part out.
        positions: the result of `geometry.position_r`; None leaves this part out.
        forecast: the content of a `forecast.json`; None leaves this part out.
        pictures: test images with the network's decisions, and filters; None leaves this part out.
        play: a page from `playground.page`, shown within this one when the reader opens it; None leaves it out.
        reload_seconds: the open page loads itself again after this time; for a page that is written during training.

    Raises:
        HypersignError: jinja2 is not installed, or the folder is not writable.
    """
    path = Path(path)
    info: Mapping[str, Any] = {} if run is None else run.info
    training = training_content([] if run is None else run.metrics())
    data: dict[str, Any] = {"training": training, "reload_seconds": reload_seconds}
    if geometry is not None:
        data |= {
            "across": across_layers(geometry),
            "layers": [layer_content(layer) for layer in geometry.layers],
            "ablation": ablation_content(ablation),
            "depth": depth_content(depth),
            "positions": position_content(positions),
            "forecast": None if forecast is None else forecast_content(forecast),
            "families": {family: {"title": title, "x": x, "y": y} for family, (title, x, y) in FAMILIES.items()},
            "columns": COLUMNS,
        }
    test = info.get("results", {}).get("test", {})
    unit, tested = _unit(info), next(iter(test.values()), 0)  # the number of images comes first
    accuracy = test.get("accuracy")
    if geometry is not None and accuracy is None:
        accuracy, tested = geometry.accuracy, geometry.images
    confusion = confusion_content(test.get("confusion") or (), info.get("data", {}).get("classes") or ())
    layers = geometry.layers if geometry else ()
    text = render(
        "report.html",
        data,
        name=geometry.run if geometry else run.name if run else "",
        about=_about(geometry, info),
        geometry=geometry,
        progress=_progress(info, training),
        test=test,
        accuracy=accuracy,
        tested=tested,
        unit=unit,
        bits=test.get("bits_per_token"),
        examples=_examples(unit),
        twin=info.get("twin"),
        size=_size(info, summary),
        exactness=exactness(geometry) if geometry else (0, math.nan),
        actions=actions(geometry, run=run, ablation=ablation, forecast=forecast, confusion=confusion),
        summary=summary,
        training=training,
        ablation=ablation,
        forecast=None if forecast is None else _forecast_words(forecast, info),
        matter=matter(forecast=forecast),
        ablation_words=matter(ablation),
        depth=depth,
        positions=positions or (),
        pictures=pictures,
        play=None if play is None else _packed(play),
        confusion=confusion,
        rows=table_rows(geometry) if geometry else [],
        columns={
            "dimension": any(math.isfinite(layer.effective_dimension) for layer in layers),
        },
        marks="mark differences of more than three standard errors",
        scattered=exactness(geometry)[0] > 0 if geometry else False,
        sentences=reading(geometry) if geometry else [],
        views=VIEWS,
        details=list(_flat(info)),
        beside="geometry.json" if path.with_name("geometry.json").is_file() else "",
        reload_seconds=reload_seconds,
    )
    return save(path, text)


def save(path: Path, text: str) -> Path:
    """Writes a page, and its folder if necessary.

    Raises:
        HypersignError: the folder cannot be made or written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HypersignError(f"the report needs a folder; {path.parent} cannot be made: {error.strerror}") from error
    write_atomic(path, text)
    return path


def render(template: str, data: Mapping[str, Any], **values: Any) -> str:
    """Renders one of the page's templates. `data` is what its scripts read; the contents list its parts.

    Raises:
        HypersignError: jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise HypersignError(missing("the report", "jinja2", "report")) from error
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
        "contents": _contents,
    }
    return environment.get_template(template).render(
        **values,
        version=hypersign.__version__,
        data=_packed(json.dumps(data, allow_nan=False, separators=(",", ":"))),
    )


def _contents(page: str) -> list[tuple[str, str]]:
    """The ids and titles of a page's parts."""
    return re.findall(r'<details class="part" id="([\w-]+)"(?! hidden)[^>]*>\s*<summary><h2[^>]*>(.*?)</h2>', page)


def _packed(text: str) -> str:
    """Compresses text to base64: smaller, and no text in it can end its script element."""
    return base64.b64encode(gzip.compress(as_utf8(text), 9, mtime=0)).decode()


def _about(geometry: Geometry | None, info: Mapping[str, Any]) -> str:
    """The network and its data, in words."""
    model = info.get("model")
    name = model.get("name") if isinstance(model, Mapping) else None
    if geometry is None:
        return f"{name} on {info.get('data', {}).get('name', 'its data')}"
    layers = f"{len(geometry.layers)} quantized layers"
    words = f"{layers}, inspected on {geometry.images:,} {_examples(_unit(info))} of {geometry.dataset}"
    return f"{name} with {words}" if name else words


def _unit(info: Mapping[str, Any]) -> str:
    """What the test data are counted in: "images", "examples", "characters" or "bytes"."""
    return next(iter(info.get("results", {}).get("test", {})), "images")


def _examples(unit: str) -> str:
    """The examples of an inspection: a text is read in sequences."""
    return "sequences" if unit in ("characters", "bytes") else unit


def _size(info: Mapping[str, Any], summary: "Summary | None") -> dict[str, int | None]:
    """Bytes of the packed file, or of the packed parameters if no file was made, and of the parameters in float32."""
    twin = info.get("twin") or {}
    packed, real = (None, None) if summary is None else (summary.total.packed_bytes, summary.total.float_bytes)
    return {"packed": twin.get("packed_bytes") or packed, "float": twin.get("float_bytes") or real}


def _forecast_words(forecast: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, Any]:
    """What the page says of a forecast."""
    layers = forecast["layers"]
    return {
        "sides": [side for side in ("repaired", "raw") if forecast["laws"].get(side)],
        "inputs": forecast["inputs"],
        "unit": _examples(forecast.get("unit", "inputs")),
        "of": f"{forecast['run']}, the float network," if forecast.get("run") != info.get("name") else "this network",
        "choosable": any(not layer["quantized"] for layer in layers),
    }


def _progress(info: Mapping[str, Any], training: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """How far training is: epochs done and planned, and the last value of each curve of the network."""
    last = {f"{row['series']} {chart}": row["value"] for chart in ("loss", "accuracy") for row in training[chart]}
    done = max((row["epoch"] for row in training["loss"]), default=0)
    return {"done": done, "epochs": info.get("recipe", {}).get("epochs"), "finished": info.get("finished"), **last}


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}".replace("-", "−")


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


def _flat(value: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """The names and values of nested mappings; names are joined by dots."""
    for key, inner in value.items():
        name = f"{before}{key}"
        if key == "confusion":  # it has a table of its own
            continue
        if isinstance(inner, Mapping):
            yield from _flat(inner, f"{name}.")
        elif isinstance(inner, list | tuple):
            yield name, ", ".join(map(str, inner))
        else:
            yield name, str(inner)
