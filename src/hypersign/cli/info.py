"""`hypersign info`: what a run folder holds."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from hypersign._json import prints_text, write_json
from hypersign.cli.options import JsonTarget, RunPath, parse
from hypersign.cli.printing import bits_words, console


def run(words: Sequence[str]) -> None:
    """Parses `hypersign info`'s options and prints."""
    parse(info, words, "info")


def info(run: RunPath, /, *, json: JsonTarget = None) -> None:
    """Print a run's network and its size, recipe, data, progress and results.

    The JSON also has the metrics of every epoch.

    Example:
        hypersign info runs/demo
    """
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
    """What low bits cost and saved, beside the float twin: accuracy, size and speed."""
    twin, accuracy = info["twin"], info["results"]["test"]["accuracy"]
    levels = {2: "one bit", 3: "ternary levels"}[info["recipe"]["levels"]]
    lines = [
        f"{accuracy:.2%} of the test images with {levels}, {twin['accuracy']:.2%} in float32 "
        f"({100 * (accuracy - twin['accuracy']):+.2f} points, one seed)"
    ]
    if "packed_bytes" not in twin:
        return f"{lines[0]}\nnot packed: {twin['packed_reason']}"
    packed, real = twin["packed_bytes"], twin["float_bytes"]
    lines.append(f"{packed:,} bytes packed, {real:,} as float32: {real / packed:.1f} times smaller")
    fast, slow = twin["packed_seconds_per_image"], twin["seconds_per_image"]
    lines.append(
        f"{fast * 1e6:,.1f} µs per image packed, {slow * 1e6:,.1f} µs in float32 by torch: {slow / fast:.1f} times "
        f"faster (batches of {twin['batch']}, one thread, {twin['backend']})"
    )
    return "\n".join(lines)
