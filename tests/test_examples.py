"""Every example runs and says what it is there to say."""

import os
import re
import runpy
import warnings
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


def test_a_bare_loop_tracks_its_geometry(run) -> None:
    out = run("bare_loop.py")
    rows = re.findall(r"epoch (\d), (\w+): angle ([\d.]+) \(Gaussian ([\d.]+)\), r ([\d.]+), ([\d.]+)% of", out)
    assert [row[:2] for row in rows] == [(str(e), name) for e in (1, 2, 3) for name in ("conv1", "conv2", "fc1")]
    assert all(0.4 < float(row[4]) < 1 and 0 < float(row[5]) < 50 for row in rows)
    # training makes the uniform weights, 30 degrees, Gaussian
    assert float(rows[7][2]) == pytest.approx(float(rows[7][3]), abs=1)


def test_lightning_logs_the_geometry(run) -> None:
    pytest.importorskip("lightning")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on workers
        out = run("lightning_callback.py")
    logged = dict(re.findall(r"^([\w/]+): ([\d.]+)$", out, re.MULTILINE))
    assert {"angle_degrees/conv1", "pearson_r/fc1", "flipped_signs/conv2"} <= set(logged)
    assert 25 < float(logged["angle_degrees/conv2"]) < 40


def test_codes_go_to_faiss(run) -> None:
    pytest.importorskip("faiss")
    out = run("faiss_codes.py")
    assert "same distances as IndexBinaryFlat: True" in out
    assert float(re.search(r"HNSW finds ([\d.]+)%", out)[1]) > 80
    assert float(re.search(r"IVF finds ([\d.]+)%", out)[1]) > 60


def test_rabitq_in_faiss_has_the_signs_of_codes(run) -> None:
    pytest.importorskip("faiss")
    out = run("faiss_rabitq.py")
    assert re.findall(r"signs are ours: ([\d.]+)%", out) == ["100.00"] * 3
    found = [float(share) for share in re.findall(r"finds ([\d.]+)%", out)]
    assert found == sorted(found)
    assert found[2] > 80


def test_requests_to_stores(run) -> None:
    assert re.findall(r"^(\w+): ", run("store_requests.py"), re.MULTILINE) == [
        "qdrant",
        "pgvector",
        "milvus",
        "opensearch",
    ]


def test_dask_hashes_as_one_machine(run) -> None:
    pytest.importorskip("dask")
    assert "same codes as one machine: True" in run("dask_codes.py")


LONG = pytest.mark.skipif("HYPERSIGN_LONG" not in os.environ, reason="runs in .ci/long engines")


@LONG
@pytest.mark.filterwarnings("ignore")
def test_ray_hashes_as_one_machine(run) -> None:
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        assert "same codes as one machine: True" in run("ray_codes.py")
    finally:
        ray.shutdown()


@LONG
@pytest.mark.filterwarnings("ignore")
def test_spark_hashes_as_one_machine(run) -> None:
    pytest.importorskip("pyspark")
    assert "same codes as one machine: True" in run("spark_codes.py")


def test_every_example_has_a_test_of_its_own_output() -> None:
    """`postgres_codes.py` runs in `test_stores.py`, with a server."""
    tests = Path(__file__).read_text() + Path(__file__).with_name("test_stores.py").read_text()
    assert all(f'"{path.name}"' in tests for path in EXAMPLES.glob("*.py"))
