"""convert: the same keys and weights, results of the network built by hand, and a reason for what stays float."""

import copy
import functools
import threading

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from hypersign._checks import HypersignError
from hypersign.layers import Conversion, QuantConv1d, QuantConv2d, QuantLinear, convert, quant_layers
from hypersign.layers.copying import copy_module
from hypersign.models import build
from hypersign.quantizers import Identity, MeanScale, Sign, Tanh, Ternary

pytestmark = pytest.mark.filterwarnings("ignore:.* stay in float, in:UserWarning")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, stride=2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, padding="same", groups=2, bias=False, padding_mode="reflect"),
        nn.Flatten(2),
        nn.Conv1d(6, 4, 2),
        nn.Flatten(),
        nn.Linear(60, 5),
    )


def images(seed: int = 1) -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def snapshot(model: nn.Module) -> tuple:
    return (
        [(name, type(module), module.training) for name, module in model.named_modules()],
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
    )


def test_equals_the_network_built_by_hand() -> None:
    model = network()
    weight, inputs = Sign(scale=MeanScale()), Ternary(0.1)
    result = convert(model, weight_quantizer=weight, input_quantizer=inputs)
    quantizers = {"weight_quantizer": weight, "input_quantizer": inputs}
    by_hand = nn.Sequential(
        QuantConv2d(3, 4, 3, padding=1, stride=2, **quantizers),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        QuantConv2d(4, 6, 3, padding="same", groups=2, bias=False, padding_mode="reflect", **quantizers),
        nn.Flatten(2),
        QuantConv1d(6, 4, 2, **quantizers),
        nn.Flatten(),
        QuantLinear(60, 5, **quantizers),
    )
    by_hand.load_state_dict(model.state_dict())
    assert isinstance(result, Conversion)
    assert torch.equal(result.model(images()), by_hand(images()))
    assert repr(result.model) == repr(by_hand)
    assert result.converted == ("0", "3", "5", "7")
    assert result.kept == {"1": "BatchNorm2d has no quantized form here"}


def test_the_same_keys_and_weights_and_a_model_left_alone() -> None:
    model = network().eval()
    model[0].register_forward_hook(lambda *_: None)
    structure, state = snapshot(model)
    before = model(images())
    result = convert(model, weight_quantizer=Sign(), input_quantizer=Sign(surrogate=Tanh()))
    assert list(result.model.state_dict()) == list(state)
    for name, tensor in result.model.state_dict().items():
        assert torch.equal(tensor, state[name])
    assert not any(module.training for module in result.model.modules())
    assert len(result.model[0]._forward_hooks) == 1
    with torch.no_grad():  # the copy shares nothing with the model
        for parameter in result.model.parameters():
            parameter.zero_()
    assert snapshot(model)[0] == structure
    assert torch.equal(model(images()), before)


def test_each_layer_has_quantizers_of_its_own() -> None:
    quantizer = Sign(surrogate=Tanh())
    layers = quant_layers(convert(network(), weight_quantizer=quantizer, input_quantizer=quantizer).model)
    held = [q for layer in layers.values() for q in (layer.weight_quantizer, layer.input_quantizer)]
    assert len({id(q) for q in [*held, quantizer]}) == 9


def test_one_side_only() -> None:
    layer = convert(nn.Sequential(nn.Linear(2, 2)), weight_quantizer=Sign()).model[0]
    assert isinstance(layer.input_quantizer, Identity)
    assert isinstance(layer.weight_quantizer, Sign)


def test_trains_and_saves() -> None:
    result = convert(network(), weight_quantizer=Sign(), input_quantizer=Sign())
    before = result.model[7].weight.detach().clone()
    optimizer = torch.optim.SGD(result.model.parameters(), 0.1)
    result.model(images()).square().sum().backward()
    optimizer.step()
    assert not torch.equal(result.model[7].weight, before)
    network().load_state_dict(result.model.state_dict())  # back into the float network
    assert copy.deepcopy(result.model)(images()).shape == (2, 5)


@pytest.mark.parametrize(
    ("keep", "converted"),
    [
        (["conv1"], ("stem", "block.conv2", "block.fc")),
        (["block"], ("stem", "conv1")),
        (["block.*"], ("stem", "conv1")),
        (["*conv*"], ("stem", "block.fc")),
        (["*.fc", "stem"], ("conv1", "block.conv2")),
        (["conv?"], ("stem", "block.conv2", "block.fc")),
        ("stem", ("conv1", "block.conv2", "block.fc")),
    ],
    ids=str,
)
def test_keep_takes_names_and_patterns(keep, converted: tuple[str, ...]) -> None:
    model = nn.ModuleDict(
        {
            "stem": nn.Linear(2, 2),
            "conv1": nn.Conv2d(2, 2, 1),
            "block": nn.ModuleDict({"conv2": nn.Conv2d(2, 2, 1), "fc": nn.Linear(2, 2)}),
        }
    )
    result = convert(model, weight_quantizer=Sign(), keep=keep)
    assert result.converted == converted
    assert set(result.kept) == {"stem", "conv1", "block.conv2", "block.fc"} - set(converted)
    for name, reason in result.kept.items():
        assert reason.startswith("kept by request ("), name
        assert type(result.model.get_submodule(name)) in (nn.Linear, nn.Conv2d)


def test_all_patterns_that_match_nothing_are_named() -> None:
    with pytest.raises(HypersignError, match=r"no module matches head, conv9\.\* \(its modules: 0, 1, 2"):
        convert(network(), weight_quantizer=Sign(), keep=["0", "head", "conv9.*"])


@pytest.mark.parametrize(
    "model",
    [nn.Sequential(nn.ReLU(), nn.BatchNorm1d(3)), nn.Identity(), nn.Embedding(2, 2, max_norm=1.0), nn.Sequential()],
    ids=["norm", "nothing", "embedding", "empty"],
)
def test_nothing_to_convert(model: nn.Module) -> None:
    with pytest.raises(HypersignError, match="convert needs at least one layer with weights"):
        convert(model, weight_quantizer=Sign())


def test_everything_kept_is_nothing_to_convert() -> None:
    with pytest.raises(HypersignError, match="that keep does not name"):
        convert(network(), weight_quantizer=Sign(), keep=["*"])


def test_a_single_layer_is_a_network() -> None:
    layer = nn.Linear(3, 2)
    result = convert(layer, weight_quantizer=Sign())
    assert isinstance(result.model, QuantLinear)
    assert result.converted == ("",)
    assert type(layer) is nn.Linear


def test_a_module_used_twice_stays_one_module() -> None:
    shared = nn.Linear(4, 4)
    result = convert(nn.Sequential(shared, nn.ReLU(), shared, nn.Sequential(shared)), weight_quantizer=Sign())
    assert result.converted == ("0", "2", "3.0")
    assert result.model[0] is result.model[2] is result.model[3][0]
    assert isinstance(result.model[0], QuantLinear)


def test_tied_weights_stay_tied() -> None:
    model = nn.ModuleDict({"embedding": nn.Embedding(7, 4), "head": nn.Linear(4, 7, bias=False)})
    model["head"].weight = model["embedding"].weight
    result = convert(model, weight_quantizer=Sign())
    assert result.model["head"].weight is result.model["embedding"].weight
    assert result.converted == ("embedding", "head")
    assert convert(model, weight_quantizer=Sign(), keep=["embedding"]).kept == {
        "embedding": "kept by request (embedding)"
    }


def test_quantized_layers_stay_as_they_are() -> None:
    model = nn.Sequential(QuantLinear(2, 2, weight_quantizer=Ternary()), nn.Linear(2, 2))
    result = convert(model, weight_quantizer=Sign())
    assert result.kept == {"0": "already a quantized layer"}
    assert isinstance(result.model[0].weight_quantizer, Ternary)


@pytest.mark.parametrize("bias", [True, False])
def test_parametrized_weights_stay_float_with_the_reason(bias: bool) -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 3, bias=bias)), nn.Linear(3, 2))
    x = torch.randn(2, 3)
    result = convert(model, weight_quantizer=Sign())
    assert result.converted == ("1",)
    assert result.kept["0.parametrizations.weight"] == "the parametrization of a weight"
    if bias:
        assert result.kept["0"] == "its weight is parametrized; remove the parametrization first"
    assert torch.equal(result.model[0](x), model[0](x))


def test_weights_computed_by_a_hook_stay_float_with_the_reason() -> None:
    with torch.no_grad():  # or torch cannot copy it
        first = nn.utils.spectral_norm(nn.Linear(3, 3))
    result = convert(nn.Sequential(first, nn.Linear(3, 2)), weight_quantizer=Sign())
    assert result.converted == ("1",)
    assert result.kept["0"].startswith("a hook computes its weight")


@pytest.mark.parametrize("stacked", [False, True], ids=["layer", "encoder"])
@pytest.mark.filterwarnings("ignore:.*nested_tensor:UserWarning")
def test_a_transformer_is_quantized_in_evaluation_too(stacked: bool) -> None:
    """torch's fused path reads the weights of the linear layers without calling them: it must not be taken."""
    torch.manual_seed(0)
    model: nn.Module = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
    if stacked:
        model = nn.TransformerEncoder(model, 2)
    result = convert(model.eval(), weight_quantizer=Sign(), input_quantizer=Sign())
    x = torch.randn(2, 3, 16)
    called = result.model(x)  # with gradients torch takes the plain path
    with torch.no_grad():
        torch.testing.assert_close(result.model(x), called)
        assert not torch.allclose(model(x), called, atol=0.1)
    assert {name.rpartition("layers.")[2].split(".", 1)[-1] for name in result.converted} == {
        *("self_attn", "self_attn.out_proj", "out_proj", "linear1", "linear2")
    } - ({"self_attn.out_proj", "out_proj"} - {"self_attn.out_proj" if stacked else "out_proj"})


def test_quantizers_go_where_the_layer_is() -> None:
    result = convert(nn.Sequential(nn.Linear(2, 2, device="meta")), weight_quantizer=Sign(surrogate=Tanh()))
    assert result.model[0].weight_quantizer.surrogate.t.device.type == "meta"


def test_a_float_vgg_becomes_the_quantized_one() -> None:
    options = {"widths": (4, 6), "pools": (2,), "hidden": (8,)}
    layers = ("conv1", "conv2", "fc1", "fc2")
    binary = build("vgg", (3, 8, 8), 10, **options).eval()
    plain = build("vgg", (3, 8, 8), 10, **options, float_weights=layers, float_inputs=layers)
    plain.load_state_dict(binary.state_dict())
    for name in layers:  # to torch's own layers
        layer = plain.get_submodule(name)
        twin = (
            nn.Linear(layer.in_features, layer.out_features, bias=False)
            if isinstance(layer, nn.Linear)
            else nn.Conv2d(layer.in_channels, layer.out_channels, 3, padding=1, bias=False)
        )
        twin.load_state_dict(layer.state_dict())
        setattr(plain, name, twin)
    result = convert(plain.eval(), weight_quantizer=Sign(), input_quantizer=Sign())
    assert result.converted == layers
    result.model.conv1.input_quantizer = Identity()  # the first layer reads real pixels
    assert torch.equal(result.model(images()), binary(images()))


class Held(nn.Module):
    """Calls its layers by a plain list and a plain dict, which torch does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.order = [self.a]
        self.named = {"b": self.b}

    def forward(self, x: Tensor) -> Tensor:
        return self.named["b"](self.order[0](x))


def test_whoever_holds_a_layer_holds_the_quantized_one() -> None:
    model = Held()
    result = convert(model, weight_quantizer=Sign())
    assert result.model.order[0] is result.model.a
    assert result.model.named["b"] is result.model.b
    x = torch.randn(3, 4)
    a, b = (layer.weight.sign() for layer in (model.a, model.b))
    expected = F.linear(F.linear(x, a, model.a.bias), b, model.b.bias)
    torch.testing.assert_close(result.model(x), expected)
    assert type(model.a) is nn.Linear


def test_a_network_that_is_one_layer() -> None:
    layer = nn.Linear(3, 2)
    result = convert(layer, weight_quantizer=Sign())
    assert result.converted == ("",)
    assert isinstance(result.model, QuantLinear)
    assert type(layer) is nn.Linear


def test_a_forward_that_was_replaced_on_the_object_is_named() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    model[0].forward = lambda x, old=model[0].forward: old(x)
    result = convert(model, weight_quantizer=Sign())
    assert result.converted == ("1",)
    assert "forward was replaced on the object" in result.kept["0"]


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.both, self.asked = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.qkv.weight, self.qkv.bias)
        x = self.both(x) + self.both.weight.sum()
        x = self.asked(x.to(self.asked.weight.dtype))
        for i in range(2):
            x = F.linear(x, self.blocks[i].weight)
        return x


def test_weights_that_are_read_without_calling_the_layer_are_named() -> None:
    result = convert(nn.Sequential(Functional()), weight_quantizer=Sign())
    assert result.converted == ("0.both", "0.asked")
    assert set(result.kept) == {"0.qkv", "0.blocks.0", "0.blocks.1"}
    assert set(result.kept.values()) == {"Functional reads its weight without calling it"}


def product(x: Tensor, layer: nn.Linear) -> Tensor:
    return F.linear(x, layer.weight, layer.bias)


def named(module: nn.Module) -> Tensor:
    return module.get_parameter("a.weight")


class Pair(nn.Module):
    """Two layers; `way` says how the first is used."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.a, self.b, self.rows = nn.Linear(4, 4), nn.Linear(4, 4), nn.ModuleList([nn.Linear(4, 4)])
        self.way = way
        self.setup()

    def setup(self) -> None:
        pass


class ByLocalName(Pair):
    def forward(this, x: Tensor) -> Tensor:
        layer, other = this.a, this.b
        return other(F.linear(x, layer.weight))


class ByLoop(Pair):
    def forward(self, x: Tensor) -> Tensor:
        for _, (row, b) in enumerate(zip(self.rows, [self.b], strict=True)):
            x = b(x @ row.weight.t())
        return self.a(x)


class ByGetattr(Pair):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.linear(x, getattr(self, "a").weight))  # noqa: B009


class ByTable(Pair):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.linear(x, self._modules["a"].weight))


class ByHelper(Pair):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(product(x, layer=self.a))


class ByMethod(Pair):
    @staticmethod
    def apply_layer(layer: nn.Linear, x: Tensor) -> Tensor:
        return F.linear(x, layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.apply_layer(self.a, x))


class ByProperty(Pair):
    @property
    def first(self) -> Tensor:
        return self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.linear(x, self.first))


class ByFullName(Pair):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.linear(x, dict(self.named_parameters())["a.weight"]))


class ByFullNameElsewhere(Pair):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.linear(x, named(self)))


class ByClass(Pair):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(nn.Linear.forward(self.a, x))


class ByKeptWeight(Pair):
    def setup(self) -> None:
        self.kept = {"first": [self.a.weight]}

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.linear(x, self.kept["first"][0]))


class ByKeptForward(Pair):
    def setup(self) -> None:
        self.run = self.a.forward

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.run(x))


class ByPartial(Pair):
    def setup(self) -> None:
        self.run = functools.partial(nn.Linear.forward, self.a)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.run(x))


WAYS = [
    *(ByLocalName, ByLoop, ByGetattr, ByTable, ByHelper, ByMethod, ByProperty, ByFullName, ByFullNameElsewhere),
    *(ByClass, ByKeptWeight, ByKeptForward, ByPartial),
]


@pytest.mark.parametrize("kind", WAYS)
def test_weights_used_in_other_ways_are_named(kind: type[Pair]) -> None:
    result = convert(kind("way"), weight_quantizer=Sign())
    calls: list[str] = []
    for name in result.converted:
        result.model.get_submodule(name).register_forward_hook(lambda *_, name=name: calls.append(name))
    result.model(torch.randn(2, 4))
    unused = set() if kind is ByLoop else {"rows.0"}
    assert set(calls) == set(result.converted) - unused
    reason = result.kept["rows.0" if kind is ByLoop else "a"]
    assert "reads its weight without calling it" in reason or "holds its" in reason


class Called(Pair):
    """Every layer is called, in ways that must not be taken for reads."""

    def setup(self) -> None:
        self.run = functools.partial(self.a)
        self.late = lambda x: self.b(x)
        self.net = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        x = self.net(x) + self.net[0].weight.sum()
        for row in self.rows:
            x = row.forward(x) + row.weight.norm()
        return self.late(self.run(x.to(self.a.weight.dtype)))


def test_layers_that_are_called_are_converted() -> None:
    model = Called("way")
    result = convert(model, weight_quantizer=Sign())
    assert set(result.converted) == {"a", "b", "rows.0", "net.0"}
    assert result.kept == {}


def test_functions_of_the_copy_refer_to_the_copy() -> None:
    model, x = Called("way"), torch.randn(2, 4)
    copied = copy_module(model)
    expected = model(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(copied(x), expected)
    with torch.no_grad():
        copied.b.bias.add_(1)
    torch.testing.assert_close(copied(x), expected + 1)
    assert not model(x).any()


def test_tensors_with_a_history_are_copied_by_value() -> None:
    model = Pair("way")
    model.results = [{"twice": 2 * model.a.weight}]
    model.register_buffer("thrice", 3 * model.a.weight, persistent=False)
    copied = copy_module(model)
    assert torch.equal(copied.results[0]["twice"], model.results[0]["twice"])
    assert torch.equal(copied.thrice, model.thrice)
    assert copied.thrice is not model.thrice


def test_what_cannot_be_copied_or_converted_is_said() -> None:
    model = Pair("way")
    model.lock = threading.Lock()
    with pytest.raises(HypersignError, match=r"cannot pickle '_thread\.lock' object"):
        convert(model, weight_quantizer=Sign())
    with pytest.raises(HypersignError, match="its weights are complex numbers"):
        convert(nn.Linear(2, 2, dtype=torch.complex64), weight_quantizer=Sign())
    with pytest.raises(HypersignError, match="needs a torch network; got str"):
        convert("network", weight_quantizer=Sign())


def test_load_hooks_belong_to_the_copy() -> None:
    seen = []
    model = nn.Sequential(nn.Linear(3, 2))
    model[0].register_load_state_dict_pre_hook(lambda module, *_: seen.append(module))
    model[0].register_load_state_dict_post_hook(lambda module, _: seen.append(module))
    result = convert(model, weight_quantizer=Sign()).model
    result.load_state_dict(model.state_dict())
    assert all(module is result[0] for module in seen)
    assert len(seen) == 2


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize("hook", ["weight_norm", "spectral_norm", "pruning"])
def test_a_weight_that_a_hook_computes_is_named(hook: str) -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))
    if hook == "pruning":
        prune.l1_unstructured(model[0], "weight", amount=0.3)
    else:
        getattr(nn.utils, hook)(model[0])
    x = torch.randn(2, 6)
    before = model(x)  # now the computed weight has a history, which torch does not copy
    result = convert(model.eval(), weight_quantizer=Sign())
    assert result.converted == ("1",)
    assert "a hook computes its weight" in result.kept["0"]
    assert result.model(x).shape == before.shape
    torch.testing.assert_close(result.model[0](x), model[0](x))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_an_encoder_with_a_padding_mask_calls_its_layers() -> None:
    torch.manual_seed(0)
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), 2)
    quantized = convert(encoder, weight_quantizer=Sign()).model
    x, mask = torch.randn(2, 5, 8), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    trained = quantized.train()(x, src_key_padding_mask=mask)
    with torch.no_grad():
        evaluated = quantized.eval()(x, src_key_padding_mask=mask)
    torch.testing.assert_close(evaluated, trained)


def test_a_shared_layer_is_named_by_any_of_its_names():
    layer = nn.Linear(4, 4)
    found = convert(
        nn.Sequential(layer, nn.ReLU(), layer), weight_quantizer=Sign(), input_quantizer={"2": Ternary(0.5)}
    )
    assert found.converted == ("0", "2")
    assert found.model[0] is found.model[2]
    assert isinstance(found.model[0].input_quantizer, Ternary)


def test_a_layer_of_ours_without_quantizers_is_converted():
    model = nn.Sequential(QuantLinear(4, 4), QuantLinear(4, 4, weight_quantizer=Sign()))
    found = convert(model, weight_quantizer=Ternary(0.1), input_quantizer=Sign())
    assert (found.converted, found.kept) == (("0",), {"1": "already a quantized layer"})
    assert isinstance(found.model[0].weight_quantizer, Ternary)
    assert isinstance(found.model[0].input_quantizer, Sign)


def test_a_dictionary_gives_each_layer_its_own_quantizer() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2), nn.PReLU())
    result = convert(net, weight_quantizer={"0": Sign(), "2": Ternary(0.5)}, input_quantizer={"2": Sign()})
    assert result.converted == ("0", "2")
    assert result.kept == {"1": "no quantizer names it", "3": "PReLU has no quantized form here"}
    first, last = result.model[0], result.model[2]
    assert (first.weight_quantizer.describe(), first.quantizes_inputs) == ("Sign()", False)
    assert (last.weight_quantizer.describe(), last.input_quantizer.describe()) == ("Ternary(threshold=0.5)", "Sign()")
    both = convert(net, weight_quantizer={"0": Sign()}, input_quantizer=Sign())
    assert both.converted == ("0", "1", "2")
    assert [layer.quantizes_weights for layer in both.model[:3]] == [True, False, False]


def test_a_dictionary_fills_the_real_side_of_a_quantized_layer() -> None:
    net = nn.Sequential(QuantLinear(4, 4, input_quantizer=Sign()), QuantLinear(4, 2))
    (first, second) = convert(net, weight_quantizer={"0": Ternary(), "1": Sign()}).model
    assert isinstance(first.input_quantizer, Sign)
    assert isinstance(first.weight_quantizer, Ternary)
    assert isinstance(second.weight_quantizer, Sign)
    with pytest.raises(HypersignError, match="layer '0' cannot be converted: already a quantized layer"):
        convert(net, input_quantizer={"0": Sign()})
    with pytest.raises(HypersignError, match="must name layers of the network; 'fc' is none"):
        convert(net, input_quantizer={"fc": Sign()})
