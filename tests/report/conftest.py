import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).with_name("synthetic.py")


@pytest.fixture(scope="session")
def synthetic():
    """The module that makes results up."""
    specification = importlib.util.spec_from_file_location("synthetic_results", PATH)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def geometry(synthetic):
    return synthetic.geometry()
