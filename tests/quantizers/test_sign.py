"""Sign against NumPy, at every edge and in every precision."""

import numpy as np
import pytest
import torch

from hypersign._checks import HypersignError
from hypersign.quantizers import HardTanh, MeanScale, Sign

FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
EDGES = [-np.inf, -3.0, -1.0, -(2.0**-14), -0.0, 0.0, 2.0**-14, 1.0, 3.0, np.inf]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("size", [1, 7, 64, 1000])  # around the vector width too: kernels differ in their tails
def test_levels_at_the_edges(dtype: torch.dtype, size: int) -> None:
    values = np.resize(np.array(EDGES), size)
    x = torch.tensor(values, dtype=dtype)
    levels = Sign()(x)
    assert levels.dtype == dtype
    np.testing.assert_array_equal(levels.double().numpy(), np.where(values >= 0, 1.0, -1.0))
    np.testing.assert_array_equal(Sign(zero=0)(x).double().numpy(), np.sign(values))
    np.testing.assert_array_equal(x.double().numpy(), values)  # the input is left alone


def test_smallest_numbers_have_a_sign() -> None:
    tiny = torch.finfo(torch.float64).smallest_normal
    assert Sign()(torch.tensor([-tiny, tiny], dtype=torch.float64)).tolist() == [-1.0, 1.0]


def test_nan_comes_out_as_one_as_documented() -> None:
    assert Sign()(torch.full((9,), torch.nan)).tolist() == [1.0] * 9


def test_any_shape_and_layout() -> None:
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    for view in (x, x.transpose(1, 3), x[:, ::2], x.to(memory_format=torch.channels_last), x[0, 0, 0, 0], x[:0]):
        levels = Sign()(view)
        assert levels.shape == view.shape
        np.testing.assert_array_equal(levels.numpy(), np.where(view.numpy() >= 0, 1.0, -1.0))


def test_levels_and_thresholds() -> None:
    assert Sign().levels == (-1.0, 1.0)
    assert Sign(zero=0).levels == (-1.0, 0.0, 1.0)
    thresholds = Sign().thresholds(torch.ones(3, 2, dtype=torch.float64))
    assert thresholds.tolist() == [0.0, 0.0, 0.0]
    assert thresholds.dtype == torch.float64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"zero": -1}, "zero, the level of 0, must be 1 or 0; got -1"),
        ({"scale": 2.0}, r"scale must be a rule such as MeanScale\(\), or None; got 2.0"),
        ({"surrogate": "hardtanh"}, "surrogate must be a Surrogate"),
        ({"surrogate": HardTanh}, "surrogate must be a Surrogate"),
    ],
)
def test_errors(options: dict, message: str) -> None:
    with pytest.raises(HypersignError, match=message):
        Sign(**options)


def test_repr_names_what_is_not_the_default() -> None:
    assert "zero=0" in repr(Sign(zero=0))
    assert "scale=MeanScale()" in repr(Sign(scale=MeanScale()))
    assert "zero" not in repr(Sign())
