"""Quantized layers, also on the kernels, under torch's tools: copies, pickles, compilers, AMP, EMA, DDP, FSDP2."""

import copy
import io
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hypersign.layers import (
    QuantConv1d,
    QuantConv2d,
    QuantConv3d,
    QuantConvTranspose2d,
    QuantEmbedding,
    QuantLinear,
    QuantLSTM,
    QuantMultiheadAttention,
    convert,
    train_on_bits,
    use_kernels,
)
from hypersign.quantizers import Int8, MeanScale, Sign, Ternary

BINARY: dict[str, Any] = {"weight_quantizer": Sign(scale=MeanScale()), "input_quantizer": Sign()}


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Attend(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = QuantMultiheadAttention(8, 2, batch_first=True, **BINARY)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class Recur(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = QuantLSTM(8, 5, batch_first=True, recurrent_weight_quantizer=Sign(), hidden_quantizer=Sign())

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0]


def on_kernels(model: nn.Module) -> nn.Module:
    return use_kernels(model).model


def on_bits(model: nn.Module) -> nn.Module:
    train_on_bits(model)
    return model


NETWORKS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (lambda: QuantLinear(8, 3, **BINARY), (4, 8)),
    "ternary": (lambda: QuantLinear(8, 3, weight_quantizer=Ternary(0.2), input_quantizer=Ternary(0.3)), (4, 8)),
    "conv1d": (lambda: QuantConv1d(2, 3, 3, padding=1, **BINARY), (2, 2, 9)),
    "conv2d": (lambda: QuantConv2d(2, 3, 3, padding=1, **BINARY), (2, 2, 5, 5)),
    "conv3d": (lambda: QuantConv3d(2, 3, 2, **BINARY), (2, 2, 3, 3, 3)),
    "transposed": (lambda: QuantConvTranspose2d(4, 6, 2, groups=2, **BINARY), (2, 4, 3, 3)),
    "attention": (Attend, (2, 5, 8)),
    "lstm": (Recur, (2, 5, 8)),
    "own forward": (lambda: convert(Doubled(8, 3), **BINARY).model, (4, 8)),
    "on bits": (lambda: on_bits(nn.Sequential(QuantLinear(70, 3, **BINARY))), (4, 70)),
    "packed linear": (lambda: on_kernels(nn.Sequential(QuantLinear(70, 3, **BINARY))), (4, 70)),
    "packed conv2d": (lambda: on_kernels(nn.Sequential(QuantConv2d(2, 3, 3, **BINARY))), (2, 2, 5, 5)),
    "packed 8-bit": (
        lambda: on_kernels(nn.Sequential(QuantLinear(70, 3, weight_quantizer=Ternary(), input_quantizer=Int8()))),
        (4, 70),
    ),
}
LONG = os.environ.get("HYPERSIGN_LONG") == "1"
COMPILED = [
    name
    for name in NETWORKS
    if LONG or name not in ("ternary", "conv1d", "conv3d", "lstm", "on bits", "packed linear")
]
TRAINED = [name for name in NETWORKS if not name.startswith("packed")]


def network(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    return make().eval(), torch.randn(shape)


@pytest.mark.parametrize("name", NETWORKS)
def test_copied_and_pickled(name: str) -> None:
    model, x = network(name)
    with torch.no_grad():
        expected = model(x)
        stream = io.BytesIO()
        torch.save(model, stream)
        stream.seek(0)
        others = copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(stream, weights_only=False)
        for other in others:
            assert torch.equal(other(x), expected)
            assert list(other.state_dict()) == list(model.state_dict())
            for tensor in other.state_dict().values():
                tensor.zero_()
        assert torch.equal(model(x), expected)  # nothing is shared


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_and_exported(name: str) -> None:
    torch.compiler.reset()
    model, x = network(name)
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(torch.compile(model, backend="eager")(x), expected)
        exported = torch.export.export(model, (x,)).module()
        torch.testing.assert_close(exported(x), expected)


@pytest.mark.parametrize("name", TRAINED)
def test_trained_under_autocast(name: str) -> None:
    model, x = network(name)
    with torch.autocast("cpu", torch.bfloat16):
        y = model.train()(x)
    y.float().square().sum().backward()
    for parameter in model.parameters():
        assert parameter.dtype == parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize("name", TRAINED)
def test_moving_averages(name: str) -> None:
    """The average of latent weights is quantized like any weight."""
    model, x = network(name)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.75))
    average.update_parameters(model)
    first = {key: p.detach().clone() for key, p in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    average.update_parameters(model)
    for key, p in model.named_parameters():
        torch.testing.assert_close(average.module.get_parameter(key), 0.75 * first[key] + 0.25 * p)
    expected = copy.deepcopy(model)
    expected.load_state_dict(average.module.state_dict())
    with torch.no_grad():
        assert torch.equal(average(x), expected(x))


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # torch's own attention under vmap
@pytest.mark.parametrize("name", [name for name in TRAINED if name not in ("on bits", "lstm")])
def test_torch_func(name: str) -> None:
    model, x = network(name)
    parameters = {key: p.detach().clone() for key, p in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(model, parameters, (x,)).square().sum()

    found = torch.func.grad(loss)(parameters, x)
    model(x).square().sum().backward()
    for key, p in model.named_parameters():
        torch.testing.assert_close(found[key], p.grad)
    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x[:, None])
    for key, gradient in each.items():
        torch.testing.assert_close(gradient.sum(0), found[key], rtol=1e-4, atol=1e-4)


def test_embeddings() -> None:
    table = QuantEmbedding(7, 4, padding_idx=0, weight_quantizer=Sign(scale=MeanScale()))
    tokens = torch.tensor([[1, 0, 6]])
    expected = table(tokens)
    for other in (copy.deepcopy(table), pickle.loads(pickle.dumps(table)), torch.compile(table, backend="aot_eager")):
        assert torch.equal(other(tokens), expected)
    exported = torch.export.export(table, (tokens,)).module()
    assert torch.equal(exported(tokens), expected)


def test_use_kernels_says_what_it_left_and_why() -> None:
    model = nn.Sequential(
        QuantConv2d(1, 4, 3, weight_quantizer=Sign()),
        QuantConv2d(4, 4, 3, padding="same", **BINARY),
        QuantConvTranspose2d(4, 4, 2, **BINARY),
        convert(nn.Sequential(Doubled(4, 4)), **BINARY).model,
        QuantLinear(4, 2, **BINARY),
        nn.Linear(2, 2),
    )
    found = use_kernels(model)
    assert found.converted == ("4",)
    assert found.kept == {
        "0": "its inputs are not binary or ternary: Identity()",
        "1": "padding 'same' in mode 'zeros' has no kernel",
        "2": "QuantConvTranspose2d has no kernel",
        "3.0": "QuantDoubled has no kernel",
    }
    assert "QuantDoubled has no kernel" in str(found)
    assert "runs on bits" in str(found)


SCRIPT = """
    import copy, os, sys
    import torch
    import torch.distributed as dist
    from torch import nn
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel
    from hypersign.layers import QuantConv2d, QuantLinear, convert, train_on_bits
    from hypersign.quantizers import LearnedScale, MeanScale, Sign, Ternary

    dist.init_process_group("gloo")
    rank = dist.get_rank()

    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    def network():
        torch.manual_seed(0)
        return nn.Sequential(
            QuantConv2d(2, 6, 3, weight_quantizer=Sign(scale=MeanScale()), input_quantizer=Sign()),
            nn.Flatten(),
            QuantLinear(54, 8, weight_quantizer=Ternary(0.3, scale=LearnedScale()), input_quantizer=Sign()),
            convert(Doubled(8, 6), weight_quantizer=Sign(scale=MeanScale())).model,
        )

    x = torch.randn(4, 2, 5, 5, generator=torch.Generator().manual_seed(1))
    plain = network()
    (plain(x).square().sum() / 2).backward()
    mine = x[2 * rank : 2 * rank + 2]

    parallel = DistributedDataParallel(network())
    parallel(mine).square().sum().backward()
    for a, b in zip(plain.parameters(), parallel.parameters()):
        torch.testing.assert_close(a.grad, b.grad)

    sharded = network()
    for layer in sharded:
        if next(layer.parameters(), None) is not None:
            fully_shard(layer, mesh=torch.distributed.device_mesh.init_device_mesh("cpu", (2,)))
    fully_shard(sharded, mesh=torch.distributed.device_mesh.init_device_mesh("cpu", (2,)))
    y = sharded(mine)
    torch.testing.assert_close(y, plain(mine))
    y.square().sum().backward()
    for (name, a), b in zip(plain.named_parameters(), sharded.parameters()):
        torch.testing.assert_close(a.grad, b.grad.full_tensor())
    optimizer = torch.optim.SGD(sharded.parameters(), 0.1)
    optimizer.step()
    torch.testing.assert_close(
        sharded[2].weight.full_tensor(), plain[2].weight - 0.1 * plain[2].weight.grad
    )

    bits = network()
    train_on_bits(bits)
    DistributedDataParallel(bits)(mine).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in bits.parameters())
    print("done")
    dist.destroy_process_group()
"""


def test_two_processes(tmp_path: Path) -> None:
    """DDP and FSDP2 on gloo: gradients of the whole batch."""
    (tmp_path / "scene.py").write_text(textwrap.dedent(SCRIPT))
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    result = subprocess.run(
        [*words, str(tmp_path / "scene.py")], capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("done") == 2
