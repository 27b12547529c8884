"""Train a ternary network on images of your own, and print what inspection measured.

The images are noisy stripes in four directions. They are saved as an `.npz`, which `hypersign train --data` also
takes.

    python examples/own_images.py FOLDER
"""

import sys
from pathlib import Path

import numpy as np

from hypersign import Recipe, inspect, train

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/stripes")
folder.mkdir(parents=True, exist_ok=True)

generator = np.random.default_rng(0)
labels = np.arange(1200) % 4
y, x = np.mgrid[:12, :12]
directions = np.stack([x, x + y, y, x - y])
waves = np.sin(1.3 * directions[labels] + generator.uniform(0, 2 * np.pi, (1200, 1, 1)))
images = (128 + 40 * (waves + generator.normal(size=waves.shape))).clip(0, 255).astype(np.uint8)
np.savez(folder / "stripes.npz", images=images, labels=labels)

recipe = Recipe(
    data=str(folder / "stripes.npz"),
    levels=3,
    threshold="optimal",
    widths=(16, 32),
    pools=(1, 2),
    hidden=(),
    flip=False,  # a mirrored stripe is one of another class
    crop_padding=0,
    epochs=8,
    batch_size=50,
    learning_rate=3e-3,
)
run = train(recipe, folder / "run")
found = inspect(run)
print(f"{found.accuracy:.1%} of {found.images} test images")
for layer in found.layers:
    angle = layer.angle_degrees
    print(f"{layer.name}: angle {angle.mean:.1f} degrees, predicted {angle.predicted_mean:.1f}; {layer.level_shares}")
