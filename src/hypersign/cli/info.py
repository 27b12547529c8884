"""`hypersign info`: what a run folder or a packed file holds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from hypersign._json import prints_text, write_json
from hypersign.cli.options import JsonTarget, RunOrFile, load_packed, parse
from hypersign.cli.pack import arithmetic, nodes_table
from hypersign.cli.printing import bits_words, console
from hypersign.packed.graph import INPUT


def run(words: Sequence[str]) -> None:
    """Parses `hypersign info`'s options and prints."""
    parse(info, words, "info")


def info(run: RunOrFile, /, *, json: JsonTarget = None) -> None:
    """Print a run's network and its size, recipe, data, progress and results.

    A packed file gives its inputs, outputs and operations. The JSON of a run also has the metrics of every epoch.

    Examples:
        hypersign info runs/demo
        hypersign info digits.hypersign
    """
    if run.is_file():
        _packed(run, json)
        return
    from hypersign import runs
    from hypersign.summaries import summary

    opened = runs.load(run)
    found = opened.info
    network = summary(opened)
    rows = opened.metrics()
    write_json({**found, "summary": network.as_dict(), "metrics": rows}, json)
    if not prints_text(json):
        return
    recipe, data, unit = found["recipe"], found["data"], opened.unit
    state = "finished" if opened.finished else f"stopped after epoch {len(rows)} of {recipe['epochs']}"
    facts = Table(box=None, show_header=False)
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("run", f"{opened.name}: {state}")
    facts.add_row("network", f"{found['model']['name']}, {found['model']['classes']} classes")
    facts.add_row(
        "data",
        f"{data['name']}: {data[f'train_{unit}']:,} training and {data[f'test_{unit}']:,} test {unit}, "
        f"sha256 {data['sha256'][:12]}...",
    )
    for split in ("test", "validation"):
        result = found["results"].get(split)
        if result:
            facts.add_row(
                f"{split} accuracy",
                f"{result['accuracy']:.2%} of {result[unit]:,}, loss {result['loss']:.4f}{bits_words(result, unit)}",
            )
    if "twin" in found:
        facts.add_row("float twin", twin_words(found))
    if rows:
        facts.add_row(
            "training", f"{len(rows)} epochs in {rows[-1]['seconds']:,.0f} s, last loss {rows[-1]['loss']:.4f}"
        )
    facts.add_row("recipe", "  ".join(f"{key}={value}" for key, value in recipe.items() if value is not None))
    facts.add_row("versions", "  ".join(f"{key} {value}" for key, value in found["versions"].items()))
    out = console()
    out.print(facts)
    out.print(network.table())


def twin_words(info: dict[str, Any]) -> str:
    """What low bits cost and saved, beside the float twin: accuracy or bits per token, size and speed."""
    twin, test = info["twin"], info["results"]["test"]
    levels = {2: "one bit", 3: "ternary levels"}[info["recipe"]["levels"]]
    if "bits_per_token" in twin:
        per, each = "token", next(key for key in info["data"] if key.startswith("train_"))[6:-1]
        mine, other = test["bits_per_token"], twin["bits_per_token"]
        lines = [f"{mine:.3f} bits per {each} with {levels}, {other:.3f} in float32 ({mine - other:+.3f}, one seed)"]
    else:
        per, each, mine, other = "image", "image", test["accuracy"], twin["accuracy"]
        lines = [
            f"{mine:.2%} of the test images with {levels}, {other:.2%} in float32 "
            f"({100 * (mine - other):+.2f} points, one seed)"
        ]
    if "packed_bytes" not in twin:
        return f"{lines[0]}\nnot packed: {twin['packed_reason']}"
    packed, real = twin["packed_bytes"], twin["float_bytes"]
    lines.append(f"{packed:,} bytes packed, {real:,} as float32: {real / packed:.1f} times smaller")
    fast, slow = twin[f"packed_seconds_per_{per}"], twin[f"seconds_per_{per}"]
    gain = f"{slow / fast:.1f} times faster" if slow >= fast else f"{fast / slow:.1f} times slower"
    lines.append(
        f"{fast * 1e6:,.1f} µs per {each} packed, {slow * 1e6:,.1f} µs in float32 by torch: {gain} (batches of "
        f"{twin['batch']}, one thread, {twin['backend']})"
    )
    return "\n".join(lines)


def _packed(file: Path, json: JsonTarget) -> None:
    """Prints a packed file's inputs, outputs and operations."""
    model = load_packed(file)
    inputs, outputs = model.input_shapes, model.output_shapes
    nodes = [
        {"name": of.name, "op": of.op, "output": str(model.values[of.name]), "arithmetic": arithmetic(model, of)}
        for of in model.graph.nodes
    ]
    size = len(model.to_bytes())
    write_json(
        {
            "file": file.name,
            "sha256": model.sha256,
            "bytes": size,
            "inputs": inputs,
            "pixel_range": model.graph.pixel_range,
            "outputs": outputs,
            "tasks": [task.name for task in model.tasks],
            "classes": model.classes,
            "nodes": nodes,
        },
        json,
    )
    if not prints_text(json):
        return
    out = console()
    out.print(f"{file}: {size:,} bytes, sha256 {model.sha256[:12]}...", soft_wrap=True)
    for what, shapes in (("input", inputs), ("output", outputs)):
        for name, shape in shapes.items():
            kind = "uint8" if name == INPUT and model.graph.pixel_range is not None else "float32"
            label = what if name == what else f"{what} {name}"
            out.print(f"{label}: {kind} (N, {', '.join(map(str, shape))})", soft_wrap=True)
    out.print(nodes_table(model))
