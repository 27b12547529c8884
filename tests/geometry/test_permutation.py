import numpy as np
import pytest
import torch

from hypersign.geometry.capture import capture
from hypersign.geometry.permutation import (
    PERMUTED_PRODUCTS,
    permutation_tests,
    permuted,
    permuted_over_images,
    permuted_r,
    permuted_within_images,
)
from hypersign.layers import QuantConv1d, QuantConv2d, QuantLinear
from hypersign.quantizers import Sign, Ternary


def test_a_permutation_keeps_the_values_and_moves_them_everywhere():
    x = torch.arange(5 * 3 * 4 * 4).float().view(5, 3, 4, 4)
    y = permuted(x, 5, torch.Generator().manual_seed(0))
    assert y.shape == x.shape
    assert torch.equal(y.flatten().sort().values, x.flatten())
    assert len(set((y[0] // 48).flatten().tolist())) == 5  # between images
    assert len(set((y[0, 0] // 16).flatten().tolist())) > 3  # between channels
    assert torch.equal(permuted(x, 7, torch.Generator().manual_seed(0)), y)


@pytest.mark.parametrize("images", [1, 2, 3, 4])
def test_few_permuted_images_hold_values_of_all(images):
    x = torch.arange(5 * 3 * 4 * 4).float().view(5, 3, 4, 4)
    drawn = torch.stack([permuted(x, images, torch.Generator().manual_seed(seed)) for seed in range(400)])
    assert drawn.shape == (400, images, 3, 4, 4)
    assert all(len(set(one.flatten().tolist())) == images * 48 for one in drawn)  # none twice
    for one in drawn[:20]:
        share = torch.bincount((one // 48).long().flatten(), minlength=5) / (images * 48)
        assert torch.allclose(share, torch.full((5,), 0.2), atol=2.1 / (images * 48))
    counts = torch.bincount(drawn.long().flatten(), minlength=240)  # every value as often as any other
    expected = 400 * images * 48 / 240
    assert (counts - expected).abs().max() < 5 * expected**0.5


def test_an_empty_batch_stays_empty():
    assert permuted(torch.zeros(0, 3, 2), 4, torch.Generator()).shape == (0, 3, 2)


def test_channels_last_inputs_are_permuted_alike():
    x = torch.randn(3, 4, 5, 5)
    a = permuted(x, 3, torch.Generator().manual_seed(0))
    b = permuted(x.contiguous(memory_format=torch.channels_last), 3, torch.Generator().manual_seed(0))
    assert torch.equal(a, b)


def test_the_global_generator_is_left_alone():
    state = torch.random.get_rng_state()
    permuted(torch.randn(2, 3, generator=torch.Generator().manual_seed(0)), 2, torch.Generator().manual_seed(0))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_only_as_many_images_as_needed():
    layer = QuantConv2d(1, 2, 3, padding=1, bias=False, weight_quantizer=Sign())
    model = torch.nn.Sequential(layer, torch.nn.Flatten())
    (found,) = capture(model, [(torch.randn(50, 1, 20, 20), torch.zeros(50).long())]).layers
    assert found.products.count == 50 * 400
    assert found.permuted.count == 3 * 400 >= PERMUTED_PRODUCTS


def test_permutations_keep_what_they_promise():
    x = torch.randn(6, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    inside = permuted_within_images(x, torch.Generator().manual_seed(0))
    assert torch.equal(inside.flatten(1).sort(1).values, x.flatten(1).sort(1).values)
    assert not torch.equal(inside, x)
    over = permuted_over_images(x, torch.Generator().manual_seed(0))
    assert torch.equal(over.sort(0).values, x.sort(0).values)
    orders = (over[None] == x[:, None]).float().argmax(0).flatten(1)  # which image each value came from
    assert len(set(map(tuple, orders.T.tolist()))) > 20  # an order of its own for each channel and position


LAYERS = {
    "strided, padded with 1": (
        lambda: QuantConv2d(4, 3, 3, stride=2, padding=1, pad_value=1, weight_quantizer=Sign()),
        (4, 7, 7),
    ),
    "padded with 0": (lambda: QuantConv2d(4, 3, 3, padding=1, weight_quantizer=Ternary(0.1)), (4, 5, 5)),
    "groups": (lambda: QuantConv1d(6, 4, 3, padding=1, groups=2, weight_quantizer=Sign()), (6, 9)),
    "fully connected": (lambda: QuantLinear(9, 4, weight_quantizer=Sign()), (9,)),
}


@pytest.mark.parametrize("kept", ["global", "sample", "position"])
@pytest.mark.parametrize("name", LAYERS)
def test_permuted_products_meet_their_prediction(name, kept):
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    layer = make()
    # Images of their own brightness and contrast, a mean image, and a mean
    images, ones = 100, [1] * len(shape)
    x = torch.randn(images, *shape) * (0.5 + torch.rand(images, *ones)) + 0.6 * torch.randn(images, *ones)
    x += 0.7 * torch.randn(shape) + 0.5
    generator = torch.Generator().manual_seed(0)
    draw = {
        "global": lambda: permuted(x, images, generator),
        "sample": lambda: permuted_within_images(x, generator),
        "position": lambda: permuted_over_images(x, generator),
    }[kept]
    rows = {"latent": layer.weight.detach(), "levels": layer.quantized_weight().detach()}
    products = {kind: [] for kind in rows}
    for _ in range(60):
        shuffled = draw()
        for kind, weight in rows.items():
            out = layer.product(shuffled, weight)
            products[kind].append(out.movedim(1 - layer.weight.dim(), -1).reshape(-1, layer.filters))
    a, b = (torch.cat(products[kind]).double().numpy() for kind in rows)
    measured = [np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(layer.filters)]
    np.testing.assert_allclose(permuted_r(layer, x, kept), measured, atol=0.01)


def test_a_filter_over_all_inputs_of_an_image_keeps_only_the_centred_cosine():
    # Every image is a permutation of the same values: the sum of all inputs never varies.
    layer = QuantLinear(6, 1, weight_quantizer=Sign())
    w = np.array([0.5, -1.0, 2.0, 0.1, -0.3, 0.7])
    layer.weight.data.copy_(torch.from_numpy(w)[None])
    x = torch.arange(6.0).repeat(4, 1)
    assert permuted_r(layer, x, "sample") == pytest.approx(np.corrcoef(w, np.sign(w))[0, 1])
    assert np.isnan(permuted_r(layer, x, "position")).all()  # every input is the same in all images
    one = QuantLinear(1, 1, weight_quantizer=Sign())
    assert np.isnan(permuted_r(one, torch.ones(4, 1), "sample")).all()


def test_tests_of_all_three_kinds():
    torch.manual_seed(0)
    layer = QuantConv2d(3, 5, 3, padding=1, bias=False, weight_quantizer=Sign())
    found = permutation_tests(layer, torch.randn(20, 3, 6, 6).sign(), torch.Generator().manual_seed(0))
    assert list(found) == ["global", "sample", "position"]
    for measured, predicted in found.values():
        np.testing.assert_allclose(measured, predicted, atol=0.05)
