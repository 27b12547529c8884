"""`hypersign inspect` of files: weights without their network, two files of weights, vectors."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.console import Console
from rich.table import Table

from hypersign import _defaults
from hypersign._checks import HypersignError
from hypersign._json import prints_text, write_json
from hypersign.cli.options import JsonTarget, Option, Seed, parse, progress_bars
from hypersign.cli.printing import console, number
from hypersign.weight_files import (
    PairGeometry,
    TensorFile,
    Unmeasured,
    WeightsGeometry,
    inspect_pair,
    is_tensor_file,
    open_tensors,
)
from hypersign.weight_files import inspect_weights as measure_weights

if TYPE_CHECKING:
    from hypersign.hashing import VectorsGeometry

SUBJECTS = {
    "RUN": "a run's geometry, with its report; as in: hypersign inspect runs/demo",
    "WEIGHTS": "a .safetensors or .gguf file: hypersign inspect model.safetensors",
    "VECTORS": "a file or folder of vectors: hypersign inspect vectors.npy",
}
"""What the command measures, by its first word."""

FilePath = Annotated[Path, Option(metavar="FILE")]
"""The file, the command's first word."""


def run(words: Sequence[str]) -> bool:
    """Inspects a file, if the first word is one that can be, and says whether it was.

    Without words it says what can be inspected.
    """
    if not words:
        table = Table(title="hypersign inspect RUN|WEIGHTS|VECTORS [options]: measure beside theory", box=None)
        table.title_justify, table.show_header = "left", False
        for subject, text in SUBJECTS.items():
            table.add_row(subject, text)
        console().print(table)
        return True
    path = Path(words[0])
    if not (path / "run.json").exists() and _are_vectors(path):
        parse(inspect_vectors, words, "inspect")
    elif is_tensor_file(path) and not (path / "run.json").exists():
        if len(words) > 1 and is_tensor_file(Path(words[1])):
            raise HypersignError(
                f"inspect takes one file; compare two with: hypersign inspect {words[0]} --against {words[1]}"
            )
        parse(inspect_weights, words, "inspect")
    elif path.is_file():
        raise HypersignError(
            "inspect takes a run folder, weights (.safetensors, .gguf, a folder of .safetensors) or vectors (.npy, "
            f".npz, .fvecs, HDF5, Parquet, Arrow, or FILE.safetensors::NAME); got the file {path}"
        )
    else:
        return False
    return True


def _are_vectors(path: Path) -> bool:
    if is_tensor_file(path):
        return False
    from hypersign.hashing.vector_files import is_vectors  # scikit-learn: files of weights are inspected without it

    return is_vectors(path)


def inspect_weights(
    file: FilePath,
    /,
    *,
    against: Annotated[Path | None, Option(metavar="FILE")] = None,
    sample: int = _defaults.SAMPLED_WEIGHTS,
    arm: bool = False,
    seed: Seed = 0,
    json: JsonTarget = None,
) -> None:
    """Measure the weights of a file beside theory, or compare a low-bit file with its float original.

    Example:
        hypersign inspect runs/demo/model.safetensors --json model.json

    Args:
        file: a .safetensors or .gguf file, or a folder with one .safetensors file or with shards and their index.
        against: float original (.safetensors or .gguf); the comparison has row cosines, signs and scales.
        sample: weights per tensor, in whole rows, for best levels and rotation; the other numbers use all weights.
        arm: bitnet.cpp wrote FILE's I2_S tensors on ARM, in another order of weights.
        seed: seed of the rotation.
    """
    opened = open_tensors(file, arm=arm)
    original = None if against is None else open_tensors(against)
    found: WeightsGeometry | PairGeometry
    with progress_bars() as progress:
        total = sum(tensor.nbytes for tensor in opened.tensors.values())

        def tell(done: int) -> None:
            progress("measuring", done, total)

        if original is not None:
            found = inspect_pair(opened, original, progress=tell)
        else:
            found = measure_weights(opened, sample=sample, seed=seed, progress=tell)
    write_json(found.as_dict(), json)
    if prints_text(json):
        out = console()
        _print_pair(found, out) if isinstance(found, PairGeometry) else _print_weights(found, opened, out)
    if not found.tensors:
        raise HypersignError(
            f"{file} must hold a tensor that can be measured; none of its {len(found.unmeasured)} tensors can"
        )


def inspect_vectors(
    file: FilePath,
    /,
    *,
    bits: tuple[int, ...] = (),
    sample: int = _defaults.SAMPLED_VECTORS,
    seed: Seed = 0,
    json: JsonTarget = None,
) -> None:
    """Predict how well sign codes of vectors would work: angles, effective dimension, recall of neighbours by angle.

    Example:
        hypersign inspect vectors.npy --bits 128 256

    Args:
        file: a file or folder of vectors, of shape (number, dimension), as hypersign hash reads them; FILE::NAME
            names one of several arrays.
        bits: code lengths in bits; by default a quarter, a half and all of the dimension, as powers of two.
        sample: measure INT vectors, evenly spaced in the file, or all if there are fewer.
        seed: seed of the rotations.
    """
    from hypersign import hashing  # scikit-learn: runs and files of weights are inspected without it

    found = hashing.inspect_vectors(hashing.open_vectors(file), name=str(file), bits=bits, sample=sample, seed=seed)
    write_json(found.as_dict(), json)
    if prints_text(json):
        _print_vectors(found, console())


def _table(title: str, caption: str, first: str, *others: str) -> Table:
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left", padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape)) or "one number"


def _print_weights(found: WeightsGeometry, opened: TensorFile, out: Console) -> None:
    table = _table(
        f"{Path(found.file).name}: angles of rows to their levels, in degrees",
        "first line: measured; second: theory for normal weights; third: theory for independent weights with the "
        "tensor's distribution. Angle: to the signs, one scale per row; β: one scale per group; 3, 16: to the best "
        "levels; rotated: to the signs after a Hadamard rotation (the last three on a sample of rows). Normal "
        "weights have kurtosis 3.",
        "tensor",
        "angle",
        "β = 128",
        "3",
        "16",
        "rotated",
        "kurtosis",
        "% zeros",
    )
    for tensor in found.tensors:
        angle, turned = tensor.angle_degrees, tensor.rotated_angle_degrees
        g = next((group for group in tensor.group_angles_degrees if group.size == 128), None)
        levels = {found.levels: found for found in tensor.level_angles_degrees}
        name = f"{tensor.name}\n{tensor.dtype} {_shape(tensor.shape)}"
        name += f"\nrows of zeros: {tensor.zero_rows}" if tensor.zero_rows else ""
        table.add_row(
            name,
            f"{angle.mean:.1f}\n{angle.predicted_mean:.1f}\n{angle.moments_mean:.1f}",
            f"{g.mean:.1f}\n{g.predicted_mean:.1f}\n{g.moments_mean:.1f}" if g else "-",
            *(f"{levels[k].angle:.1f}\n{levels[k].predicted:.1f}" for k in (3, 16)),
            f"{turned.after:.1f}\n{turned.predicted:.1f}",
            f"{number(tensor.kurtosis, 2)}\n3",
            f"{100 * tensor.zeros:.2f}\n0",
            end_section=True,
        )
    if found.tensors:
        out.print(table)
    _print_unmeasured(found.unmeasured, out)
    if not found.tensors:
        return
    out.print(
        f"{_bytes(found.measured_bytes)} of {len(found.tensors)} tensors measured in {found.seconds:.2f} s, "
        f"{found.bytes_per_second / 1e9:.2f} GB/s; samples took {found.sample_seconds:.2f} s more",
        soft_wrap=True,
    )


def _bytes(count: int) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"


def _print_unmeasured(unmeasured: Sequence[Unmeasured], out: Console) -> None:
    """One row per type and reason; the JSON names every tensor."""
    if not unmeasured:
        return
    groups: dict[tuple[str, str], list[Unmeasured]] = {}
    for tensor in unmeasured:
        groups.setdefault((tensor.dtype, tensor.reason), []).append(tensor)
    table = Table(title="Not measured", title_justify="left", padding=(0, 1, 0, 0))
    table.add_column("tensors", justify="right")
    table.add_column("type")
    table.add_column("first, and its shape", overflow="fold")
    table.add_column("reason")
    for (dtype, reason), group in groups.items():
        table.add_row(f"{len(group):,}", dtype, f"{group[0].name}, {_shape(group[0].shape)}", reason)
    out.print(table)


def _print_pair(found: PairGeometry, out: Console) -> None:
    table = _table(
        f"{Path(found.file).name} against {Path(found.original).name}",
        "first line: measured; second: theory, for the original's own levels (cosine, scale) and for jointly normal "
        "weights at the measured cosine (sign agreement). latent: cosine between the original and the latent weights "
        "of these levels; scale: factor that brings the low-bit rows nearest to the original; last: mean product of "
        "neighbouring signs, below it the original's.",
        "tensor",
        "row cosine",
        "latent",
        "% signs agree",
        "scale",
        "sign × next",
    )
    for pair in found.tensors:
        kind = f"{pair.levels} levels, β = {pair.group}" if pair.levels else "more levels"
        notes = [pair.name, f"{pair.dtype} of {pair.original_dtype}, {pair.rows} × {pair.row_length}", kind]
        if pair.rotary_order:
            notes.append("rows put back into the original's order")
        if pair.zero_rows:
            notes.append(f"rows of zeros in one file: {pair.zero_rows}")
        table.add_row(
            "\n".join(notes),
            f"{pair.cosine.mean:.4f}\n{number(pair.cosine.predicted_mean, 4)}",
            number(pair.latent_cosine, 3),
            f"{100 * pair.sign_agreement:.2f}\n{number(100 * pair.predicted_sign_agreement, 2)}",
            f"{pair.scale_ratio:.3f}\n{'1' if pair.levels else '-'}",
            f"{number(pair.autocorrelation, 4)}\n{number(pair.original_autocorrelation, 4)}",
            end_section=True,
        )
    if found.tensors:
        out.print(table)
    _print_unmeasured(found.unmeasured, out)
    if found.missing:
        out.print(f"Only in {found.original}: {', '.join(found.missing)}", soft_wrap=True)


def _print_vectors(found: "VectorsGeometry", out: Console) -> None:
    out.print(
        f"{found.file}: {found.vectors:,} vectors of {found.dimension} dimensions; {found.sampled:,} measured"
        + (f", of which {found.zero_vectors:,} are zero" if found.zero_vectors else ""),
        soft_wrap=True,
    )
    out.print(
        f"norm {found.norm_mean:.4g} ± {found.norm_std:.3g}, from {found.norm_least:.4g} to {found.norm_most:.4g}; "
        f"the mean holds {found.mean_share:.1%} of the squared length; effective dimension "
        f"{found.effective_dimension:.1f}",
        soft_wrap=True,
    )
    rotated = f"rotated to {found.rotated_dimension}"
    table = _table(
        "Angle between vectors and their signs, in degrees",
        "theory: independent components with the vectors' own values; after a rotation, normal ones, for any vectors",
        "vectors",
        "mean",
        "theory",
        "std",
        "theory",
    )
    for name, angles in (
        ("as they are", found.signs_degrees),
        ("centred", found.centred_degrees),
        (rotated, found.rotated_degrees),
        (f"centred, {rotated}", found.centred_rotated_degrees),
    ):
        values = angles.mean, angles.predicted_mean, angles.std, angles.predicted_std
        table.add_row(name, *(number(value, 2) for value in values))
    out.print(table)
    recall = _table(
        "Share of the 10 nearest vectors by angle among the 10 nearest codes",
        f"Metric: {found.metric}, as by cosine: lengths do not count. "
        f"{found.queries} of the measured vectors are queries to the others; with more vectors recall is lower. "
        "Rotated: measured / predicted",
        "bits",
        "signs",
        "centred",
        "rotated",
        "centred, rotated",
    )
    for row in found.recalls:
        recall.add_row(
            str(row.bits),
            number(row.signs, 3),
            number(row.centred, 3),
            f"{row.rotated:.3f} / {number(row.rotated_predicted, 3)}",
            f"{row.centred_rotated:.3f} / {number(row.centred_rotated_predicted, 3)}",
        )
    out.print(recall)
