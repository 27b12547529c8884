"""What can be typed here: the command's own path, and pip's words for an installation of any kind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hypersign import _installation
from hypersign._installation import as_typed, missing, pip_install, program


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with .venv/bin, which is the present interpreter's."""
    bin = tmp_path / ".venv" / "bin"
    bin.mkdir(parents=True)
    for name in ("python", "hypersign"):
        (bin / name).touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(bin / "python"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", os.defpath)
    return bin


def test_the_program_off_the_path_and_on_it(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert program() == ".venv/bin/hypersign"
    assert as_typed("x: it stopped; resume with: hypersign train --resume r") == (
        "x: it stopped; resume with: .venv/bin/hypersign train --resume r"
    )
    assert as_typed("hypersign train: x") == "hypersign train: x"
    monkeypatch.setenv("PATH", f"{environment}{os.pathsep}{os.defpath}")
    assert program() == "hypersign"
    (environment / "hypersign").unlink()
    assert program() == ".venv/bin/python -m hypersign"


def test_the_program_runs_here() -> None:
    done = subprocess.run([*program().split(), "--version"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("origin", "wanted"),
    [
        (None, "'hypersign[train]'"),
        ({"url": "https://example.org/x.whl"}, "'hypersign[train]'"),
        ({"url": "file:///gone", "dir_info": {}}, "'hypersign[train]'"),
        ({"url": "file://HERE", "dir_info": {"editable": True}}, "--editable '.[train]'"),
        ({"url": "file://HERE/copy", "dir_info": {}}, "'copy[train]'"),
        ({"url": "file://HERE/a.whl", "archive_info": {}}, "'hypersign[train] @ file://HERE/a.whl'"),
    ],
)
def test_an_extra_is_added_to_the_installation_that_is_there(origin, wanted, environment: Path, monkeypatch) -> None:
    here = str(environment.parents[1])
    (environment.parents[1] / "copy").mkdir()
    (environment.parents[1] / "a.whl").touch()

    class Distribution:
        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return origin and json.dumps(origin).replace("HERE", here)

    monkeypatch.setattr(_installation.metadata, "distribution", lambda name: Distribution())
    assert pip_install("train") == f".venv/bin/python -m pip install {wanted.replace('HERE', here)}"
    assert missing("this", "pillow", "") == (
        "this needs the package pillow, which is not installed; install it with: "
        ".venv/bin/python -m pip install pillow"
    )
