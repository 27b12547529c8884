"""Binary and ternary networks for sequences beside their float twins, side by side on one GPU within a time budget.

    HYPERSIGN_DATA=... python experiments/sequences.py --output runs/sequences --seconds 230 [--device cuda]

Networks, each with two learning rates (the twins have the same two):

- lstm: a character LSTM of 512 units on War and Peace (batches of 64 sequences of 100), float, binary and ternary
  weights, with weight normalisation; and binary weights without it;
- gpt: a transformer of 6 blocks of 384 on tiny Shakespeare (batches of 64 sequences of 256), float and ternary with
  8-bit activations; and ternary with RMS norm before each part only;
- rows: an LSTM of 256 units that reads MNIST row by row, float and binary.

A step of each network is timed first, and the epochs are chosen so that all steps together fit into the budget. All
runs then train at once. The result is one JSON file with each run's settings, epochs, seconds and losses.
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hypersign.models import build

SHARES = {"lstm": 0.5, "gpt": 0.38, "rows": 0.12}
"""Of the budget for steps."""
STEPS = {"lstm": 407, "gpt": 61, "rows": 600}
"""Steps per epoch."""
MOST = {"lstm": 8, "gpt": 40, "rows": 15}
"""The most epochs."""
COMMON = {
    "lstm": "--data war-and-peace --model lstm --hidden 512 --batch-size 64 --gradient-norm 5 --reestimate-images 0",
    "gpt": "--recipe bitnet --precision bf16",
    "rows": "--data mnist --model lstm --hidden 256 --batch-size 100 --gradient-norm 5 --reestimate-images 0",
}
FLOAT = "--weights float --inputs float"
RUNS = {
    **{
        f"lstm-{name}-{rate}": ("lstm", f"{words} --learning-rate {rate}")
        for rate in ("0.004", "0.01")
        for name, words in (
            ("float", FLOAT),
            ("binary", "--weights sign"),
            ("ternary", "--levels 3 --weights ternary:threshold=optimal"),
        )
    },
    "lstm-binary-plain-0.004": ("lstm", "--weights sign:scale=filter --norm none --learning-rate 0.004"),
    **{
        f"gpt-{name}-{rate}": ("gpt", f"{words} --learning-rate {rate}")
        for rate in ("0.001", "0.002")
        for name, words in (("float", f"--method none {FLOAT}"), ("ternary", ""))
    },
    "gpt-ternary-plain-0.001": ("gpt", "--inner-norm False --learning-rate 0.001"),
    "rows-float-0.004": ("rows", f"{FLOAT} --learning-rate 0.004"),
    "rows-binary-0.004": ("rows", "--weights sign --learning-rate 0.004"),
}
TINY = {
    "lstm": "--images 4000 --hidden 16 --batch-size 8",
    "gpt": "--images 4000 --width 16 --blocks 1 --heads 1 --batch-size 4 --length 32 --warmup 0",
    "rows": "--images 500 --hidden 16",
}


def seconds_per_step(kind: str, device: str) -> float:
    """Seconds of a step of the float (lstm, rows) or ternary (gpt) network, forward, backward and update."""
    torch.manual_seed(0)
    if kind == "rows":
        model = build("lstm", (1, 28, 28), 10, hidden=[256], weights="sign")
        inputs, targets = torch.randn(100, 1, 28, 28), torch.randint(10, (100,))
    elif kind == "lstm":
        model = build("lstm", (100,), 84, hidden=[512], weights="sign")
        inputs, targets = torch.randint(84, (64, 100)), torch.randint(84, (64 * 100,))
    else:
        model = build("gpt", (256,), 65, weights="bitnet", inputs="int8", dropout=0.2)
        inputs, targets = torch.randint(65, (64, 256)), torch.randint(65, (64 * 256,))
    model, inputs, targets = model.to(device), inputs.to(device), targets.to(device)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    count, started = 25, 0.0
    for step in range(count):
        if step == 5:
            _wait(device)
            started = time.monotonic()
        with torch.autocast(device, torch.bfloat16, enabled=kind == "gpt"):
            outputs = model(inputs)
        nn.functional.cross_entropy(outputs.float().flatten(0, -2), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    _wait(device)
    return (time.monotonic() - started) / (count - 5)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def epochs(budget: float, device: str) -> tuple[dict[str, int], dict[str, float]]:
    """Epochs of each kind of network, and the seconds per step that they follow from."""
    found, times = {}, {}
    for kind, share in SHARES.items():
        times[kind] = seconds_per_step(kind, device)
        runs = sum(of == kind for of, _ in RUNS.values())
        found[kind] = max(1, min(MOST[kind], int(share * budget / (runs * STEPS[kind] * times[kind]))))
    return found, times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/sequences"))
    parser.add_argument(
        "--seconds", type=float, default=230.0, help="for everything, starts and evaluations included"
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny networks for one epoch, to try the script")
    parser.add_argument("--only", nargs="*", default=None, help="names of runs")
    arguments = parser.parse_args()
    start = time.monotonic()
    arguments.output.mkdir(parents=True, exist_ok=True)
    chosen, times = (dict.fromkeys(SHARES, 1), {}) if arguments.tiny else ({}, {})
    if not arguments.tiny:
        # A third of the budget is for starting, evaluating and what processes cost each other.
        chosen, times = epochs(0.66 * arguments.seconds, arguments.device)
    print("epochs", chosen, "seconds per step", times, f"after {time.monotonic() - start:.0f} s", flush=True)
    names = list(RUNS) if arguments.only is None else arguments.only
    running: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}
    for name in names:
        kind, words = RUNS[name]
        folder = arguments.output / name
        count = min(chosen[kind], 2) if "plain" in name and kind == "lstm" else chosen[kind]
        size = TINY[kind] if arguments.tiny else ""
        command = f"-m hypersign train {COMMON[kind]} {words} --epochs {count} {size}".split()
        log = (arguments.output / f"{name}.log").open("wb")
        command = [sys.executable, *command, "--device", arguments.device, "--output", str(folder)]
        running[name] = (subprocess.Popen(command, stdout=log, stderr=log), folder)
        if arguments.tiny:
            running[name][0].wait()
    deadline = start + arguments.seconds
    for process, _ in running.values():
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            for other, _ in running.values():
                other.send_signal(signal.SIGTERM)
            break
    for process, _ in running.values():
        process.wait(20)
    rows = {name: result(folder, arguments.output / f"{name}.log") for name, (_, folder) in running.items()}
    written = {"seconds": time.monotonic() - start, "epochs": chosen, "seconds_per_step": times, "runs": rows}
    (arguments.output / "sequences.json").write_text(json.dumps(written, indent=1) + "\n")
    for name, row in rows.items():
        print(name, {key: row.get(key) for key in ("finished", "epochs", "test", "validation", "error")}, flush=True)


def result(folder: Path, log: Path) -> dict[str, Any]:
    """What a run gave, and where it stopped if it did."""
    if not (folder / "run.json").exists():
        return {"finished": False, "error": log.read_text()[-300:]}
    info = json.loads((folder / "run.json").read_text())
    metrics = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    for row in rows:
        row.pop("layers", None)
    shutil.rmtree(folder / "state", ignore_errors=True)
    if folder.name.startswith("gpt"):  # 43 MB each
        for name in ("model.safetensors", "best.safetensors"):
            (folder / name).unlink(missing_ok=True)
    (folder / "best.safetensors").unlink(missing_ok=True)
    recipe = {name: value for name, value in info["recipe"].items() if value is not None}
    found = {"finished": info["finished"], "epochs": len(rows), "recipe": recipe, "metrics": rows}
    error = {} if info["finished"] else {"error": log.read_text()[-300:]}
    return {**found, **info["results"], **error}


if __name__ == "__main__":
    main()
