"""Ensembles of binary networks: members are trained on resampled images, and vote."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hypersign._checks import HypersignError, check_choice, check_int
from hypersign._files import make_folder
from hypersign.data import ImageData, Split, fingerprint
from hypersign.data import load as load_data
from hypersign.evaluate import evaluate
from hypersign.models import Ensemble
from hypersign.runs import Run, load, write_tensors
from hypersign.training.loop import InterruptedTrainingError, resume, saved_recipe, train
from hypersign.training.recipe import Recipe
from hypersign.training.setup import DATA_SEED, EVALUATION_BATCH, new_run, recipe_of

__all__ = ["train_ensemble"]


def train_ensemble(
    recipe: Recipe,
    folder: str | Path,
    *,
    members: int,
    scheme: str = "bagging",
    data: ImageData | None = None,
    **how: Any,
) -> Run:
    """Trains networks one after another, and returns the run folder of their ensemble.

    Each member trains on as many images as the recipe has, drawn with replacement with probabilities p:

        bagging:   all p are equal, all votes too
        boosting:  p starts equal;  e = sum of p over the images that the member gets wrong
                   vote = (log((1 - e)/e) + log(classes - 1))/2;  p <- p exp(-vote) where right, p exp(vote) where not

    The ensemble's logits are the members' logits, each times its vote, added up. The term log(classes - 1) is
    SAMME's: with two classes the vote is AdaBoost's; with more it is positive for every member that is better than
    chance. Members are run folders in `folder/members`. After an interruption, the same call continues with the first
    member that is not finished. The ensemble is a run folder like any other: it can be inspected, and packs into one
    file.

    Args:
        recipe: the recipe of each member; the seed of member i is `seed + i`.
        folder: the run folder of the ensemble.
        members: the number of members, 2 to 64.
        scheme: "bagging" or "boosting".
        data: a data set of images made in Python, in place of the recipe's.
        how: the options `device`, `save_seconds` and `console` of `train`.

    Raises:
        HypersignError: a scheme or number that does not exist, data that are no images, a boosted member that is no
            better than chance, a folder that holds members of another ensemble, or the reasons of `train`.

    Source: Zhu, Dong & Su 2019 (BENN, arXiv 1806.07550), algorithm 1; Zhu et al. 2009 (SAMME).
    """
    check_int("members", members, min=2, max=64)
    check_choice("scheme", scheme, ("bagging", "boosting"))
    found = load_data(recipe.data, seed=DATA_SEED) if data is None else data
    if not isinstance(found, ImageData):
        raise HypersignError(f"an ensemble trains on images with labels; {found.name} has none: train one network")
    path = Path(folder)
    if (path / "run.json").exists():
        raise HypersignError(
            f"the run folder must be new, or hold unfinished members; {path} is finished: choose another"
        )
    if path.exists() and not (path.is_dir() and {file.name for file in path.iterdir()} <= {"members"}):
        raise HypersignError(f"the run folder must be new, or hold unfinished members; {path} is not: choose another")
    split = found.hold_out(recipe.validation)[0][: recipe.images]
    p, votes, networks = np.full(len(split), 1 / len(split)), [], []
    for number in range(members):
        one = dataclasses.replace(recipe, seed=recipe.seed + number, validation=0, images=None)
        run = _member(one, path / "members" / str(number), _resampled(found, split, p, one.seed, number), how)
        network = run.load_model()
        networks.append(network)
        votes.append(1 / members)
        if scheme == "boosting":
            right = _right(network, found, split)
            error = float(p[~right].sum())
            votes[-1] = _vote(error, len(found.classes), number)
            p = p * np.exp(np.where(right, -votes[-1], votes[-1]))
            p /= p.sum()
    return _combined(recipe, path, found, networks, votes, scheme, given=data is not None)


def _member(recipe: Recipe, folder: Path, data: ImageData, how: dict[str, Any]) -> Run:
    """A finished member: trained, resumed or loaded."""
    try:
        if not (folder / "run.json").exists():
            return train(recipe, folder, data=data, **how)
        run = load(folder, data=data)
        if recipe_of(run) != saved_recipe(recipe, data) or run.info["data"]["sha256"] != data.sha256:
            raise HypersignError(
                f"{folder} is a member of another ensemble, with another recipe or other images: give the options "
                "that it was started with, or choose another folder"
            )
        return run if run.finished else resume(folder, data=data, **how)
    except InterruptedTrainingError as error:
        raise InterruptedTrainingError(
            f"training stopped in member {folder.name}; its state is saved. To continue, give the same command again"
        ) from error


def _resampled(data: ImageData, split: Split, p: np.ndarray, seed: int, number: int) -> ImageData:
    """The data with training images drawn by their probabilities."""
    rows = torch.from_numpy(np.random.default_rng((seed, number)).choice(len(split), len(split), p=p))
    drawn = Split(split.images[rows], split.labels[rows])
    return dataclasses.replace(data, name=f"{data.name}-{number}", train=drawn, sha256=fingerprint(drawn, data.test))


@torch.no_grad()
def _right(network: nn.Module, data: ImageData, split: Split) -> np.ndarray:
    """Which images of a split the network classifies right."""
    parts = [network(x).argmax(1) == labels for x, labels in data.batches(split, EVALUATION_BATCH)]
    return torch.cat(parts).numpy()


def _vote(error: float, classes: int, number: int) -> float:
    error = min(max(error, 1e-10), 1 - 1e-10)
    vote = (math.log((1 - error) / error) + math.log(max(classes - 1, 1))) / 2
    if vote <= 0:
        raise HypersignError(
            f"a boosted member must be better than chance; member {number} misses {error:.1%} of its weighted "
            "images: train longer, or use bagging"
        )
    return vote


def _combined(
    recipe: Recipe,
    path: Path,
    data: ImageData,
    networks: list[nn.Module],
    votes: list[float],
    scheme: str,
    given: bool,
) -> Run:
    """The ensemble's run folder."""
    run = new_run(recipe, path, data, given=given)
    run.info["model"]["members"] = len(networks)
    run.info["ensemble"] = {"scheme": scheme, "votes": votes}
    make_folder(path)
    model = Ensemble(networks, votes)
    write_tensors(path / "model.safetensors", model.state_dict())
    found = evaluate(model.eval(), data.batches(data.test, EVALUATION_BATCH), task=run.task())
    seconds = sum(load(path / "members" / str(i)).info["results"]["seconds"] for i in range(len(networks)))
    run.update(finished=True, results={"seconds": seconds, "test": found.as_dict(data.unit)})
    return load(path, data=data if given else None)
