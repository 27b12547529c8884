"""The list of instruction sets, the files of the kernels and the page on extending them agree."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"

pytestmark = pytest.mark.skipif(not CSRC.exists(), reason="without the sources")


def entries() -> dict[str, set[str]]:
    """The operations of each instruction set in the list."""
    text = re.sub(r"(?m)^//.*\n", "", (CSRC / "instruction_sets.def").read_text())
    listed: dict[str, set[str]] = {}
    for entry in text.split("INSTRUCTION_SET(")[1:]:
        name = re.match(r"[a-z0-9]+", entry)
        assert name is not None
        kernels = re.findall(r"KERNELS\((\w+), (\w+)\)", entry)
        assert {owner for owner, _ in kernels} == {name[0]}
        listed[name[0]] = {operation for _, operation in kernels}
    return listed


def test_the_list_has_the_files() -> None:
    listed = entries()
    assert next(iter(listed)) == "portable"
    for name, operations in listed.items():
        assert {path.parent.name for path in CSRC.glob(f"*/{name}.cpp")} - {"pool"} == operations, name


def test_only_files_of_a_set_use_intrinsics() -> None:
    for path in CSRC.rglob("*.?pp"):
        if re.search(r"#include <(?:immintrin|arm_neon)\.h>", path.read_text()):
            assert re.match("|".join(entries()), path.name), path


def test_the_page_names_files_that_exist() -> None:
    text = (ROOT / "docs" / "extending.md").read_text()
    sections = re.findall(r"## Add (?:an instruction set|a kernel operation)\n(.*?)(?=\n## |\Z)", text, re.DOTALL)
    assert len(sections) == 2
    names = {"<operation>": "hamming", "<name>": "avx2"}
    for path in re.findall(r"`((?:csrc|src|tests|benchmarks)/[^`]*)`", "\n".join(sections)):
        for placeholder, name in names.items():
            path = path.replace(placeholder, name)
        assert list(ROOT.glob(path)), path
