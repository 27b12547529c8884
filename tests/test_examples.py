"""Every example runs and says what it is there to say."""

import re
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """Runs an example in an empty folder and returns what it printed."""

    def run(name: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", [name])
        with torch.random.fork_rng(devices=[]):
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_converting_costs_accuracy_and_fitting_batch_norm_gives_it_back(run) -> None:
    out = run("convert_network.py")
    accuracy = float(re.search(r"float: ([\d.]+)%", out)[1])
    rows = [[float(x) for x in row] for row in re.findall(r"binary: ([\d.]+)%, .*?: ([\d.]+)%; angle ([\d.]+)", out)]
    assert accuracy > 95
    assert len(rows) == 3
    assert all(refitted > 85 for _, refitted, _ in rows)
    assert sum(refitted for _, refitted, _ in rows) > sum(at_once for at_once, _, _ in rows)
    assert all(25 < angle < 45 for _, _, angle in rows)


def test_own_images_are_learnt(run, tmp_path: Path) -> None:
    out = run("own_images.py")
    assert float(re.match(r"([\d.]+)% of 240", out)[1]) > 90
    assert (tmp_path / "runs/stripes/run/run.json").exists()


def test_codes_go_to_faiss(run) -> None:
    pytest.importorskip("faiss")
    out = run("faiss_codes.py")
    assert "same distances as IndexBinaryFlat: True" in out
    assert float(re.search(r"HNSW finds ([\d.]+)%", out)[1]) > 80


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_every_example_has_a_test(name: str) -> None:
    assert f'run("{name}"' in Path(__file__).read_text()
