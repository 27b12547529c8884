"""How does one bit's geometry move while my own loop trains?

A plain PyTorch loop over scanned digits, with three lines more: a Tracker is made, called after each epoch, and what
it found is printed. The network has quantized layers; one without any is tracked as if its weights became signs.

    python examples/bare_loop.py
"""

import itertools

import torch
from torch import nn

from hypersign.data import load
from hypersign.geometry import Tracker
from hypersign.models import vgg

torch.manual_seed(0)
data = load("digits")
train = data.batches(data.train, 50, seed=0)
images = torch.cat([x for x, _ in itertools.islice(train.epoch(0), 6)])  # the same 300 each time

network = vgg(data.shape, len(data.classes), widths=(16, 32), pools=(1, 2), hidden=())
optimizer = torch.optim.Adam(network.parameters(), 3e-3)
track = Tracker(network)
for epoch in range(1, 4):
    for x, labels in train.epoch(epoch):
        nn.functional.cross_entropy(network(x), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.clamp_(-1, 1)
    for name, layer in track(images).items():
        print(
            f"epoch {epoch}, {name}: angle {layer.angle_degrees:.1f} (Gaussian {layer.predicted_angle_degrees:.1f}), "
            f"r {layer.pearson_r:.3f}, {layer.flipped_signs:.1%} of signs flipped"
        )
