import json
import re
import sys

import pytest

from hypersign._checks import HypersignError
from hypersign.report import charts


@pytest.fixture(scope="module")
def specifications():
    return charts.specifications(["#123456"], ["#123456"])


def test_every_colour_that_differs_by_scheme_is_a_property_of_the_page(specifications):
    style = (charts.__file__).replace("charts.py", "page/report.css")
    with open(style, encoding="utf-8") as file:
        known = set(re.findall(r"(--[\w-]+):", file.read()))
    used = set(re.findall(r"var\((--[\w-]+)\)", json.dumps(specifications)))
    assert {"--measured", "--predicted", "--heat-0"} <= used <= known


def test_no_specification_names_data_to_fetch(specifications):
    assert not [s for s in specifications.values() for data in s["data"] if "url" in data]


def test_the_spread_is_logarithmic_on_both_axes(specifications):
    assert [scale["type"] for scale in specifications["spread"]["scales"] if scale["name"] in "xy"] == ["log"] * 2


def test_the_library_is_one_script_that_loads_nothing():
    script = charts.library()
    assert script.rstrip().endswith("window.vegaEmbed=" + script.rsplit("=", 1)[1].strip())
    assert not re.search(r"^\s*import |\bimportScripts\(|cdn\.jsdelivr", script)


@pytest.mark.parametrize("package", ["altair", "vl_convert"])
def test_a_missing_package_names_the_extra(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(HypersignError, match=r"pip install .*report'"):
        charts.specifications([], [])
