"""The handler of recurrent networks that read images."""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hypersign import bits
from hypersign.layers import QuantRecurrent, RecurrentProduct, StepNorm
from hypersign.models import RecurrentNetwork
from hypersign.packing.folding import Flow, Folding, refusal
from hypersign.packing.handlers.products import linear
from hypersign.packing.text import product_forms
from hypersign.packing.text import recurrent as tensors_of
from hypersign.packing.traced import child_name

__all__ = ["recurrent_network"]

Shapes = Iterator[tuple[str, Any, tuple[int, ...]]]


def recurrent_network(folding: Folding, name: str, module: RecurrentNetwork, x: Flow) -> Flow:
    """A network that reads an image row by row or pixel by pixel: its recurrent layers, then its head."""
    if module.tokens:
        raise refusal(name, module, "it reads tokens: pack it as a language model, with hypersign.packing.pack_text")
    name = "" if name == type(module).__name__.lower() else name
    x = folding.real(x)
    image = (x.channels, x.height, x.width)
    for number, layer in enumerate(module.layers(), 1):
        scan = "pixels" if number == 1 and module.scan != "rows" else "rows"
        width = x.channels * (x.width if scan == "rows" else 1)
        if layer.input_size != width:
            raise refusal(name, module, f"layer{number} takes {layer.input_size} numbers per step; it gets {width}")
        x = _layer(folding, child_name(name, f"layer{number}"), layer, x, scan, number == module.depth)
        if number == 1:
            _follow_scan(folding, x.name, module, image)
    return linear(folding, child_name(name, "head"), module.head, x)


def _layer(folding: Folding, node: str, layer: QuantRecurrent, x: Flow, scan: str, last: bool) -> Flow:
    products = layer.products()
    forms = {kind: product_forms(f"{node}.{kind}", products[f"weight_{kind}_l0"]) for kind in ("ih", "hh")}
    folding.node(
        "recurrent",
        node,
        x.name,
        cell=layer.mode,
        units=layer.hidden_size,
        inputs=forms["ih"][0],
        hidden=forms["hh"][0],
        steps=scan,
        outputs="last" if last else "all",
    )

    @functools.cache
    def made() -> dict[str, NDArray[Any]]:
        found: dict[str, NDArray[Any]] = {}
        with torch.no_grad():
            tensors_of("", layer, found)
        return {name[1:].replace(".", "_"): tensor for name, tensor in found.items()}

    for role, dtype, shape in _shapes(layer, {kind: form for kind, (_, form) in forms.items()}):
        folding.tensor(node, role, dtype, shape, functools.partial(lambda role: made()[role], role))
    steps = x.height * (1 if scan == "rows" else x.width)
    return Flow(node, "real", 1 if last else steps, 1, layer.hidden_size)


def _shapes(layer: QuantRecurrent, forms: dict[str, str]) -> Shapes:
    """The tensors of a layer: role, type and shape."""
    modules = dict(layer.named_modules())
    for kind, form in forms.items():
        product = modules[f"{kind}_l0"]
        assert isinstance(product, RecurrentProduct)
        rows, width = product.weight.shape
        if form == "float":
            yield f"{kind}_weight", np.float32, (rows, width)
        else:
            planes = (2,) if form == "ternary" else ()
            yield f"{kind}_levels", np.uint64, (*planes, rows, -(-width // 64))
            yield f"{kind}_scale", np.float32, (rows,)
        yield f"{kind}_bias", np.float32, (rows,)
    for kind in ("ih", "hh", "c"):
        norm = modules.get(f"norm_{kind}_l0")
        if norm is None:
            continue
        for part in ("weight", "bias"):
            if (values := getattr(norm, part)) is not None:
                yield f"norm_{kind}_{part}", np.float32, tuple(values.shape)
        if isinstance(norm, StepNorm):
            size = len(norm.weight)
            for part in ("mean", "variance"):
                yield f"norm_{kind}_{part}", np.float32, (len(norm.at), size) if norm.separate else (size,)


def _follow_scan(folding: Folding, node: str, module: RecurrentNetwork, image: tuple[int, int, int]) -> None:
    """Makes the first layer read the image as packed networks hold it: channels last."""
    channels, height, width = image
    if module.scan == "permuted":
        order = module.permutation(height * width).numpy().astype(np.int32)
        folding.tensor(node, "order", np.int32, (height * width,), lambda: order)
    if module.scan != "rows" or channels == 1:
        return
    # the network's row is (channel, column), the packed one's (column, channel)
    columns = np.arange(channels * width).reshape(channels, width).T.reshape(-1)
    for role in ("ih_levels", "ih_weight"):
        tensor = folding.tensors.get(f"{node}.{role}")
        if tensor is not None:
            make = functools.partial(_turned, tensor.make, columns)
            folding.tensor(node, role, tensor.dtype, tensor.shape, make)


def _turned(make: Any, columns: NDArray[Any]) -> NDArray[Any]:
    tensor = make()
    if tensor.dtype == np.float32:
        return np.ascontiguousarray(tensor[:, columns])
    if tensor.ndim == 2:
        return bits.pack(bits.unpack(tensor, len(columns))[:, columns].astype(np.float32))
    levels = bits.unpack_ternary(tensor, len(columns))[:, columns].astype(np.float32)
    return bits.pack_ternary(levels, low=-0.5, high=0.5)
