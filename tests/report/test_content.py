import dataclasses
import json
import math

import numpy as np
import pytest

from hypersign.report.content import (
    FAMILIES,
    ablation_content,
    across_layers,
    confusion_content,
    depth_content,
    exactness,
    filter_predictions,
    layer_content,
    numbers,
    table_rows,
    training_content,
)


def test_rows_across_layers_hold_the_measured_and_the_predicted(geometry):
    across = across_layers(geometry)
    for row, layer in zip(across["angles"], geometry.layers, strict=True):
        stats = layer.angle_degrees
        assert row["layer"] == layer.name
        assert row["mean"] == pytest.approx(stats.mean, rel=1e-4)
        assert row["high"] - row["low"] == pytest.approx(2 * stats.std, rel=1e-3)
        assert row["predicted"] == pytest.approx(stats.predicted_mean, rel=1e-4)
    both = [row for row in across["correlations"] if row["family"] == "both"]
    assert [row["measured"] for row in both] == pytest.approx(
        [layer.both_binarized.pearson_r for layer in geometry.layers], rel=1e-4
    )


def test_the_guide_of_the_spread_has_slope_minus_one_half(geometry):
    rows = across_layers(geometry)["spread"]
    d, guide = (np.log([row[key] for row in rows]) for key in ("fan_in", "guide"))
    assert np.polyfit(d, guide, 1)[0] == pytest.approx(-0.5, abs=1e-3)
    assert [row["fan_in"] for row in rows] == sorted(row["fan_in"] for row in rows)


def test_what_is_not_quantized_is_left_out(geometry):
    layer = dataclasses.replace(geometry.layers[1], weight_quantizer="Identity()")
    content = layer_content(layer)
    assert content["angle"] is None
    assert content["filters"] == []
    assert [family for family in FAMILIES if content["products"][family] is None] == [
        "weights_binarized",
        "permuted",
    ]
    rows = across_layers(dataclasses.replace(geometry, layers=(geometry.layers[0], layer)))
    assert [row["layer"] for row in rows["angles"]] == ["conv1"]
    assert [(row["layer"], row["family"]) for row in rows["correlations"]] == [
        ("conv1", "weights"),
        ("conv1", "both"),
        ("conv2", "activations"),
        ("conv2", "both"),
    ]


def test_nan_becomes_null_and_its_filter_is_left_out(geometry):
    products = geometry.layers[1].weights_binarized
    r = (math.nan, *products.pearson_r_per_filter[1:])
    products = dataclasses.replace(products, pearson_r=math.nan, slope=math.inf, pearson_r_per_filter=r)
    layer = dataclasses.replace(geometry.layers[1], weights_binarized=products)
    content = layer_content(layer)
    json.dumps(content, allow_nan=False)
    assert content["products"]["weights_binarized"]["r"] is None
    assert content["products"]["weights_binarized"]["slope"] is None
    assert [row[0] for row in content["filters"]] == list(range(1, layer.filters))


def test_thresholds_of_many_filters_are_shown_by_three_lines_a_side(geometry):
    layer = geometry.layers[1]
    for thresholds, drawn in (
        ((0.0,), []),
        ((-0.02, 0.02), [-0.02, 0.02]),
        ((0.1, 0.2, 0.3, 0.4, 0.5), [-0.1, 0.1, -0.3, 0.3, -0.5, 0.5]),
    ):
        weights = dataclasses.replace(layer.latent_weights, thresholds=thresholds)
        content = layer_content(dataclasses.replace(layer, latent_weights=weights))
        assert content["weights"]["thresholds"] == drawn


def test_training_rows_skip_what_is_missing(synthetic):
    metrics = synthetic.metrics(4)
    metrics[3]["layers"]["conv1"]["flipped_signs"] = 0.0  # has no place on a logarithmic scale
    metrics[3]["learning_rate"] = 0.0
    metrics[0]["loss"] = math.nan
    rows = training_content(metrics)
    assert [row["epoch"] for row in rows["loss"] if row["series"] == "validation"] == [3, 4]
    assert [row["epoch"] for row in rows["loss"] if row["series"] == "training"] == [2, 3, 4]
    assert [row["epoch"] for row in rows["flipped"] if row["series"] == "conv1"] == [1, 2, 3]
    assert [row["epoch"] for row in rows["rate"]] == [1, 2, 3]
    assert len(rows["angle"]) == 4 * len(synthetic.LAYERS)
    assert training_content([]) == {"loss": [], "accuracy": [], "rate": [], "flipped": [], "angle": []}


def test_prediction_rows_are_filters_that_have_both(geometry):
    layer = geometry.layers[1]
    products = layer.weights_binarized
    r = (math.nan, *products.predicted_pearson_r_per_filter[1:])
    changed = dataclasses.replace(products, predicted_pearson_r_per_filter=r)
    rows = layer_content(dataclasses.replace(layer, weights_binarized=changed))["prediction"]
    assert [row["filter"] for row in rows if row["family"] == "weights"] == list(range(1, layer.filters))
    assert [row["filter"] for row in rows if row["family"] == "both"] == list(range(layer.filters))
    assert rows[0]["measured"] - rows[0]["predicted"] == pytest.approx(0.01, abs=1e-4)
    changed = dataclasses.replace(products, predicted_pearson_r_per_filter=())
    bare = dataclasses.replace(layer, weights_binarized=changed)
    assert {row["family"] for row in filter_predictions(bare)} == {"activations", "both"}
    count, error = exactness(geometry)
    assert count == sum(layer.filters for layer in geometry.layers)
    assert error == pytest.approx(0.01, abs=1e-4)
    none = exactness(dataclasses.replace(geometry, layers=(bare,)))
    assert none[0] == 0
    assert math.isnan(none[1])
    scattered = across_layers(geometry)["scatter"]
    assert {row["layer"] for row in scattered} == {layer.name for layer in geometry.layers}
    assert max(sum(row["layer"] == layer.name for row in scattered) for layer in geometry.layers) <= 64


def test_curves_and_components_are_those_of_the_layer(geometry):
    layer = geometry.layers[0]
    content = layer_content(layer)
    assert content["about"] == (
        "QuantConv2d, 32 filters of 27; weights Sign(), inputs real. The inputs vary in 9.0 directions. "
        f"Verdict: ternarize ({layer.reason})."
    )
    assert [(c["rotation"], c["kind"], c["values"]) for c in content["what_if"]] == [
        (c.rotation, c.kind, list(c.values)) for c in layer.what_if
    ]
    shares = {(row["k"], row["series"]): row["share"] for row in content["components"]}
    assert shares[2, "latent filters"] == 0.2
    assert shares[1, "if random"] == pytest.approx(1 / layer.fan_in, rel=1e-4)
    bare = dataclasses.replace(layer, components=type(layer.components)(), what_if=())
    assert layer_content(bare)["components"] == layer_content(bare)["what_if"] == []


def test_ablation_and_depth_rows(synthetic):
    found = ablation_content(synthetic.ablation())
    assert len(found["changes"]) == len(found["logits"]) == 9
    row = found["changes"][2]
    assert (row["layer"], row["side"], row["low"], row["loss"], row["high"]) == (
        "conv3", "weights", 0.016, 0.02, 0.024,
    )  # fmt: skip
    assert ablation_content(None) == {"changes": [], "logits": [], "rankings": []}
    rows = depth_content(synthetic.depth())
    assert len(rows) == 15
    assert [row["r"] for row in rows if row["series"] == "all, measured"] == pytest.approx(
        [0.8, 0.75, 0.7, 0.65, 0.6]
    )
    assert depth_content(None) == []


def test_the_table_has_one_r_per_family(geometry):
    rows = table_rows(geometry)
    assert [row["name"] for row in rows] == [layer.name for layer in geometry.layers]
    for row, layer in zip(rows, geometry.layers, strict=True):
        assert [row[entry["family"]][0] for entry in numbers(layer)] == pytest.approx(
            [entry["measured"] for entry in numbers(layer)], rel=1e-4
        )
    assert rows[0]["activations"] is None
    bare = dataclasses.replace(geometry.layers[1], weight_quantizer="Identity()")
    (row,) = table_rows(dataclasses.replace(geometry, layers=(bare,)))
    assert row["weights"] is row["angle"] is row["signs"] is row["permuted"] is None


def test_permuted_r_is_the_median_filters(geometry):
    """Over all filters together it is moved by the inputs' mean, and is not what is predicted."""
    layer = geometry.layers[0]
    products = dataclasses.replace(layer.permuted, pearson_r=0.44, pearson_r_per_filter=(0.71, math.nan, 0.1, 0.9))
    (row,) = table_rows(dataclasses.replace(geometry, layers=(dataclasses.replace(layer, permuted=products),)))
    assert row["permuted"][0] == 0.71


@pytest.mark.parametrize(("gap", "mark"), [(0.01, "above"), (-0.01, "below"), (0.008, ""), (math.nan, "")])
def test_a_departure_is_marked(geometry, gap, mark):
    layer = geometry.layers[1]
    products = dataclasses.replace(layer.both_binarized, pearson_r=0.7 + gap, predicted_pearson_r=0.7)
    changed = dataclasses.replace(layer, both_binarized=products)
    (row,) = table_rows(dataclasses.replace(geometry, layers=(changed,)))
    assert row["both"][3] == mark


def test_confusion_names_the_most_frequent_error():
    found = confusion_content([[5, 0, 0], [2, 3, 1], [0, 0, 4]], ("a", "b", "c"))
    assert (found["worst"], found["errors"], found["top"]) == ("b → a (2)", 3, (2, "b", "a"))
    assert [[cell["count"] for cell in row["cells"]] for row in found["rows"]] == [[5, 0, 0], [2, 3, 1], [0, 0, 4]]
    assert found["rows"][1]["cells"][0] == {"count": 2, "right": False, "shade": 45}
    assert found["rows"][0]["cells"][0]["shade"] == 45
    assert confusion_content([[1, 0], [0, 0]], ("a", "b"))["top"] is None
    for nothing in ([], [[1]] * 3, [[0] * 21] * 21):
        assert confusion_content(nothing, ("a", "b") if len(nothing) == 3 else ()) is None
