"""What the pages say is so: code runs, commands and options exist, links and tests named are there."""

import ast
import contextlib
import dataclasses
import itertools
import json
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from hypersign import pretrained
from hypersign.cli import main
from hypersign.cli.demo import recipe as demo_recipe
from hypersign.cli.main import VERBS
from hypersign.runs import load
from hypersign.training import Recipe, train

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "docs/results/README.md"]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


SUBCOMMANDS = [
    *(("inspect", name) for name in ("model.safetensors", "low.safetensors", "vectors.npy")),
    *(("theory", name) for name in ("angle", "ternary", "table")),
    *(("simulate", name) for name in ("pairs", "binary-pairs", "sign", "ternary", "levels", "rotated")),
]

WALKED = [ROOT / "README.md", ROOT / "docs/tour.md"]
"""Pages whose blocks of shell and Python run one after the other in one fresh folder, as a reader types them."""

PYTHON = [
    pytest.param(code, id=f"{page.stem}-{i}")
    for page in PAGES
    if page not in WALKED
    for i, code in enumerate(blocks(page, "python"))
]

LONG = (
    "pip install",  # .ci/installs does it in blank environments
    "torchrun",
)
"""Lines of the walked pages that run with HYPERSIGN_LONG alone, which .ci/long sets."""

ALL = os.environ.get("HYPERSIGN_LONG") == "1"
"""Everything as typed, in processes of its own; else in this one, one epoch per training and no figures."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the blocks of the other pages run. It has what the tour's table of files names."""
    folder = tmp_path_factory.mktemp("pages")
    with contextlib.chdir(folder):
        train(dataclasses.replace(demo_recipe(), epochs=1), "runs/demo", console=Console(quiet=True))
        shutil.copytree("runs/demo", "runs/first")
    return folder


@pytest.mark.parametrize("code", PYTHON)
def test_python_of_the_pages_runs(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    exec(re.sub(r"epochs=\d+", "epochs=1", code), {})


@pytest.mark.parametrize("page", WALKED, ids=lambda page: page.stem)
def test_a_page_is_typed_from_its_first_block_to_its_last(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every block of shell and Python, in order, in a fresh folder: nothing that it needs is missing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hypersign.cli.demo.recipe", lambda: dataclasses.replace(demo_recipe(), epochs=1))
    if page.stem == "tour":  # its table of files names the page that makes this run
        train(Recipe(widths=(8, 8), pools=(1, 2), epochs=1), "runs/first", console=Console(quiet=True))
    text = re.sub(r"^```text\n.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    ran = 0
    for language, code in re.findall(r"^```(sh|python)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if language == "python":
            exec(code if ALL else re.sub(r"epochs=\d+", "epochs=1", code), {"__name__": "__main__"})
        else:
            for line in code.splitlines():
                ran += typed(line)
    assert ran >= {"README": 9, "tour": 12}[page.stem]
    assert Path("runs/digits/twin/run.json").exists()
    assert Path("predictions.csv").stat().st_size > 1000
    assert "twin" in load("runs/digits").info


def typed(line: str) -> bool:
    """Runs a line of a shell block, and says whether it was one to run."""
    words = shlex.split(line, comments=True)
    if not words or words[:1] == ["source"] or (not ALL and any(part in line for part in LONG)):
        return False
    if words == ["make", "demo"]:  # what it does after installation
        words = ["hypersign", "demo"]
    if ALL and "pip" not in words[0]:
        program = Path(sys.executable).parent
        subprocess.run([str(program / words[0]), *words[1:]], check=True)
    elif words[0] == "hypersign":
        words = [word for word in words if (words[1], word) != ("inspect", "--figures")]
        main(["1" if before == "--epochs" else word for before, word in itertools.pairwise(words)])
    return True


def commands() -> set[tuple[str, ...]]:
    """The words after `hypersign` of every command in the pages and the Makefile."""
    lines = [line for page in PAGES for block in blocks(page, "sh") for line in block.splitlines()]
    lines += [code for page in PAGES for code in re.findall(r"`([^`\n]+)`", page.read_text())]
    lines += (ROOT / "Makefile").read_text().splitlines()
    found = (re.search(r"^(?:.* -m |.*/)?hypersign (\w.*)", line.strip()) for line in lines)
    return {tuple(shlex.split(match[1], comments=True)) for match in found if match}


@pytest.fixture
def helps(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, ...], str]:
    """What `--help` prints, by command."""
    monkeypatch.setenv("COLUMNS", "200")
    texts = {}
    for verb in (*((verb,) for verb in VERBS), ("data", "export"), ("data", "fetch"), ("data", "list"), *SUBCOMMANDS):
        main([*verb, "--help"])
        texts[verb] = capsys.readouterr().out
    return texts


def test_commands_and_options_exist(helps) -> None:
    named = commands()
    assert {words[0] for words in named} >= set(VERBS), "every command is named in the pages"
    for words in named - {("COMMAND", "--help")}:
        verb = words[:2] if words[:2] in helps else words[:1]
        assert verb in helps, f"hypersign {' '.join(words)}"
        for option in (word for word in words if word.startswith("--")):
            assert re.search(rf"{option}\b", helps[verb]), f"hypersign {' '.join(words)}: no option {option}"


def test_every_option_of_training_is_in_the_tour(helps) -> None:
    tour = (ROOT / "docs/tour.md").read_text()
    options = set(re.findall(r"--(?!no-)[a-z][a-z-]+", helps["train",])) - {"--nproc-per-node"}
    assert len(options) > 40
    assert sorted(option for option in options if f"{option}" not in tour) == []
    theirs = {"--nproc-per-node", "--num-processes", "--nnodes", "--rdzv-endpoint", "--constraint", "--help"}
    known = " ".join(helps.values())
    for option in set(re.findall(r"--[a-z][a-z-]+", tour)) - theirs:
        assert option in known, option


def test_every_field_of_geometry_json_is_in_the_tour() -> None:
    tree = ast.parse((ROOT / "src/hypersign/geometry/results.py").read_text())
    fields = {
        statement.target.id
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        for statement in node.body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    }
    schema = (ROOT / "docs/tour.md").read_text().partition("### geometry.json")[2]
    assert len(fields) > 40
    assert sorted(name for name in fields if f"`{name}`" not in schema) == []


def test_tests_and_functions_of_the_paper_page_exist() -> None:
    page = (ROOT / "docs/paper.md").read_text()
    named = re.findall(r"`(\w+/test_\w+\.py)`: ((?:`test_\w+`(?:, )?)+)", page.replace("\n", " "))
    assert len(named) > 15
    for file, tests in named:
        text = (ROOT / "tests" / file).read_text()
        for test in re.findall(r"test_\w+", tests):
            assert f"def {test}(" in text, f"{file}: {test}"
    import hypersign.figures
    import hypersign.theory

    for name in re.findall(r"`theory\.(\w+)`", page):
        assert name in hypersign.theory.__all__, name
    figures = re.findall(r"^  Figure: (.*)", page, re.MULTILINE)
    assert len(figures) > 15
    for name in re.findall(r"`(\w+)`", " ".join(figures)):
        assert name in hypersign.figures.__all__, name


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_every_part_has_an_api_page() -> None:
    pages = " ".join(page.read_text() for page in (ROOT / "docs/api").glob("*.md"))
    parts = {
        path.parent.name if path.name == "__init__.py" else path.stem
        for path in (ROOT / "src/hypersign").glob("*/__init__.py")
    }
    parts |= {path.stem for path in (ROOT / "src/hypersign").glob("[a-z]*.py")}
    for part in parts - {"cli"}:
        assert f"automodule:: hypersign.{part}\n" in pages, part


def test_contributing_names_every_part() -> None:
    layout = (ROOT / "CONTRIBUTING.md").read_text().partition("```text\n")[2].partition("```")[0]
    named = re.findall(r"^  ([\w.]+)/? ", layout, re.MULTILINE)
    parts = {
        path.name for path in (ROOT / "src/hypersign").iterdir() if path.name[0] != "_" and path.name != "py.typed"
    }
    assert set(named) == parts


def test_results_table_is_what_the_files_hold() -> None:
    """Every file is explained, and every run among them has its row, with its own numbers."""
    explained = (ROOT / "docs/results/README.md").read_text()
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if "](docs/results/" in line]
    for file in (ROOT / "docs/results").glob("*.json"):
        assert f"`{file.name}`" in explained, file
        run = json.loads(file.read_text())
        if not {"recipe", "model"} <= set(run):
            continue
        (line,) = (row for row in rows if f"(docs/results/{file.name})" in row)
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        assert cells[0] == run["data"]["name"], line
        assert cells[1].startswith(run["model"]["name"]), line
        assert cells[2] == {2: "binary", 3: "ternary"}[run["recipe"]["levels"]], line
        assert cells[3] == str(run["recipe"]["epochs"]), line
        assert cells[4].startswith(f"{100 * run['results']['test']['accuracy']:.2f} %"), line
        if "seeds" in run:
            for cell, name in ((cells[4], "accuracy"), (cells[5], "twin_accuracy")):
                values = [100 * row[name] for row in run["seeds"] if name in row]
                if not values:  # a network without a float twin
                    assert cell == "none"
                    continue
                mean, spread = statistics.mean(values), statistics.stdev(values)
                assert cell.endswith(f"{len(values)} seeds {mean:.2f} ± {spread:.2f}"), line
        bench = json.loads((ROOT / "docs/results/bench-results.json").read_text())["rows"][file.name]
        assert cells[6].startswith(f"{bench['packed_bytes'] / 1000:,.0f} kB"), line
        fast, slow = bench["packed_seconds_per_image"], bench.get("seconds_per_image")
        assert cells[7] == f"{fast * 1e6:,.0f}" + (f", {slow / fast:.0f}" if slow else ""), line


def test_the_gallery_names_every_network_that_comes_along() -> None:
    page = (ROOT / "docs/gallery.md").read_text()
    for name in pretrained.names():
        run = load(name).info
        size = (pretrained.folder(name) / pretrained.PACKED).stat().st_size
        (row,) = (line for line in page.splitlines() if f'"gallery/{name}.html"' in line)
        assert f"{100 * run['results']['test']['accuracy']:.2f} %" in row, name
        assert f"{size:,} bytes" in row, name


def test_hooks_run_what_make_lint_runs() -> None:
    makefile = (ROOT / "Makefile").read_text()
    recipe = makefile.partition("\nlint:")[2].partition("\n\n")[0].replace("$(BIN)", ".venv/bin").splitlines()[1:]
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [hook["entry"] for hook in repository["hooks"]] == [line.strip() for line in recipe]


def test_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert {"type", "title", "authors"} <= set(citation["preferred-citation"])


def test_the_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    overview = capsys.readouterr().out
    assert all(verb in overview for verb in VERBS)


def test_extending_names_files_that_exist() -> None:
    """In its tables; a name in capitals or angle brackets stands for the reader's own."""
    rows = re.findall(r"^\| (`[^|]*) \|", (ROOT / "docs" / "extending.md").read_text(), re.MULTILINE)
    paths = [path for row in rows for path in re.findall(r"`([\w./<>]+/[\w./<>]+)`", row)]
    assert len(paths) > 20
    for path in paths:
        own = re.search(r"<\w+>|[A-Z]{4}", path)
        where = path[: own.start()].rpartition("/")[0] if own else path
        assert (ROOT / where).exists(), path
