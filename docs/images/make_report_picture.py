"""Makes the pictures of the demo's report in docs/images, as a browser shows it.

    make demo                                     # writes runs/demo/report.html
    python docs/images/make_report_picture.py     # photographs it; --only report.png for one picture

It needs playwright (a package of the tests), Chromium, and for report_print.png pypdfium2.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

HERE = Path(__file__).parent
DESKTOP = {"viewport": {"width": 1440, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
PICTURES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "report.png": ("across", 0, {"viewport": {"width": 1000, "height": 1200}, "device_scale_factor": 1.4}),
    "report_top.png": ("", 1060, DESKTOP),
    "report_layers.png": ("layers", 800, DESKTOP),
    "report_dark.png": ("layers", 1240, {**DESKTOP, "color_scheme": "dark"}),
    "report_phone.png": ("", 1200, PHONE),
    "report_phone_dark.png": ("layers", 1200, {**PHONE, "color_scheme": "dark"}),
}
"""File -> the part of the page at its top, the height in CSS pixels (0: the part alone), the browser's options."""
PAGES = 3
"""Pages in report_print.png."""


def main() -> None:
    """Opens the report, and writes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, default=Path("runs/demo/report.html"), help="default: %(default)s")
    parser.add_argument("--only", choices=[*PICTURES, "report_print.png"], help="this picture alone")
    parser.add_argument("--folder", type=Path, default=HERE, help="where to write (default: docs/images)")
    options = parser.parse_args()
    if not options.report.is_file():
        raise SystemExit(f"{options.report} is no file: run `make demo` first, or give another report with --report")
    browser_path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser_path is None:
        raise SystemExit("no browser found: install Chromium")
    address = options.report.resolve().as_uri()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        for name in PICTURES:
            if options.only in (None, name):
                photograph(browser, address, name, options.folder / name)
        if options.only in (None, "report_print.png"):
            print_pages(browser, address, options.folder / "report_print.png")
        browser.close()


def photograph(browser: Browser, address: str, name: str, path: Path) -> None:
    """One picture of the screen."""
    part, height, given = PICTURES[name]
    with browser.new_context(**{"color_scheme": "light"} | given) as context:
        page = context.new_page()
        page.goto(address)
        if part:
            page.locator(f"#{part}").scroll_into_view_if_needed()
            page.locator(f"#{part} svg").first.wait_for()
        page.wait_for_timeout(1000)  # charts below the first are drawn as they come into view
        if height:
            top = page.evaluate(
                "id => id ? document.getElementById(id).getBoundingClientRect().top + scrollY : 0", part
            )
            width = page.viewport_size["width"]
            page.screenshot(path=path, full_page=True, clip={"x": 0, "y": top, "width": width, "height": height})
        else:
            page.locator(f"#{part}").screenshot(path=path)
    print(path)


def print_pages(browser: Browser, address: str, path: Path) -> None:
    """The first printed pages, side by side."""
    try:
        import pypdfium2
        from PIL import Image, ImageOps
    except ModuleNotFoundError:
        print(f"{path} needs pypdfium2 and Pillow: left as it is")
        return
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(address)
        page.wait_for_timeout(1000)
        document = pypdfium2.PdfDocument(page.pdf(format="A4", print_background=True))
    pages = [ImageOps.expand(document[i].render(scale=1.08).to_pil(), 2, "#888") for i in range(PAGES)]
    picture = Image.new("RGB", (sum(one.width for one in pages), pages[0].height))
    for i, one in enumerate(pages):
        picture.paste(one, (sum(before.width for before in pages[:i]), 0))
    picture.save(path)
    print(path, f"{len(document)} pages in all")


if __name__ == "__main__":
    main()
