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
from hypersign.bits.backend import forced
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
    assert len(paths) == 11
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


def real(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


X = real(3, 4, 5, 6)  # images, channels first


def outputs(tmp_path: Path, nodes: list[Node], tensors: dict[str, np.ndarray], given: list[np.ndarray]) -> np.ndarray:
    """What the last node gives for images, channels last."""
    from hypersign.packed.decisions import NUMBERS
    from hypersign.packed.graph import Output

    more = tuple((f"input{i}", each.shape[1:]) for i, each in enumerate(given[1:], start=2))
    shapes = check_graph_values(nodes, tensors, given, more)
    end = Output("out", nodes[-1].name, shapes, NUMBERS)
    write(
        tmp_path / "net", Graph(given[0].shape[1:], None, (), tuple(nodes), more_inputs=more, outputs=(end,)), tensors
    )
    model = PackedModel.load(tmp_path / "net")
    with pytest.raises(HypersignError, match="one input and one vector of outputs"):
        model.graph.check_plain("an export", model.values)
    found = model.predict(tuple(given) if more else given[0])
    for backend in ("numpy",):
        with forced(backend):
            np.testing.assert_array_equal(model.predict(tuple(given) if more else given[0]), found)
    return found


def check_graph_values(nodes, tensors, given, more) -> tuple[int, int, int]:
    """The shape of what the last node gives, height, width and channels: of a graph with another end."""
    from hypersign.packed.graph import _check_node
    from hypersign.packed.values import Value

    values = {
        name: Value("real", shape[1], shape[2], shape[0]) for name, shape in (("input", given[0].shape[1:]), *more)
    }
    left = dict(tensors)
    for node in nodes:
        values[node.name] = _check_node(node, values, left)[0]
    last = values[nodes[-1].name]
    return last.height, last.width, last.channels


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x.astype(np.float64))
    return e / e.sum(-1, keepdims=True)


def by_hand(x: np.ndarray) -> dict[str, tuple[str, dict, dict, np.ndarray]]:
    """Operation, options, tensors, and the expected output for `x`, channels last."""
    h, w, c = x.shape[1:]
    scale, shift = real(c, seed=1), real(c, seed=2)
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    rms = np.sqrt(np.square(x).mean(-1, keepdims=True) + 0.5)
    groups = x.reshape(len(x), h * w, 2, c // 2)
    normed = (groups - groups.mean((1, 3), keepdims=True)) / np.sqrt(groups.var((1, 3), keepdims=True) + 0.5)
    padded = np.zeros((len(x), 3 * h + 1, 2 * w + 2, c))
    padded[:, 1 : 3 * h : 3, 2 : 2 * w + 1 : 2] = x
    norms = {"n.scale": scale, "n.shift": shift}
    return {
        "sigmoid": ("activation", {"function": "sigmoid"}, {}, 1 / (1 + np.exp(-x))),
        "softmax": ("softmax", {"log": False}, {}, softmax(x)),
        "log softmax": ("softmax", {"log": True}, {}, np.log(softmax(x))),
        "layer norm": (
            "layer_norm", {"eps": 0.5, "centre": True}, norms, (x - mean) / np.sqrt(var + 0.5) * scale + shift
        ),
        "rms norm": ("layer_norm", {"eps": 0.5, "centre": False}, norms, x / rms * scale + shift),
        "group norm": ("group_norm", {"groups": 2, "eps": 0.5}, norms, normed.reshape(x.shape) * scale + shift),
        "rearrange": (
            "rearrange", {"split": [h, w, 2, c // 2], "order": [2, 1, 0, 3], "shape": [2 * w, h, c // 2]}, {},
            x.reshape(len(x), h, w, 2, c // 2).transpose(0, 3, 2, 1, 4).reshape(len(x), 2 * w, h, c // 2),
        ),
        "slice": ("slice", {"axis": 1, "start": 1, "stop": w, "step": 2}, {}, x[:, :, 1::2]),
        "nearest": ("resize2d", {"size": [2 * h, 3 * w], "mode": "nearest"}, {}, x.repeat(2, 1).repeat(3, 2)),
        "corners": (
            "resize2d", {"size": [2 * h - 1, w], "mode": "bilinear_corners"}, {},
            np.stack([x[:, i // 2] / 2 + x[:, (i + 1) // 2] / 2 for i in range(2 * h - 1)], 1),
        ),
        "zeros": ("zero_pad2d", {"stride": [3, 2], "before": [1, 2], "after": [2, 1]}, {}, padded),
    }  # fmt: skip


@pytest.mark.parametrize("name", by_hand(X.transpose(0, 2, 3, 1)))
def test_real_operations_against_plain_numpy(name: str, tmp_path: Path) -> None:
    op, options, tensors, expected = by_hand(X.transpose(0, 2, 3, 1))[name]
    found = outputs(tmp_path, [Node(op, "n", ("input",), options)], tensors, [X])
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-6)


def test_operations_of_several_inputs_against_plain_numpy(tmp_path: Path) -> None:
    q, k, v = (real(2, c, 3, w, seed=i) for i, (w, c) in enumerate(((4, 5), (6, 5), (6, 7))))
    last = [each.transpose(0, 2, 3, 1) for each in (q, k, v)]
    names = ("input", "input2", "input3")
    scores = 0.3 * np.einsum("nhqc,nhkc->nhqk", *last[:2])
    for causal in (False, True):
        seen = np.where(np.tri(4, 6, dtype=bool) | (not causal), scores, -np.inf)
        node = Node("attention", "n", names, {"scale": 0.3, "causal": causal})
        np.testing.assert_allclose(outputs(tmp_path, [node], {}, [q, k, v]), softmax(seen) @ last[2], atol=1e-6)
    a, b = real(2, 5, 3, 4), real(2, 6, 3, 5, seed=1)
    product = a.transpose(0, 2, 3, 1) @ b.transpose(0, 2, 3, 1)
    np.testing.assert_allclose(outputs(tmp_path, [Node("matmul", "n", names[:2])], {}, [a, b]), product, atol=2e-6)
    for op, function in (("add", np.add), ("multiply", np.multiply)):
        one = real(2, 5, 1, 1, seed=3)
        expected = function(a, one).transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(outputs(tmp_path, [Node(op, "n", names[:2])], {}, [a, one]), expected)
    nodes = [Node("constant", "c", ()), Node("concat", "n", ("c", "input"))]
    value = real(3, 4, 2)
    expected = np.concatenate([np.broadcast_to(value, (2, 3, 4, 2)), a.transpose(0, 2, 3, 1)], -1)
    np.testing.assert_array_equal(outputs(tmp_path, nodes, {"c.value": value}, [a]), expected)


@pytest.mark.parametrize("ternary", [False, True])
@pytest.mark.parametrize("channels", [1, 63, 64, 65])
def test_zeros_between_levels(channels: int, ternary: bool, tmp_path: Path) -> None:
    x = real(2, channels, 3, 4)
    tensors = {"q.low": np.full(channels, -0.5 * ternary, np.float32), "q.flip": np.zeros(channels, bool)}
    if ternary:
        tensors["q.high"] = np.full(channels, 0.5, np.float32)
    options = {"stride": [2, 1], "before": [0, 1], "after": [1, 0]}
    nodes = [
        Node("quantize", "q", ("input",)), Node("zero_pad2d", "z", ("q",), options), Node("unpack", "n", ("z",))
    ]  # fmt: skip
    levels = (np.abs(x) >= 0.5) * np.sign(x) if ternary else np.where(x >= 0, 1, -1)
    expected = np.zeros((2, 6, 5, channels))
    expected[:, :5:2, 1:] = levels.transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(outputs(tmp_path, nodes, tensors, [x]), expected)


WRONG = {
    "another function": ("activation", {"function": "eval"}, "function must be one of"),
    "log no flag": ("softmax", {"log": 1}, "log must be true or false"),
    "eps": ("layer_norm", {"eps": -1, "centre": True}, "eps must be"),
    "norm without scale": ("layer_norm", {"eps": 0, "centre": True}, "the tensor n.scale is missing"),
    "groups": ("group_norm", {"groups": 3, "eps": 0}, "groups must divide the 4 channels"),
    "one value": ("multiply", {}, "multiply takes 2 inputs; got 1"),
    "matrices": ("matmul", {}, "matmul takes 2 inputs; got 1"),
    "heads": ("attention", {"scale": 1, "causal": False}, "attention takes 3 inputs; got 1"),
    "order twice": (
        "rearrange",
        {"split": [5, 24], "order": [0, 0], "shape": [5, 6, 4]},
        "order must name each axis",
    ),
    "order no list": ("rearrange", {"split": [120], "order": 0, "shape": [5, 6, 4]}, "order must be a list"),
    "other count": ("rearrange", {"split": [120], "order": [0], "shape": [5, 6, 5]}, "sizes of 120 numbers"),
    "negative": ("rearrange", {"split": [-1, -120], "order": [0, 1], "shape": [5, 6, 4]}, "split must be"),
    "two sizes": ("rearrange", {"split": [120], "order": [0], "shape": [5, 24]}, "sizes of 120 numbers"),
    "axis": ("slice", {"axis": 3, "start": 0, "stop": 1, "step": 1}, "axis must be"),
    "empty": ("slice", {"axis": 0, "start": 2, "stop": 2, "step": 1}, "start must be below stop"),
    "past the end": ("slice", {"axis": 0, "start": 0, "stop": 6, "step": 1}, "stop must be"),
    "mode": ("resize2d", {"size": [2, 2], "mode": "cubic"}, "mode must be one of"),
    "size": ("resize2d", {"size": [2**26, 2**26], "mode": "nearest"}, "numbers per image|too much"),
    "constant of inputs": ("constant", {}, "constant takes no inputs"),
    "zeros": ("zero_pad2d", {"stride": [1, 1], "before": [2**26, 0], "after": [0, 0]}, "numbers per image"),
    "stride": ("zero_pad2d", {"stride": [0, 1], "before": [0, 0], "after": [0, 0]}, "stride"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_options_are_refused(name: str) -> None:
    op, options, message = WRONG[name]
    with pytest.raises(HypersignError, match=message):
        check_graph(Graph((4, 5, 6), None, (), (Node(op, "n", ("input",), options),)), {})
