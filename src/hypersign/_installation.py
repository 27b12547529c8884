"""The words to type in this installation: the command, and how pip adds an extra to it."""

import contextlib
import json
import os
import re
import shlex
import shutil
import sys
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlparse

__all__ = ["as_typed", "missing", "pip_install", "program"]


def program() -> str:
    """The word that runs `hypersign` as it can be typed here: `hypersign`, or `.venv/bin/hypersign` off the PATH."""
    script = shutil.which("hypersign", path=str(Path(sys.executable).parent))
    if script is None:
        return f"{_shown(Path(sys.executable))} -m hypersign"
    on_path = shutil.which("hypersign")
    if on_path is not None and os.path.samefile(on_path, script):
        return "hypersign"
    return _shown(Path(script))


def as_typed(text: str) -> str:
    """`text` with each command that follows a colon as it can be typed here.

    >>> as_typed("resume with: hypersign train --resume runs/demo").endswith("hypersign train --resume runs/demo")
    True
    """
    return re.sub(r"(?<=: )hypersign (?=[a-z-]+ )", lambda found: f"{program()} ", text)


def pip_install(extra: str = "", package: str = "") -> str:
    """The command that adds an extra of HyperSign, or a package, to this installation.

    A copy of the project, or a wheel, is named by its place: no package index need have it.
    """
    return f"{_shown(Path(sys.executable))} -m pip install {_wanted(extra) if extra else package}"


def missing(what: str, package: str, extra: str) -> str:
    """The sentence that says which package `what` needs, and how to install it."""
    return (
        f"{what} needs the package {package}, which is not installed; install it with: {pip_install(extra, package)}"
    )


def _wanted(extra: str) -> str:
    name = f"hypersign[{extra}]"
    origin: dict = {}
    with contextlib.suppress(metadata.PackageNotFoundError, ValueError):
        origin = json.loads(metadata.distribution("hypersign").read_text("direct_url.json") or "{}")
    url = origin.get("url", "")
    path = Path(unquote(urlparse(url).path))
    if not url.startswith("file:") or not path.exists():
        return shlex.quote(name)
    if path.is_dir():
        folder = _shown(path) if path.resolve() != Path.cwd().resolve() else "."
        editable = "--editable " if origin.get("dir_info", {}).get("editable") else ""
        return editable + shlex.quote(f"{folder}[{extra}]")
    return shlex.quote(f"{name} @ {url}")


def _shown(path: Path) -> str:
    """A path as it is typed from the present folder."""
    with contextlib.suppress(ValueError, OSError):
        path = path.relative_to(Path.cwd())
    return shlex.quote(str(path))
