"""Tables fit 80 columns: no cell is cut, and names of layers fold if they are long."""

import dataclasses
import io

import pytest
from rich.console import Console
from rich.table import Table

from hypersign.cli.ablate import depth_table, permutation_table
from hypersign.cli.compare import QUANTITIES, _layers
from hypersign.cli.inspect import covariance_table, geometry_table
from hypersign.cli.inspect_files import _print_unmeasured
from hypersign.cli.reproduce import claims_table
from hypersign.geometry.claims import Claim
from hypersign.geometry.depth import Depth, LayerDepth, PermutedR
from hypersign.weight_files import Unmeasured

LONG = "encoder.stage2.block1.body.convolution1"


def lines(table: Table, width: int = 80) -> list[str]:
    out = Console(file=io.StringIO(), width=width)
    out.print(table)
    assert isinstance(out.file, io.StringIO)
    text = out.file.getvalue()
    assert "…" not in text
    return text.splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_nothing_is_cut(width: int, synthetic) -> None:
    found = synthetic.geometry()
    named = [dataclasses.replace(layer, name=f"{LONG}.{layer.name}") for layer in found.layers]
    for geometry in (found, dataclasses.replace(found, layers=tuple(named))):
        assert max(map(len, lines(geometry_table(geometry), width))) <= width
        assert max(map(len, lines(covariance_table(geometry), width))) <= width
    row = {"angle_degrees": 33.9, "predicted_angle_degrees": 34.4, "r": 0.7, "predicted_r": None}
    for title, keys, digits in QUANTITIES:
        lines(_layers(title, {"binary": {LONG: row}, "ternary": {LONG: row}}, keys, digits), width)


def test_depth_is_two_tables() -> None:
    permuted = tuple(PermutedR(mode, 0.81, 0.812) for mode in ("all", "within", "over"))
    layer = LayerDepth(LONG, 0.9, 0.76, 0.77, 0.1, 0.11, permuted)
    found = Depth(200, (layer,))
    assert any("0.76 / 0.77" in line and "10.0 / 11.0" in line for line in lines(depth_table(found)))
    assert any(line.count("0.810 / 0.812") == 3 for line in lines(permutation_table(found)))


def test_a_claim_is_named_once() -> None:
    claims = [
        Claim(name, layer, "r", 0.8, 0.9, relation, 0.05)
        for layer in ("conv1", "conv2")
        for name, relation in (("r is kept", "near"), ("r is large", "at least"))
    ]
    text = lines(claims_table("run", claims))
    assert sum("r is kept" in line for line in text) == sum("r is large" in line for line in text) == 1
    assert sum("0.900 ± 0.050" in line for line in text) == sum(">= 0.850" in line for line in text) == 2


def test_unmeasured_tensors_are_counted_by_reason() -> None:
    out = Console(file=io.StringIO(), width=80)
    biases = [Unmeasured(f"norm{i}.bias", "F32", (48,), 192, "one dimension") for i in range(1200)]
    _print_unmeasured([*biases, Unmeasured("step", "I64", (), 8, "no floats")], out)
    assert isinstance(out.file, io.StringIO)
    text = out.file.getvalue()
    assert "1,200" in text
    assert "norm0.bias, 48" in text
    assert "step, one number" in text
    assert len(text.splitlines()) < 10
    assert "norm1.bias" not in text
