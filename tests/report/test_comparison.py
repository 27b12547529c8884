import base64
import gzip
import json
import re

import pytest

from hypersign.report import write_comparison


def facts(accuracy, layers=(), missing=()):
    test = {"images": 400, "accuracy": accuracy, "loss": 0.5} if accuracy else {}
    return {"finished": bool(accuracy), "test": test, "layers": dict(layers), "missing": list(missing)}


LAYER = {"angle_degrees": 36.0, "predicted_angle_degrees": 37.0, "r": 0.8, "predicted_r": 0.79}


@pytest.fixture
def written(tmp_path, synthetic):
    def made(runs):
        path = write_comparison(
            tmp_path / "out" / "page.html",
            {"runs": runs, "differences": {"recipe.levels": dict.fromkeys(runs, 2)}},
            {label: synthetic.metrics(4) for label in runs},
        )
        text = path.read_text(encoding="utf-8")
        (packed,) = re.findall(r'id="data">([^<]*)<', text)
        return text, json.loads(gzip.decompress(base64.b64decode(packed)))

    return made


def test_runs_are_overlaid(written):
    text, data = written({"one": facts(0.9, [("conv1", LAYER)]), "two": facts(0.8, [("conv1", LAYER)])})
    assert data["runs"] == ["one", "two"]
    assert [(row["run"], row["layer"], row["measured"]) for row in data["layers"]["layers-weights"]["rows"]] == [
        ("one", "conv1", 0.8),
        ("two", "conv1", 0.8),
    ]
    assert {row["series"] for rows in data["training"].values() for row in rows} == {"one", "two"}
    assert [row["epoch"] for row in data["training"]["validation"]] == [3, 4, 3, 4]
    assert "one is the most accurate, 90.00 %; two has 80.00 % (standard error" in text
    assert "recipe.levels" in text


def test_a_difference_within_chance_is_called_that(written):
    assert "no difference beyond chance" in written({"one": facts(0.9), "two": facts(0.89)})[0]


def test_runs_without_results_are_named(written):
    text, data = written({"one": facts(None, missing=["not finished"]), "two": facts(None)})
    assert "None of 2 runs is finished." in text
    assert "one: not finished" in text
    assert data["layers"] == {}
    assert "Layer by layer" not in text
