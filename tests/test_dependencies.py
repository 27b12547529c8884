"""pyproject.toml, the imports, and what a command says of a missing package agree."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

import hypersign
from hypersign._installation import pip_install
from hypersign.cli.main import PACKAGES, main

ROOT = Path(__file__).parents[1]
SOURCE = Path(hypersign.__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
OPTIONAL = {"torch", "tensorboard", "onnx", "onnxruntime", "openvino", "dask", "pyspark"}
"""Modules with an answer of their own where they are missing; torch.utils.tensorboard is torch's. Whoever hashes data
of Dask or Spark has them."""


def names(extra: str) -> set[str]:
    """The distributions of an extra, with those of the extras it names."""
    found = set()
    for line in EXTRAS[extra]:
        name, parts = re.match(r"([\w-]+)(?:\[(.*)\])?", line).groups()
        found |= set.union(*(names(part) for part in parts.split(","))) if parts else {name}
    return found


def imported() -> dict[str, set[str]]:
    """Modules that are not Python's own -> files of the package that import them."""
    found: dict[str, set[str]] = {}
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in {name.partition(".")[0] for name in modules} - {"hypersign"} - sys.stdlib_module_names:
                found.setdefault(module, set()).add(str(path.relative_to(SOURCE)))
    return found


def test_every_import_has_a_dependency() -> None:
    base = names("")
    unknown = {
        module: files
        for module, files in imported().items()
        if module not in base and module not in PACKAGES and module not in OPTIONAL
    }
    assert not unknown


@pytest.mark.parametrize("module", PACKAGES)
def test_the_extra_that_is_named_brings_the_package(module: str) -> None:
    package, extra = PACKAGES[module]
    assert package in names(extra)
    assert package in names("all") | names("")


def test_all_is_every_extra_of_commands() -> None:
    assert names("all") == set.union(*(names(extra) for _, extra in PACKAGES.values() if extra))


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [("PIL", "pillow", ""), ("sklearn", "scikit-learn", "pipelines"), ("other", "other", "")],
)
def test_a_missing_package_is_called_as_pip_calls_it(module, package, extra, monkeypatch, capsys) -> None:
    def missing(words):
        raise ModuleNotFoundError(f"No module named '{module}'", name=f"{module}.part")

    monkeypatch.setattr("hypersign.cli.run.run", missing)
    with pytest.raises(SystemExit) as end:
        main(["run"])
    assert end.value.code == 1
    assert capsys.readouterr().err == (
        f"hypersign run: this command needs the package {package}, which is not installed; install it with: "
        f"{pip_install(extra, package)}\n"
    )
