"""r of attention by head and position, against NumPy."""

import numpy as np
import pytest
import torch
from torch import nn

from hypersign import HypersignError
from hypersign.geometry import attention_r
from hypersign.models import build

TOKENS = torch.randint(9, (400, 6), generator=torch.Generator().manual_seed(0))


def test_r_of_each_head_and_position():
    torch.manual_seed(0)
    model = build("gpt", (6,), 9, width=16, blocks=2, heads=2, weights="sign").eval()
    found = attention_r(model, TOKENS[:200], TOKENS[200:])
    assert [row.name for row in found][:4] == [
        "block1.attention.query",
        "block1.attention.key",
        "block1.attention.value",
        "block2.attention.query",
    ]
    first, layer = found[1], model.block1.attention.key
    with torch.no_grad():
        x = model.block1.norm1(model.embedding(TOKENS[:200])).numpy()
        w = layer.weight.numpy()
    for head, position in ((0, 0), (1, 4)):
        a, b = x[:, position] @ w.T, x[:, position] @ np.where(w >= 0, 1, -1).T
        wanted = np.mean([np.corrcoef(a[:, j], b[:, j])[0, 1] for j in range(8 * head, 8 * head + 8)])
        assert first.r[head][position] == pytest.approx(wanted, abs=1e-5)
    for row in found:
        assert np.abs(np.subtract(row.r, row.predicted_r)).max() < 0.05


def test_networks_without_it():
    with pytest.raises(HypersignError, match="attention with quantized layers"):
        attention_r(nn.Linear(2, 2), TOKENS, TOKENS)
    with pytest.raises(HypersignError, match="attention with quantized layers"):
        attention_r(build("gpt", (6,), 9, width=16, blocks=1, heads=2, weights="float"), TOKENS, TOKENS)
    with pytest.raises(HypersignError, match="number of test sequences"):
        attention_r(nn.Linear(2, 2), TOKENS[:1], TOKENS)
