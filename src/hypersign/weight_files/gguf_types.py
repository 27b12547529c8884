"""Types of GGUF files that the gguf package does not decode.

    name   number  block                 layout
    Q1_0   41      128 weights, 18 B     float16 d, then bits, lowest first: 1 is +d, 0 is -d
    Q2_0   42      64 weights, 18 B      float16 d, then two bits each, lowest first: (q - 1) d
           42      128 weights, 34 B     the same, in files of an older fork
    I2_S   36      128 weights, 32 B     two bits each: byte j has the weights j, 32 + j, 64 + j and 96 + j, highest
                                         bits first: (q - 1) d; one float32 d behind all blocks, in 32 bytes

           36      64 weights, 16 B      byte j has the weights j, 16 + j, 32 + j and 48 + j, in files written on ARM

I2_S is bitnet.cpp's. Nothing in a file tells both orders apart, except a row that is no multiple of 128, which only
ARM writes. The wrong order moves weights within 128 of a row: lengths and levels do not change, comparisons do.
Sources: llama.cpp, ggml-quants.c; bitnet.cpp, ggml-bitnet-mad.cpp.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hypersign.weight_files.stored import Decode

__all__ = ["ARM_I2_S", "I2_S", "OLD_Q2_0", "OWN_TYPES", "Q2_0", "OwnType"]

Q2_0 = 42
I2_S = 36


class OwnType(NamedTuple):
    """A type: weights and bytes of a block, bytes behind all blocks, and what makes a decoder of the latter."""

    name: str
    block: int
    size: int
    extra: int
    decode: Callable[[np.ndarray], Decode | None]


def _blocks(raw: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Scales (blocks, 1) and the other bytes of blocks that begin with a float16."""
    blocks = raw.reshape(-1, size)
    return np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32), blocks[:, 2:]


def _q1_0(raw: np.ndarray) -> np.ndarray:
    scale, packed = _blocks(raw, 18)
    bits = np.unpackbits(packed, axis=1, bitorder="little")
    return (scale * (np.float32(2) * bits - np.float32(1))).reshape(len(raw), -1)


def _q2_0(size: int) -> Decode:
    def decode(raw: np.ndarray) -> np.ndarray:
        scale, packed = _blocks(raw, size)
        q = (packed[..., None] >> np.arange(0, 8, 2, dtype=np.uint8) & 3).reshape(len(packed), -1)
        return (scale * (q.astype(np.float32) - 1)).reshape(len(raw), -1)

    return decode


def _i2_s(size: int) -> Callable[[np.ndarray], Decode | None]:
    def decoder(behind: np.ndarray) -> Decode | None:
        scale = np.ascontiguousarray(behind[:4]).view("<f4")[0]
        if not np.isfinite(scale) or scale <= 0:
            return None

        def decode(raw: np.ndarray) -> np.ndarray:
            q = raw.reshape(-1, 1, size) >> np.array([6, 4, 2, 0], np.uint8)[:, None] & 3
            return (scale * (q.astype(np.float32) - 1)).reshape(len(raw), -1)

        return decode

    return decoder


OLD_Q2_0 = OwnType("Q2_0", 128, 34, 0, lambda _: _q2_0(34))
"""The same number in an older fork. The tensors' offsets and the file's size tell which it is."""

ARM_I2_S = OwnType("I2_S", 64, 16, 32, _i2_s(16))
"""The same number in files that bitnet.cpp wrote on ARM."""

OWN_TYPES = {
    41: OwnType("Q1_0", 128, 18, 0, lambda _: _q1_0),
    Q2_0: OwnType("Q2_0", 64, 18, 0, lambda _: _q2_0(18)),
    I2_S: OwnType("I2_S", 128, 32, 32, _i2_s(32)),
}
"""By number in the file."""
