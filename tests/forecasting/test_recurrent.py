"""Recurrent layers, and layers that a pass calls several times: changes, repair, and the code of a plan."""

import copy

import pytest
import torch
from torch import nn

from hypersign.forecasting import effect, forecast, repair
from hypersign.forecasting.bench import Bench
from hypersign.forecasting.effects import centred
from hypersign.forecasting.formats import sides_of
from hypersign.forecasting.layers import bias_place
from hypersign.layers import QuantLSTM, convert
from hypersign.quantizers import MeanScale, Sign, Uniform


class Reader(nn.Module):
    """Tokens, a recurrent layer, logits at each step."""

    def __init__(self, kind: str = "plain", **options) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, 10)
        make = {"plain": nn.LSTM, "quant": QuantLSTM, "gru": nn.GRU}[kind]
        self.lstm = make(10, 16, batch_first=True, **options)
        self.head = nn.Linear(16, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.embedding(x))[0])


class Twice(nn.Module):
    """One layer that a pass calls twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(20, 20), nn.Linear(20, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.inner(torch.relu(self.inner(x)))))


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randint(12, (64, 9), generator=torch.Generator().manual_seed(3))


def reader(kind: str = "plain", **options) -> Reader:
    torch.manual_seed(0)
    return Reader(kind, **options).eval()


@pytest.mark.parametrize(
    ("kind", "options"),
    [("plain", {}), ("gru", {"num_layers": 2}), ("quant", {"norm": "weight"}), ("plain", {"bidirectional": True})],
)
def test_one_matrix_changed_alone_is_the_converted_network(kind: str, options, tokens) -> None:
    model = reader(kind, **options)
    if options.get("bidirectional"):
        model.head = nn.Linear(32, 12)
    before = copy.deepcopy(model.state_dict())
    found = forecast(model, [tokens], formats=["binary"], repaired=False, mixtures=0)
    names = [layer.name for layer in found.layers]
    assert names[:2] == ["lstm.ih_l0", "lstm.hh_l0"]
    assert names[-1] == "head"
    assert len(names) == {"plain": 3, "gru": 5, "quant": 3}[kind] + 2 * bool(options.get("bidirectional"))
    for name in names:
        changed = convert(model, weight_quantizer={name: Sign(scale=MeanScale())}).model
        with torch.no_grad():
            wanted = effect(centred(model(tokens).numpy()), centred(changed(tokens).numpy()))
        (layer,) = (layer for layer in found.layers if layer.name == name)
        assert layer.raw["binary"].r.value == pytest.approx(wanted.r.value, abs=1e-5), name
        assert layer.weights == changed.get_submodule(name).weight.numel()
        assert layer.macs == layer.weights * 9
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("kind", ["plain", "quant"])
def test_repair_gives_products_the_moments_of_the_original(kind: str, tokens) -> None:
    model = reader(kind, **({"norm": "weight"} if kind == "quant" else {}))
    bench = Bench(model, [tokens])
    assignment = dict.fromkeys(bench.layers, sides_of("binary"))
    measured = effect(bench.original, bench.together(assignment, repaired=True))
    raw = effect(bench.original, bench.together(assignment, repaired=False))
    assert measured.kl.value < raw.kl.value
    quantized = convert(model, weight_quantizer={name: Sign(scale=MeanScale()) for name in bench.layers}).model
    assert repair(quantized, [tokens], original=model) == ("lstm.ih_l0", "lstm.hh_l0", "head")
    with torch.no_grad():
        made = effect(centred(model(tokens).numpy()), centred(quantized(tokens).numpy()))
    assert made.r.value == pytest.approx(measured.r.value, abs=1e-4)
    benches = [Bench(one, [tokens]) for one in (model, quantized)]
    for name in bench.layers:
        means, spreads = [], []
        for one in benches:
            layer = one.layers[name].module
            found = one._moments_of(one.batches)[0][layer]
            place, bias = bias_place(layer)
            means.append(found.mean + (0 if name == "head" else place[bias].detach()))
            spreads.append(found.variance.log())
        assert (means[0] - means[1]).abs().max() < 0.01, name  # three passes are nearly enough
        assert (spreads[0] - spreads[1]).abs().max() < 0.1, name


@pytest.mark.parametrize("options", [{"norm": "layer"}, {"bias": False}])
def test_products_before_a_norm_or_without_a_bias_get_a_scale(tokens, options) -> None:
    model = reader("quant", **options)
    found = forecast(model, tokens.split(32), formats=["binary", "4-level"], mixtures=0)
    names = ["lstm.ih_l0", "lstm.hh_l0"]
    for layer in found.layers[:2]:
        assert layer.repaired["binary"].kl.value < layer.raw["binary"].kl.value
    quantized = convert(model, weight_quantizer=dict.fromkeys(names, Uniform(4, scale=MeanScale()))).model
    biases = {name for name, _ in quantized.named_parameters() if "bias" in name}
    assert repair(quantized, tokens.split(32), original=model)[:2] == tuple(names)
    assert {name for name, _ in quantized.named_parameters() if "bias" in name} == biases
    measured = found.measure(dict.fromkeys(names, "4-level"), [tokens])
    with torch.no_grad():
        real = effect(centred(model(tokens).numpy()), centred(quantized(tokens).numpy()))
    assert real.r.value == pytest.approx(measured.r.value, abs=1e-4)


def test_inputs_of_products_are_changed_too(tokens) -> None:
    found = forecast(reader(), [tokens], formats=["inputs:binary", "inputs:8-bit"], mixtures=2)
    for layer in found.layers[:2]:
        assert layer.raw["inputs:8-bit"].r.value > 0.999
        assert layer.raw["inputs:binary"].r.value < 0.999


def test_a_plan_names_matrices_and_its_code_makes_it(tokens) -> None:
    model = reader()
    found = forecast(model, tokens.split(32), formats=["binary", "8-level"], mixtures=3)
    plan = found.plan(bits_per_weight=12, held_out=[tokens])
    assert set(plan.assignment) == {"lstm.ih_l0", "lstm.hh_l0", "head"}
    assert plan.no_file
    made = {"model": model, "batches": tokens.split(32)}
    exec(plan.call, made)
    with torch.no_grad():
        real = effect(centred(model(tokens).numpy()), centred(made["quantized"](tokens).numpy()))
    assert real.r.value == pytest.approx(plan.measured.r.value, abs=1e-4)


def test_a_layer_called_twice_is_repaired() -> None:
    torch.manual_seed(0)
    model, x = Twice().eval(), torch.randn(256, 20)
    found = forecast(model, [x], formats=["binary"], mixtures=2)
    inner = found.layers[0]
    assert inner.macs == 2 * 400
    assert inner.repaired["binary"].kl.value < inner.raw["binary"].kl.value
    quantized = convert(model, weight_quantizer={"inner": Uniform(4, scale=MeanScale())}).model
    assert repair(quantized, [x], original=model) == ("inner", "head")
    with torch.no_grad():
        apart = (quantized(x).mean(0) - model(x).mean(0)).abs().max()
    assert apart < 1e-5  # the head sees what the repaired layer gives
