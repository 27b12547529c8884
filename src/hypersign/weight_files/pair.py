"""A low-bit file of weights against its float original: what quantization, or training on from there, changed.

Row by row: the cosine of the two, which for rows that were merely quantized is the one that theory has for their
levels; the share of weights whose signs agree; the factor by which the low-bit rows miss the least-squares scale;
and whether neighbouring signs go together. A cosine below theory's tells how far the latent weights, whose signs the
low-bit ones are, have moved from the original.
"""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

from hypersign import theory
from hypersign._checks import HypersignError
from hypersign._display import shown
from hypersign._json import plain
from hypersign.weight_files.measure import Unmeasured, why_not
from hypersign.weight_files.packed_formats import plain_name
from hypersign.weight_files.stored import StoredTensor, TensorFile, stacked

__all__ = ["inspect_pair", "PairGeometry", "TensorPair", "RowCosines"]

_BLOCK = 1 << 16  # weights at a time
_UNIT = 32  # the smallest group that may have a scale of its own
_GROUPS = (32, 64, 128, 256)
_MOST = 1e70  # cosines take products of two sums of squares


@dataclasses.dataclass(frozen=True)
class RowCosines:
    """Cosines between low-bit rows and their originals, over a tensor's rows.

    `predicted_mean` and `predicted_std` are for independent normals and their nearest levels of this kind, the
    mean with a least-squares scale for each group; NaN where there are more than three levels. `direct_mean` is
    measured: the mean cosine of the original's rows and their own nearest levels, signs in groups of that size, or
    as many of the largest weights as the low-bit row keeps; NaN where there are more than three levels.
    """

    mean: float
    std: float
    least: float
    predicted_mean: float
    predicted_std: float
    direct_mean: float


@dataclasses.dataclass(frozen=True)
class TensorPair:
    """A tensor of the low-bit file beside the original's.

    `levels` is 2 or 3 where every group of `group` weights has one magnitude (or 0 besides), else 0, as `group`.
    `zeros` is the low-bit share of zeros, `zero_rows` the rows that are all 0 in either file and have no cosine.
    `rotary_order` says that the files order rows differently for rotary embeddings, which was undone.

    `latent_cosine` is that between the original and the latent weights of which the low-bit ones are the levels,
    inferred from the cosine: 1 if they are the original's own levels (about .99 if groups of ternary ones had
    thresholds of their own), NaN for more than three.
    `sign_agreement` is the share of the low-bit weights other than 0 whose sign is the original's (of which 0
    counts as positive); predicted from `latent_cosine` for jointly normal weights.
    `scale_ratio` is <w, b>/<b, b>, by what the low-bit rows b must be multiplied to be nearest to the originals w:
    1 where scales are the least-squares ones of the original; mean and standard deviation over rows.
    `autocorrelation` is the mean product of neighbouring signs in a row (zeros left out), predicted to be 0 within
    a standard deviation of `autocorrelation_std`; `original_autocorrelation` that of the original.
    """

    name: str
    original_name: str
    dtype: str
    original_dtype: str
    rows: int
    row_length: int
    zero_rows: int
    rotary_order: bool
    levels: int
    group: int
    zeros: float
    cosine: RowCosines
    latent_cosine: float
    sign_agreement: float
    predicted_sign_agreement: float
    scale_ratio: float
    scale_ratio_std: float
    autocorrelation: float
    original_autocorrelation: float
    autocorrelation_std: float


@shown
@dataclasses.dataclass(frozen=True)
class PairGeometry:
    """Two files by tensors; `unmeasured` are those of the first, `missing` names that only the second has."""

    file: str
    original: str
    tensors: tuple[TensorPair, ...]
    unmeasured: tuple[Unmeasured, ...]
    missing: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON: NaN as None."""
        return plain(dataclasses.asdict(self))


def inspect_pair(
    file: TensorFile, original: TensorFile, *, progress: Callable[[int], object] | None = None
) -> PairGeometry:
    """Measures each tensor of a low-bit file against the tensor of the same name in its float original.

    Either may be safetensors or GGUF. Between the two kinds, names are matched as the `gguf` package maps them for
    the architecture that the GGUF file states, and rows that llama.cpp reorders for rotary embeddings are put back.
    Experts that one file stacks and the other has apart (`experts.0.up_proj.weight`) are stacked in both. Quantized
    weights count as their layer's `X.weight` also where their format calls them otherwise (`X.qweight`).

    Args:
        file: the low-bit file, as `open_tensors` opened it.
        original: the float one.
        progress: called with the number of bytes of `file` done.

    Raises:
        HypersignError: no name of the one has a counterpart in the other.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from hypersign.weight_files.tensors import open_tensors
    >>> from safetensors.numpy import save_file
    >>> w = np.random.default_rng(0).standard_normal((64, 512)).astype(np.float32)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_file({"w": w}, f"{folder}/float.safetensors")
    ...     save_file({"w": np.sign(w) * np.abs(w).mean(1, keepdims=True)}, f"{folder}/binary.safetensors")
    ...     files = [open_tensors(Path(folder, f"{name}.safetensors")) for name in ("binary", "float")]
    ...     (pair,) = inspect_pair(*files).tensors
    >>> pair.levels, round(pair.cosine.mean, 3), round(pair.cosine.predicted_mean, 3), pair.sign_agreement
    (2, 0.799, 0.798, 1.0)
    """
    file, original = _plainly_named(file), _plainly_named(original)
    file, original = _stacked(file, original), _stacked(original, file)
    names = _matched(file, original)
    pairs, unmeasured = [], []
    done = 0
    for tensor in file.tensors.values():
        other = original.tensors.get(names.get(tensor.name, ""))
        found = f"{original.path.name} has no such tensor" if other is None else _pair(tensor, other, file, original)
        if isinstance(found, str):
            unmeasured.append(Unmeasured(tensor.name, tensor.dtype, tensor.shape, tensor.nbytes, found))
        else:
            pairs.append(found)
        done += tensor.nbytes
        if progress is not None:
            progress(done)
    taken = {names[name] for name in file.tensors if name in names}
    missing = tuple(name for name in original.tensors if name not in taken)
    return PairGeometry(str(file.path), str(original.path), tuple(pairs), tuple(unmeasured), missing)


def _plainly_named(file: TensorFile) -> TensorFile:
    """The file with its quantized weights under the names that float weights have."""
    names = {name: plain_name(name) for name in file.tensors}
    tensors = [
        tensor if plain in file.tensors else dataclasses.replace(tensor, name=plain)
        for tensor, plain in zip(file.tensors.values(), names.values(), strict=True)
    ]
    return dataclasses.replace(file, tensors={tensor.name: tensor for tensor in tensors})


_EXPERT = re.compile(r"(.*\bexperts)\.(\d+)\.(.+)")


def _stacked(file: TensorFile, other: TensorFile) -> TensorFile:
    """The file with experts that lie apart as one stack, where the other file has no tensors of these names."""
    found: dict[str, dict[int, str]] = {}
    for name in file.tensors:
        if (expert := _EXPERT.fullmatch(name)) and name not in other.tensors:
            found.setdefault(f"{expert[1]}.{expert[3]}", {})[int(expert[2])] = name
    tensors = dict(file.tensors)
    for name, experts in found.items():
        parts = [file.tensors[experts[i]] for i in sorted(experts)]
        alike = len({(part.shape, part.dtype, part.unreadable, part.part_of) for part in parts}) == 1
        if sorted(experts) != list(range(len(parts))) or not alike or len(parts[0].shape) != 2 or name in tensors:
            continue
        for part in parts:
            del tensors[part.name]
        short = name.removesuffix(".weight")
        stack = stacked(short if short in other.tensors else name, parts)
        tensors[stack.name] = stack
    return dataclasses.replace(file, tensors=tensors)


def _matched(file: TensorFile, original: TensorFile) -> dict[str, str]:
    """Names in the original by names in the file."""
    architectures = [opened.metadata.get("general.architecture") for opened in (file, original)]
    names = {name: name for name in file.tensors if name in original.tensors}
    if sum(architecture is not None for architecture in architectures) == 1:
        packed, loose = (file, original) if architectures[0] else (original, file)
        mapped = _gguf_names(packed, loose)
        both = {name: other for name, other in mapped.items() if name in packed.tensors}
        names |= both if packed is file else {other: name for name, other in both.items()}
    if not names:
        first, second = (next(iter(opened.tensors), "none") for opened in (file, original))
        raise HypersignError(
            f"{file.path} and {original.path} must be of one model; no tensor of the one, as {first!r}, has a "
            f"counterpart in the other, as {second!r}"
        )
    return names


def _gguf_names(packed: TensorFile, loose: TensorFile) -> dict[str, str]:
    """Names in a file of another kind by what GGUF calls them."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    architecture = packed.metadata["general.architecture"]
    known = {name: number for number, name in MODEL_ARCH_NAMES.items()}
    if architecture not in known:
        return {}
    mapping = get_tensor_name_map(known[architecture], int(packed.metadata.get(f"{architecture}.block_count") or 0))
    found = {name: mapping.get_name(name, try_suffixes=(".weight", ".bias")) for name in loose.tensors}
    return {other: name for name, other in found.items() if other}


def _rotary_rows(tensor: StoredTensor, packed: TensorFile) -> np.ndarray:
    """The rows of the usual order that a GGUF file's query or key rows may be; all in order for other tensors.

    Each head's rows are two halves that rotate together; llama.cpp interleaves them for some architectures.
    """
    architecture = packed.metadata.get("general.architecture")
    kind = tensor.name.removesuffix(".weight").rpartition(".")[2]
    heads = packed.metadata.get(f"{architecture}.attention.head_count") if kind in ("attn_q", "attn_k") else None
    if kind == "attn_k":  # as many as queries have, where the file has no number of its own
        heads = packed.metadata.get(f"{architecture}.attention.head_count_kv", heads)
    rows: np.ndarray = np.arange(tensor.rows)
    if not isinstance(heads, int) or heads < 1 or tensor.rows % (2 * heads):
        return rows
    return rows.reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)


def _pair(low: StoredTensor, high: StoredTensor, file: TensorFile, original: TensorFile) -> TensorPair | str:
    """One tensor measured, or why it was not."""
    reason = why_not(low)
    if not reason and why_not(high):
        reason = f"in {original.path.name}: {why_not(high)}"
    if not reason and (low.rows, low.row_length) != (high.rows, high.row_length):
        reason = f"it has shape {low.shape}, in {original.path.name} {high.shape}"
    if reason:
        return reason
    plain: np.ndarray = np.arange(low.rows)
    orders = plain, plain
    if low.name != high.name:
        swapped = _rotary_rows(high, original), _rotary_rows(low, file)
        head = plain[: max(1, _BLOCK // low.row_length)]
        here, there = (
            np.nan_to_num(_row_cosines(_read(low, rows[head]), _read(high, others[head]))).mean()
            for rows, others in (orders, swapped)
        )
        orders = swapped if there > here + 0.1 else orders
    return _measured(low, high, *orders)


def _read(tensor: StoredTensor, rows: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # NaN that signals; it is looked for afterwards
        return tensor.read(rows).astype(np.float64)


def _row_cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))


class _Sums:
    """What a pair of tensors of `rows` rows of `d` weights adds up to, block by block."""

    def __init__(self, rows: int, d: int) -> None:
        self.d = d
        self.product, self.low_square, self.high_square = np.zeros((3, rows))
        self.kept = np.zeros((len(_GROUPS) + 1, rows))  # of the original's square by its own signs, by group size
        self.ternary = np.zeros(rows)  # and by as many of its largest weights as the low-bit row has nonzero ones
        self.uniform = np.ones(len(_GROUPS) + 1, bool)  # every group has one magnitude, or 0 besides
        self.agreed = self.nonzero = self.nonzero_in_rows = 0
        self.neighbours = np.zeros((2, 2))  # sum and number of products of neighbouring signs, in either file
        self.width = -(-d // _GROUPS[-1]) * _GROUPS[-1]
        self.counts = [np.clip(d - np.arange(0, self.width, size), 1, size) for size in (*_GROUPS, self.width)]

    def add(self, here: slice, a: np.ndarray, b: np.ndarray) -> None:
        """Adds the rows `here`: `a` of the low-bit tensor, `b` of the original."""
        self.product[here], self.low_square[here], self.high_square[here] = (
            np.einsum("ij,ij->i", x, y) for x, y in ((a, b), (a, a), (b, b))
        )
        signs, other_signs = np.sign(a), np.where(b >= 0, 1.0, -1.0)
        self.nonzero += int(np.count_nonzero(signs))
        self.nonzero_in_rows += int(np.count_nonzero(signs[self.low_square[here] > 0]))
        self.agreed += int(np.count_nonzero(signs == other_signs))
        for i, s in enumerate((signs, other_signs)):
            products = s[:, 1:] * s[:, :-1]
            self.neighbours[i] += products.sum(), np.count_nonzero(products)
        self._add_groups(here, np.abs(a), np.abs(b))
        if self.uniform.any():
            count = np.maximum(np.count_nonzero(a, axis=1), 1)
            best = np.cumsum(np.sort(np.abs(b), axis=1)[:, ::-1], axis=1)[np.arange(len(b)), count - 1]
            self.ternary[here] = best**2 / count

    def _add_groups(self, here: slice, low: np.ndarray, high: np.ndarray) -> None:
        """Adds what depends on the size of groups, from magnitudes."""
        padded = [np.pad(x, ((0, 0), (0, self.width - self.d))).reshape(len(x), -1, _UNIT) for x in (low, high)]
        size, high_size = padded[0], padded[1].sum(2)
        largest, smallest = size.max(2), np.where(size > 0, size, np.inf).min(2)
        for i, count in enumerate(self.counts):
            shape = (len(low), len(count), -1)
            self.kept[i, here] = (high_size.reshape(shape).sum(2) ** 2 / count).sum(1)
            most, least = largest.reshape(shape).max(2), smallest.reshape(shape).min(2)
            self.uniform[i] &= bool(np.all((most == 0) | (most - least <= 1e-3 * most)))


def _sums(low: StoredTensor, high: StoredTensor, low_order: np.ndarray, high_order: np.ndarray) -> _Sums | str:
    """The sums over all rows, or why there are none."""
    sums = _Sums(low.rows, low.row_length)
    step = max(1, _BLOCK // sums.width)
    for start in range(0, low.rows, step):
        here = slice(start, min(start + step, low.rows))
        a, b = _read(low, low_order[here]), _read(high, high_order[here])
        for name, values in ((low.name, a), (high.name, b)):
            if not np.isfinite(values).all():
                return f"weights of {name} are NaN or infinite, in rows {here.start} to {here.stop - 1} first"
            if np.abs(values).max() > _MOST:
                return f"weights of {name} are too large for their fourth powers to be float64"
        sums.add(here, a, b)
    if not np.any((sums.low_square > 0) & (sums.high_square > 0)):
        return "in every row all weights are 0 in one of the files"
    return sums


def _measured(
    low: StoredTensor, high: StoredTensor, low_order: np.ndarray, high_order: np.ndarray
) -> TensorPair | str:
    sums = _sums(low, high, low_order, high_order)
    if isinstance(sums, str):
        return sums
    rows, d = low.rows, low.row_length
    used = (sums.low_square > 0) & (sums.high_square > 0)
    share = sums.nonzero_in_rows / (np.count_nonzero(sums.low_square) * d)
    group = levels = 0
    direct = math.nan
    if sums.uniform.any():
        which = int(np.flatnonzero(sums.uniform)[-1])
        group, levels = min((*_GROUPS, d)[which], d), 2 if share == 1 else 3
        best = sums.kept[which] if levels == 2 else sums.ternary
        direct = float(np.sqrt(np.clip(best[used] / sums.high_square[used], 0, 1)).mean())
    cosines = sums.product[used] / np.sqrt(sums.low_square[used] * sums.high_square[used])
    expected, spread, threshold = _expected(levels, group, share, d)
    mean = float(cosines.mean())
    latent = float(np.clip(mean / direct, -1, 1))
    ratios = sums.product[used] / sums.low_square[used]
    return TensorPair(
        name=low.name,
        original_name=high.name,
        dtype=low.dtype,
        original_dtype=high.dtype,
        rows=rows,
        row_length=d,
        zero_rows=int(rows - used.sum()),
        rotary_order=not np.array_equal(low_order, high_order),
        levels=levels,
        group=group,
        zeros=1 - sums.nonzero / (rows * d),
        cosine=RowCosines(
            mean=mean,
            std=float(cosines.std(ddof=1)) if len(cosines) > 1 else math.nan,
            least=float(cosines.min()),
            predicted_mean=expected,
            predicted_std=spread,
            direct_mean=direct,
        ),
        latent_cosine=latent,
        sign_agreement=sums.agreed / sums.nonzero,
        predicted_sign_agreement=_agreement(latent, threshold),
        scale_ratio=float(ratios.mean()),
        scale_ratio_std=float(ratios.std(ddof=1)) if len(ratios) > 1 else math.nan,
        autocorrelation=_ratio(*sums.neighbours[0]),
        original_autocorrelation=_ratio(*sums.neighbours[1]),
        autocorrelation_std=float(sums.neighbours[0, 1] ** -0.5) if sums.neighbours[0, 1] else math.nan,
    )


def _ratio(total: float, count: float) -> float:
    return float(total / count) if count else math.nan


def _expected(levels: int, group: int, share: float, d: int) -> tuple[float, float, float]:
    """Mean cosine and its spread for normals and their levels, and the threshold, in standard deviations.

    `share` of them are not 0. Groups enter for two levels; for three they would add some (1 - c^2)/group, and no
    closed form has it.
    """
    if levels == 2:
        std = float(theory.sign_cosine_std(d))
        groups = math.ceil(d / group)
        mean = theory.sign_cosine(d) if groups == 1 else math.sqrt(theory.group_cosine(d / groups) ** 2 - std**2)
        return float(mean), std, 0.0
    if levels == 3:
        threshold = float(special.ndtri(1 - share / 2))
        return (
            float(theory.ternary_cosine(threshold, d)),
            float(theory.ternary_cosine_std(threshold, d)),
            threshold,
        )
    return math.nan, math.nan, math.nan


def _agreement(r: float, threshold: float) -> float:
    """P(w has the sign of u, given |u| > t) of two standard normals with correlation r.

    P(w > 0, u > t) / Q(t) = (Q(t) + 1/2 - F)/(2 Q(t)),   F = P(u > t, w < 0) + P(u < t, w > 0)
    """
    tail = float(special.ndtr(-threshold))
    return float((tail + 0.5 - theory.sign_flip_share(r, -threshold, 0.0)) / (2 * tail))
