"""The layer or the steps that compute each function of a recorded forward."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hypersign.packing import given, steps

__all__ = ["FUNCTIONS", "SAME", "Made", "Seen", "Unknown", "multi_head_attention", "permuted"]

Made = tuple[nn.Module, tuple[Tensor, ...], Tensor | None]
"""A layer or step, the values that it takes (none: that of the step before it), and the value that it gives."""


class Unknown(Exception):
    """A function whose arguments have no packed form; the message is the reason."""


class Seen:
    """A call of a function: its arguments, and what it gave.

    Args:
        name: the function's name.
        args, kwargs: its arguments.
        result: what it gave.
        depends: whether a tensor depends on the network's inputs.
    """

    def __init__(self, name: str, args: Any, kwargs: Any, result: Any, depends: Callable[[Tensor], bool]) -> None:
        self.name, self.args, self.kwargs, self.result, self.depends = name, args, kwargs, result, depends

    def get(self, place: int, name: str, default: Any = None) -> Any:
        """An argument by position or name."""
        if len(self.args) > place:
            return self.args[place]
        return self.kwargs.get(name, default)

    @property
    def x(self) -> Tensor:
        """The first argument, which must be a value of the network."""
        value = self.get(0, "input", self.kwargs.get("self"))
        return self.value(value)

    def value(self, value: Any) -> Tensor:
        """`value`, which must be one of the network.

        Raises:
            Unknown: it is a constant.
        """
        if not isinstance(value, Tensor) or not self.depends(value):
            raise Unknown(
                f"{self.name} in its forward computes with a constant where it needs a value of the network"
            )
        return value

    def constant(self, value: Any) -> Tensor | None:
        """A weight; None for None.

        Raises:
            Unknown: it depends on the network's inputs.
        """
        if value is None:
            return None
        if not isinstance(value, Tensor) or self.depends(value):
            raise Unknown(f"{self.name} in its forward has a weight that depends on the network's inputs")
        return value.detach()

    def dim(self, value: Any) -> int:
        """A dimension, without the batch."""
        found = int(value) % self.x.dim()
        if found == 0:
            raise Unknown(f"{self.name} in its forward works across the inputs of a batch (dim=0)")
        return found - 1

    def refuse(self, what: str) -> Unknown:
        """The error for arguments without a packed form."""
        return Unknown(f"the arguments of {self.name} in its forward have no packed form: {what}")


def _one(seen: Seen, module: nn.Module) -> list[Made]:
    return [(module, (seen.x,), seen.result)]


def _layer(make: Callable[[], nn.Module]) -> Callable[[Seen], list[Made]]:
    return lambda seen: _one(seen, make())


def _function(name: str) -> Callable[[Seen], list[Made]]:
    return lambda seen: _one(seen, steps.Function(name))


def _gelu(seen: Seen) -> list[Made]:
    return _one(seen, steps.Function("gelu" if seen.get(1, "approximate", "none") == "none" else "gelu_tanh"))


def _softplus(seen: Seen) -> list[Made]:
    if seen.get(1, "beta", 1) != 1:
        raise seen.refuse("beta must be 1")
    return _one(seen, steps.Function("softplus"))


def _elu(seen: Seen) -> list[Made]:
    if seen.get(1, "alpha", 1.0) != 1:
        raise seen.refuse("alpha must be 1")
    return _one(seen, steps.Function("elu"))


def _clamp(seen: Seen) -> list[Made]:
    low, high = seen.get(1, "min"), seen.get(2, "max")
    if low == 0 and high is None:
        return _one(seen, nn.ReLU())
    if not all(isinstance(bound, int | float) for bound in (low, high)):
        raise seen.refuse("both bounds must be numbers")
    return _one(seen, nn.Hardtanh(float(low), float(high)))


def _clamp_min(seen: Seen) -> list[Made]:
    if seen.get(1, "min") != 0:
        raise seen.refuse("the bound must be 0")
    return _one(seen, nn.ReLU())


def _hardtanh(seen: Seen) -> list[Made]:
    low, high = seen.get(1, "min_val", -1.0), seen.get(2, "max_val", 1.0)
    return _one(seen, nn.Hardtanh(float(low), float(high)))


def _leaky(seen: Seen) -> list[Made]:
    return _one(seen, nn.LeakyReLU(seen.get(1, "negative_slope", 0.01)))


def _prelu(seen: Seen) -> list[Made]:
    weight = seen.constant(seen.get(1, "weight"))
    assert weight is not None
    layer = nn.PReLU(weight.numel())
    layer.weight = nn.Parameter(weight.clone(), requires_grad=False)
    return _one(seen, layer)


def _view(seen: Seen) -> list[Made]:
    if not isinstance(seen.result, Tensor):
        raise seen.refuse("it must give one value")
    x, y = seen.x, seen.result
    if y.dim() and len(y) == len(x) and x.dim() > 2 and y.dim() == 2:
        return _one(seen, nn.Flatten())
    return _one(seen, steps.View(tuple(y.shape[1:])))


def _expand(seen: Seen) -> list[Made]:
    if seen.result.shape != seen.x.shape:
        raise seen.refuse("a value of the network is not repeated")
    return _view(seen)


def _permute(seen: Seen) -> list[Made]:
    order = permuted(seen.name, seen.x.dim(), seen.args[1:], seen.kwargs)
    assert order is not None
    return _one(seen, steps.Permute(tuple(axis - 1 for axis in order[1:])))


def _add(seen: Seen) -> list[Made]:
    return _sum(seen, seen.get(0, "input"), seen.get(1, "other"), 1.0, float(seen.get(2, "alpha", 1)))


def _subtract(seen: Seen) -> list[Made]:
    return _sum(seen, seen.get(0, "input"), seen.get(1, "other"), 1.0, -float(seen.get(2, "alpha", 1)))


def _subtracted(seen: Seen) -> list[Made]:
    return _sum(seen, seen.get(0, "input"), seen.get(1, "other"), -1.0, 1.0)


def _sum(seen: Seen, a: Any, b: Any, first: float, second: float) -> list[Made]:
    """first a + second b."""
    if not (isinstance(a, Tensor) and seen.depends(a)):
        a, b, first, second = b, a, second, first
    a = seen.value(a)
    if isinstance(b, Tensor) and seen.depends(b):
        made: list[Made] = []
        values = []
        for value, factor in ((a, first), (b, second)):
            if factor != 1:
                scaled = value * factor
                made.append((steps.Affine(torch.tensor(factor), torch.tensor(0.0)), (value,), scaled))
                value = scaled
            values.append(value)
        return [*made, (steps.Add(), tuple(values), seen.result)]
    return [(steps.Affine(torch.tensor(first), second * _held(seen, b)), (a,), seen.result)]


def _held(seen: Seen, value: Any) -> Tensor:
    """A number or tensor that the network holds, without the batch."""
    found = torch.as_tensor(value, dtype=torch.float32).detach()
    if found.dim() == seen.result.dim() and found.dim():
        if len(found) > 1 and not bool((found == found[:1]).all()):
            raise seen.refuse("a constant differs between the inputs of a batch")
        found = found[0]
    if not bool(found.isfinite().all()):
        raise seen.refuse("a constant must hold finite numbers")
    return found


def _multiply(seen: Seen) -> list[Made]:
    a, b = seen.get(0, "input"), seen.get(1, "other")
    if not (isinstance(a, Tensor) and seen.depends(a)):
        a, b = b, a
    if isinstance(b, Tensor) and seen.depends(b):
        return [(steps.Multiply(), (a, b), seen.result)]
    return [(steps.Affine(_held(seen, b), torch.tensor(0.0)), (seen.value(a),), seen.result)]


def _divide(seen: Seen) -> list[Made]:
    b = seen.get(1, "other")
    if (isinstance(b, Tensor) and seen.depends(b)) or seen.kwargs.get("rounding_mode"):
        raise seen.refuse("values are divided by constants")
    scale = 1 / _held(seen, b)
    if not bool(scale.isfinite().all()):
        raise seen.refuse("it divides by 0")
    return _one(seen, steps.Affine(scale, torch.tensor(0.0)))


def _negative(seen: Seen) -> list[Made]:
    return _one(seen, steps.Affine(torch.tensor(-1.0), torch.tensor(0.0)))


def _power(seen: Seen) -> list[Made]:
    if seen.get(1, "exponent", 2) != 2:
        raise seen.refuse("the exponent must be 2")
    return [(steps.Multiply(), (seen.x, seen.x), seen.result)]


def _matmul(seen: Seen) -> list[Made]:
    a, b = seen.get(0, "input"), seen.get(1, "other", seen.kwargs.get("mat2"))
    if isinstance(b, Tensor) and not seen.depends(b):
        if b.dim() != 2:
            raise seen.refuse("a constant matrix has two dimensions")
        return [(given.linear(b.t()), (seen.value(a),), seen.result)]
    return [(steps.MatMul(), (seen.value(a), seen.value(b)), seen.result)]


def _linear(seen: Seen) -> list[Made]:
    weight, bias = seen.constant(seen.get(1, "weight")), seen.constant(seen.get(2, "bias"))
    assert weight is not None
    return _one(seen, given.linear(weight, bias))


def _convolution(seen: Seen) -> list[Made]:
    weight, bias = seen.constant(seen.get(1, "weight")), seen.constant(seen.get(2, "bias"))
    names = (("stride", 1), ("padding", 0), ("dilation", 1), ("groups", 1))
    assert weight is not None
    return _one(seen, given.convolution(weight, bias, *(seen.get(i, *of) for i, of in enumerate(names, start=3))))


def _transposed(seen: Seen) -> list[Made]:
    weight, bias = seen.constant(seen.get(1, "weight")), seen.constant(seen.get(2, "bias"))
    names = (("stride", 1), ("padding", 0), ("output_padding", 0), ("groups", 1), ("dilation", 1))
    assert weight is not None
    try:
        parts = given.transposed(weight, bias, *(seen.get(i, *of) for i, of in enumerate(names, start=3)))
    except ValueError as error:
        raise seen.refuse(str(error)) from error
    return [(parts[0], (seen.x,), None), (parts[1], (), seen.result)]


def _batch_norm(seen: Seen) -> list[Made]:
    mean, variance, weight, bias = (
        seen.constant(seen.get(i, name))
        for i, name in enumerate(("running_mean", "running_var", "weight", "bias"), start=1)
    )
    if mean is None or variance is None or seen.get(5, "training", False):
        raise seen.refuse("it needs running statistics")
    kind: Any = nn.BatchNorm2d if seen.x.dim() == 4 else nn.BatchNorm1d
    layer = kind(len(mean), eps=seen.get(7, "eps", 1e-5), affine=False)
    layer.running_mean, layer.running_var = mean, variance
    for name, values in (("weight", weight), ("bias", bias)):
        layer.register_parameter(name, None if values is None else nn.Parameter(values, requires_grad=False))
    return _one(seen, layer.eval())


def _layer_norm(seen: Seen) -> list[Made]:
    shape = tuple(seen.get(1, "normalized_shape"))
    weight, bias = seen.constant(seen.get(2, "weight")), seen.constant(seen.get(3, "bias"))
    scale = torch.ones(shape) if weight is None else weight
    shift = torch.zeros(shape) if bias is None else bias
    return _one(seen, steps.LayerNorm(len(shape), scale, shift, seen.get(4, "eps", 1e-5)))


def _rms_norm(seen: Seen) -> list[Made]:
    shape, weight, eps = (
        tuple(seen.get(1, "normalized_shape")),
        seen.constant(seen.get(2, "weight")),
        seen.get(3, "eps"),
    )
    scale = torch.ones(shape) if weight is None else weight
    eps = torch.finfo(torch.float32).eps if eps is None else eps
    return _one(seen, steps.LayerNorm(len(shape), scale, torch.zeros(shape), eps, centre=False))


def _group_norm(seen: Seen) -> list[Made]:
    channels = seen.x.shape[1]
    weight, bias = seen.constant(seen.get(2, "weight")), seen.constant(seen.get(3, "bias"))
    scale = torch.ones(channels) if weight is None else weight
    shift = torch.zeros(channels) if bias is None else bias
    return _one(seen, steps.GroupNorm(seen.get(1, "num_groups"), scale, shift, seen.get(4, "eps", 1e-5)))


def _softmax(seen: Seen) -> list[Made]:
    dim = seen.get(1, "dim")
    if dim is None:
        raise seen.refuse("name its dim")
    return _one(seen, steps.Softmax(seen.dim(dim), "log" in seen.name))


def _attention(seen: Seen) -> list[Made]:
    q, k, v = (seen.value(seen.get(i, name)) for i, name in enumerate(("query", "key", "value")))
    if seen.get(3, "attn_mask") is not None or seen.kwargs.get("enable_gqa"):
        raise seen.refuse("masks other than is_causal and grouped queries are not supported")
    if seen.get(4, "dropout_p", 0.0):
        raise seen.refuse("dropout in evaluation")
    scale = seen.get(6, "scale")
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else float(scale)
    return [(steps.Attention(scale, bool(seen.get(5, "is_causal", False))), (q, k, v), seen.result)]


def _cat(seen: Seen) -> list[Made]:
    values = list(seen.get(0, "tensors"))
    dim = seen.get(1, "dim", seen.kwargs.get("axis", 0))
    dim = int(dim) % seen.result.dim()
    if dim == 0:
        raise Unknown(f"{seen.name} in its forward joins the inputs of a batch: dim=0")
    made: list[Made] = []
    any_value = next(value for value in values if seen.depends(value))
    parts = []
    for value in values:
        if not seen.depends(value):
            out = any_value.new_zeros(1).expand(value.shape).clone()
            part = _held(seen, value)
            made.append((steps.Constant(part), (any_value,), out))
            value = out
        parts.append(value)
    if len(parts) == 1:
        return [(nn.Identity(), (parts[0],), seen.result)]
    return [*made, (steps.Concat(dim - 1), tuple(parts), seen.result)]


def _stack(seen: Seen) -> list[Made]:
    values, dim = list(seen.get(0, "tensors")), int(seen.get(1, "dim", 0)) % seen.result.dim()
    if dim == 0:
        raise Unknown(f"{seen.name} in its forward joins the inputs of a batch: dim=0")
    made: list[Made] = []
    parts = []
    for value in values:
        value = seen.value(value)
        part = value.unsqueeze(dim)
        made.append((steps.View(tuple(part.shape[1:])), (value,), part))
        parts.append(part)
    return [*made, (steps.Concat(dim - 1), tuple(parts), seen.result)]


def _pieces(seen: Seen) -> list[Made]:
    dim = seen.dim(seen.get(2, "dim", seen.kwargs.get("axis", 0)))
    start = 0
    made: list[Made] = []
    for piece in seen.result:
        stop = start + piece.shape[dim + 1]
        made.append((steps.Slice(dim, start, stop), (seen.x,), piece))
        start = stop
    return made


def _unbind(seen: Seen) -> list[Made]:
    dim = seen.dim(seen.get(1, "dim", 0))
    made: list[Made] = []
    for i, piece in enumerate(seen.result):
        made.append((steps.Slice(dim, i, i + 1), (seen.x,), None))
        made.append((steps.View(tuple(piece.shape[1:])), (), piece))
    return made


def _select(seen: Seen) -> list[Made]:
    dim, place = seen.dim(seen.get(1, "dim")), int(seen.get(2, "index"))
    place %= seen.x.shape[dim + 1]
    return [
        (steps.Slice(dim, place, place + 1), (seen.x,), None),
        (steps.View(tuple(seen.result.shape[1:])), (), seen.result),
    ]


def _narrow(seen: Seen) -> list[Made]:
    start = int(seen.get(2, "start"))
    return _one(seen, steps.Slice(seen.dim(seen.get(1, "dim")), start, start + int(seen.get(3, "length"))))


def _item(seen: Seen) -> list[Made]:
    x, index = seen.x, seen.args[1]
    index = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in [part for part in index if not isinstance(part, Tensor)]:
        place = index.index(Ellipsis)
        named = sum(part is not None for part in index) - 1
        index[place : place + 1] = [slice(None)] * (x.dim() - named)
    if not index or index[0] != slice(None):
        raise seen.refuse("the first dimension, the batch, is taken whole")
    made: list[Made] = []
    dim = 0
    for part in index[1:]:
        if part is None:
            continue
        size = x.shape[dim + 1]
        if isinstance(part, slice):
            start, stop, step = part.indices(size)
        elif isinstance(part, int):
            start, step = part % size, 1
            stop = start + 1
        else:
            raise seen.refuse("an index is an integer or a slice")
        if step < 1:
            raise seen.refuse("a step is positive")
        if (start, stop, step) != (0, size, 1):
            made.append((steps.Slice(dim, start, stop, step), () if made else (x,), None))
        dim += 1
    made.append((steps.View(tuple(seen.result.shape[1:])), () if made else (x,), seen.result))
    return made


def _mean(seen: Seen) -> list[Made]:
    x, dims = seen.x, seen.get(1, "dim", seen.kwargs.get("axis"))
    if dims is None:
        raise seen.refuse("name its dim: without one it joins all inputs of a batch")
    dims = [dims] if isinstance(dims, int) else list(dims)
    found = tuple(sorted(seen.dim(dim) for dim in dims))
    keep, maximum = bool(seen.get(2, "keepdim", False)), "max" in seen.name
    if not isinstance(seen.result, Tensor):
        raise seen.refuse("it must give one value")
    if x.dim() == 4 and found == (1, 2):
        pool: nn.Module = nn.AdaptiveMaxPool2d(1) if maximum else nn.AdaptiveAvgPool2d(1)
        made: list[Made] = [(pool, (x,), None)]
    else:
        made = [(steps.Mean(found, maximum), (x,), None)]
    if seen.name == "sum":
        count = math.prod(x.shape[dim + 1] for dim in found)
        made.append((steps.Affine(torch.tensor(float(count)), torch.tensor(0.0)), (), None))
    shape = tuple(seen.result.shape[1:])
    made.append(
        (nn.Flatten() if not keep and len(shape) == 1 and x.dim() == 4 else steps.View(shape), (), seen.result)
    )
    return made


def _two(value: Any, whole: int) -> Any:
    """A window's option for two dimensions, where it may be for one."""
    if whole == 2 or value is None:
        return value
    return value[0] if isinstance(value, tuple | list) else value


def _max_pool(seen: Seen) -> list[Made]:
    one = "1d" in seen.name
    names = (("kernel_size", None), ("stride", None), ("padding", 0), ("dilation", 1), ("ceil_mode", False))
    size, stride, padding, dilation, ceil_mode = (seen.get(i, *of) for i, of in enumerate(names, start=1))
    if seen.get(6, "return_indices", False) or not isinstance(seen.result, Tensor):
        raise seen.refuse("indices are not supported")
    stride = size if stride is None or stride == [] else stride
    if one:
        size, stride, padding, dilation = (
            (n, int(_two(v, 1))) for n, v in zip((1, 1, 0, 1), (size, stride, padding, dilation), strict=True)
        )
    return _one(seen, nn.MaxPool2d(size, stride, padding, dilation, False, ceil_mode))


def _avg_pool(seen: Seen) -> list[Made]:
    one = "1d" in seen.name
    names = (
        ("kernel_size", None),
        ("stride", None),
        ("padding", 0),
        ("ceil_mode", False),
        ("count_include_pad", True),
    )
    size, stride, padding, ceil_mode, include = (seen.get(i, *of) for i, of in enumerate(names, start=1))
    stride = size if stride is None or stride == [] or stride == () else stride
    if one:
        size, stride, padding = (
            (n, int(_two(v, 1))) for n, v in zip((1, 1, 0), (size, stride, padding), strict=True)
        )
    return _one(seen, nn.AvgPool2d(size, stride, padding, ceil_mode, include, seen.get(6, "divisor_override")))


def _adaptive(kind: Any, maximum: bool) -> Callable[[Seen], list[Made]]:
    def make(seen: Seen) -> list[Made]:
        size = seen.get(1, "output_size")
        if seen.x.dim() == 4:
            return _one(seen, kind(size))
        if _two(size, 1) != 1:
            raise seen.refuse("only an output of length 1 is supported")
        return [
            (steps.Mean((1,), maximum), (seen.x,), None),
            (steps.View(tuple(seen.result.shape[1:])), (), seen.result),
        ]

    return make


def _resize(seen: Seen) -> list[Made]:
    x, y, mode = seen.x, seen.result, seen.get(3, "mode", "nearest")
    if x.dim() != 4 or mode not in ("nearest", "bilinear") or seen.kwargs.get("antialias"):
        raise seen.refuse("images are resized by the modes nearest and bilinear")
    factor = seen.get(2, "scale_factor")
    size = tuple(y.shape[2:])
    factors = factor if isinstance(factor, tuple | list) else (factor, factor)
    if factor is not None and any(n * by != out for n, by, out in zip(x.shape[2:], factors, size, strict=True)):
        raise seen.refuse("a scale factor gives a whole number of pixels")
    if mode == "bilinear" and seen.get(4, "align_corners"):
        mode = "bilinear_corners"
    return _one(seen, steps.Resize(size, mode))


def _pad(seen: Seen) -> list[Made]:
    sides, mode, value = list(seen.get(1, "pad")), seen.get(2, "mode", "constant"), seen.get(3, "value", 0)
    if not any(sides):
        return _one(seen, nn.Identity())
    if mode != "constant" or value or len(sides) > 4 or min(sides) < 0 or seen.x.dim() not in (3, 4):
        raise seen.refuse("images are padded with zeros")
    if len(sides) > 2 and seen.x.dim() == 3:
        raise seen.refuse("images are padded with zeros")
    left, right, top, bottom = [int(n) for n in (*sides, *[0] * (4 - len(sides)))]
    return _one(seen, steps.ZeroPad((1, 1), (top, left), (bottom, right)))


def _pixel_shuffle(seen: Seen) -> list[Made]:
    r = int(seen.get(1, "upscale_factor"))
    channels, height, width = seen.x.shape[1:]
    return [
        (steps.View((channels // r**2, r, r, height, width)), (seen.x,), None),
        (steps.Permute((0, 3, 1, 4, 2)), (), None),
        (steps.View(tuple(seen.result.shape[1:])), (), seen.result),
    ]


def multi_head_attention(
    module: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, None]:
    """What `nn.MultiheadAttention` computes in evaluation, of plain functions; without its weights.

    Raises:
        Unknown: it has masks, or more than its three matrices.
    """
    if module.bias_k is not None or module.add_zero_attn or key_padding_mask is not None:
        raise Unknown("masks and added keys of attention are not supported")
    causal = attn_mask is not None
    if attn_mask is not None:
        seen = ~attn_mask if attn_mask.dtype == torch.bool else attn_mask == 0
        if not torch.equal(seen, torch.ones_like(seen).tril()):
            raise Unknown("masks of attention other than the causal one are not supported")
    if module._qkv_same_embed_dim:
        matrices = module.in_proj_weight.chunk(3)
    else:
        matrices = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    biases = (None,) * 3 if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
    if not module.batch_first:
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    heads: list[Tensor] = []
    for x, weight, bias in zip((query, key, value), matrices, biases, strict=True):
        y = nn.functional.linear(x, weight, bias)
        heads.append(y.reshape(*y.shape[:2], module.num_heads, module.head_dim).transpose(1, 2))
    y = nn.functional.scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=causal)
    y = y.transpose(1, 2).flatten(2)
    y = nn.functional.linear(y, module.out_proj.weight, module.out_proj.bias)
    return (y if module.batch_first else y.transpose(0, 1)), None


def permuted(name: str, dims: int, args: Any, kwargs: Any) -> tuple[int, ...] | None:
    """The order of axes that a function gives; None where it does not permute."""
    order = list(range(dims))
    if name in ("permute",):
        given = kwargs.get("dims", args[0] if len(args) == 1 and isinstance(args[0], tuple | list) else args)
        order = [int(axis) % dims for axis in given]
    elif name in ("transpose", "swapaxes", "swapdims", "transpose_"):
        pair = [*args, *kwargs.values()]
        a, b = (int(axis) % dims for axis in pair)
        order[a], order[b] = order[b], order[a]
    elif name in ("T", "mT", "t", "adjoint") and dims >= 2:
        order[-2:] = order[:-3:-1]
    elif name == "movedim":
        names = ("source", "destination")
        pair = [*args, *(kwargs[key] for key in names if key in kwargs)]
        source, target = ([axis] if isinstance(axis, int) else list(axis) for axis in pair)
        source, target = [a % dims for a in source], [a % dims for a in target]
        rest = iter(axis for axis in order if axis not in source)
        places = dict(zip(target, source, strict=True))
        order = [places[i] if i in places else next(rest) for i in range(dims)]
    else:
        return None
    return tuple(order)


def _keyed(
    names: Iterable[str], make: Callable[[Seen], Sequence[Made]]
) -> dict[str, Callable[[Seen], Sequence[Made]]]:
    return dict.fromkeys(names, make)


FUNCTIONS: dict[str, Callable[[Seen], Sequence[Made]]] = {
    **_keyed(("relu", "relu_"), _layer(nn.ReLU)),
    "relu6": _layer(nn.ReLU6),
    **_keyed(("leaky_relu", "leaky_relu_"), _leaky),
    **_keyed(("hardtanh", "hardtanh_"), _hardtanh),
    **_keyed(("clamp", "clip", "clamp_", "clip_"), _clamp),
    **_keyed(("clamp_min", "clamp_min_"), _clamp_min),
    **_keyed(("tanh", "tanh_"), _layer(nn.Tanh)),
    **_keyed(("prelu",), _prelu),
    "gelu": _gelu,
    **_keyed(("silu", "silu_"), _function("silu")),
    **_keyed(("sigmoid", "sigmoid_"), _function("sigmoid")),
    "softplus": _softplus,
    "mish": _function("mish"),
    **_keyed(("elu", "elu_"), _elu),
    "hardswish": _function("hardswish"),
    "hardsigmoid": _function("hardsigmoid"),
    **_keyed(("exp", "exp_"), _function("exp")),
    **_keyed(("abs", "abs_", "absolute", "__abs__"), _function("abs")),
    **_keyed(("flatten", "view", "reshape", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as"), _view),
    **_keyed(("expand", "expand_as", "broadcast_to"), _expand),
    **_keyed(("permute", "transpose", "swapaxes", "swapdims", "movedim", "T", "mT", "t"), _permute),
    **_keyed(("add", "add_", "__add__", "__radd__", "__iadd__"), _add),
    **_keyed(("sub", "sub_", "subtract", "__sub__", "__isub__"), _subtract),
    **_keyed(("rsub", "__rsub__"), _subtracted),
    **_keyed(("mul", "mul_", "multiply", "__mul__", "__rmul__", "__imul__"), _multiply),
    **_keyed(("div", "div_", "divide", "true_divide", "__truediv__", "__itruediv__", "__div__"), _divide),
    **_keyed(("neg", "negative", "__neg__"), _negative),
    **_keyed(("pow", "square", "__pow__"), _power),
    **_keyed(("matmul", "bmm", "__matmul__"), _matmul),
    "linear": _linear,
    **_keyed(("conv1d", "conv2d"), _convolution),
    **_keyed(("conv_transpose1d", "conv_transpose2d"), _transposed),
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    **_keyed(("softmax", "log_softmax"), _softmax),
    "scaled_dot_product_attention": _attention,
    **_keyed(("cat", "concat", "concatenate"), _cat),
    "stack": _stack,
    **_keyed(("chunk", "split", "tensor_split", "split_with_sizes"), _pieces),
    "unbind": _unbind,
    "select": _select,
    "narrow": _narrow,
    "__getitem__": _item,
    **_keyed(("mean", "sum", "amax"), _mean),
    **_keyed(("max_pool1d", "max_pool2d", "boolean_dispatch"), _max_pool),
    **_keyed(("avg_pool1d", "avg_pool2d"), _avg_pool),
    **_keyed(("adaptive_avg_pool1d", "adaptive_avg_pool2d"), _adaptive(nn.AdaptiveAvgPool2d, False)),
    **_keyed(("adaptive_max_pool1d", "adaptive_max_pool2d"), _adaptive(nn.AdaptiveMaxPool2d, True)),
    **_keyed(("interpolate", "upsample"), _resize),
    **_keyed(("pad",), _pad),
    "pixel_shuffle": _pixel_shuffle,
}  # fmt: skip
"""What computes each function, by its name in torch."""

SAME = {
    "contiguous", "clone", "detach", "detach_", "alias", "data", "requires_grad_", "to", "float", "type_as", "cpu",
    "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout", "dropout_", "positive",
    "__pos__", "retain_grad",
}  # fmt: skip
"""Functions that give their input, in evaluation and in float32."""
