"""`hypersign generate`: continue a text with a trained network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from hypersign.cli.options import Option, Seed, Weights, parse
from hypersign.cli.printing import printable


def run(words: Sequence[str]) -> None:
    """Parses `hypersign generate`'s options and prints."""
    parse(generate, words, "generate")


def generate(
    run: Annotated[Path, Option("run folder of a network that was trained on a text, or its packed file", "RUN")],
    /,
    *,
    prompt: str = "",
    count: int = 500,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: Seed = 0,
    weights: Weights = "last",
) -> None:
    """Continue a text with a run that was trained on one, or with its packed file; print the prompt and what follows.

    Examples:
        hypersign generate runs/shakespeare --prompt "ROMEO:" --temperature 0.8
        hypersign generate shakespeare.hypersign --prompt "ROMEO:"

    Args:
        prompt: text to continue. If it is empty, the text continues the first character that the network knows,
            which is not printed.
        count: characters to draw (bytes, if the run was trained on bytes).
        temperature: divides the logits: below 1 the text gets safer, 0 always takes the likeliest character.
        top_k: draw from the INT likeliest characters alone.
    """
    from hypersign import generation, runs
    from hypersign.packed.text import PackedText

    opened = PackedText.load(run) if run.is_file() else runs.load(run)
    found = generation.generate(
        opened, prompt, count=count, temperature=temperature, top_k=top_k, seed=seed, weights=weights
    )
    first = next(found, "")  # errors come before the prompt is printed
    print(printable(prompt + first), end="", flush=True)
    for piece in found:
        print(printable(piece), end="", flush=True)
    print()
