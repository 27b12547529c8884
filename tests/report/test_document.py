import base64
import dataclasses
import gzip
import html.parser
import json
import math
import re
import subprocess
import sys

import pytest

from hypersign._checks import HypersignError
from hypersign.report import write


class Reader(html.parser.HTMLParser):
    """Collects the elements and the visible text of a page, and the scripts by id."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.words, self.scripts, self.script = [], [], {}, None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag in ("script", "style"):
            self.script = dict(attributes).get("id", "")

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self.script = None

    def handle_data(self, text):
        if self.script is None:
            self.words.append(text)
        else:
            self.scripts[self.script] = self.scripts.get(self.script, "") + text

    @property
    def text(self):
        words = " ".join(" ".join(self.words).split())
        return re.sub(r" ([,;]|\.(?!\d))", r"\1", words)

    @property
    def data(self):
        return json.loads(gzip.decompress(base64.b64decode(self.scripts["data"])))


@pytest.fixture
def page(tmp_path, synthetic, geometry):
    """Writes a page of the synthetic run, some of it replaced, and reads it."""

    def made(**changes):
        given = {
            "geometry": geometry,
            "run": synthetic.run(),
            "summary": synthetic.summary(),
        } | changes
        path = write(tmp_path / "out" / "report.html", given.pop("geometry"), **given)
        return Reader(path.read_text(encoding="utf-8"))

    return made


def test_is_one_file_that_names_nothing_to_fetch(page, tmp_path):
    read = page()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.html"]
    assert not [tag for tag, _ in read.elements if tag in ("iframe", "object", "embed", "source")]
    assert not [attributes for tag, attributes in read.elements if tag == "script" and "src" in attributes]
    assert [attributes["href"] for tag, attributes in read.elements if tag == "link"] == ["data:,"]
    (policy,) = [a["content"] for _, a in read.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "url(" not in read.scripts[""]


def test_the_answer_and_the_tables_hold_the_numbers(page, geometry):
    text = page().text
    filters = sum(layer.filters for layer in geometry.layers)
    assert (
        f"96.80 % of 250 test images right, in 40.7 kB (31 times smaller); {filters} filters predicted, "
        "median error 0.0100." in text
    )
    for layer in geometry.layers:
        for value in (
            f"{layer.angle_degrees.mean:.1f}°",
            f"{layer.weights_binarized.pearson_r:.3f}",
            f"{layer.both_binarized.predicted_pearson_r:.3f}",
            f"{100 * layer.weights_binarized.sign_disagreement:.1f} %",
            f"{100 * layer.weights_binarized.training_sign_disagreement:.1f} %",
        ):
            assert value in text
    assert "demo vgg with 5 quantized layers, inspected on 250 images of digits" in text
    assert "recipe.epochs 12" in text
    assert "The packed parameters are 31.4 times smaller than the parameters in float32; 99.0 % of" in text
    assert "Binary multiply-accumulates 8 × 1-bit multiply-accumulates" in text
    assert " 2 bits" not in text
    assert "model.options.widths 32, 32, 64" in text


def test_the_forecast_says_which_layers_matter_first(page, synthetic):
    read = page(forecast=synthetic.forecast(), ablation=synthetic.ablation())
    words = synthetic.forecast()["words"]["repaired"]
    assert f"{words} hypersign forecast runs/demo/float --agreement .99" in read.text
    assert f"Which layers matter? {words}" in read.text
    assert "How many decisions of float, the float network, change" in read.text
    assert "Layers back to float" in read.text
    assert read.data["forecast"]["laws"] == synthetic.forecast()["laws"]
    quantized = [{**layer, "quantized": True} for layer in synthetic.forecast()["layers"]]
    assert "Choose a format" in read.text
    text = page(forecast={**synthetic.forecast(), "layers": quantized}).text
    assert "Choose a format" not in text
    assert "--agreement" not in text  # no plan is left to make


def test_the_playground_is_inside(page):
    text = "<html><script>1 < 2</script></html>"
    read = page(play=text)
    assert gzip.decompress(base64.b64decode(read.scripts["play-page"])).decode() == text
    assert "Play with the network" in read.text
    assert "Play with the network" not in page().text


def test_the_float_twin_is_in_the_answer(page, synthetic):
    twin = {
        "accuracy": 0.9861,
        "float_bytes": 600_000,
        "packed_bytes": 27_456,
        "seconds_per_image": 4e-4,
        "packed_seconds_per_image": 1e-4,
    }
    text = page(run=synthetic.run(twin=twin)).text
    assert (
        "(98.61 % in float, one seed), in 27.5 kB (22 times smaller), 10 k images/s on bits (4.0 times as fast);"
        in text
    )
    bare = page(run=synthetic.run(twin={"accuracy": 0.9861, "packed_reason": "no"})).text
    assert "images/s" not in bare
    assert "(98.61 % in float, one seed), in 40.7 kB (31 times smaller);" in bare


def test_contents_name_the_parts(page, synthetic):
    read = page(
        ablation=synthetic.ablation(),
        depth=synthetic.depth(),
        pictures=synthetic.pictures(),
        forecast=synthetic.forecast(),
        play="<html></html>",
    )
    parts = [a["id"] for tag, a in read.elements if tag == "details" and a.get("class") == "part"]
    links = [a["href"].removeprefix("#") for tag, a in read.elements if tag == "a" and "href" in a]
    assert links[: len(parts)] == parts
    assert parts == [
        "pictures", "play", "matter", "ablation", "layers", "across", "what-if", "depth", "training", "sizes",
        "terms", "run",
    ]  # fmt: skip


def test_every_term_has_a_definition(page):
    read = page()
    terms = {a["href"].removeprefix("#") for _, a in read.elements if a.get("class") == "term"}
    defined = {a["id"] for _, a in read.elements if a.get("id", "").startswith("term-")}
    assert len(terms) > 5
    assert terms <= defined


def test_pictures_are_shown_where_given(page, synthetic):
    read = page(pictures=synthetic.pictures())
    images = [a for tag, a in read.elements if tag == "img"]
    assert len(images) == 5
    assert all(a["src"].startswith("data:image/png;base64,") for a in images)
    assert "3 → 8" in read.text
    assert "Filters of conv1" in read.text
    assert "What it sees" not in page().text


def test_parts_without_covariance_are_left_out(page, geometry):
    bare = [
        dataclasses.replace(
            layer,
            what_if=(),
            weights_binarized=dataclasses.replace(layer.weights_binarized, predicted_pearson_r_per_filter=()),
        )
        for layer in geometry.layers
    ]
    without = page(geometry=dataclasses.replace(geometry, layers=tuple(bare), covariance_images=0)).text
    for absent in ("What if?", "Predicted, filter", "filters predicted"):
        assert absent in page().text
        assert absent not in without


def test_a_page_of_training_alone_says_how_far_it_is(page, synthetic):
    run = synthetic.run(finished=False)
    read = page(geometry=None, run=run, summary=None, reload_seconds=3)
    assert "Epoch 12 of 12; training loss 0.0485, training accuracy 99.2 %" in read.text
    assert read.data["reload_seconds"] == 3
    assert [a["content"] for _, a in read.elements if a.get("http-equiv") == "refresh"] == ["3"]
    assert "Layer by layer" not in read.text
    done = synthetic.run(finished=True, results={"test": {"images": 360, "accuracy": 0.9}})
    read = page(geometry=None, run=done, summary=None)
    assert "90.00 % of 360 test images right after 12 epochs." in read.text
    assert not [a for _, a in read.elements if a.get("http-equiv") == "refresh"]


def test_ablation_and_depth_are_shown_where_given(page, synthetic):
    read = page(ablation=synthetic.ablation(), depth=synthetic.depth())
    assert "Loss 0.4000 and accuracy 96.8 % on 300 test images; 2 rounds" in read.text
    assert "weights, one layer 1.00 0.90 0.90 5 of 6" in read.text
    assert "Permutation tests" in read.text
    assert len(read.data["ablation"]["changes"]) == 9
    assert len(read.data["depth"]) == 15


def test_data_of_the_charts_are_those_of_the_geometry(page, geometry):
    data = page().data
    assert [layer["name"] for layer in data["layers"]] == [layer.name for layer in geometry.layers]
    counts = data["layers"][1]["products"]["weights_binarized"]["counts"]
    assert counts == [list(row) for row in geometry.layers[1].weights_binarized.histogram.counts]
    assert data["layers"][0]["products"]["activations_binarized"] is None


def test_names_from_users_are_text(page, geometry, synthetic):
    name = "<script>alert('x')</script>\"&"
    layer = dataclasses.replace(geometry.layers[0], name="</script><b>")
    changed = dataclasses.replace(geometry, run=name, dataset=name, layers=(layer, *geometry.layers[1:]))
    read = page(geometry=changed, run=synthetic.run(name, **{name: name}))
    assert name in read.text
    assert "</script><b>" in read.text
    assert sum(tag == "script" for tag, _ in read.elements) == 4
    assert read.data["layers"][0]["name"] == "</script><b>"


def test_numbers_that_are_missing_are_dashes(page, geometry):
    nan = math.nan
    layer = geometry.layers[1]
    products = dataclasses.replace(layer.weights_binarized, pearson_r=nan, sign_disagreement=nan)
    angle = dataclasses.replace(layer.angle_degrees, mean=nan, predicted_mean=nan)
    layer = dataclasses.replace(layer, weights_binarized=products, angle_degrees=angle)
    read = page(geometry=dataclasses.replace(geometry, accuracy=nan, layers=(layer,)))
    assert "nan" not in read.text.lower()
    assert "– of 250 test images right" in read.text


def test_parts_without_results_are_left_out(page, geometry):
    read = page(summary=None, run=None, geometry=dataclasses.replace(geometry, layers=()))
    for heading in ("Training", "Size and operations", "This run", "Layer by layer"):
        assert heading not in read.text


def test_quantizers_that_print_on_several_lines_are_named_on_one(page, geometry):
    layer = dataclasses.replace(geometry.layers[1], weight_quantizer="Sign(\n  (surrogate): HardTanh(clip=1)\n)")
    (row,) = page(geometry=dataclasses.replace(geometry, layers=(layer,))).data["layers"]
    assert row["about"].startswith(
        "QuantConv2d, 32 filters of 288; weights Sign(surrogate=HardTanh(clip=1)), inputs Sign()."
    )


def test_links_geometry_json_only_where_it_lies_beside(page, tmp_path):
    links = [a.get("href") for _, a in page().elements]
    assert "geometry.json" not in links
    (tmp_path / "out" / "geometry.json").write_text("{}")
    assert "geometry.json" in [a.get("href") for _, a in page().elements]


def test_the_same_results_give_the_same_page(page, tmp_path):
    page()
    first = (tmp_path / "out" / "report.html").read_bytes()
    page()
    assert (tmp_path / "out" / "report.html").read_bytes() == first
    assert len(first) < 200_000


def test_a_folder_that_cannot_be_made_is_named(geometry, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(HypersignError, match="taken"):
        write(tmp_path / "taken" / "report.html", geometry)


def test_importing_the_report_imports_no_drawing_library_and_its_absence_names_the_extra():
    code = (
        "import sys, hypersign.report.document as d\n"
        "assert not {'matplotlib', 'jinja2'} & set(sys.modules)\n"
        "sys.modules['jinja2'] = None\n"
        "from hypersign.geometry.results import Geometry\n"
        "try: d.write('report.html', Geometry('r', 'd', 1, 1.0, ()))\n"
        "except d.HypersignError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "needs the package jinja2" in done.stdout
    assert "pip install " in done.stdout
    assert "[report]" in done.stdout
