"""Keeps a trained run small enough for the repository: python tests/data/keep_run.py RUN FOLDER

Latent weights of quantized layers become float16, everything else stays float32. No weight changes its sign, so a
binary network answers as before, image by image. What resuming needs is left out.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

from hypersign._files import make_folder, write_atomic
from hypersign.layers import quant_layers
from hypersign.runs import load, write_tensors


def float16(latent: Tensor) -> Tensor:
    """Rounded to float16; what would become -0 or 0 becomes the least number of its sign."""
    least = torch.finfo(torch.float16).smallest_normal * torch.finfo(torch.float16).eps
    return torch.copysign(latent.abs().clamp_min(least), torch.where(latent < 0, -1.0, 1.0)).half()


def main(source: Path, folder: Path) -> None:
    run = load(source)
    model = run.load_model()
    latent = {f"{name}.weight" for name in quant_layers(model)}
    tensors = {name: float16(t) if name in latent else t for name, t in model.state_dict().items()}
    make_folder(folder)
    write_tensors(folder / "model.safetensors", tensors)
    for name in ("run.json", "metrics.jsonl"):
        write_atomic(folder / name, (source / name).read_text())


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
