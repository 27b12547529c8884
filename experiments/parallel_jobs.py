"""Runs shell commands side by side within a time budget, in the order of a file.

    python experiments/parallel_jobs.py JOBS --slots 12 --seconds 600 --logs runs/logs

Each line of JOBS is `name: command`, or `name xN: command` for a job that takes N slots; empty lines and lines that
start with # are ignored. `{left}` in a command becomes the seconds that are left when it starts. At the end of the
budget, running jobs get SIGTERM (a training run saves its state then) and 8 seconds later SIGKILL; jobs that have not
started are left out. The output of each job is a file in --logs, and jobs.json there has the seconds and the exit
status of each.
"""

import argparse
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from hypersign._json import write_json

GRACE = 8.0
"""Seconds between SIGTERM and SIGKILL."""


def jobs_of(text: str) -> list[tuple[str, int, str]]:
    """Names, slots and commands, in order."""
    lines = [line.strip() for line in text.splitlines()]
    pairs = [line.split(":", 1) for line in lines if line and not line.startswith("#")]
    split = [(*head.partition(" x"), command.strip()) for head, command in pairs]
    return [(name.strip(), int(slots or 1), command) for name, _, slots, command in split]


def start(name: str, command: str, left: float, logs: Path) -> subprocess.Popen:
    """Starts a job in a process group of its own."""
    with open(logs / f"{name}.log", "w") as log:
        return subprocess.Popen(
            command.replace("{left}", f"{left:.0f}"), shell=True, stdout=log, stderr=log, start_new_session=True
        )


def end(running: dict[str, tuple[subprocess.Popen, float]]) -> None:
    """Asks the running jobs to stop, and kills those that do not."""
    for process, _ in running.values():
        os.killpg(process.pid, signal.SIGTERM)
    end = time.monotonic() + GRACE
    while time.monotonic() < end and any(process.poll() is None for process, _ in running.values()):
        time.sleep(0.1)
    for process, _ in running.values():
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs", type=Path, help="file of `name: command` lines")
    parser.add_argument("--slots", type=int, default=os.cpu_count(), help="jobs at once (default: all cores)")
    parser.add_argument("--seconds", type=float, default=600, help="time budget (default 600)")
    parser.add_argument("--logs", type=Path, default=Path("runs/logs"), help="folder of the jobs' output")
    arguments = parser.parse_args()

    arguments.logs.mkdir(parents=True, exist_ok=True)
    waiting = jobs_of(arguments.jobs.read_text())
    running: dict[str, tuple[subprocess.Popen, float]] = {}
    taken: dict[str, int] = {}
    rows: list[dict[str, Any]] = []
    began = time.monotonic()

    def finish() -> None:
        for name, (process, started) in list(running.items()):
            if process.poll() is not None:
                now = time.monotonic()
                row = {"job": name, "start": started - began, "seconds": now - started, "status": process.returncode}
                rows.append(row)
                print("{job}: status {status}, {seconds:.0f} s from {start:.0f} s".format(**row), flush=True)
                del running[name]

    while waiting or running:
        left = arguments.seconds - (time.monotonic() - began)
        if left <= 0:
            break
        while waiting and (not running or sum(taken[name] for name in running) + waiting[0][1] <= arguments.slots):
            name, taken[name], command = waiting.pop(0)
            running[name] = start(name, command, left, arguments.logs), time.monotonic()
        time.sleep(0.1)
        finish()
    end(running)
    finish()
    write_json({"jobs": rows, "not_started": [name for name, *_ in waiting]}, arguments.logs / "jobs.json")
    for name, *_ in waiting:
        print(f"{name}: not started")


if __name__ == "__main__":
    main()
