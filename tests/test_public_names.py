"""Each part lists its public names once, offers exactly those, and explains each."""

import ast
import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import pytest

import hypersign

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(hypersign.__path__, "hypersign.")
    if not module.name.endswith(("__main__", "_native"))  # the compiled kernels speak through hypersign.bits
)
PARTS = [name for name in MODULES if hasattr(importlib.import_module(name), "__path__")]


@pytest.mark.parametrize("name", PARTS)
def test_a_part_offers_what_it_lists(name: str) -> None:
    """Its `__init__` only re-exports: every name it imports stands in `__all__`, and nothing else does.

    A part that loads its names at their first use imports them for type checkers alone, and says where each is.
    """
    module = importlib.import_module(name)
    offered = []
    body = ast.parse(Path(module.__file__).read_text()).body
    if lazy := "_MODULES" in vars(module):
        (body,) = (node.body for node in body if isinstance(node, ast.If))
    for node in body:
        if isinstance(node, ast.ImportFrom):
            offered += [alias.asname or alias.name for alias in node.names]
        else:
            assigns_all = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
            docstring = isinstance(node, ast.Expr) and node is body[0]
            assert assigns_all or docstring, f"{name}, line {node.lineno}: more than a re-export"
    assert sorted(offered) == sorted(module.__all__)
    if lazy:
        assert {public: getattr(module, public) for public in module.__all__}
        assert set(module.__all__) <= set(dir(module))
        with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'nothing'"):
            module.nothing  # noqa: B018
    assert len(set(module.__all__)) == len(module.__all__)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_explains_itself_and_has_what_it_lists(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, "a module opens with a docstring"
    missing = [public for public in public_names(module) if not hasattr(module, public)]
    assert not missing
    assert len(set(public_names(module))) == len(public_names(module))


def public_names(module: ModuleType) -> list[str]:
    """What the module lists; a command's file, which nobody imports from, may list nothing."""
    if not hasattr(module, "__all__"):
        assert ".cli." in module.__name__ or "._" in module.__name__, f"{module.__name__} has no __all__"
        return [
            n for n, v in vars(module).items() if getattr(v, "__module__", None) == module.__name__ and n[0] != "_"
        ]
    return list(module.__all__)


def undocumented(name: str, value: object) -> list[str]:
    """Names in `value` that a reader meets and that have no docstring of their own or inherited."""
    if not (inspect.isclass(value) or inspect.isroutine(value)):
        return []
    found = [] if (value.__doc__ or "").strip() else [name]
    if dataclass_made(value):
        found.append(name)
    if inspect.isclass(value):
        for attribute, member in vars(value).items():
            method = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            if attribute.startswith("_") or not inspect.isfunction(method):
                continue
            if not inspect.getdoc(getattr(value, attribute)) and attribute not in ("extra_repr", "setup_context"):
                found.append(f"{name}.{attribute}")
    return found


def dataclass_made(value: object) -> bool:
    """Whether the docstring is only the signature that `dataclass` writes where there is none."""
    return inspect.isclass(value) and (value.__doc__ or "").startswith(f"{value.__name__}(")


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_has_a_docstring(name: str) -> None:
    module = importlib.import_module(name)
    missing = [found for public in public_names(module) for found in undocumented(public, getattr(module, public))]
    assert not missing


ROOT = Path(__file__).parents[1]
INTERNALS = {  # pages and scripts about a part's inside, which import from it
    "docs/extending.md",
    "benchmarks/bench_training_step.py",
    "benchmarks/bench_training_versions.py",
    "benchmarks/hashing_figures.py",
    "benchmarks/interleaved.py",
    "experiments/forecast.py",
    "experiments/forecast_rivals.py",
    "experiments/gradient_noise.py",
    "experiments/methods.py",
}
SHOWN = [
    path
    for pattern in (
        "README.md",
        "docs/*.md",
        "examples/*.py",
        "notebooks/*.ipynb",
        "benchmarks/*.py",
        "experiments/*.py",
    )
    for path in sorted(ROOT.glob(pattern))
    if path.parent.name not in ("tests", ".venv") and str(path.relative_to(ROOT)) not in INTERNALS
]


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: path.name)
def test_one_public_path_for_each_name(path: Path) -> None:
    """What people read imports from the front door and from parts, never from a module inside a part."""
    deep = re.findall(r"(?:from|import) (hypersign\.[a-z]\w*\.[\w.]+)", path.read_text())
    assert not deep
