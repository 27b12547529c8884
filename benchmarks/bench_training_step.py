"""A training step of the paper's binary network, in float32 and on bits, against one of the same network without
quantizers.

    python benchmarks/bench_training_step.py [--batch 50] [--rounds 15] [--threads N] [--parts] [--json [FILE]]

Both networks are the paper's vgg in float32. The network without quantizers has real weights and a hard tanh before
each layer; its step is forward, loss, backward, clipped gradients and the same Adam, written out. The binary
network's step is that of `hypersign train`: it also clips latent weights, looks for numbers that are not finite and
counts correct images. On bits (`--precision bits`) the same step has exact products forward and 6-bit gradients
backward. Steps are interleaved and a ratio is the median over rounds, so other load affects all equally.
`--parts` prints what each part of the step on bits takes instead, by torch's profiler.
"""

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import rich
import rich.table
import torch
from torch import Tensor, nn

from hypersign._json import prints_text, write_json
from hypersign._machine import machine, versions
from hypersign.bits import backend
from hypersign.layers import quant_layers, train_on_bits
from hypersign.models import vgg
from hypersign.quantizers import Identity, Quantization, Quantizer
from hypersign.tasks import Classification, squared_hinge
from hypersign.training import RECIPES
from hypersign.training import step as step_module
from hypersign.training.step import Step, make_optimizer

RECIPE = RECIPES["anderson-berg-2018"]


class Clipped(Quantizer):
    """A hard tanh in place of levels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.hardtanh(x)


def network(width: int, levels: int | None) -> nn.Module:
    """The paper's network, `width` filters in its first layer; real weights and hard tanhs if `levels` is None."""
    torch.manual_seed(0)
    widths = [width, width, 2 * width, 2 * width, 4 * width, 4 * width]
    model = vgg(widths=widths, hidden=[8 * width] * 2, quantization=Quantization.of(levels=levels or 2))
    if levels is None:
        for layer in quant_layers(model).values():
            layer.weight_quantizer = Identity()
            if layer.quantizes_inputs:
                layer.input_quantizer = Clipped()
    return model.to(memory_format=torch.channels_last)


def ours(model: nn.Module) -> Callable[[Tensor, Tensor], object]:
    """The step of the training loop."""
    optimizer = make_optimizer(RECIPE, list(model.parameters()))
    step = Step(model, RECIPE, Classification(squared_hinge), optimizer, contextlib.nullcontext, guard=True)
    return lambda images, labels: step(images, labels, RECIPE.learning_rate)


def plain(model: nn.Module) -> Callable[[Tensor, Tensor], object]:
    """A step as one would write it for a network without quantizers."""
    optimizer = make_optimizer(RECIPE, list(model.parameters()))
    limit = RECIPE.gradient_clip

    def step(images: Tensor, labels: Tensor) -> None:
        squared_hinge(model(images), labels).backward()
        nn.utils.clip_grad_value_(model.parameters(), limit)
        optimizer.step()
        optimizer.zero_grad()

    return step


def seconds(step: Callable[[Tensor, Tensor], object], images: Tensor, labels: Tensor) -> float:
    start = time.perf_counter()
    step(images, labels)
    return time.perf_counter() - start


PARTS = {
    "products backward": ("conv2d_of_levels_backward",),
    "products forward": ("conv2d_of_levels",),
    "batch norm": ("_BatchNorm", "batch_norm"),
    "max pool": ("_MaxPool", "max_pool"),
    "first layer, float": ("convolution",),
    "update and checks": ("norms_of", "update_in_one_pass"),
    "other": ("",),
}
"""Parts of a step, and what the names of their operators contain; the first part that fits counts."""


def print_parts(step: Callable[[Tensor, Tensor], object], images: Tensor, labels: Tensor, rounds: int) -> None:
    """Prints the milliseconds per step of each part of a step."""
    for name in PARTS["update and checks"]:
        setattr(step_module, name, torch.profiler.record_function(name)(getattr(step_module, name)))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        for _ in range(rounds):
            step(images, labels)
    times = dict.fromkeys(PARTS, 0.0)
    for event in found.key_averages():
        part = next(part for part, names in PARTS.items() if any(name in event.key for name in names))
        times[part] += event.self_cpu_time_total / 1000 / rounds
    table = rich.table.Table("part", "ms", "share", title="Parts of a step on bits")
    for part, spent in times.items():
        table.add_row(part, f"{spent:.1f}", f"{spent / sum(times.values()):.0%}")
    rich.print(table)


def ratio_of(left: list[float], right: list[float]) -> tuple[float, list[float]]:
    """The median of the rounds' ratios, and its quartiles."""
    ratios = [a / b for a, b in zip(left, right, strict=True)]
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return statistics.median(ratios), [quartiles[0], quartiles[2]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=50, help="images in a step (default 50)")
    parser.add_argument("--rounds", type=int, default=15, help="interleaved rounds (default 15)")
    parser.add_argument("--width", type=int, default=128, help="filters of the first layer (default 128)")
    parser.add_argument("--levels", type=int, default=2, choices=(2, 3), help="2 binary, 3 ternary (default 2)")
    parser.add_argument("--parts", action="store_true", help="print the parts of a step on bits, and nothing else")
    parser.add_argument("--threads", type=int, help="threads of torch (default: its own choice)")
    parser.add_argument(
        "--json", type=Path, nargs="?", const="-", metavar="FILE", help="print JSON, or write it there"
    )
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)

    generator = torch.Generator().manual_seed(1)
    images = torch.rand(options.batch, 3, 32, 32, generator=generator) * 2 - 1
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (options.batch,), generator=generator)
    on_bits = network(options.width, options.levels)
    train_on_bits(on_bits)
    if options.parts:
        step = ours(on_bits)
        step(images, labels)
        print_parts(step, images, labels, options.rounds)
        return
    steps = {
        "ours": ours(network(options.width, options.levels)),
        "plain": plain(network(options.width, None)),
        "bits": ours(on_bits),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step(images, labels)  # the first one allocates
    for i in range(options.rounds):
        for name in list(steps)[:: 1 if i % 2 else -1]:
            times[name].append(seconds(steps[name], images, labels))
    ratio, quartiles = ratio_of(times["ours"], times["plain"])
    gain, gain_quartiles = ratio_of(times["plain"], times["bits"])
    result = {
        "benchmark": "training_step",
        "machine": machine() | {"threads": torch.get_num_threads()},
        "versions": versions("torch", "numpy"),
        "backend": backend(),
        "network": f"vgg, width {options.width}, {'binary' if options.levels == 2 else 'ternary'}, float32",
        "batch": options.batch,
        "seconds": times,
        "ratio": ratio,
        "ratio_quartiles": quartiles,
        "plain_over_bits": gain,
        "plain_over_bits_quartiles": gain_quartiles,
    }
    write_json(result, options.json)
    if not prints_text(options.json):
        return
    table = rich.table.Table("step", "median, ms", title=f"Training step, {result['network']}, batch {options.batch}")
    for name, spent in times.items():
        table.add_row(name, f"{1000 * statistics.median(spent):.1f}")
    table.add_row("ours / plain (quartiles)", f"{ratio:.3f}  ({quartiles[0]:.3f}, {quartiles[1]:.3f})")
    table.add_row("plain / bits (quartiles)", f"{gain:.2f}  ({gain_quartiles[0]:.2f}, {gain_quartiles[1]:.2f})")
    rich.print(table)


if __name__ == "__main__":
    main()
