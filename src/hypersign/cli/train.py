"""`hypersign train`: a recipe in, a run folder out."""

import ctypes
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from hypersign import _defaults
from hypersign._checks import HypersignError, check_choice
from hypersign.cli.options import Option, option_class, parse
from hypersign.cli.printing import say
from hypersign.training.recipe import RECIPES, Recipe

DEFAULT = "modern"

RECIPE_OPTIONS = """Saved in the run folder. The defaults shown are those of the named recipe. An option of the
network that shows none has the network's own default, which its text names."""


def run(words: Sequence[str]) -> None:
    """Parses `hypersign train`'s options and trains."""
    named = _named_recipe(words)

    recipe_options: Any = option_class(Recipe, RECIPES[named])
    defaults = recipe_options()

    def train(
        options: Annotated[
            tyro.conf.OmitArgPrefixes[recipe_options], tyro.conf.arg(name="the recipe's", help=RECIPE_OPTIONS)
        ] = defaults,
        *,
        recipe: Annotated[str, Option(metavar="{" + ",".join(RECIPES) + "}")] = DEFAULT,
        output: Annotated[Path | None, Option(metavar="FOLDER", written="folder")] = None,
        resume: Annotated[Path | None, Option(metavar="RUN")] = None,
        device: Literal["cpu", "cuda", "mps"] | None = None,
        deterministic: bool = False,
        tensorboard: bool = False,
        report: bool = False,
        save_seconds: float = _defaults.SAVE_SECONDS,
    ) -> None:
        """Train a binary or ternary network into a run folder, or resume a run.

        --recipe sets the defaults of all recipe options. Ctrl-C and SIGTERM save the state and stop. With several
        processes, each takes its share of every batch: torchrun --nproc-per-node 2 -m hypersign train ...

        Example:
            hypersign train --data digits --epochs 2 --no-flip --crop-padding 0

        Args:
            recipe: named recipe, which sets the defaults below.
            output: run folder to write; by default runs/DATA-MODEL-binary or runs/DATA-MODEL-ternary.
            resume: run folder to resume; it uses the saved recipe, so recipe options are rejected.
            device: by default the best available.
            deterministic: make CUDA runs repeatable bit by bit (CPU runs always are).
            report: keep report.html in the run folder up to date; the open page shows each epoch by itself.
            tensorboard: also write TensorBoard event files, to tensorboard/ in the run folder.
            save_seconds: seconds between saves of the state.
        """
        from hypersign import training

        chosen = Recipe(**vars(options))
        _keep_freed_memory()
        how: dict[str, Any] = {
            "device": device,
            "deterministic": deterministic,
            "tensorboard": tensorboard,
            "save_seconds": save_seconds,
        }
        if report:
            how["each_epoch"] = _page_writer()
        if resume is None:
            folder = output or _folder(chosen)
            start = functools.partial(training.train, chosen, folder, **how)
        elif output is not None or recipe != DEFAULT or chosen != RECIPES[named]:
            raise HypersignError(
                "--resume uses the run's own recipe and folder; leave out --output and the recipe's options"
            )
        else:
            folder = resume
            start = functools.partial(training.resume, resume, **how)
        try:
            done = start()
        except training.InterruptedTrainingError:
            if report:  # it stops loading itself again
                _last_page(folder)
            raise
        if int(os.environ.get("RANK", "0")):  # only the first of torchrun's processes prints
            return
        if report:
            say(f"Report: {_last_page(done.path)}")
        test = done.info["results"]["test"]
        loss = "infinite" if test["loss"] is None else f"{test['loss']:.4f}"
        say(f"{done.path}: {test['accuracy']:.2%} of {test[done.unit]} test {done.unit}, loss {loss}")
        say(f"Next: hypersign inspect {done.path}")

    parse(train, words, "train")


def _page_writer() -> Callable[[Any], None]:
    """A function that writes the page of a run in training; the page loads itself again once an epoch."""
    import jinja2  # noqa: F401  # its absence is an error before the run folder is made

    from hypersign import study

    def write(run: Any) -> None:
        rows = run.metrics()
        epoch = rows[-1]["seconds"] / len(rows) if rows else 2.0
        study.write_training_page(run, reload_seconds=round(min(max(epoch, 2.0), 60.0)))

    return write


def _last_page(folder: Path) -> Path:
    """Writes the page of a run that is no longer trained."""
    from hypersign import runs, study

    return study.write_training_page(runs.load(folder))


def _keep_freed_memory() -> None:
    """Lets every step reuse the memory of the step before.

    glibc's allocator returns large blocks to the system when they are freed. The next step gets them again page by
    page, and each page is cleared: that takes a tenth of a step's time or more. The setting is for the whole process,
    which here is the command's own.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_threshold, 2**30)


def _folder(recipe: Recipe) -> Path:
    data = Path(recipe.data).stem
    return Path("runs") / f"{data}-{recipe.model}-{'binary' if recipe.levels == 2 else 'ternary'}"


def _named_recipe(words: Sequence[str]) -> str:
    """The value of --recipe. It is read first because it sets the other options' defaults."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        option, equals, value = word.partition("=")
        if option == "--recipe":
            return check_choice("--recipe", value if equals else following, RECIPES)
    return DEFAULT
