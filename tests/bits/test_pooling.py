"""Max-pool of levels against the reference, and that against torch's."""

from typing import Any

import numpy as np
import pytest

from hypersign._checks import HypersignError
from hypersign.bits import available_backends, max_pool2d, pack, pack_ternary, unpack, unpack_ternary
from hypersign.bits.backend import forced


def levels(shape: tuple[int, ...], *, ternary: bool, seed: int = 0) -> np.ndarray:
    """Random levels, mostly -1, so that windows without +1 are common."""
    generator = np.random.default_rng(seed)
    return generator.choice([-1, 0, 1] if ternary else [-1, 1], shape, p=[0.7, 0.2, 0.1] if ternary else [0.8, 0.2])


def pooled(x: np.ndarray, *, ternary: bool, **options: Any) -> np.ndarray:
    channels = x.shape[-1]
    if ternary:
        return unpack_ternary(max_pool2d(pack_ternary(x, low=0, high=1), **options), channels)
    return unpack(max_pool2d(pack(x), **options), channels)


@pytest.mark.parametrize("ternary", [False, True])
@pytest.mark.parametrize("channels", [1, 33, 64, 127])
@pytest.mark.parametrize(
    "options",
    [
        {"size": (2, 2), "stride": (2, 2)},
        {"size": (3, 3), "stride": (2, 2), "padding": (1, 1)},
        {"size": (3, 2), "stride": (1, 3), "padding": (1, 0), "ceil_mode": True},
        {"size": (1, 1), "stride": (1, 2)},
        {"size": (3, 3), "stride": (3, 3), "padding": (1, 1), "ceil_mode": True},
    ],
)
def test_pooling_equals_torch(options: dict[str, Any], channels: int, ternary: bool) -> None:
    import torch

    x = levels((2, 7, 8, channels), ternary=ternary)
    settings = {name if name != "size" else "kernel_size": value for name, value in options.items()}
    expected = torch.nn.functional.max_pool2d(torch.from_numpy(x).permute(0, 3, 1, 2).float(), **settings)
    expected = expected.permute(0, 2, 3, 1).numpy().astype(np.int8)
    flip = np.random.default_rng(1).random(channels) < 0.5
    for name in available_backends():
        with forced(name):
            assert np.array_equal(pooled(x, ternary=ternary, **options), expected)
            assert np.array_equal(
                pooled(x, ternary=ternary, flip=flip, **options), np.where(flip, -expected, expected)
            )


@pytest.mark.parametrize("name", available_backends())
def test_bits_past_the_channels_stay_zero(name: str) -> None:
    x = -np.ones((1, 2, 2, 70), int)
    with forced(name):
        words = max_pool2d(pack(x), size=(2, 2), stride=(2, 2))
        planes = max_pool2d(pack_ternary(x, low=0, high=1), size=(2, 2), stride=(2, 2), flip=np.ones(70, bool))
    assert words.ravel().tolist() == [2**64 - 1, 63]
    assert planes.reshape(2, 2).tolist() == [[0, 0], [2**64 - 1, 63]]


@pytest.mark.parametrize("name", available_backends())
def test_empty_batches_and_other_layouts(name: str) -> None:
    x = pack(levels((3, 6, 6, 100), ternary=False))
    with forced(name):
        whole = max_pool2d(x, size=(2, 2), stride=(2, 2))
        assert max_pool2d(x[:0], size=(2, 2), stride=(2, 2)).shape == (0, 3, 3, 2)
        assert np.array_equal(max_pool2d(x[::-1], size=(2, 2), stride=(2, 2)), whole[::-1])


@pytest.mark.parametrize("name", available_backends())
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (9, 2)}, "at least as large as the window"),
        ({"size": (2, 2), "padding": (2, 0)}, "padding must be at most half"),
        ({"size": 2}, "size must be a pair"),
        ({"size": (2, 0)}, r"size\[1\] must be an integer >= 1"),
        ({"size": (2, 2), "stride": (0, 1)}, r"stride\[0\] must be an integer >= 1"),
        ({"size": (2, 2), "flip": np.zeros(65, bool)}, "flip must be boolean"),
        ({"size": (2, 2), "flip": np.zeros(64)}, "flip must be boolean"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], message: str, name: str) -> None:
    with forced(name), pytest.raises(HypersignError, match=message):
        max_pool2d(np.zeros((1, 4, 4, 1), np.uint64), **({"stride": (1, 1)} | options))


def test_what_is_no_image_is_refused() -> None:
    for x in (np.zeros((4, 4, 1), np.uint64), np.zeros((1, 4, 4, 1)), np.zeros((3, 1, 4, 4, 1), np.uint64)):
        with pytest.raises(HypersignError, match="packed images must be uint64 words"):
            max_pool2d(x, size=(2, 2), stride=(2, 2))
