"""`hypersign train`."""

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from hypersign import training
from hypersign._checks import HypersignError, check_choice
from hypersign.cli.options import parse
from hypersign.training import RECIPES, Recipe

DEFAULT = "modern"


def run(words: Sequence[str]) -> None:
    """Parses `hypersign train`'s options and trains."""
    named = _named_recipe(words)

    def train(
        options: Annotated[tyro.conf.OmitArgPrefixes[Recipe], tyro.conf.arg(name="the recipe's")] = RECIPES[named],
        *,
        recipe: Annotated[str, tyro.conf.arg(metavar="{" + ",".join(RECIPES) + "}")] = DEFAULT,
        output: Path | None = None,
        resume: Path | None = None,
        device: Literal["cpu", "cuda", "mps"] | None = None,
        deterministic: bool = False,
        tensorboard: bool = False,
        save_seconds: float = 60.0,
    ) -> None:
        """Train a binary or ternary network into a run folder.

        --recipe NAME sets the defaults of all recipe options. Ctrl-C and SIGTERM save and stop. With several
        processes, each takes its share of every batch: torchrun --nproc-per-node 2 -m hypersign train ...

        Args:
            options: Saved in the run folder. The defaults shown are those of the named recipe.
            recipe: named recipe; sets the defaults below.
            output: run folder to write; by default runs/DATA-MODEL-binary (or -ternary).
            resume: run folder to resume; it uses the saved recipe, so recipe options are rejected.
            device: by default the best available.
            deterministic: make CUDA runs repeatable bit by bit (CPU runs always are).
            tensorboard: also write TensorBoard event files, to tensorboard/ in the run folder.
            save_seconds: seconds between saves of the state.
        """
        _keep_freed_memory()
        how: dict[str, Any] = {
            "device": device,
            "deterministic": deterministic,
            "tensorboard": tensorboard,
            "save_seconds": save_seconds,
        }
        if resume is None:
            done = training.train(options, output or _folder(options), **how)
        elif output is not None or recipe != DEFAULT or options != RECIPES[named]:
            raise HypersignError(
                "--resume uses the recipe and the folder of the run; leave --output and the recipe's options out"
            )
        else:
            done = training.resume(resume, **how)
        if int(os.environ.get("RANK", "0")):  # of the processes that torchrun starts, the first one speaks
            return
        test = done.info["results"]["test"]
        loss = "infinite" if test["loss"] is None else f"{test['loss']:.4f}"
        print(f"{done.path}: {test['accuracy']:.2%} of {test[done.unit]} test {done.unit}, loss {loss}")
        print(f"Next: hypersign inspect {done.path}")

    parse(train, words, "train")


def _keep_freed_memory() -> None:
    """Lets every step use the memory of the one before.

    glibc's allocator hands large blocks back to the system when they are freed, and the next step takes them again
    page by page, each page cleared: a tenth of a step's time and more. The process is the command's own, so it may.
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
    """The value of --recipe, which decides the other options' defaults and so is read before them."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        option, equals, value = word.partition("=")
        if option == "--recipe":
            return check_choice("--recipe", value if equals else following, RECIPES)
    return DEFAULT
