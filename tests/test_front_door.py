"""The front door: one list of names, each the same object as in its part, loaded at its first use."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import hypersign
from hypersign._checks import HypersignError

NAMES = [name for name in hypersign.__all__ if name != "HypersignError"]


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", NAMES)
def test_a_name_stays_what_it_is(name: str) -> None:
    """Taken twice, before and after its part is imported: no module takes its place."""
    part = hypersign._PARTS[name]
    found = run(
        "import hypersign, importlib, types\n"
        f"first = hypersign.{name}\n"
        f"part = importlib.import_module('hypersign.{part}')\n"
        f"import hypersign.{part}\n"
        f"second = hypersign.{name}\n"
        f"from hypersign import {name} as third\n"
        f"assert first is second is third is part.{name}\n"
        "assert not isinstance(first, types.ModuleType)\n"
        f"print({name!r} in part.__all__)"
    )
    assert found.strip() == "True"


def test_the_error_is_public() -> None:
    assert hypersign.HypersignError is HypersignError
    with pytest.raises(hypersign.HypersignError):
        hypersign.load("no run folder")


def test_unknown_names_are_unknown() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        hypersign.nothing  # noqa: B018
    assert set(hypersign.__all__) <= set(dir(hypersign))


def test_no_part_has_the_name_of_a_verb() -> None:
    files = {path.stem for path in Path(hypersign.__file__).parent.iterdir()}
    assert not files & set(NAMES)


def test_import_pulls_in_nothing_but_itself() -> None:
    modules = json.loads(run("import json, sys, hypersign; print(json.dumps(sorted(sys.modules)))"))
    assert not {"numpy", "torch", "scipy", "rich"} & set(modules)
    assert [name for name in modules if name.startswith("hypersign")] == [
        "hypersign",
        "hypersign._checks",
        "hypersign._lazy",
    ]
