"""Prints the oldest version of each light dependency that pyproject.toml allows, as requirements for pip.

It reads what the tests need: the dependencies, the extra `test` with the extras of HyperSign that it names, and
`files`. torch stays as it is installed, because its floor is the version of constraints.txt.
"""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]


def needed(requirements: list[str]) -> Iterator[str]:
    """The requirements of other packages, with those of the extras that are named."""
    for line in requirements:
        own = re.fullmatch(r"hypersign\[([\w,]+)\]", line)
        if own is None:
            yield line
            continue
        for extra in own[1].split(","):
            yield from needed(project["optional-dependencies"][extra])


for line in dict.fromkeys(needed([*project["dependencies"], "hypersign[test]", "hypersign[files]"])):
    name, separator, version = line.partition(">=")
    if not (separator and re.fullmatch(r"[\w-]+", name)):
        raise SystemExit(f"pyproject.toml: {line!r} has no form name>=version")
    if name != "torch":
        print(f"{name}=={version}")
