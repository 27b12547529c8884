"""The NumPy reference of every operation on bits. It is simple and slow, and every test compares kernels with it.

The functions that call it check the arguments.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Words",
    "pack_bits",
    "unpack_bits",
    "levels",
    "ternary_levels",
    "threshold",
    "convolve",
    "max_pool2d",
    "real_conv2d",
    "LIMIT",
    "round_gradient",
    "input_gradient",
    "weight_gradient",
    "hamming",
    "nearest",
    "pack_levels",
    "unpack_levels",
    "level_dots",
    "level_topk",
]

Words = NDArray[np.uint64]


def pack_bits(bits: NDArray[np.bool_]) -> Words:
    """Packs booleans (..., n) into words (..., ceil(n/64))."""
    n = bits.shape[-1]
    padded = np.zeros((*bits.shape[:-1], -(-n // 64) * 64), dtype=bool)
    padded[..., :n] = bits
    packed = np.packbits(padded, axis=-1, bitorder="little")
    return packed.view("<u8").astype(np.uint64, copy=False)


def unpack_bits(words: Words, n: int) -> NDArray[np.bool_]:
    """Unpacks the first n bits of words (..., W) into booleans (..., n)."""
    packed = np.ascontiguousarray(words).astype("<u8", copy=False).view(np.uint8)
    return np.unpackbits(packed, axis=-1, count=n, bitorder="little").astype(bool)


def levels(words: Words, n: int) -> NDArray[np.int8]:
    """Unpacks binary words into levels -1 and +1."""
    return (1 - 2 * unpack_bits(words, n).astype(np.int8)).astype(np.int8)


def ternary_levels(planes: Words, n: int) -> NDArray[np.int8]:
    """Unpacks two planes (2, ..., W), signs and non-zeros, into levels -1, 0 and +1."""
    return np.where(unpack_bits(planes[1], n), levels(planes[0], n), np.int8(0)).astype(np.int8)


def threshold(x: NDArray[Any], low: Any, high: Any, flip: Any) -> Words:
    """Packs the levels of numbers (..., n) as words, or as planes if `high` is not None.

    A level is -1 where x < low, +1 where x >= high (binary: elsewhere), and 0 between; it is negated where `flip`.
    """
    minus = _below(x, low)
    if high is None:
        return pack_bits(minus ^ flip)
    plus = ~_below(x, high)
    nonzero = minus | plus
    return np.stack([pack_bits((minus ^ flip) & nonzero), pack_bits(nonzero)])


def _below(x: NDArray[Any], limit: Any) -> NDArray[np.bool_]:
    """Returns x < limit, exactly. NumPy rounds 64-bit integers when it compares them with floating limits."""
    limit = np.asarray(limit)
    if x.dtype.kind not in "iu" or x.dtype.itemsize < 8 or limit.dtype.kind != "f":
        return x < limit
    # x < t is x < ceil(t), and always true past the type's largest number
    least, past = float(np.iinfo(x.dtype).min), np.iinfo(x.dtype).max + 1.0
    limit = np.ceil(limit.astype(np.float64))
    return (x < np.clip(limit, least, np.nextafter(past, 0)).astype(x.dtype)) | (limit >= past)


def convolve(
    x: NDArray[Any],
    weight: NDArray[Any],
    *,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    pad_value: int,
) -> NDArray[Any]:
    """The sums (N, H', W', filters) of a convolution of `x` (N, H, W, C) with `weight` (filters, kh, kw, C / groups).

    Their type is NumPy's result type of both.
    """
    filters, kh, kw, depth = weight.shape
    x = np.pad(x, ((0, 0), (padding[0],) * 2, (padding[1],) * 2, (0, 0)), constant_values=pad_value)
    height = (x.shape[1] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    width = (x.shape[2] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    y = np.zeros((len(x), height, width, filters), dtype=np.result_type(x, weight))
    per_group = filters // groups
    for i in range(kh):
        for j in range(kw):
            top, left = i * dilation[0], j * dilation[1]
            rows = slice(top, top + (height - 1) * stride[0] + 1, stride[0])
            columns = slice(left, left + (width - 1) * stride[1] + 1, stride[1])
            window = x[:, rows, columns]  # (N, H', W', C)
            for g in range(groups):
                out = slice(g * per_group, (g + 1) * per_group)
                y[..., out] += window[..., g * depth : (g + 1) * depth] @ weight[out, i, j].T
    return y


def hamming(a: Words, b: Words) -> NDArray[np.int32]:
    """The number of bits in which each row of `a` (q, W) differs from each row of `b` (n, W)."""
    out = np.empty((len(a), len(b)), dtype=np.int32)
    for i, row in enumerate(a):
        out[i] = np.bitwise_count(b ^ row).sum(-1, dtype=np.int32)
    return out


def max_pool2d(
    levels: NDArray[np.int8], *, size: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], out: Any
) -> NDArray[np.int8]:
    """The largest level of each window: `levels` (N, H, W, C) -> (N, *out, C). Padding is never the maximum."""
    y = np.full((len(levels), *out, levels.shape[-1]), -128, np.int8)
    for i in range(out[0]):
        for j in range(out[1]):
            top, left = i * stride[0] - padding[0], j * stride[1] - padding[1]
            window = levels[:, max(top, 0) : top + size[0], max(left, 0) : left + size[1]]
            y[:, i, j] = window.max((1, 2))
    return y


def real_conv2d(
    x: NDArray[np.float32],
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
    *,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> NDArray[np.float32]:
    """The convolution of float32 numbers, `x` (N, H, W, C) with `weight` (filters, kh, kw, C / groups).

    The sum starts with the bias, then adds tap by tap and channel by channel in float64, where every product is
    exact. It is rounded once, at the end. The order is part of the definition, so kernels give the same bits.
    """
    filters, kh, kw, depth = weight.shape
    y_height, y_width = (
        (x.shape[axis + 1] + 2 * padding[axis] - dilation[axis] * (weight.shape[axis + 1] - 1) - 1) // stride[axis]
        + 1
        for axis in (0, 1)
    )
    padded = np.pad(x, ((0, 0), (padding[0],) * 2, (padding[1],) * 2, (0, 0))).astype(np.float64)
    y = np.zeros((len(x), y_height, y_width, groups, filters // groups))
    y += bias.reshape(groups, -1)
    for i in range(kh):
        for j in range(kw):
            top, left = i * dilation[0], j * dilation[1]
            rows = slice(top, top + (y_height - 1) * stride[0] + 1, stride[0])
            columns = slice(left, left + (y_width - 1) * stride[1] + 1, stride[1])
            window = padded[:, rows, columns].reshape(len(x), y_height, y_width, groups, depth)
            for c in range(depth):
                y += window[..., c, None] * weight[:, i, j, c].reshape(groups, -1)
    with np.errstate(over="ignore"):
        return y.reshape(len(x), y_height, y_width, filters).astype(np.float32)


LIMIT = 31


def unpool(
    q: NDArray[np.int8], place: NDArray[np.uint8], window: tuple[int, int], size: tuple[int, int]
) -> NDArray[np.int8]:
    """The gradient of a max pool's inputs, (N, *size, F), from that of its outputs and the places of the maxima."""
    row, column = np.divmod(np.arange(window[0] * window[1]).reshape(window), window[1])
    images, height, width, filters = q.shape
    out = np.zeros((images, height * window[0], width * window[1], filters), np.int8)
    for i, j in zip(row.ravel(), column.ravel(), strict=True):
        # Windows at the right edge may be narrower, and places count what they have.
        narrow = np.minimum(window[1], size[1] - window[1] * np.arange(width))[None, None, :, None]
        out[:, i :: window[0], j :: window[1]] = np.where((place == i * narrow + j) & (j < narrow), q, 0)
    padded = np.zeros((images, *size, filters), np.int8)
    height, width = min(size[0], out.shape[1]), min(size[1], out.shape[2])
    padded[:, :height, :width] = out[:, :height, :width]
    return padded


def round_gradient(
    gradient: NDArray[np.float32], seed: int
) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.int8], NDArray[np.float32]]:
    """Rounds a gradient (N, H, W, F) at random, with one scale per image and with one scale per filter."""
    images, height, width, filters = gradient.shape
    columns = -(-filters // 8) * 8  # eight generators alternate along the filters
    words = np.empty((height * width * columns // 8, images, 8), np.uint32)
    state = _mixed(np.uint64(seed) + np.uint64(0x9E3779B97F4A7C15) * np.arange(1, 8 * images + 1, dtype=np.uint64))
    state = (state.astype(np.uint32) | np.uint32(1)).reshape(images, 8)
    for step in range(len(words)):
        state ^= state << np.uint32(13)
        state ^= state >> np.uint32(17)
        state ^= state << np.uint32(5)
        words[step] = state
    u = words.swapaxes(0, 1).reshape(images, height, width, columns)[..., :filters]
    rounded: list[NDArray[Any]] = []
    for axes, part in (((1, 2, 3), u & np.uint32(0xFFFF)), ((0, 1, 2), u >> np.uint32(16))):
        most = np.abs(gradient).max(axes, keepdims=True, initial=0)  # NaN if there is one
        scale = np.where(np.isfinite(most), most / np.float32(LIMIT), np.float32(np.nan))
        with np.errstate(all="ignore"):
            inverse = np.where(scale > 0, np.float32(LIMIT) / most, np.float32(0))
            tiny = ~np.isfinite(inverse)
            inverse, scale = np.where(tiny, np.float32(0), inverse), np.where(tiny, np.float32(0), scale)
            q = np.floor(gradient * inverse + part.astype(np.float32) * np.float32(2**-16))
        q = np.where(q > -LIMIT, q, -LIMIT)  # also replaces NaN; the NaN stays visible in the scale
        rounded += [np.minimum(q, LIMIT).astype(np.int8), scale.reshape(-1)]
    return rounded[0], rounded[1], rounded[2], rounded[3]


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)


def _level_values(words: Words, n: int, axes: int) -> NDArray[np.int32]:
    """Unpacks words with `axes` axes, or planes with one axis more, into int32 levels."""
    return (ternary_levels if words.ndim > axes else levels)(words, n).astype(np.int32)


def input_gradient(
    q: NDArray[np.int8],
    scales: NDArray[np.float32],
    words: Words,
    shape: tuple[int, int, int],
    size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> NDArray[np.float32]:
    """Each filter tap adds gradient times level to the pixel it reads; the sum is multiplied by s(n)."""
    weight = _level_values(words, int(np.prod(shape)), 2).reshape(words.shape[-2], *shape)
    n, height, width, _ = q.shape
    sums = np.zeros((n, size[0] + 2 * padding[0], size[1] + 2 * padding[1], shape[2]), np.int32)
    for i in range(shape[0]):
        for j in range(shape[1]):
            rows = slice(i * dilation[0], i * dilation[0] + (height - 1) * stride[0] + 1, stride[0])
            columns = slice(j * dilation[1], j * dilation[1] + (width - 1) * stride[1] + 1, stride[1])
            sums[:, rows, columns] += q.astype(np.int32) @ weight[:, i, j]
    sums = sums[:, padding[0] : padding[0] + size[0], padding[1] : padding[1] + size[1]]
    return sums.astype(np.float32) * scales[:, None, None, None]


def weight_gradient(
    q: NDArray[np.int8],
    scales: NDArray[np.float32],
    x: Words,
    shape: tuple[int, int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    pad_value: int,
) -> NDArray[np.float32]:
    """For each tap, the sum of gradient times input over all pixels that it reads, times s(f)."""
    values = np.pad(
        _level_values(x, shape[2], 4),
        ((0, 0), (padding[0],) * 2, (padding[1],) * 2, (0, 0)),
        constant_values=pad_value,
    )
    n, height, width, filters = q.shape
    sums = np.zeros((filters, *shape), np.int64)
    flat = q.reshape(n * height * width, filters).T.astype(np.int64)
    for i in range(shape[0]):
        for j in range(shape[1]):
            rows = slice(i * dilation[0], i * dilation[0] + (height - 1) * stride[0] + 1, stride[0])
            columns = slice(j * dilation[1], j * dilation[1] + (width - 1) * stride[1] + 1, stride[1])
            sums[:, i, j] = flat @ values[:, rows, columns].reshape(-1, shape[2])
    return sums.astype(np.float32) * scales[:, None, None, None]


def nearest(distances: NDArray[np.int32], k: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The k smallest distances of each row, smallest first, and their columns. Ties keep the order of columns."""
    indices = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, indices, 1), indices.astype(np.int64)


def product8(x: NDArray[np.int8], levels: NDArray[np.int8]) -> NDArray[np.int32]:
    """Dot products of 8-bit rows (M, d) with levels (filters, d). float64 holds every such sum exactly."""
    return (x.astype(np.float64) @ levels.T.astype(np.float64)).astype(np.int32)


def scaled_product8(
    x: NDArray[np.int8],
    levels: NDArray[np.int8],
    scale: NDArray[np.float32],
    x_scale: NDArray[np.float32],
    *,
    group: int,
) -> NDArray[np.float32]:
    """`product8` of each group, times its scale (filters, groups), summed in order, times the scale of the row."""
    y = np.zeros((len(x), len(levels)), np.float32)
    for g, first in enumerate(range(0, x.shape[1], group)):
        sums = product8(x[:, first : first + group], levels[:, first : first + group]).astype(np.float32)
        y = sums * scale[:, g] if g == 0 else y + sums * scale[:, g]
    return y * x_scale[:, None]


def nearest_levels(
    rows: NDArray[np.floating], levels: NDArray[np.int8], factors: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Indices of levels, uint8 (n, m), by the scale with the largest cosine; of equal ones the first."""
    rows = rows.astype(np.float64)
    largest = np.abs(rows).max(1, keepdims=True)
    x = np.rint(rows / np.where(largest > 0, largest, 1) * 32767)
    rms = np.sqrt(np.square(x).sum(1, keepdims=True) / rows.shape[1])
    found = np.zeros(x.shape, np.uint8)
    best = np.full(len(x), -1.0)
    for row in factors:
        indices = np.zeros(x.shape, np.uint8)
        limits = np.ceil(row * rms)
        for j in range(len(row)):
            indices += x >= limits[:, j : j + 1]
        values = levels.astype(np.float64)[indices]
        norms = np.square(values).sum(1)
        cosines = (values * x).sum(1) / np.sqrt(np.where(norms > 0, norms, 1))
        better = cosines > best
        best[better], found[better] = cosines[better], indices[better]
    return found


def pack_levels(indices: NDArray[np.uint8], planes: tuple[tuple[int, int], ...]) -> NDArray[np.uint8]:
    """Packs indices (n, m). Each plane, (digits of a byte, their base), takes the next digit, the lowest first."""
    packed, rest = [], indices
    for digits, base in planes:
        width = -(-indices.shape[1] // digits)
        padded = np.zeros((len(indices), digits, width), np.uint8)
        padded.reshape(len(indices), digits * width)[:, : indices.shape[1]] = rest % base
        powers = np.array([base**i for i in range(digits)], np.uint8)
        packed.append((padded * powers[:, None]).sum(1, dtype=np.uint8))
        rest = rest // base
    return np.concatenate(packed, axis=1)


def unpack_levels(packed: NDArray[np.uint8], count: int, planes: tuple[tuple[int, int], ...]) -> NDArray[np.uint8]:
    """Undoes `pack_levels`: the indices (n, count) of packed rows."""
    indices, start, scale = np.zeros((len(packed), count), np.uint8), 0, 1
    for digits, base in planes:
        width = -(-count // digits)
        plane = packed[:, start : start + width]
        each = [plane // np.uint8(base**i) % np.uint8(base) for i in range(digits)]
        indices += np.concatenate(each, axis=1)[:, :count] * np.uint8(scale)
        start, scale = start + width, scale * base
    return indices


def level_dots(
    queries: NDArray[np.int8],
    packed: NDArray[np.uint8],
    levels: NDArray[np.int8],
    planes: tuple[tuple[int, int], ...],
) -> NDArray[np.int32]:
    """Dot products of 8-bit queries (q, m) with packed rows of levels; float64 holds every such sum exactly."""
    found, queries = np.empty((len(queries), len(packed)), np.int32), queries.astype(np.float64)
    count = queries.shape[1]
    for start in range(0, len(packed), rows := max(1, (1 << 22) // count)):
        indices = unpack_levels(packed[start : start + rows], count, planes)
        values = levels[indices].astype(np.float64)
        found[:, start : start + rows] = queries @ values.T
    return found


def level_topk(
    queries: NDArray[np.int8],
    steps: NDArray[np.float32],
    rows: NDArray[np.uint8],
    levels: NDArray[np.int8],
    planes: tuple[tuple[int, int], ...],
    width: int,
    k: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k lowest scores (dot step) a + b of each query, and their rows; a and b follow the levels of a row."""
    factors = np.ascontiguousarray(rows[:, width : width + 8]).view("<f4").astype(np.float32)
    scores, indices = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    for i in range(len(queries)):
        dots = level_dots(queries[i : i + 1], rows[:, :width], levels, planes)[0].astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            each = dots * steps[i] * factors[:, 0] + factors[:, 1]
        indices[i] = np.argsort(each, kind="stable")[:k]
        scores[i] = each[indices[i]]
    return scores, indices
