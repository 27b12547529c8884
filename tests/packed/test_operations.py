"""The table of operations against docs/format.md, and the bounds of what operations may allocate and sum."""

import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hypersign import bits
from hypersign._checks import HypersignError
from hypersign.packed import Graph, Node, PackedModel
from hypersign.packed.format import write
from hypersign.packed.graph import check_graph
from hypersign.packed.operations import OPERATIONS
from hypersign.packed.operations.convolution import WINDOW, kernel_bytes
from hypersign.packed.operations.pooling import POOLING
from hypersign.packed.operations.recurrent import MATRICES, NORMS
from hypersign.packed.operations.thresholds import THRESHOLDS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "format.md"
FAMILIES = {"convolution": WINDOW, "pooling": POOLING, "thresholds": THRESHOLDS, "matrices": MATRICES, "norms": NORMS}
WHOLE = {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1]}


def names(cell: str) -> set[str]:
    """The names in a cell of the table: those in backticks, and those of the families in bold."""
    found = set(re.findall(r"`(\w+)`", cell))
    for family in re.findall(r"\*\*(\w+)\*\*", cell):
        found |= set(FAMILIES[family])
    return found


def test_the_page_lists_every_operation_with_its_options_and_tensors() -> None:
    text = PAGE.read_text()
    table = re.search(r"\| op \|.*?\n\|[-|]+\n((?:\|.*\n)+)", text)
    assert table is not None
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table[1].splitlines()]
    found = {row[0].strip("`"): (names(row[3]), names(row[4])) for row in rows}
    assert found == {name: (set(each.options), set(each.tensors)) for name, each in OPERATIONS.items()}
    for name in OPERATIONS:
        assert f"- **`{name}`**" in text, f"{name} is explained below the table"
    for family, members in FAMILIES.items():
        entry = re.split(r"\n- |\n\n", text.partition(f"\n- **{family}**")[2])[0]
        assert set(members) <= set(re.findall(r"`(\w+)`", entry))


def test_each_operation_is_in_the_file_of_its_name() -> None:
    for name, operation in OPERATIONS.items():
        assert type(operation).__module__ == f"hypersign.packed.operations.{name}"


def test_the_files_of_a_new_operation_are_those_of_every_operation() -> None:
    """The list in docs/extending.md against the tree."""
    text = (ROOT / "docs" / "extending.md").read_text().partition("## Add an operation of packed files")[2]
    paths = re.findall(r"^\| `(\S+)` \|", text, re.MULTILINE)
    assert len(paths) == 8
    for path in paths:
        for name in OPERATIONS:
            assert (ROOT / path.replace("<operation>", name)).exists(), path


def test_a_kernel_far_larger_than_its_file_is_refused() -> None:
    """131 kB of filters, each weight of which the compiled kernels keep in a word of 32 filters."""
    nodes = (
        Node("quantize", "levels", ("input",)),
        Node("conv2d", "conv", ("levels",), {"kernel": [1024, 1024], **WHOLE, "groups": 1, "pad_value": 0}),
        Node("affine", "norm", ("conv",)),
    )
    tensors = {
        "levels.low": np.zeros(1, np.float32),
        "levels.flip": np.zeros(1, bool),
        "conv.weight": np.zeros((1, 2**14), np.uint64),
        "norm.scale": np.ones(1, np.float32),
        "norm.shift": np.zeros(1, np.float32),
    }
    with pytest.raises(HypersignError, match=r"node 'conv': its filters take 5\d{8} bytes .* too much for the size"):
        check_graph(Graph((1, 1024, 1024), None, ("a",), nodes), tensors)


MEASURE = """
import sys
import numpy as np
from hypersign import bits
from hypersign.bits.backend import forced

def memory(what):
    lines = open("/proc/self/status").read().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(what))

filters, kernel, depth, groups, planes = map(int, sys.argv[1:])
words = np.ones((*[2][: planes - 1], filters, -(-kernel * kernel * depth // 64)), np.uint64)
for backend in bits.available_backends()[1:]:
    with forced(backend):
        open("/proc/self/clear_refs", "w").write("5")  # the peak from now on
        before = memory("VmRSS:")
        bits.Filters(words, shape=(kernel, kernel, depth), groups=groups).planned()
        print(memory("VmHWM:") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak of a process")
@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize(
    ("filters", "kernel", "depth", "groups"), [(1, 400, 1, 1), (40, 120, 3, 1), (64, 80, 1, 64), (999, 15, 70, 1)]
)
def test_kernels_allocate_no_more_than_what_is_reserved(filters, kernel, depth, groups, planes) -> None:
    """Measured in a process of its own, with every compiled back end."""
    arguments = map(str, (filters, kernel, depth, groups, planes))
    result = subprocess.run([sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, check=True)
    peaks = [int(line) for line in result.stdout.split()]
    assert len(peaks) == len(bits.available_backends()) - 1
    bound = kernel_bytes(filters, (kernel, kernel), depth, groups, planes == 2)
    assert max(peaks, default=0) <= bound + 2**21
    assert max(peaks, default=bound) > bound / 8, "a bound that is near"


@pytest.mark.parametrize("ternary", [False, True])
def test_filters_that_fill_registers_are_never_refused(ternary: bool) -> None:
    """A fully connected layer of 64 units on the levels of one large channel, which expands most."""
    nodes = (
        Node("quantize", "levels", ("input",)),
        Node("conv2d", "fc", ("levels",), {"kernel": [900, 900], **WHOLE, "groups": 1, "pad_value": 0}),
        Node("affine", "norm", ("fc",)),
    )
    words = -(-(900**2) // 64)
    tensors = {
        "levels.low": np.zeros(1, np.float32),
        "levels.flip": np.zeros(1, bool),
        "fc.weight": np.broadcast_to(np.uint64(0), (2, 64, words) if ternary else (64, words)),
        "norm.scale": np.ones(64, np.float32),
        "norm.shift": np.zeros(64, np.float32),
    }
    check_graph(Graph((1, 900, 900), None, tuple(map(str, range(64))), nodes), tensors)


def test_thousands_of_nodes(tmp_path: Path) -> None:
    """Loading takes time in proportion to the nodes: 8,000 are nothing to wait for."""
    nodes = [Node("clip", "0", ("input",), {"low": 0.0, "high": 1.0})]
    nodes += [Node("clip", str(i), (str(i - 1),), {"low": 0.0, "high": 1.0}) for i in range(1, 8000)]
    write(tmp_path / "net", Graph((1, 1, 1), None, ("a",), tuple(nodes)), {})
    model = PackedModel.load(io.BytesIO((tmp_path / "net").read_bytes()))
    assert model.predict(np.full((1, 1, 1, 1), 3, np.float32)).tolist() == [[1.0]]
