"""Recurrent layers: torch's own without quantizers, NumPy's formulas with them."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

from hypersign import HypersignError
from hypersign.layers import QuantGRU, QuantLSTM, QuantRNN, convert, quant_layers
from hypersign.quantizers import BitNet, Identity, Int8, MeanScale, Optimal, ParetoQ, Sign, Ternary

KINDS = [
    (QuantLSTM, nn.LSTM, {}),
    (QuantLSTM, nn.LSTM, {"proj_size": 3}),
    (QuantGRU, nn.GRU, {}),
    (QuantRNN, nn.RNN, {}),
]
KINDS.append((QuantRNN, nn.RNN, {"nonlinearity": "relu"}))


def tensors(result):
    outputs, states = result
    outputs = outputs.data if isinstance(outputs, nn.utils.rnn.PackedSequence) else outputs
    return [outputs, *(states if isinstance(states, tuple) else (states,))]


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("unrolled", [False, True])
@pytest.mark.parametrize("case", ["plain", "single", "packed", "started"])
@pytest.mark.parametrize(("ours", "theirs", "more"), KINDS)
def test_without_quantizers_it_is_torchs_layer(ours, theirs, more, case, unrolled):
    torch.manual_seed(0)
    for layers, both, first in itertools.product((1, 2), (False, True), (False, True)):
        options = {"num_layers": layers, "bidirectional": both, "batch_first": first, **more}
        layer, reference = ours(4, 6, **options), theirs(4, 6, **options)
        assert list(layer.state_dict()) == list(reference.state_dict())
        layer.load_state_dict(reference.state_dict())
        layer.observer = (lambda *_: None) if unrolled else None
        x, start = torch.randn(5, 7, 4), None
        if case == "single":
            x = x[0]
        if case == "packed":
            lengths = torch.tensor([7, 2, 3, 1, 5] if first else [2, 5, 3, 5, 1, 1, 4])
            x = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=first, enforce_sorted=False)
        if case in ("packed", "started"):
            size = layers * (1 + both), 5 if first else 7
            start = torch.randn(*size, more.get("proj_size", 6))
            start = (start, torch.randn(*size, 6)) if theirs is nn.LSTM else start
        found, wanted = tensors(layer(x, start)), tensors(reference(x, start))
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
        sum(part.square().sum() for part in found).backward()
        sum(part.square().sum() for part in wanted).backward()
        for a, b in zip(layer.parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, atol=1e-6 * max(1.0, float(b.grad.abs().max())), rtol=0)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def test_a_binary_lstm_by_hand():
    """Signs of weights with a scale per row, signs of hidden states, in NumPy."""
    torch.manual_seed(1)
    layer = QuantLSTM(
        3,
        5,
        input_weight_quantizer=Sign(scale=MeanScale()),
        recurrent_weight_quantizer=Sign(),
        hidden_quantizer=Sign(),
    )
    assert not layer.fused
    x = torch.randn(4, 2, 3)
    outputs, (h, c) = layer(x)
    weights = {name: tensor.detach().numpy().astype(np.float64) for name, tensor in layer.named_parameters()}
    wx, wh = weights["weight_ih_l0"], weights["weight_hh_l0"]
    wx, wh = np.where(wx >= 0, 1, -1) * np.abs(wx).mean(1, keepdims=True), np.where(wh >= 0, 1, -1)
    state, cell = np.zeros((2, 5)), np.zeros((2, 5))
    for t in range(4):
        z = x[t].numpy() @ wx.T + np.where(state >= 0, 1, -1) @ wh.T + weights["bias_ih_l0"] + weights["bias_hh_l0"]
        i, f, g, o = np.split(z, 4, axis=1)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        state = sigmoid(o) * np.tanh(cell)
        np.testing.assert_allclose(outputs[t].detach().numpy(), state, atol=1e-5)
    np.testing.assert_allclose(c[0].detach().numpy(), cell, atol=1e-5)
    np.testing.assert_allclose(h[0].detach().numpy(), state, atol=1e-5)


@pytest.mark.parametrize("norm", ["none", "weight"])
@pytest.mark.parametrize(
    "quantizer", [Sign(), Sign(scale=MeanScale()), Ternary(Optimal()), BitNet(), ParetoQ(count=2)]
)
def test_torchs_kernel_and_the_steps_agree(quantizer, norm):
    torch.manual_seed(2)
    layer = QuantLSTM(
        3, 5, input_weight_quantizer=quantizer, recurrent_weight_quantizer=quantizer, norm=norm, num_layers=2
    )
    other = copy.deepcopy(layer)
    other.observer = lambda *_: None
    assert layer.fused
    assert not other.fused
    x = torch.randn(4, 2, 3)
    found = [tensors(each(x)) for each in (layer, other)]
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=0)
    for parts in found:
        sum(part.sum() for part in parts).backward()
    for (name, a), b in zip(layer.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_weight_norm_gives_rows_their_learned_length():
    layer = QuantGRU(3, 5, recurrent_weight_quantizer=Ternary(Optimal()), norm="weight")
    lengths = layer.hh_l0.matrix().norm(dim=1)
    torch.testing.assert_close(lengths, layer.hh_l0.gain)
    assert set(layer.state_dict()) - set(nn.GRU(3, 5).state_dict()) == {"ih_l0.gain", "hh_l0.gain"}


def test_batch_norm_shares_statistics_or_keeps_them_by_step():
    torch.manual_seed(3)
    shared = QuantLSTM(3, 5, norm="batch")
    x = 2 * torch.randn(6, 32, 3)
    outputs, _ = shared(x)
    assert outputs.shape == (6, 32, 5)
    assert int(shared.norm_hh_l0.at[0].num_batches_tracked) == 6
    by_step = QuantLSTM(3, 5, norm="batch", steps=6)
    by_step(x)
    assert [int(norm.num_batches_tracked) for norm in by_step.norm_hh_l0.at] == [1] * 6
    products = x[4] @ by_step.weight_ih_l0.T
    torch.testing.assert_close(by_step.norm_ih_l0.at[4].running_mean, 0.1 * products.mean(0).detach())
    with pytest.raises(HypersignError, match=r"sequences must have 6 steps, .*; got 5: leave out steps"):
        by_step(x[:5])
    assert torch.equal(shared.norm_c_l0.weight, torch.full((5,), 0.1))


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_every_parameter_learns(norm):
    torch.manual_seed(4)
    layer = QuantLSTM(
        3,
        5,
        bidirectional=True,
        num_layers=2,
        input_weight_quantizer=BitNet(),
        recurrent_weight_quantizer=Ternary(0.1),
        input_quantizer=Int8(),
        hidden_quantizer=Sign(),
        norm=norm,
    )
    layer(torch.randn(6, 8, 3))[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())


def test_quantized_layers_are_the_products_and_share_the_weights():
    layer = QuantLSTM(3, 5, recurrent_weight_quantizer=Sign())
    net = nn.ModuleDict({"lstm": layer})
    assert list(quant_layers(net)) == ["lstm.hh_l0"]
    assert layer.hh_l0.weight is layer.weight_hh_l0
    other = copy.deepcopy(net)["lstm"]
    assert other.hh_l0.weight is other.weight_hh_l0
    assert other.hh_l0.weight is not layer.weight_hh_l0
    assert layer.double().hh_l0.weight.dtype == torch.float64


def test_convert_turns_torchs_layers_into_ours():
    torch.manual_seed(5)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 5, num_layers=2, bidirectional=True)
            self.gru = nn.GRU(10, 4)
            self.out = nn.Linear(4, 2)

        def forward(self, x):
            return self.out(self.gru(self.lstm(x)[0])[0])

    net, x = Network(), torch.randn(6, 2, 3)
    plain = convert(net, weight_quantizer=Identity())
    assert plain.converted == ("lstm", "gru", "out")
    assert list(plain.model.state_dict()) == list(net.state_dict())
    torch.testing.assert_close(plain.model(x), net(x), atol=1e-6, rtol=0)
    binary = convert(net, weight_quantizer=Sign(scale=MeanScale()), input_quantizer=Int8(), keep=["out"]).model
    assert isinstance(binary.lstm, QuantLSTM)
    assert isinstance(binary.gru.hh_l0.input_quantizer, Int8)
    assert isinstance(binary.lstm.hh_l1_reverse.weight_quantizer, Sign)
    assert isinstance(net.lstm, nn.LSTM)
    assert not isinstance(net.lstm, QuantLSTM)
    assert not torch.equal(binary(x), net(x))
    some = convert(net, weight_quantizer={"gru": Sign()}).model
    assert not isinstance(some.lstm, QuantLSTM)
    again = convert(plain.model, weight_quantizer=Sign()).model
    assert isinstance(again.lstm.ih_l0.weight_quantizer, Sign)
    assert convert(binary, weight_quantizer=Sign()).kept["lstm"] == "already a quantized layer"


def test_bad_arguments():
    with pytest.raises(HypersignError, match="weight_quantizer must be a quantizer object"):
        QuantLSTM(3, 5, recurrent_weight_quantizer="sign")
    with pytest.raises(HypersignError, match="norm must be one of none, weight, layer, batch"):
        QuantLSTM(3, 5, norm="group")
    with pytest.raises(HypersignError, match="steps are for batch norm with statistics per step; got the norm layer"):
        QuantLSTM(3, 5, norm="layer", steps=4)
    with pytest.raises(RuntimeError, match="Expected hidden"):
        QuantRNN(3, 5, hidden_quantizer=Sign())(torch.zeros(4, 2, 3), torch.zeros(1, 3, 5))
    with pytest.raises(HypersignError, match=r"sequences of unequal length packed by .*; got list: pack them"):
        QuantLSTM(3, 5)([torch.zeros(2, 3), torch.zeros(4, 3)])
    for first in (False, True):
        for layer in (QuantLSTM(3, 5, norm="layer", batch_first=first), QuantGRU(3, 5, hidden_quantizer=Sign())):
            for shape, message in (
                ((4, 2, 6), "Expected 3, got 6"),
                ((4, 6), "Expected 3, got 6"),
                ((3,), "3 dimensions, got 1"),
                ((2, 4, 2, 3), "3 dimensions, got 4"),
            ):
                with pytest.raises(RuntimeError, match=message):
                    layer(torch.zeros(shape))
            with pytest.raises(RuntimeError, match="Expected 3, got 6"):
                layer(pack_sequence([torch.zeros(4, 6), torch.zeros(2, 6)]))
            with pytest.raises(HypersignError, match="at least one step; these have none"):
                layer(torch.zeros((2, 0, 3) if layer.batch_first else (0, 2, 3)))
    layer = QuantLSTM(3, 5, norm="batch")
    for x in (torch.randn(4, 1, 3), torch.randn(4, 3), torch.randn(4, 0, 3), pack_sequence([torch.randn(4, 3)])):
        with pytest.raises(HypersignError, match=r"batch norm needs at least 2 sequences in training, .*; got [01]"):
            layer(x)
    assert layer.eval()(torch.randn(4, 3))[0].shape == (4, 5)
    assert isinstance(QuantLSTM(3, 5).hh_l0.weight_quantizer, Identity)


@pytest.mark.parametrize("steps", [None, 5])
def test_batch_norm_of_the_end_of_the_longest_sequence(steps):
    """Statistics of the batch while there are several sequences, then the running ones; both directions."""
    torch.manual_seed(0)
    layer = QuantRNN(3, 4, bidirectional=True, norm="batch", steps=steps, bias=False)
    sequences = [torch.randn(length, 3) for length in (5, 3, 2)]
    norms = {end: [getattr(layer, f"norm_{kind}_{end}") for kind in ("ih", "hh")] for end in ("l0", "l0_reverse")}
    for norm in itertools.chain.from_iterable(norms.values()):
        for at in norm.at:
            at.running_mean.normal_()
            at.running_var.uniform_(0.5, 2)
    expected = torch.zeros(5, 3, 8)
    for side, (end, (ih, hh)) in enumerate(norms.items()):
        matrices = [layer.get_parameter(f"weight_{kind}_{end}") for kind in ("ih", "hh")]
        running = [[(at.running_mean.clone(), at.running_var.clone()) for at in norm.at] for norm in (ih, hh)]
        h = torch.zeros(3, 4)
        for t in (range(5), reversed(range(5)))[side]:
            count = sum(len(sequence) > t for sequence in sequences)
            x = torch.stack([sequence[t] for sequence in sequences[:count]])
            total = 0
            for values, statistics in zip((x @ matrices[0].T, h[:count] @ matrices[1].T), running, strict=True):
                at = t if steps else 0
                mean, variance = statistics[at]
                if count > 1:
                    here = values.mean(0), values.var(0, correction=0)
                    new = values.var(0, correction=1)
                    statistics[at] = (0.9 * mean + 0.1 * here[0]).detach(), (0.9 * variance + 0.1 * new).detach()
                    mean, variance = here
                total = total + 0.1 * (values - mean) / (variance + 1e-5).sqrt()
            h = torch.cat((torch.tanh(total), h[count:]))
            expected[t, :count, 4 * side : 4 * side + 4] = torch.tanh(total)
    found, lengths = pad_packed_sequence(layer(pack_sequence(sequences))[0])
    assert lengths.tolist() == [5, 3, 2]
    torch.testing.assert_close(found, expected)
    wanted = torch.autograd.grad(expected.square().sum(), layer.weight_hh_l0_reverse)
    torch.testing.assert_close(torch.autograd.grad(found.square().sum(), layer.weight_hh_l0_reverse), wanted)


def test_replaced_parameters_count_at_once() -> None:
    """torch renews its list of weights in the first pass after a parameter was replaced."""
    torch.manual_seed(0)
    layer, x = QuantLSTM(5, 7, recurrent_weight_quantizer=Sign(scale=MeanScale())), torch.randn(6, 2, 5)
    state = {name: 0.5 * value.clone() for name, value in layer.state_dict().items()}
    layer.load_state_dict(state, assign=True)
    with torch.no_grad():
        first, second = layer(x)[0], layer(x)[0]
    assert torch.equal(first, second)


def test_convert_takes_names_of_matrices() -> None:
    torch.manual_seed(0)
    network = nn.ModuleDict({"lstm": nn.LSTM(5, 7), "head": nn.Linear(7, 3)})
    result = convert(
        network, weight_quantizer={"lstm.hh_l0": Sign(), "head": Ternary()}, input_quantizer={"lstm": Sign()}
    )
    products = result.model["lstm"].products()
    assert not products["weight_ih_l0"].quantizes_weights
    assert products["weight_hh_l0"].quantizes_weights
    assert all(product.quantizes_inputs for product in products.values())
    assert result.converted == ("lstm", "head")
    again = convert(result.model, weight_quantizer={"lstm.ih_l0": Ternary()}).model["lstm"]
    assert isinstance(again.ih_l0.weight_quantizer, Ternary)
    assert isinstance(again.hh_l0.weight_quantizer, Sign)
    with pytest.raises(HypersignError, match="already a quantized layer"):
        convert(result.model, weight_quantizer={"lstm.hh_l0": Ternary()})
    with pytest.raises(HypersignError, match=r"'lstm\.hh_l1' is none"):
        convert(network, weight_quantizer={"lstm.hh_l1": Sign()})
