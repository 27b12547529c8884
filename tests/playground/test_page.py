"""The page in a real browser, without a network: it answers as the packed network does."""

import contextlib
import io
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hypersign import HypersignError, packing, pretrained
from hypersign.cli.main import main
from hypersign.data import load
from hypersign.models import build, mlp
from hypersign.packed import PackedModel
from hypersign.packed.operations import OPERATIONS as PACKED
from hypersign.playground import Sample, page, write
from hypersign.playground.page import OPERATIONS

from ..small_networks import NETWORKS, images_for, packed, settled

GIVEN = os.environ.get("HYPERSIGN_DATA")


def digits_network(folder, **options: Any) -> PackedModel:
    torch.manual_seed(0)
    path = folder / "digits.hypersign"
    model = build("vgg", (1, 8, 8), 10, widths=(48, 48), pools=(2,), hidden=(64,), **options)
    packing.pack(settled(model), path, (1, 8, 8), pixel_range=(-1.0, 1.0))
    return PackedModel.load(path)


def logits_of_page(page: Any, images: np.ndarray) -> np.ndarray:
    """What the page's own network says of images (N, channels, height, width)."""
    found = page.evaluate(
        "images => images.map(one => [...Packed.logits(network, Packed.run(network, Uint8Array.from(one)))])",
        [image.transpose(1, 2, 0).ravel().tolist() for image in images],
    )
    return np.array(found, np.float32)


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a network's page, and after the test holds that nothing was fetched and nothing went wrong."""
    seen = []

    @contextlib.contextmanager
    def open_page(model, more: dict[str, Any] | None = None, **options):
        path = write(tmp_path / "page.html", model, **(more or {}))
        context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}} | options)
        context.route("http*://**", lambda route: (seen.append(route.request.url), route.abort()))
        page = context.new_page()
        page.on("request", lambda request: request.url == path.as_uri() or seen.append(request.url))
        page.on("console", lambda message: seen.append(message.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]")
        yield page
        page.wait_for_timeout(50)
        context.close()

    yield open_page
    assert seen == []


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_equal_for_every_operation(name, opened, tmp_path):
    model = packed(name, tmp_path)
    images = images_for(model, 20)
    with opened(model) as page:
        np.testing.assert_array_equal(logits_of_page(page, images), model.predict(images))


@pytest.mark.parametrize("name", pretrained.names())
def test_200_test_images_have_the_logits_of_hypersign_run(name, opened):
    model, data = PackedModel.pretrained(name), pretrained.card(name).data
    if data == "digits" or (GIVEN and (Path(GIVEN) / data).is_dir()):
        images = load(data).test.images[:200].numpy()
    else:
        images = images_for(model, 200)
    with opened(model, {"samples": [Sample("first", images[0])]}) as page:
        found, expected = logits_of_page(page, images), model.predict(images)
        np.testing.assert_array_equal(found, expected)
        assert page.inner_text("#class") == model.classes[int(expected[0].argmax())]


def test_the_networks_of_the_tests_have_every_operation_of_the_page(tmp_path):
    used = {node.op for name in NETWORKS for node in packed(name, tmp_path).graph.nodes}
    assert used == set(OPERATIONS)


def test_python_and_page_agree_on_what_the_page_runs(opened, tmp_path):
    with opened(digits_network(tmp_path)) as page:
        assert set(page.evaluate("Packed.OPERATIONS")) == set(OPERATIONS)


def test_an_unknown_operation_is_named_by_the_page_too(browser, tmp_path):
    text = page(digits_network(tmp_path))
    path = tmp_path / "page.html"
    path.write_text(text.replace("    affine: (node, x)", "    other: (node, x)"))
    view = browser.new_context().new_page()
    view.goto(path.as_uri())
    assert view.inner_text("#failed") == "the page cannot run the operation affine"
    view.context.close()


def test_other_operations_are_refused_by_name(tmp_path):
    path = tmp_path / "fast.hypersign"
    model = build("fast-transform", (1, 5, 6), 3, hidden=(64,))
    packing.pack(settled(model), path, (1, 5, 6), pixel_range=(-1.0, 1.0))
    with pytest.raises(HypersignError, match=r"cannot run the operation rotate \(the network's node '\w+'\)"):
        page(PackedModel.load(path))
    assert set(OPERATIONS) < set(PACKED)


def test_other_inputs_twins_and_samples_are_refused(tmp_path):
    model = digits_network(tmp_path)
    packing.pack(settled(mlp((1, 8, 8), 10, hidden=(8,))), tmp_path / "real", (1, 8, 8), pixel_range=None)
    with pytest.raises(HypersignError, match="reads float32 inputs"):
        page(PackedModel.load(tmp_path / "real"))
    packing.pack(settled(mlp((2, 8, 8), 10, hidden=(8,))), tmp_path / "two", (2, 8, 8), pixel_range=(-1.0, 1.0))
    with pytest.raises(HypersignError, match="reads images of 2 channels"):
        page(PackedModel.load(tmp_path / "two"))
    with pytest.raises(HypersignError, match=r"the twin must read the network's images \(1, 8, 8\)"):
        page(model, twin=packed("mlp", tmp_path))
    with pytest.raises(HypersignError, match="the example 'x' must be uint8"):
        page(model, samples=[Sample("x", np.zeros((8, 8), np.uint8))])


def test_draws_with_mouse_and_keyboard_and_clears(opened, tmp_path):
    model = digits_network(tmp_path)
    with opened(model) as page:
        first = page.inner_text("#logits")
        box = page.locator("#pad").bounding_box()
        page.mouse.move(box["x"] + 60, box["y"] + 40)
        page.mouse.down()
        page.mouse.move(box["x"] + 160, box["y"] + 180, steps=5)
        page.mouse.up()
        page.wait_for_function("text => document.querySelector('#logits').innerText !== text", arg=first)
        page.click("#clear")
        blank = model.predict(np.zeros((1, 1, 8, 8), np.uint8))[0]
        shown = [float(text.replace("−", "-")) for text in page.locator("#logits td:last-child").all_inner_texts()]
        np.testing.assert_allclose(shown, blank, atol=0.006)
        assert page.inner_text("#class") == model.classes[int(blank.argmax())]
        page.uncheck("#fit")
        page.focus("#pad")
        page.keyboard.press("ArrowUp")
        page.keyboard.press(" ")
        assert "Row 3, column 4" in page.inner_text("#pad-help")
        assert page.inner_text("#logits td:last-child") != f"{blank[0]:+.2f}".replace("-", "−")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_of_the_right_size_is_read_to_the_last_bit(channels, opened, tmp_path):
    torch.manual_seed(0)
    shape = (channels, 9, 7)
    packing.pack(settled(mlp(shape, 10, hidden=(64,))), tmp_path / "net", shape, pixel_range=(-1.0, 1.0))
    model = PackedModel.load(tmp_path / "net")
    image = images_for(model, 1)[0]
    buffer = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0).squeeze()).save(buffer, "PNG")
    with opened(model) as page:
        page.set_input_files("#file", {"name": "x.png", "mimeType": "image/png", "buffer": buffer.getvalue()})
        expected = [f"{logit:+.2f}".replace("-", "−") for logit in model.predict(image[None])[0].tolist()]
        page.wait_for_function(
            "rows => rows.every((row, i) => document.querySelectorAll('#logits td:last-child')[i].innerText === row)",
            arg=expected,
        )
        page.set_input_files("#file", {"name": "y.png", "mimeType": "image/png", "buffer": b"no picture"})
        page.wait_for_function("() => document.querySelector('#pad-help').innerText.includes('y.png cannot be read')")


def test_examples_and_units_show_the_packed_networks_numbers(opened, tmp_path):
    model = digits_network(tmp_path)
    images = images_for(model, 2)
    trace = model.trace(images)
    sums = np.einsum("hwtc,ftc->hwf", *_windows(trace["conv1"][1], model, "conv2"))
    samples = [Sample("</script>", images[0]), Sample("two", images[1])]
    with opened(model, {"title": "<b>&", "samples": samples}) as page:
        assert page.inner_text("h1") == "<b>&"
        page.click("#samples button:nth-child(2)")
        page.select_option("#unit-layer", label="conv2")
        for name, value in (("c", 7), ("y", 3), ("x", 5)):
            page.fill(f"#unit-{name}", str(value))
            page.press(f"#unit-{name}", "Tab")
        assert page.inner_text("#unit-title") == "conv2, filter 7 at row 3, column 5"
        found = re.search(r"(\d+) agree − (\d+) disagree = (−?\d+)", page.inner_text(".sum"))
        assert int(found[3].replace("−", "-")) == sums[3, 5, 7] == int(found[1]) - int(found[2])
        page.locator(".strongest button").first.click()
        assert page.input_value("#unit-layer") == "1"


def _windows(words: np.ndarray, model: PackedModel, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The 3x3 windows (h, w, taps, channels) of an image's levels, and a binary convolution's filters."""
    from hypersign import bits

    levels = np.pad(bits.unpack(words, 48).astype(int), ((1, 1), (1, 1), (0, 0)))
    windows = np.stack([levels[i : i + 8, j : j + 8] for i in range(3) for j in range(3)], 2)
    from hypersign.packed.format import read

    weight = read(io.BytesIO(model.to_bytes())).tensors[f"{name}.weight"]
    return windows, bits.unpack(weight, 432).astype(int).reshape(-1, 9, 48)


def test_the_twin_stands_beside_each_unit(opened, tmp_path):
    model = digits_network(tmp_path)
    twin = digits_network(tmp_path, weights="float", inputs="relu")
    images = images_for(model, 1)
    value = twin.trace(images)["conv2"][0, 2, 4, 9]
    with opened(model, {"twin": twin, "samples": [Sample("one", images[0])]}) as page:
        page.select_option("#unit-layer", label="conv2")
        for name, at in (("c", 9), ("y", 2), ("x", 4)):
            page.fill(f"#unit-{name}", str(at))
            page.press(f"#unit-{name}", "Tab")
        page.wait_for_function("() => document.querySelector('#unit-body').innerText.includes('layer and twin')")
        shown = re.search(r"float twin\s+(\S+)", page.inner_text("#unit-body"))[1]
        assert float(shown.replace("−", "-")) == pytest.approx(value, rel=2e-3)


def test_flipped_bits_change_what_theory_predicts(opened, tmp_path):
    model = digits_network(tmp_path)
    images = images_for(model, 20)
    with opened(model) as page:
        found = page.evaluate(
            """images => {
                const sums = {}, flips = [0, 0];
                images.forEach((one, i) => {
                    const pixels = Uint8Array.from(one), values = Packed.run(network, pixels);
                    const broken = Packed.flip(network, 0.05, i + 1), after = Packed.run(broken, pixels);
                    flips[0] += broken.flipped; flips[1] += broken.total;
                    const shares = Packed.predict(network, values, after, 0.05).shares;
                    for (const [name, share] of Object.entries(shares)) {
                        sums[name] ??= [0, 0];
                        sums[name][0] += share / images.length;
                        sums[name][1] += Packed.changedShare(values[name], after[name]) / images.length;
                    }
                });
                return [sums, flips[0] / flips[1]];
            }""",
            [image.transpose(1, 2, 0).ravel().tolist() for image in images],
        )
        assert found[1] == pytest.approx(0.05, abs=0.002)
        assert set(found[0]) == {"conv1", "conv2", "fc1"}
        for predicted, measured in found[0].values():
            assert predicted == pytest.approx(measured, rel=0.15)
        assert page.evaluate("Packed.flip(network, 1, 1).flipped === Packed.flip(network, 1, 1).total")
        logits = page.inner_text("#logits")
        page.fill("#share", "10")
        page.wait_for_selector("#damage:not([hidden])")
        assert "theory 36.9°" in page.inner_text("#angle")
        page.wait_for_function("() => document.querySelector('#stays').innerText.includes('of 40 draws')")
        assert page.locator("#changes tbody tr").count() == 3
        page.click("#restore")
        assert page.inner_text("#logits") == logits


@pytest.mark.parametrize("width", [320, 390])
def test_a_narrow_window_does_not_scroll_sideways(width, opened, tmp_path):
    with opened(
        digits_network(tmp_path), viewport={"width": width, "height": 844}, is_mobile=True, has_touch=True
    ) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert not page.is_visible("#unit")
        page.locator(".stage .maps").nth(1).tap()
        assert page.is_visible("#unit-title")
        page.keyboard.press("Escape")
        assert not page.is_visible("#unit")


def test_controls_have_names_and_text_has_contrast(check_contrast, opened, tmp_path):
    with opened(digits_network(tmp_path)) as page:
        unnamed = page.evaluate(
            "[...document.querySelectorAll('canvas, button, input, select')].filter(one =>"
            " !one.closest('[hidden], button > canvas') &&"
            " !(one.innerText || one.ariaLabel || one.labels?.length || one.getAttribute('aria-labelledby')))"
            ".map(one => one.outerHTML)"
        )
        assert unnamed == []
        check_contrast(page, [("--plus", "--minus")])


def test_the_command_writes_the_page(tmp_path, capsys):
    model = digits_network(tmp_path)
    np.save(tmp_path / "images.npy", images_for(model, 5))
    words = ["play", str(tmp_path / "digits.hypersign"), "-o", str(tmp_path / "page.html")]
    main([*words, "--images", str(tmp_path / "images.npy"), "--count", "3"])
    text = (tmp_path / "page.html").read_text()
    assert text.count('"name":') == 3
    assert "Open it in a browser" in capsys.readouterr().out
    np.save(tmp_path / "images.npy", np.zeros((5, 1, 9, 9), np.uint8))
    with pytest.raises(SystemExit):
        main([*words, "--images", str(tmp_path / "images.npy")])
    assert "--images must be uint8 of shape (N, 1, 8, 8)" in capsys.readouterr().err


def test_layers_drawn_one_after_another_are_those_drawn_at_once(opened, tmp_path):
    """A layer repaints only the units that changed: the picture must not depend on what stood there before."""
    model = digits_network(tmp_path)
    samples = [Sample(name, image) for name, image in zip("abc", images_for(model, 3), strict=True)]

    def shown(page: Any) -> list[str]:
        page.evaluate(
            "() => new Promise((done) => { let n = 30; "
            "(function f() { --n ? requestAnimationFrame(f) : done(); })(); })"
        )
        return page.evaluate(
            "() => [...document.querySelectorAll('#flow canvas')].map((canvas) => canvas.toDataURL())"
        )

    def choose_unit(page: Any) -> None:  # it is outlined
        page.set_viewport_size({"width": 1200, "height": 6000})
        page.select_option("#unit-layer", label="conv2")
        for name in "cyx":
            page.fill(f"#unit-{name}", "3")
            page.press(f"#unit-{name}", "Tab")

    with opened(model, {"samples": samples[2:]}) as page:
        choose_unit(page)
        expected = shown(page)
    with opened(model, {"samples": samples}) as page:
        choose_unit(page)
        for i in (1, 0, 2):
            page.click(f"#samples button:nth-child({i + 1})")
            assert (shown(page) == expected) == (i == 2)
