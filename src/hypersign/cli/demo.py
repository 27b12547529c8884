"""`hypersign demo`: train, inspect and report on data that need no download."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from hypersign._checks import HypersignError
from hypersign._locks import is_lock, writing_file, writing_folder
from hypersign.cli.info import twin_words
from hypersign.cli.options import Option, parse, progress_bars
from hypersign.cli.printing import console, say, say_next
from hypersign.training.recipe import Recipe


def recipe() -> Recipe:
    """The demo's recipe, made when it is needed: its check imports torch."""
    return Recipe(
        data="digits",
        widths=(48, 48, 96, 96),
        pools=(2, 4),
        hidden=(64,),
        epochs=25,
        batch_size=50,
        loss="cross-entropy",
        learning_rate=3e-3,
        final_learning_rate=0.0,
        schedule="cosine",
        schedule_per="step",
        gradient_clip=None,
    )


def run(words: Sequence[str]) -> None:
    """Parses `hypersign demo`'s options and runs it."""
    parse(demo, words, "demo")


def demo(*, output: Annotated[Path, Option(metavar="FOLDER", short="-o")] = Path("runs/demo")) -> None:
    """Train a small binary network on scikit-learn's scanned digits, and its float twin; measure, write the report.

    It takes about a minute on 2 cores and needs no download. It replaces an earlier demo in the same folder.

    Example:
        hypersign demo

    Args:
        output: run folder to write, with report.html and geometry.json in it.
    """
    with writing_folder(output), writing_file(output / "geometry.json"):
        _remove_earlier(output)
        _demo(output)


def _remove_earlier(output: Path) -> None:
    """Empties the folder of an earlier demo, except for the locks that this one holds."""
    from hypersign.runs import load

    files = [path for path in output.iterdir() if not is_lock(path)]
    if not files:
        return
    if Recipe(**load(output).info["recipe"]) != recipe():
        raise HypersignError(
            f"{output} holds another run than this demo; choose another folder with --output, or remove it"
        )
    # run.json goes last: killed before it, the next demo still finds an earlier one.
    for path in sorted(files, key=lambda path: path.name == "run.json"):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _demo(output: Path) -> None:
    import torch

    from hypersign import geometry, study
    from hypersign.cli.inspect import geometry_table
    from hypersign.training import train

    out, progress = console(), console(stderr=True)
    # Layers this small gain nothing from a second thread. On busy cores threads wait for each other, which takes ten
    # times longer. One thread also gives the same result on every machine of one type.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        out.print("1. Training a binary convolutional network on scanned digits", style="bold")
        trained = train(recipe(), output, device="cpu", console=progress)
        out.print("2. Training its float twin: the same network without quantizers", style="bold")
        trained = study.train_twin(trained, device="cpu", console=progress)
        out.print("3. Measuring what one bit did to its geometry", style="bold")
        with progress_bars() as bars:
            found = geometry.inspect(trained, progress=bars)
        out.print("4. Putting layers back to float, one at a time", style="bold")
        with progress_bars() as bars:
            ablation, depth = study.ablate_run(
                trained, images=300, reestimate_images=300, rounds=2, depth=True, progress=bars
            )
        page = study.write_report(trained, found, ablation=ablation, depth=depth)
    finally:
        torch.set_num_threads(threads)
    out.print(geometry_table(found))
    out.print("What one bit cost, and saved", style="bold")
    say(twin_words(trained.info))
    out.print(f"Report: {page}\nNumbers: {output / 'geometry.json'}", soft_wrap=True)
    say_next(
        "Next, a few seconds each:",
        {
            f"hypersign info {output}": "network, sizes, recipe, results",
            f"hypersign pack {output} -o digits.hypersign --verify": "one file of bits, checked",
            "hypersign data export digits images.npy": "the test images",
            "hypersign run digits.hypersign -i images.npy -o predictions.csv": "predict, without torch",
            "hypersign bench digits.hypersign": "time each layer",
        },
    )
