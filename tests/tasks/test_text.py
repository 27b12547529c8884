"""A text data set of another kind than images and tensors goes through the same loop, by name too."""

import dataclasses
import hashlib
from typing import ClassVar

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from hypersign import training
from hypersign.cli import main
from hypersign.data import Data
from hypersign.layers import QuantLinear
from hypersign.quantizers import Sign
from hypersign.runs import load
from hypersign.tasks import NextToken
from hypersign.training import RECIPES, train

QUIET = {"device": "cpu", "console": Console(quiet=True)}
LENGTH = 16


class Windows:
    """Batches of windows of a text, at offsets that are drawn anew each epoch."""

    def __init__(self, text, batch_size, *, device="cpu", seed=None, augmentation=None, drop_last=False, **processes):
        assert augmentation is None
        assert processes in ({}, {"rank": 0, "processes": 1})
        self.text, self.size, self.seed, self.device = text, batch_size, seed, device
        count = (len(text.tokens) - 1) // LENGTH
        self.decisions = batch_size * LENGTH
        self.starts = LENGTH * torch.arange(count)
        self.batches = count // batch_size if drop_last else -(-count // batch_size)

    def __len__(self):
        return self.batches

    def __iter__(self):
        return self.epoch(0)

    def epoch(self, number, start=0):
        starts = self.starts
        if self.seed is not None:
            generator = torch.Generator().manual_seed(1000 * self.seed + number)
            starts = torch.randint(len(self.text.tokens) - LENGTH, (len(starts),), generator=generator)
        for index in range(start, self.batches):
            first = starts[index * self.size : (index + 1) * self.size]
            tokens = self.text.tokens[first[:, None] + torch.arange(LENGTH + 1)].to(self.device)
            yield tokens[:, :-1], tokens[:, 1:]


@dataclasses.dataclass(frozen=True)
class Text:
    """A text; its examples are its characters."""

    tokens: torch.Tensor

    def __len__(self):
        return len(self.tokens) - 1

    def __getitem__(self, rows):
        start, stop, _ = rows.indices(len(self))
        return Text(self.tokens[start : max(stop, start + LENGTH) + 1])


class Characters(Data):
    unit: ClassVar[str] = "characters"
    task = NextToken()
    name = "rhyme"
    shape = (LENGTH,)

    def __init__(self):
        text = "the cat sat on the mat and the rat ate the hat " * 40
        self.classes = tuple(sorted(set(text)))
        tokens = torch.tensor([self.classes.index(character) for character in text])
        self.train, self.test = Text(tokens[:1500]), Text(tokens[1500:])
        self.sha256 = hashlib.sha256(text.encode()).hexdigest()

    def batches(self, split, batch_size, **options):
        return Windows(split, batch_size, **options)


def network():
    return nn.Sequential(
        nn.Embedding(len(Characters().classes), 24),
        QuantLinear(24, 48, bias=False, weight_quantizer=Sign()),
        nn.LayerNorm(48),
        QuantLinear(48, len(Characters().classes), bias=False, input_quantizer=Sign(), weight_quantizer=Sign()),
        nn.LayerNorm(len(Characters().classes)),
    )


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


RECIPE = dataclasses.replace(
    RECIPES["anderson-berg-2018"],
    data="rhyme",
    epochs=8,
    batch_size=8,
    validation=200,
    learning_rate=0.02,
    final_learning_rate=0.002,
)


def bigram_bits(text):
    """What the best guess from one character costs, on this text: the conditional entropy of pairs."""
    pairs = np.zeros((50, 50))
    tokens = text.tokens.numpy()
    np.add.at(pairs, (tokens[:-1], tokens[1:]), 1)
    joint, first = pairs / pairs.sum(), pairs.sum(1, keepdims=True) / pairs.sum()
    seen = joint > 0
    return float(-(joint[seen] * np.log2((joint / np.where(first > 0, first, 1))[seen])).sum())


def test_a_text_is_learned(tmp_path):
    data = Characters()
    run = train(RECIPE, tmp_path / "run", data=data, model=network, **QUIET)
    bits = [row["bits_per_token"] for row in run.metrics()]
    best = bigram_bits(data.test)
    assert bits[-1] < bits[0]
    assert best < run.info["results"]["test"]["bits_per_token"] < np.log2(len(data.classes))
    assert run.info["data"]["train_characters"] == 1499
    assert run.metrics()[0]["characters_per_second"] > 0
    assert run.unit == "characters"


def test_a_text_data_set_with_a_name(tmp_path, monkeypatch, capsys):
    """Once `load` knows the name, the run needs nothing given again, and the commands speak of characters."""
    for module in ("hypersign.training.loop.load_data", "hypersign.runs.load_data"):
        monkeypatch.setattr(module, lambda name, seed: {"rhyme": Characters}[name]())
    monkeypatch.setattr("hypersign.data.reading.NAMES", ("rhyme",))
    run = training.train(dataclasses.replace(RECIPE, epochs=1), tmp_path / "run", model=network, **QUIET)
    assert load(run.path).task() == NextToken()
    assert load(run.path).data().name == "rhyme"
    train(RECIPE, tmp_path / "other", data=Characters(), model=network, **QUIET)
    main(["compare", str(run.path), str(tmp_path / "other")])
    assert "test accuracy" in capsys.readouterr().out
