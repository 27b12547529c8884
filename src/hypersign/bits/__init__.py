"""Packed words: products, convolutions, pooling and distances of -1/+1 and -1/0/+1 vectors, on bits.

One bit convention holds everywhere: bit 1 = -1 and bit 0 = +1, so xor counts disagreements. The least significant bit
comes first. Words have 64 bits; bits past the last element are 0. A ternary array has two planes along a first axis
of length 2: the signs and the non-zeros (bit 1 = not 0). The sign bit of a zero is 0.

Every function has a NumPy reference (`reference.py`), which defines the result, and compiled kernels that return the
same integers. `backend()` returns the back end in use; `HYPERSIGN_BACKEND` forces one.
"""

from hypersign.bits.backend import available_backends, backend, forced, keep_freed_memory
from hypersign.bits.filters import Filters
from hypersign.bits.gradients import RoundedGradient, input_gradient, round_gradient, weight_gradient
from hypersign.bits.hadamard import hadamard_transform
from hypersign.bits.hamming import hamming, hamming_topk, hamming_within
from hypersign.bits.images import image_conv2d
from hypersign.bits.levels import LevelCode, level_dots, level_topk, nearest_levels, pack_levels, unpack_levels
from hypersign.bits.pooling import max_pool2d
from hypersign.bits.product8 import Filters8
from hypersign.bits.real import real_conv2d, real_matmul
from hypersign.bits.thresholds import Thresholds
from hypersign.bits.words import pack, pack_ternary, unpack, unpack_ternary

__all__ = [
    "backend",
    "available_backends",
    "forced",
    "keep_freed_memory",
    "pack",
    "pack_ternary",
    "unpack",
    "unpack_ternary",
    "Filters",
    "Filters8",
    "Thresholds",
    "max_pool2d",
    "image_conv2d",
    "real_conv2d",
    "real_matmul",
    "RoundedGradient",
    "round_gradient",
    "input_gradient",
    "weight_gradient",
    "hadamard_transform",
    "hamming",
    "hamming_topk",
    "hamming_within",
    "LevelCode",
    "nearest_levels",
    "pack_levels",
    "unpack_levels",
    "level_dots",
    "level_topk",
]
