import torch

from hypersign.geometry.capture import capture
from hypersign.geometry.permutation import PERMUTED_PRODUCTS, permuted
from hypersign.layers import QuantConv2d
from hypersign.quantizers import Sign


def test_a_permutation_keeps_the_values_and_moves_them_everywhere():
    x = torch.arange(5 * 3 * 4 * 4).float().view(5, 3, 4, 4)
    y = permuted(x, 2, torch.Generator().manual_seed(0))
    assert y.shape == (2, 3, 4, 4)
    assert torch.equal(y.flatten().sort().values, x[:2].flatten())
    assert set((y[0] >= 48).flatten().tolist()) == {True, False}  # between images
    assert len(set((y[0, 0] // 16).flatten().tolist())) > 3  # between channels


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
