import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from hypersign._checks import HypersignError
from hypersign.weight_files.pair import inspect_pair
from hypersign.weight_files.tensors import open_tensors

gguf = pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def save_gguf():
    path = Path(__file__).with_name("test_tensors.py")
    specification = importlib.util.spec_from_file_location("tensor_files_of_tests", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.save_gguf


def binary(w, size):
    """Signs with the mean magnitude of every group of `size`."""
    groups = w.reshape(len(w), -1, size)
    return (np.where(groups >= 0, 1, -1) * np.abs(groups).mean(2, keepdims=True)).reshape(w.shape).astype(np.float32)


def compared(tmp_path, low, high):
    save_file({name: np.ascontiguousarray(w, np.float32) for name, w in low.items()}, tmp_path / "low.safetensors")
    save_file({name: np.ascontiguousarray(w, np.float32) for name, w in high.items()}, tmp_path / "high.safetensors")
    return inspect_pair(open_tensors(tmp_path / "low.safetensors"), open_tensors(tmp_path / "high.safetensors"))


@pytest.mark.parametrize("size", [32, 128, 1024])
def test_binary_weights_meet_theory(size, tmp_path):
    w = np.random.default_rng(0).standard_normal((100, 1024))
    found = compared(tmp_path, {"w": binary(w, size)}, {"w": w}).tensors[0]
    assert (found.levels, found.group, found.zeros, found.rotary_order) == (2, size, 0, False)
    cosine = found.cosine
    assert cosine.mean == pytest.approx(cosine.predicted_mean, abs=4 * cosine.std / 10)
    assert cosine.std == pytest.approx(cosine.predicted_std, rel=0.3)
    assert cosine.direct_mean == pytest.approx(cosine.mean, abs=1e-6)
    assert found.latent_cosine == pytest.approx(1, abs=1e-6)
    assert found.sign_agreement == 1
    assert found.predicted_sign_agreement == pytest.approx(1, abs=1e-3)
    assert found.scale_ratio == pytest.approx(1, abs=1e-6)
    assert found.autocorrelation == found.original_autocorrelation
    assert found.autocorrelation_std == pytest.approx((100 * 1023) ** -0.5)
    assert abs(found.autocorrelation) < 4 * found.autocorrelation_std


@pytest.mark.parametrize("r", [0.9, 0.5])
@pytest.mark.parametrize("threshold", [0.0, 0.6])
def test_latent_weights_that_moved(r, threshold, tmp_path):
    generator = np.random.default_rng(1)
    w, noise = generator.standard_normal((2, 100, 1024))
    latent = r * w + math.sqrt(1 - r * r) * noise
    low = np.sign(latent) * (np.abs(latent) > threshold) * 2.0
    found = compared(tmp_path, {"w": low}, {"w": w}).tensors[0]
    assert found.levels == (3 if threshold else 2)
    assert found.group == 1024
    assert found.latent_cosine == pytest.approx(r, abs=0.01)
    assert found.sign_agreement == pytest.approx(found.predicted_sign_agreement, abs=0.01)
    if threshold:
        assert found.zeros == pytest.approx(0.451, abs=0.01)
        chosen = np.abs(latent) > threshold
        assert found.sign_agreement == pytest.approx(np.mean(np.sign(w)[chosen] == np.sign(latent)[chosen]))
    assert found.scale_ratio == pytest.approx(np.mean((w * low).sum(1) / (low * low).sum(1)), rel=1e-5)


def test_a_float_model_that_was_rounded_to_ternary_blocks(tmp_path, save_gguf):
    """By the largest weight of each 256: thresholds differ, the latent cosine is just below 1, all signs agree."""
    w = np.random.default_rng(0).standard_normal((128, 2048)).astype(np.float32)
    kind = gguf.GGMLQuantizationType.TQ2_0
    save_gguf(tmp_path / "low.gguf", {"w": (gguf.quantize(w, kind), kind)})
    save_gguf(tmp_path / "float.gguf", {"w": w})
    (pair,) = inspect_pair(*(open_tensors(tmp_path / f"{name}.gguf") for name in ("low", "float"))).tensors
    assert (pair.levels, pair.group, pair.sign_agreement) == (3, 256, 1)
    assert pair.latent_cosine == pytest.approx(0.99, abs=0.004)
    b = gguf.dequantize(gguf.quantize(w, kind), kind)
    np.testing.assert_allclose(pair.scale_ratio, ((w * b).sum(1) / (b * b).sum(1)).mean(), rtol=1e-5)


def test_rows_of_zeros_ties_and_more_levels(tmp_path):
    w = np.array([[1.0, -2, 0, 3], [0, 0, 0, 0], [1, 1, 1, 1]])
    low = np.array([[1.0, 1, -1, 1], [1, 1, 1, 1], [0, 0, 0, 0]])
    rough = np.round(np.random.default_rng(0).standard_normal((4, 64)) * 3)
    found = {t.name: t for t in compared(tmp_path, {"a": low, "b": rough}, {"a": w, "b": rough}).tensors}
    a, b = found["a"], found["b"]
    assert (a.levels, a.group, a.zero_rows) == (2, 4, 2)
    assert a.cosine.mean == pytest.approx(2 / math.sqrt(4 * 14))
    assert math.isnan(a.cosine.std)
    assert a.sign_agreement == 6 / 8  # of the second row all: 0 counts as positive
    assert a.zeros == pytest.approx(4 / 12)
    assert a.autocorrelation == pytest.approx((1 - 1 - 1 + 3) / 6)
    assert (b.levels, b.group) == (0, 0)
    assert b.cosine.mean == pytest.approx(1)
    assert math.isnan(b.cosine.predicted_mean)
    assert math.isnan(b.predicted_sign_agreement)


@pytest.mark.parametrize("packed_is", ["low", "high"])
def test_gguf_against_safetensors(packed_is, tmp_path, save_gguf):
    """Names of llama.cpp and of Hugging Face; query rows in the order of rotary halves; shapes as torch has them."""
    generator = np.random.default_rng(0)
    names = {
        "blk.0.attn_q.weight": ("model.layers.0.self_attn.q_proj.weight", (64, 256)),
        "blk.0.attn_k.weight": ("model.layers.0.self_attn.k_proj.weight", (32, 256)),
        "blk.0.ffn_down.weight": ("model.layers.0.mlp.down_proj.weight", (24, 512)),
        "token_embd.weight": ("model.embed_tokens.weight", (40, 256)),
    }
    original = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in names.values()}
    loose, packed = {}, {}
    for name, (other, _) in names.items():
        w = binary(original[other], 256) if packed_is == "low" else original[other]
        loose[other] = original[other] if packed_is == "low" else binary(original[other], 256)
        heads = {"blk.0.attn_q.weight": 4, "blk.0.attn_k.weight": 2}.get(name)
        if heads:  # what llama.cpp's conversion does
            w = w.reshape(heads, 2, len(w) // heads // 2, -1).swapaxes(1, 2).reshape(w.shape)
        # Magnitudes of a group are equal, so that two ternary bits hold them but for float16's rounding.
        kind = gguf.GGMLQuantizationType.TQ2_0 if packed_is == "low" else gguf.GGMLQuantizationType.F32
        packed[name] = (gguf.quantize(w, kind), kind)
    packed["rope_freqs.weight"] = (np.ones(8, np.float32), gguf.GGMLQuantizationType.F32)
    loose["model.layers.0.extra"] = np.ones((2, 2), np.float32)
    path = save_gguf(tmp_path / "m.gguf", packed, block_count=1, attention__head_count=4, attention__head_count_kv=2)
    save_file(loose, tmp_path / "m.safetensors")
    files = [open_tensors(path), open_tensors(tmp_path / "m.safetensors")]
    found = inspect_pair(*(files if packed_is == "low" else files[::-1]))
    assert len(found.tensors) == 4
    for tensor in found.tensors:
        assert tensor.cosine.mean == pytest.approx(0.8, abs=0.01), tensor.name
        assert tensor.sign_agreement == 1
        assert (tensor.levels, tensor.group) == (2, 256)
        assert tensor.rotary_order == ("attn" in tensor.name + tensor.original_name)
    (unmeasured,) = found.unmeasured
    (missing,) = found.missing
    extra = {"rope_freqs.weight", "model.layers.0.extra"}
    assert {unmeasured.name, missing} == extra
    assert "has no such tensor" in unmeasured.reason


def test_keys_have_the_heads_of_queries_where_the_file_does_not_say(tmp_path, save_gguf):
    w = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)
    packed = binary(w, 256).reshape(4, 2, 8, -1).swapaxes(1, 2).reshape(w.shape)  # four heads
    path = save_gguf(tmp_path / "m.gguf", {"blk.0.attn_k.weight": packed}, block_count=1, attention__head_count=4)
    save_file({"model.layers.0.self_attn.k_proj.weight": w}, tmp_path / "m.safetensors")
    (pair,) = inspect_pair(open_tensors(path), open_tensors(tmp_path / "m.safetensors")).tensors
    assert (pair.rotary_order, pair.sign_agreement) == (True, 1)


def test_weights_whose_fourth_powers_are_no_float64(tmp_path):
    w = np.random.default_rng(0).standard_normal((4, 64))
    save_file({"w": w * 1e100}, tmp_path / "huge.safetensors")
    save_file({"w": w}, tmp_path / "plain.safetensors")
    huge, plain = (open_tensors(tmp_path / f"{name}.safetensors") for name in ("huge", "plain"))
    for pair in ((huge, plain), (plain, huge)):
        (unmeasured,) = inspect_pair(*pair).unmeasured
        assert unmeasured.reason == "weights of w are too large for their fourth powers to be float64"


def test_what_cannot_be_compared_says_why(tmp_path):
    w = np.random.default_rng(0).standard_normal((4, 8))
    bad = w.copy()
    bad[2, 3] = np.nan
    found = compared(
        tmp_path,
        {"bad": w, "bias": w[0], "other": w, "shape": w, "zero": np.zeros((4, 8)), "good": w},
        {"bad": bad, "bias": w[0], "good": w, "left": w, "shape": w.T, "zero": w},
    )
    assert {t.name: t.reason for t in found.unmeasured} == {
        "bad": "weights of bad are NaN or infinite, in rows 0 to 3 first",
        "bias": "one dimension: a bias or a scale",
        "other": "high.safetensors has no such tensor",
        "shape": "it has shape (4, 8), in high.safetensors (8, 4)",
        "zero": "in every row all weights are 0 in one of the files",
    }
    assert found.missing == ("left",)
    assert found.as_dict()["tensors"][0]["name"] == "good"
    with pytest.raises(HypersignError, match=r"no tensor of the one, as 'a', has a counterpart in the other, as 'b'"):
        compared(tmp_path, {"a": w}, {"b": w})
