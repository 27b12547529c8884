"""States that do not fit are refused in one sentence: the fused optimizers would read and write outside of memory."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hypersign._checks import HypersignError
from hypersign.models import build
from hypersign.runs import load, read_tensors, write_tensors
from hypersign.training import Recipe, loop, resume
from hypersign.training.checkpoint import Belongs, Counters, load_state, save_state, state_path
from hypersign.training.loop import InterruptedTrainingError
from hypersign.training.monitor import negative_signs
from hypersign.training.step import make_optimizer

BATCHES = 5
COUNTERS = Counters(epoch=2, batch=3, step=8, seconds=1.5, epoch_seconds=0.25, best_epoch=1, best_score=0.75)


Parts = tuple[nn.Module, torch.optim.Optimizer, dict[str, torch.Tensor], torch.Tensor]


def belongs(**fields: Any) -> Belongs:
    return Belongs(Recipe(**{"validation": 10, "epochs": 3, **fields}), "da7a", BATCHES)  # type: ignore[arg-type]


def parts(seed: int, **fields: Any) -> Parts:
    torch.manual_seed(seed)
    model = build("vgg", (1, 8, 8), 4, widths=(3, 5), pools=(1,), hidden=(6,)).to(memory_format=torch.channels_last)
    optimizer = make_optimizer(Recipe(**fields), list(model.parameters()))
    for _ in range(COUNTERS.step):
        step(model, optimizer)
    return model, optimizer, negative_signs(model), torch.tensor([3.5, 60.0], dtype=torch.float64)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model(torch.randn(4, 1, 8, 8)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.fixture(params=["adam", "sgd"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Belongs]:
    owner = belongs(optimizer=request.param)
    save_state(tmp_path, owner, COUNTERS, *parts(1, optimizer=request.param))
    return tmp_path, owner


def edited(folder: Path, edit: Any) -> None:
    tensors, header = read_tensors(state_path(folder))
    edit(tensors, header)
    write_tensors(state_path(folder), tensors, header)


def slots(tensors: dict[str, torch.Tensor], ending: str = "") -> list[str]:
    return [n for n in tensors if n.startswith("optimizer/") and not n.endswith("/step") and n.endswith(ending)]


def put(name: str, value: Any) -> Any:
    return lambda tensors, header: tensors.update({name: value(tensors.get(name)) if callable(value) else value})


def each_slot(change: Any) -> Any:
    return lambda tensors, header: tensors.update({name: change(tensors[name]) for name in slots(tensors)})


def count(**values: Any) -> Any:
    return lambda tensors, header: header.update(values)


def drop(ending: str) -> Any:
    return lambda tensors, header: [tensors.pop(name) for name in list(tensors) if name.endswith(ending)]


EDITS = {
    "moments of one number": (each_slot(lambda t: torch.zeros(1)), "has shape"),
    "scalar moments": (each_slot(lambda t: torch.zeros(())), r"has shape \(\)"),
    "larger moments": (each_slot(lambda t: torch.zeros(1000, 1000)), "has shape"),
    "moments of as many numbers": (each_slot(lambda t: t.flatten()[:, None].contiguous()), "has shape"),
    "empty moments": (each_slot(lambda t: torch.zeros(0)), r"has shape \(0,\)"),
    "integer moments": (each_slot(lambda t: t.int()), "is torch.int32, the network needs torch.float32"),
    "NaN": (each_slot(lambda t: t * torch.nan), "has numbers that no training gives"),
    "slots of one parameter missing": (lambda t, h: [t.pop(n) for n in list(t) if "/fc1.weight/" in n], "is missing"),
    "all slots missing": (lambda t, h: [t.pop(n) for n in list(t) if n.startswith("optimizer/")], "is missing"),
    "unknown slot": (put("optimizer/fc1.weight/max_exp", torch.zeros(6, 80)), "has no place"),
    "slot of nothing": (put("optimizer/fc9.weight/exp_avg", torch.zeros(6)), "has no place"),
    "slot without a name": (put("optimizer/x", torch.zeros(6)), "has no place"),
    "unknown group": (put("other/x", torch.zeros(6)), "has no place"),
    "unknown signs": (put("signs/fc9", torch.zeros(6, dtype=torch.uint8)), "has no place"),
    "short signs": (put("signs/fc1", lambda t: t[:-1].clone()), "signs/fc1 has shape"),
    "signs of a type": (put("signs/fc1", lambda t: t.float()), "signs/fc1 is torch.float32"),
    "weights missing": (drop("fc1.weight"), "model/fc1.weight is missing"),
    "weights of a shape": (put("model/fc1.weight", lambda t: t.T.contiguous()), "model/fc1.weight has shape"),
    "integer weights": (put("model/fc1.weight", lambda t: t.int()), "model/fc1.weight is torch.int32"),
    "infinite weights": (put("model/fc1.weight", lambda t: t / 0), "model/fc1.weight has numbers"),
    "three sums": (put("sums", torch.zeros(3)), "sums has shape"),
    "integer sums": (put("sums", torch.zeros(2, dtype=torch.int64)), "sums is torch.int64"),
    "NaN sums": (put("sums", torch.tensor([torch.nan, 1.0])), "sums has numbers"),
    "sums of no batch": (count(batch=0, step=5), "sums must be 0 at the start of an epoch"),
    "epoch 0": (count(epoch=0, step=-2), "epoch must be an integer from 1 to 4; got 0"),
    "epoch past the last": (count(epoch=5), "epoch must be an integer from 1 to 4; got 5"),
    "epoch no integer": (count(epoch=2.0), "epoch must be an integer"),
    "epoch as text": (count(epoch="2"), "epoch must be an integer"),
    "batch past the epoch": (count(batch=6, step=11), "batch must be an integer from 0 to 5; got 6"),
    "batch below 0": (count(batch=-1, step=4), "batch must be"),
    "batch after the end": (count(epoch=4, batch=1, step=16), "batch must be an integer from 0 to 0"),
    "another step": (count(step=9), "step, after 1 epochs and 3 batches, must be an integer from 8 to 8; got 9"),
    "NaN seconds": (count(seconds=float("nan")), "seconds must be a number"),
    "infinite seconds": (count(epoch_seconds=float("inf")), "epoch_seconds must be a number"),
    "negative seconds": (count(seconds=-1), "seconds must be a number"),
    "best epoch to come": (count(best_epoch=2), "best_epoch must be an integer from 0 to 1"),
    "NaN score": (count(best_score=float("nan")), "best_score must be a number"),
    "score as text": (count(best_score="1"), "best_score must be a number"),
    "idle parameters that are not": (count(idle=["fc1.weight"]), "optimizer/fc1.weight/.* has no place"),
    "seed": (lambda t, h: h["belongs"]["recipe"].update(seed=3), "another run: seed is 3 there and 0 here"),
    "data": (lambda t, h: h["belongs"].update(data="0"), "another run: the data are others"),
    "unknown option": (lambda t, h: h["belongs"]["recipe"].update(z=1), "'z' is no part of this recipe"),
    "belongs to nothing": (count(belongs=3), "must say which recipe it belongs to"),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_state_that_does_not_fit(state: tuple[Path, Belongs], name: str) -> None:
    folder, owner = state
    edit, message = EDITS[name]
    edited(folder, edit)
    loaded = parts(2, optimizer=owner.recipe.optimizer)
    before = snapshot(loaded)
    with pytest.raises(HypersignError, match=message):
        load_state(folder, owner, *loaded)
    assert all(torch.equal(a, b) for a, b in zip(before, snapshot(loaded), strict=True))  # nothing was loaded


def test_adams_own_slots(tmp_path: Path) -> None:
    save_state(tmp_path, belongs(), COUNTERS, *parts(1))
    content = state_path(tmp_path).read_bytes()
    for edit, message in (
        (drop("/step"), "step is missing"),
        (drop("fc1.weight/exp_avg_sq"), "optimizer/fc1.weight/exp_avg_sq is missing"),
        (put("optimizer/fc1.weight/step", torch.zeros(6, 80)), r"step has shape .*needs \(\)"),
        (put("optimizer/fc1.weight/step", torch.tensor(9.0)), "fc1.weight/step is 9, and the run is at step 8"),
        (put("optimizer/fc1.weight/step", torch.tensor(0.0)), "fc1.weight/step is 0, and"),
        (put("optimizer/fc1.weight/step", torch.tensor(1.5)), "fc1.weight/step is 1.5, and"),
        (put("optimizer/fc1.weight/step", torch.tensor(torch.nan)), "fc1.weight/step is nan, and"),
        (put("optimizer/fc1.weight/exp_avg_sq", lambda t: -t), "exp_avg_sq has numbers"),
    ):
        state_path(tmp_path).write_bytes(content)
        edited(tmp_path, edit)
        with pytest.raises(HypersignError, match=message):
            load_state(tmp_path, belongs(), *parts(2))
    state_path(tmp_path).write_bytes(content)
    edited(tmp_path, put("optimizer/fc1.weight/exp_avg_sq", lambda t: t / 0))  # which a long run may have
    edited(tmp_path, put("optimizer/fc1.weight/exp_avg_sq", lambda t: t.nan_to_num(0)))
    load_state(tmp_path, belongs(), *parts(2))


@pytest.mark.parametrize("fields", [{"optimizer": "sgd"}, {"seed": 1}, {"batch_size": 51}, {"epochs": 4}])
def test_a_state_of_another_recipe(tmp_path: Path, fields: dict[str, Any]) -> None:
    save_state(tmp_path, belongs(), COUNTERS, *parts(1))
    (name,) = fields
    message = rf"belongs to another run: {name} is .* there and .* here; restore the state of this run"
    with pytest.raises(HypersignError, match=message):
        load_state(tmp_path, belongs(**fields), *parts(2, optimizer=fields.get("optimizer", "adam")))


def test_a_state_that_does_not_say_what_it_belongs_to(state: tuple[Path, Belongs]) -> None:
    folder, owner = state
    edited(folder, lambda tensors, header: header.pop("belongs"))
    assert load_state(folder, owner, *parts(2, optimizer=owner.recipe.optimizer)) == COUNTERS


def test_where_the_data_lie_does_not_matter(tmp_path: Path) -> None:
    save_state(tmp_path, belongs(data="here"), COUNTERS, *parts(1))
    assert load_state(tmp_path, belongs(data="there"), *parts(2)) == COUNTERS


def test_a_folder_in_the_place_of_the_state(tmp_path: Path) -> None:
    state_path(tmp_path).mkdir(parents=True)
    with pytest.raises(HypersignError, match="must be a whole safetensors file; it is not a file"):
        load_state(tmp_path, belongs(), *parts(2))


def snapshot(loaded: Parts) -> list[torch.Tensor]:
    model, optimizer, signs, sums = loaded
    kept = [value for kept in optimizer.state.values() for value in kept.values()]
    return [t.detach().clone() for t in (*model.state_dict().values(), *kept, *signs.values(), sums)]


# Random mutations


def test_mutated_states_are_refused_or_loaded_rightly(tmp_path: Path, mutations: Any) -> None:
    mutators = {}
    for optimizer in ("adam", "sgd"):
        save_state(tmp_path, belongs(optimizer=optimizer), COUNTERS, *parts(1, optimizer=optimizer))
        mutators[optimizer] = mutations.Mutator(state_path(tmp_path).read_bytes())
    fresh = {optimizer: parts(2, optimizer=optimizer) for optimizer in mutators}

    def load(optimizer: str) -> None:
        model, rule, signs, sums = fresh[optimizer]
        counters = load_state(tmp_path, belongs(optimizer=optimizer), model, rule, signs, sums)
        tensors, _ = read_tensors(state_path(tmp_path))
        assert counters.step == COUNTERS.step
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, tensors[f"model/{name}"].to(tensor.dtype)), name
        for name, parameter in model.named_parameters():
            for slot, value in rule.state[parameter].items():
                assert torch.equal(value, tensors[f"optimizer/{name}/{slot}"].to(value.dtype)), (name, slot)
                assert slot == "step" or value.stride() == parameter.stride()
        step(model, rule)

    count = mutations.cases(200)
    for optimizer, mutator in mutators.items():
        refused = mutations.refusals(state_path(tmp_path), mutator.mutated, lambda _, o=optimizer: load(o), count)
        assert count // 2 < refused < count


# Through `resume`


def stop_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Lets a training stop behind its step of this number."""
    monkeypatch.setattr(loop._Training, "_asked", lambda self: (self.state.counters.step == number, False))


@pytest.fixture
def stopped(mlp: Any, quiet: Any, train_quietly: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was interrupted in its second epoch, with the best weights of the first."""
    stop_at(monkeypatch, 3)
    with pytest.raises(InterruptedTrainingError):
        train_quietly(mlp(validation=20, batch_size=50), "run")
    stop_at(monkeypatch, 0)
    return tmp_path / "run"


def test_resume_refuses_moments_of_another_shape(stopped: Path, quiet: Any) -> None:
    edited(stopped, each_slot(lambda t: torch.zeros(1)))
    with pytest.raises(HypersignError, match=r"exp_avg has shape \(1,\), the network needs"):
        resume(stopped, **quiet)


def test_resume_refuses_the_state_of_another_run(stopped: Path, quiet: Any) -> None:
    run = load(stopped)
    run.update(recipe={**run.info["recipe"], "seed": 7})
    with pytest.raises(HypersignError, match="belongs to another run: seed is 0 there and 7 here"):
        resume(stopped, **quiet)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("fc1.weight"), "fc1.weight is missing"),
        (lambda t: t.update({"fc1.weight": torch.zeros(3)}), r"fc1.weight has shape \(3,\)"),
        (lambda t: t.update({"fc1.weight": t["fc1.weight"].int()}), "fc1.weight is torch.int32"),
        (lambda t: t.update(x=torch.zeros(3)), "x has no place"),
    ],
)
def test_resume_refuses_best_weights_that_do_not_fit(stopped: Path, quiet: Any, change: Any, message: str) -> None:
    tensors, _ = read_tensors(stopped / "best.safetensors")
    change(tensors)
    write_tensors(stopped / "best.safetensors", tensors)
    with pytest.raises(HypersignError, match=rf"best\.safetensors does not fit the network: {message}"):
        resume(stopped, **quiet)


KINDS: list[dict[str, Any]] = [
    {"optimizer": "adamw", "weight_decay": 1e-4},
    {"optimizer": "sgd", "adam_epsilon": "corrected"},
    {"adam_epsilon": "uncorrected"},
    {"weight_scale": "filter", "norm_scale": True},
    {"continuous": True, "float_weights": ("fc1",)},
    {"first_layer": "thermometer", "first_dimensions": 4},
    {"first_layer": "hadamard", "first_dimensions": 16},
    {"model": "resnet20", "widths": (2, 2, 2), "pools": None, "hidden": None},
    {"model": "fast-transform", "widths": None, "pools": None, "hidden": (64,)},
    {"model": "associative-memory", "widths": None, "pools": None, "hidden": (64,)},
    {"model": "mlp", "widths": None, "pools": None, "levels": 3, "surrogate": "tanh"},
    {"precision": "bf16"},
    {"flip": True, "crop_padding": 1, "gradient_clip": None},
]


@pytest.mark.parametrize("fields", KINDS, ids=str)
def test_every_kind_of_run_is_resumed(
    vgg: Any, quiet: Any, train_quietly: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    """Stopped after every step, by turns within an epoch and at its end: each state fits its run."""
    recipe = vgg(validation=10, images=50, reestimate_images=50, **fields)
    for step in (1, 2, 3, 4):
        stop_at(monkeypatch, step)
        with pytest.raises(InterruptedTrainingError):
            train_quietly(recipe, "run") if step == 1 else resume(tmp_path / "run", **quiet)
    stop_at(monkeypatch, 0)
    assert resume(tmp_path / "run", **quiet).finished


class Idle(nn.Module):
    """A network with a parameter that no loss depends on, and one that does not train."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(64, 10), nn.Linear(3, 3)
        self.fixed = nn.Parameter(torch.ones(10), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x.flatten(1)) * self.fixed


def test_parameters_without_moments(
    quiet: Any, train_quietly: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(epochs=2, images=100, batch_size=50, loss="cross-entropy", reestimate_images=0)
    stop_at(monkeypatch, 3)
    with pytest.raises(InterruptedTrainingError):
        train_quietly(recipe, "run", model=Idle)
    folder, again = tmp_path / "run", tmp_path / "again"
    shutil.copytree(folder, again)
    stop_at(monkeypatch, 0)
    assert resume(folder, **quiet, model=Idle).finished
    edited(again, drop("used.weight/exp_avg"))
    with pytest.raises(HypersignError, match=r"optimizer/used\.weight/exp_avg is missing"):
        resume(again, **quiet, model=Idle)
