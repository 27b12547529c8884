import weakref

import numpy as np
import pytest
import torch
from torch import nn

from hypersign._checks import HypersignError
from hypersign.geometry.capture import capture
from hypersign.layers import QuantConv2d, QuantLinear
from hypersign.quantizers import MeanScale, Sign
from hypersign.tasks import Classification


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        QuantConv2d(2, 4, 3, padding=1, bias=False, weight_quantizer=Sign()),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.Dropout(0.5),
        QuantLinear(4 * 5 * 5, 3, input_quantizer=Sign(), weight_quantizer=Sign()),
    )


def _batches(n=6, size=3):
    torch.manual_seed(1)
    return [(torch.randn(size, 2, 5, 5), torch.arange(size)) for _ in range(n // size)]


def _state(model):
    return (
        {name: value.clone() for name, value in model.state_dict().items()},
        [m.training for m in model.modules()],
        [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        torch.is_grad_enabled(),
        torch.backends.cudnn.conv.fp32_precision,
        torch.backends.cuda.matmul.fp32_precision,
        torch.random.get_rng_state().tolist(),
    )


def _assert_same(before, after):
    for name, value in before[0].items():
        assert torch.equal(value, after[0][name]), name
    assert before[1:] == after[1:]


def test_the_model_is_left_as_found():
    model, batches = _model().train(), _batches()
    model[1].eval()  # a mode of its own must survive
    before = _state(model)
    capture(model, batches)
    _assert_same(before, _state(model))


def test_the_model_is_left_as_found_after_an_error():
    model, batches = _model().train(), _batches()
    before = _state(model)
    batches.append((torch.full((3, 2, 5, 5), float("nan")), torch.arange(3)))
    with pytest.raises(HypersignError, match="input of 0 must hold finite numbers"):
        capture(model, batches)
    _assert_same(before, _state(model))


def test_nan_in_the_middle_names_the_layer():
    model = _model()
    model[1].running_var[2] = float("nan")
    with pytest.raises(HypersignError, match="input of 4 must"):
        capture(model, _batches())


def test_nan_in_weights_names_the_layer():
    model = _model()
    with torch.no_grad():
        model[4].weight[0, 0] = float("inf")
    with pytest.raises(HypersignError, match=r"4\.weight must hold finite numbers"):
        capture(model, _batches())


def test_nan_in_scores():
    model = _model()
    with torch.no_grad():
        model[4].bias[0] = float("nan")
    with pytest.raises(HypersignError, match="outputs must be finite"):
        capture(model, _batches())


def test_a_layer_that_is_never_reached_is_named():
    model = _model()
    model[0].unused = QuantLinear(2, 2, weight_quantizer=Sign())
    with pytest.raises(HypersignError, match=r"0\.unused did not"):
        capture(model, _batches())


@pytest.mark.parametrize("option", ["bias", "scale", "hook"])
def test_products_are_bare_whatever_the_output_is(option):
    # bias, scale or somebody's hook change the output; x of weights_binarized must stay a_b.w_b
    layer = QuantLinear(
        8, 3, bias=option == "bias", weight_quantizer=Sign(scale=MeanScale() if option == "scale" else None)
    )
    if option == "hook":
        layer.register_forward_hook(lambda m, a, y: y + 100)
    x = torch.randn(30, 8)
    (found,) = capture(nn.Sequential(layer), [(x, torch.zeros(30).long())]).layers
    means = found.products.means("a_b.w_b")
    np.testing.assert_allclose(means, (x @ layer.quantized_weight().T).mean(0).detach().numpy(), atol=1e-6)


def test_nothing_of_a_batch_is_kept():
    model, alive = _model(), []

    def batches():
        for images, labels in _batches(12):
            alive.append(weakref.ref(images.untyped_storage()))
            yield images, labels
            del images

    seen = capture(model, batches())
    assert seen.examples == 12
    assert not any(reference() is not None for reference in alive)


def test_progress_counts_images():
    counts: list[int] = []
    capture(_model(), _batches(9), progress=counts.append)
    assert counts == [3, 6, 9]


def test_autocast_is_switched_off():
    model, batches = _model(), _batches()
    plain = capture(model, batches).layers[1].products.result("both_binarized")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = capture(model, batches).layers[1].products.result("both_binarized")
    assert repr(plain) == repr(cast)


def test_a_layer_used_twice_counts_twice():
    layer = QuantLinear(4, 4, bias=False, weight_quantizer=Sign())
    (found,) = capture(nn.Sequential(layer, nn.Tanh(), layer), [(torch.randn(7, 4), torch.zeros(7).long())]).layers
    assert found.products.count == 14


def test_logits_of_another_shape_are_refused():
    """A head without `nn.Flatten()` gives (N, classes, 1, 1), which would broadcast against N labels."""
    head = nn.Sequential(QuantConv2d(2, 3, 3, weight_quantizer=Sign()), nn.AdaptiveAvgPool2d(1))
    with pytest.raises(HypersignError, match="must give logits of shape"):
        capture(head, _batches(), task=Classification())


def test_layers_that_share_a_quantizer_are_told_apart():
    apart, together = _model(), _model()
    together[0].weight_quantizer = together[4].weight_quantizer = together[4].input_quantizer = Sign()
    found = [capture(model, _batches()).layers for model in (apart, together)]
    for one, other in zip(*found, strict=True):
        assert repr(one.products.result("both_binarized")) == repr(other.products.result("both_binarized"))
