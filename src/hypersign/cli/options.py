"""Turns a function's signature and docstring into a command with help, and has the options that commands share."""

import ast
import contextlib
import dataclasses
import inspect
import io
import itertools
import re
import shutil
import sys
import tempfile
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.progress import Progress, TaskID
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from hypersign import pretrained
from hypersign._checks import HypersignError
from hypersign._files import check_file, check_folder
from hypersign.cli.printing import command_table, console
from hypersign.packed import PackedModel

__all__ = [
    "Device",
    "Figures",
    "JsonTarget",
    "Option",
    "PackedFile",
    "RunOrFile",
    "RunPath",
    "Seed",
    "Threads",
    "Weights",
    "load_packed",
    "load_packed_or_run",
    "option_class",
    "parse",
    "parse_one_of",
    "progress_bars",
]


@dataclasses.dataclass(frozen=True)
class Option:
    """What help says of an option, where its docstring or its type does not: text, metavar, short name."""

    text: str = ""
    metavar: str = ""
    short: str = ""
    written: Literal["", "file", "folder"] = ""
    """What the command writes there; where that is impossible, the command is refused before it works."""


RunPath = Annotated[
    Path, Option("run folder, as hypersign train writes it, or the name of a network in hypersign models", "RUN")
]
"""The run folder, a command's first word."""

PackedFile = Annotated[
    Path, Option("packed file, as hypersign pack writes it, or the name of a network in hypersign models", "FILE")
]
"""The packed file, a command's first word; `load_packed` opens it."""

RunOrFile = Annotated[
    Path, Option("run folder or packed file, or the name of a network in hypersign models", "RUN_OR_FILE")
]
"""Either, likewise."""

Weights = Annotated[
    Literal["last", "best"], Option("weights of the last epoch, or of the one that was best on validation data")
]
"""The option `--weights`."""

Seed = Annotated[int, Option("seed of the random numbers")]
"""The option `--seed`."""

Threads = Annotated[int, Option("number of threads")]
"""The option `--threads`."""

Device = Annotated[str, Option("device that draws: cpu, cuda, mps", "NAME")]
"""The option `--device` of simulations."""

Figures = Annotated[Path | None, Option("folder for the figures, as PDF and PNG", "FOLDER", written="folder")]
"""The option `--figures`."""

JsonTarget = Annotated[
    Path | None,
    PrimitiveConstructorSpec(
        nargs=(0, 1),
        metavar="[FILE]",
        instance_from_str=lambda words: Path(words[0]) if words else Path("-"),
        is_instance=lambda value: value is None or isinstance(value, Path),
        str_from_instance=lambda value: [] if value is None else [str(value)],
    ),
    Option(
        "print JSON instead of tables; with FILE, print the tables and write the JSON to FILE",
        "[FILE]",
        written="file",
    ),
]
"""The option `--json [FILE]`: None without it, `Path("-")` without a file's name."""

_PLACE = "DESCRIPTION"
"""What tyro prints where the description goes."""

_REGISTRY = ConstructorRegistry()


@_REGISTRY.primitive_rule
def _none(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[None] | None:
    """Reads and shows None as `none`."""
    if info.type is not type(None):
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="none",
        instance_from_str=lambda words: None,
        is_instance=lambda value: value is None,
        str_from_instance=lambda value: ["none"],
        choices=("none", "None"),
    )


@_REGISTRY.primitive_rule
def _number(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[float] | None:
    """Reads numbers, and says in plain words what is none."""
    if info.type not in (int, float):
        return None

    def read(words: list[str]) -> float:
        try:
            return info.type(words[0])
        except ValueError:
            raise ValueError(
                f"{'an integer' if info.type is int else 'a number'} is needed; got {words[0]!r}"
            ) from None

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT" if info.type is int else "FLOAT",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, info.type) and not isinstance(value, bool),
        str_from_instance=lambda value: [str(value)],
    )


def load_packed(file: Path) -> PackedModel:
    """The network of a packed file, or one that comes with HyperSign where there is no such file."""
    if not file.exists() and str(file) in pretrained.names():
        return PackedModel.pretrained(str(file))
    if (file / "run.json").is_file():
        raise HypersignError(
            f"a packed file was expected; {file} is a run folder: pack it with: hypersign pack {file} -o FILE"
        )
    return PackedModel.load(file)


def load_packed_or_run(path: Path) -> PackedModel:
    """The network of a packed file or of `hypersign models`; that of a run folder is packed first."""
    if not path.is_dir():
        return load_packed(path)
    from hypersign import packing, runs

    opened = runs.load(path)
    data, model = opened.info["data"], opened.info["model"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.hypersign"
        shape, classes = tuple(model["shape"]), data.get("classes")
        packing.pack(opened.load_model(), file, shape, pixel_range=data["pixel_range"], classes=classes)
        return PackedModel.load(file)


def parse(function: Callable[..., None], words: Sequence[str], name: str) -> None:
    """Calls `function` with its arguments from the command line; `--help` prints its docstring and its options."""
    if not {"-h", "--help"}.isdisjoint(words):
        _print_help(function, words, name)
        return
    positional, named = _read(function, words, name)
    for parameter in inspect.signature(function).parameters.values():
        _check_written(parameter, named.get(parameter.name))
    _call(function, positional, named)


def parse_one_of(functions: Mapping[str, Callable[..., None]], words: Sequence[str], verb: str, text: str) -> None:
    """Calls the function that the first word names with its arguments from the other words."""
    if not words or words[0] in ("-h", "--help"):
        rows = {name: _sentence(function) for name, function in functions.items()}
        first = next(iter(functions))
        console().print(
            command_table(f"hypersign {verb}", rows, text, f"Example: {_examples(functions[first])[0]}"),
            soft_wrap=False,
        )
    elif words[0] not in functions:
        raise HypersignError(f"{words[0]!r} is not known; name one of {', '.join(functions)}")
    else:
        parse(functions[words[0]], words[1:], f"{verb} {words[0]}")


def option_class(cls: type, default: Any) -> type:
    """A dataclass with the fields of the dataclass `cls` as options: their text from `cls`, their defaults `default`.

    A field whose name is not its option's says so in its metadata: `{"option": "from"}`.
    `cls(**vars(options))` makes a `cls` from what was read.
    """
    hints, texts = typing.get_type_hints(cls, include_extras=True), _field_texts(cls)
    fields = []
    for field in dataclasses.fields(cls):
        value = getattr(default, field.name)
        text = texts.get(field.name, "")
        hint = _annotation(
            hints[field.name], value, text, says_none="none: " in text, name=field.metadata.get("option")
        )
        fields.append((field.name, hint, dataclasses.field(default=value)))
    return dataclasses.make_dataclass(cls.__name__, fields, frozen=True)


@contextlib.contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Gives a function that shows progress on the terminal's standard error: `progress(what, done, total)`."""
    errors = console(stderr=True)
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                for task in tasks.values():
                    bars.update(task, visible=False)
                tasks[what] = bars.add_task(what)
            bars.update(tasks[what], completed=done, total=total)

        yield show


def _read(function: Callable[..., None], words: Sequence[str], name: str) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """The arguments of `function` that `words` give."""
    return tyro.cli(
        _command(function),
        args=list(words),
        prog=f"hypersign {name}",
        description=_PLACE,
        registry=_REGISTRY,
    )


def _print_help(function: Callable[..., None], words: Sequence[str], name: str) -> None:
    """Prints tyro's table of options below usage and description, which tyro does not wrap."""
    shown = io.TextIOWrapper(io.BytesIO(), encoding=sys.stdout.encoding or "ascii")
    try:
        with contextlib.redirect_stdout(shown):
            _read(function, words, name)
    except SystemExit as end:
        if end.code:
            raise
    shown.seek(0)
    _, _, table = shown.read().partition(_PLACE)
    print(f"{_usage(function, name)}\n\n{_description(inspect.getdoc(function) or '')}{table}".rstrip("\n"))


def _usage(function: Callable[..., None], name: str) -> str:
    """The command with the words that it needs."""
    words = [f"usage: hypersign {name} [options]"]
    for parameter in inspect.signature(function).parameters.values():
        metavar = _parts(parameter.annotation)[1].metavar
        if parameter.kind is parameter.POSITIONAL_ONLY:
            words.append(metavar)
        elif parameter.default is parameter.empty:
            words.append(f"--{parameter.name} {metavar or 'PATH'}")
    return " ".join(words)


def _call(function: Callable[..., None], positional: Sequence[Any], named: Mapping[str, Any]) -> None:
    function(*positional, **named)


def _check_written(parameter: inspect.Parameter, value: Path | None) -> None:
    _, option, _ = _parts(parameter.annotation)
    if not option.written or value is None or value == Path("-"):
        return
    name = f"--{parameter.name.replace('_', '-')}"
    (check_file if option.written == "file" else check_folder)(name, value)


def _command(function: Callable[..., None]) -> Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]:
    """A function that returns its arguments, with `function`'s parameters as tyro needs them."""
    hints, texts = typing.get_type_hints(function, include_extras=True), _argument_texts(function)
    parameters = [
        parameter.replace(
            annotation=_annotation(hints[parameter.name], parameter.default, texts.get(parameter.name, ""))
        )
        for parameter in inspect.signature(function).parameters.values()
    ]

    def command(*positional: Any, **named: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return positional, named

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _annotation(hint: Any, default: Any, text: str, *, says_none: bool = False, name: str | None = None) -> Any:
    """`hint` with the option's metavar, text and default as help shows them."""
    kind, option, others = _parts(hint)
    if dataclasses.is_dataclass(kind):
        return hint
    config = tyro.conf.arg(
        name=name,
        metavar=option.metavar or _metavar(kind, says_none),
        help=" ".join((text or option.text).split()).rstrip("."),
        aliases=(option.short,) if option.short else None,
        help_behavior_hint=_shown_default(default, says_none),
    )
    return Annotated[(kind, *others, config)]


def _shown_default(default: Any, says_none: bool) -> str:
    """The default as help shows it: nothing for None and an empty list, which stand for an option left out."""
    if default is inspect.Parameter.empty or default == () or (default is None and not says_none):
        return ""
    if isinstance(default, bool):
        return f"(default: {'on' if default else 'off'})"
    values = default if isinstance(default, tuple) else (default,)
    words = ("none" if v is None else f"{v:g}" if isinstance(v, float) else str(v) for v in values)
    return f"(default: {' '.join(words)})"


def _parts(hint: Any) -> tuple[Any, Option, list[Any]]:
    """The type, the `Option` and what else an annotation holds."""
    kind, *extra = typing.get_args(hint) if typing.get_origin(hint) is Annotated else (hint,)
    option = next((item for item in extra if isinstance(item, Option)), Option())
    return kind, option, [item for item in extra if not isinstance(item, Option)]


def _metavar(kind: Any, says_none: bool = False) -> str | None:
    """The values of a type in a word, None for flags."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        parts = [_metavar(part) or "{True,False}" for part in args if part is not type(None)]
        return "|".join([*parts, "none"] if says_none else parts)
    if origin is tuple:
        return f"{_metavar(args[0])} ..."
    if origin is Literal:
        return "{" + ",".join(map(str, args)) + "}" if len(args) > 1 else str(args[0])
    names: dict[Any, str] = {int: "INT", float: "FLOAT", str: "NAME", Path: "PATH"}
    return names.get(kind)


def _paragraphs(doc: str) -> list[str]:
    """The paragraphs before the sections `Example:` and `Args:`."""
    text = re.split(r"^(?:Examples?|Args):$", doc, maxsplit=1, flags=re.MULTILINE)[0]
    return [" ".join(paragraph.split()) for paragraph in text.split("\n\n") if paragraph.strip()]


def _examples(function: Callable[..., None]) -> list[str]:
    """The command lines in the section `Example:`."""
    found = re.search(r"^Examples?:\n((?: {4}.*\n?)+)", inspect.getdoc(function) or "", re.MULTILINE)
    return [line.strip() for line in found[1].splitlines()] if found else []


def _sentence(function: Callable[..., None]) -> str:
    return _paragraphs(inspect.getdoc(function) or "")[0]


def _description(doc: str) -> str:
    """The docstring without its arguments, wrapped to the terminal; examples stay as typed."""
    width = shutil.get_terminal_size().columns
    found = re.search(r"^Examples?:\n((?: {4}.*\n?)+)", doc, re.MULTILINE)
    lines = found[1].splitlines() if found else []
    wrapped = [textwrap.fill(text, width, break_on_hyphens=False) for text in _paragraphs(doc)]
    if lines:
        title = "Example:" if len(lines) == 1 else "Examples:"
        wrapped.append("\n".join([title, *(f"  {line.strip()}" for line in lines)]))
    return "\n\n".join(wrapped)


def _argument_texts(function: Callable[..., None]) -> dict[str, str]:
    """The texts in the section `Args:` of a docstring, by argument."""
    _, _, section = (inspect.getdoc(function) or "").partition("Args:\n")
    return dict(re.findall(r"^ {4}(\w+): (.*(?:\n {8,}.*)*)", section, re.MULTILINE))


def _field_texts(cls: type) -> dict[str, str]:
    """The strings below the fields of a dataclass, by field."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # type: ignore[attr-defined]
    return {
        field.target.id: text.value.value
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }
