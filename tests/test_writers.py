"""Commands that are killed at any moment, and commands that write to one target at once, in real processes.

Few of each by default; with HYPERSIGN_LONG, as `.ci/long` sets it, 20 pairs of writers and 100 kills.
"""

import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from hypersign._files import is_part
from hypersign._locks import is_lock, writing_file, writing_folder
from hypersign.runs import load

LONG = "HYPERSIGN_LONG" in os.environ
PAIRS = 20 if LONG else 3
KILLS = 17 if LONG else 2  # of each of the six commands

# Imports once, then forks a process for each command: the real one, without seconds of imports each time.
NURSERY = """
    import dataclasses, hashlib, io, json, os, signal, sys, tarfile, time
    import numpy as np
    import accelerate, jinja2, sklearn.datasets, torch, torch._dynamo
    import hypersign.cli.data, hypersign.cli.hash, hypersign.cli.inspect, hypersign.cli.pack, hypersign.cli.train
    import hypersign.hashing.hasher, hypersign.packing, hypersign.study, hypersign.summaries, hypersign.training.loop
    from hypersign.cli import main
    from hypersign.data import load
    from hypersign.data.sources import SOURCES, Stored
    load("digits")
    torch.set_num_threads(1)
    hypersign.hashing.hasher.BLOCK = 64 * 20  # many blocks, so many moments

    given = os.environ["HYPERSIGN_DATA"]
    real, drawn = SOURCES["cifar-10"], np.random.default_rng(1)
    contents = {file.name: drawn.bytes(3073 * 40) for file in real.files}
    os.makedirs(f"{given}/cifar-10")
    with tarfile.open(f"{given}/cifar-10/{real.archives[1].name}", "w:xz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"{real.folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    def stored(name, content):
        return Stored(name, len(content), hashlib.sha256(content).hexdigest(), None)
    with open(f"{given}/cifar-10/{real.archives[1].name}", "rb") as file:
        packed = stored(real.archives[1].name, file.read())
    SOURCES["cifar-10"] = dataclasses.replace(
        real, files=tuple(stored(*item) for item in contents.items()), archives=(real.archives[0], packed)
    )

    def start(order):
        child = os.fork()
        if child:
            return child
        files = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(files, 1), os.dup2(files, 2)
        os.environ["XDG_CACHE_HOME"] = order["cache"]
        sys.argv = ["hypersign", *order["words"]]
        status = 1
        try:
            main(order["words"])
            status = 0
        except SystemExit as end:
            status = end.code or 0
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(status)

    print("ready", flush=True)
    for line in sys.stdin:
        orders, children = json.loads(line), []
        for order in orders:
            time.sleep(order["pause"])
            children.append(start(order))
            if order["kill"] is not None:
                time.sleep(order["kill"])
                os.kill(children[-1], signal.SIGKILL)
        statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps([children, statuses]), flush=True)
"""


@pytest.fixture(scope="module")
def nursery(tmp_path_factory):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HYPERSIGN_DATA": str(tmp_path_factory.mktemp("given"))}
    command = [sys.executable, "-c", textwrap.dedent(NURSERY)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()


@pytest.fixture(scope="module")
def run_commands(nursery, tmp_path_factory):
    """Commands at once: `run_commands(words, ..., pause=0.0, kill=None) -> [(pid, status, output), ...]`.

    Each begins `pause` seconds after the one before; `kill` seconds after its start the last one is killed.
    """
    logs = tmp_path_factory.mktemp("logs")

    def run(*commands, pause=0.0, kill=None, cache=logs):
        orders = [
            {
                "words": words.split(),
                "log": str(logs / str(i)),
                "cache": str(cache),
                "pause": pause if i else 0.0,
                "kill": kill if i == len(commands) - 1 else None,
            }
            for i, words in enumerate(commands)
        ]
        print(json.dumps(orders), file=nursery.stdin, flush=True)
        pids, statuses = json.loads(nursery.stdout.readline())
        return [
            (pid, status, (logs / str(i)).read_text(errors="replace") if (logs / str(i)).exists() else "")
            for i, (pid, status) in enumerate(zip(pids, statuses, strict=True))
        ]

    return run


TRAIN = (
    "train --data digits --model mlp --hidden 16 --images 200 --validation 30 --epochs 3 --device cpu "
    "--save-seconds 0 --reestimate-images 100"
)
RESUME = "--device cpu --save-seconds 0"


def train_or_resume(folder):
    """Resume a run, or begin it: a process killed before there was a run.json has left none."""
    return f"train --resume {folder} {RESUME}" if (folder / "run.json").exists() else f"{TRAIN} --output {folder}"


def tree(folder):
    """The files below a folder, but for locks and parts, and what is in them."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not (is_lock(path) or is_part(path) or ".extracting" in path.parts)
    }


def left_over(folder):
    return [path for path in folder.rglob("*") if is_lock(path) or is_part(path) or path.name == ".extracting"]


def result(folder):
    """All of a run that must not depend on when it was interrupted: no seconds, no speed."""
    run = load(folder)
    timed = ("seconds", "images_per_second")
    rows = [{key: value for key, value in row.items() if key not in timed} for row in run.metrics()]
    files = {name: content for name, content in tree(folder).items() if name.endswith(".safetensors")}
    results = {key: value for key, value in run.info["results"].items() if key not in timed}
    return sorted(tree(folder)), files, rows, results, run.finished


@pytest.fixture(scope="module")
def made(run_commands, tmp_path_factory):
    """What the tests begin with and compare with: vectors, codes, runs of two seeds, one that was stopped."""
    folder = tmp_path_factory.mktemp("made")
    np.save(folder / "x.npy", np.random.default_rng(0).standard_normal((3000, 20)).astype(np.float32))
    for seed in (0, 1):
        commands = (
            f"hash {folder}/x.npy --bits 100 --seed {seed} -o {folder}/codes-{seed}",
            f"{TRAIN} --seed {seed} --output {folder}/run-{seed}",
        )
        for words in commands:
            ((_, status, output),) = run_commands(words)
            assert status == 0, output
    duration = 0.2
    while not (folder / "stopped" / "state" / "state.safetensors").exists():
        run_commands(train_or_resume(folder / "stopped"), kill=duration)
        duration += 0.1
        if (folder / "stopped" / "run.json").exists() and load(folder / "stopped").finished:
            shutil.rmtree(folder / "stopped")
            duration = 0.2
    return folder


def until_refused(refusals):
    """Attempts 0, 1, ...: PAIRS, and more until a process was refused, since a quick one ends before others begin."""
    for attempt in itertools.count():
        if attempt >= PAIRS and any(refusals):
            return
        assert attempt < 20 * PAIRS, "no process ever met another one"
        yield attempt


def check_pair(outcomes, target):
    """At least one worked; the other one says who holds the target. Returns which worked."""
    pids = [pid for pid, *_ in outcomes]
    worked = [i for i, (_, status, _) in enumerate(outcomes) if status == 0]
    assert worked, outcomes
    for i, (_, status, output) in enumerate(outcomes):
        if status:
            (pid,) = re.findall(
                rf"hypersign \w+: {re.escape(str(target))} is being written by process (\d+) on "
                rf"{re.escape(socket.gethostname())} \(hypersign .*, since \d\d:\d\d\); wait for it or stop it, or "
                r"choose another output\n$",
                output,
            )
            assert int(pid) in pids
            assert int(pid) != pids[i]
    return worked


def test_two_hash_into_one_file(run_commands, made, tmp_path):
    refusals = []
    for attempt in until_refused(refusals):
        target = tmp_path / "codes"
        outcomes = run_commands(
            *(f"hash {made}/x.npy --bits 100 --seed {seed} -o {target}" for seed in (0, 1)),
            pause=0.002 * (attempt % PAIRS),
        )
        worked = check_pair(outcomes, target)
        refusals.append(2 - len(worked))
        assert target.read_bytes() in [(made / f"codes-{seed}").read_bytes() for seed in worked]
        assert [path.name for path in tmp_path.iterdir()] == ["codes"]
        target.unlink()


@pytest.mark.parametrize("kind", ["train", "resume"])
def test_two_trainings_into_one_folder(run_commands, made, tmp_path, kind):
    refusals = []
    for attempt in until_refused(refusals):
        target = tmp_path / f"run-{attempt}"
        words = [f"{TRAIN} --seed {seed} --output {target}" for seed in (0, 1)]
        if kind == "resume":
            shutil.copytree(made / "stopped", target)
            words = [f"train --resume {target} {RESUME}"] * 2
        outcomes = run_commands(*words, pause=0.002 * (attempt % PAIRS))
        # A second training that begins after the first one finds a folder that is not empty.
        late = [i for i, (*_, output) in enumerate(outcomes) if "the run folder must be new or empty" in output]
        worked = (
            check_pair([x for i, x in enumerate(outcomes) if i not in late], target) if not late else [1 - late[0]]
        )
        refusals.append(len(words) - len(worked) - len(late))
        assert result(target) in [result(made / f"run-{seed if kind == 'train' else 0}") for seed in worked]
        assert left_over(tmp_path) == []


def test_resuming_beside_a_live_run(run_commands, made, tmp_path):
    refusals = []
    for attempt in until_refused(refusals):
        target = tmp_path / f"run-{attempt}"
        shutil.copytree(made / "stopped", target)
        words = f"train --resume {target} {RESUME}"
        outcomes = run_commands(words, words, words, pause=0.05 / (1 + attempt))
        worked = check_pair(outcomes, target)
        refusals.append(3 - len(worked))
        assert result(target) == result(made / "run-0")
        assert left_over(tmp_path) == []


def whole(path):
    """A file that readers find is a whole one."""
    if path.suffix in (".json", ".jsonl"):
        for line in path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]:
            json.loads(line)
    if path.suffix == ".safetensors":
        size = int.from_bytes(path.read_bytes()[:8], "little")
        header = json.loads(path.read_bytes()[8 : 8 + size])
        last = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
        assert path.stat().st_size == 8 + size + last


@pytest.mark.parametrize("command", ["train", "resume", "hash", "pack", "inspect", "data"])
def test_killed_at_random_moments(run_commands, made, tmp_path, command):
    chance = random.Random(command)
    run = made / "run-0"

    def words(folder):
        return {
            "train": lambda: train_or_resume(folder),
            "resume": lambda: train_or_resume(folder),
            "hash": lambda: f"hash {made}/x.npy --bits 100 -o {folder}/codes",
            "pack": lambda: f"pack {run} -o {folder}/net.hypersign --verify",
            "inspect": lambda: f"inspect {run} --images 50 --output {folder}",
            "data": lambda: "data fetch cifar-10",
        }[command]()

    def prepare(folder):
        if command == "resume":
            shutil.copytree(made / "stopped", folder)
        elif command != "train":
            folder.mkdir()

    contents = result if command in ("train", "resume") else tree
    prepare(tmp_path / "whole")
    started = time.monotonic()
    ((_, status, output),) = run_commands(words(tmp_path / "whole"), cache=tmp_path / "whole")
    duration = time.monotonic() - started
    assert status == 0, output
    expected = contents(tmp_path / "whole")
    kills = rounds = 0
    while kills < KILLS:
        folder, rounds = tmp_path / f"killed-{rounds}", rounds + 1
        assert rounds < 20 * KILLS
        prepare(folder)
        while kills < KILLS:
            ((_, status, output),) = run_commands(words(folder), kill=chance.uniform(0, 1.1) * duration, cache=folder)
            if status == 0:
                break
            assert status == -signal.SIGKILL, output
            kills += 1
            for path in folder.rglob("*"):
                if path.is_file() and not (is_part(path) or ".extracting" in path.parts):
                    whole(path)
            if command not in ("train", "resume"):
                assert {name: expected[name] for name in tree(folder)} == tree(folder)
        ((_, status, output),) = run_commands(words(folder), cache=folder)
        assert status == 0, output
        assert contents(folder) == expected
        assert command == "data" or left_over(folder) == []


@pytest.mark.parametrize(
    ("lock", "target", "words"),
    [
        (writing_file, "codes", "hash {made}/x.npy --plan -o {folder}/codes"),
        (writing_file, "net", "pack {made}/run-0 --verify -o {folder}/net"),
        (writing_file, "geometry.json", "inspect {made}/run-0 --output {folder}"),
        (writing_file, "geometry.json", "reproduce {made}/run-0 --output {folder}"),
        (writing_file, "ablation", "ablate {made}/run-0 --figures {folder}"),
        (writing_file, "pairs", "simulate pairs --draws 10 --figures {folder}"),
        (writing_folder, "", "demo --output {folder}"),
        (writing_folder, "", TRAIN + " --output {folder}"),
    ],
    ids=["hash", "pack", "inspect", "reproduce", "ablate", "simulate", "demo", "train"],
)
def test_every_command_asks_for_its_target(run_commands, made, tmp_path, lock, target, words):
    before = tree(made)
    with lock(tmp_path / target):
        files = list(tmp_path.iterdir())
        ((_, status, output),) = run_commands(words.format(made=made, folder=tmp_path))
        assert status == 1, output
        assert f"{tmp_path / target} is being written by process {os.getpid()} on " in output
        assert list(tmp_path.iterdir()) == files
    assert tree(made) == before


def test_readers_are_not_blocked(run_commands, made, tmp_path):
    with writing_folder(made / "run-0"):
        for words in (
            "info {run}",
            "evaluate {run}",
            "pack {run} -o {folder}/net",
            "inspect {run} --output {folder}",
        ):
            ((_, status, output),) = run_commands(words.format(run=made / "run-0", folder=tmp_path))
            assert status == 0, output
