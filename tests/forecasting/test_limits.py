"""Where the law might break: saturation, shared inputs, residual paths, normalisation."""

import numpy as np
import pytest
import torch
from torch import nn

from hypersign.forecasting import Forecast, forecast


class Shared(nn.Module):
    """Two branches read the same inputs, and join."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(108, 24), nn.Linear(108, 24), nn.Linear(24, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        return self.head(torch.relu(self.left(x)) + torch.relu(self.right(x)))


class Residual(nn.Module):
    """Three blocks around which their inputs pass."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(108, 24), nn.Linear(24, 10)
        self.blocks = nn.ModuleList(nn.Linear(24, 24) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x.flatten(1))
        for block in self.blocks:
            x = x + torch.relu(block(x))
        return self.head(x)


class Saturated(nn.Module):
    """Activations at their limits: tanh of five times its input."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(108, 24), nn.Linear(24, 24), nn.Linear(24, 10)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        for layer in self.layers[:-1]:
            x = torch.tanh(5 * layer(x))
        return self.layers[-1](x)


def normalised() -> nn.Module:
    blocks = [
        (nn.Conv2d(3 if i == 0 else 8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()) for i in range(4)
    ]
    return nn.Sequential(*(part for block in blocks for part in block), nn.Flatten(), nn.Linear(288, 10))


KINDS = {"shared inputs": Shared, "residual paths": Residual, "saturation": Saturated, "normalisation": normalised}

LIMITS = {  # mean distance of predicted and measured r: repaired, raw
    "shared inputs": (0.01, 0.03),
    "residual paths": (0.01, 0.03),
    "saturation": (0.02, 0.04),
    "normalisation": (0.03, 0.04),
}


@pytest.fixture(scope="module", params=KINDS)
def case(request, train_on_patterns, draw_patterns) -> tuple[str, Forecast, list[torch.Tensor]]:
    torch.manual_seed(0)
    model = train_on_patterns(KINDS[request.param]())
    found = forecast(model, [draw_patterns(160, 2)[0]], formats=["binary", "ternary", "4-level"])
    return request.param, found, [draw_patterns(500, 3)[0]]


@pytest.mark.parametrize("repaired", [True, False])
def test_mixtures_on_other_inputs(case, repaired: bool) -> None:
    kind, found, others = case
    generator = np.random.default_rng(1)
    names = [layer.name for layer in found.layers]
    apart, agree, ranks = [], [], []
    for _ in range(12):
        drawn = generator.choice(["float", "binary", "ternary", "4-level"], len(names))
        mixture = dict(zip(names, map(str, drawn), strict=True))
        predicted = found.predict(mixture, repaired=repaired)
        measured = found.measure(mixture, others, repaired=repaired)
        if measured.destroyed:
            continue
        assert not predicted.destroyed
        apart.append(abs(predicted.r.value - predicted.r.bias - measured.r.value))
        agree.append(abs(predicted.agreement.value - predicted.agreement.bias - measured.agreement.value))
        ranks.append((predicted.r.value, measured.r.value))
    assert np.mean(apart) <= LIMITS[kind][0 if repaired else 1]
    assert np.mean(agree) <= 0.07
    order = [np.argsort(np.argsort(column)) for column in np.array(ranks).T]
    assert np.corrcoef(order)[0, 1] > 0.9
