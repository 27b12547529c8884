"""The contract: a class with `round` alone works; what a quantizer states is used; what it learns gets gradients."""

import copy
import dataclasses
import io
import math

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from hypersign import report, theory
from hypersign._checks import HypersignError
from hypersign.cli.ablate import ablation_table, depth_table, ranking_words
from hypersign.cli.inspect import covariance_table, geometry_table
from hypersign.figures import ablated_layers, save_analysis
from hypersign.geometry import Tracker, inspect
from hypersign.geometry.ablation import ablate
from hypersign.geometry.claims import network_claims
from hypersign.geometry.covariance import input_covariances
from hypersign.geometry.depth import measure_depth
from hypersign.geometry.weights import angle_stats, input_cosine, input_threshold, predicted_angle
from hypersign.layers import QuantConv1d, QuantConv2d, QuantLinear, convert, train_on_bits, use_kernels
from hypersign.layers.rotation import PatchRotation
from hypersign.models import ShiftBatchNorm1d, ShiftBatchNorm2d
from hypersign.packed import PackedModel
from hypersign.packing import pack, verify
from hypersign.quantizers import (
    Deviations,
    GroupScaled,
    HardTanh,
    Identity,
    MeanScale,
    Optimal,
    Quantizer,
    Rotated,
    Sign,
    StraightThrough,
    Surrogate,
    Tanh,
    Ternary,
)
from hypersign.rotations import HadamardRotation
from hypersign.summaries import summary


class Rounded(Quantizer):
    """To the nearest half: `round` and nothing else."""

    def round(self, x: Tensor) -> Tensor:
        return (2 * x).round() / 2


class Eight(Quantizer):
    levels = tuple(range(-4, 4))

    def round(self, x: Tensor) -> Tensor:
        return x.floor().clamp(-4, 3)


class Int8(Quantizer):
    bits = 8

    def round(self, x: Tensor) -> Tensor:
        return x.round().clamp(-128, 127)


class Standardised(Sign):
    """IR-Net: the sign of standardised weights."""

    def prepare(self, x: Tensor) -> Tensor:
        rows = x.flatten(1)
        return ((rows - rows.mean(1, keepdim=True)) / rows.std(1, keepdim=True, correction=0)).view_as(x)


class Shifted(Sign):
    """ReActNet's RSign: a learned shift of each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels))

    def prepare(self, x: Tensor) -> Tensor:
        return x + self.shift.view(-1, *[1] * (x.dim() - 2))


class Learned(nn.Module):
    """A rule that learns its numbers."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values.clone())

    def forward(self, x: Tensor, levels: Tensor) -> Tensor:
        return self.values


class MeanOffset:
    """The mean of each filter (AdaBin)."""

    def __call__(self, x: Tensor, levels: Tensor) -> Tensor:
        return x.flatten(1).mean(1)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network(quantizer) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        QuantConv2d(3, 6, 3, padding=1, bias=False, weight_quantizer=quantizer()),
        ShiftBatchNorm2d(6),
        nn.Flatten(),
        QuantLinear(6 * 16, 8, bias=False, input_quantizer=quantizer(), weight_quantizer=quantizer()),
        ShiftBatchNorm1d(8),
        QuantLinear(8, 4, bias=False, input_quantizer=quantizer(), weight_quantizer=quantizer()),
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


# round alone


def test_round_alone_trains_converts_and_compiles() -> None:
    model = convert(
        nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)),
        weight_quantizer=Rounded(),
        input_quantizer=Rounded(),
    ).model
    before = model[0].weight.detach().clone()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    model(numbers(4, 6)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(model[0].weight, before)
    assert list(model.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(numbers(4, 6)), model(numbers(4, 6)))


def test_round_alone_is_measured_and_not_predicted() -> None:
    model = network(Rounded).eval()
    batch = numbers(30, 3, 4, 4), torch.arange(30) % 4
    covariances = input_covariances(model, [batch[0]])
    found = inspect(model, [batch], covariances=covariances)
    for layer in found.layers:
        assert math.isfinite(layer.angle_degrees.mean)
        assert math.isnan(layer.angle_degrees.predicted_mean)
        assert math.isnan(layer.angle_degrees.moments_mean)
        assert set(layer.angle_degrees.predicted_density.density) == {0.0}
        assert layer.level_shares == {}
        assert layer.latent_weights.thresholds == ()
        assert math.isfinite(layer.weights_binarized.independent_pearson_r)  # by the measured angle
    assert found.layers[1].weight_quantizer == "Rounded()"
    assert math.isnan(found.layers[1].activations_binarized.independent_pearson_r)
    for claim in network_claims(found):
        assert math.isfinite(claim.predicted)
    tracked = Tracker(model)(batch[0])
    assert all(math.isnan(layer.predicted_angle_degrees) and layer.angle_degrees > 0 for layer in tracked.values())


def test_round_alone_is_ablated() -> None:
    model = network(Rounded).eval()
    batch = numbers(30, 3, 4, 4), torch.arange(30) % 4
    found = ablate(model, [batch], [[batch]])
    assert [row.name for row in found.ablated if row.side == "weights" and row.scope == "one"] == ["0", "3", "5"]
    assert math.isnan(found.ablated[0].predicted_logit_r)  # an error meets levels that nothing predicts
    last = next(row for row in found.ablated if row.name == "5")
    assert math.isfinite(last.predicted_logit_r)  # nothing follows
    assert found.rankings[0].apart == found.rankings[0].in_order == 0
    assert math.isfinite(measure_depth(model, [batch], [batch]).layers[-1].r)


def test_where_nothing_is_predicted_nothing_is_shown(tmp_path) -> None:
    model = network(Rounded).eval()
    batch = numbers(30, 3, 4, 4), torch.arange(30) % 4
    found = inspect(model, [batch], name="r", dataset="d", covariances=input_covariances(model, [batch[0]]))
    ablation, deep = ablate(model, [batch], [[batch]]), measure_depth(model, [batch], [batch])
    console = Console(width=150, file=io.StringIO())
    console.print(geometry_table(found), covariance_table(found), depth_table(deep))
    console.print(ablation_table(ablation, "weights", "one"), *(ranking_words(r) for r in ablation.rankings))
    text = console.file.getvalue()
    assert "/ -" in text
    assert "nan" not in text
    page = report.write(
        tmp_path / "report.html", found, summary=summary(model, (3, 4, 4)), ablation=ablation, depth=deep
    )
    assert "unknown" in page.read_text()
    save_analysis(found, tmp_path)
    assert "nan" not in ablated_layers(ablation).get_title()


def test_round_alone_has_an_unknown_size() -> None:
    found = summary(network(Rounded), (3, 4, 4))
    assert [layer.packed_bytes for layer in found.layers][:2] == [None, 24]
    assert found.total.packed_bytes is None
    assert found.total.parameters_unknown == 6 * 27 + 8 * 96 + 4 * 8
    assert found.total.binary_macs == 0
    assert "Packed size unknown" in str(found.table().caption)
    assert found.as_dict()["total"]["packed_bytes"] is None


def test_round_alone_is_refused_by_pack_and_kernels(tmp_path) -> None:
    message = "no packed form is known of the quantizer Rounded, which states no levels"
    with pytest.raises(HypersignError, match=rf"^0 \(QuantConv2d\) cannot be packed: {message}"):
        pack(network(Rounded), tmp_path / "x", (3, 4, 4), pixel_range=None)
    assert not list(tmp_path.iterdir())
    for function in (use_kernels, train_on_bits):
        with pytest.raises(HypersignError, match=message):
            function(QuantLinear(3, 2, input_quantizer=Sign(), weight_quantizer=Rounded()))


# every quantizer

EVERY = {
    "identity": Identity,
    "sign": Sign,
    "ternary": lambda: Ternary(0.3),
    "deviations": lambda: Ternary(Deviations(0.5)),
    "groups": lambda: GroupScaled(Ternary(0.2), 4),
    "rotated": lambda: Rotated(Sign(surrogate=Tanh()), HadamardRotation(10)),
    "round": Rounded,
    "levels": Eight,
    "standardised": Standardised,
    "shifted": lambda: Shifted(10),
    "offset": lambda: Sign(scale=Learned(torch.rand(6) + 0.5), offset=MeanOffset()),
}
every = pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)


def run(function, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    y = function(x)
    y.backward(numbers(*y.shape, seed=3).to(y.dtype))
    return y.detach(), x.grad


@every
def test_every_quantizer_compiles_copies_and_keeps_its_dtype(make) -> None:
    torch.manual_seed(0)
    torch.compiler.reset()
    quantizer, x = make(), numbers(6, 10)
    expected = run(quantizer, x)
    others = [copy.deepcopy(quantizer)]
    if not isinstance(quantizer, Rotated):  # NumPy draws its signs, which torch.compile cannot trace in one graph
        others.append(torch.compile(quantizer, fullgraph=True, backend="aot_eager"))
    for other in others:
        for mine, theirs in zip(run(other, x), expected, strict=True):
            torch.testing.assert_close(mine, theirs)
    assert set(quantizer.state_dict()) == {name for name, _ in quantizer.named_parameters()}
    assert [t.dtype for t in run(quantizer.double(), x.double())] == [torch.float64] * 2


OTHER_FORWARD = {"identity", "groups", "rotated"}  # their own tests have their formulas


def test_the_others_have_the_forward_of_the_contract() -> None:
    torch.manual_seed(0)
    assert {name for name, make in EVERY.items() if type(make()).forward is not Quantizer.forward} == OTHER_FORWARD


@pytest.mark.parametrize("name", [name for name in EVERY if name not in OTHER_FORWARD])
def test_every_quantizer_is_its_formula_forward_and_backward(name: str) -> None:
    """round(prepare(x)), and backward the surrogate at prepare(x), then prepare's own gradient."""
    torch.manual_seed(0)
    quantizer, x = EVERY[name]().double(), numbers(6, 10).double()
    levels, gradient = run(quantizer, x)
    out = numbers(6, 10, seed=3).double()
    x.requires_grad_()
    prepared = quantizer.prepare(x)
    assert torch.equal(levels, quantizer.round(prepared.detach()))
    slope = quantizer.surrogate.gradient(prepared.detach())
    (expected,) = torch.autograd.grad((prepared * slope * out).sum(), x)
    torch.testing.assert_close(gradient, expected)


# levels, bits


def test_bits_follow_from_levels() -> None:
    cases = ((Sign(), 1), (Ternary(), 2), (Eight(), 3), (Int8(), 8), (Identity(), 32), (Rounded(), None))
    assert [quantizer.bits_per_level for quantizer, _ in cases] == [bits for _, bits in cases]


def test_sizes_of_other_widths() -> None:
    layer = QuantLinear(100, 7, weight_quantizer=Eight())
    (found,) = summary(nn.Sequential(layer), (100,)).layers
    assert (found.parameters_3bit, found.parameters_32bit) == (700, 7)
    assert found.packed_bytes == 3 * 7 * 16 + 4 * 7
    assert (found.binary_macs, found.float_macs) == (0, 700)  # eight levels need a multiplier
    (found,) = summary(nn.Sequential(QuantLinear(100, 7, False, weight_quantizer=Int8())), (100,)).layers
    assert (found.parameters_other, found.packed_bytes) == (700, 8 * 7 * 16)


def test_sizes_of_scales_that_are_rules_and_that_are_learned() -> None:
    rule = QuantLinear(64, 7, False, weight_quantizer=Sign(scale=MeanScale(), offset=MeanOffset()))
    learned = QuantLinear(64, 7, False, weight_quantizer=Sign(scale=Learned(torch.ones(7))))
    for layer, parameters, floats in ((rule, 0, 14), (learned, 7, 7)):
        (found,) = summary(nn.Sequential(layer), (64,)).layers
        assert (found.parameters_1bit, found.parameters_32bit) == (448, parameters)
        assert found.packed_bytes == 56 + 4 * floats


# scale, offset, prepare: against a second, naive writing

KINDS = {
    "linear": (QuantLinear, (5, 6), {}, (3, 5)),
    "linear-lead": (QuantLinear, (5, 6), {}, (2, 3, 5)),
    "linear-alone": (QuantLinear, (5, 6), {}, (5,)),
    "conv1d": (QuantConv1d, (4, 6, 3), {"padding": 1, "stride": 2}, (2, 4, 9)),
    "conv2d": (QuantConv2d, (4, 6, 3), {"padding": 1}, (2, 4, 5, 6)),
    "conv2d-alone": (QuantConv2d, (4, 6, 3), {"padding": 1}, (4, 5, 6)),
    "conv2d-groups": (QuantConv2d, (4, 6, 3), {"padding": 2, "groups": 2, "dilation": 2}, (2, 4, 7, 6)),
}


@pytest.mark.parametrize(("kind", "sizes", "options", "shape"), KINDS.values(), ids=KINDS)
def test_scales_and_offsets_outside_equal_quantized_numbers_inside(kind, sizes, options, shape) -> None:
    torch.manual_seed(0)
    weights = Sign(scale=Learned(torch.rand(6) + 0.5), offset=Learned(torch.randn(6)))
    inputs = Ternary(0.3, scale=Learned(torch.tensor(0.7)), offset=Learned(torch.tensor(-0.4)))
    layer = kind(*sizes, **options, input_quantizer=inputs, weight_quantizer=weights).double()
    x = torch.randn(shape).double().requires_grad_()
    y = layer(x)
    out = torch.randn_like(y)
    y.backward(out)
    found = [x.grad, *(p.grad for p in layer.parameters())]
    x.grad = None
    layer.zero_grad()

    def straight(value: Tensor, levels: Tensor) -> Tensor:
        return value * (value.abs() < 1) + (levels - value * (value.abs() < 1)).detach()

    per_filter = (-1, *[1] * (layer.weight.dim() - 1))
    q_w = straight(layer.weight, torch.where(layer.weight >= 0, 1.0, -1.0).double())
    w = weights.scale.values.view(per_filter) * q_w + weights.offset.values.view(per_filter)
    q_a = straight(x, torch.where(x.abs() > 0.3, x.sign(), 0.0))
    a = inputs.scale.values * q_a + inputs.offset.values
    expected = layer.product(a, w) + layer.bias.view(-1, *[1] * (layer.weight.dim() - 2))
    torch.testing.assert_close(y, expected)
    expected.backward(out)
    for mine, naive in zip(found, [x.grad, *(p.grad for p in layer.parameters())], strict=True):
        torch.testing.assert_close(mine, naive)
    torch.testing.assert_close(layer.effective_weight(), w)
    torch.testing.assert_close(layer.effective_input(x), a)


def test_what_is_learned_gets_gradients_keys_and_copies() -> None:
    layer = QuantLinear(4, 3, False, input_quantizer=Shifted(4), weight_quantizer=Sign(scale=Learned(torch.ones(3))))
    assert list(layer.state_dict()) == ["weight", "input_quantizer.shift", "weight_quantizer.scale.values"]
    copied = copy.deepcopy(layer)
    layer(0.5 * numbers(5, 4)).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
    with torch.no_grad():
        layer.weight_quantizer.scale.values.fill_(3.0)
    assert copied.weight_quantizer.scale.values.tolist() == [1.0, 1.0, 1.0]
    copied.load_state_dict(layer.state_dict())
    assert copied.weight_quantizer.scale.values.tolist() == [3.0, 3.0, 3.0]


def test_learned_parameters_under_compile() -> None:
    torch.compiler.reset()
    layer = QuantLinear(4, 3, input_quantizer=Shifted(4), weight_quantizer=Standardised(scale=Learned(torch.ones(3))))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    gradients = []
    for function in (layer, compiled):
        layer.zero_grad()
        function(numbers(5, 4)).square().sum().backward()
        gradients.append([p.grad.clone() for p in layer.parameters()])
    for mine, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, expected)


def test_a_learned_step_has_the_gradient_of_lsq() -> None:
    """Levels alpha round(x / alpha): the gradient of alpha is round(u) - u within the range (Esser et al. 2020)."""

    class Step(Quantizer):
        levels = (-1.0, 0.0, 1.0)

        def __init__(self) -> None:
            super().__init__(surrogate=HardTanh(clip=1.5))
            self.alpha = nn.Parameter(torch.tensor(0.4))

        def prepare(self, x: Tensor) -> Tensor:
            return x / self.alpha

        def round(self, x: Tensor) -> Tensor:
            return x.round().clamp(-1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.alpha * super().forward(x)

    quantizer, x = Step(), numbers(50)
    quantizer(x).sum().backward()
    u = x / 0.4
    expected = torch.where(u.abs() < 1.5, u.round().clamp(-1, 1) - u, u.round().clamp(-1, 1)).sum()
    assert quantizer.alpha.grad.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_surrogate_may_learn() -> None:
    class Slope(Surrogate):
        """dq/dx := max(0, 1 - |s x|), s learned by the gradient of sum g x."""

        def __init__(self) -> None:
            super().__init__()
            self.s = nn.Parameter(torch.tensor(0.5))

        def state(self) -> Tensor:
            return self.s

        def backward(self, grad: Tensor, x: Tensor, state: Tensor) -> Tensor:
            return grad * (1 - (state * x).abs()).clamp(min=0)

        def state_gradient(self, grad: Tensor, x: Tensor, state: Tensor) -> Tensor:
            return (grad * x).sum()

    quantizer = Sign(surrogate=Slope())
    x, out = numbers(6).requires_grad_(), numbers(6, seed=1)
    quantizer(x).backward(out)
    torch.testing.assert_close(x.grad, out * (1 - (0.5 * x.detach()).abs()).clamp(min=0))
    torch.testing.assert_close(quantizer.surrogate.s.grad, (out * x.detach()).sum())
    assert list(quantizer.state_dict()) == ["surrogate.s"]
    with torch.no_grad():
        assert torch.equal(quantizer(x), torch.where(x >= 0, 1.0, -1.0))


@pytest.mark.parametrize("name", ["scale", "offset"])
@pytest.mark.parametrize("rule", [2.0, "mean", MeanScale])
def test_rules_must_be_callable(name: str, rule: object) -> None:
    with pytest.raises(HypersignError, match=rf"{name} must be a rule such as MeanScale\(\), or None; got"):
        Sign(**{name: rule})


def test_a_scale_per_filter_of_inputs_and_ones_as_padding_of_scaled_inputs_are_refused() -> None:
    with pytest.raises(HypersignError, match="input_quantizer must have no scale per filter"):
        QuantLinear(2, 2, input_quantizer=Sign(scale=MeanScale()))
    with pytest.raises(HypersignError, match="pad_value=1 pads with the level"):
        QuantConv2d(2, 2, 3, padding=1, pad_value=1, input_quantizer=Sign(scale=Learned(torch.ones(()))))
    with pytest.raises(HypersignError, match=r"must be a quantizer object such as Sign\(\); got Identity"):
        QuantLinear(2, 2, input_quantizer=nn.Identity())


# predictions


def gaussian_layer(d: int, quantizer: Quantizer) -> QuantLinear:
    layer = QuantLinear(d, 300, weight_quantizer=quantizer)
    with torch.no_grad():
        layer.weight.copy_(numbers(300, d))
    return layer


def test_group_scales_are_predicted_by_their_own_law() -> None:
    stats = angle_stats(gaussian_layer(2048, GroupScaled(Sign(), 4)))
    expected = float(np.degrees(np.arccos(theory.group_cosine(4))))
    assert stats.predicted_mean == pytest.approx(expected, abs=0.01) == pytest.approx(31.5, abs=0.05)
    assert stats.mean == pytest.approx(expected, abs=0.1)
    assert stats.moments_mean == pytest.approx(expected, abs=0.1)
    assert math.isnan(stats.predicted_std)
    assert math.isnan(angle_stats(gaussian_layer(64, GroupScaled(Ternary(0.3), 4))).predicted_mean)
    uniform = QuantLinear(2048, 50, weight_quantizer=GroupScaled(Sign(), 4))  # torch initialises uniformly
    stats = angle_stats(uniform)
    assert stats.moments_mean == pytest.approx(stats.mean, abs=0.1)
    assert stats.mean < stats.predicted_mean - 2


def test_predicted_cosines_of_the_classes() -> None:
    normal = theory.Moments.gaussian()
    assert Sign().predicted_cosine(np.inf, normal) == pytest.approx(math.sqrt(2 / math.pi))
    best = theory.Moments.gaussian(theory.OPTIMAL_THRESHOLD)
    assert Ternary(Optimal()).predicted_cosine(np.inf, best) == pytest.approx(0.89990, abs=1e-5)
    assert Rotated(Sign(), HadamardRotation(64)).predicted_cosine(64, normal) == pytest.approx(0.801, abs=1e-3)
    assert GroupScaled(Sign(), 4).predicted_cosine(np.inf, normal) == pytest.approx(float(theory.group_cosine(4)))
    assert GroupScaled(Eight(), 4).predicted_cosine(64, normal) is None
    assert Rounded().predicted_cosine(64, normal) is None
    assert Identity().predicted_cosine(64, normal) is None


def test_a_class_with_a_prediction_of_its_own_is_predicted_by_it() -> None:
    class Known(Rounded):
        def predicted_cosine(self, d: float, moments: theory.Moments) -> float:
            return 0.5

    layer = gaussian_layer(16, Known())
    assert angle_stats(layer).predicted_mean == pytest.approx(60)
    assert predicted_angle(layer) == pytest.approx(math.pi / 3)
    assert input_cosine(QuantLinear(4, 2, input_quantizer=Known())) == 0.5


def test_the_angle_of_an_offset_is_measured_with_it() -> None:
    layer = gaussian_layer(64, Sign(scale=MeanScale(), offset=MeanOffset()))
    with torch.no_grad():
        layer.weight.add_(0.3)
    w = layer.weight.detach().double()
    b = w.abs().mean(1, keepdim=True) * torch.where(w >= 0, 1.0, -1.0) + w.mean(1, keepdim=True)
    expected = torch.rad2deg(torch.cosine_similarity(w, b).arccos())
    np.testing.assert_allclose(angle_stats(layer).per_filter, expected.numpy(), atol=1e-4)


def test_input_thresholds() -> None:
    class PerChannel(Sign):
        def thresholds(self, x: Tensor) -> Tensor:
            return torch.tensor([0.0, 0.6])

    assert input_threshold(QuantLinear(2, 1, input_quantizer=PerChannel())) == pytest.approx(0.3)
    assert math.isnan(input_threshold(QuantLinear(2, 1, input_quantizer=Rounded())))
    assert input_threshold(QuantLinear(2, 1)) == math.inf
    assert input_cosine(QuantLinear(2, 1)) == 1.0


def test_one_optimal_threshold() -> None:
    assert Optimal().deviations == theory.OPTIMAL_THRESHOLD
    w = numbers(20, 50)
    assert torch.equal(Ternary(Optimal())(w), Ternary(Deviations(theory.OPTIMAL_THRESHOLD))(w))
    assert torch.equal(Ternary(Deviations(0.0))(w), w.sign())
    with pytest.raises(HypersignError, match="deviations"):
        Deviations(-0.1)
    with pytest.raises(HypersignError, match="input_quantizer must have a number as threshold"):
        QuantLinear(2, 2, input_quantizer=Ternary(Deviations(0.5)))


# packing


def packed_network(first: Quantizer, weights: Quantizer, channels: int = 6) -> nn.Sequential:
    torch.manual_seed(1)
    model = nn.Sequential(
        QuantConv2d(3, channels, 3, padding=1, bias=False, weight_quantizer=Sign()),
        ShiftBatchNorm2d(channels),
        QuantConv2d(channels, 5, 3, padding=1, bias=False, input_quantizer=first, weight_quantizer=weights),
        ShiftBatchNorm2d(5),
        nn.Flatten(),
        QuantLinear(5 * 16, 4, input_quantizer=Sign(), weight_quantizer=Sign(scale=Learned(torch.rand(4) + 0.5))),
    )
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 3)
            module.running_var.uniform_(1, 30)
    return model.eval()


def test_prepared_weights_learned_scales_and_shifted_inputs_pack_and_verify(tmp_path) -> None:
    shifted = Shifted(6)
    with torch.no_grad():
        shifted.shift.copy_(torch.linspace(-1, 1, 6))
    model = packed_network(shifted, Standardised())
    pack(model, tmp_path / "net", (3, 4, 4), pixel_range=(-1.0, 1.0))
    images = np.random.default_rng(0).integers(0, 256, (40, 3, 4, 4)).astype(np.uint8)
    x = torch.from_numpy(images).float() / 127.5 - 1
    packed = PackedModel.load(tmp_path / "net")
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(packed.predict(images)), model(x), rtol=1e-4, atol=1e-4)
    certificate = verify(model, packed, images)
    assert certificate.holds


@pytest.mark.parametrize(
    ("inputs", "weights", "message"),
    [
        (
            Sign(scale=Learned(torch.ones(()))),
            Sign(),
            "quantizer Sign: the scale or offset of inputs must be a LearnedNumber",
        ),
        (Sign(), Eight(), r"quantizer Eight: its levels are \(-4, -3"),
        (Rounded(), Sign(), "quantizer Rounded, which states no levels"),
        (Sign(), Rotated(Sign(), HadamardRotation(54)), "quantizer Rotated"),
    ],
)
def test_what_has_no_packed_form_says_why(tmp_path, inputs, weights, message) -> None:
    with pytest.raises(HypersignError, match=rf"^2 \(QuantConv2d\) cannot be packed: no packed form.*{message}"):
        pack(packed_network(inputs, weights), tmp_path / "x", (3, 4, 4), pixel_range=(-1.0, 1.0))


def test_inputs_without_thresholds_have_no_packed_form() -> None:
    class Levels(Quantizer):
        levels = (-1.0, 1.0)

        def round(self, x: Tensor) -> Tensor:
            return torch.where(x.sin() >= 0, 1.0, -1.0)

    assert Levels().packed_form().kind == "binary"
    assert "states no thresholds" in Levels().packed_form(inputs=True).reason


def test_kernels_refuse_inputs_of_more_than_one_threshold() -> None:
    layer = QuantLinear(4, 2, input_quantizer=Shifted(4), weight_quantizer=Sign())
    with pytest.raises(HypersignError, match="inputs are transformed before they are rounded"):
        use_kernels(layer)
    assert train_on_bits(layer) == {}  # levels are levels


# the meta device


@pytest.mark.parametrize(
    ("make", "buffer"),
    [
        (Tanh, "t"),
        (lambda: ShiftBatchNorm1d(7), "weight"),
        (lambda: PatchRotation(2, 3, HadamardRotation(18)), "rows"),
    ],
    ids=["tanh", "norm", "rotation"],
)
def test_buffers_that_no_state_holds_survive_the_meta_device(make, buffer: str) -> None:
    expected = getattr(make(), buffer)
    with torch.device("meta"):
        module = make()
    module.to_empty(device="cpu")
    assert torch.equal(getattr(module, buffer), expected)
    module = make()
    getattr(module, buffer).fill_(torch.nan)
    module.to_empty(device="cpu")
    assert torch.equal(getattr(module, buffer), expected)
    assert getattr(make().double(), buffer).dtype == torch.float64


def test_an_annealed_surrogate_keeps_its_place_when_it_moves() -> None:
    surrogate = Tanh()
    surrogate.anneal(0.5)
    assert surrogate.double().t.item() == pytest.approx(1.0)


def test_straight_through_is_shared_by_identities() -> None:
    assert isinstance(Identity().surrogate, StraightThrough)
    assert Identity().describe() == "Identity()"
    assert GroupScaled(Ternary(0.5), 8).describe() == "GroupScaled(Ternary(threshold=0.5), 8)"
    assert dataclasses.is_dataclass(Sign().packed_form())
