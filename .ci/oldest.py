"""Prints the oldest version of each light dependency that pyproject.toml allows, as requirements for pip.

torch stays as it is installed: its floor is the version of constraints.txt.
"""

import re
import tomllib
from pathlib import Path

PARTS = ("hash", "train", "report", "gguf", "tensorboard")

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
wanted = [*project["dependencies"], *(name for part in PARTS for name in extras[part]), *extras["test"]]
for line in dict.fromkeys(wanted):
    name, _, version = line.partition(">=")
    if version and name != "torch" and re.fullmatch(r"[\w-]+", name):
        print(f"{name}=={version}")
