import numpy as np
import pytest
import torch
from torch import nn

from hypersign import quantizers
from hypersign._checks import HypersignError
from hypersign.forecasting import format_of
from hypersign.forecasting.formats import FORMATS, fit_grid, fitted, formats_of, sides_of, weight_bytes, weight_values
from hypersign.forecasting.plan import quantizer_text
from hypersign.layers import convert
from hypersign.methods import METHODS, distinct
from hypersign.quantizers import Sign, Ternary, quantizer_of
from hypersign.summaries import summary

NAMES = [f"{kind}{scale}" for kind in FORMATS for scale in ("", ":tensor", ":filter", ":32", ":64", ":128")]


@pytest.mark.parametrize("name", NAMES)
def test_scales_are_least_squares_over_what_shares_them(name: str) -> None:
    torch.manual_seed(0)
    w = torch.randn(5, 3, 7, 7, dtype=torch.float64)
    values = weight_values(format_of(name).quantizer(147), w).reshape(5, -1).numpy()
    flat = w.reshape(5, -1).numpy()
    scale = name.partition(":")[2]
    size = {"": 147, "filter": 147, "tensor": 147}.get(scale) or int(scale)
    if scale == "tensor":
        flat, values = flat.reshape(1, -1), values.reshape(1, -1)
        size = flat.shape[1]
    levels = {"binary": 2, "ternary": 3, "4-level": 4, "8-level": 8}[name.partition(":")[0]]
    for row, q in zip(flat, values, strict=True):
        for start in range(0, len(row), size):
            a, b = row[start : start + size], q[start : start + size]
            assert a @ b == pytest.approx(b @ b)  # no other multiple is nearer
            assert len(np.unique(np.abs(b).round(9))) <= (levels + 1) // 2


@pytest.mark.parametrize("name", ["binary+hadamard", "4-level:32+hadamard", "8-level:tensor+hadamard"])
def test_rotated_formats_keep_shape_and_come_nearer_to_spiky_weights(name: str) -> None:
    w = torch.exp(-torch.arange(64.0)).repeat(4, 1) * torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    plain, rotated = (weight_values(format_of(text).quantizer(64), w) for text in (name.partition("+")[0], name))
    near = [torch.cosine_similarity(w, q).mean() for q in (plain, rotated)]
    assert rotated.shape == w.shape
    assert near[1] > near[0]


def test_any_quantizer_of_the_table_is_a_format() -> None:
    w = torch.randn(3, 10, generator=torch.Generator().manual_seed(0))
    found = weight_values(format_of("ternary:threshold=0.3").quantizer(10), w)
    assert torch.equal(found, Ternary(0.3)(w))
    assert isinstance(quantizer_of("uniform:levels=8"), type(format_of("8-level").quantizer(3)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trinary", "must be binary, ternary, 4-level, 8-level or inputs:binary.*got 'trinary'"),
        ("binary:16", "scale must be one of tensor, filter, 32, 64, 128; got 'binary:16'"),
        ("binary+haar", "got 'binary.haar'"),
        ("inputs:4-bit", "format of inputs must be one of"),
        (2, "must be a name such as 'binary'"),
    ],
)
def test_texts_that_name_nothing(text: object, message: str) -> None:
    with pytest.raises(HypersignError, match=message):
        format_of(text)  # type: ignore[arg-type]
    with pytest.raises(HypersignError, match="one format of weights and one of inputs"):
        sides_of(("binary", "ternary"))


@pytest.mark.parametrize("name", ["binary", "ternary", "4-level", "8-level"])
@pytest.mark.parametrize("fan_in", [1, 63, 64, 65])
def test_bytes_are_those_of_a_summary(name: str, fan_in: int) -> None:
    model = nn.Sequential(nn.Linear(fan_in, 7, bias=False))
    quantizer = format_of(name).quantizer(fan_in)
    converted = convert(model, weight_quantizer=quantizer).model
    assert summary(converted, (fan_in,)).total.packed_bytes == weight_bytes(quantizer, 7, fan_in)


def test_bytes_of_groups_rotations_and_tensors() -> None:
    assert weight_bytes(format_of("binary:64").quantizer(130), 2, 130) == 2 * 3 * 8 + 2 * 3 * 4
    assert weight_bytes(format_of("ternary:tensor").quantizer(64), 2, 64) == 2 * 2 * 8 + 4
    assert weight_bytes(format_of("binary+hadamard").quantizer(65), 2, 65) == 2 * 2 * 8 + 2 * 4
    assert weight_bytes(Sign(), 2, 64) == 16


@pytest.mark.parametrize("levels", [2, 3])
def test_grids_are_near_the_best_of_all_grids(levels: int) -> None:
    x = torch.from_numpy(np.maximum(np.random.default_rng(0).standard_normal(2000), 0))  # after a ReLU
    grid = fit_grid(levels, x)
    error = float((grid.values(x) - x).square().mean())
    best = min(
        float((low + step * ((x - low) / step).round().clamp(0, levels - 1) - x).square().mean())
        for low in np.linspace(-0.2, 0.8, 41)
        for step in np.linspace(0.3, 2.0, 41)
    )
    assert error <= 1.02 * best


def test_grids_of_eight_bits_and_of_constants() -> None:
    x = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    assert float((fit_grid(256, x).values(x) - x).abs().max()) < 0.02
    assert fit_grid(2, torch.full((9,), 3.0)).values(torch.tensor([3.0])).item() == pytest.approx(3.0)


def test_latent_weights_are_scaled_to_the_network_as_given() -> None:
    w = torch.randn(4, 30, generator=torch.Generator().manual_seed(0))
    given = Sign()(w)
    assert torch.allclose(weight_values(format_of("binary").quantizer(30), w, given), given)
    ternary = weight_values(format_of("ternary").quantizer(30), w, given)
    assert torch.allclose((ternary * given).sum(1), ternary.square().sum(1))


def test_methods_as_formats() -> None:
    """Each method by name, and all of them once per quantizer; what they learn starts from the weights."""
    every = formats_of("methods")
    assert [each.name for each in every] == [f"method:{name}" for name in distinct()]
    w = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    for each in every:
        quantizer = fitted(each.quantizer(32), w)
        assert weight_values(quantizer, w).shape == w.shape
        assert weight_bytes(quantizer, 4, 32) is not None
    scores = [fitted(format_of("method:mpt").quantizer(32), w)(w) for _ in range(2)]
    assert torch.equal(*scores)  # random scores have a seed of their own
    assert torch.equal(fitted(format_of("method:paretoq").quantizer(32), w)(w), Sign()(w))
    with pytest.raises(HypersignError, match=r"a format's method must be one of bnn, xnor, .*; got 'adamax'"):
        format_of("method:adamax")


@pytest.mark.parametrize("name", list(METHODS))
def test_the_text_of_a_method_s_quantizer_makes_it_again(name: str) -> None:
    quantizer = quantizer_of(METHODS[name].weights)
    made = eval(quantizer_text(quantizer), {each: getattr(quantizers, each) for each in quantizers.__all__})
    w = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(fitted(made, w)(w), fitted(quantizer, w)(w))
