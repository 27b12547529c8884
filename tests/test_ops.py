"""The operators against NumPy loops over levels, and torch's own check of operators."""

import numpy as np
import pytest
import torch
from torch.library import opcheck

from hypersign import ops
from hypersign.bits import unpack, unpack_ternary


@pytest.mark.parametrize("n", [1, 63, 64, 65, 130])
def test_pack(n: int) -> None:
    x = torch.randn(3, 2, n)
    x[0, 0, 0] = -0.0
    words = ops.pack(x)
    assert words.dtype == torch.int64
    assert np.array_equal(unpack(words.numpy().view(np.uint64), n), np.where(x.numpy() < 0, -1, 1))


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5])
def test_pack_ternary_is_strict_at_the_threshold(threshold: float) -> None:
    t = torch.tensor(threshold, dtype=torch.float32)
    x = torch.stack([t, -t, t.nextafter(torch.tensor(2.0)), -t.nextafter(torch.tensor(2.0)), torch.tensor(0.0)])
    planes = ops.pack_ternary(x, threshold).numpy().view(np.uint64)
    assert unpack_ternary(planes, 5).tolist() == [0, 0, 1, -1, 0]


@pytest.mark.parametrize("features", [1, 64, 100])
def test_packed_linear(features: int) -> None:
    x, w = torch.randn(4, features), torch.randn(7, features)
    expected = torch.where(x < 0, -1, 1) @ torch.where(w < 0, -1, 1).T
    assert torch.equal(ops.packed_linear(ops.pack(x), ops.pack(w), features), expected.int())


def test_filters_follow_words_that_change_in_place() -> None:
    x, w = ops.pack(torch.ones(1, 8)), ops.pack(torch.ones(1, 8))
    assert ops.packed_linear(x, w, 8).item() == 8
    w.copy_(ops.pack(-torch.ones(1, 8)))
    assert ops.packed_linear(x, w, 8).item() == -8


LINEAR = (ops.pack(torch.randn(4, 70)), ops.pack(torch.randn(5, 70)), 70)
CONV = (ops.pack(torch.randn(2, 6, 5, 8)), ops.pack(torch.randn(4, 36)), 8, [3, 3], [2, 1], [1, 0], [1, 2], 2, 0)
LEVELS8 = (
    torch.randint(-127, 128, (4, 70)).float().requires_grad_(),
    torch.randn(5, 70).sign().requires_grad_(),
    False,
)
TERNARY = (ops.pack_ternary(torch.randn(2, 6, 5, 8), 0.3), ops.pack_ternary(torch.randn(4, 72), 0.3), 8)


@pytest.mark.parametrize(
    ("operator", "arguments"),
    [
        (ops.pack, (torch.randn(3, 65),)),
        (ops.pack_ternary, (torch.randn(3, 65), 0.2)),
        (ops.packed_linear, LINEAR),
        (ops.packed_linear8, (torch.randint(-128, 128, (4, 70), dtype=torch.int8), *LINEAR[1:])),
        (ops.linear_of_levels8, LEVELS8),
        (ops.packed_conv2d, CONV),
        (ops.packed_conv2d, (*TERNARY, [3, 3], [1, 1], [1, 1], [1, 1], 1, 1)),
    ],
    ids=["pack", "pack_ternary", "linear", "linear8", "levels8", "conv", "ternary conv"],
)
def test_torch_finds_no_fault(operator, arguments) -> None:
    result = opcheck(operator, arguments)
    assert set(result.values()) == {"SUCCESS"}
