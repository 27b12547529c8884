"""A small network that was trained for a second on noisy patterns: forecasts are about trained networks."""

import pytest
import torch
from torch import nn


def patterns(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (count, 3, 6, 6) of ten patterns with noise, and their classes."""
    means = torch.randn(10, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (count,), generator=generator)
    return means[labels] + 3.0 * torch.randn(count, 3, 6, 6, generator=generator), labels


def fitted(model: nn.Module) -> nn.Module:
    """The network after eight epochs on 640 patterns."""
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    x, labels = patterns(640, 1)
    for _ in range(8):
        for part, wanted in zip(x.split(64), labels.split(64), strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(part), wanted).backward()
            optimizer.step()
    return model.eval()


def trained(norm: bool) -> nn.Module:
    torch.manual_seed(0)
    norms = [nn.BatchNorm2d(12)] if norm else []
    return fitted(
        nn.Sequential(
            nn.Conv2d(3, 12, 3, padding=1, bias=not norm), *norms, nn.ReLU(), nn.Conv2d(12, 8, 3), nn.ReLU(),
            nn.Flatten(), nn.Linear(128, 10),
        )
    )  # fmt: skip


@pytest.fixture(scope="session")
def train_on_patterns():
    return fitted


@pytest.fixture(scope="session")
def draw_patterns():
    return patterns


@pytest.fixture(scope="session")
def net() -> nn.Module:
    return trained(norm=False)


@pytest.fixture(scope="session")
def normed() -> nn.Module:
    return trained(norm=True)


@pytest.fixture(scope="session")
def images() -> torch.Tensor:
    return patterns(400, 2)[0]
