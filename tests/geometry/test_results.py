import dataclasses
import json
import math

import pytest

from hypersign._checks import HypersignError
from hypersign.geometry.results import (
    AngleStats,
    Density,
    DotProducts,
    Geometry,
    Histogram,
    LayerGeometry,
    WeightStats,
)


def _geometry() -> Geometry:
    density = Density((0.0, 1.0), (0.25, 0.75))
    products = DotProducts(
        0.8, (0.7, 0.9), 1.5, -0.1, 0.2, Histogram((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), ((1, 2), (3, 4))),
        pearson_r_error=0.01, training_pearson_r=0.81, training_pearson_r_error=0.01, predicted_pearson_r=0.79,
        training_pearson_r_per_filter=(0.7, 0.9), predicted_pearson_r_per_filter=(0.7, 0.9),
        independent_pearson_r=0.8, training_sign_disagreement=0.2, predicted_sign_disagreement=0.21,
    )  # fmt: skip
    angle = AngleStats(37.0, 0.5, 36.9, 37.07, 0.6, 36.0, 0.7, (36.5, 37.5), density, density)
    weights = WeightStats(0.0, 0.1, 0.0, 3.0, 0.08, density, (-0.02, 0.02))
    layer = LayerGeometry(
        "conv1", "QuantConv2d", 27, 2, "Identity()", "Ternary(threshold=0.02)", angle,
        {"-1": 0.4, "0": 0.2, "+1": 0.4}, weights, products, products, products, products,
    )  # fmt: skip
    return Geometry("demo", "digits", 360, 0.9666666666666667, (layer, layer))


def test_what_is_saved_is_loaded(tmp_path):
    geometry = _geometry()
    geometry.save(tmp_path / "geometry.json")
    assert Geometry.load(tmp_path / "geometry.json") == geometry
    assert [path.name for path in tmp_path.iterdir()] == ["geometry.json"]


def test_the_keys_of_the_file_are_the_fields(tmp_path):
    _geometry().save(tmp_path / "geometry.json")
    value = json.loads((tmp_path / "geometry.json").read_text())
    assert list(value) == ["run", "dataset", "images", "accuracy", "layers", "covariance_images"]
    layer = value["layers"][0]
    assert {"name", "kind", "fan_in", "filters", "angle_degrees", "level_shares"} <= set(layer)
    assert {"mean", "std", "peak", "predicted_mean", "predicted_std"} <= set(layer["angle_degrees"])
    for family in ("weights_binarized", "activations_binarized", "both_binarized", "permuted"):
        assert {
            "pearson_r", "pearson_r_per_filter", "pearson_r_error", "training_pearson_r", "predicted_pearson_r",
            "independent_pearson_r", "slope", "sign_disagreement",
        } <= set(layer[family])  # fmt: skip


def test_a_file_of_an_earlier_version_is_refused(tmp_path):
    """Its predicted_pearson_r is what is now called independent_pearson_r."""
    path = tmp_path / "geometry.json"
    _geometry().save(path)
    value = json.loads(path.read_text())
    for layer in value["layers"]:
        del layer["weights_binarized"]["independent_pearson_r"]
    path.write_text(json.dumps(value))
    with pytest.raises(HypersignError, match="weights_binarized lacks independent_pearson_r; inspect again"):
        Geometry.load(path)


def test_nan_is_null(tmp_path):
    geometry = _geometry()
    layer = geometry.layers[0]
    products = dataclasses.replace(layer.permuted, pearson_r=math.nan, pearson_r_per_filter=(math.nan, 0.5))
    geometry = dataclasses.replace(geometry, layers=(dataclasses.replace(layer, permuted=products),))
    geometry.save(tmp_path / "g.json")
    text = (tmp_path / "g.json").read_text()
    assert "NaN" not in text
    assert '"pearson_r": null' in text
    loaded = Geometry.load(tmp_path / "g.json").layers[0].permuted
    assert math.isnan(loaded.pearson_r)
    assert math.isnan(loaded.pearson_r_per_filter[0])
    assert loaded.pearson_r_per_filter[1] == 0.5


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "geometry.json"
    _geometry().save(path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(HypersignError, match="could not be written: No space left on device"):
        dataclasses.replace(_geometry(), run="other").save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["geometry.json"]


def _changed(change):
    value = json.loads(json.dumps(dataclasses.asdict(_geometry())))
    change(value)
    return json.dumps(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "must be JSON"),
        ("\udcff", "must be JSON"),
        ("[]", "the top level must be an object"),
        ("{}", "the top level lacks run, dataset, images, accuracy, layers"),
        (_changed(lambda v: v["layers"][1].pop("permuted")), r"layers\[1\] lacks permuted"),
        (_changed(lambda v: v["layers"][0].update(fan_in="27")), r"layers\[0\]\.fan_in must be of type int"),
        (_changed(lambda v: v.update(accuracy="high")), "accuracy must be a number or null"),
        (_changed(lambda v: v.update(layers={})), "layers must be a list"),
        (_changed(lambda v: v["layers"][0]["level_shares"].update({"0": True})), "level_shares.0 must be a number"),
    ],
)
def test_a_file_that_is_something_else(tmp_path, text, message):
    path = tmp_path / "geometry.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(HypersignError, match=message):
        Geometry.load(path)


def test_a_file_that_is_absent(tmp_path):
    with pytest.raises(HypersignError, match=r"absent\.json could not be read \(No such file or directory\)"):
        Geometry.load(tmp_path / "absent.json")
