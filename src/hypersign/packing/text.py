"""Packs a language model, and verifies the packed file against the network."""

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hypersign import bits
from hypersign._checks import HypersignError, check_int
from hypersign.evaluate import full_precision, mode
from hypersign.layers import QuantLayer, QuantRecurrent, RecurrentProduct, StepNorm
from hypersign.models import GPT, RecurrentNetwork
from hypersign.packed.text import PackedText, write_text
from hypersign.quantizers import Identity, Int8, Sign

__all__ = ["TextCertificate", "pack_text", "product_forms", "recurrent", "verify_text"]


def pack_text(model: nn.Module, path: str | Path, classes: Sequence[str], unit: str = "characters") -> None:
    """Writes a language model as a packed file, for `hypersign.packed.PackedText`.

    Args:
        model: a network that `lstm` or `gpt` built for tokens; it does not change.
        path: the file.
        classes: the vocabulary.
        unit: "characters" or "bytes".

    Raises:
        HypersignError: the network is another one, or a quantizer has no packed form there.

    >>> import tempfile
    >>> from hypersign.models import lstm
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pack_text(lstm((8,), 3, hidden=(64,)), f"{folder}/net.hypersign", "abc")
    ...     packed = PackedText.load(f"{folder}/net.hypersign")
    >>> packed.predict(np.array([[0, 2, 1]])).shape
    (1, 3, 3)
    """
    tensors: dict[str, NDArray[Any]] = {}
    with torch.no_grad(), mode(model, False):
        if isinstance(model, RecurrentNetwork) and model.tokens:
            kind, context = "lstm", None
            layers = [recurrent(f"layer{i}", layer, tensors) for i, layer in enumerate(model.layers(), 1)]
            tensors["head.bias"] = _array(model.head.bias)
        elif isinstance(model, GPT):
            kind, context = "gpt", model.context
            layers = [_block(i, model, tensors) for i in range(1, model.depth + 1)]
            tensors["norm"] = _array(model.norm.weight)
        else:
            raise HypersignError(
                f"a packed text needs a network that lstm or gpt built for tokens; got {type(model).__name__}"
            )
        tensors["embedding"], tensors["head.weight"] = _array(model.embedding.weight), _array(model.head.weight)
    if len(tensors["embedding"]) != len(classes):
        raise HypersignError(f"classes must name the {len(tensors['embedding'])} tokens; got {len(classes)}")
    structure = {"kind": kind, "classes": list(classes), "unit": unit, "context": context, "layers": layers}
    write_text(Path(path), structure, tensors)


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().float().cpu().contiguous().numpy()


def product_forms(name: str, layer: QuantLayer) -> tuple[str, str]:
    """What a product reads ("real", "int8", "sign"), and its weights' form ("float", "binary", "ternary").

    Raises:
        HypersignError: a quantizer has no packed form here.
    """
    rule, quantizer = layer.input_quantizer, layer.weight_quantizer
    kinds = {Identity: "real", Int8: "int8", Sign: "sign"}
    inputs = kinds.get(type(rule))
    if inputs is None or (inputs == "sign" and (rule.scale is not None or 0.0 in rule.levels)):
        raise HypersignError(f"{name} has no packed form: its inputs must be real, 8-bit or signs; got {rule!r:.60}")
    form = quantizer.packed_form()
    if form.kind not in ("float", "binary", "ternary") or quantizer.offset is not None:
        raise HypersignError(f"{name} has no packed form: {form.reason or f'its weights are {quantizer!r:.60}'}")
    return inputs, form.kind


def _product(name: str, layer: QuantLayer, tensors: dict[str, NDArray[Any]]) -> str:
    """Adds a product's tensors; returns the kind of its inputs."""
    inputs, form = product_forms(name, layer)
    levels = layer.quantized_weight()
    scale = layer.row_scale(levels) if isinstance(layer, RecurrentProduct) else layer.weight_scale()
    if form == "float":
        matrix = levels if scale is None else levels * scale[:, None]
        tensors[f"{name}.weight"] = _array(matrix)
        return inputs
    values = levels.float().cpu().numpy()
    packed = bits.pack(values) if form == "binary" else bits.pack_ternary(values, low=-0.5, high=0.5)
    tensors[f"{name}.levels"] = packed
    tensors[f"{name}.scale"] = (
        np.ones(len(values), np.float32) if scale is None else _array(scale.expand(len(values)))
    )
    return inputs


def recurrent(name: str, layer: QuantRecurrent, tensors: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Adds a recurrent layer's tensors; returns its entry in the structure."""
    modules = dict(layer.named_modules())
    for kind in ("ih", "hh", "c"):
        norm = modules.get(f"norm_{kind}_l0")
        if norm is None:
            continue
        for part in ("weight", "bias"):
            if getattr(norm, part) is not None:
                tensors[f"{name}.norm_{kind}.{part}"] = _array(getattr(norm, part))
        if isinstance(norm, StepNorm):
            for role, part in (("mean", "running_mean"), ("variance", "running_var")):
                rows = torch.stack([statistics.get_buffer(part) for statistics in norm.at])
                tensors[f"{name}.norm_{kind}.{role}"] = _array(rows if norm.separate else rows[0])
    inputs = {}
    for kind in ("ih", "hh"):
        product = modules[f"{kind}_l0"]
        assert isinstance(product, RecurrentProduct)
        inputs[kind] = _product(f"{name}.{kind}", product, tensors)
        tensors[f"{name}.{kind}.bias"] = _array(layer.get_parameter(f"bias_{kind}_l0"))
    return {"cell": layer.mode, "units": layer.hidden_size, "inputs": inputs["ih"], "hidden": inputs["hh"]}


def _block(number: int, model: GPT, tensors: dict[str, NDArray[Any]]) -> dict[str, Any]:
    block, name = model.get_submodule(f"block{number}"), f"layer{number}"
    attention, feed = block.get_submodule("attention"), block.get_submodule("feed_forward")
    norms = {
        "norm1": block.get_submodule("norm1"),
        "norm2": block.get_submodule("norm2"),
        "inner1": attention.get_submodule("norm"),
        "inner2": feed.get_submodule("norm"),
    }
    for part, norm in norms.items():
        if isinstance(norm, nn.RMSNorm):
            tensors[f"{name}.{part}"] = _array(norm.weight)
    layers = {
        part: layer
        for module in (attention, feed)
        for part, layer in module.named_children()
        if isinstance(layer, QuantLayer)
    }
    inputs = {part: _product(f"{name}.{part}", layer, tensors) for part, layer in layers.items()}
    units = layers["up"].filters
    return {"heads": getattr(attention, "heads", 1), "feed_forward_units": units, "inputs": inputs}


@dataclasses.dataclass(frozen=True)
class TextCertificate:
    """How the decisions of a packed language model compare with those of the network in float32.

    Args:
        decisions: the number of next tokens.
        equal: how many are the same.
        ties: how many differ where a float64 replica has the two logits no further apart than twice what rounding to
            float32 moves a logit of the network itself, at most, in the same batch. With 8-bit inputs that is more
            than the last digits: a number on the border of two levels moves by a whole level.
        wrong: the others.
        largest_difference: of two logits.
    """

    decisions: int
    equal: int
    ties: int
    wrong: int
    largest_difference: float


def verify_text(model: nn.Module, packed: PackedText, tokens: Tensor, *, batch_size: int = 50) -> TextCertificate:
    """Compares next-token decisions of a packed file with the network's, on sequences that start from nothing.

    Args:
        model: the network that was packed.
        packed: the packed file.
        tokens: sequences `(N, T)`.
        batch_size: sequences at a time.

    Raises:
        HypersignError: there is no sequence.
    """
    check_int("the number of sequences", len(tokens), min=1)
    equal = ties = wrong = 0
    largest = 0.0
    with torch.no_grad(), mode(model, False), full_precision("cpu"):
        for piece in tokens.split(batch_size):
            ours = torch.from_numpy(packed.predict(piece.numpy()))
            theirs = model(piece)
            largest = max(largest, float((ours - theirs).abs().max()))
            first, second = ours.argmax(2), theirs.argmax(2)
            differing = first != second
            equal += int((~differing).sum())
            if differing.any():
                exact = _double(model, piece)
                rounding = float((theirs.double() - exact).abs().max())
                near = (_at(exact, first) - _at(exact, second)).abs() <= 2 * rounding
                ties += int((differing & near).sum())
                wrong += int((differing & ~near).sum())
    return TextCertificate(tokens.numel(), equal, ties, wrong, largest)


def _at(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits.gather(2, tokens[..., None])[..., 0]


def _double(model: nn.Module, tokens: Tensor) -> Tensor:
    """The network's logits in float64."""
    return copy.deepcopy(model).double()(tokens)
