"""The recurrent network and the transformer: shapes, pieces, options."""

import pytest
import torch
from torch import nn

from hypersign import HypersignError
from hypersign.layers import QuantLinear, QuantLSTM, carrying, quant_layers
from hypersign.models import build, gpt, lstm, options_of
from hypersign.models.gpt import rotated
from hypersign.quantizers import BitNet, Int8, ParetoQ, RandomLevels, Sign

TOKENS = torch.randint(11, (3, 9), generator=torch.Generator().manual_seed(0))


def networks():
    torch.manual_seed(0)
    yield lstm((9,), 11, hidden=(8, 6))
    yield lstm((9,), 11, hidden=(8,), cell="gru", norm="layer")
    yield build("lstm", (9,), 11, hidden=[8], cell="rnn", norm="none", inputs="sign", embedding=5)
    yield gpt((9,), 11, width=16, blocks=2, heads=2)
    yield build("gpt", (9,), 11, width=16, blocks=1, heads=4, feed_forward="gelu", inner_norm=False)
    yield build("gpt", (9,), 11, width=16, blocks=1, heads=2, levels=2, weights="paretoq:count=2", inputs="int8")


@pytest.mark.parametrize("index", range(6))
def test_pieces_give_what_the_whole_gives(index):
    """With a state, or with keys and values, a text can be read in pieces of any length."""
    model = list(networks())[index].eval()
    with torch.no_grad():
        whole = model(TOKENS)
        assert whole.shape == (3, 9, 11)
        memory, parts = None, []
        for piece in TOKENS.split([1, 4, 1, 3], 1):
            outputs, memory = model.read(piece, memory)
            parts.append(outputs)
        found = torch.cat(parts, 1)
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=0)


def test_a_state_is_carried_over_streams_alone():
    model = lstm((9,), 11, hidden=(8,)).eval()

    class Streams:
        streams = True

    with torch.no_grad():
        whole = model(TOKENS)
        with carrying(model, Streams()):
            found = torch.cat([model(piece) for piece in TOKENS.split(3, 1)], 1)
        assert model.states is None
        torch.testing.assert_close(found, whole, atol=1e-5, rtol=0)
        with carrying(model, [1, 2]):
            assert not model.carry


def test_attention_sees_no_later_token():
    model = gpt((9,), 11, width=16, blocks=2, heads=2).eval()
    changed = TOKENS.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 11
    with torch.no_grad():
        a, b = model(TOKENS), model(changed)
    assert torch.equal(a[:, :5], b[:, :5])
    assert not torch.equal(a[:, 5:], b[:, 5:])


def test_rotary_products_depend_on_distance_alone():
    a, b = torch.randn(2, 1, 1, 1, 8)
    at = [float((rotated(a, start) * rotated(b, start + 3)).sum()) for start in (0, 7, 100)]
    assert at == pytest.approx([at[0]] * 3, abs=1e-4)
    assert torch.equal(rotated(a, 0), a)


def test_images_are_read_row_by_row_or_pixel_by_pixel():
    image = torch.arange(12.0).view(1, 1, 3, 4)
    rows = lstm((1, 3, 4), 10, hidden=(5,))
    assert torch.equal(rows.sequence(image), image[:, 0])
    pixels = lstm((1, 3, 4), 10, hidden=(5,), scan="pixels")
    assert pixels.sequence(image).flatten().tolist() == list(range(12))
    permuted = lstm((1, 3, 4), 10, hidden=(5,), scan="permuted")
    found = permuted.sequence(image).flatten().tolist()
    assert sorted(found) == list(range(12)) != found
    assert rows(image).shape == pixels(image).shape == (1, 10)
    steps = lstm((1, 3, 4), 10, hidden=(5,), norm="batch", step_statistics=True)
    assert len(steps.layer1.norm_hh_l0.at) == 3


OPTIONS = {
    "lstm": {
        "hidden": [8, 8],
        "cell": "gru",
        "embedding": 7,
        "norm": "layer",
        "step_statistics": False,
        "dropout": 0.1,
        "scan": "pixels",
        "levels": 3,
        "threshold": 0.3,
        "surrogate": "tanh",
        "weights": "ternary",
        "inputs": "sign",
        "sign_zero": 0,
        "weight_scale": "filter",
        "float_weights": ["layer1.ih"],
        "float_inputs": ["layer1.hh"],
    },
    "gpt": {
        "width": 32,
        "blocks": 2,
        "heads": 2,
        "feed_forward": "gelu",
        "inner_norm": False,
        "dropout": 0.1,
        "levels": 3,
        "threshold": 0.3,
        "surrogate": "tanh",
        "weights": "ternary",
        "inputs": "sign",
        "sign_zero": 0,
        "weight_scale": "filter",
        "float_weights": ["block1.attention.key"],
        "float_inputs": ["block1.attention.key"],
    },
}
SMALL = {"lstm": {"hidden": [8]}, "gpt": {"width": 16, "blocks": 1, "heads": 1}}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_by_name_changes_the_network(name):
    assert set(OPTIONS[name]) == set(options_of(name))
    for option, value in OPTIONS[name].items():
        if option in ("step_statistics", "scan"):  # of images
            continue
        beside = {**SMALL[name], **({"levels": 3} if option == "threshold" else {})}
        beside |= {"inputs": "sign"} if option == "float_inputs" else {}
        assert repr(build(name, (9,), 11, **{**beside, option: value})) != repr(build(name, (9,), 11, **beside)), (
            option
        )
    torch.manual_seed(0)
    model = build(name, (9,), 11, **OPTIONS[name])
    model(TOKENS).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_names_of_layers_choose_what_stays_real():
    model = build("lstm", (9,), 11, hidden=[8], float_weights=["layer1.ih"])
    assert list(quant_layers(model)) == ["layer1.hh_l0"]
    model = build(
        "gpt", (9,), 11, width=16, blocks=1, heads=2, weights="bitnet", float_weights=["block1.attention.query"]
    )
    assert "block1.attention.query" not in quant_layers(model)
    assert sum(isinstance(module, QuantLinear) for module in model.modules()) == 7
    assert isinstance(model.block1.feed_forward.down.weight_quantizer, BitNet)
    assert isinstance(gpt((9,), 11, width=16, blocks=1, heads=2).block1.attention.key.input_quantizer, Int8)
    learned = build("gpt", (9,), 11, width=16, blocks=1, heads=2, weights="paretoq:count=3")
    alpha = learned.block1.attention.key.weight_quantizer.scale.alpha
    torch.testing.assert_close(alpha, learned.block1.attention.key.weight.abs().amax(1))
    assert isinstance(learned.block1.attention.key.weight_quantizer, ParetoQ)


def test_random_levels_are_random_in_training_alone():
    torch.manual_seed(0)
    for count, low in ((2, -1.0), (3, 0.0)):
        quantizer = RandomLevels(count=count)
        weight = torch.full((1, 20000), 0.3)
        quantizer.fit(weight)
        assert float(quantizer.scale.bound) == pytest.approx((6 / 20001) ** 0.5 / 2)
        quantizer.scale.bound = torch.tensor(0.5)
        drawn = quantizer(weight)
        share = 0.8 if count == 2 else 0.6
        assert float((drawn == 1).float().mean()) == pytest.approx(share, abs=0.02)
        assert sorted(drawn.unique().tolist()) == [low, 1.0]
        quantizer.eval()
        assert quantizer(torch.tensor([[0.3, -0.2, 0.1]])).tolist() == [[1, -1, 1] if count == 2 else [1, 0, 0]]
    with pytest.raises(HypersignError, match="must not be random levels"):
        QuantLinear(2, 2, input_quantizer=RandomLevels())
    assert not Sign().draws


@pytest.mark.parametrize("count", [2, 3])
def test_random_levels_train_every_weight(count):
    """Half of torch's starting weights are beyond W0. Their gradient is that of torch's LSTM with the levels."""
    torch.manual_seed(0)
    quantizers = {f"{side}_weight_quantizer": RandomLevels(count=count) for side in ("input", "recurrent")}
    layer = QuantLSTM(64, 512, **quantizers).eval()
    bound = layer.hh_l0.weight_quantizer.scale.bound
    assert (layer.weight_hh_l0.abs() > bound).float().mean() > 0.4
    other = torch.nn.LSTM(64, 512)
    other.load_state_dict(layer.state_dict())
    with torch.no_grad():
        for name, product in layer.products().items():
            other.get_parameter(name).copy_(product.scaled_weight())
    x = torch.randn(5, 4, 64)
    for network in (layer, other):
        network(x)[0].square().sum().backward()
    for name in layer.products():
        gradient = layer.get_parameter(name).grad
        torch.testing.assert_close(gradient, other.get_parameter(name).grad)
        assert gradient.all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gpt((9,), 11, width=12, heads=4), r"width must be a multiple of 2 x heads = 8,.*; got 12"),
        (lambda: gpt((1, 8, 8), 10), r"gpt reads tokens, whose shape is \(length,\); got \(1, 8, 8\)"),
        (lambda: gpt((9,), 11, feed_forward="relu"), "feed_forward must be one of swiglu, gelu"),
        (lambda: build("gpt", (9,), 11, float_weights=["fc1"]), r"must name linear layers of this network \(block1"),
        (
            lambda: build("lstm", (9,), 11, float_weights=["layer1"]),
            r"products of this network \(layer1.ih, layer1.hh",
        ),
        (lambda: lstm((9,), 11, step_statistics=True), "for sequences of one length, such as images"),
        (lambda: lstm((9,), 11, hidden=()), "at least one recurrent layer; got none"),
        (lambda: lstm((9,), 11, scan="columns"), "scan must be one of rows, pixels, permuted"),
        (lambda: lstm((9,), 11)(torch.full((1, 3), 11)), r"integers from 0 to 10, .*; got 11: encode the text"),
        (lambda: lstm((9,), 11)(torch.full((1, 3), -1)), r"integers from 0 to 10, .*; got -1: encode the text"),
        (lambda: gpt((9,), 11, width=8, heads=1)(torch.zeros(1, 3)), r"got torch.float32 of shape \(1, 3\)"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(HypersignError, match=message):
        make()


def test_dropout_is_off_in_evaluation():
    model = lstm((9,), 11, hidden=(8,), dropout=0.5)
    assert isinstance(model.dropout, nn.Dropout)
    assert not torch.equal(model(TOKENS), model(TOKENS))
    assert torch.equal(model.eval()(TOKENS), model(TOKENS))
