"""Texts: vocabulary, parts, streams and windows."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from hypersign import HypersignError
from hypersign.data import TextBatches, TextData, TextSplit, decode, encode, load, locate

GIVEN = os.environ.get("HYPERSIGN_DATA")
RHYME = "the cat sat on the mat and the rat ate the hat " * 20


def batches(count, size, **options):
    return TextBatches(TextSplit(torch.arange(count)), size, **options)


@pytest.mark.parametrize("count", [2, 3, 13, 63, 64, 65, 100])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_windows_cover_every_character_but_the_first_once(count, size):
    found = batches(count, size, length=4)
    pairs = list(found)
    targets = torch.cat([targets.flatten() for _, targets in pairs])
    assert len(pairs) == len(found)
    assert sorted(targets.tolist()) == list(range(1, count))
    assert all(torch.equal(inputs + 1, targets) for inputs, targets in pairs)


@pytest.mark.parametrize("count", [2, 3, 13, 64, 100])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_streams_continue_row_by_row(count, size):
    pairs = list(batches(count, size, length=4, streams=True))
    for (_, before), (after, _) in itertools.pairwise(pairs):
        assert torch.equal(before[:, -1], after[:, 0])
    targets = torch.cat([targets.flatten() for _, targets in pairs])
    rows = len(pairs[0][0])
    assert len(set(targets.tolist())) == len(targets) == (count - 1) // rows * rows


def test_an_epoch_depends_on_seed_and_number_alone():
    for streams in (False, True):
        same = {"length": 5, "seed": 3, "drop_last": True, "streams": streams}
        first = [inputs for inputs, _ in batches(200, 4, **same).epoch(2)]
        again = [inputs for inputs, _ in batches(200, 4, **same).epoch(2)]
        other = [inputs for inputs, _ in batches(200, 4, **same).epoch(4)]
        late = [inputs for inputs, _ in batches(200, 4, **same).epoch(2, start=3)]
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert len(first) == len(other)
        assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(first[3:], late, strict=True))
        parts = [list(batches(200, 4, **same, rank=rank, processes=2).epoch(2)) for rank in (0, 1)]
        for whole, one, two in zip(first, *parts, strict=True):
            assert torch.equal(whole, torch.cat((one[0], two[0])))


def test_training_leaves_out_less_than_a_batch_and_a_length():
    found = batches(1000, 4, length=7, seed=0, drop_last=True)
    assert found.decisions == 28
    assert 1000 - 28 - 7 <= len(found) * 28 <= 999


def test_characters_and_bytes():
    data = TextData.of("rhyme", RHYME + "é")
    assert data.classes == tuple(sorted(set(RHYME + "é")))
    assert decode(encode("the cat é", data.classes, data.unit), data.classes, data.unit) == "the cat é"
    assert data.shape == (100,)
    assert data.facts()["integer_inputs"]
    raw = TextData.of("rhyme", (RHYME + "é").encode())
    assert (len(raw.classes), raw.unit) == (256, "bytes")
    assert decode(encode("né", raw.classes, "bytes"), raw.classes, "bytes") == "né"
    assert decode([195], raw.classes, "bytes") == "�"
    assert raw.sha256 != data.sha256
    with pytest.raises(HypersignError, match=r"must consist of the network's characters .* it has 'z': leave"):
        encode("z", data.classes, data.unit)


def test_files_by_name(tmp_path, monkeypatch):
    file = tmp_path / "rhyme.txt"
    file.write_bytes(("\ufeff" + RHYME).encode())
    data = load(f"text:{file}", length=7)
    assert (len(data.train), len(data.test)) == (int((len(RHYME) + 1) * 0.9), len(RHYME) + 1 - len(data.train))
    assert (data.classes[-1], data.shape) == ("\ufeff", (7,))
    assert load(f"bytes:{file}").unit == "bytes"
    monkeypatch.chdir(tmp_path)
    assert locate("text:rhyme.txt") == f"text:{file}"
    assert locate("war-and-peace") == "war-and-peace"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"must not be empty; this one is"),
        (b"aaaaaaaaaaaaaaaaaaaaaaaaaa", r"two different characters; this one holds only 'a': use another"),
        (b"ab", r"the training part must hold at least 2 characters.*it has 1: use a longer text"),
        (b"abc\xff\xfe" * 20, r"must be a UTF-8 text; byte 3 is none: convert the file, or load bytes:"),
    ],
)
def test_bad_texts(tmp_path, content, message):
    file = tmp_path / "bad.txt"
    file.write_bytes(content)
    with pytest.raises(HypersignError, match=message):
        load(f"text:{file}")
    with pytest.raises(HypersignError, match=r"text:FILE must name a text file; there is no file"):
        load(f"text:{tmp_path / 'absent'}")


def test_bad_arguments():
    with pytest.raises(
        HypersignError, match=r"must hold at least batch_size x length \+ 1 = 21 characters; .* has 20"
    ):
        batches(20, 4, length=5, drop_last=True)
    with pytest.raises(HypersignError, match="at least 2 characters; this one has 1"):
        batches(1, 4)
    with pytest.raises(HypersignError, match=r"tokens of the training part must be integers from 0 to 1; got 9"):
        TextData("bad", TextSplit(torch.arange(10)), TextSplit(torch.zeros(5, dtype=torch.int64)), ("a", "b"))
    with pytest.raises(HypersignError, match=r"tokens must be an int64 tensor of shape \(N,\); got torch.float32"):
        TextSplit(torch.zeros(4))
    data = TextData.of("rhyme", RHYME)
    with pytest.raises(HypersignError, match="flips and crops are for images"):
        data.batches(data.train, 4, augmentation=object())


def test_a_validation_part_of_its_own():
    data = TextData.of("rhyme", RHYME, shares=(0.8, 0.1, 0.1))
    train, validation = data.hold_out(0)
    assert (train, validation) == (data.train, data.validation)
    assert [len(part) for part in data.hold_out(30)] == [len(data.train) - 30, 30]
    assert np.isclose(len(data.train) / len(RHYME), 0.8, atol=0.01)


@pytest.mark.real_data
@pytest.mark.skipif(not GIVEN or not (Path(GIVEN) / "war-and-peace").is_dir(), reason="HYPERSIGN_DATA has no texts")
def test_the_known_texts():
    shakespeare, peace = load("tinyshakespeare"), load("war-and-peace")
    assert [len(part) for part in (shakespeare.train, shakespeare.test)] == [1003854, 111540]
    assert len(shakespeare.classes) == 65
    assert [len(part) for part in (peace.train, peace.validation, peace.test)] == [2606581, 325823, 325823]
    assert len(peace.classes) == 84
    assert peace.classes[-1] == "\ufeff"


def test_spread_sequences_are_whole_windows():
    data = TextData.of("abc", "abcdefghij" * 20, length=7)
    part = data.spread(data.train, 5)
    inputs = torch.cat([x for x, _ in data.batches(part, 50)])
    starts = [i * 5 * 7 for i in range(5)]  # 25 windows, every fifth
    assert torch.equal(inputs, torch.stack([data.train.tokens[s : s + 7] for s in starts]))
    assert data.spread(data.train, 1000) is data.train
