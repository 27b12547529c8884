"""What a network's card says: data, accuracy, size, speed, how it was made, licence."""

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

from hypersign._checks import HypersignError
from hypersign._files import open_file
from hypersign._json import parse_object

__all__ = ["CONFIG", "Card"]

CONFIG = "config.json"
"""The file that holds a card, beside the run's files."""

DATA_TERMS = {
    "digits": "Optical Recognition of Handwritten Digits (UCI), CC BY 4.0",
    "mnist": "MNIST (LeCun, Cortes, Burges), CC BY-SA 3.0",
    "fashion-mnist": "Fashion-MNIST (Zalando Research), MIT",
    "cifar-10": "CIFAR-10 (Krizhevsky 2009), which states no licence",
}


@dataclasses.dataclass(frozen=True)
class Card:
    """The card of a trained network.

    Args:
        name: the name of the network.
        data: the name of the data set.
        network: the name of the architecture.
        options: the architecture's options.
        accuracy: accuracy on all test images.
        test_images: number of test images.
        twin_accuracy: accuracy of the float network that was trained in the same way; None if none was trained.
        packed_bytes: size of the packed file; None if the network cannot be packed.
        float_bytes: size of the weights in float32.
        seconds_per_image: time per image in one thread, the minimum of many; None if the network cannot be packed.
        processor: processor and kernels of that time.
        training_seconds: time of training.
        recipe: the recipe's options.
        command: the command that made the network; "" if it is not known.
        licence: the licence of the weights.
        twin_seconds_per_image: the float twin's time per image in torch, measured in the same way; None if unknown.
        batch: number of images at once in both times.
        seeds: seed, accuracy and twin_accuracy of each training with this recipe; empty for one seed.
    """

    name: str
    data: str
    network: str
    options: dict[str, Any]
    accuracy: float
    test_images: int
    twin_accuracy: float | None
    packed_bytes: int | None
    float_bytes: int
    seconds_per_image: float | None
    processor: str
    training_seconds: float
    recipe: dict[str, Any]
    command: str = ""
    licence: str = "apache-2.0"
    twin_seconds_per_image: float | None = None
    batch: int = 1
    seeds: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> "Card":
        """Reads the card of a folder.

        Raises:
            HypersignError: the folder has no card, or a damaged one.
        """
        path = folder / CONFIG
        with open_file(path) as file:
            found = parse_object(str(path), file.read()).get("hypersign")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        needed = {
            name
            for name, field in fields.items()
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        }
        if not isinstance(found, dict) or not needed <= set(found) <= set(fields):
            raise HypersignError(f"{path} must hold the card of a network under hypersign; restore the file")
        return cls(**found)

    def config(self) -> str:
        """The text of `config.json`."""
        content = {"model_type": "hypersign", "library_name": "hypersign", "hypersign": dataclasses.asdict(self)}
        return json.dumps(content, indent=2) + "\n"

    def text(self) -> str:
        """The card as Markdown, with the metadata that model hubs read."""
        twin = "not trained" if self.twin_accuracy is None else self._accuracy(self.twin_accuracy, "twin_accuracy")
        rows = {
            "Data": f"{self.data}: {DATA_TERMS.get(self.data, 'see its own terms')}",
            "Network": f"{self.network} with {_listed(self.options)}",
            "Accuracy": f"{self._accuracy(self.accuracy, 'accuracy')}, of {self.test_images:,} test images",
            "Float twin": f"{twin} (the same layers and recipe with real weights and a ReLU for "
            "each quantizer of inputs)",
            "Size": f"{self._size()}; {self.float_bytes:,} bytes in float32",
            "Speed": self._speed(),
            "Training": f"{self.training_seconds:,.0f} s",
            "Made by": f"`{self.command}`" if self.command else "a run whose recipe is below",
            "Licence": f"{self.licence} for the weights; the data have their own terms",
        }
        table = "\n".join(f"| {name} | {text} |" for name, text in rows.items())
        recipe = {key: value for key, value in self.recipe.items() if value is not None}
        return f"""---
license: {self.licence}
library_name: hypersign
pipeline_tag: image-classification
tags:
- hypersign
- binary-neural-network
datasets:
- {self.data}
---

# {self.name}

| | |
|---|---|
{table}

Recipe: {_listed(recipe)}.

```python
from hypersign import hub

run = hub.from_pretrained(".")  # or the name of this repository
model = run.load_model()
```
"""

    def _accuracy(self, own: float, name: str) -> str:
        """This network's accuracy, and mean and standard deviation over seeds."""
        if len(self.seeds) < 2:
            return f"{own:.2%}, one seed"
        values = [100 * row[name] for row in self.seeds]
        return f"{own:.2%}; {len(values)} seeds {statistics.mean(values):.2f} ± {statistics.stdev(values):.2f} %"

    def _size(self) -> str:
        if self.packed_bytes is None:
            return "cannot be packed"
        return f"{self.packed_bytes:,} bytes packed, {self.float_bytes / self.packed_bytes:.1f} times smaller"

    def _speed(self) -> str:
        if self.seconds_per_image is None:
            return "not measured"
        text = f"{1e6 * self.seconds_per_image:,.0f} µs per image"
        if self.twin_seconds_per_image is not None:
            times = self.twin_seconds_per_image / self.seconds_per_image
            text += f", {1e6 * self.twin_seconds_per_image:,.0f} in float32 by torch: {times:.0f} times faster"
        several = f"{self.batch} images at once, " if self.batch > 1 else ""
        return f"{text} ({several}one core of {self.processor})"


def _listed(options: dict[str, Any]) -> str:
    return ", ".join(f"{key} {_word(value)}" for key, value in options.items())


def _word(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
