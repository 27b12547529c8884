"""The page in a real browser, without a network."""

import contextlib
import dataclasses
import math

import pytest

from hypersign.report import write, write_comparison


@pytest.fixture(scope="module")
def report(tmp_path_factory, synthetic):
    """A page of a ternary network; its fourth layer has no numbers, its fifth no quantizers."""
    made = synthetic.geometry(ternary=True, run='</script><b>Ternary & "co"</b>')
    empty, plain = made.layers[3:]
    products = dataclasses.replace(
        empty.weights_binarized,
        **dict.fromkeys(("pearson_r", "slope", "intercept", "sign_disagreement"), math.nan),
        pearson_r_per_filter=(math.nan,) * empty.filters,
        histogram=dataclasses.replace(
            empty.weights_binarized.histogram,
            counts=tuple((0,) * len(row) for row in empty.weights_binarized.histogram.counts),
        ),
    )
    families = dict.fromkeys(("weights_binarized", "activations_binarized", "both_binarized", "permuted"), products)
    nothing = dataclasses.replace(empty.angle_degrees.density, density=(0.0,) * 160)
    angle = dataclasses.replace(
        empty.angle_degrees, mean=math.nan, std=math.nan, peak=math.nan, density=nothing, predicted_mean=math.nan
    )
    layers = (
        *made.layers[:3],
        dataclasses.replace(empty, angle_degrees=angle, **families),
        dataclasses.replace(plain, weight_quantizer="Identity()", input_quantizer="Identity()", what_if=()),
    )
    path = tmp_path_factory.mktemp("report") / "report.html"
    return write(
        path,
        dataclasses.replace(made, layers=layers),
        run=synthetic.run(),
        summary=synthetic.summary(),
        ablation=synthetic.ablation(),
        depth=synthetic.depth(),
        pictures=synthetic.pictures(),
        forecast=synthetic.forecast(),
        play="<!doctype html><html lang='en'><title>p</title><p>played</p></html>",
    )


@pytest.fixture
def opened(browser, report):
    """Opens a page, and after the test holds that nothing was fetched and nothing went wrong."""
    seen = []

    @contextlib.contextmanager
    def open_page(path=report, **options):
        context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}} | options)
        context.route("http*://**", lambda route: (seen.append(route.request.url), route.abort()))
        page = context.new_page()
        page.on(
            "request",
            lambda request: (
                request.url.startswith(("data:", "about:srcdoc", path.as_uri())) or seen.append(request.url)
            ),
        )
        page.on("console", lambda message: seen.append(message.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]")
        yield page
        context.close()

    yield open_page
    assert seen == []


def drawn(page, chart):
    """A chart without what identifies nothing."""
    return page.inner_html(f"#{chart}")


def view(page, name):
    page.check(f".views input[value={name}]", force=True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_draws_every_chart_in_the_colours_of_the_scheme(opened, scheme):
    with opened(color_scheme=scheme) as page:
        for chart in (
            "across-angles", "across-spread", "across-correlations", "across-scatter", "ablation-changes",
            "ablation-logits", "depth-r", "what-if-layers", "what-if-curve", "view",
            *(f"training-{name}" for name in ("loss", "accuracy", "flipped", "angle", "rate")),
        ):  # fmt: skip
            assert page.locator(f"#{chart} > svg").count() == 1, chart
        colour = page.evaluate("getComputedStyle(document.querySelector('#across-angles .measured path')).fill")
        assert colour == {"light": "rgb(31, 95, 191)", "dark": "rgb(106, 168, 255)"}[scheme]


def test_a_change_of_scheme_changes_the_colours(opened):
    with opened(color_scheme="light") as page:
        page.emulate_media(color_scheme="dark")
        colour = page.evaluate("getComputedStyle(document.querySelector('#across-angles .measured path')).fill")
        assert colour == "rgb(106, 168, 255)"


def test_the_answer_comes_first_and_the_page_is_short(opened):
    for options, first, whole in (
        ({}, 900, 5000),
        ({"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}, 1200, 5000),
    ):
        with opened(**options) as page:
            assert page.evaluate("document.querySelector('.actions').getBoundingClientRect().bottom") <= first
            assert page.locator(".actions li").count() == 3
            assert page.evaluate("document.documentElement.scrollHeight") <= whole


def test_every_view_of_a_layer_is_drawn(opened):
    with opened() as page:
        page.select_option("#layer", label="conv2")
        seen = set()
        for name in page.eval_on_selector_all(".views input", "inputs => inputs.map(input => input.value)"):
            view(page, name)
            assert page.locator("#view > svg").count() == 1, name
            seen.add(drawn(page, "view"))
        assert len(seen) == 9
        view(page, "prediction")
        assert page.locator("#view .point path").count() == 96  # 32 filters in three families
        assert "weights: 32 filters, median distance 0.0100; activations: 32" in page.inner_text("#caption-view")


def test_picking_a_layer_changes_its_charts(opened):
    with opened() as page:
        for name in ("weights_binarized", "angle", "weights", "filters", "components"):
            view(page, name)
            page.select_option("#layer", label="conv1")
            before, caption = drawn(page, "view"), page.inner_text("#caption-view")
            page.select_option("#layer", label="conv2")
            assert drawn(page, "view") != before, name
            assert page.inner_text("#caption-view") != caption or name in ("filters", "components"), name
        assert "32 filters of 288" in page.inner_text("#about")
        assert page.get_attribute("#table tbody tr:nth-child(2)", "aria-current") == "true"
        rows = page.locator("#numbers tr")
        assert rows.nth(0).inner_text().split("\t") == [
            "r", "measured", "from training images", "predicted", "if independent",
        ]  # fmt: skip
        assert rows.count() == 4


def test_table_buttons_arrows_and_charts_pick_too(opened):
    with opened() as page:
        page.focus("#table tbody tr:nth-child(3) button")
        page.keyboard.press("Enter")
        assert page.input_value("#layer") == "2"
        page.click("#previous")
        assert page.input_value("#layer") == "1"
        page.click("#table tbody tr:nth-child(1) td:nth-child(3)")
        assert page.input_value("#layer") == "0"
        assert page.is_disabled("#previous")
        page.locator("#across-correlations .row").nth(2).click()
        assert page.input_value("#layer") == "2"
        assert page.get_attribute("#across-angles .row.chosen", "data-layer") == "conv3"


def test_the_panel_is_beside_the_table(opened):
    with opened() as page:
        table, panel = (page.locator(where).bounding_box() for where in ("#table", "#one-layer"))
        assert abs(table["y"] - panel["y"]) < 20
        assert panel["x"] > table["x"]
        assert panel["height"] < 900


def test_layers_without_numbers_or_quantizers_say_so(opened):
    with opened() as page:
        view(page, "activations_binarized")
        assert "not quantized" in page.inner_text("#view")
        page.select_option("#layer", label="fc1")
        view(page, "weights_binarized")
        assert "No pair of dot products" in page.inner_text("#view")
        assert "r = –" in page.inner_text("#caption-view")
        view(page, "filters")
        assert "No filter" in page.inner_text("#view")
        page.select_option("#layer", label="fc2")
        view(page, "angle")
        assert "there is no angle" in page.inner_text("#view")
        view(page, "weights_binarized")
        assert "weights are not quantized" in page.inner_text("#view")
        assert "weights real, inputs real." in page.inner_text("#about")


def test_the_slider_recomputes_every_layer_from_stored_curves(opened):
    with opened() as page:
        page.click("#what-if > summary")

        def words():
            return page.inner_text("#what-if-words")

        page.locator("#what-if-value").fill("0.25")  # half-way between the curve's .7 at 0 and .8 at .5
        assert words().startswith("With ternary levels at 0.25 σ: the median r over layers is 0.750")
        assert "conv1: r = 0.750, angle 34.5°, 17.5 % of signs flip" in page.inner_text("#caption-what-if")
        assert page.locator("#what-if-layers .point path").count() == 4  # the fifth layer has no curves
        page.select_option("#what-if-field", "both")
        assert words().startswith("With ternary levels at 0.25 σ: the median r over layers is 0.650")
        page.select_option("#what-if-field", "weights")
        page.check("#what-if-rotation")
        assert "in a rotated frame: the median r over layers is 0.800" in words()
        page.select_option("#what-if-kind", "levels")
        page.locator("#what-if-value").fill("2")
        assert "With 4 levels in a rotated frame: the median r over layers is 0.950" in words()
        page.uncheck("#what-if-rotation")
        page.select_option("#what-if-kind", "threshold")
        page.locator("#what-if-value").fill("0")
        assert "With signs: the median r over layers is 0.700" in words()
        page.locator("#what-if-value").fill("1.5")  # beyond the curve: nothing is made up
        assert "no layer has an r" in words()
        page.select_option("#layer", label="fc2")
        assert "no covariance to predict from" in page.inner_text("#what-if-curve")


def test_ablation_depth_and_predictions_are_drawn(opened):
    with opened() as page:
        for chart, count in (("ablation-changes", 9), ("ablation-logits", 9), ("depth-r", 15)):
            assert page.locator(f"#{chart} .point path").count() == count, chart
        assert page.locator("#across-scatter .point path").count() > 100


def test_choosing_formats_moves_size_and_prediction(opened):
    with opened() as page:
        assert page.locator("#forecast-effects .point path").count() == 6

        def words():
            return page.inner_text("#forecast-words")

        # conv1 binary, conv3 as trained: 500 + 100 + 2 × 3200 bytes. r = exp(-.9 (ln(2) / 2)^.8) = .6801.
        assert words().startswith("7 kB, 1.4 times smaller. Predicted: r of the logits 0.680 ± 0.026; ")
        assert "26.0 % ± 4.7 % of decisions change." in words()  # .7 + .3 (.6801 - .6) / .4 - .02 agree
        page.select_option("select[aria-label='format of conv1']", "ternary")
        assert words().startswith("7.1 kB, 1.4 times smaller. Predicted: r of the logits 0.856 ± 0.013; ")
        page.click("#forecast-presets button:has-text('all binary')")
        assert words().startswith("3.9 kB, 2.6 times smaller. Predicted: r of the logits 0.618 ± 0.030; ")
        page.click("#forecast-presets button:has-text('all float')")
        assert "r of the logits 1.000 ± 0.000; 0.0 % ± 0.0 % of decisions change." in words()
        page.click("#forecast-presets button:has-text('the plan')")
        assert page.input_value("select[aria-label='format of conv1']") == "binary"
        assert page.locator("#forecast-chooser select").count() == 2  # conv3 is quantized already


def test_the_playground_starts_when_it_is_opened(opened):
    with opened() as page:
        assert page.locator("#play-frame[srcdoc]").count() == 0
        page.click("#play > summary")
        page.wait_for_selector("#play-frame[srcdoc]")
        assert page.frame_locator("#play-frame").locator("p").inner_text() == "played"


def test_layers_differ_in_shape_and_dash(opened):
    with opened() as page:
        # The outline without its place: the first step of each path.
        shapes = page.eval_on_selector_all(
            "#across-scatter .legend path", "paths => paths.map(path => path.getAttribute('d'))"
        )
        dashes = page.eval_on_selector_all(
            "#training-angle .legend line", "lines => lines.map(line => line.getAttribute('stroke-dasharray'))"
        )
        assert len(set(shapes)) == len(shapes) == 3
        assert len(set(dashes)) == len(dashes) == 5


def test_pointing_at_a_point_shows_its_values(opened):
    with opened() as page:
        page.select_option("#layer", label="conv2")
        view(page, "weights_binarized")
        cells = page.locator("#view .cells rect")
        cells.nth(cells.count() // 2).hover()
        assert "pairs" in page.inner_text(".point-tip")
        page.locator("#across-angles .measured path").first.hover()
        assert "predicted" in page.inner_text(".point-tip")


def test_shades_quadrants_and_draws_line_and_thresholds(opened):
    with opened() as page:
        page.select_option("#layer", label="conv2")
        view(page, "weights_binarized")
        assert page.locator("#view .quadrants rect").count() == 2
        assert page.locator("#view .cells rect").count() > 100
        assert page.locator("#view .line path").count() == 1
        view(page, "weights")
        assert page.locator("#view .thresholds line").count() == 2


def test_terms_are_explained_under_the_pointer_and_by_keyboard(opened):
    with opened() as page:
        page.hover("#layers a.term >> nth=0")
        assert page.inner_text("#term-tip").startswith("Pearson's correlation")
        page.focus("#layers a.term >> nth=1")
        assert page.inner_text("#term-tip").startswith("The median r over filters decides")
        assert page.get_attribute("#layers a.term >> nth=1", "aria-describedby") == "term-tip"
        page.keyboard.press("Escape")
        assert page.is_hidden("#term-tip")


def test_contents_stay_and_open_what_is_folded(opened):
    with opened() as page:
        assert not page.locator("#terms").evaluate("part => part.open")
        page.click("#contents a[href='#terms']")
        assert page.locator("#terms").evaluate("part => part.open")
        assert page.is_visible("#contents")
        assert page.locator("#contents").bounding_box()["y"] >= 0


@pytest.mark.parametrize("width", [320, 390])
def test_a_narrow_window_does_not_scroll_sideways(opened, width):
    with opened(viewport={"width": width, "height": 844}, is_mobile=True, has_touch=True) as page:
        page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
        page.wait_for_selector("#training-loss svg")
        for label in ("conv1", "conv2"):
            page.select_option("#layer", label=label)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        overflow = page.evaluate(
            "[...document.querySelectorAll('.chart svg')].filter(svg => "
            "svg.getBoundingClientRect().right > svg.closest('figure').getBoundingClientRect().right)"
            ".map(svg => svg.closest('.chart').id)"
        )
        assert overflow == []
        header = page.eval_on_selector_all("#table thead th", "cells => cells.map(cell => cell.innerText)")
        assert [text.split("\n")[0] for text in header[:3]] == ["Layer", "r", "Verdict"]
        # Tables scroll in their boxes: a shade that stays, under a cover that the table takes along, tells so.
        attached = "getComputedStyle(document.querySelector('.scroll')).backgroundAttachment"
        assert page.evaluate(attached).startswith("local, scroll")


def test_nothing_is_cut_on_paper(opened):
    with opened(viewport={"width": 700, "height": 900}, color_scheme="dark") as page:
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).color") == "rgb(26, 30, 38)"  # dark ink
        cut = page.evaluate(
            "[...document.querySelectorAll('table')].filter(table => table.offsetWidth && "
            "table.getBoundingClientRect().right > innerWidth).map(table => table.outerHTML.slice(0, 80))"
        )
        assert cut == []
        for control in ("nav", ".views", "#what-if .controls"):
            assert page.is_hidden(control)


def test_tables_and_labels_are_there_without_scripts(browser, report):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.locator("#table tbody tr").count() == 5
    assert "need JavaScript" in page.inner_text("body")
    assert page.locator("#contents a").count() == 12
    context.close()


def test_controls_have_names_and_text_has_contrast(check_contrast, opened):
    with opened() as page:
        assert page.get_by_label("Layer", exact=True).count() == 1
        assert page.get_by_role("button", name="next layer").count() == 1
        assert page.locator("svg[role]:not([aria-label])").count() == 0
        names = page.evaluate("[...document.querySelectorAll('.scroll')].map(box => box.getAttribute('role'))")
        assert names == ["region"] * len(names)
        marks = (*(f"--series-{i}" for i in range(7)), "--weights", "--activations", "--both")
        check_contrast(page, [(mark, "--card") for mark in marks])


def test_a_page_of_training_loads_itself_again(browser, synthetic, tmp_path):
    def saved(finished, **options):
        run = synthetic.run(finished=finished, results={"test": {"images": 360, "accuracy": 0.9}})
        write(tmp_path / "report.html", None, run=run, **options)

    saved(False, reload_seconds=0.2)
    page = browser.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    page.wait_for_selector("html[data-ready]")
    assert page.inner_text(".answer").startswith("Epoch 12 of 12")
    saved(True)
    page.wait_for_selector(".answer:has-text('90.00 % of 360')")
    page.close()


def test_a_comparison_overlays_runs(opened, synthetic, tmp_path):
    layer = {"angle_degrees": 36.0, "predicted_angle_degrees": 37.0, "r": 0.8, "predicted_r": 0.79}
    facts = {"finished": True, "test": {"images": 400, "accuracy": 0.9, "loss": 0.5}, "missing": []}
    runs = {name: facts | {"layers": {"conv1": layer, "conv2": layer}} for name in ("one", "two", "three")}
    path = write_comparison(
        tmp_path / "page.html",
        {"runs": runs, "differences": {}},
        {label: synthetic.metrics(4) for label in runs},
    )
    with opened(path) as page:
        assert page.locator("#layers-angle .point path").count() == 6
        outlines = page.eval_on_selector_all(
            "#layers-angle .legend path", "paths => paths.map(path => path.getAttribute('d'))"
        )
        assert len(set(outlines)) == 3
        assert page.locator("#training-loss > svg").count() == 1
