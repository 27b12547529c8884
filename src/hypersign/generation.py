"""Continues a text, token by token, with a trained language model."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from hypersign._checks import HypersignError
from hypersign.data.text import decode, encode
from hypersign.evaluate import mode
from hypersign.layers import SequenceNetwork
from hypersign.packed.text import PackedText, Sampling
from hypersign.packed.text import continued as draw_tokens
from hypersign.runs import Run

__all__ = ["continued", "generate"]


def generate(
    run: Run | PackedText,
    prompt: str,
    *,
    count: int = 500,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
    weights: str = "last",
) -> Iterator[str]:
    """Continues a prompt with a run's network: yields one character (or some bytes' characters) at a time.

    Args:
        run: a run that was trained on a text, or a packed file of one.
        prompt: the text to continue. If it is empty, the text continues the first character that the network knows.
        count: tokens to draw.
        temperature: logits are divided by it; 0 takes the likeliest token.
        top_k: draw from the k likeliest tokens alone.
        seed: seed of the draws.
        weights: "last" or "best" of a run; a packed file has one set.

    Raises:
        HypersignError: the network predicts no text, or the prompt has a character that it does not know; "best"
            weights of a packed file.
    """
    if isinstance(run, PackedText):
        if weights != "last":
            raise HypersignError(f"weights must be left out for a packed file, which has one set; got {weights!r}")
        model: Any = run
        classes, unit = run.classes, run.unit
    elif not run.reads_text:
        raise HypersignError(f"generate continues a text; {run.name} was trained on {run.unit}: train it on a text")
    else:
        model = run.load_model(weights)
        classes, unit = tuple(run.info["data"]["classes"]), run.unit
    tokens = encode(prompt, classes, unit) or [0]
    drawn = continued(model, tokens, count, temperature=temperature, top_k=top_k, seed=seed)
    yield from _pieces(drawn, classes, unit)


def _pieces(tokens: Iterator[int], classes: tuple[str, ...], unit: str) -> Iterator[str]:
    """The text of tokens as they come: bytes are held back until they make whole characters."""
    waiting: list[int] = []
    for token in tokens:
        waiting.append(token)
        text = decode(waiting, classes, unit)
        if unit != "bytes" or "�" not in text or len(waiting) >= 4:
            yield text
            waiting = []
    if waiting:
        yield decode(waiting, classes, unit)


def continued(
    model: Any,
    tokens: Sequence[int],
    count: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
) -> Iterator[int]:
    """Draws the tokens that follow, one at a time, from softmax(logits / temperature).

    A recurrent network keeps its state and a transformer its keys and values, so each token costs one step. When the
    transformer's context is full, it starts again from the last half of it.

    Args:
        model: a network with `read(tokens, memory)`, as `lstm` and `gpt` build them, or a `PackedText`.
        tokens: what to continue, at least one token.
        count, temperature, top_k, seed: as in `generate`.

    Raises:
        HypersignError: the network cannot read in pieces, there is no token, or a number is outside its range.

    >>> from hypersign.models import gpt
    >>> model = gpt((8,), 5, width=8, blocks=1, heads=1)
    >>> list(continued(model, [1, 2], 20)) == list(continued(model, [1, 2], 20))
    True
    """
    if not isinstance(model, SequenceNetwork | PackedText):
        raise HypersignError(
            f"generate needs a network that reads a text in pieces, such as lstm and gpt; got {type(model).__name__}"
        )

    def read(piece: list[int], memory: Any) -> tuple[Any, Any]:
        if isinstance(model, PackedText):
            packed_logits, memory = model.read(np.array([piece]), memory)
            return packed_logits[0, -1], memory
        with mode(model, False), torch.no_grad():
            logits, memory = model.read(torch.tensor([piece]), memory)
        return logits[0, -1].numpy(), memory

    yield from draw_tokens(read, tokens, count, Sampling(temperature, top_k, seed), getattr(model, "context", None))
