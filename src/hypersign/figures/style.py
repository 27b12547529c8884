"""Helpers of all figures: axes without global state, colours, and saving."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from hypersign._checks import HypersignError
from hypersign._files import write_atomic
from hypersign._installation import missing
from hypersign._locks import writing_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["GUIDE", "MEASURED", "PREDICTED", "axes", "layer_colours", "legend", "logarithmic", "panels", "save"]

MEASURED = "#1f5fbf"
PREDICTED = "#c4500f"
GUIDE = "#6b7280"

# All have the same lightness, to be visible on white and on near-black. The hue changes with depth.
_DEPTH = ("#2a7fdb", "#0e93a8", "#1f9a5f", "#7d9022", "#b98213", "#d8672f", "#dc4f6e", "#b658b8", "#8468dc")

Result = TypeVar("Result")


def axes(ax: "Axes | None", *, size: tuple[float, float] = (5.0, 3.6)) -> "Axes":
    """Returns `ax`, or the axes of a new figure of `size` inches, with a light grid and without top and right spines.

    Raises:
        HypersignError: matplotlib is not installed.
    """
    if ax is None:
        ax = _figure(*size).subplots()
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="#e5e7eb", linewidth=0.6)
    ax.set_axisbelow(True)
    return ax


def legend(ax: "Axes", **options: Any) -> None:
    """Adds a small legend without frame, opaque enough to be readable over lines, if anything has a label."""
    if ax.get_legend_handles_labels()[0]:
        ax.legend(**{"edgecolor": "none", "framealpha": 0.85, "fontsize": "small"} | options)


def logarithmic(ax: "Axes", which: Literal["x", "y"]) -> None:
    """Makes an axis logarithmic, with plain numbers at 1, 2 and 5; if its lines have no positive value, it stays."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    values = [value for line in ax.lines for value in getattr(line, f"get_{which}data")()]
    if values and not any(value is not None and value > 0 for value in values):
        return
    ax.set(**{f"{which}scale": "log"})
    axis = getattr(ax, f"{which}axis")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())
    axis.set_tick_params(labelsize="small")


def panels(
    figure: "Callable[[Result, Axes], object]",
    results: Sequence[Result],
    *,
    columns: int = 3,
    size: tuple[float, float] = (3.4, 2.9),
) -> "Figure":
    """Draws one panel per result with `figure(result, ax)`, with `columns` panels per row, each of `size` inches.

    Raises:
        HypersignError: `results` is empty, or matplotlib is not installed.
    """
    if not results:
        raise HypersignError("a figure of panels needs at least one result; got none")
    columns = min(columns, len(results))
    rows = math.ceil(len(results) / columns)
    fig = _figure(size[0] * columns, size[1] * rows)
    grid = fig.subplots(rows, columns, squeeze=False).flat
    for ax, result in zip(grid, results, strict=False):
        figure(result, ax)
    for ax in grid[len(results) :]:
        ax.remove()
    return fig


def save(fig: "Figure", folder: Path | str, name: str) -> tuple[Path, Path]:
    """Writes `name.pdf` and `name.png` (200 dots per inch) into `folder`, and returns their paths.

    It makes the folder if necessary. Each file is written atomically.

    Raises:
        HypersignError: the folder cannot be written to, or another process is writing this figure.
    """
    folder = Path(folder)
    # Metadata without a date, so that the same figure gives the same bytes.
    written = (folder / f"{name}.pdf", {"CreationDate": None}), (folder / f"{name}.png", {"Software": None})
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HypersignError(f"figures need a folder; {folder} cannot be made: {error.strerror}") from error
    with writing_file(folder / name):
        for path, metadata in written:
            write_atomic(
                path,
                lambda part, form=path.suffix[1:], about=metadata: fig.savefig(  # type: ignore[misc]
                    part, format=form, dpi=200, metadata=about
                ),
            )
    return written[0][0], written[1][0]


def layer_colours(count: int) -> list[str]:
    """Returns `count` colours whose hue changes with depth, readable on light and dark backgrounds.

    >>> layer_colours(2)
    ['#2a7fdb', '#8468dc']
    """
    colours = []
    for i in range(count):
        place = i * (len(_DEPTH) - 1) / max(count - 1, 1)
        low = min(int(place), len(_DEPTH) - 2)
        part = place - low
        pairs = ((_DEPTH[low][k : k + 2], _DEPTH[low + 1][k : k + 2]) for k in (1, 3, 5))
        colours.append("#" + "".join(f"{round(int(a, 16) * (1 - part) + int(b, 16) * part):02x}" for a, b in pairs))
    return colours


def _figure(width: float, height: float) -> "Figure":
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise HypersignError(missing("a figure", "matplotlib", "report")) from error
    return Figure(figsize=(width, height), layout="constrained")
