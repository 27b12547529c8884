"""experiments/parallel_jobs.py starts jobs in order, keeps their output and status, and stops at the budget."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "experiments" / "parallel_jobs.py"


def run(folder, text, seconds):
    jobs = folder / "jobs.txt"
    jobs.write_text(text)
    command = [sys.executable, SCRIPT, jobs, "--slots", "2", "--seconds", str(seconds), "--logs", folder / "logs"]
    subprocess.run(list(map(str, command)), check=True)
    return json.loads((folder / "logs" / "jobs.json").read_text())


def test_jobs_leave_their_output_and_status(tmp_path):
    found = run(tmp_path, "# comment\n\nfails: exit 3\nleft x2: echo {left} s\nlast: echo a: b\n", 1000)
    assert {row["job"]: row["status"] for row in found["jobs"]} == {"fails": 3, "left": 0, "last": 0}
    assert found["not_started"] == []
    left, unit = (tmp_path / "logs" / "left.log").read_text().split()
    assert 0 < int(left) <= 1000
    assert unit == "s"
    assert (tmp_path / "logs" / "last.log").read_text() == "a: b\n"


def test_nothing_starts_after_the_budget(tmp_path):
    found = run(tmp_path, "first: echo\nsecond: echo\n", 0)
    assert found == {"jobs": [], "not_started": ["first", "second"]}
