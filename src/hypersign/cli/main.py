"""Finds the command, runs it, and prints its errors in one sentence."""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from hypersign import __version__
from hypersign._checks import HypersignError
from hypersign._installation import as_typed, missing
from hypersign.cli.printing import command_table, console, say

__all__ = ["main"]

VERBS = {
    "demo": "train a small binary network on scanned digits and write its report (a minute)",
    "data": "list, download and export data sets",
    "train": "train a binary or ternary network into a run folder, or resume a run",
    "models": "list the networks that come with HyperSign",
    "evaluate": "print accuracy, loss and confusion matrix of a run",
    "info": "print network, sizes, recipe, data and results of a run",
    "inspect": "measure a run's geometry beside theory and write its report; or measure weights or vectors",
    "forecast": "forecast what quantizing each layer does to a run's decisions, and plan for a size",
    "reproduce": "draw every figure of the paper from a run, and check its claims",
    "ablate": "turn layers back to float, and print measured and predicted loss",
    "compare": "show runs side by side: settings that differ, accuracy, angles and r",
    "pack": "write a run's network as one file of bits, and verify it",
    "run": "predict with a packed file, without torch",
    "generate": "continue a text with a run that was trained on one",
    "export": "write a packed file as ONNX, as QONNX, or as C for microcontrollers",
    "import": "read a QONNX network of binary and ternary layers as a packed file",
    "play": "write a page that runs a packed file on what you draw",
    "bench": "time a packed network and its layers, beside the float network",
    "theory": "print the closed forms: angles, ternary levels, the reference tables",
    "simulate": "draw random vectors, and print their angles beside theory",
    "hash": "turn vectors into packed sign codes, and predict their recall",
    "search": "find the nearest vectors of queries by their codes",
}

PACKAGES = {
    "torch": ("torch", "train"),
    "accelerate": ("accelerate", "train"),
    "huggingface_hub": ("huggingface-hub", "train"),
    "pooch": ("pooch", "train"),
    "requests": ("requests", "train"),
    "urllib3": ("urllib3", "train"),
    "sklearn": ("scikit-learn", "pipelines"),
    "matplotlib": ("matplotlib", "report"),
    "jinja2": ("jinja2", "report"),
    "gguf": ("gguf", "gguf"),
    "onnx": ("onnx", "export"),
    "onnxruntime": ("onnxruntime", "export"),
    "qonnx": ("qonnx", "export"),
    "google": ("protobuf", "export"),
    "h5py": ("h5py", "files"),
    "pyarrow": ("pyarrow", "files"),
    "PIL": ("pillow", ""),
}
"""Module -> (distribution to install, the extra that brings it; none for those of the base install)."""


def main(words: Sequence[str] | None = None) -> None:
    """Runs one command; exits with 0, 1 (bad input), 2 (bad options) or 130 (Ctrl-C)."""
    words = list(sys.argv[1:] if words is None else words)
    verb = words[0] if words else "--help"
    if verb in ("-h", "--help"):
        text = "binary and ternary networks through high-dimensional geometry"
        console().print(command_table("hypersign", VERBS, text, "Example: hypersign demo"))
        return
    if verb == "--version":
        print(__version__)
        return
    if verb not in VERBS:
        _fail(f"hypersign: {verb!r} is no command; the commands are {', '.join(VERBS)}", 2)
    try:
        # Inside the try: importing takes seconds, in which Ctrl-C may come, and shows which packages are missing.
        run: Callable[[Sequence[str]], Any] = importlib.import_module(f"hypersign.cli.{verb}").run
        run(words[1:])
    except HypersignError as error:
        _fail(
            f"hypersign {verb}: {as_typed(str(error))}",
            130 if type(error).__name__ == "InterruptedTrainingError" else 1,
        )
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module == "hypersign" or not module:
            raise
        _fail(f"hypersign {verb}: {missing('this command', *PACKAGES.get(module, (module, '')))}", 1)
    except MemoryError as error:
        _fail(f"hypersign {verb}: there is not enough memory; make numbers or files smaller ({error})", 1)
    except BrokenPipeError:  # the reader, such as head, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        _fail(f"hypersign {verb}: interrupted", 130)


def _fail(message: str, status: int) -> None:
    say(message, error=True)
    raise SystemExit(status)
