import math

import numpy as np
import pytest
import torch
from torch import nn

from hypersign._checks import HypersignError
from hypersign.evaluate import reestimate_batch_norm
from hypersign.geometry.ablation import Change, _change, ablate
from hypersign.geometry.depth import back_to_float
from hypersign.layers import QuantLinear
from hypersign.quantizers import Sign
from hypersign.tasks import Classification

SPREADS = (0.1, 0.0, 0.4, 0.4)
"""Of the planted network: the magnitudes of each layer's latent weights are in the ratio 1 + e to 1 - e, by turns."""


@pytest.fixture(scope="module")
def network():
    """Filters at an angle of arctan(e) to their signs; real images in, signs in every later layer."""
    torch.manual_seed(0)
    model, sizes = nn.Sequential(), [256, 256, 256, 256, 10]
    for i, e in enumerate(SPREADS):
        layer = QuantLinear(
            sizes[i], sizes[i + 1], bias=False, weight_quantizer=Sign(), input_quantizer=Sign() if i else None
        )
        with torch.no_grad():
            signs = torch.randn(sizes[i + 1], sizes[i]).sign()
            layer.weight.copy_(0.25 * signs * (1 + e * (-1.0) ** torch.arange(sizes[i])))
        model.add_module(f"fc{i + 1}", layer)
        model.add_module(f"norm{i + 1}", nn.BatchNorm1d(sizes[i + 1], affine=False))
    return model


@pytest.fixture(scope="module")
def sets():
    """Two rounds of the same images, since under other statistics the network would give other labels."""
    x = torch.randn(500, 256, generator=torch.Generator().manual_seed(1))
    nothing = torch.zeros(500, dtype=torch.long)
    return [[(x, nothing)], [(x.flip(0), nothing)]]


@pytest.fixture(scope="module")
def images(network, sets):
    """Images with the labels that the network itself gives them: whatever changes it, does harm."""
    reestimate_batch_norm(network, sets[0])
    x = torch.randn(600, 256, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return x, network.eval()(x).argmax(1)


@pytest.fixture(scope="module")
def found(network, images, sets):
    return ablate(network, [images], sets)


def rows(found, side, scope):
    return {row.name: row for row in found.ablated if (row.side, row.scope) == (side, scope)}


def test_planted_angles_are_found(found):
    for layer, e in zip(found.layers, SPREADS, strict=True):
        assert layer.weights == pytest.approx(1 / math.sqrt(1 + e * e), abs=0.01)
    assert [layer.threshold for layer in found.layers] == [math.inf, 0, 0, 0]
    assert found.layers[2].inputs == pytest.approx(math.sqrt(2 / math.pi), abs=0.01)


def test_planted_layers_are_ranked_exactly(found):
    """fc1 has the smallest angle of the three that turn at all: standing first it does most."""
    ranking = next(r for r in found.rankings if (r.side, r.scope) == ("weights", "one"))
    changes = {name: row.loss_change.mean for name, row in rows(found, "weights", "one").items()}
    assert sorted(changes, key=changes.get, reverse=True) == ["fc1", "fc3", "fc4", "fc2"]
    assert (ranking.spearman, ranking.spearman_logits) == (pytest.approx(1), pytest.approx(1))
    assert (ranking.pairs, ranking.apart, ranking.in_order) == (6, 6, 6)
    assert ranking.noticed == ("fc1", "fc3", "fc4")


def test_a_layer_whose_weights_are_signs_already_changes_nothing(found):
    row = rows(found, "weights", "one")["fc2"]
    assert row.loss_change == row.accuracy_change == Change(0, 0)
    assert (row.logit_r, row.predicted_logit_r) == (pytest.approx(1), pytest.approx(1, abs=1e-6))
    assert (row.accuracy, row.loss) == (found.accuracy, found.loss)


def test_the_correlation_of_logits_is_as_predicted(found):
    for row in found.ablated:
        # Real inputs everywhere make a chain of unquantized layers, in which the law holds least closely.
        assert row.logit_r == pytest.approx(row.predicted_logit_r, abs=0.05), row
    assert len(found.ablated) == 4 + 1 + 4 + 3 + 1 + 3
    assert [(r.side, r.scope) for r in found.rankings] == [
        (side, scope) for side in ("weights", "inputs") for scope in ("one", "all but one")
    ]


def test_changes_are_differences_of_what_is_measured(found):
    every = rows(found, "weights", "all")["all"]
    assert every.loss - found.loss == pytest.approx(every.loss_change.mean)
    for row in rows(found, "weights", "all but one").values():
        assert row.loss - every.loss == pytest.approx(row.loss_change.mean)
        assert row.accuracy - every.accuracy == pytest.approx(row.accuracy_change.mean)
    assert found.accuracy_error == math.sqrt(found.accuracy * (1 - found.accuracy) / 600)


def test_the_error_of_a_paired_difference():
    differences = np.array([[1.0, 2.0, 6.0], [3.0, 2.0, 4.0]])  # rounds, images
    images = np.std([2.0, 2.0, 5.0], ddof=1) / math.sqrt(3)
    rounds = np.std([3.0, 3.0], ddof=1) / math.sqrt(2)
    assert _change(differences) == Change(3.0, pytest.approx(math.hypot(images, rounds)))
    assert _change(differences[:1]).error == pytest.approx(np.std([1.0, 2.0, 6.0], ddof=1) / math.sqrt(3))
    assert _change(differences[:, :1]).error == pytest.approx(1.0)  # rounds 1 and 3; one image has no spread


def test_loss_and_accuracy_against_a_plain_writing(network, images, sets, found):
    x, labels = images
    losses, right = [], []
    for batches in sets:
        reestimate_batch_norm(network, batches)
        with torch.no_grad():
            logits = network.eval()(x).double().numpy()
        z = logits - logits.max(1, keepdims=True)
        losses.append(np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), labels])
        right.append(logits.argmax(1) == labels.numpy())
    assert found.loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert found.accuracy == np.mean(right)
    reestimate_batch_norm(network, sets[0])


def test_the_disturbance_is_what_lies_between_the_loss_and_its_tangent(network, images, sets, found):
    x, _ = images
    found_layer = rows(found, "weights", "one")["fc3"]
    bends = []
    for batches in sets:
        logits = []
        for model in (back_to_float(network), back_to_float(network, weights=["fc3"])):
            reestimate_batch_norm(model, batches)
            with torch.no_grad():
                logits.append(model.eval()(x).double().numpy())
        z, other = logits
        log_sum = [np.log(np.exp(v - v.max(1, keepdims=True)).sum(1)) + v.max(1) for v in logits]
        # Cross-entropy is log sum exp less a linear part: its tangent takes the labels out.
        softmax = np.exp(z - log_sum[0][:, None])
        bends.append(log_sum[1] - log_sum[0] - (softmax * (other - z)).sum(1))
    assert found_layer.disturbance.mean == pytest.approx(np.mean(bends), rel=1e-3)
    assert all(row.disturbance.mean > -1e-6 for row in found.ablated)  # a convex loss
    ranking = found.rankings[0]
    assert (ranking.spearman_disturbance, ranking.disturbance_apart, ranking.disturbance_in_order) == (1, 6, 6)


def test_results_do_not_depend_on_the_batches(network, images, sets, found):
    x, labels = images
    small = ablate(network, list(zip(x.split(250), labels.split(250), strict=True)), sets)
    for a, b in zip(found.ablated, small.ablated, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-4)
        assert a.logit_r == pytest.approx(b.logit_r, abs=1e-4)
        assert a.predicted_logit_r == pytest.approx(b.predicted_logit_r, abs=1e-4)


def state(model):
    return (
        [(name, tensor.clone()) for name, tensor in model.state_dict().items()],
        [(module, module.training, dict(module._forward_hooks)) for module in model.modules()],
        [(layer.weight_quantizer, layer.input_quantizer) for layer in model if isinstance(layer, QuantLinear)],
        torch.random.get_rng_state(),
    )


@pytest.mark.parametrize("broken", [False, True])
def test_the_model_is_left_as_found(network, images, sets, broken):
    network.train()
    network.fc2.eval()
    before = state(network)

    def loss(logits, labels):
        if broken:
            raise ArithmeticError
        return nn.functional.cross_entropy(logits, labels)

    if broken:
        with pytest.raises(ArithmeticError):
            ablate(network, [images], sets[:1], task=Classification(loss))
    else:
        ablate(network, [images], sets[:1], task=Classification(loss))
    after = state(network)
    assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in zip(before[0], after[0], strict=True))
    assert before[1:3] == after[1:3]
    assert torch.equal(before[3], after[3])


def test_a_network_without_batch_norm_or_quantized_inputs():
    torch.manual_seed(0)
    model = nn.Sequential(QuantLinear(8, 3, weight_quantizer=Sign()))
    x = torch.randn(50, 8)
    found = ablate(model, [(x, model(x).argmax(1))], [[(x, None)]])
    assert [(row.side, row.scope) for row in found.ablated] == [
        ("weights", "one"), ("weights", "all"), ("weights", "all but one"),
    ]  # fmt: skip
    assert found.ablated[0].logit_r == pytest.approx(found.ablated[0].predicted_logit_r, abs=1e-5)
    assert math.isnan(found.rankings[0].spearman)
    assert found.rankings[0].pairs == 0
    assert found.ablated[2].loss_change == Change(
        pytest.approx(found.loss - found.ablated[1].loss), pytest.approx(found.ablated[0].loss_change.error)
    )


def test_bad_input_is_named(network, images, sets):
    with pytest.raises(HypersignError, match="must have quantized layers to ablate; it has none"):
        ablate(nn.Sequential(nn.Linear(4, 3)), [images], sets)
    with pytest.raises(HypersignError, match="at least one set of batches"):
        ablate(network, [images], [])
    with pytest.raises(HypersignError, match="batches are read more than once: pass a list"):
        ablate(network, iter([images]), sets)
    with pytest.raises(HypersignError, match="batches must hold at least one batch"):
        ablate(network, [], sets)
    with pytest.raises(HypersignError, match="reestimation batches must hold at least one batch"):
        ablate(network, [images], [[]])
    broken = nn.Sequential(QuantLinear(256, 10, weight_quantizer=Sign()))
    with torch.no_grad():
        broken[0].weight[0, 0] = math.nan
    with pytest.raises(HypersignError, match=r"^0\.weight must hold finite numbers"):
        ablate(broken, [images], sets)
