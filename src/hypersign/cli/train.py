"""`hypersign train`: a recipe in, a run folder out."""

import ctypes
import functools
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import tyro

from hypersign import _defaults
from hypersign._checks import HypersignError, check_choice
from hypersign.cli.options import Option, option_class, parse
from hypersign.cli.printing import bits_words, say, say_next
from hypersign.methods import METHODS
from hypersign.training.recipe import RECIPES, Recipe, method_defaults

DEFAULT = "modern"

RECIPE_OPTIONS = """Saved in the run folder. The defaults shown are those of the named recipe. An option of the
network that shows none has the network's own default, which its text names."""


def run(words: Sequence[str]) -> None:
    """Parses `hypersign train`'s options and trains."""
    named = _named(words, "--recipe", RECIPES) or DEFAULT
    method = _named(words, "--method", METHODS)
    data = _value_of("--data", words)
    start = Recipe(data=data) if data and named == DEFAULT else RECIPES[named]  # flips and crops depend on the data
    found = vars(start) if method is None else method_defaults(method, start)
    recipe_options: Any = option_class(Recipe, SimpleNamespace(**found))
    defaults = recipe_options()

    def train(
        options: Annotated[
            tyro.conf.OmitArgPrefixes[recipe_options], tyro.conf.arg(name="the recipe's", help=RECIPE_OPTIONS)
        ] = defaults,
        *,
        recipe: Annotated[str, Option(metavar="{" + ",".join(RECIPES) + "}")] = DEFAULT,
        output: Annotated[Path | None, Option(metavar="FOLDER", short="-o", written="folder")] = None,
        resume: Annotated[Path | None, Option(metavar="RUN")] = None,
        twin: Annotated[Path | None, Option(metavar="RUN")] = None,
        members: int = 1,
        ensemble: Literal["bagging", "boosting"] | None = None,
        device: Literal["cpu", "cuda", "mps"] | None = None,
        deterministic: bool = False,
        tensorboard: bool = False,
        report: bool = False,
        save_seconds: float = _defaults.SAVE_SECONDS,
    ) -> None:
        """Train a binary or ternary network into a run folder, or resume a run.

        --recipe sets the defaults of all recipe options, and --method those that make a method of the field. After a
        few steps it says how long the rest takes. Ctrl-C and SIGTERM save the state and stop. With several
        processes, each takes its share of every batch: torchrun --nproc-per-node 2 -m hypersign train ...

        Example:
            hypersign train --data digits --widths 32 64 --pools 1 2 --epochs 15

        Args:
            recipe: named recipe, which sets the defaults below.
            output: run folder to write; by default runs/DATA-MODEL-METHOD (without a method: binary, ternary).
            resume: run folder to resume; it uses the saved recipe, so recipe options are rejected.
            twin: finished run, whose float twin is trained into its folder twin/ with the saved recipe; accuracy,
                size and speed of both are saved in the run.
            members: number of networks to train, which then vote; run folders in members/ of the output.
            ensemble: how the images of each member are drawn, if there are several: bagging by default.
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
        own = next((f"--{name}" for name, run in (("resume", resume), ("twin", twin)) if run is not None), None)
        given = output is not None or recipe != DEFAULT or method is not None or chosen != RECIPES[named]
        if own and given:
            raise HypersignError(
                f"{own} uses the run's own recipe and folder; leave out --output and the recipe's options"
            )
        if twin is not None:
            if resume is not None or deterministic or tensorboard or report:
                raise HypersignError("--twin repeats a run's own training: it takes no other option than --device")
            _train_twin(twin, device)
            return
        if members == 1 and ensemble is not None:
            raise HypersignError(
                "--ensemble draws images for several members: give --members, or leave --ensemble out"
            )
        if members != 1:
            if own or report:
                raise HypersignError(f"--members trains new networks, without {own or '--report'}: leave that out")
            folder = output or _folder(chosen)
            _print_result(
                training.train_ensemble(chosen, folder, members=members, scheme=ensemble or "bagging", **how), report
            )
            return
        if report:
            how["each_epoch"] = _page_writer()
        if resume is None:
            folder = output or _folder(chosen)
            start = functools.partial(training.train, chosen, folder, **how)
        else:
            folder = resume
            start = functools.partial(training.resume, resume, **how)
        try:
            done = start()
        except training.InterruptedTrainingError:
            if report:  # it stops loading itself again
                _last_page(folder)
            raise
        if not int(os.environ.get("RANK", "0")):  # only the first of torchrun's processes prints
            _print_result(done, report)

    parse(train, words, "train")


def _print_result(done: Any, report: bool) -> None:
    if report:
        say(f"Report: {_last_page(done.path)}")
    test = done.info["results"]["test"]
    loss = "infinite" if test["loss"] is None else f"{test['loss']:.4f}"
    bits = bits_words(test, done.unit)
    say(f"{done.path}: {test['accuracy']:.2%} of {test[done.unit]:,} test {done.unit}, loss {loss}{bits}")
    say_next(
        "Next:",
        {
            **({f"hypersign generate {done.path}": "a text by the network"} if done.reads_text else {}),
            f"hypersign inspect {done.path}": "geometry and report",
            f"hypersign train --twin {done.path}": "what low bits cost: as long as this training in float32",
        },
    )


def _train_twin(run: Path, device: str | None) -> None:
    from hypersign import runs, study
    from hypersign.cli.info import twin_words

    found = study.train_twin(runs.load(run), device=device)
    say(twin_words(found.info))
    say_next("Next:", {f"hypersign inspect {run}": "a report with both networks"})


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
    return Path("runs") / f"{data}-{recipe.model}-{recipe.method or ('binary' if recipe.levels == 2 else 'ternary')}"


def _named(words: Sequence[str], wanted: str, table: Mapping[str, Any]) -> str | None:
    """The value of an option that sets the other options' defaults, so that it is read before them; None without
    it."""
    name = _value_of(wanted, words)
    return None if name in (None, "none", "None") else check_choice(wanted, name, table)


def _value_of(wanted: str, words: Sequence[str]) -> str | None:
    for word, following in itertools.pairwise([*words, ""]):
        option, equals, value = word.partition("=")
        if option == wanted:
            return value if equals else following
    return None
