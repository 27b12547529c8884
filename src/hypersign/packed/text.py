"""Packed language models: a recurrent network or a transformer, run on tokens without torch.

The file is one safetensors file. Its metadata has the structure as JSON under `hypersign-text`, and the SHA-256 of
that text and of all tensors under `sha256`. A product NAME has the tensors `NAME.levels` (uint64 words, one row per
filter; for ternary levels two planes) and `NAME.scale` (float32, one per filter), or `NAME.weight` (float32).
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypersign._checks import HypersignError, check_choice, check_int, check_real
from hypersign._files import open_file, write_atomic
from hypersign._json import parse_object
from hypersign._safetensors import header_bytes, read_header
from hypersign.packed.cells import MOST, Floats, Matrix, Recurrent, Tensors, keys
from hypersign.packed.format import TEXT_KEY
from hypersign.packed.functions import attention, gelu, sigmoid

__all__ = ["PackedText", "continued", "is_packed_text", "write_text"]

VERSION = 1

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


PARTS = ("query", "key", "value", "output", "up", "down")
"""The products of a block; `gate` may be one more."""


def _checked(structure: Mapping[str, Any]) -> Mapping[str, Any]:
    """The structure of a file; its layers are checked when they are made.

    Raises:
        HypersignError: an entry is missing, or outside its range.
    """
    found = keys("its structure", structure, "version", "kind", "classes", "unit", "context", "layers")
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


def _rms(x: Floats, weight: Floats | None) -> Floats:
    if weight is None:
        return x
    return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + np.float32(1e-5)) * weight


@dataclasses.dataclass(frozen=True)
class Content:
    """What a file holds: the structure, the tensors, and its size in bytes."""

    structure: Mapping[str, Any]
    tensors: Mapping[str, NDArray[Any]]
    size: int
    sha256: str


def _read(path: Path) -> Content:
    """Reads a file and checks that it is whole."""
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
            return Content(structure, tensors, len(header.raw) + len(body), digest)
        except HypersignError as error:
            raise HypersignError(f"{path}: {error!s:.500}") from error


class PackedText:
    """A packed language model, ready to predict the next token. It needs no torch.

    `classes` is the vocabulary, `unit` says what tokens are ("characters" or "bytes"), and `context` is the most
    tokens that a transformer sees at once (None: a recurrent network). Ternary and binary products with 8-bit inputs
    run on bits (`Filters8`); products with real or sign inputs unpack their levels once, to float32.

    Load it with `PackedText.load`.
    """

    def __init__(self, path: Path, content: "Content") -> None:
        structure, tensors = content.structure, content.tensors
        found, own = _checked(structure), Tensors(tensors)
        self._path, self._size, self._sha256 = path, content.size, content.sha256
        self.kind: str = found["kind"]
        self.classes = tuple(found["classes"])
        self.unit: str = found["unit"]
        self.context: int | None = found["context"]
        shape = tensors["embedding"].shape if "embedding" in tensors else ()
        width = shape[1] if len(shape) == 2 else 0
        self._embedding = own.take("embedding", np.float32, len(self.classes), width)
        self._layers: list[Recurrent | _Block] = []
        for number, layer in enumerate(found["layers"], 1):
            make = Recurrent if self.kind == "lstm" else _Block
            try:
                made = make(f"layer{number}", layer, own, width)
            except HypersignError as error:
                raise HypersignError(f"layer {number}: {error}") from error
            self._layers.append(made)
            width = made.width
        self._norm = own.take("norm", np.float32, width) if self.kind == "gpt" else None
        self._head = Matrix("head", own, len(self.classes), width, "real")
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
        content = _read(path)
        try:
            return cls(path.absolute(), content)
        except HypersignError as error:
            raise HypersignError(f"{path}: {error!s:.500}") from error

    def content(self) -> "Content":
        """The structure and the tensors, read again from the file, for what writes them in other formats.

        Raises:
            HypersignError: the file is gone, or has changed.
        """
        found = _read(self._path)
        if found.sha256 != self._sha256:
            raise HypersignError(f"{self._path} has changed since it was loaded: load it again")
        return found

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
        try:
            tokens = np.asarray(tokens)
        except ValueError as error:
            raise HypersignError(
                "tokens must be sequences of equal length, (N, positions): read others apart"
            ) from error
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


class _Block:
    """A block of the transformer; see `models.gpt`."""

    def __init__(self, name: str, layer: Any, tensors: Tensors, width: int) -> None:
        layer = keys("it", layer, "heads", "feed_forward_units", "inputs")
        self.width = width
        self.heads = check_int("heads", layer["heads"], min=1, max=width)
        if width % (2 * self.heads):
            raise HypersignError(f"heads must divide the width {width} into even parts; got {self.heads}")
        units = check_int("feed_forward_units", layer["feed_forward_units"], min=1, max=MOST)
        gated = isinstance(layer["inputs"], dict) and "gate" in layer["inputs"]
        given = keys("inputs", layer["inputs"], *PARTS, *(["gate"] if gated else []))
        norms = (("norm1", width), ("norm2", width), ("inner1", width), ("inner2", units))
        self.norms = {part: tensors.optional(f"{name}.{part}", size) for part, size in norms}
        self.products = {
            part: Matrix(
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
        seen = np.tri(length, start + length, start, dtype=bool)
        mixed = attention(q, k, v, 1 / math.sqrt(shape[3]), seen)
        mixed = mixed.transpose(0, 2, 1, 3).reshape(count, length, width)
        x = x + product["output"](_rms(mixed, self.norms["inner1"]))
        normed = _rms(x, self.norms["norm2"])
        up = product["up"](normed)
        if "gate" in product:
            gate = product["gate"](normed)
            inside = gate * sigmoid(gate) * up
        else:
            inside = gelu(up)
        return x + product["down"](_rms(inside, self.norms["inner2"])), (k, v)


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
