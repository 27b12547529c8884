"""Evaluation against a naive loop, and batch-norm statistics against NumPy."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hypersign._checks import HypersignError
from hypersign.evaluate import evaluate, mode, reestimate_batch_norm
from hypersign.models import build, mlp
from hypersign.tasks import Classification, cross_entropy, squared_hinge


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def labelled(*sizes: int, classes: int = 5) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(numbers(n, 3, 6, 6, seed=n), torch.randint(classes, (n,), generator=generator)) for n in sizes]


def network() -> nn.Module:
    torch.manual_seed(0)
    return build("vgg", (3, 6, 6), 5, widths=(4,), pools=(1,), hidden=(8,))


# ------------------------------------------------------------------------------------------------------ losses


def test_squared_hinge_matches_a_loop_and_its_gradient() -> None:
    logits = numbers(7, 5).double().requires_grad_()
    labels = torch.tensor([0, 4, 2, 2, 1, 3, 0])
    total = 0.0
    expected = np.zeros((7, 5))
    for n in range(7):
        for c in range(5):
            t = 1.0 if c == labels[n] else -1.0
            margin = 1 - t * logits[n, c].item()
            if margin > 0:
                total += margin**2
                expected[n, c] = -2 * t * margin / 35
    loss = squared_hinge(logits, labels)
    assert loss.item() == pytest.approx(total / 35)
    loss.backward()
    np.testing.assert_allclose(logits.grad.numpy(), expected, rtol=1e-12)


def test_squared_hinge_edges() -> None:
    assert squared_hinge(torch.tensor([[1.0, -1.0]]), torch.tensor([0])).item() == 0.0  # on the margin
    assert squared_hinge(torch.tensor([[-1.0, 1.0]]), torch.tensor([0])).item() == 4.0
    assert squared_hinge(torch.zeros(3, 10), torch.zeros(3, dtype=torch.long)).item() == 1.0


def test_cross_entropy_matches_a_loop() -> None:
    logits, labels = numbers(6, 4).double(), torch.tensor([0, 1, 2, 3, 3, 0])
    values = logits.numpy()
    expected = [np.log(np.exp(row).sum()) - row[label] for row, label in zip(values, labels.tolist(), strict=True)]
    assert cross_entropy(logits, labels).item() == pytest.approx(np.mean(expected))


# -------------------------------------------------------------------------------------------------- evaluation


@pytest.mark.parametrize("loss", [cross_entropy, squared_hinge], ids=lambda loss: loss.__name__)
@pytest.mark.parametrize("sizes", [(12,), (5, 5, 2), (1,) * 12, (5, 7)], ids=str)
def test_matches_a_loop_image_by_image(sizes: tuple[int, ...], loss) -> None:
    model = network()
    batches = labelled(*sizes)
    result = evaluate(model, batches, task=Classification(loss))
    model.eval()
    confusion, total = np.zeros((5, 5), int), 0.0
    for x, labels in batches:
        for image, label in zip(x, labels, strict=True):
            logits = model(image[None])[0].tolist()
            confusion[label, max(range(5), key=logits.__getitem__)] += 1
            total += loss(torch.tensor([logits]), label[None]).item()
    assert result.examples == 12
    assert result.confusion == tuple(tuple(row) for row in confusion.tolist())
    assert result.accuracy == np.trace(confusion) / 12
    assert result.loss == pytest.approx(total / 12, rel=1e-5)


def test_batches_may_be_a_generator_and_are_read_once() -> None:
    read = []

    def stream():
        for i, batch in enumerate(labelled(4, 3)):
            read.append(i)
            yield batch

    assert evaluate(network(), stream()).examples == 7
    assert read == [0, 1]


def test_a_class_that_never_comes_has_a_row_of_zeros() -> None:
    result = evaluate(nn.Flatten(), [(torch.eye(4)[:2], torch.tensor([0, 0]))])
    assert result.confusion == ((1, 1, 0, 0), (0, 0, 0, 0), (0, 0, 0, 0), (0, 0, 0, 0))


def test_logits_of_a_low_precision_are_measured_in_float32() -> None:
    logits = torch.tensor([[1.0, 2.0], [3.0, 0.5]])
    low = evaluate(nn.Flatten(), [(logits.bfloat16(), torch.tensor([0, 1]))])
    assert low == evaluate(nn.Flatten(), [(logits, torch.tensor([0, 1]))])


def test_a_latent_weight_that_is_nan_is_an_error() -> None:
    model = mlp((1, 2, 2), 3, hidden=(4,))
    with torch.no_grad():
        model.fc1.weight[2, 1] = torch.nan
    with pytest.raises(HypersignError, match=r"^fc1\.weight must hold numbers; it holds NaN"):
        evaluate(model, [(torch.ones(1, 1, 2, 2), torch.zeros(1, dtype=torch.long))])


def test_nan_logits_are_an_error() -> None:
    x = torch.eye(3)
    broken = x.clone()
    broken[1, 2] = torch.nan
    labels = torch.tensor([0, 1, 2])
    with pytest.raises(HypersignError, match="outputs must be numbers; example 3 or one soon after it gives NaN"):
        evaluate(nn.Flatten(), [(x, labels), (broken, labels)])


def test_no_image_is_an_error() -> None:
    with pytest.raises(HypersignError, match="evaluation needs at least one example; got none"):
        evaluate(network(), [])


def mixed() -> nn.Sequential:
    """A network whose modules are in different modes."""
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3), nn.Sequential(nn.Dropout(0.9), nn.Linear(3, 3)))
    model.train()
    model[2].eval()
    model[2][1].train()
    return model


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("function", [evaluate, reestimate_batch_norm], ids=lambda f: f.__name__)
def test_modes_come_back(function) -> None:
    model = mixed()
    before = modes(model)
    function(model, [(numbers(4, 3), torch.tensor([0, 1, 2, 0]))])
    assert modes(model) == before


@pytest.mark.parametrize("function", [evaluate, reestimate_batch_norm], ids=lambda f: f.__name__)
def test_modes_and_momentum_come_back_after_an_exception(function) -> None:
    model = mixed()
    before = modes(model)

    def stream():
        yield numbers(4, 3), torch.tensor([0, 1, 2, 0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        function(model, stream())
    assert modes(model) == before
    assert model[1].momentum == 0.1


def test_mode_nests() -> None:
    model = mixed()
    before = modes(model)
    with mode(model, True):
        assert all(modes(model))
        with mode(model, False):
            assert not any(modes(model))
        assert all(modes(model))
    assert modes(model) == before


def test_evaluation_uses_running_statistics_and_moves_none() -> None:
    model = network()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluate(model, labelled(3, 4))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name])
    assert all(parameter.grad is None for parameter in model.parameters())


# ------------------------------------------------------------------------------------- batch-norm re-estimation


def test_statistics_are_the_means_of_batch_statistics() -> None:
    model = network()
    for module in model.modules():  # statistics as broken as they can be
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.fill_(1e9)
            module.running_var.fill_(1e9)
    weights = {name: p.clone() for name, p in model.named_parameters()}
    batches = labelled(8, 6, 5)
    seen: dict[str, list[np.ndarray]] = {"norm1": [], "norm2": [], "norm3": []}
    handles = [
        model.get_submodule(name).register_forward_pre_hook(lambda _, x, name=name: seen[name].append(x[0].numpy()))
        for name in seen
    ]
    assert reestimate_batch_norm(model, batches) == 19
    for handle in handles:
        handle.remove()
    for name, inputs in seen.items():
        norm = model.get_submodule(name)
        flat = [np.moveaxis(x, 1, 0).reshape(x.shape[1], -1).astype(float) for x in inputs]
        assert len(flat) == 3
        means = np.mean([x.mean(1) for x in flat], axis=0)
        variances = np.mean([x.var(1, ddof=1) for x in flat], axis=0)
        np.testing.assert_allclose(norm.running_mean.numpy(), means, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(norm.running_var.numpy(), variances, rtol=1e-4)
        assert norm.momentum == 0.1
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights[name])


def test_a_second_call_gives_the_same_statistics() -> None:
    """Every batch is normalised by its own statistics, so nothing of the state before is left."""
    model, batches = network(), labelled(8, 6)
    reestimate_batch_norm(model, batches)
    first = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    reestimate_batch_norm(model, batches)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, first[name]), name


class Functional(nn.Module):
    """Dropout called as a function, by a module that has children."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.linear(x), 0.5, self.training)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(3, 1, dropout=0.5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x[:, None], x[:, None], x[:, None])[0][:, 0]


@pytest.mark.parametrize("stage", [nn.Dropout(0.5), Functional(), Attention()], ids=lambda m: type(m).__name__)
def test_dropout_stays_off(stage: nn.Module) -> None:
    model = nn.Sequential(stage, nn.BatchNorm1d(3))
    x = numbers(50, 3)
    torch.manual_seed(0)
    reestimate_batch_norm(model, [(x, x)])
    with torch.no_grad():
        expected = stage.eval()(x)
    torch.testing.assert_close(model[1].running_mean, expected.mean(0))
    torch.testing.assert_close(model[1].running_var, expected.var(0))


def test_without_batch_norm_nothing_is_read() -> None:
    def stream():
        raise AssertionError
        yield

    assert reestimate_batch_norm(nn.Sequential(nn.Linear(3, 3)), stream()) == 0
    assert reestimate_batch_norm(nn.BatchNorm1d(3, track_running_stats=False), stream()) == 0


def test_no_batch_is_an_error_and_keeps_the_statistics() -> None:
    model = network()
    model(labelled(8)[0][0])
    before = model.norm1.running_mean.clone()
    with pytest.raises(HypersignError, match="re-estimating batch norm needs at least one batch; got none"):
        reestimate_batch_norm(model, [])
    assert torch.equal(model.norm1.running_mean, before)


# ----------------------------------------------------------------- inputs and targets that do not fit


def test_an_empty_batch_counts_nothing() -> None:
    batches = labelled(4, 3)
    empty = torch.zeros(0, 3, 6, 6), torch.zeros(0, dtype=torch.long)
    assert evaluate(network(), [empty, *batches, empty]) == evaluate(network(), batches)
    with pytest.raises(HypersignError, match="at least one example; got none"):
        evaluate(network(), [empty])
    model = network()
    assert reestimate_batch_norm(model, [*labelled(8), empty]) == 8
    assert model.norm1.running_var.isfinite().all()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 5]), "labels must be integers from 0 to 4; got 5"),
        (torch.tensor([0, -100]), "labels must be integers from 0 to 4; got -100"),
        (torch.eye(5)[:2], r"labels must be class numbers of shape \(2,\); .* one-hot"),
        (torch.tensor([0.0, 1.0]), r"labels must be integers from 0 to 4; got torch\.float32"),
        (torch.tensor([0]), "as many targets as inputs"),
        ([0, 1], "a batch must be a pair of tensors"),
    ],
)
def test_labels_that_do_not_fit(labels, message) -> None:
    with pytest.raises(HypersignError, match=message):
        evaluate(network(), [(numbers(2, 3, 6, 6), labels)])


def test_labels_of_another_integer_type() -> None:
    x, labels = labelled(6)[0]
    assert evaluate(network(), [(x, labels.int())]) == evaluate(network(), [(x, labels.byte())])


def test_inputs_take_the_type_of_the_network() -> None:
    x, labels = labelled(6)[0]
    model = network()
    assert evaluate(model, [(x.double(), labels)]) == evaluate(model, [(x, labels)])
    assert evaluate(network().double(), [(x, labels)]).accuracy == evaluate(model, [(x, labels)]).accuracy
    assert reestimate_batch_norm(network().double(), [(x, labels)]) == 6


def test_tokens_stay_integers() -> None:
    model = nn.Sequential(nn.Embedding(5, 6), nn.Flatten(), nn.BatchNorm1d(12), nn.Linear(12, 3))
    tokens = torch.randint(5, (8, 2), generator=torch.Generator().manual_seed(0))
    assert reestimate_batch_norm(model, [(tokens, tokens)]) == 8
    assert evaluate(model, [(tokens, tokens[:, 0] % 3)]).examples == 8


@pytest.mark.parametrize("why", ["one image", "one image later", "not a pair", "interrupted"])
def test_after_an_error_the_old_statistics_are_back(why: str) -> None:
    model = network()
    model(labelled(8)[0][0])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    one = numbers(1, 3, 6, 6), torch.zeros(1, dtype=torch.long)

    def interrupted():
        yield from labelled(8)
        raise KeyboardInterrupt

    batches = {
        "one image": [one],
        "one image later": [*labelled(8), one],
        "not a pair": [*labelled(8), one[0]],
        "interrupted": interrupted(),
    }[why]
    with pytest.raises((HypersignError, KeyboardInterrupt), match=r"at least 2 values|pair of tensors|^$"):
        reestimate_batch_norm(model, batches)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_batch_of_one_image_has_values_enough_in_a_convolution() -> None:
    norm = nn.BatchNorm2d(3)
    x = numbers(1, 3, 6, 6)
    assert reestimate_batch_norm(norm, [(x, x)]) == 1
    torch.testing.assert_close(norm.running_mean, x.mean((0, 2, 3)))


@pytest.mark.parametrize("model", [nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1)), nn.Conv2d(3, 5, 3)])
def test_logits_of_another_shape_are_refused(model: nn.Module) -> None:
    """A head without `nn.Flatten()` gives (N, classes, 1, 1), which would broadcast against N labels."""
    with pytest.raises(HypersignError, match="must give logits of shape"):
        evaluate(model, labelled(7))
