import pytest
import torch
from torch import nn

from hypersign._checks import HypersignError
from hypersign.models import build
from hypersign.runs import read_tensors, write_tensors
from hypersign.training import Recipe
from hypersign.training.checkpoint import Belongs, Counters, load_state, save_state, state_path
from hypersign.training.monitor import negative_signs
from hypersign.training.step import make_optimizer


def parts(seed, **fields):
    """What a run in progress consists of, after two steps."""
    torch.manual_seed(seed)
    model = build("vgg", (3, 8, 8), 10, widths=(4, 5), pools=(1,), hidden=(6,))
    model = model.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(Recipe(**fields), list(model.parameters()))
    for _ in range(2):
        model(torch.randn(4, 3, 8, 8)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    for slots in optimizer.state.values():
        if "step" in slots:
            slots["step"].fill_(COUNTERS.step)
    return model, optimizer, negative_signs(model), torch.rand(2, dtype=torch.float64)


COUNTERS = Counters(epoch=3, batch=7, step=57, seconds=1.5, epoch_seconds=0.25, best_epoch=2, best_score=0.75)


def belongs(**fields):
    """57 steps are two epochs of 25 batches and 7 batches."""
    return Belongs(Recipe(**{"validation": 10, "epochs": 4, **fields}), "da7a", 25)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_everything_comes_back(tmp_path, optimizer):
    saved, loaded = parts(1, optimizer=optimizer), parts(2, optimizer=optimizer)
    save_state(tmp_path, belongs(optimizer=optimizer), COUNTERS, *saved)
    assert load_state(tmp_path, belongs(optimizer=optimizer), *loaded) == COUNTERS
    for left, right in zip(saved[0].state_dict().items(), loaded[0].state_dict().items(), strict=True):
        assert left[0] == right[0]
        assert torch.equal(left[1], right[1])
    for left, right in zip(saved[0].parameters(), loaded[0].parameters(), strict=True):
        ours, theirs = saved[1].state[left], loaded[1].state[right]
        assert ours.keys() == theirs.keys()
        for slot in ours:
            assert torch.equal(ours[slot], theirs[slot])
            # the fused kernels walk through memory: the same order as the weights, or they mix elements up
            assert ours[slot].stride() == theirs[slot].stride()
    for name, signs in saved[2].items():
        assert torch.equal(signs, loaded[2][name])
    assert torch.equal(saved[3], loaded[3])


def test_the_next_step_is_the_same(tmp_path):
    saved, loaded = parts(1), parts(2)
    save_state(tmp_path, belongs(), COUNTERS, *saved)
    load_state(tmp_path, belongs(), *loaded)
    x = torch.randn(4, 3, 8, 8)
    for model, optimizer, *_ in (saved, loaded):
        model(x).square().sum().backward()
        optimizer.step()
    for left, right in zip(saved[0].parameters(), loaded[0].parameters(), strict=True):
        assert torch.equal(left, right)


def test_a_state_that_is_cut_off(tmp_path):
    saved = parts(1)
    save_state(tmp_path, belongs(), COUNTERS, *saved)
    path = state_path(tmp_path)
    content = path.read_bytes()
    for size in (0, 5, 500, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(HypersignError, match=r"state\.safetensors must be a whole safetensors file; .*again"):
            load_state(tmp_path, belongs(), *parts(2))


def test_a_state_that_is_missing(tmp_path):
    with pytest.raises(HypersignError, match=r"state\.safetensors must be a whole safetensors file; No such file"):
        load_state(tmp_path, belongs(), *parts(2))


@pytest.mark.parametrize("what", ["sums", "signs/fc1", "best_epoch"])
def test_a_state_that_lacks_something(tmp_path, what):
    save_state(tmp_path, belongs(), COUNTERS, *parts(1))
    tensors, header = read_tensors(state_path(tmp_path))
    tensors.pop(what, None), header.pop(what, None)
    write_tensors(state_path(tmp_path), tensors, header)
    with pytest.raises(HypersignError, match=f"written by another version: it lacks {what}; train again"):
        load_state(tmp_path, belongs(), *parts(2))


def test_a_state_of_another_network(tmp_path):
    save_state(tmp_path, belongs(), COUNTERS, *parts(1))
    model, optimizer, signs, sums = parts(2)
    model.fc2 = nn.Linear(6, 11)
    with pytest.raises(
        HypersignError,
        match=r"does not fit the network: model/fc2\.bias is missing; .*model/fc2\.weight has shape \(10, 6\), "
        r"the network needs \(11, 6\)",
    ):
        load_state(tmp_path, belongs(), model, optimizer, signs, sums)


def test_a_state_of_version_0_1(tmp_path):
    """It called the best score best_accuracy, and did not say what it belongs to."""
    save_state(tmp_path, belongs(), COUNTERS, *parts(1))
    tensors, header = read_tensors(state_path(tmp_path))
    header["best_accuracy"] = header.pop("best_score")
    del header["belongs"], header["idle"]
    write_tensors(state_path(tmp_path), tensors, header)
    assert load_state(tmp_path, belongs(), *parts(2)) == COUNTERS
