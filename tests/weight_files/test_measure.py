import math

import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy import stats

from hypersign._checks import HypersignError
from hypersign.bits.backend import available_backends, forced
from hypersign.weight_files import measure
from hypersign.weight_files.measure import inspect_weights
from hypersign.weight_files.tensors import open_tensors


def inspected(tmp_path, tensors, **options):
    save_file(tensors, tmp_path / "m.safetensors")
    found = inspect_weights(open_tensors(tmp_path / "m.safetensors"), **options)
    return {t.name: t for t in (*found.tensors, *found.unmeasured)}


def angle(u, v):
    return math.degrees(math.acos(min(1.0, u @ v / math.sqrt(u @ u * (v @ v)))))


def group_angle(row, size):
    """Between a row and its signs, each group of which is scaled by its mean magnitude: a loop."""
    levels = np.empty_like(row)
    for start in range(0, len(row), size):
        group = row[start : start + size]
        levels[start : start + size] = np.where(group >= 0, 1, -1) * np.abs(group).mean()
    return angle(row, levels)


@pytest.mark.parametrize("d", [2, 9, 31, 32, 33, 64, 65, 127, 128, 129, 300])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("backend", available_backends())
def test_angles_and_moments_are_those_of_loops(backend, d, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "_BLOCK", 1000)  # several blocks, the last of them shorter
    w = (np.random.default_rng(d).standard_t(5, (23, d)) * 0.02 + 0.005).astype(dtype)
    w[3, 0] = w[7] = 0
    with forced(backend):
        found = inspected(tmp_path, {"w": w})["w"]
    rows = [row.astype(np.float64) for i, row in enumerate(w) if i != 7]
    angles = [angle(row, np.where(row >= 0, 1.0, -1.0)) for row in rows]
    assert (found.rows, found.row_length, found.zero_rows) == (23, d, 1)
    assert found.angle_degrees.mean == pytest.approx(np.mean(angles), abs=1e-4)
    assert found.angle_degrees.std == pytest.approx(np.std(angles, ddof=1), abs=1e-4)
    assert [group.size for group in found.group_angles_degrees] == [size for size in (32, 64, 128) if size < d]
    for group in found.group_angles_degrees:
        assert group.mean == pytest.approx(np.mean([group_angle(row, group.size) for row in rows]), abs=1e-4)
    values = w.astype(np.float64).ravel()
    assert found.mean == pytest.approx(values.mean(), rel=1e-5, abs=1e-9)
    assert found.std == pytest.approx(values.std(), rel=1e-5)
    assert found.kurtosis == pytest.approx(stats.kurtosis(values, fisher=False), rel=1e-4)
    assert found.zeros == pytest.approx(np.mean(values == 0), abs=1e-12)


@pytest.mark.parametrize(("law", "degrees"), [("normal", 37.071), ("uniform", 30), ("laplace", 45)])
def test_each_law_meets_its_prediction(law, degrees, tmp_path):
    generator = np.random.default_rng(0)
    w = {"normal": generator.normal, "uniform": generator.uniform, "laplace": generator.laplace}[law](
        -1, 1, (400, 1024)
    )
    w = (w + 1 if law != "uniform" else w).astype(np.float32)
    found = inspected(tmp_path, {"w": w})["w"]
    angles = found.angle_degrees
    assert angles.mean == pytest.approx(degrees, abs=0.1)
    assert angles.mean == pytest.approx(angles.moments_mean, abs=4 * angles.std / 20)
    assert angles.std == pytest.approx(angles.moments_std, rel=0.15)
    assert angles.predicted_mean == pytest.approx(37.05, abs=0.01)
    for group in found.group_angles_degrees:
        assert group.mean == pytest.approx(group.moments_mean, abs=0.1)
        assert (group.mean == pytest.approx(group.predicted_mean, abs=0.1)) == (law == "normal")
    turned = found.rotated_angle_degrees
    assert (turned.dimension, found.sampled_rows) == (1024, 128)
    assert turned.before == pytest.approx(degrees, abs=0.3)
    assert turned.after == pytest.approx(turned.predicted, abs=0.25)
    if law == "normal":
        for levels in found.level_angles_degrees:
            assert levels.angle == pytest.approx(levels.predicted, abs=0.1)
            assert len(levels.values) == levels.levels // 2
        assert found.level_angles_degrees[0].values[0] == pytest.approx(1.224, abs=0.01)
    if law == "uniform":  # k levels, evenly spaced, miss 1/k^2 of a uniform law's square
        for levels in found.level_angles_degrees:
            assert math.sin(math.radians(levels.angle)) == pytest.approx(1 / levels.levels, rel=0.01)


def test_best_ternary_levels_are_found_by_trying_all(tmp_path):
    w = np.random.default_rng(0).laplace(size=(5, 200))
    found = inspected(tmp_path, {"w": w})["w"].level_angles_degrees[0]
    unit = w / np.sqrt((w**2).mean(1, keepdims=True))
    sizes = np.sort(np.abs(unit).ravel())[::-1]
    kept = np.cumsum(sizes) ** 2 / np.arange(1, sizes.size + 1) / sizes.size
    assert found.angle == pytest.approx(math.degrees(math.acos(math.sqrt(kept.max()))), abs=0.05)
    assert found.angle >= math.degrees(math.acos(math.sqrt(kept.max()))) - 1e-9


def test_levels_that_weights_already_have_cost_nothing(tmp_path):
    signs = np.where(np.random.default_rng(0).random((8, 96)) < 0.5, -1, 1)
    ternary = signs * (np.arange(96) % 3 > 0)
    found = inspected(tmp_path, {"a": 0.1 * signs, "b": 0.1 * ternary})
    assert found["a"].angle_degrees.mean == pytest.approx(0, abs=0.02)  # float32: 1 - cos of 1e-8
    m = signs.mean()
    assert found["a"].kurtosis == pytest.approx((1 + 3 * m**2) / (1 - m**2), rel=1e-5)
    assert [levels.angle for levels in found["a"].level_angles_degrees] == pytest.approx([0, 0, 0], abs=1e-4)
    assert found["b"].zeros == pytest.approx(1 / 3)
    assert found["b"].level_angles_degrees[0].angle == pytest.approx(0, abs=1e-4)
    assert found["b"].angle_degrees.mean == pytest.approx(math.degrees(math.acos(math.sqrt(2 / 3))), abs=1e-4)


def test_a_rotation_mends_a_row_of_few_weights(tmp_path):
    w = np.zeros((64, 100), np.float32)
    w[np.arange(64), np.arange(64)] = w[np.arange(64), 99 - np.arange(64) // 2] = 1
    turned = inspected(tmp_path, {"w": w})["w"].rotated_angle_degrees
    assert turned.dimension == 128
    assert turned.before == pytest.approx(math.degrees(math.acos(math.sqrt(2 / 100))), abs=1e-3)
    assert turned.after == pytest.approx(36.9, abs=1)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_moments_where_float32_has_not_the_range(scale, tmp_path):
    w = np.random.default_rng(0).standard_normal((50, 64)) * scale
    found = inspected(tmp_path, {"w": w.astype(np.float32)})["w"]
    assert found.std == pytest.approx(w.std(), rel=1e-5)
    assert found.kurtosis == pytest.approx(stats.kurtosis(w.ravel(), fisher=False), rel=1e-4)
    assert found.angle_degrees.mean == pytest.approx(36.7, abs=1)


def test_moments_about_a_mean_far_from_zero(tmp_path):
    w = (100 + np.random.default_rng(0).standard_normal((50, 640))).astype(np.float32)
    found = inspected(tmp_path, {"w": w, "c": np.full((4, 8), 3.0, np.float32)})
    assert found["w"].std == pytest.approx(w.astype(np.float64).std(), rel=1e-6)
    assert found["w"].kurtosis == pytest.approx(stats.kurtosis(w.astype(np.float64).ravel(), fisher=False), rel=1e-3)
    assert found["c"].std == pytest.approx(0, abs=1e-6)
    assert math.isnan(found["c"].kurtosis)


def test_what_cannot_be_measured_says_why(tmp_path):
    good = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    bad = good.copy()
    bad[1, 2], bad[3, 0] = np.nan, np.inf
    tensors = {
        "bad": bad,
        "bias": good[0],
        "column": good[:, :1].copy(),
        "empty": good[:0],
        "good": good,
        "huge": good.astype(np.float64) * 1e200,
        "integers": good.astype(np.int32),
        "one": np.array(3, np.float32),
        "tiny": good.astype(np.float64) * 1e-200,
        "zero": np.zeros((3, 3), np.float16),
    }
    found = inspected(tmp_path, tensors)
    assert {name: t.reason for name, t in found.items() if name != "good"} == {
        "bad": "2 of its 32 weights are NaN or infinite",
        "bias": "one dimension: a bias or a scale",
        "column": "rows of one weight, which are their own signs",
        "empty": "it is empty",
        "huge": "its weights are too large or too small for their fourth powers to be float64",
        "integers": "type I32 holds no float weights that can be read without their scales",
        "one": "one dimension: a bias or a scale",
        "tiny": "its weights are too large or too small for their fourth powers to be float64",
        "zero": "all its weights are 0",
    }
    assert found["good"].rows == 4


def test_one_row_a_small_sample_json_and_progress(tmp_path):
    w = np.random.default_rng(0).standard_normal((1, 70)).astype(np.float32)
    save_file({"w": w, "b": w[0], "x": np.ones((3, 4), np.float32)}, tmp_path / "m.safetensors")
    seen = []
    file = open_tensors(tmp_path / "m.safetensors")
    found = inspect_weights(file, sample=1, progress=seen.append)
    assert seen[-1] == found.nbytes == 2 * w.nbytes + 48
    assert seen == sorted(seen)
    assert found.measured_bytes == w.nbytes + 48
    assert found.bytes_per_second > 0
    tensor = found.tensors[0]
    assert tensor.sampled_rows == 1
    assert math.isnan(tensor.angle_degrees.std)
    assert found.as_dict()["tensors"][0]["angle_degrees"]["std"] is None
    with pytest.raises(HypersignError, match="sample must be an integer >= 1; got 0"):
        inspect_weights(file, sample=0)


@pytest.mark.parametrize("law", ["t2.5", "t4", "t30", "laplace", "outliers", "normal"])
@pytest.mark.parametrize("d", [9, 130, 1152])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_heavy_tails_by_bootstrap(law, d, dtype, tmp_path, monkeypatch):
    """Whatever the tails, a prediction from the tensor's own weights is that of rows drawn from them."""
    monkeypatch.setattr(measure, "_BLOCK", 10_000)
    generator = np.random.default_rng(0)
    shape = (40_000 // d + 20, d)
    w = generator.standard_normal(shape)
    if law == "outliers":
        w[generator.random(shape) < 1e-3] *= 300
    elif law == "laplace":
        w = generator.laplace(size=shape)
    elif law != "normal":
        w = generator.standard_t(float(law[1:]), shape)
    w = (w * 1e-3).astype(dtype)
    if dtype is np.float64:
        w *= 1e-40  # beyond float32's range
    found = inspected(tmp_path, {"w": w}, sample=1000)["w"]
    x = np.abs(w.astype(np.float64).ravel()[generator.integers(0, w.size, (1000, d))])
    square = (x * x).sum(1)
    row = np.degrees(np.arccos(np.minimum(x.sum(1) / np.sqrt(d * square), 1)))
    error = 4 * row.std() / np.sqrt(len(row))
    angles = found.angle_degrees
    assert angles.moments_mean == pytest.approx(row.mean(), abs=0.3 + error)
    assert angles.moments_std == pytest.approx(row.std(), abs=0.5 + error)
    for group in found.group_angles_degrees:
        starts = np.arange(0, d, group.size)
        kept = np.add.reduceat(x, starts, axis=1) ** 2 / np.minimum(d - starts, group.size)
        expected = np.degrees(np.arccos(np.sqrt(np.minimum(kept.sum(1) / square, 1))))
        assert group.moments_mean == pytest.approx(expected.mean(), abs=0.3 + error)
    for name in ("mean", "predicted_mean", "moments_mean"):
        lines = [getattr(line, name) for line in (*found.group_angles_degrees, angles)]
        assert lines == sorted(lines), name


@pytest.mark.parametrize("d", [2, 9, 27, 64])
def test_best_levels_of_normals_in_short_rows(d, tmp_path):
    w = np.random.default_rng(0).standard_normal((200_000 // d, d))
    found = inspected(tmp_path, {"w": w}, sample=200_000)["w"]
    for levels in found.level_angles_degrees:
        assert levels.angle == pytest.approx(levels.predicted, abs=0.15)
