"""Types of GGUF files that the gguf package does not decode.

    name   number  block                 layout
    Q1_0   41      128 weights, 18 B     float16 d, then bits, lowest first: 1 is +d, 0 is -d
    Q2_0   42      64 weights, 18 B      float16 d, then two bits each, lowest first: (q - 1) d
           42      128 weights, 34 B     the same, in files of an older fork
    I2_S   36      128 weights, 32 B     two bits each: byte j has the weights j, 32 + j, 64 + j and 96 + j, highest
                                         bits first: (q - 1) d; one float32 d behind all blocks, in 32 bytes

I2_S is bitnet.cpp's. Its files from ARM have blocks of 64 in the same number of bytes, and nothing in a file tells
them apart. Then weights are in another order within 128 of a row. Lengths and angles of rows do not depend on that.
Sources: llama.cpp, ggml-quants.c; bitnet.cpp, ggml-bitnet-mad.cpp.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hypersign.weight_files.stored import Decode

__all__ = ["OLD_Q2_0", "OWN_TYPES", "Q2_0", "OwnType"]

Q2_0 = 42


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


def _i2_s(behind: np.ndarray) -> Decode | None:
    scale = np.ascontiguousarray(behind[:4]).view("<f4")[0]
    if not np.isfinite(scale) or scale <= 0:
        return None

    def decode(raw: np.ndarray) -> np.ndarray:
        q = raw.reshape(-1, 1, 32) >> np.array([6, 4, 2, 0], np.uint8)[:, None] & 3
        return (scale * (q.astype(np.float32) - 1)).reshape(len(raw), -1)

    return decode


OLD_Q2_0 = OwnType("Q2_0", 128, 34, 0, lambda _: _q2_0(34))
"""The same number in an older fork. The tensors' offsets and the file's size tell which it is."""

OWN_TYPES = {
    41: OwnType("Q1_0", 128, 18, 0, lambda _: _q1_0),
    Q2_0: OwnType("Q2_0", 64, 18, 0, lambda _: _q2_0(18)),
    36: OwnType("I2_S", 128, 32, 32, _i2_s),
}
"""By number in the file."""
