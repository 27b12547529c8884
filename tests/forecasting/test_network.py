import itertools
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

import hypersign
from hypersign._checks import HypersignError
from hypersign.data import TextData
from hypersign.forecasting import forecast, inputs_of, repair
from hypersign.forecasting.bench import Bench
from hypersign.forecasting.effects import gain
from hypersign.forecasting.formats import sides_of
from hypersign.forecasting.mixtures import together
from hypersign.layers import QuantLinear, convert
from hypersign.quantizers import MeanScale, Sign


@pytest.fixture(scope="module")
def found(net, images):
    return forecast(
        net, images[:150].split(75), formats=["binary", "4-level", "8-level:32", "inputs:8-bit"], mixtures=4
    )


def test_more_levels_do_less(found) -> None:
    for layer in found.layers:
        for side in (layer.raw, layer.repaired):
            assert side["binary"].r.value < side["4-level"].r.value < side["8-level:32"].r.value <= 1
            assert side["inputs:8-bit"].r.value > 0.999
        assert 0 < layer.raw["binary"].r.error < 0.05
    assert [layer.macs for layer in found.layers] == [36 * 12 * 27, 16 * 8 * 108, 1280]


def test_repair_gives_back(found) -> None:
    gained = [layer.repaired["binary"].r.value - layer.raw["binary"].r.value for layer in found.layers]
    assert np.mean(gained) > 0


def test_assignments_are_predicted_within_their_errors(found, images) -> None:
    generator = np.random.default_rng(5)
    for repaired in (False, True):
        apart = []
        for _ in range(8):
            names = generator.choice(["float", "binary", "4-level", "8-level:32"], 3)
            mixture = dict(zip(("0", "2", "5"), map(str, names), strict=True))
            predicted = found.predict(mixture, repaired=repaired)
            measured = found.measure(mixture, [images[150:]], repaired=repaired)
            apart.append(abs(predicted.r.value - measured.r.value))
        assert np.mean(apart) < (0.01 if repaired else 0.03)


def test_formats_of_weights_and_of_inputs_together(found) -> None:
    both = {"2": ("binary", "inputs:8-bit")}
    assert found.picks(both) == [found.keys.index(("2", "binary")), found.keys.index(("2", "inputs:8-bit"))]
    assert found.predict(both).r.value == pytest.approx(found.measure(both).r.value, abs=0.01)


def test_quick_measures_on_a_few_of_the_inputs(net, images, found) -> None:
    quick = forecast(net, images[:150].split(75), formats=["binary"], quick=True, mixtures=0, repaired=True)
    assert quick.inputs == 8
    for layer, whole in zip(quick.layers, found.layers, strict=True):
        error = layer.repaired["binary"].r.error
        assert abs(layer.repaired["binary"].r.value - whole.repaired["binary"].r.value) < 5 * error + 0.02


def test_all_formats_of_a_layer_in_one_pass_as_one_after_another(net, images, monkeypatch) -> None:
    def raw(model: nn.Module, batch: torch.Tensor) -> list[float]:
        made = forecast(model, [batch], formats=["binary", "ternary", "8-level"], repaired=False, mixtures=0)
        return [effect.r.value for layer in made.layers for effect in layer.raw.values()]

    calls = []
    side_by_side = Bench._side_by_side
    monkeypatch.setattr(Bench, "_side_by_side", lambda *given: calls.append(side_by_side(*given)) or calls[-1])
    at_once = raw(net, images[:20])
    assert len(calls[-1]) == 9
    monkeypatch.setattr("hypersign.forecasting.bench.SIDE_BY_SIDE", 0)
    assert raw(net, images[:20]) == pytest.approx(at_once, abs=1e-6)
    assert not calls[-1]


class Turned(nn.Module):
    """Its middle layer sees tokens first, so copies of the inputs do not follow each other there."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.first(x).transpose(0, 1).flatten(0, 1)
        return self.head(torch.relu(self.second(tokens)).unflatten(0, (3, -1)).transpose(0, 1))


def test_layers_whose_inputs_are_not_copies_are_measured_one_after_another(monkeypatch) -> None:
    torch.manual_seed(0)
    model, x = Turned(), torch.randn(8, 3, 6)
    made = forecast(model, [x], formats=["binary", "ternary"], repaired=False, mixtures=0)
    monkeypatch.setattr("hypersign.forecasting.bench.SIDE_BY_SIDE", 0)
    again = forecast(model, [x], formats=["binary", "ternary"], repaired=False, mixtures=0)
    for layer, other in zip(made.layers, again.layers, strict=True):
        assert layer.raw["ternary"].r.value == pytest.approx(other.raw["ternary"].r.value, abs=1e-6)


def test_errors_of_grouped_inputs_count_groups(net, images) -> None:
    x = images[:40].repeat_interleave(4, 0)  # four copies of each
    grouped = forecast(
        net, x.split(80), groups=[i // 4 for i in range(160)], formats=["binary", "4-level"], mixtures=4
    )
    once = forecast(net, images[:40].split(20), formats=["binary", "4-level"], mixtures=4)
    for layer, other in zip(grouped.layers, once.layers, strict=True):
        for name in ("r", "kl", "agreement"):
            found, wanted = (getattr(row.raw["binary"], name) for row in (layer, other))
            assert found.value == pytest.approx(wanted.value, abs=1e-5)
            assert found.error == pytest.approx(wanted.error, rel=1e-3)
    for mixture, other in zip(grouped.repaired_law.mixtures, once.repaired_law.mixtures, strict=True):
        assert mixture.measured.r.value == pytest.approx(other.measured.r.value, abs=1e-4)  # copies in the same half


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": [1, 2, 3]}, "label for each of the 20 inputs; got 3"),
        ({"groups": ["a"] * 20}, "at least two different groups"),
        ({"groups": ["a"] * 19 + ["b"], "quick": True}, "needs two of them; got 1"),
        ({"groups": 3}, "a list with a label for each input; got int"),
        ({"groups": [[1]] * 20}, "labels, such as numbers or texts"),
    ],
)
def test_groups_are_one_label_per_input(net, images, options, message) -> None:
    with pytest.raises(HypersignError, match=message):
        forecast(net, [images[:20]], **options)


def test_a_tensor_is_no_list_of_batches(net, images) -> None:
    with pytest.raises(HypersignError, match=r"got one tensor: write \[batch\]"):
        forecast(net, images)


def test_groups_in_a_tensor_are_numbers(net, images) -> None:
    groups = torch.arange(40) // 4
    errors = [
        forecast(net, [images[:40]], groups=given, mixtures=0, repaired=False).layers[0].raw["binary"].r.error
        for given in (groups, groups.tolist())
    ]
    assert errors[0] == errors[1]


def test_a_plan_fits_its_budget_and_its_code_makes_it(found, net, images) -> None:
    plan = found.plan(bits_per_weight=2.5, held_out=[images[150:]])
    assert plan.bits_per_weight <= 2.5
    assert plan.measured is not None
    assert plan.measured.r.value == pytest.approx(plan.predicted.r.value, abs=0.05)
    assert sum(plan.macs.values()) == sum(layer.macs for layer in found.layers)
    namespace = {"model": net, "batches": images[:150].split(75)}
    exec(plan.call, namespace)
    logits = [network(images[150:]).detach() for network in (net, namespace["quantized"])]
    centred = torch.stack([(z - z.mean(1, keepdim=True)).flatten() for z in logits])
    assert float(torch.corrcoef(centred)[0, 1]) == pytest.approx(plan.measured.r.value, abs=1e-3)


def test_no_plan_with_a_best_sum_is_clearly_better(found) -> None:
    """Of all choices, those with the smallest sums of -log r and KL, by a search over all, measure no better."""
    differ = 0
    for bits in np.arange(2.1, 9, 0.6):
        budget = int(bits * sum(layer.weights for layer in found.layers) // 8)
        sums: dict[str, list[tuple[float, int, tuple[str, ...]]]] = {"r": [], "kl": []}
        for names in itertools.product(*[[name for name in layer.bytes] for layer in found.layers]):
            size = sum(layer.bytes[name] for layer, name in zip(found.layers, names, strict=True))
            alone = [layer.repaired[name] for layer, name in zip(found.layers, names, strict=True) if name != "float"]
            if size <= budget:
                sums["r"].append((-sum(math.log(effect.r.value) for effect in alone), size, names))
                sums["kl"].append((sum(effect.kl.value for effect in alone), size, names))
        best = [
            dict(zip((layer.name for layer in found.layers), min(rows)[2], strict=True)) for rows in sums.values()
        ]
        plan = found.plan(bits_per_weight=bits)
        assert plan.bits_per_weight <= bits
        differ += best[0] != best[1]
        for other in best:
            sides = {layer: sides_of(name) for layer, name in other.items() if name != "float"}
            more = gain(together(found.bench, sides, repaired=True), plan.predicted)
            assert more.value <= 2 * more.error + 1e-12
    assert differ  # at some budget the two sums choose differently


def test_bytes_count_every_parameter(found, net) -> None:
    weights = sum(layer.weight.numel() for layer in (net[0], net[2], net[5]))
    assert found.other_bytes == 4 * (sum(p.numel() for p in net.parameters()) - weights)
    everything = found.plan(bytes=10**9)
    assert set(everything.assignment.values()) == {"float"}
    assert everything.bytes == 4 * sum(p.numel() for p in net.parameters())
    assert everything.predicted.r.value == 1
    assert everything.call.startswith("quantized = model")


def test_file_bytes_are_those_of_the_file(net, images, tmp_path) -> None:
    binary = forecast(net, [images[:64]], formats=["binary", "ternary"], repaired=True, mixtures=0)
    plan = binary.plan(bits_per_weight=1.8)
    assert plan.no_file == ""
    namespace = {"model": net, "batches": [images[:64]]}
    exec(plan.call, namespace)
    hypersign.pack(namespace["quantized"], tmp_path / "net.hypersign", (3, 6, 6))
    assert (tmp_path / "net.hypersign").stat().st_size == plan.file_bytes
    assert (
        "GroupScaled"
        in forecast(net, [images[:64]], formats=["binary:32"], mixtures=0).plan(bits_per_weight=3).no_file
    )


def test_file_bytes_of_a_network_that_repair_gives_biases(images, tmp_path) -> None:
    torch.manual_seed(0)
    bare = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10, bias=False))
    plan = forecast(bare, [images[:64]], formats=["binary"], repaired=True, mixtures=0).plan(bits_per_weight=2)
    namespace = {"model": bare, "batches": [images[:64]]}
    exec(plan.call, namespace)
    hypersign.pack(namespace["quantized"], tmp_path / "net.hypersign", (3, 6, 6))
    assert (tmp_path / "net.hypersign").stat().st_size == plan.file_bytes


def test_an_agreement_is_the_smallest_size_that_reaches_it(found) -> None:
    plan = found.plan(agreement=0.97)
    reached = plan.predicted.agreement
    assert reached.value - reached.bias >= 0.97
    smaller = found.plan(bytes=plan.bytes - plan.bytes // 20)
    assert smaller.predicted.agreement.value - smaller.predicted.agreement.bias < 0.97


def test_a_network_trained_with_its_bits_is_compared_as_given() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        QuantLinear(32, 16, weight_quantizer=Sign()),
        QuantLinear(16, 16, input_quantizer=Sign(), weight_quantizer=Sign(scale=MeanScale())),
        nn.Linear(16, 5),
    )
    x = torch.randn(100, 32)
    result = forecast(model, [x], formats=["binary", "ternary", "inputs:binary"], mixtures=0)
    first, second, last = result.layers
    assert first.raw["binary"].r.value == pytest.approx(1)
    assert second.raw["binary"].kl.value == pytest.approx(0, abs=1e-6)
    assert last.raw["binary"].r.value < 0.99
    assert "inputs:binary" not in second.raw
    assert result.plan(bits_per_weight=5).assignment["0"] == "float"
    assert first.bytes["float"] == 16 * 8
    everything = convert(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3)), weight_quantizer=Sign()).model
    with pytest.raises(HypersignError, match="the weights of all layers are quantized already"):
        forecast(everything, [torch.randn(9, 8)], mixtures=0).plan(bits_per_weight=2)


def test_tokens_and_dictionaries() -> None:
    torch.manual_seed(0)

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(20, 16), nn.Linear(16, 20)
            self.inner = nn.Linear(16, 16)

        def forward(self, tokens: torch.Tensor, scale: float = 1.0) -> dict[str, torch.Tensor]:
            return {"logits": self.head(torch.relu(self.inner(self.embed(tokens))) * scale)}

    model, tokens = Tokens(), torch.randint(20, (12, 30))
    first = forecast(model, [{"tokens": tokens, "scale": 2.0}], formats=["binary"], mixtures=2)
    assert [layer.name for layer in first.layers] == ["inner", "head"]
    assert (first.inputs, first.decisions, first.classes) == (12, 360, 20)
    assert first.unmeasured == {}
    long = forecast(model, [torch.randint(20, (10, 900))], formats=["binary"], mixtures=0)
    assert long.decisions == 10 * 409


def test_the_result_is_plain_data(found) -> None:
    plain = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    law = plain["laws"]["repaired"]
    picks = found.picks({"0": "binary", "5": "binary"})
    products = np.array(law["products"])
    error = 0.5 * math.log1p(products[np.ix_(picks, picks)].sum())
    largest = 0.5 * math.log1p(max(products[i, i] for i in picks))
    coherence = products[np.ix_(picks, picks)].sum() / sum(products[i, i] for i in picks)
    together = (error / largest) ** law["crowding"] * coherence ** law["coherence"]
    r = math.exp(-law["factor"] * error ** law["power"] * together)
    assert r == pytest.approx(found.predict({"0": "binary", "5": "binary"}).r.value, abs=1e-5)
    curve = law["curve"]
    assert curve["r"][-1] == 1
    assert curve["agreement"][-1] == 1
    assert curve["kl"][-1] == pytest.approx(0, abs=1e-12)
    assert all(np.diff(curve["kl"]) < 0)
    assert plain["words"]["repaired"] == found.words()


def test_a_forecast_shows_its_table(found) -> None:
    text = str(found)
    assert " ".join(text.split()).startswith(found.words())
    effect = found.layers[1].repaired["4-level"]
    assert f"{effect.r.value:.3f} / {100 * (1 - effect.agreement.value):.1f}" in text
    assert "<table" in found._repr_html_() or "<pre" in found._repr_html_()


def test_words_name_the_layers_that_matter(found) -> None:
    words = found.words(repaired=False)
    worst = max(found.layers, key=lambda layer: 1 - layer.raw["binary"].agreement.value)
    assert words.split(",")[0].split(" ")[0] == worst.name
    assert words.endswith("more bits first.")


class Unfit(nn.Module):
    def __init__(self, head: int, called: bool = True) -> None:
        super().__init__()
        self.layer, self.called = nn.Linear(4, head), called

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) if self.called else x


@pytest.mark.parametrize(
    ("model", "batches", "options", "message"),
    [
        (nn.Sequential(nn.ReLU()), [torch.ones(3, 4)], {}, "must have layers that can be quantized .* it has none"),
        (Unfit(3), [], {}, "at least two inputs, for its standard errors; got 0"),
        (Unfit(3), [torch.ones(1, 4)], {}, "at least two inputs, for its standard errors; got 1"),
        (Unfit(3), None, {}, "forecast on batches of inputs; got none"),
        (Unfit(3), [torch.full((3, 4), math.nan)], {}, "inputs must be finite numbers"),
        (Unfit(3), [torch.randn(3, 4)], {"formats": []}, "at least one format"),
        (Unfit(3), [torch.randn(3, 4)], {"formats": ["two"]}, "a format must be"),
        (Unfit(3), [torch.randn(3, 4)], {"mixtures": -1}, "mixtures must be an integer >= 0"),
        (Unfit(3), ["text"], {}, "a batch must be a tensor of inputs"),
        (Unfit(1), [torch.randn(3, 4)], {}, "must give logits of two or more classes"),
        (Unfit(3, called=False), [torch.randn(3, 4)], {}, "its forward pass calls none of layer"),
    ],
)
def test_bad_input_is_one_sentence(model, batches, options, message) -> None:
    with pytest.raises(HypersignError, match=message) as error:
        forecast(model, batches, **options)
    assert "\n" not in str(error.value)


def test_broken_networks_are_refused() -> None:
    model = Unfit(3)
    with torch.no_grad():
        model.layer.weight[0, 0] = math.nan
    with pytest.raises(HypersignError, match=r"layer.weight must hold finite numbers; it holds NaN"):
        forecast(model, [torch.randn(3, 4)])
    with torch.no_grad():
        model.layer.weight.zero_()
        model.layer.bias.zero_()
    with pytest.raises(HypersignError, match="logits that differ between classes"):
        forecast(model, [torch.randn(3, 4)])


def test_plans_that_cannot_be(found, net, images) -> None:
    with pytest.raises(HypersignError, match=r"a plan needs one goal: .* got none of them"):
        found.plan()
    with pytest.raises(HypersignError, match="got 2 of them"):
        found.plan(bytes=3, agreement=0.3)
    with pytest.raises(HypersignError, match=r"bytes must be at least [\d,]+, the smallest choice .*; got 100"):
        found.plan(bytes=100)
    with pytest.raises(HypersignError, match=r"bits_per_weight must be at least 1\.\d+.*; got 0.5"):
        found.plan(bits_per_weight=0.5)
    with pytest.raises(HypersignError, match="was not measured"):
        found.predict({"0": "ternary"})
    with pytest.raises(HypersignError, match="must name the layers 0, 2, 5; got 7"):
        found.measure({"7": "binary"})
    raw = forecast(net, [images[:20]], formats=["binary"], repaired=False, mixtures=0)
    with pytest.raises(HypersignError, match="only measured without repair"):
        raw.plan(bits_per_weight=2)
    with pytest.raises(HypersignError, match="at least 2 values per channel"):
        forecast(net, images[:4].split(1), formats=["binary"], mixtures=0)


def test_inputs_of_a_text_are_windows() -> None:
    data = TextData.of("rhyme", "the cat sat on the mat " * 40, length=10)
    spread, first = (torch.cat(inputs_of(data, data.train, 8, spread=one)) for one in (True, False))
    assert spread.shape == first.shape == (8, 10)
    assert torch.equal(first.flatten(), data.train.tokens[:80])
    assert torch.equal(spread[1], data.train.tokens[100:110])  # every tenth of 82 windows
    assert sum(map(len, inputs_of(data, data.test, 500))) == len(data.test) // 10
    with pytest.raises(HypersignError, match="at least two sequences of 10 characters"):
        inputs_of(data, data.test[:19], 5)


def test_repair_is_public() -> None:
    assert hypersign.forecast is forecast
    assert hypersign.forecasting.repair is repair


def test_weights_that_something_computes_are_listed_with_the_reason() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 6)), nn.ReLU(), nn.Linear(6, 3))
    result = forecast(model, [torch.randn(20, 6)], formats=["binary"], mixtures=0)
    assert [layer.name for layer in result.layers] == ["2"]
    assert result.unmeasured == {"0": "a hook or a parametrization computes its weight: remove it first"}


def test_the_network_its_mode_and_the_random_state_stay_as_they_are(net, images) -> None:
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    forecast(net, [images[:40]], formats=["binary", "inputs:binary"], mixtures=2)
    assert all(module.training for module in net.modules())
    net.eval()
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())
    assert not any("forward" in vars(module) or module._forward_hooks for module in net.modules())
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_a_layer_that_convert_refuses_is_measured_and_its_code_says_so() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 2)
    forward = layer.forward
    layer.forward = lambda x: forward(nn.functional.pad(x, (0, 1, 0, 1)))  # type: ignore[method-assign]
    model = nn.Sequential(layer, nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    result = forecast(model, [torch.randn(40, 3, 6, 6)], formats=["binary"], mixtures=0, repaired=True)
    assert result.layers[0].repaired["binary"].r.value < 1
    plan = result.plan(bits_per_weight=2.0)
    assert plan.call.startswith("# convert refuses this plan: the layer '0' cannot be converted: its forward was")
    assert plan.file_bytes is None


def test_many_formats_are_rows(net, images) -> None:
    """More than 5 formats: one row each, with the layer that it harms most and all layers together."""
    names = ("binary", "ternary", "4-level", "8-level", "method:adabin", "method:ls-2")
    many = forecast(net, images[:150].split(75), formats=names, mixtures=0)
    table = many.table()
    assert list(table.columns[0].cells) == list(names)
    assert set(table.columns[1].cells) <= {layer.name for layer in many.layers}
    assert [column.header for column in many.table().columns][:2] == ["format", "harms most"]
