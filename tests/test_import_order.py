"""Each part imports itself and the parts above it in this list, and the light parts never import torch."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import hypersign

SOURCE = Path(hypersign.__file__).parent

ORDER = [
    "_defaults",
    "_checks",
    "_files",
    "_locks",
    "_json",
    "_safetensors",
    "_arrays",
    "_lazy",
    "_machine",
    "_installation",
    "_display",
    "_pictures",
    "_native",  # the compiled kernels
    "bits",
    "theory",
    "pretrained",
    "packed",
    "playground",
    "export",
    "_pooled_gradient",
    "ops",
    "rotations",
    "methods",
    "quantizers",
    "optimizers",
    "layers",
    "models",
    "tasks",
    "data",
    "evaluate",
    "runs",
    "generation",
    "simulation",
    "weight_files",
    "hashing",
    "packing",
    "summaries",
    "hub",
    "forecasting",
    "geometry",
    "training",
    "figures",
    "report",
    "study",
    "cli",
    "__main__",
]
WITHOUT_TORCH = {
    "__init__",
    "_defaults",
    "_checks",
    "_files",
    "_locks",
    "_arrays",
    "_json",
    "_installation",
    "_display",
    "_pictures",
    "_safetensors",
    "bits",
    "theory",
    "methods",
    "packed",
    "playground",
    "export",
    "pretrained",
    "weight_files",
    "report",
}
"""Parts none of whose files import torch themselves."""


def part(path: Path) -> str:
    """The part a file belongs to: its folder in the package, or its own name."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[int, str]]:
    """(line, module) of every import in a file, inside functions too; all are absolute."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, name.name) for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            found.append((node.lineno, node.module or ""))
            if node.module == "hypersign":
                found += [(node.lineno, f"hypersign.{name.name}") for name in node.names]
    return found


FILES = sorted(SOURCE.rglob("*.py"))
PARTS = sorted({part(path) for path in FILES} - {"__init__"})  # the front door offers names of every part
FRONT_DOOR = {"__version__", "HypersignError"}


def test_the_list_names_every_part() -> None:
    assert set(PARTS) - {"__init__"} <= set(ORDER)


@pytest.mark.parametrize("name", PARTS)
def test_imports_point_back_along_the_list(name: str) -> None:
    wrong = []
    for path in FILES:
        if part(path) != name:
            continue
        for line, module in imports(path):
            words = module.split(".")
            if words[0] != "hypersign" or len(words) == 1 or words[1] in FRONT_DOOR:
                continue
            allowed = ORDER[: ORDER.index(name) + 1] if name in ORDER else []
            if words[1] not in allowed:
                wrong.append(f"{path.relative_to(SOURCE)}:{line} imports {module}")
    assert not wrong


def test_light_parts_import_no_torch() -> None:
    wrong = [
        f"{path.relative_to(SOURCE)}:{line}"
        for path in FILES
        if part(path) in WITHOUT_TORCH
        for line, module in imports(path)
        if module.split(".")[0] in ("torch", "accelerate")
    ]
    assert not wrong


def test_accelerate_stays_inside_training() -> None:
    users = {part(path) for path in FILES for _, module in imports(path) if module.split(".")[0] == "accelerate"}
    assert users <= {"training"}


@pytest.mark.parametrize("module", ["hypersign", "hypersign.cli", "hypersign._files"])
def test_importing_pulls_in_no_torch(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'matplotlib', 'scipy', 'sklearn'}} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "words",
    [
        ["theory", "angle"],
        ["theory", "table"],
        ["hash", "vectors.npy", "--plan", "--queries", "10"],
        ["hash", "vectors.npy", "-o", "codes"],
        ["inspect", "vectors.npy"],
        ["inspect", "weights.safetensors"],
        ["train", "--help"],
        ["run", "--help"],
        ["search", "--help"],
        ["data", "list"],
        ["data", "export", "digits", "images.npy"],
        ["simulate", "sign", "--draws", "100"],
        ["simulate", "rotated", "--dimensions", "16", "--rotations", "none", "haar", "hadamard-2", "--draws", "100"],
    ],
    ids=" ".join,
)
def test_commands_that_need_no_torch(words: list[str], tmp_path: Path) -> None:
    np.save(tmp_path / "vectors.npy", np.random.default_rng(0).standard_normal((60, 16)))
    save_file({"w": np.random.default_rng(0).standard_normal((8, 64))}, tmp_path / "weights.safetensors")
    code = f"""
import sys
from hypersign.cli.main import main
try:
    main({words})
except SystemExit as end:
    assert not end.code, end.code
assert "torch" not in sys.modules
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


def test_a_recipe_needs_no_torch() -> None:
    code = """
import sys, hypersign
recipe = hypersign.Recipe(data="mnist", model="mlp", epochs=3)
assert hypersign.Recipe(**recipe.as_dict()) == recipe
assert "torch" not in sys.modules
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
