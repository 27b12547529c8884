"""What do low bits cost, and how sure is that? A run and its float twin, trained with several seeds.

    python experiments/twins.py runs/demo --seeds 3 --json docs/results/digits-demo.json

Seed s of the run is trained into runs/demo-seed-s, its twin into the folder twin/ in it. Several processes may each
train one seed (--only SEED); a last call without it writes the JSON. The JSON is that of
`hypersign info`, with a list `seeds`: the accuracy of both networks for each seed.
"""

import argparse
import dataclasses
import statistics
from pathlib import Path

import torch
from rich.console import Console

import hypersign
from hypersign import study
from hypersign._json import write_json
from hypersign.runs import Run
from hypersign.training import resume


def trained(run: Run, seed: int, device: str, console: Console) -> Run:
    """The run with another seed, and its twin; what is there already is not trained again."""
    if seed != run.info["recipe"]["seed"]:
        recipe = dataclasses.replace(hypersign.Recipe(**run.info["recipe"]), seed=seed)
        folder = run.path.with_name(f"{run.name}-seed-{seed}")
        begun = (folder / "run.json").exists()
        run = (
            resume(folder, device=device)
            if begun
            else hypersign.train(recipe, folder, device=device, console=console)
        )
    return run if "twin" in run.info else study.train_twin(run, device=device, console=console)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    parser.add_argument("--only", type=int, metavar="SEED", help="train this seed's run and twin, and stop")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to FILE")
    parser.add_argument("--device", default="cpu", help="device that trains (default cpu)")
    words = parser.parse_args()
    torch.set_num_threads(1)
    console, first = Console(stderr=True), hypersign.load(words.run)
    if words.only is not None:
        trained(first, words.only, words.device, console)
        return
    run = trained(first, first.info["recipe"]["seed"], words.device, console)
    runs = [trained(run, seed, words.device, console) for seed in range(words.seeds)]
    seeds = [
        {
            "seed": found.info["recipe"]["seed"],
            "accuracy": found.info["results"]["test"]["accuracy"],
            "twin_accuracy": found.info["twin"]["accuracy"],
        }
        for found in runs
    ]
    write_json(
        {
            **run.info,
            "summary": hypersign.summary(run).as_dict(),
            "metrics": run.metrics(),
            "seeds": seeds,
        },
        words.json,
    )
    for name in ("accuracy", "twin_accuracy"):
        values = [row[name] for row in seeds]
        spread = statistics.stdev(values) if len(values) > 1 else float("nan")
        print(f"{name}: {statistics.mean(values):.2%} ± {spread:.2%} over {len(values)} seeds")


if __name__ == "__main__":
    main()
