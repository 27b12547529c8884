"""Settings of every test."""

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

# The networks of the tests gain nothing from a second thread, and on busy cores threads wait for each other:
# ten times slower. Set before torch is imported, so that the processes which tests start have it too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A relative folder of data sets counts from here, also for processes that tests start in another folder.
if os.environ.get("HYPERSIGN_DATA"):
    os.environ["HYPERSIGN_DATA"] = os.path.abspath(os.environ["HYPERSIGN_DATA"])


@pytest.fixture(scope="session")
def synthetic():
    """The module that makes results up, for figures and reports."""
    return _module("report/synthetic.py")


@pytest.fixture(scope="session")
def mutations():
    """The module that damages files at random."""
    return _module("mutations.py")


def _module(name):
    path = Path(__file__).parent / name
    specification = importlib.util.spec_from_file_location(f"tests_{path.stem}", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def geometry(synthetic):
    return synthetic.geometry()


@pytest.fixture(scope="module")
def browser():
    """A Chromium, for pages."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip(f"none of {', '.join(names)} is installed")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as run:
        browser = run.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def check_contrast():
    """A function that checks a page's texts, and marks on their grounds, in both colour schemes."""
    return _module("contrast.py").check
