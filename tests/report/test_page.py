"""The page in a real browser, without a network."""

import contextlib
import dataclasses
import json
import math
import re
import shutil

import pytest

from hypersign.report import write

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)

pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(BROWSERS)} is installed")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as run:
        browser = run.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


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
    )


@pytest.fixture
def opened(browser, report):
    """Opens the page, and after the test holds that nothing was fetched and nothing went wrong."""
    seen = []

    @contextlib.contextmanager
    def open_page(**options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        context.route("http*://**", lambda route: (seen.append(route.request.url), route.abort()))
        page = context.new_page()
        page.on("request", lambda request: request.url == report.as_uri() or seen.append(request.url))
        page.on("console", lambda message: seen.append(message.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.goto(report.as_uri())
        page.wait_for_selector("html[data-ready]")
        page.wait_for_selector("#weights svg")
        yield page
        page.wait_for_timeout(100)
        context.close()

    yield open_page
    assert seen == []


def settled(page, chart):
    page.wait_for_selector(f"#{chart} svg")
    return page.inner_html(f"#{chart}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_draws_every_chart_in_the_colours_of_the_scheme(opened, scheme):
    with opened(color_scheme=scheme) as page:
        for chart in (
            "across-angles", "across-spread", "across-correlations", "heat-weights_binarized",
            "heat-both_binarized", "heat-permuted", "angle", "filters", "weights",
            *(f"training-{name}" for name in ("loss", "accuracy", "flipped", "angle", "rate")),
        ):  # fmt: skip
            assert page.locator(f"#{chart} svg").count() == 1, chart
        assert "not quantized" in page.inner_text("#heat-activations_binarized")
        measured = page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--measured')")
        assert measured.strip() in page.inner_html("#angle")
        assert measured.strip() == {"light": "#1f5fbf", "dark": "#6aa8ff"}[scheme]


def test_a_change_of_scheme_redraws(opened):
    with opened(color_scheme="light") as page:
        page.emulate_media(color_scheme="dark")
        page.wait_for_function("document.querySelector('#angle svg')?.outerHTML.includes('#6aa8ff')")


def test_picking_a_layer_changes_its_charts(opened):
    with opened() as page:
        charts = ("heat-weights_binarized", "heat-permuted", "angle", "filters", "weights")
        before = {chart: settled(page, chart) for chart in charts}
        caption = page.inner_text("#caption-weights_binarized")
        page.select_option("#layer", label="conv2")
        page.wait_for_selector("#heat-activations_binarized svg")
        for chart in charts:
            assert settled(page, chart) != before[chart], chart
        assert page.inner_text("#caption-weights_binarized") != caption
        assert "32 filters of 288" in page.inner_text("#about")
        assert page.get_attribute("#table tbody tr:nth-child(2)", "aria-current") == "true"


def test_table_buttons_arrows_and_overview_pick_too(opened):
    with opened() as page:
        page.focus("#table tbody tr:nth-child(3) button")
        page.keyboard.press("Enter")
        assert page.input_value("#layer") == "2"
        page.click("#previous")
        assert page.input_value("#layer") == "1"
        page.click("#table tbody tr:nth-child(1) td:nth-child(4)")
        assert page.input_value("#layer") == "0"
        assert page.is_disabled("#previous")
        page.locator("#across-correlations .mark-rect path").nth(2).click()
        page.wait_for_function("document.querySelector('#layer').value === '2'")


def test_layers_without_numbers_or_quantizers_say_so(opened):
    with opened() as page:
        page.select_option("#layer", label="fc1")
        assert "No pair of dot products" in page.inner_text("#heat-weights_binarized")
        assert "r = –" in page.inner_text("#caption-weights_binarized")
        assert "No filter" in page.inner_text("#filters")
        page.select_option("#layer", label="fc2")
        assert "there is no angle" in page.inner_text("#angle")
        assert "weights are not quantized" in page.inner_text("#heat-weights_binarized")
        assert page.inner_text("#about").endswith("weights real, inputs real")


def test_quick_picks_end_with_the_last(opened):
    with opened() as page:
        page.evaluate(
            "for (const place of [1, 2, 1, 0, 2]) {"
            " layer.value = String(place); layer.dispatchEvent(new Event('change')); }"
        )
        page.wait_for_timeout(300)
        quick = settled(page, "angle")
        page.select_option("#layer", label="conv1")
        page.select_option("#layer", label="conv3")
        page.wait_for_timeout(300)
        assert page.locator("#angle svg").count() == 1
        assert strip(settled(page, "angle")) == strip(quick)


def strip(svg):
    """Without the numbers that Vega gives its clip paths and gradients anew."""
    return re.sub(r"(clip|gradient_?)\d+", r"\1", svg)


def test_sliders_recompute_every_layer_from_stored_curves(opened):
    def dots(page):
        return page.evaluate("""() => [...document.querySelectorAll('#what-if-layers .mark-symbol path')]
            .map(dot => dot.getAttribute('aria-label'))""")

    with opened() as page:
        settled(page, "what-if-layers")
        page.locator("#what-if-threshold").fill("0.25")  # half-way between the curve's .7 at 0 and .8 at .5
        words = page.inner_text("#what-if-words")
        assert words.startswith("With ternary levels at 0.25 σ: the median r over layers is 0.750")
        assert "conv1: r = 0.750, angle 34.5°, 17.5 % of signs flip" in page.inner_text("#caption-what-if")
        assert len(dots(page)) == 4  # the fifth layer has no curves
        page.check("#what-if-rotation")
        assert "in a rotated frame: the median r over layers is 0.800" in page.inner_text("#what-if-words")
        page.locator("#what-if-levels").fill("2")
        assert page.is_checked("#what-if input[value=levels]")
        words = page.inner_text("#what-if-words")
        assert "With 4 levels in a rotated frame: the median r over layers is 0.950" in words
        page.locator("#what-if-threshold").fill("0")
        page.uncheck("#what-if-rotation")
        assert "With signs: the median r over layers is 0.700" in page.inner_text("#what-if-words")
        page.locator("#what-if-threshold").fill("1.5")  # beyond the curve: nothing is made up
        assert "no layer has an r" in page.inner_text("#what-if-words")
        page.select_option("#layer", label="fc2")
        assert "no covariance to predict from" in page.inner_text("#what-if-curve")


def test_ablation_depth_and_predictions_are_drawn(opened):
    with opened() as page:
        for chart, count in (("ablation-changes", 9), ("ablation-logits", 9), ("depth-r", 15)):
            settled(page, chart)
            assert page.locator(f"#{chart} .mark-symbol.role-mark path").count() == count, chart
        settled(page, "across-scatter")
        assert page.locator("#across-scatter .mark-symbol.role-mark path").count() > 100
        page.select_option("#layer", label="conv2")
        settled(page, "prediction")
        assert page.locator("#prediction .mark-symbol.role-mark path").count() == 32
        assert "median distance 0.0100" in page.inner_text("#caption-prediction")
        settled(page, "components")
        page.locator("#overview ~ .scroll .pick tbody tr").nth(2).click()
        assert page.input_value("#layer") == "2"
        assert page.locator("tr[aria-current]").count() == 2


def test_hovering_shows_values(opened):
    with opened() as page:
        page.select_option("#layer", label="conv2")
        settled(page, "heat-weights_binarized")
        cells = page.locator("#heat-weights_binarized .mark-rect path")
        cells.nth(cells.count() // 2).hover()
        page.wait_for_selector("#vg-tooltip-element.visible")
        assert "pairs" in page.inner_text("#vg-tooltip-element")


def test_shades_quadrants_and_draws_line_and_thresholds(opened):
    with opened() as page:
        page.select_option("#layer", label="conv2")
        settled(page, "heat-weights_binarized")
        groups = page.locator("#heat-weights_binarized .mark-rect")
        assert groups.nth(0).locator("path").count() == 2  # quadrants, beneath the cells
        assert groups.nth(1).locator("path").count() > 100
        assert page.locator("#heat-weights_binarized .mark-line path").count() == 1
        settled(page, "weights")
        assert page.locator("#weights .mark-rule.role-mark").nth(0).locator("line").count() == 2


@pytest.mark.parametrize("width", [320, 390])
def test_a_narrow_window_does_not_scroll_sideways(opened, width):
    with opened(viewport={"width": width, "height": 844}, is_mobile=True, has_touch=True) as page:
        for label in ("conv1", "conv2"):
            page.select_option("#layer", label=label)
            settled(page, "weights")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        overflow = page.evaluate(
            "[...document.querySelectorAll('.chart svg')].filter(svg => "
            "svg.getBoundingClientRect().right > svg.closest('figure').getBoundingClientRect().right)"
            ".map(svg => svg.closest('.chart').id)"
        )
        assert overflow == []
        # Tables scroll in their boxes: a shade that stays, under a cover that the table takes along, tells so.
        attached = "getComputedStyle(document.querySelector('.scroll')).backgroundAttachment"
        assert page.evaluate(attached).startswith("local, scroll")


def test_tables_and_labels_are_there_without_scripts(browser, report):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.locator("#table tbody tr").count() == 5
    assert "need JavaScript" in page.inner_text("body")
    context.close()


def test_controls_have_names_and_text_has_contrast(opened):
    with opened() as page:
        assert page.get_by_label("Layer", exact=True).count() == 1
        assert page.get_by_role("button", name="next layer").count() == 1
        assert page.locator("svg[role]:not([aria-label])").count() == 0
        names = page.evaluate("[...document.querySelectorAll('.scroll')].map(box => box.getAttribute('role'))")
        assert names == ["region"] * 4
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            colours = json.loads(page.evaluate(COLOURS))
            for text in ("--ink", "--muted", "--measured", "--predicted"):
                for ground in ("--card", "--ground", "--chosen"):
                    assert contrast(colours[text], colours[ground]) >= 4.5, (scheme, text, ground)


COLOURS = """JSON.stringify(Object.fromEntries(
  ['--ink', '--muted', '--measured', '--predicted', '--card', '--ground', '--chosen'].map(
    name => [name, getComputedStyle(document.documentElement).getPropertyValue(name).trim()])))"""


def contrast(one, other):
    """WCAG's contrast ratio of two #rrggbb colours."""

    def luminance(colour):
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)
