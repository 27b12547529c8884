"""Writes stored accuracies and speeds into the places that show them: files of results, cards, README, docs.

    OMP_NUM_THREADS=1 python experiments/publish.py --measure

- A file twins-NAME.json (of twins.py or gpu_accuracy.sh) in docs/results becomes the file of results of this network,
  and its accuracies go to the card.
- --measure times every network of docs/results, packed and its float twin in torch, into bench-results.json: about
  three minutes, on a quiet machine.
- The cards of `hypersign models`, the table in README and the one in docs/gallery.md then show what the files hold.
"""

import argparse
import dataclasses
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from hypersign import pretrained
from hypersign._files import write_atomic
from hypersign._json import write_json

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs/results"
BENCH = RESULTS / "bench-results.json"
FILES = {
    "digits": "digits-demo.json",
    "mnist": "mnist-vgg-binary.json",
    "fashion-mnist": "fashion-mnist-vgg-binary.json",
    "cifar10-quarter": "cifar10-vgg-quarter-binary.json",
}
"""Each network of `hypersign models`, and its file in docs/results."""
NETWORKS = {
    "fashion-mnist-vgg-binary.json": "vgg, 4 convolutions, 32 to 64 filters",
    "cifar10-two-cores.json": "vgg-small, three quarters of its width, trained on bits",
}
"""What README calls the networks that have no row yet."""


def take_twins() -> None:
    """Moves each twins-NAME.json to the file of results of its network, and its accuracies to the card."""
    for name, file in FILES.items():
        path = RESULTS / f"twins-{name}.json"
        if not path.exists():
            continue
        found = json.loads(path.read_text())
        folder = pretrained.folder(name)
        card = pretrained.card(name)
        own = json.loads((folder / "run.json").read_text())
        if found["results"]["test"]["accuracy"] != card.accuracy:
            sys.exit(f"{path}: the run of seed {found['recipe']['seed']} is not the network {name}: other accuracy")
        found["results"]["seconds"] = own["results"]["seconds"]
        card = dataclasses.replace(card, twin_accuracy=found["twin"]["accuracy"], seeds=found["seeds"])
        write_card(folder, card)
        write_json(found, RESULTS / file)
        path.unlink()
        explain(file, card.command)
        print(f"{path.name} -> {file}, card of {name}")


def explain(file: str, command: str) -> None:
    """The command of a file of results, in docs/results/README.md, if it has no row there."""
    path = RESULTS / "README.md"
    text = path.read_text()
    if f"| `{file}` |" not in text:
        head, row = "| `mnist-vgg-binary.json` |", f"| `{file}` | `{command}` |"
        write_atomic(path, text.replace(head, f"{row}\n{head}"))


def write_card(folder: Path, card: pretrained.Card) -> None:
    """The card's two files."""
    write_atomic(folder / "config.json", card.config())
    write_atomic(folder / "README.md", card.text())


def write_speeds(bench: dict[str, Any]) -> None:
    """The speeds of bench-results.json in the cards."""
    for name, file in FILES.items():
        if (row := bench["rows"].get(file)) is None:
            continue
        card = dataclasses.replace(
            pretrained.card(name),
            seconds_per_image=row["packed_seconds_per_image"],
            twin_seconds_per_image=row.get("seconds_per_image"),
            batch=bench["batch"],
            processor=f"{bench['machine']['processor']}, {row['backend']}",
        )
        write_card(pretrained.folder(name), card)


def accuracy(run: dict[str, Any], own: float | None, name: str) -> str:
    """A run's accuracy, and mean and standard deviation over its seeds."""
    if own is None:
        return "not trained"
    text = f"{100 * own:.2f} %"
    if len(run.get("seeds", ())) < 2:
        return text
    values = [100 * row[name] for row in run["seeds"]]
    return f"{text}; {len(values)} seeds {statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def cells(run: dict[str, Any], row: dict[str, Any]) -> list[str]:
    """Accuracy, float twin, size, and speed, as README's table has them."""
    twin = accuracy(run, run["twin"]["accuracy"] if "twin" in run else None, "twin_accuracy")
    fast, slow = row["packed_seconds_per_image"], row.get("seconds_per_image")
    smaller = row["float_bytes"] / row["packed_bytes"]
    return [
        accuracy(run, run["results"]["test"]["accuracy"], "accuracy"),
        "none" if slow is None else twin,
        f"{row['packed_bytes'] / 1000:,.0f} kB" + (f", {smaller:.1f}" if smaller >= 2 else ""),
        f"{fast * 1e6:,.0f}" + (f", {slow / fast:.0f}" if slow else ""),
    ]


def write_readme(bench: dict[str, Any]) -> None:
    """Cells of accuracy, size and speed in README's table; a row for a file that has none."""
    lines = (ROOT / "README.md").read_text().splitlines()
    for file, row in bench["rows"].items():
        run = json.loads((RESULTS / file).read_text())
        at = next((i for i, line in enumerate(lines) if f"(docs/results/{file})" in line), None)
        if at is None:
            at = 1 + max(i for i, line in enumerate(lines) if line.startswith("| mnist |"))
            levels, seconds = {2: "binary", 3: "ternary"}[run["recipe"]["levels"]], run["results"]["seconds"]
            head = [run["data"]["name"], NETWORKS[file], levels, str(run["recipe"]["epochs"])]
            tail = [f"1 of 2 cores\\*, {seconds / 60:.0f} min", f"[{file}](docs/results/{file})"]
            lines.insert(at, "| " + " | ".join([*head, "", "", "", "", *tail]) + " |")
        parts = [part.strip() for part in lines[at].split("|")[1:-1]]
        lines[at] = "| " + " | ".join([*parts[:4], *cells(run, row), *parts[8:]]) + " |"
    write_atomic(ROOT / "README.md", "\n".join(lines) + "\n")


def write_gallery() -> None:
    """Accuracy and size in docs/gallery.md."""
    path = ROOT / "docs/gallery.md"
    text = path.read_text()
    for name in FILES:
        card = pretrained.card(name)
        twin = "not trained" if card.twin_accuracy is None else f"{100 * card.twin_accuracy:.2f} %"
        row = f"{100 * card.accuracy:.2f} % | {twin} | {max(len(card.seeds), 1)} | {card.packed_bytes:,} bytes"
        text = re.sub(rf'(\| \[`{name}`\]\(pretrained\.md\) \|) .* (\| <a href="gallery/)', rf"\1 {row} \2", text)
    write_atomic(path, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure the speeds again")
    words = parser.parse_args()
    take_twins()
    files = {file.name for file in RESULTS.glob("*.json") if {"recipe", "model"} <= set(json.loads(file.read_text()))}
    missing = files - set(json.loads(BENCH.read_text())["rows"])
    if words.measure or missing:
        only = [] if words.measure else ["--only", *sorted(missing)]
        command = [sys.executable, str(ROOT / "benchmarks/bench_results.py"), "--json", str(BENCH), *only]
        subprocess.run(command, check=True)
    bench = json.loads(BENCH.read_text())
    write_speeds(bench)
    write_readme(bench)
    write_gallery()


if __name__ == "__main__":
    main()
