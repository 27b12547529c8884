"""What does one bit do to a float network?

Trains a small float network on scanned digits, turns it into a binary one layer by layer, and prints what that
does to its accuracy: at once, and after batch norm has been re-estimated; and to each layer's dot products.

    python examples/convert_network.py
"""

import torch
from torch import nn

from hypersign.data import load
from hypersign.evaluate import evaluate, reestimate_batch_norm
from hypersign.geometry import inspect
from hypersign.layers import convert
from hypersign.quantizers import MeanScale, Sign

torch.manual_seed(0)
data = load("digits")
train = data.batches(data.train, 50, seed=0)
test = data.batches(data.test, 100)

network = nn.Sequential(
    nn.Conv2d(1, 32, 3, padding=1, bias=False),
    nn.BatchNorm2d(32),
    nn.Hardtanh(),
    nn.MaxPool2d(2),
    nn.Conv2d(32, 64, 3, padding=1, bias=False),
    nn.BatchNorm2d(64),
    nn.Hardtanh(),
    nn.Flatten(),
    nn.Linear(64 * 4 * 4, 10, bias=False),
    nn.BatchNorm1d(10),
)
optimizer = torch.optim.Adam(network.parameters(), 3e-3)
for epoch in range(5):
    for images, labels in train.epoch(epoch):
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
print(f"float: {evaluate(network, test).accuracy:.1%}")

for name in ("0", "4", "8"):
    others = [other for other in ("0", "4", "8") if other != name]
    converted = convert(network, weight_quantizer=Sign(scale=MeanScale()), keep=others).model
    at_once = evaluate(converted, test).accuracy
    reestimate_batch_norm(converted, train)
    refitted = evaluate(converted, test).accuracy
    layer = inspect(converted, test, name="one layer binary", dataset="digits").layers[0]
    print(
        f"layer {name} binary: {at_once:.1%}, batch norm re-estimated: {refitted:.1%}; "
        f"angle {layer.angle_degrees.mean:.1f} degrees, r {layer.weights_binarized.pearson_r:.2f}"
    )
