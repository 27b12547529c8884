"""Which networks pack, and whether the packed network is right: the table in docs/packing.md.

Each network has random weights, is quantized by `convert` (inputs ternary, weights binary with a scale), and trained
for some steps on random numbers, so that its norms have statistics. `verify` compares it with its packed form on
1,000 inputs. The small networks are those of tests/packing. `--transformers` adds the ViT of that package;
`--efficientnet` adds EfficientNet-lite0 with its trained weights (see forecast_networks.py), its 50 layers all
ternary and its activations real.
"""

import argparse
import importlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hypersign import PackedModel, convert, pack
from hypersign.evaluate import reestimate_batch_norm
from hypersign.packed import profile
from hypersign.packing import verify
from hypersign.quantizers import MeanScale, Optimal, Sign, Ternary

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Parses the options and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--transformers", action="store_true")
    parser.add_argument("--efficientnet", action="store_true")
    options = parser.parse_args()
    print("| network | bytes | smaller | on bits | differ | ties | wrong |\n|---|---|---|---|---|---|---|")
    for name, (make, shapes, pixels) in networks(options.transformers).items():
        made = convert(make(), input_quantizer=Ternary(0.4), weight_quantizer=Sign(scale=MeanScale())).model
        model = trained(made, shapes)
        generator = np.random.default_rng(0)
        given = [generator.uniform(-1, 1, (options.inputs, *shape)).astype(np.float32) for shape in shapes]
        if pixels:
            given[0] = generator.integers(0, 256, given[0].shape).astype(np.uint8)
        print(row(name, model, shapes, given, pixels), flush=True)
    if options.efficientnet:
        print(efficientnet(options.inputs))


def networks(transformers: bool) -> dict[str, tuple[Callable[[], nn.Module], list[tuple[int, ...]], bool]]:
    """The networks of the tests, with the shapes of their inputs, and whether the first is of pixels."""
    sys.path.insert(0, str(ROOT / "tests" / "packing"))
    traced, graphs = importlib.import_module("test_traced"), importlib.import_module("test_graphs")
    found: dict[str, Any] = {name: (make, [graphs.IMAGE], True) for name, make in traced.CONVERTED.items()}
    for name, (make, shape) in graphs.NETWORKS.items():
        if name == "transposed on bits":  # it has no layers: its forward quantizes
            continue
        shapes = shape if isinstance(shape, list) else [shape]
        found[name] = (make, shapes, shapes[0] == graphs.IMAGE)
    if transformers:
        package = importlib.import_module("transformers")
        sizes = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}
        config = package.ViTConfig(**sizes, image_size=32, patch_size=4, num_labels=10)
        found["transformers' ViT"] = (lambda: package.ViTForImageClassification(config), [(3, 32, 32)], True)
    return found


def trained(model: nn.Module, shapes: list[tuple[int, ...]]) -> nn.Module:
    """The network after ten steps towards random numbers."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(10):
        output = model(*(2 * torch.rand(16, *shape) - 1 for shape in shapes))
        parts = list(output.values()) if isinstance(output, dict) else output
        parts = parts if isinstance(parts, list | tuple) else [parts]
        loss = sum((part - torch.randn_like(part)).square().mean() for part in parts)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def row(name: str, model: nn.Module, shapes: list[tuple[int, ...]], given: list[Any], pixels: bool) -> str:
    """Packs and verifies a network; returns its row."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "net.hypersign"
        pack(model, file, shapes, pixel_range=(-1.0, 1.0) if pixels else None)
        size, packed = file.stat().st_size, PackedModel.load(file)
    found = verify(model, packed, given if len(given) > 1 else given[0], batch_size=20)
    macs = {"bits": 0, "integers": 0, "float32": 0, "": 0}
    for node in profile(packed, repeats=1).nodes:
        macs[node.arithmetic] += node.macs
    floats = 4 * sum(parameter.numel() for parameter in model.parameters())
    whole = sum(macs.values())
    bits = (macs["bits"] + macs["integers"]) / whole
    return (
        f"| {name} | {size:,} | {floats / size:.1f} | {bits:.0%} | {found.decisions_differ} of {found.images:,} | "
        f"{found.ties} | {found.wrong} |"
    )


def efficientnet(count: int) -> str:
    """How EfficientNet-lite0 with ternary weights agrees with its packed form on natural images."""
    lite = importlib.import_module("forecast_networks")
    quantizer = Ternary(Optimal(), scale=MeanScale())
    model = convert(lite.efficientnet(), weight_quantizer=quantizer).model.eval()
    images, _ = lite.natural("train", 128, lite.PIXELS)
    reestimate_batch_norm(model, [(images, torch.zeros(len(images)))])  # or every image would get one class
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "net.hypersign"
        pack(model, file, (3, lite.PIXELS, lite.PIXELS))
        size, packed = file.stat().st_size, PackedModel.load(file)
    images, _ = lite.natural("test", count, lite.PIXELS)
    differ, error, classes = 0, 0.0, set()
    for batch in images.split(50):
        with torch.inference_mode():
            wanted = model(batch).numpy()
        found = packed.predict(batch.contiguous().numpy())
        differ += int((wanted.argmax(1) != found.argmax(1)).sum())
        error = max(error, float(np.abs(wanted - found).max() / np.abs(wanted).max()))
        classes |= set(wanted.argmax(1).tolist())
    whole = verify(model, packed, images[:2].contiguous().numpy())
    return (
        f"EfficientNet-lite0, ternary weights: {size:,} bytes; {differ} of {count:,} classes differ, of "
        f"{len(classes)} that occur; outputs differ by {error:.1e} of the largest; "
        f"{whole.wrong} of 2 images with a wrong step"
    )


if __name__ == "__main__":
    main()
