"""How much noise gradients of 6 bits add, beside that of drawing a batch.

    python experiments/gradient_noise.py RUN [--batches 40] [--batch 50] [--json [FILE]]

For every layer of a trained run: the variance over batches of the gradient of its latent weights in float32, and the
mean square of what rounding to 6 bits changes in it (`--precision bits`), with the cosine between the two gradients
of one batch. A step that adds a share v of the variance is as noisy as one of a batch 1 + v times smaller.
"""

import argparse
import copy
from pathlib import Path

import rich
import rich.table
import torch
from torch import Tensor, nn

from hypersign._json import prints_text, write_json
from hypersign._machine import machine, versions
from hypersign.bits import backend
from hypersign.layers import train_on_bits
from hypersign.runs import load
from hypersign.tasks import cross_entropy
from hypersign.training.step import latent_weights


def gradients(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The gradient of every latent weight."""
    weights = latent_weights(model)
    found = torch.autograd.grad(cross_entropy(model(images), labels), list(weights.values()))
    return dict(zip(weights, found, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run folder")
    parser.add_argument("--batches", type=int, default=40, help="batches (default 40)")
    parser.add_argument("--batch", type=int, default=50, help="images in a batch (default 50)")
    parser.add_argument(
        "--json", type=Path, nargs="?", const="-", metavar="FILE", help="print JSON, or write it there"
    )
    options = parser.parse_args()
    run = load(options.run)
    data = run.data()
    model = run.load_model().to(memory_format=torch.channels_last).train()
    on_bits = copy.deepcopy(model)
    train_on_bits(on_bits)
    seeds = [layer.rounding_seed for layer in on_bits.modules() if getattr(layer, "rounding_seed", None) is not None]

    images = data.train[: options.batches * options.batch]
    exact: dict[str, list[Tensor]] = {}
    added: dict[str, list[float]] = {}
    cosines: dict[str, list[float]] = {}
    for i, (x, labels) in enumerate(data.batches(images, options.batch, device="cpu")):
        for j, seed in enumerate(seeds):
            seed.fill_(i * len(seeds) + j)
        x = x.contiguous(memory_format=torch.channels_last)
        rounded = gradients(on_bits, x, labels)
        for name, gradient in gradients(model, x, labels).items():
            exact.setdefault(name, []).append(gradient)
            added.setdefault(name, []).append((rounded[name] - gradient).square().sum().item())
            cosine = torch.nn.functional.cosine_similarity(rounded[name].flatten(), gradient.flatten(), 0)
            cosines.setdefault(name, []).append(cosine.item())
    rows = []
    for name, found in exact.items():
        sampling = torch.stack(found).var(0).sum().item()
        rounding = sum(added[name]) / len(added[name])
        rows.append(
            {
                "layer": name,
                "cosine": sum(cosines[name]) / len(cosines[name]),
                "rounding_over_sampling_variance": rounding / sampling,
            }
        )
    result = {
        "benchmark": "gradient_noise",
        "machine": machine(),
        "versions": versions("torch", "numpy"),
        "backend": backend(),
        "run": run.path.name,
        "batches": options.batches,
        "batch": options.batch,
        "layers": rows,
    }
    write_json(result, options.json)
    if not prints_text(options.json):
        return
    table = rich.table.Table("layer", "cosine", "variance added", title=f"Gradients of 6 bits, {run.path.name}")
    for row in rows:
        table.add_row(row["layer"], f"{row['cosine']:.4f}", f"{row['rounding_over_sampling_variance']:.1%}")
    rich.print(table)


if __name__ == "__main__":
    main()
