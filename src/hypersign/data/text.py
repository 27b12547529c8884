"""Texts as data: characters or bytes, in contiguous streams or in windows."""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from hypersign._checks import HypersignError, check_int
from hypersign._display import shown
from hypersign.data.base import Data
from hypersign.data.batches import Epochs
from hypersign.data.files import obtain_text, read_file
from hypersign.data.sources import TextSource
from hypersign.tasks import NextToken, Task, check_numbers

__all__ = ["LENGTH", "TextBatches", "TextData", "TextSplit", "decode", "encode", "load_text", "load_text_file"]

LENGTH = 100
"""Characters per sequence, unless a recipe says otherwise."""

EVALUATED = 2**13
"""Characters per batch of an evaluation."""


@shown
@dataclasses.dataclass(frozen=True, eq=False)
class TextSplit:
    """A part of a text: the numbers of its characters, int64, of shape `(N,)`.

    Raises:
        HypersignError: the tokens have another shape or type.

    >>> split = TextSplit(torch.arange(10))
    >>> len(split), split[2:5].tokens.tolist()
    (10, [2, 3, 4])
    """

    tokens: Tensor
    unit = "characters"

    def __post_init__(self) -> None:
        if not isinstance(self.tokens, Tensor) or self.tokens.dim() != 1 or self.tokens.dtype != torch.int64:
            came = (
                f"{self.tokens.dtype} of shape {tuple(self.tokens.shape)}"
                if isinstance(self.tokens, Tensor)
                else type(self.tokens).__name__
            )
            raise HypersignError(f"tokens must be an int64 tensor of shape (N,); got {came}")

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: slice) -> "TextSplit":
        return TextSplit(self.tokens[rows])


class TextBatches(Epochs):
    """The batches of a text: tokens, and at each position the token that follows; both int64, shape `(B, T)`.

    With `streams`, the text is cut into B long streams, and row b of each batch continues row b of the batch before,
    so a network can carry its state on. Without, a batch holds B separate windows of the text. With a seed, an epoch
    starts at a random character of the first T, and windows are in random order. An epoch depends only on the seed
    and its number.

    Without `drop_last`, the last batch may be shorter. Windows then cover every character but the first; streams
    leave out the last `(N - 1) mod B` of them.

    Args:
        split: the text.
        batch_size: sequences per batch, B, over all processes.
        length: characters per sequence, T.
        streams: whether rows continue those of the batch before.
        device, seed, drop_last, rank, processes: the same as in `TensorBatches`.

    Raises:
        HypersignError: an argument is outside its range, or the text is too short.

    >>> batches = TextBatches(TextSplit(torch.arange(9)), 2, length=3, streams=True)
    >>> [(inputs.tolist(), targets.tolist()) for inputs, targets in batches]
    [([[0, 1, 2], [4, 5, 6]], [[1, 2, 3], [5, 6, 7]]), ([[3], [7]], [[4], [8]])]
    """

    def __init__(
        self,
        split: TextSplit,
        batch_size: int,
        *,
        length: int = LENGTH,
        streams: bool = False,
        device: torch.device | str = "cpu",
        seed: int | None = None,
        drop_last: bool = False,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        super().__init__(batch_size, device, seed, rank, processes)
        self.length, self.streams = check_int("length", length, min=1), streams
        pairs = len(split) - 1
        if pairs < (batch_size * length if drop_last else 1):
            wanted = f"batch_size x length + 1 = {batch_size * length + 1:,}" if drop_last else "2"
            raise HypersignError(
                f"a text to make batches of must hold at least {wanted} characters; this one has {len(split):,}: "
                "use a longer text" + (", or a smaller batch_size or length" if drop_last else "")
            )
        # A text shorter than all streams together gives fewer of them.
        self.batch_size = batch_size if drop_last or not streams else min(batch_size, max(1, pairs // length))
        self._slack = 0 if seed is None else min(length - 1, pairs - batch_size * length if drop_last else 0)
        if streams:
            self._stream = (pairs - self._slack) // self.batch_size
            self._length = self._stream // length if drop_last else -(-self._stream // length)
        else:
            self._windows = (pairs - self._slack) // length
            self._rest = 0 if drop_last else pairs - self._windows * length
            whole = self._windows // batch_size if drop_last else -(-self._windows // batch_size)
            self._length = whole + bool(self._rest)
        self._tokens = split.tokens.to(self.device)

    @property
    def decisions(self) -> int:
        """The number of targets in this process's part of a full batch."""
        return self.batch_size // self.processes * self.length

    def _batches(self, number: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        offset, order = 0, None
        if self.seed is not None:
            generator = self._generator(self.seed, number)
            offset = int(torch.randint(self._slack + 1, (), generator=generator))
            if not self.streams:
                order = torch.randperm(self._windows, generator=generator).to(self.device)
        return self._stream_batches(offset, start) if self.streams else self._window_batches(offset, order, start)

    def _stream_batches(self, offset: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        rows = self._tokens[offset:].unfold(0, self._stream + 1, self._stream)  # each overlaps the next by a token
        rows = rows[: self.batch_size][self._part(self.batch_size)]
        for index in range(start, len(self)):
            piece = rows[:, index * self.length : (index + 1) * self.length + 1]
            yield piece[:, :-1], piece[:, 1:]

    def _window_batches(self, offset: int, order: Tensor | None, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        steps = torch.arange(self.length + 1, device=self.device)
        numbers = torch.arange(self._windows, device=self.device) if order is None else order
        whole = len(self) - bool(self._rest)
        for index in range(start, len(self)):
            if index == whole:  # the characters after the last whole window; the first process takes them
                piece = self._tokens[offset + self._windows * self.length :][None, : self._rest + 1]
                piece = piece if self.rank == 0 else piece[:0]
            else:
                chosen = numbers[index * self.batch_size : (index + 1) * self.batch_size]
                piece = self._tokens[offset + self.length * chosen[self._part(len(chosen))][:, None] + steps]
            yield piece[:, :-1], piece[:, 1:]


@shown
@dataclasses.dataclass(frozen=True, eq=False)
class TextData(Data):
    """A text, whose task is to predict the next character (or byte).

    Args:
        name: the name of the data set in tables and run folders.
        train, test: the two parts.
        classes: the vocabulary: token number i stands for `classes[i]`. For bytes, `chr(i)`.
        validation: a part that every run is validated on, if the text has one.
        length: characters per sequence.
        unit: "characters" or "bytes".

    Raises:
        HypersignError: a part is too short, the text has a single character, or a token is outside the vocabulary.

    >>> data = TextData.of("rhyme", "the cat sat on the mat " * 20, shares=(0.8, 0.2))
    >>> len(data.classes), len(data.train), decode(data.test.tokens[:7].tolist(), data.classes, data.unit)
    (10, 368, 'the cat')
    """

    name: str
    train: TextSplit
    test: TextSplit
    classes: tuple[str, ...]
    validation: TextSplit | None = None
    length: int = LENGTH
    unit: str = "characters"  # type: ignore[misc]
    sha256: str = dataclasses.field(init=False)
    task: ClassVar[Task] = NextToken()  # type: ignore[misc]

    def __post_init__(self) -> None:
        check_int("length", self.length, min=1)
        if len(self.classes) < 2:
            held = f"holds only {self.classes[0]!r}" if self.classes else "is empty"
            raise HypersignError(
                f"{self.name}: a text to learn must have at least two different {self.unit}; this one {held}: "
                "use another text"
            )
        for which, split in (("training", self.train), ("test", self.test), ("validation", self.validation)):
            if split is None:
                continue
            if len(split) < 2:
                raise HypersignError(
                    f"{self.name}: the {which} part must hold at least 2 {self.unit}, to predict one from the other; "
                    f"it has {len(split)}: use a longer text"
                )
            check_numbers(f"{self.name}: tokens of the {which} part", split.tokens, len(self.classes))
        parts = [split for split in (self.train, self.validation, self.test) if split is not None]
        digest = hashlib.sha256(f"{self.unit} {[len(part) for part in parts]} {self.classes}".encode())
        for part in parts:
            digest.update(np.ascontiguousarray(part.tokens.cpu().numpy().astype(np.int32)).data)
        object.__setattr__(self, "sha256", digest.hexdigest())

    @classmethod
    def of(
        cls, name: str, text: str | bytes, *, shares: tuple[float, ...] = (0.9, 0.1), length: int = LENGTH
    ) -> "TextData":
        """A text, or bytes, cut into its parts in order.

        Args:
            name: the name of the data set.
            text: characters, whose vocabulary is sorted; or bytes, whose vocabulary has all 256.
            shares: of training and test; or of training, validation and test.
            length: characters per sequence.

        Raises:
            HypersignError: the text is empty, too short, or has a single character.
        """
        if not text:
            raise HypersignError(f"{name}: a text to learn must not be empty; this one is: use another file")
        if isinstance(text, bytes):
            classes = tuple(map(chr, range(256))) if len(set(text)) > 1 else (chr(text[0]),)
            tokens = torch.from_numpy(np.frombuffer(text, np.uint8).astype(np.int64))
        else:
            points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
            found, numbers = np.unique(points, return_inverse=True)
            classes = tuple(chr(point) for point in found.tolist())
            tokens = torch.from_numpy(numbers.astype(np.int64))
        borders = [int(len(tokens) * sum(shares[:part])) for part in range(1, len(shares))]
        parts = [TextSplit(tokens[a:b]) for a, b in zip([0, *borders], [*borders, len(tokens)], strict=True)]
        validation = parts[1] if len(parts) == 3 else None
        unit = "bytes" if isinstance(text, bytes) else "characters"
        return cls(name, parts[0], parts[-1], classes, validation, length, unit)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sequence."""
        return (self.length,)

    def batches(self, split: TextSplit, batch_size: int, **options: Any) -> TextBatches:
        """The batches of a part; `options` are those of `TextBatches`.

        Without a seed or `drop_last`, in an evaluation, a batch holds at most 8192 characters.
        """
        if options.pop("augmentation", None) is not None:
            raise HypersignError(f"flips and crops are for images; {self.name} holds none: leave them out")
        length = options.pop("length", self.length)
        if options.get("seed") is None and not options.get("drop_last"):
            batch_size = min(batch_size, max(1, EVALUATED // length))
        return TextBatches(split, batch_size, length=length, **options)

    def spread(self, split: TextSplit, count: int) -> TextSplit:
        """`count` sequences of a part, evenly spread over it, one after another; all of it if it holds no more.

        Batches of them without a seed are these sequences. The target after the last token of each is the first
        token of the next.

        >>> data = TextData.of("abc", "abc" * 30, length=4)
        >>> part = data.spread(data.train, 2)
        >>> decode(part.tokens.tolist(), data.classes, data.unit)
        'abcabcabc'
        """
        windows = (len(split) - 1) // self.length
        if windows <= count:
            return split
        starts = torch.arange(count) * (windows // count) * self.length
        tokens = split.tokens[(starts[:, None] + torch.arange(self.length)).flatten()]
        return TextSplit(torch.cat((tokens, split.tokens[int(starts[-1]) + self.length :][:1])))

    def facts(self) -> dict[str, Any]:
        """The task, that inputs are tokens, and the size of the validation part."""
        facts = {"task": repr(self.task), "integer_inputs": True}
        return facts if self.validation is None else {**facts, f"validation_{self.unit}": len(self.validation)}

    def hold_out(self, n: int) -> tuple[TextSplit, TextSplit]:
        """The training part, and the text's own validation part; or with `n`, the last `n` characters of training."""
        if n == 0 and self.validation is not None:
            return self.train, self.validation
        return super().hold_out(n)


def encode(text: str, classes: tuple[str, ...], unit: str) -> list[int]:
    """The token numbers of a text.

    Raises:
        HypersignError: a character is outside the vocabulary.

    >>> encode("bad", tuple("abcd"), "characters"), encode("é", tuple(map(chr, range(256))), "bytes")
    ([1, 0, 3], [195, 169])
    """
    if unit == "bytes":
        return list(text.encode("utf-8", "surrogateescape"))
    numbers = {character: number for number, character in enumerate(classes)}
    unknown = sorted(set(text) - set(numbers))
    if unknown:
        known = "".join(character for character in classes if character.isprintable())
        raise HypersignError(
            f"the text must consist of the network's characters ({known}); it has "
            f"{', '.join(map(repr, unknown[:5]))}: leave them out"
        )
    return [numbers[character] for character in text]


def decode(tokens: list[int], classes: tuple[str, ...], unit: str) -> str:
    """The text of token numbers; bytes that are no UTF-8 become replacement characters."""
    if unit == "bytes":
        return bytes(tokens).decode("utf-8", "replace")
    return "".join(classes[token] for token in tokens)


def load_text(source: TextSource, length: int = LENGTH) -> TextData:
    """Loads a text that is known by name; downloads it first if necessary.

    Raises:
        HypersignError: the file is damaged or cannot be downloaded.
    """
    content = read_file(source, source.files[0], obtain_text(source))
    return TextData.of(source.name, content.decode("utf-8"), shares=source.shares, length=length)


def load_text_file(kind: str, path: str, length: int = LENGTH) -> TextData:
    """Loads a file of your own: its characters, or with the kind "bytes" its bytes. The last tenth is the test part.

    Raises:
        HypersignError: there is no such file, it is no UTF-8, empty, or too short.
    """
    file = Path(path)
    if not file.is_file():
        raise HypersignError(f"{kind}:FILE must name a text file; there is no file {path or '(nothing)'}")
    content = file.read_bytes()
    if kind == "bytes":
        return TextData.of(file.name, content, length=length)
    try:
        return TextData.of(file.name, content.decode("utf-8"), length=length)
    except UnicodeDecodeError as error:
        raise HypersignError(
            f"{path} must be a UTF-8 text; byte {error.start} is none: convert the file, or load bytes:{path}"
        ) from error
