"""The report's charts, as Vega specifications without data.

Each chart is built with altair and compiled here, so that errors show when the report is written, and the page opens
quickly. The page fills in the data by name. It also fills in the colours: `var(--measured)` stands for the value of
that CSS property, which differs between light and dark mode.
"""

import functools
from collections.abc import Sequence
from typing import Any

from hypersign import _installation
from hypersign._checks import HypersignError

__all__ = ["library", "missing", "specifications"]

_INK, _MUTED, _LINE = "var(--ink)", "var(--muted)", "var(--line)"
_MEASURED, _PREDICTED, _DIFFER = "var(--measured)", "var(--predicted)", "var(--differ)"
_FAMILIES = ("weights", "activations", "both")
_CONFIG = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "domainColor": _MUTED,
        "gridColor": _LINE,
        "tickColor": _MUTED,
        "labelColor": _MUTED,
        "titleColor": _INK,
        "titleFontWeight": "normal",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "labelOverlap": True,
        "labelFlush": False,
    },
    "legend": {
        "labelColor": _INK,
        "titleColor": _INK,
        "titleFontWeight": "normal",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "symbolOpacity": 1,
    },
    "text": {"color": _INK, "fontSize": 12},
    "rule": {"color": _MUTED},
}


@functools.cache
def library() -> str:
    """JavaScript that sets `window.vegaEmbed`: Vega, and the library for its tooltips."""
    # vl-convert 1.9 cannot leave Vega-Lite out, because its snippets get no working `vega` of their own.
    return _vl_convert().javascript_bundle("window.vegaEmbed = vegaEmbed;")


def specifications(colours: Sequence[str], layers: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Makes one Vega specification per chart.

    `colours` are the colours of the layers in training curves, `layers` those of all layers.
    """
    alt, converter = _altair(), _vl_convert()
    charts = {
        "angles": _angles(alt),
        "correlations": _correlations(alt),
        "spread": _spread(alt),
        "heat": _heat(alt),
        "density": _density(alt),
        "weights": _weights(alt),
        "filters": _filters(alt),
        "pair": _pair(alt),
        "rate": _rate(alt),
        "layers": _layers(alt, list(colours), alt.Scale(zero=False)),
        "layers_log": _layers(alt, list(colours), alt.Scale(type="log", nice=False)),
        "scatter": _scatter(alt, alt.Color("layer:N", sort=None, title=None, scale=alt.Scale(range=list(layers)))),
        "prediction": _scatter(alt, alt.value(_MEASURED)),
        "what_if": _what_if(alt),
        "what_if_curve": _what_if_curve(alt),
        "components": _components(alt),
        "changes": _changes(alt),
        "logits": _logits(alt),
        "depth": _depth(alt),
    }
    version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    compiled = {}
    for name, chart in charts.items():
        fit = "fit-x" if name in ("angles", "correlations", "what_if", "changes") else "fit"
        chart = chart.properties(width="container", autosize=alt.AutoSizeParams(type=fit, contains="padding"))
        specification = chart.to_dict()
        specification["config"] = _CONFIG
        compiled[name] = converter.vegalite_to_vega(specification, vl_version=version)
    return compiled


def _altair() -> Any:
    try:
        import altair
    except ImportError as error:
        raise missing("altair") from error
    return altair


def _vl_convert() -> Any:
    try:
        import vl_convert
    except ImportError as error:
        raise missing("vl-convert-python") from error
    return vl_convert


def missing(package: str) -> HypersignError:
    """The error that names the extra with `package`."""
    return HypersignError(_installation.missing("the report", package, "report"))


# Across layers -------------------------------------------------------------------------------------------


def _rows(alt: Any) -> tuple[Any, Any]:
    """The axis of layers, from top to bottom, and a band behind the layer that the reader chose."""
    y = alt.Y("layer:N", sort=None, title=None, axis=alt.Axis(grid=False, labelLimit=110, ticks=False))
    chosen = alt.param(name="chosen", value="")
    band = (
        alt.Chart(alt.NamedData("layers"))
        .mark_rect(color=_MEASURED, cursor="pointer", aria=False)
        .encode(
            y=y,
            x=alt.value(0),
            x2=alt.value("width"),
            opacity=alt.condition("datum.layer === chosen", alt.value(0.12), alt.value(0)),
        )
        .add_params(chosen)
    )
    return y, band


def _angles(alt: Any) -> Any:
    y, band = _rows(alt)
    axis = alt.Axis(tickCount=6)
    x = functools.partial(alt.X, type="quantitative", scale=alt.Scale(zero=False), axis=axis)
    title = "angle (degrees)"
    tooltip = [
        alt.Tooltip("layer:N"),
        alt.Tooltip("mean:Q", title="measured, mean", format=".2f"),
        alt.Tooltip("std:Q", title="measured, std", format=".2f"),
        alt.Tooltip("predicted:Q", title="predicted, mean", format=".2f"),
        alt.Tooltip("predicted_std:Q", title="predicted, std", format=".2f"),
        alt.Tooltip("moments:Q", title="from its moments", format=".2f"),
    ]
    base = alt.Chart(alt.NamedData("angles")).encode(y=y, tooltip=tooltip)
    predicted = base.mark_bar(color=_PREDICTED, opacity=0.25, height=14).encode(
        x=x("predicted_low", title=title), x2="predicted_high"
    )
    middle = base.mark_tick(color=_PREDICTED, thickness=2, height=18).encode(x=x("predicted", title=title))
    error = base.mark_rule(color=_MEASURED, strokeWidth=2).encode(x=x("low", title=title), x2="high")
    point = base.mark_point(color=_MEASURED, filled=True, size=70, opacity=1).encode(x=x("mean", title=title))
    return alt.layer(band, predicted, middle, error, point).properties(
        height=alt.Step(30), description="Angle of each layer, measured with its spread, and predicted"
    )


def _correlations(alt: Any) -> Any:
    y, band = _rows(alt)
    x = functools.partial(
        alt.X, type="quantitative", scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=6), title="Pearson r"
    )
    colour = alt.Color(
        "family:N",
        sort=None,
        title=None,
        scale=alt.Scale(domain=_FAMILIES, range=[f"var(--{family})" for family in _FAMILIES]),
        legend=alt.Legend(orient="top", symbolType="circle"),
    )
    tooltip = [
        alt.Tooltip("layer:N"),
        alt.Tooltip("family:N", title="binarized"),
        alt.Tooltip("measured:Q", format=".3f"),
        alt.Tooltip("predicted:Q", format=".3f"),
    ]
    # Each family has a lane within its layer's row. (`yOffset` as a channel misplaces layered marks.)
    marks = []
    for lane, family in enumerate(_FAMILIES):
        base = (
            alt.Chart(alt.NamedData("correlations"))
            .transform_filter(alt.datum.family == family)
            .encode(y=y, color=colour, tooltip=tooltip)
        )
        at = {"yOffset": 13 * (lane - 1), "cursor": "pointer"}
        marks += [
            base.mark_rule(strokeWidth=1.5, opacity=0.5, **at).encode(x=x("predicted"), x2="measured"),
            base.mark_tick(thickness=2, height=11, **at).encode(x=x("predicted")),
            base.mark_point(filled=True, size=60, opacity=1, **at).encode(x=x("measured")),
        ]
    return alt.layer(band, *marks).properties(
        height=alt.Step(48), description="Correlation of dot products for each layer, measured and predicted"
    )


def _spread(alt: Any) -> Any:
    x = alt.X("fan_in:Q", scale=alt.Scale(type="log", nice=False, padding=55), title="fan-in d")
    y = functools.partial(
        alt.Y,
        type="quantitative",
        scale=alt.Scale(type="log", nice=False, padding=20),
        title="std of the angle (degrees)",
        axis=alt.Axis(tickCount=5, format="~g"),
    )
    tooltip = [
        alt.Tooltip("layer:N"),
        alt.Tooltip("fan_in:Q", title="fan-in", format=",d"),
        alt.Tooltip("std:Q", title="measured", format=".3f"),
        alt.Tooltip("predicted:Q", format=".3f"),
    ]
    base = alt.Chart(alt.NamedData("spread")).encode(x=x, tooltip=tooltip)
    guide = base.mark_line(color=_MUTED, strokeDash=[5, 4], strokeWidth=1.2).encode(y=y("guide"), tooltip=[])
    predicted = base.mark_point(shape="cross", color=_PREDICTED, filled=True, size=70, opacity=1)
    measured = base.mark_point(color=_MEASURED, filled=True, size=70, opacity=1)
    # Names end below their points, under the guide. A long name at the smallest fan-in would not fit there.
    aside = "datum.label.length > 8 && datum.fan_in === extent(pluck(data('spread'), 'fan_in'))[0]"
    names = base.mark_text(
        align=alt.expr(f"{aside} ? 'left' : 'right'"),
        dx=alt.expr(f"{aside} ? 10 : -8"),
        dy=alt.expr(f"{aside} ? -12 : 10"),
        baseline="middle",
    )
    return alt.layer(
        guide,
        predicted.encode(y=y("predicted")),
        measured.encode(y=y("std")),
        names.encode(y=y("std"), text="label:N", tooltip=alt.value(None)),
    ).properties(height=280, description="Spread of the angle against fan-in, with a guide of slope -1/2")


def _scatter(alt: Any, colour: Any) -> Any:
    scale = alt.Scale(zero=False, nice=True)
    x = functools.partial(alt.X, type="quantitative", scale=scale, axis=alt.Axis(tickCount=5))
    y = functools.partial(alt.Y, type="quantitative", scale=scale, axis=alt.Axis(tickCount=5))
    titles = "r predicted from covariance", "r measured"
    tooltip = [
        alt.Tooltip("layer:N"),
        alt.Tooltip("filter:Q"),
        alt.Tooltip("predicted:Q", format=".4f"),
        alt.Tooltip("measured:Q", format=".4f"),
    ]
    return alt.layer(
        alt.Chart(alt.NamedData("diagonal"))
        .mark_line(color=_PREDICTED, strokeDash=[5, 4], strokeWidth=1.5)
        .encode(x=x("at", title=titles[0]), y=y("at", title=titles[1])),
        alt.Chart(alt.NamedData("scatter"))
        .mark_point(filled=True, size=40, opacity=0.65, aria=False, cursor="pointer")
        .encode(x=x("predicted", title=titles[0]), y=y("measured", title=titles[1]), color=colour, tooltip=tooltip),
    ).properties(
        height=280, description="Measured against predicted correlation, one point per filter, and the diagonal"
    )


# What if -------------------------------------------------------------------------------------------------


def _what_if(alt: Any) -> Any:
    y, band = _rows(alt)
    x = functools.partial(
        alt.X, type="quantitative", scale=alt.Scale(zero=False, nice=True), axis=alt.Axis(tickCount=6)
    )
    title = "r, median over filters"
    tooltip = [
        alt.Tooltip("layer:N"),
        alt.Tooltip("sign:Q", title="r with signs", format=".3f"),
        alt.Tooltip("r:Q", title="r with these", format=".3f"),
        alt.Tooltip("angle:Q", title="angle with these, degrees", format=".1f"),
        alt.Tooltip("flips:Q", title="signs flipped with these", format=".1%"),
    ]
    base = alt.Chart(alt.NamedData("what_if")).encode(y=y, tooltip=tooltip)
    marks = (
        base.mark_rule(color=_PREDICTED, strokeWidth=1.5, opacity=0.5).encode(x=x("sign", title=title), x2="r"),
        base.mark_tick(color=_MUTED, thickness=2, height=16).encode(x=x("sign", title=title)),
        base.mark_point(color=_PREDICTED, filled=True, size=70, opacity=1, cursor="pointer").encode(
            x=x("r", title=title)
        ),
    )
    return alt.layer(band, *marks).properties(
        height=alt.Step(30), description="Predicted correlation of each layer, with signs and with the levels chosen"
    )


def _what_if_curve(alt: Any) -> Any:
    x = alt.X("value:Q", scale=alt.Scale(zero=False, nice=False), axis=alt.Axis(grid=False, tickCount=6), title=None)
    y = alt.Y("r:Q", scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5), title="r, median over filters")
    colour = alt.Color(
        "rotation:N",
        sort=None,
        title=None,
        scale=alt.Scale(domain=["no rotation", "Hadamard rotation"], range=[_MEASURED, "var(--both)"]),
        legend=alt.Legend(orient="top", symbolType="stroke"),
    )
    tooltip = [
        alt.Tooltip("value:Q", title="at", format=".3~g"),
        alt.Tooltip("rotation:N"),
        alt.Tooltip("r:Q", format=".3f"),
        alt.Tooltip("angle:Q", title="angle, degrees", format=".1f"),
    ]
    base = alt.Chart(alt.NamedData("curves"))
    return alt.layer(
        base.mark_line(strokeWidth=2).encode(x=x, y=y, color=colour),
        alt.Chart(alt.NamedData("now")).mark_rule(color=_PREDICTED, strokeWidth=1.5).encode(x=x),
        base.mark_point(filled=True, size=30, opacity=1, aria=False).encode(x=x, y=y, color=colour, tooltip=tooltip),
    ).properties(height=250, description="Predicted correlation of the layer against threshold or number of levels")


# Ablation and depth --------------------------------------------------------------------------------------

_SIDES = ("weights", "inputs")


def _side(alt: Any) -> Any:
    return alt.Color(
        "side:N",
        sort=None,
        title="back to float",
        scale=alt.Scale(domain=_SIDES, range=["var(--weights)", "var(--activations)"]),
        legend=alt.Legend(orient="top", symbolType="circle"),
    )


def _changes(alt: Any) -> Any:
    y, band = _rows(alt)
    title = "change of loss, ± one standard error"
    x = functools.partial(alt.X, type="quantitative", axis=alt.Axis(tickCount=6), title=title)
    tooltip = [
        alt.Tooltip("layer:N"),
        alt.Tooltip("side:N", title="back to float"),
        alt.Tooltip("loss:Q", title="loss", format="+.4f"),
        alt.Tooltip("accuracy:Q", title="accuracy, points", format="+.2f"),
    ]
    marks = []
    for lane, side in enumerate(_SIDES):
        base = (
            alt.Chart(alt.NamedData("changes"))
            .transform_filter(alt.datum.side == side)
            .encode(y=y, color=_side(alt), tooltip=tooltip)
        )
        at = {"yOffset": 12 * lane - 6, "cursor": "pointer"}
        marks += [
            base.mark_rule(strokeWidth=2, **at).encode(x=x("low"), x2="high"),
            base.mark_point(filled=True, size=60, opacity=1, **at).encode(x=x("loss")),
        ]
    zero = alt.Chart(alt.NamedData("zero")).mark_rule(color=_MUTED, strokeDash=[4, 4]).encode(x=x("at"))
    return alt.layer(band, zero, *marks).properties(
        height=alt.Step(34), description="Change of the loss with one layer back to float, for each layer"
    )


def _logits(alt: Any) -> Any:
    scale = alt.Scale(zero=False, nice=True)
    titles = "r of the logits, predicted", "r of the logits, measured"
    x = functools.partial(alt.X, type="quantitative", scale=scale, axis=alt.Axis(tickCount=5), title=titles[0])
    y = functools.partial(alt.Y, type="quantitative", scale=scale, axis=alt.Axis(tickCount=5), title=titles[1])
    tooltip = [
        alt.Tooltip("layer:N"),
        alt.Tooltip("side:N", title="back to float"),
        alt.Tooltip("predicted:Q", format=".3f"),
        alt.Tooltip("measured:Q", format=".3f"),
    ]
    points = alt.Chart(alt.NamedData("logits")).encode(x=x("predicted"), y=y("measured"), tooltip=tooltip)
    return alt.layer(
        alt.Chart(alt.NamedData("diagonal"))
        .mark_line(color=_PREDICTED, strokeDash=[5, 4], strokeWidth=1.5)
        .encode(x=x("at"), y=y("at")),
        points.mark_point(filled=True, size=70, opacity=1, cursor="pointer").encode(color=_side(alt)),
    ).properties(height=280, description="Correlation of logits with one layer back to float, measured and predicted")


def _depth(alt: Any) -> Any:
    x = alt.X("layer:N", sort=None, title=None, axis=alt.Axis(labelAngle=0, labelLimit=90, ticks=False))
    y = alt.Y("r:Q", scale=alt.Scale(domainMin=0), axis=alt.Axis(tickCount=5), title="r with the float replica")
    series = ["all, measured", "all, predicted", "alone"]
    colour = alt.Color(
        "series:N",
        sort=None,
        title=None,
        scale=alt.Scale(domain=series, range=[_MEASURED, _PREDICTED, _MUTED]),
        legend=alt.Legend(orient="top", symbolType="stroke", columns=2),
    )
    tooltip = [alt.Tooltip("layer:N"), alt.Tooltip("series:N", title="r of"), alt.Tooltip("r:Q", format=".3f")]
    base = alt.Chart(alt.NamedData("depth")).encode(x=x, y=y, color=colour)
    return alt.layer(
        base.mark_line(strokeWidth=2),
        base.mark_point(filled=True, size=60, opacity=1, cursor="pointer").encode(tooltip=tooltip),
    ).properties(height=280, description="Correlation of each layer's dot products with those of the float replica")


# One layer -----------------------------------------------------------------------------------------------


def _heat(alt: Any) -> Any:
    scale = alt.Scale(zero=False, nice=False)
    x = functools.partial(alt.X, type="quantitative", scale=scale, axis=alt.Axis(grid=False, tickCount=5), title=None)
    y = functools.partial(alt.Y, type="quantitative", scale=scale, axis=alt.Axis(grid=False, tickCount=5), title=None)
    heat = alt.Scale(type="log", range=["var(--heat-0)", "var(--heat-1)", "var(--heat-2)"])
    cells = (
        alt.Chart(alt.NamedData("cells"))
        .mark_rect(aria=False)
        .encode(
            x=x("x0"),
            x2="x1",
            y=y("y0"),
            y2="y1",
            color=alt.Color(
                "count:Q",
                scale=heat,
                legend=alt.Legend(title="pairs", gradientLength=150, tickCount=4, format="~s"),
            ),
            tooltip=[
                alt.Tooltip("x:Q", format=".3~g"),
                alt.Tooltip("y:Q", format=".3~g"),
                alt.Tooltip("count:Q", title="pairs", format=","),
            ],
        )
    )
    quadrants = (
        alt.Chart(alt.NamedData("quadrants"))
        .mark_rect(color=_DIFFER, opacity=0.16, tooltip=None, aria=False)
        .encode(x=x("x0"), x2="x1", y=y("y0"), y2="y1")
    )
    line = (
        alt.Chart(alt.NamedData("line"))
        .mark_line(color=_PREDICTED, strokeWidth=2)
        .encode(x=x("x"), y=y("y"), tooltip=alt.value(None))
    )
    # Quadrants are below the cells, so that only cells respond to the pointer.
    return alt.layer(quadrants, cells, line).properties(
        height=300, description="How often each pair of dot products occurs, on a logarithmic colour scale"
    )


def _density(alt: Any) -> Any:
    x = functools.partial(
        alt.X,
        type="quantitative",
        scale=alt.Scale(zero=False, nice=False),
        title="angle (degrees)",
        axis=alt.Axis(grid=False),
    )
    y = alt.Y("density:Q", title="density per degree", axis=alt.Axis(tickCount=4))
    measured = alt.Chart(alt.NamedData("measured"))
    predicted = alt.Chart(alt.NamedData("predicted"))
    tooltip = [
        alt.Tooltip("x:Q", title="degrees", format=".2f"),
        alt.Tooltip("density:Q", title="measured", format=".3~g"),
    ]
    marks = alt.Chart(alt.NamedData("marks"))
    return alt.layer(
        measured.mark_area(color=_MEASURED, opacity=0.15).encode(x=x("x"), y=y),
        measured.mark_line(color=_MEASURED).encode(x=x("x"), y=y),
        predicted.mark_line(color=_PREDICTED, strokeDash=[5, 4], strokeWidth=1.5).encode(x=x("x"), y=y),
        marks.mark_rule(color=_PREDICTED, strokeWidth=1.5).encode(x=x("predicted")),
        marks.mark_point(color=_MEASURED, filled=True, size=60, opacity=1).encode(x=x("peak"), y="density:Q"),
        measured.mark_rule(opacity=0, strokeWidth=4, aria=False).encode(x=x("x"), tooltip=tooltip),
    ).properties(height=240, description="Density of the layer's angles, measured and predicted")


def _weights(alt: Any) -> Any:
    x = alt.X("x:Q", scale=alt.Scale(zero=False, nice=False), title="latent weight", axis=alt.Axis(grid=False))
    y = functools.partial(
        alt.Y,
        type="quantitative",
        scale=alt.Scale(type="log", nice=False),
        title="density",
        axis=alt.Axis(tickCount=4, format="~g"),
    )
    density = alt.Chart(alt.NamedData("density"))
    tooltip = [
        alt.Tooltip("x:Q", title="weight", format=".3f"),
        alt.Tooltip("density:Q", title="measured", format=".3~g"),
        alt.Tooltip("normal:Q", format=".3~g"),
    ]
    return alt.layer(
        density.mark_line(color=_MUTED, strokeDash=[5, 4], strokeWidth=1.2).encode(x=x, y=y("normal")),
        density.mark_line(color=_MEASURED).encode(x=x, y=y("density")),
        alt.Chart(alt.NamedData("thresholds")).mark_rule(color=_PREDICTED, strokeWidth=1.5).encode(x=x),
        density.mark_rule(opacity=0, strokeWidth=4, aria=False).encode(x=x, tooltip=tooltip),
    ).properties(height=240, description="Density of the layer's latent weights, logarithmic, with thresholds")


def _filters(alt: Any) -> Any:
    x = alt.X("angle:Q", scale=alt.Scale(zero=False, padding=10), title="angle (degrees)")
    y = alt.Y("r:Q", scale=alt.Scale(zero=False, padding=10), title="Pearson r, weights binarized")
    tooltip = [
        alt.Tooltip("filter:Q"),
        alt.Tooltip("angle:Q", title="degrees", format=".2f"),
        alt.Tooltip("r:Q", title="Pearson r", format=".3f"),
    ]
    return alt.layer(
        alt.Chart(alt.NamedData("curve"))
        .mark_line(color=_PREDICTED, strokeDash=[5, 4], strokeWidth=1.5)
        .encode(x=x, y=y),
        alt.Chart(alt.NamedData("filters"))
        .mark_point(color=_MEASURED, filled=True, size=45, opacity=0.6, aria=False)
        .encode(x=x, y=y, tooltip=tooltip),
    ).properties(
        height=240, description="Correlation against angle, one point per filter, and the curve r = cos angle"
    )


def _components(alt: Any) -> Any:
    x = alt.X(
        "k:Q", scale=alt.Scale(type="log", base=2, nice=False), title="leading principal components of the inputs"
    )
    y = alt.Y("share:Q", scale=alt.Scale(domain=[0, 1]), title="share", axis=alt.Axis(tickCount=5, format="%"))
    series = ["inputs' variance", "latent filters", "their levels", "if random"]
    colour = alt.Color(
        "series:N",
        sort=None,
        title=None,
        scale=alt.Scale(domain=series, range=["var(--both)", _MEASURED, _PREDICTED, _MUTED]),
        legend=alt.Legend(orient="top", symbolType="stroke", columns=2),
    )
    tooltip = [alt.Tooltip("k:Q"), alt.Tooltip("series:N"), alt.Tooltip("share:Q", format=".1%")]
    base = alt.Chart(alt.NamedData("components")).encode(x=x, y=y, color=colour)
    return alt.layer(
        base.mark_line(strokeWidth=2),
        base.mark_point(filled=True, size=40, opacity=1, aria=False).encode(tooltip=tooltip),
    ).properties(height=240, description="Shares of variance and of filters in the leading principal components")


# Training ------------------------------------------------------------------------------------------------


def _curves(alt: Any, series: str, colour: Any, y: Any, form: str) -> Any:
    x = alt.X(
        "epoch:Q", axis=alt.Axis(tickMinStep=1, format="d", grid=False), scale=alt.Scale(zero=False, nice=False)
    )
    tooltip = [alt.Tooltip("epoch:Q"), alt.Tooltip(f"{series}:N"), alt.Tooltip("value:Q", format=form)]
    base = alt.Chart(alt.NamedData("points")).encode(x=x, y=y, color=colour)
    return alt.layer(
        base.mark_line(strokeWidth=2),
        base.mark_point(filled=True, size=140, opacity=0, aria=False).encode(tooltip=tooltip),
    ).properties(height=220, description=f"Training, epoch by epoch, a line for each {series}")


def _pair(alt: Any) -> Any:
    colour = alt.Color(
        "images:N",
        sort=None,
        title=None,
        scale=alt.Scale(range=[_MEASURED, _PREDICTED]),
        legend=alt.Legend(orient="top", symbolType="stroke"),
    )
    y = alt.Y("value:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5))
    return _curves(alt, "images", colour, y, ".4~g")


def _rate(alt: Any) -> Any:
    scale = alt.Scale(type="log", nice=False)
    y = alt.Y("value:Q", title=None, scale=scale, axis=alt.Axis(tickCount=4, format="~e"))
    return _curves(alt, "rate", alt.value(_MEASURED), y, ".3~e")


def _layers(alt: Any, colours: list[str], scale: Any) -> Any:
    colour = alt.Color(
        "layer:N",
        sort=None,
        title=None,
        scale=alt.Scale(range=colours),
        legend=alt.Legend(orient="bottom", columns=4, symbolType="stroke", labelLimit=90),
    )
    y = alt.Y("value:Q", title=None, scale=scale, axis=alt.Axis(tickCount=5, format="~g"))
    return _curves(alt, "layer", colour, y, ".4~g")
