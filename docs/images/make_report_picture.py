"""Makes docs/images/report.png: one part of the demo's report, as a browser shows it.

    make demo                                     # writes runs/demo/report.html
    python docs/images/make_report_picture.py     # photographs it

It needs playwright (a package of the tests) and Chromium.
"""

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

PART = "across"
WIDTH = 1000
SCALE = 1.4


def main() -> None:
    """Opens the report, and writes the picture of one part of the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, default=Path("runs/demo/report.html"), help="default: %(default)s")
    parser.add_argument("--part", default=PART, help="id of the part of the page (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).with_name("report.png"), help="default: report.png here"
    )
    options = parser.parse_args()
    if not options.report.is_file():
        raise SystemExit(f"{options.report} is no file: run `make demo` first, or give another report with --report")
    browser_path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser_path is None:
        raise SystemExit("no browser found: install Chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(
            viewport={"width": WIDTH, "height": 1200}, device_scale_factor=SCALE, color_scheme="light"
        )
        page.goto(options.report.resolve().as_uri())
        part = page.locator(f"#{options.part}")
        part.scroll_into_view_if_needed()
        page.locator(f"#{options.part} svg").first.wait_for()
        page.wait_for_timeout(1000)  # charts below the first are drawn as they come into view
        part.screenshot(path=options.output)
        browser.close()
    print(options.output)


if __name__ == "__main__":
    main()
