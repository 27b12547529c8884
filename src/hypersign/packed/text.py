"""Packed language models: a recurrent network or a transformer, run on tokens without torch.

The file is one safetensors file. Its metadata has the structure as JSON under `hypersign-text`, and the SHA-256 of
that text and of all tensors under `sha256`. A product NAME has the tensors `NAME.levels` (uint64 words, one row per
filter; for ternary levels two planes) and `NAME.scale` (float32, one per filter), or `NAME.weight` (float32).
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypersign._checks import HypersignError, check_choice, check_int, check_real
from hypersign._files import open_file, write_atomic
from hypersign._json import parse_object
from hypersign._safetensors import header_bytes, read_header
from hypersign.bits import Filters8, unpack, unpack_ternary
from hypersign.packed.format import TEXT_KEY

__all__ = ["PackedText", "continued", "is_packed_text", "write_text"]

VERSION = 1

Floats = NDArray[np.float32]
Memory = list[tuple[Floats, ...]]
"""Per layer: states of a recurrent layer, or keys and values of a block."""

_TYPES: dict[str, np.dtype[Any]] = {"U64": np.dtype("<u8"), "F32": np.dtype("<f4")}


def write_text(path: Path, structure: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
    """Writes a packed language model; the file is complete or absent."""
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    codes = {"<u8": "U64", "<f4": "F32"}
    text = json.dumps({"version": VERSION, **structure}, separators=(",", ":"))
    body = b"".join(np.ascontiguousarray(tensors[name]).tobytes() for name in names)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass") + body).hexdigest()
    entries = {name: (codes[tensors[name].dtype.newbyteorder("<").str], tensors[name].shape) for name in names}
    write_atomic(path, header_bytes(entries, {TEXT_KEY: text, "sha256": digest}) + body)


def is_packed_text(path: Path) -> bool:
    """Whether a file is a packed language model, by its header."""
    try:
        with path.open("rb") as stream:
            return TEXT_KEY in read_header(stream).metadata
    except (OSError, HypersignError):
        return False


INPUTS = ("real", "int8", "sign")
"""What a product reads: numbers, 8-bit levels with a scale per token, or signs."""

GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}
"""The recurrent cells, and the rows per unit of their matrices."""

PARTS = ("query", "key", "value", "output", "up", "down")
"""The products of a block; `gate` may be one more."""

MOST = 2**20
"""The most classes, units and layers: far above any network, far below what memory holds."""


class _Tensors:
    """The tensors of a file, each of which is taken once, with its type and shape."""

    def __init__(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        self.left = dict(tensors)

    def take(self, name: str, dtype: Any, *shape: int) -> NDArray[Any]:
        """The tensor `name`.

        Raises:
            HypersignError: it is missing, has another type or shape, or holds numbers that are not finite.
        """
        found = self.left.pop(name, None)
        if found is None or found.dtype != dtype or found.shape != shape:
            given = "missing" if found is None else f"{found.dtype} of shape {found.shape}"
            raise HypersignError(f"the tensor {name!r} must be {np.dtype(dtype)} of shape {shape}; it is {given}")
        if found.dtype == np.float32 and not np.isfinite(found).all():
            raise HypersignError(f"the tensor {name!r} must hold finite numbers; it holds NaN or infinity")
        return found

    def optional(self, name: str, *shape: int) -> Floats | None:
        """A float32 tensor, or None where there is none."""
        return self.take(name, np.float32, *shape) if name in self.left else None

    def planes(self, name: str) -> tuple[int, ...]:
        """`(2,)` where packed levels are ternary, else nothing."""
        return (2,) if name in self.left and self.left[name].ndim == 3 else ()


class _Product:
    """A matrix with its inputs' quantizer: "real", "int8" (a scale per token) or "sign"."""

    def __init__(self, name: str, tensors: _Tensors, outputs: int, features: int, inputs: str) -> None:
        self.inputs, self.filters8, self.scale = check_choice("inputs", inputs, INPUTS), None, None
        matrix = tensors.optional(f"{name}.weight", outputs, features)
        if matrix is not None:
            self.matrix = matrix
            return
        shape = (*tensors.planes(f"{name}.levels"), outputs, -(-features // 64))
        words = tensors.take(f"{name}.levels", np.uint64, *shape)
        scale = tensors.take(f"{name}.scale", np.float32, outputs)
        if inputs == "int8":
            self.filters8 = Filters8(words, features, scale=scale[:, None])
        else:
            levels = unpack(words, features) if words.ndim == 2 else unpack_ternary(words, features)
            self.matrix, self.scale = levels.astype(np.float32), scale

    def __call__(self, x: Floats) -> Floats:
        flat = x.reshape(-1, x.shape[-1])
        if self.inputs == "int8":
            scale = np.maximum(np.abs(flat).max(1, initial=0, keepdims=True), np.float32(1e-5)) / np.float32(127)
            levels = np.clip(np.rint(flat / scale), -127, 127)
            if self.filters8 is not None:
                y = self.filters8.matmul(levels.astype(np.int8), scale[:, 0])
            else:
                y = levels @ self.matrix.T * scale
            return y.reshape(*x.shape[:-1], -1)
        levels = np.where(flat >= 0, np.float32(1), np.float32(-1)) if self.inputs == "sign" else flat
        y = levels @ self.matrix.T
        y = y if self.scale is None else y * self.scale
        return y.reshape(*x.shape[:-1], -1)


def _keys(what: str, found: Any, *keys: str) -> Mapping[str, Any]:
    """`found`, which must be a JSON object with these keys.

    Raises:
        HypersignError: it is another thing, or has other keys.
    """
    if not isinstance(found, dict) or set(found) != set(keys):
        raise HypersignError(f"{what} must have {', '.join(keys)}; it is {found!r:.80}")
    return found


def _checked(structure: Mapping[str, Any]) -> Mapping[str, Any]:
    """The structure of a file; its layers are checked when they are made.

    Raises:
        HypersignError: an entry is missing, or outside its range.
    """
    found = _keys("its structure", structure, "version", "kind", "classes", "unit", "context", "layers")
    check_choice("kind", found["kind"], ("lstm", "gpt"))
    check_choice("unit", found["unit"], ("characters", "bytes"))
    for name in ("classes", "layers"):
        if not isinstance(found[name], list) or not 1 <= len(found[name]) <= MOST:
            raise HypersignError(f"{name} must be a list of 1 to {MOST}; it is {found[name]!r:.80}")
    if not all(isinstance(name, str) for name in found["classes"]):
        raise HypersignError("classes must be strings")
    if found["kind"] == "gpt":
        check_int("context", found["context"], min=1, max=MOST)
    elif found["context"] is not None:
        raise HypersignError(f"a recurrent network has no context; the file says {found['context']!r:.40}")
    return found


def _sigmoid(x: Floats) -> Floats:
    with np.errstate(over="ignore"):  # exp(-x) = inf gives 0
        return np.float32(1) / (np.float32(1) + np.exp(-x))


def _rms(x: Floats, weight: Floats | None) -> Floats:
    if weight is None:
        return x
    return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + np.float32(1e-5)) * weight


def _softmax(x: Floats) -> Floats:
    y = np.exp(x - x.max(-1, keepdims=True))
    return y / y.sum(-1, keepdims=True)


class PackedText:
    """A packed language model, ready to predict the next token. It needs no torch.

    `classes` is the vocabulary, `unit` says what tokens are ("characters" or "bytes"), and `context` is the most
    tokens that a transformer sees at once (None: a recurrent network). Ternary and binary products with 8-bit inputs
    run on bits (`Filters8`); products with real inputs unpack their levels once, to float32.

    Load it with `PackedText.load`.
    """

    def __init__(self, structure: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], size: int) -> None:
        found, own = _checked(structure), _Tensors(tensors)
        self._size = size
        self.source = structure, tensors
        """The structure and the tensors of the file, for what writes it in other formats."""
        self.kind: str = found["kind"]
        self.classes = tuple(found["classes"])
        self.unit: str = found["unit"]
        self.context: int | None = found["context"]
        shape = tensors["embedding"].shape if "embedding" in tensors else ()
        width = shape[1] if len(shape) == 2 else 0
        self._embedding = own.take("embedding", np.float32, len(self.classes), width)
        self._layers: list[_Recurrent | _Block] = []
        for number, layer in enumerate(found["layers"], 1):
            make = _Recurrent if self.kind == "lstm" else _Block
            try:
                made = make(f"layer{number}", layer, own, width)
            except HypersignError as error:
                raise HypersignError(f"layer {number}: {error}") from error
            self._layers.append(made)
            width = made.width
        self._norm = own.take("norm", np.float32, width) if self.kind == "gpt" else None
        self._head = _Product("head", own, len(self.classes), width, "real")
        self._bias = own.optional("head.bias", len(self.classes))
        if own.left:
            raise HypersignError(f"every tensor must belong to a layer; {next(iter(own.left))!r:.40} does not")

    @classmethod
    def load(cls, file: str | Path) -> "PackedText":
        """Reads a packed language model.

        Raises:
            HypersignError: the file is missing, truncated, damaged, or another kind of file.
        """
        path = Path(file)
        with open_file(path, " as a packed language model") as stream:
            try:
                header = read_header(stream)
                text = header.metadata.get(TEXT_KEY)
                if text is None:
                    raise HypersignError("it is no packed language model: hypersign pack writes one of a run on text")
                if other := {entry.dtype for entry in header.tensors.values()} - set(_TYPES):
                    raise HypersignError(f"its tensors must be of the types U64 and F32; it has {', '.join(other)}")
                body = stream.read()
                digest = hashlib.sha256(text.encode("utf-8", "surrogatepass") + body).hexdigest()
                if digest != header.metadata.get("sha256"):
                    raise HypersignError("its content does not give its sha256: restore it or pack again")
                structure = parse_object("its structure", text)
                if structure.get("version") != VERSION:
                    raise HypersignError(
                        f"it must be of version {VERSION}, and says {structure.get('version')!r:.20}: open it with "
                        "the HyperSign that wrote it"
                    )
                tensors = {
                    name: np.frombuffer(body[entry.start : entry.stop], _TYPES[entry.dtype]).reshape(entry.shape)
                    for name, entry in header.tensors.items()
                }
                return cls(structure, tensors, len(header.raw) + len(body))
            except HypersignError as error:
                raise HypersignError(f"{path}: {error!s:.500}") from error

    def __repr__(self) -> str:
        return f"PackedText({self.kind}, {len(self.classes)} {self.unit}, {self._size:,} bytes)"

    def predict(self, tokens: NDArray[Any]) -> Floats:
        """Logits of the next token at each position: integers `(N, T)` -> float32 `(N, T, classes)`.

        Raises:
            HypersignError: tokens have another type or shape, or are outside the vocabulary.
        """
        return self.read(tokens)[0]

    def read(self, tokens: NDArray[Any], memory: Memory | None = None) -> tuple[Floats, Memory]:
        """`predict` for a piece of sequences, with the memory of the pieces before it; also gives the new memory."""
        tokens = np.asarray(tokens)
        if tokens.ndim != 2 or tokens.dtype.kind not in "iu" or not tokens.shape[1]:
            raise HypersignError(
                f"tokens must be integers of shape (N, positions); got {tokens.dtype} of shape {tokens.shape}"
            )
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < len(self.classes):
            wrong = tokens.min() if tokens.min() < 0 else tokens.max()
            raise HypersignError(f"tokens must be integers from 0 to {len(self.classes) - 1}; got {wrong}")
        x, after = self._embedding[tokens], []
        for number, layer in enumerate(self._layers):
            x, kept = layer(x, None if memory is None else memory[number])
            after.append(kept)
        y = self._head(x if self._norm is None else _rms(x, self._norm))
        return (y if self._bias is None else y + self._bias), after


class _Recurrent:
    """A recurrent layer: LSTM, GRU or RNN."""

    def __init__(self, name: str, layer: Any, tensors: _Tensors, width: int) -> None:
        layer = _keys("it", layer, "cell", "units", "inputs", "hidden")
        self.cell = check_choice("cell", layer["cell"], tuple(GATES))
        self.width = units = check_int("units", layer["units"], min=1, max=MOST)
        rows = GATES[self.cell] * units
        self.ih = _Product(f"{name}.ih", tensors, rows, width, layer["inputs"])
        self.hh = _Product(f"{name}.hh", tensors, rows, units, layer["hidden"])
        self.bias = {kind: tensors.optional(f"{name}.{kind}.bias", rows) for kind in ("ih", "hh")}
        sizes = (("ih", rows), ("hh", rows), ("c", units))
        self.norms = {kind: self._norm(f"{name}.norm_{kind}", tensors, size) for kind, size in sizes}

    def _norm(self, name: str, tensors: _Tensors, size: int) -> Callable[[Floats], Floats] | None:
        weight, bias = tensors.optional(f"{name}.weight", size), tensors.optional(f"{name}.bias", size)
        if weight is None:
            return None
        bias = np.zeros(size, np.float32) if bias is None else bias
        mean = tensors.optional(f"{name}.mean", size)
        if mean is not None:
            variance = tensors.take(f"{name}.variance", np.float32, size)
            if (variance < 0).any():
                raise HypersignError(f"the tensor {name}.variance must hold no negative number")
            deviation: Floats = np.sqrt(variance + np.float32(1e-5))
            return lambda x: (x - mean) / deviation * weight + bias

        def layer(x: Floats) -> Floats:
            centred = x - x.mean(-1, keepdims=True)
            return centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + np.float32(1e-5)) * weight + bias

        return layer

    def _added(self, kind: str, x: Floats) -> Floats:
        norm, bias = self.norms[kind], self.bias[kind]
        x = x if norm is None else norm(x)
        return x if bias is None else x + bias

    def __call__(self, x: Floats, memory: tuple[Floats, ...] | None) -> tuple[Floats, tuple[Floats, ...]]:
        zero = np.zeros((len(x), self.width), np.float32)
        state = ((zero, zero) if self.cell == "LSTM" else (zero,)) if memory is None else memory
        from_inputs = self._added("ih", self.ih(x))
        outputs = np.empty((*x.shape[:2], self.width), np.float32)
        for t in range(x.shape[1]):
            state = self._step(from_inputs[:, t], self._added("hh", self.hh(state[0])), state)
            outputs[:, t] = state[0]
        return outputs, state

    def _step(self, x: Floats, h: Floats, state: tuple[Floats, ...]) -> tuple[Floats, ...]:
        if self.cell == "LSTM":
            i, f, g, o = np.split(x + h, 4, -1)
            c = _sigmoid(f) * state[1] + _sigmoid(i) * np.tanh(g)
            norm = self.norms["c"]
            return _sigmoid(o) * np.tanh(c if norm is None else norm(c)), c
        if self.cell == "GRU":
            (xr, xz, xn), (hr, hz, hn) = np.split(x, 3, -1), np.split(h, 3, -1)
            n = np.tanh(xn + _sigmoid(xr + hr) * hn)
            return (n + _sigmoid(xz + hz) * (state[0] - n),)
        return (np.tanh(x + h) if self.cell == "RNN_TANH" else np.maximum(x + h, 0),)


class _Block:
    """A block of the transformer; see `models.gpt`."""

    def __init__(self, name: str, layer: Any, tensors: _Tensors, width: int) -> None:
        layer = _keys("it", layer, "heads", "feed_forward_units", "inputs")
        self.width = width
        self.heads = check_int("heads", layer["heads"], min=1, max=width)
        if width % (2 * self.heads):
            raise HypersignError(f"heads must divide the width {width} into even parts; got {self.heads}")
        units = check_int("feed_forward_units", layer["feed_forward_units"], min=1, max=MOST)
        gated = isinstance(layer["inputs"], dict) and "gate" in layer["inputs"]
        given = _keys("inputs", layer["inputs"], *PARTS, *(["gate"] if gated else []))
        norms = (("norm1", width), ("norm2", width), ("inner1", width), ("inner2", units))
        self.norms = {part: tensors.optional(f"{name}.{part}", size) for part, size in norms}
        self.products = {
            part: _Product(
                f"{name}.{part}",
                tensors,
                units if part in ("up", "gate") else width,
                units if part == "down" else width,
                given[part],
            )
            for part in given
        }

    def __call__(self, x: Floats, memory: tuple[Floats, ...] | None) -> tuple[Floats, tuple[Floats, ...]]:
        product, (count, length, width) = self.products, x.shape
        normed = _rms(x, self.norms["norm1"])
        shape = count, length, self.heads, width // self.heads
        q, k, v = (product[part](normed).reshape(shape).transpose(0, 2, 1, 3) for part in ("query", "key", "value"))
        start = 0 if memory is None else memory[0].shape[2]
        q, k = _rotated(q, start), _rotated(k, start)
        if memory is not None:
            k, v = np.concatenate((memory[0], k), 2), np.concatenate((memory[1], v), 2)
        scores = q @ k.transpose(0, 1, 3, 2) / np.float32(np.sqrt(shape[3]))
        seen = np.tri(length, start + length, start, dtype=bool)
        mixed = _softmax(np.where(seen, scores, np.float32(-np.inf))) @ v
        mixed = mixed.transpose(0, 2, 1, 3).reshape(count, length, width)
        x = x + product["output"](_rms(mixed, self.norms["inner1"]))
        normed = _rms(x, self.norms["norm2"])
        up = product["up"](normed)
        if "gate" in product:
            gate = product["gate"](normed)
            inside = gate * _sigmoid(gate) * up
        else:
            inside = _gelu(up)
        return x + product["down"](_rms(inside, self.norms["inner2"])), (k, v)


def _gelu(x: Floats) -> Floats:
    from scipy.special import erf

    return np.float32(0.5) * x * (1 + erf(x / np.float32(np.sqrt(2))))


def _rotated(x: Floats, start: int) -> Floats:
    half = x.shape[-1] // 2
    rates = np.float32(10000) ** (-np.arange(half, dtype=np.float32) / np.float32(half))
    angles = np.arange(start, start + x.shape[2], dtype=np.float32)[:, None] * rates
    cos, sin = np.cos(angles), np.sin(angles)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate((a * cos - b * sin, b * cos + a * sin), -1)


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is drawn: from softmax(logits / temperature), of the `top_k` likeliest alone.

    Raises:
        HypersignError: a number outside its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_real("temperature", self.temperature, min=0)
        check_int("seed", self.seed, min=0)
        if self.top_k is not None:
            check_int("top_k", self.top_k, min=1)

    def draw(self, logits: NDArray[Any], generator: np.random.Generator) -> int:
        """One token for logits `(classes,)`."""
        logits = np.asarray(logits, np.float64)
        if self.temperature == 0:
            return int(logits.argmax())
        if self.top_k is not None and self.top_k < len(logits):
            logits = np.where(logits < np.partition(logits, -self.top_k)[-self.top_k], -np.inf, logits)
        weights = np.exp((logits - logits.max()) / self.temperature)
        place = generator.random() * weights.sum()
        return min(int(np.searchsorted(np.cumsum(weights), place, side="right")), len(weights) - 1)


Read = Callable[[list[int], Any], tuple[NDArray[Any], Any]]
"""Reads a piece of a text with the memory before it; gives the logits after its last token, and the new memory."""


def continued(
    read: Read, tokens: Sequence[int], count: int, sampling: Sampling, context: int | None = None
) -> Iterator[int]:
    """Draws the tokens that follow, one at a time.

    When `context` tokens are read, reading starts again from the last half of them.

    Raises:
        HypersignError: there is no token to continue, or `count` is negative.
    """
    check_int("count", count, min=0)
    if not len(tokens):
        raise HypersignError("a text to continue must have at least one token; got none")
    generator = np.random.default_rng(sampling.seed)
    seen, piece, memory, used = list(tokens), list(tokens), None, 0
    if context is not None:
        piece = piece[-context:]
    for _ in range(count):
        if context is not None and used + len(piece) > context:
            piece, memory, used = seen[-max(1, context // 2) :], None, 0
        logits, memory = read(piece, memory)
        used += len(piece)
        token = sampling.draw(logits, generator)
        seen.append(token)
        piece = [token]
        yield token
