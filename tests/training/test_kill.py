"""Processes that are killed at any moment, saving included, end where one that was left alone ends."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from hypersign._installation import program
from hypersign.runs import load

# Imports once, then forks a process for each training: the real command, without seconds of imports each time.
NURSERY = """
    import contextlib, io, json, os, signal, sys, time
    import accelerate, sklearn.datasets, torch, torch._dynamo, tyro
    import hypersign.cli.train, hypersign.training.loop
    from hypersign.cli import main
    from hypersign.data import load
    load("digits")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main(["train", "--help"])
    torch.set_num_threads(1)

    def train(words, log, die_at):
        files = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(files, 1), os.dup2(files, 2)
        replace, calls = os.replace, [0]

        def dying(*names):
            for after in (False, True):
                if after:
                    replace(*names)
                calls[0] += 1
                if calls[0] == die_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        os.replace = dying
        try:
            main(["train", *words])
        except SystemExit as end:
            return end.code
        except KeyboardInterrupt:  # a moment before or after main
            print("hypersign train: interrupted")
            return 130
        finally:
            print("renamings", calls[0])
            sys.stdout.flush(), sys.stderr.flush()

    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if not child:
            os._exit(train(order["words"], order["log"], order["die_at"]) or 0)
        if order["signal"]:
            while order["wait_for"] and not os.path.exists(order["wait_for"]):
                time.sleep(0.001)
            time.sleep(order["after"])
            os.kill(child, order["signal"])
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def nursery():
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", textwrap.dedent(NURSERY)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()


@pytest.fixture
def run_command(nursery, tmp_path):
    """`hypersign train ...` in a process of its own: `run_command(*words) -> (exit status, output)`.

    It gets `number` `after` seconds after its start, or after the file `wait_for` is there; or it dies at the
    `die_at`-th moment before or after a renaming of a file.
    """

    def run(*words, number=0, after=0.0, wait_for="", die_at=0):
        log = tmp_path / "log"
        order = {"words": words, "log": str(log), "signal": number, "after": after, "wait_for": str(wait_for)}
        order["die_at"] = die_at
        print(json.dumps(order), file=nursery.stdin, flush=True)
        return int(nursery.stdout.readline()), log.read_text()

    return run


RECIPE = "--recipe anderson-berg-2018 --data digits --device cpu --save-seconds 0 --reestimate-images 100"
VGG = (
    f"{RECIPE} --widths 4 6 --pools 1 2 --hidden 16 --surrogate tanh --validation 50 --images 200 --epochs 3 "
    "--flip --crop-padding 1 --learning-rate 0.01"
)
MLP = f"{RECIPE} --model mlp --hidden 16 --optimizer sgd --validation 0 --images 200 --epochs 4 --levels 3"


def contents(folder):
    """All that must not depend on how often a run was interrupted."""
    run = load(folder)
    keys = ("epoch", "step", "learning_rate", "loss", "accuracy", "validation_loss", "validation_accuracy", "layers")
    return {
        "files": sorted(path.name for path in folder.iterdir()),
        "weights": [path.read_bytes() for path in sorted(folder.glob("*.safetensors"))],
        "metrics": [[row[key] for key in keys] for row in run.metrics()],
        "results": {key: value for key, value in run.info["results"].items() if key != "seconds"},
        "finished": run.finished,
    }


def words_for(folder, recipe):
    """Go on with a run, or begin it: a process killed before there was a run.json has left none."""
    if (folder / "run.json").exists():
        return f"--resume {folder} --device cpu --save-seconds 0".split()
    return f"{recipe} --output {folder}".split()


@pytest.mark.parametrize("recipe", [VGG, MLP, f"{VGG} --precision bits"], ids=["vgg-adam", "mlp-sgd", "vgg-on-bits"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "ctrl-c"])
def test_at_random_moments(run_command, tmp_path, recipe, number):
    started = time.monotonic()
    status, output = run_command(*words_for(tmp_path / "whole", recipe))
    duration = time.monotonic() - started
    assert status == 0, output
    folder, chance = tmp_path / "run", random.Random(7)
    state = folder / "state" / "state.safetensors"
    ended = interrupted = 0
    for attempt in range(12):
        # The first one in the training for certain, however unequal the seconds of a busy machine are.
        when = {"after": chance.uniform(0.1, 0.6) * duration} if attempt else {"wait_for": state}
        status, output = run_command(*words_for(folder, recipe), number=number, **when)
        if status == 0:  # it was done before its time came
            ended += 1
            break
        in_training = state.exists()
        interrupted += in_training
        if number == signal.SIGKILL:
            assert status == -signal.SIGKILL, output
        elif "its state is saved" in output:
            assert status == 130, output
            assert in_training
            assert f"Resume with: {program()} train --resume {folder}\n" in output
        else:  # before the training began
            assert status == 130, output
            assert "hypersign train: interrupted\n" in output
            assert "Traceback" not in output
    assert interrupted
    if not ended:
        status, output = run_command(*words_for(folder, recipe))
        assert status == 0, output
    assert contents(folder) == contents(tmp_path / "whole")


def test_before_and_after_every_file_gets_its_name(run_command, tmp_path):
    recipe = f"{MLP} --epochs 2 --validation 30 --images 100 --batch-size 100"
    _, output = run_command(*words_for(tmp_path / "whole", recipe))
    moments = int(output.split()[-1])
    assert moments >= 22  # run.json; metrics, best, last and state of each epoch; last and run.json at the end
    expected = contents(tmp_path / "whole")
    for moment in range(1, moments + 1):
        folder = tmp_path / f"run-{moment}"
        status, output = run_command(*words_for(folder, recipe), die_at=moment)
        assert status == -signal.SIGKILL, output
        status, output = run_command(*words_for(folder, recipe))
        assert status == 0, output
        assert contents(folder) == expected, moment
