"""The best binary network that a time budget on one GPU trains: chosen, trained, packed, read from the packed file.

    HYPERSIGN_DATA=... python experiments/gpu_accuracy.py vgg-small --seconds 600 [--device cuda]

1. Each candidate method trains for a few epochs without the last 5,000 training images, all at once. The one that is
   best on these wins. Test images play no part in the choice.
2. Two epochs are timed, and the number of epochs follows from what is left of the budget.
3. The winner trains on all 50,000 images for this number of epochs.
4. The run is packed, and the accuracy on the test images is that of the packed file.

The trained network is the last epoch's, one network, without test-time augmentation. The JSON has the trials, the
recipe, the accuracy in torch and packed, and the published figure beside it. experiments/gpu_accuracy.sh runs several
networks at once.
"""

import argparse
import dataclasses
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from hypersign import HypersignError, summary
from hypersign._json import write_json
from hypersign._machine import machine, versions
from hypersign.packed import PackedModel
from hypersign.packing import pack
from hypersign.runs import Run, load
from hypersign.training import Recipe, train

CLOSING = 45.0
"""Seconds for loading, packing, and reading the packed file."""


@dataclasses.dataclass(frozen=True)
class Network:
    """A network, the methods that compete for it, and what was published."""

    options: dict[str, Any]
    candidates: dict[str, dict[str, Any]]
    """Options of each candidate beside its method's own."""
    published: str


_SGD = {"optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 5e-4, "warmup": 2}
_ADAM = {"optimizer": "adam", "learning_rate": 4e-3, "schedule": "cosine"}
_CANDIDATES: dict[str, dict[str, Any]] = {
    "adabin": {**_SGD, "weight_decay": 1e-4},
    "recu": _SGD,
    "reste": {**_SGD, "weight_decay": 1e-4},
    "reactnet": _ADAM,
}
_FORMS = {"adabin": "adabin", "recu": "recu"}
_RESIDUAL = {method: {**options, "form": _FORMS.get(method, "bi-real")} for method, options in _CANDIDATES.items()}
NETWORKS = {
    "vgg-small": Network(
        {"model": "vgg-small"},
        {method: _CANDIDATES[method] for method in ("recu", "reste", "reactnet")},
        "92.2 ReCU, 92.3 AdaBin (400 to 600 epochs), 92.55 ReSTE (1000 epochs)",
    ),
    "vgg": Network(
        {"model": "vgg"},
        {"bnn": {**_ADAM, "loss": "cross-entropy"}},
        "88.6 BNN (500 epochs), 91.3 Bop (500 epochs)",
    ),
    "resnet20": Network(
        {"model": "resnet20"}, _RESIDUAL, "86.5 IR-Net, 87.5 ReCU, 87.9 ReSTE, 88.2 AdaBin (400 to 1000 epochs)"
    ),
    "resnet18": Network({"model": "resnet18"}, {"recu": _RESIDUAL["recu"]}, "92.8 ReCU, 93.1 AdaBin"),
}


def recipe_of(network: str, method: str, epochs: int, arguments: argparse.Namespace, **options: Any) -> Recipe:
    """The recipe of a network and method: the method's own training, at batches of 256 in bfloat16."""
    chosen = NETWORKS[network]
    base = Recipe(data=arguments.data)
    sizes = {"images": arguments.images, "batch_size": 256, "epochs": epochs, "precision": arguments.precision}
    fixed = {"loss": "cross-entropy", "compile": arguments.compile, "final_learning_rate": 0.0}
    return Recipe.of(method, base, **{**chosen.options, **sizes, **fixed, **chosen.candidates[method], **options})


def trained(recipe: Recipe, folder: Path, arguments: argparse.Namespace) -> Run:
    """The finished run in `folder`."""
    return train(recipe, folder, device=arguments.device, console=Console(quiet=True))


def trial(method: str, arguments: argparse.Namespace) -> Run:
    """A short run without the held-back images."""
    recipe = recipe_of(
        arguments.network, method, arguments.trial_epochs, arguments, validation=arguments.held_back, compile=False
    )
    return trained(recipe, arguments.folder / f"{arguments.network}-trial-{method}", arguments)


def trials(arguments: argparse.Namespace) -> dict[str, float]:
    """The accuracy of each candidate on the held-back images; the candidates train side by side, once."""
    methods = arguments.candidates
    if len(methods) < 2:
        return {}
    new = [m for m in methods if not (arguments.folder / f"{arguments.network}-trial-{m}").exists()]
    commands = [[sys.executable, *sys.argv, "--trial", method] for method in new]
    processes = [subprocess.Popen(command) for command in commands]
    for process in processes:
        process.wait()
    found = {}
    for method in methods:
        folder = arguments.folder / f"{arguments.network}-trial-{method}"
        if (folder / "run.json").exists() and (run := load(folder)).finished:
            found[method] = float(run.info["results"]["validation"]["accuracy"])
    return found


def epoch_seconds(method: str, arguments: argparse.Namespace) -> float:
    """The time of the second of two epochs; compiled if that works on this machine."""
    folder = arguments.folder / f"{arguments.network}-timed"
    try:
        run = trained(recipe_of(arguments.network, method, 2, arguments), folder, arguments)
    except Exception as error:
        if not arguments.compile:
            raise
        print(f"not compiled: {error!r:.500}", flush=True)
        arguments.compile = False
        run = trained(
            recipe_of(arguments.network, method, 2, arguments), folder.with_name(f"{folder.name}-2"), arguments
        )
    first, second = (row["seconds"] for row in run.metrics())
    return float(second - first)


def packed(run: Run, file: Path, threads: int) -> dict[str, Any]:
    """The packed file, and its accuracy on all test images; or why there is none."""
    try:
        pack(run, file)
    except HypersignError as error:
        return {"packed_refused": str(error)}
    network, test = PackedModel.load(file), run.data().test
    images, labels = test.images.numpy(), test.labels.numpy()
    decided = network.decide(network.predict(images, batch_size=500, threads=threads))
    return {"packed_accuracy": float((decided == labels).mean()), "packed_bytes": file.stat().st_size}


def main() -> None:
    arguments = parsed()
    torch.set_num_threads(1)
    if arguments.trial is not None:
        run = trial(arguments.trial, arguments)
        print(
            arguments.trial, run.info["results"]["validation"]["accuracy"], f"{run.info['results']['seconds']:.1f} s"
        )
        return
    end = time.monotonic() + arguments.seconds
    arguments.results.mkdir(parents=True, exist_ok=True)
    found = trials(arguments)
    winner = max(found, key=lambda method: found[method]) if found else arguments.candidates[0]
    each = epoch_seconds(winner, arguments)
    fitting = int((end - time.monotonic() - CLOSING) / each * arguments.share)
    epochs = max(1, min(fitting, arguments.most))
    print(f"{winner}: {found}, {each:.2f} s per epoch, {epochs} epochs", flush=True)
    recipe = recipe_of(arguments.network, winner, epochs, arguments)
    run = trained(recipe, arguments.folder / arguments.network, arguments)
    parts = summary(run).as_dict()
    result = {
        "benchmark": "gpu-accuracy",
        "network": arguments.network,
        "published": NETWORKS[arguments.network].published,
        "held_back": {"images": arguments.held_back, "epochs": arguments.trial_epochs, "accuracy": found},
        "recipe": recipe.as_dict(),
        "accuracy": run.info["results"]["test"]["accuracy"],
        "binary_share_of_macs": parts["binary_share"],
        "training_seconds": run.info["results"]["seconds"],
        "budget_seconds": arguments.seconds,
        "curve": [{key: row[key] for key in ("epoch", "seconds", "loss", "accuracy")} for row in run.metrics()],
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "machine": machine(),
        "versions": versions("torch", "numpy"),
    }
    file = arguments.results / f"gpu-accuracy-{arguments.network}.json"
    write_json(result, file)  # before packing, which takes a while
    result |= packed(run, arguments.folder / f"{arguments.network}.hypersign", arguments.threads)
    write_json(result, file)
    print({key: value for key, value in result.items() if key in ("accuracy", "packed_accuracy", "packed_refused")})


def parsed() -> argparse.Namespace:
    """The command's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=list(NETWORKS))
    parser.add_argument("--seconds", type=float, default=600, help="budget (default 600)")
    parser.add_argument("--candidates", nargs="+", metavar="METHOD", help="default: all of the network")
    parser.add_argument("--trial-epochs", type=int, default=8, help="epochs that decide (default 8)")
    parser.add_argument("--held-back", type=int, default=5000, help="training images that decide (default 5000)")
    parser.add_argument("--most", type=int, default=400, help="epochs at most (default 400)")
    parser.add_argument("--share", type=float, default=0.95, help="of the time left that epochs are planned for")
    parser.add_argument("--data", default="cifar-10")
    parser.add_argument("--images", type=int, help="training images (default: all)")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="bf16")
    parser.add_argument("--compile", action="store_true", help="compile the training step")
    parser.add_argument("--device", default="cuda", help="cuda (default) or cpu")
    parser.add_argument("--threads", type=int, default=4, help="threads that read the packed file (default 4)")
    parser.add_argument("--folder", type=Path, default=Path("runs/gpu"), help="of the runs; new or empty")
    parser.add_argument("--results", type=Path, default=Path("docs/results"), help="folder of the JSON file")
    parser.add_argument("--trial", metavar="METHOD", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.candidates = arguments.candidates or list(NETWORKS[arguments.network].candidates)
    return arguments


if __name__ == "__main__":
    main()
