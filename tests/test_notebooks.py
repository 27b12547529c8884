"""Every notebook runs from its first cell to its last, and finds what its text says."""

import contextlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[dict[str, Any], str]]:
    """Executes a notebook's code cells in one namespace, without a kernel; returns it and what they printed."""

    def run(name: str) -> tuple[dict[str, Any], str]:
        notebook = json.loads((NOTEBOOKS / name).read_text(encoding="utf-8"))
        assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("TMPDIR", os.fspath(tmp_path))
        namespace: dict[str, Any] = {"__name__": "__main__"}
        text = io.StringIO()
        with contextlib.redirect_stdout(text), torch.random.fork_rng(devices=[]):
            for cell in notebook["cells"]:
                if cell["cell_type"] == "code":
                    exec(compile("".join(cell["source"]), f"{name}, {cell['id']}", "exec"), namespace)
        return namespace, text.getvalue()

    return run


def test_trained_network(run) -> None:
    names, text = run("trained_network.ipynb")
    assert names["run"].info["results"]["test"]["accuracy"] > 0.8
    assert [layer.name for layer in names["found"].layers] == ["conv1", "conv2", "fc1"]
    assert max(names["distances"].values()) < 0.03
    assert "recommendation" in text
    assert "r of the logits" in text
    assert [layer.recommendation for layer in names["advice"].layers][1:] == ["binarize", "binarize"]


def test_high_dimensional_vectors(run) -> None:
    names, text = run("high_dimensional_vectors.ipynb")
    for case in (*names["pairs"].cases, *names["signs"].cases, *names["ternary"].cases):
        assert abs(case.angle_degrees.mean_distance) < 4.5, case.label
    assert "best threshold: 0.6120 standard" in text
    assert "3 levels: 25.8" in text
    error = np.degrees(np.sqrt(np.mean((names["estimated"] - names["true"]) ** 2)))
    assert 1 < error < 4
    assert names["found"].rotated_degrees.mean == pytest.approx(37, abs=1)


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_are_kept_with_outputs_and_tested(path: Path) -> None:
    """notebooks/store_outputs.py stores them: a cell that prints or ends with a figure shows that."""
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert not any(cell.get("execution_count") for cell in cells)
    for cell in cells:
        kinds = {output["output_type"] for output in cell["outputs"]}
        source = "".join(cell["source"])
        assert ("stream" in kinds) == ("print(" in source), cell["id"]
        assert any("image/png" in output.get("data", {}) for output in cell["outputs"]) == (
            "get_figure()" in source
        ), cell["id"]
    assert path.stat().st_size < 1_000_000
    assert f'run("{path.name}")' in Path(__file__).read_text(encoding="utf-8")
