"""Each method's weights and inputs against a second, naive writing in NumPy: forward, backward, and what is learned.

A layer is called with the identity matrix, so that its output is the transposed quantized weight, scale and offset
included. The loss is the sum of G times that.
"""

import itertools
import math

import numpy as np
import pytest
import torch

from hypersign._checks import HypersignError
from hypersign.layers import QuantConv1d, QuantConv2d, QuantConv3d, QuantLinear, convert
from hypersign.quantizers import (
    PARQ,
    AdaBin,
    AdaBinInputs,
    BinaryRelax,
    BiPer,
    Bit,
    BitInputs,
    BitNet,
    Chosen,
    Greedy,
    ImageSign,
    Int8,
    IRNet,
    LearnedScale,
    LeastSquares,
    LeastSquaresPlanes,
    LossAware,
    MeanScale,
    ParetoQ,
    Power,
    RealUntil,
    ReCU,
    ShiftedSign,
    Sign,
    SiMaN,
    StraightThrough,
    Tanh,
    TensorScale,
    Ternary,
    Turned,
    TwoValues,
)

FILTERS, N = 5, 24
RNG = np.random.default_rng(3)
W = 0.6 * RNG.normal(size=(FILTERS, N)) + 0.1
G = RNG.normal(size=(FILTERS, N))
CLOSE = {"rtol": 1e-6, "atol": 1e-9}


def measured(quantizer, w=W, g=G):
    """Quantized weights, the gradient of the latent weights, and the gradients of what the quantizer learns."""
    layer = QuantLinear(w.shape[1], len(w), bias=False, weight_quantizer=quantizer).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(w))
    layer.fit_quantizers()
    y = layer(torch.eye(w.shape[1], dtype=torch.float64)).T
    (y * torch.tensor(g)).sum().backward()
    learned = {name: p.grad.numpy() for name, p in layer.weight_quantizer.named_parameters()}
    return y.detach().numpy(), None if layer.weight.grad is None else layer.weight.grad.numpy(), learned


def sgn(x):
    return np.where(x >= 0, 1.0, -1.0)


def ste(x, clip=1.0):
    return (np.abs(x) < clip).astype(float)


def tanh_slope(x, t):
    return max(1 / t, 1) * t * (1 - np.tanh(t * x) ** 2)


def through_standardising(h, w, free):
    """Gradient of w, where that of (w - mean)/sd is h; sd with n - free degrees of freedom."""
    out = np.empty_like(w)
    for f, row in enumerate(w):
        n = len(row)
        sd = math.sqrt(((row - row.mean()) ** 2).sum() / (n - free))
        z = (row - row.mean()) / sd
        out[f] = (h[f] - h[f].mean() - z * (h[f] @ z) / (n - free)) / sd
    return out


def standard(w, free):
    return np.stack(
        [(row - row.mean()) / math.sqrt(((row - row.mean()) ** 2).sum() / (len(row) - free)) for row in w]
    )


def test_mean_scale_has_xnors_gradient():
    q, grad, _ = measured(Sign(scale=MeanScale()))
    alpha = np.abs(W).mean(1, keepdims=True)
    np.testing.assert_allclose(q, alpha * sgn(W), **CLOSE)
    expected = G * alpha * ste(W) + sgn(W) * (G * sgn(W)).sum(1, keepdims=True) / N
    np.testing.assert_allclose(grad, expected, **CLOSE)


def planes(w, scales):
    """Two planes and their elementwise derivative, weight by weight."""
    q, slope = np.zeros_like(w), np.zeros_like(w)
    for f, i in np.ndindex(*w.shape):
        rest, d_rest = w[f, i], 1.0
        for v in scales[f]:
            s = 1.0 if rest >= 0 else -1.0
            d_s = d_rest if abs(rest) < 1 else 0.0
            q[f, i], slope[f, i] = q[f, i] + v * s, slope[f, i] + v * d_s
            rest, d_rest = rest - v * s, d_rest - v * d_s
    return q, slope


@pytest.mark.parametrize("count", [1, 2, 3])
def test_greedy_planes(count):
    scales = []
    for row in W:
        rest, found = row.copy(), []
        for _ in range(count):
            found.append(np.abs(rest).mean())
            rest -= found[-1] * sgn(rest)
        scales.append(found)
    q, slope = planes(W, scales)
    mine, grad, _ = measured(Greedy(planes=count))
    np.testing.assert_allclose(mine, q, **CLOSE)
    np.testing.assert_allclose(grad, G * slope, **CLOSE)


def test_ls_2_is_the_best_of_all_splits():
    scales = []
    for row in W:
        size, best = np.sort(np.abs(row)), (np.inf, 0.0, 0.0)
        for k in range(1, N):
            v1 = (size[:k].mean() + size[k:].mean()) / 2
            v2 = np.abs(size - v1).mean()
            error = ((row - v1 * sgn(row) - v2 * sgn(row - v1 * sgn(row))) ** 2).sum()
            best = min(best, (error, v1, v2))
        scales.append(best[1:])
    q, slope = planes(W, scales)
    mine, grad, _ = measured(LeastSquaresPlanes())
    np.testing.assert_allclose(mine, q, **CLOSE)
    np.testing.assert_allclose(grad, G * slope, **CLOSE)
    for other in (Greedy(planes=2), Sign(scale=MeanScale())):
        assert (((W - mine) ** 2).sum(1) <= ((W - measured(other)[0]) ** 2).sum(1) + 1e-12).all()


def test_ls_t_is_the_best_of_all_ternary_filters():
    small = W[:, :6]
    q, _, _ = measured(Ternary(LeastSquares(), scale=MeanScale()), small, G[:, :6])
    for row, mine in zip(small, q, strict=True):
        best = np.inf
        for levels in itertools.product((-1, 0, 1), repeat=6):
            levels = np.array(levels)
            if levels.any():
                best = min(best, ((row - (row @ levels) / (levels @ levels) * levels) ** 2).sum())
        assert ((row - mine) ** 2).sum() == pytest.approx(best)


def test_adabin():
    tanh = Tanh(first=0.7)
    q, grad, _ = measured(AdaBin(surrogate=tanh))
    mu, sigma = W.mean(1, keepdims=True), W.std(1, keepdims=True)
    z = (W - mu) / sigma
    s = sgn(z)
    np.testing.assert_allclose(q, sigma * s + mu, **CLOSE)
    expected = through_standardising(sigma * G * tanh_slope(z, np.float32(0.7)), W, 0)
    expected += z / N * (G * s).sum(1, keepdims=True) + G.sum(1, keepdims=True) / N
    np.testing.assert_allclose(grad, expected, **CLOSE)


def test_ir_net():
    w = W * np.array([[1.0], [10.0], [0.1], [1.0], [1.0]])
    w[4, :2] += 8.0  # heavy tails: a smaller power of two
    q, grad, _ = measured(IRNet(surrogate=Tanh(first=2.0)), w)
    z = standard(w, 1)
    s = 2 ** np.round(np.log2(np.abs(z).mean(1, keepdims=True)))
    assert set(s.ravel()) == {1, 0.5}
    np.testing.assert_allclose(q, s * sgn(z), **CLOSE)
    np.testing.assert_allclose(grad, through_standardising(s * G * tanh_slope(z, 2.0), w, 1), **CLOSE)


@pytest.mark.parametrize("progress", [0.0, 0.4, 1.0])
def test_recu(progress):
    quantizer = ReCU(scale=LearnedScale(start=0.7))
    quantizer.anneal(progress)
    q, grad, learned = measured(quantizer)
    a = (0.99 - 0.85) / (math.e - 1)
    tau = a * math.e**progress + 0.85 - a
    z = 2 * math.sqrt(2) * standard(W, 1)
    bound = -np.abs(z).mean() * math.log(2 - 2 * tau)
    assert (np.abs(z) > bound).any() == (progress < 1)
    np.testing.assert_allclose(q, 0.7 * sgn(z), **CLOSE)
    h = 0.7 * G * (np.abs(z) < bound) * 2 * math.sqrt(2)
    np.testing.assert_allclose(grad, through_standardising(h, W, 1), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(learned["scale.alpha"], (G * sgn(z)).sum(1), **CLOSE)


def test_siman():
    q, grad, learned = measured(SiMaN())
    z = standard(W, 1)
    levels = -np.ones_like(z)
    for f in range(FILTERS):
        levels[f, np.argsort(-np.abs(z[f]))[: N // 2]] = 1
    alpha = np.abs(W).mean(1, keepdims=True)
    np.testing.assert_allclose(q, alpha * levels, **CLOSE)
    np.testing.assert_allclose(grad, through_standardising(alpha * G * np.sign(z), W, 1), **CLOSE)
    np.testing.assert_allclose(learned["scale.alpha"], (G * levels).sum(1), **CLOSE)


def test_rbnn():
    """The turned filters, not the rotations, which are not unique."""
    z = standard(W, 1).reshape(FILTERS, 4, 6)
    r1, r2 = np.eye(4), np.eye(6)
    for _ in range(3):
        b = [sgn(r1.T @ x @ r2) for x in z]
        u, _, vt = np.linalg.svd(sum(y @ r2.T @ x.T for x, y in zip(z, b, strict=True)))
        r1 = vt.T @ u.T
        u, _, vt = np.linalg.svd(sum(x.T @ r1 @ y for x, y in zip(z, b, strict=True)))
        r2 = u @ vt
    turned = np.stack([r1.T @ x @ r2 for x in z]).reshape(FILTERS, N)
    phi = np.linspace(0.2, 2.8, FILTERS)[:, None]
    layer = QuantLinear(N, FILTERS, bias=False, weight_quantizer=Turned()).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(W))
        layer.fit_quantizers()
        layer.weight_quantizer.phi.copy_(torch.tensor(phi[:, 0]))
    quantizer = layer.weight_quantizer
    quantizer.surrogate.anneal(0.8)
    flat = standard(W, 1)
    mixed = flat + np.abs(np.sin(phi)) * (turned - flat)
    np.testing.assert_allclose(quantizer.prepare(layer.weight).detach().numpy(), mixed, **CLOSE)
    assert (np.abs(turned).sum() >= np.abs(flat).sum()).all()  # it turns towards signs
    y = layer(torch.eye(N, dtype=torch.float64)).T
    s = np.abs(W).mean(1, keepdims=True)
    np.testing.assert_allclose(y.detach().numpy(), s * sgn(mixed), **CLOSE)
    (y * torch.tensor(G)).sum().backward()
    t = np.float32(0.01 * 1000**0.8)
    slope = np.maximum(0, max(1 / t, 1) * (2 * math.sqrt(t**2 / 2) - np.abs(t**2 * mixed)))
    h = s * G * slope
    np.testing.assert_allclose(layer.weight.grad.numpy(), through_standardising(h, W, 1), rtol=1e-6, atol=1e-7)
    expected = (h * (turned - flat)).sum(1) * np.cos(phi[:, 0]) * np.sign(np.sin(phi[:, 0]))
    np.testing.assert_allclose(quantizer.phi.grad.numpy(), expected, rtol=1e-6, atol=1e-7)


def test_two_values_are_the_best_of_all_splits():
    q, grad, _ = measured(TwoValues())
    expected, expected_grad = np.empty_like(W), np.empty_like(W)
    for f, row in enumerate(W):
        order, best = np.argsort(-row), (-np.inf, 0)
        for k in range(1, N):
            top = row[order[:k]].sum()
            best = max(best, (top**2 / k + (row.sum() - top) ** 2 / (N - k), k))
        k = best[1]
        high = np.zeros(N, bool)
        high[order[:k]] = True
        means = row[high].mean(), row[~high].mean()
        expected[f] = np.where(high, *means)
        middle, half = sum(means) / 2, (means[0] - means[1]) / 2
        sums = G[f][high].sum() / k, G[f][~high].sum() / (N - k)
        expected_grad[f] = half * G[f] * ste(row - middle) + np.where(high, *sums)
    np.testing.assert_allclose(q, expected, **CLOSE)
    np.testing.assert_allclose(grad, expected_grad, **CLOSE)


@pytest.mark.parametrize(("progress", "hard"), [(0.5, False), (0.7, True)])
def test_biper(progress, hard):
    quantizer = BiPer(omega=5)
    quantizer.anneal(progress)
    q, grad, _ = measured(quantizer)
    np.testing.assert_allclose(q, sgn(np.sin(5 * W)) if hard else np.sin(5 * W), **CLOSE)
    np.testing.assert_allclose(grad, G * 5 * np.cos(5 * W), **CLOSE)


def test_bit():
    q, grad, _ = measured(Bit())
    np.testing.assert_allclose(q, np.abs(W).mean() * sgn(W - W.mean()), **CLOSE)
    np.testing.assert_allclose(grad, G, **CLOSE)


def test_bitnet():
    q, grad, _ = measured(BitNet())
    alpha = np.abs(W).mean()
    np.testing.assert_allclose(q, alpha * np.round(np.clip(W / alpha, -1, 1)), **CLOSE)
    np.testing.assert_allclose(grad, G, **CLOSE)


def test_paretoq_binary():
    q, grad, learned = measured(ParetoQ(count=2))
    alpha = np.abs(W).mean(1, keepdims=True)
    np.testing.assert_allclose(q, alpha * sgn(W), **CLOSE)
    np.testing.assert_allclose(grad, G * (np.abs(W / alpha) <= 1), **CLOSE)
    np.testing.assert_allclose(learned["scale.alpha"], (sgn(W) * G).sum(1) / math.sqrt(W.size), **CLOSE)


def test_paretoq_ternary():
    layer = QuantLinear(N, FILTERS, bias=False, weight_quantizer=ParetoQ(count=3)).double()
    alpha = np.linspace(0.4, 1.2, FILTERS)[:, None]
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(W))
        layer.weight_quantizer.scale.alpha.copy_(torch.tensor(alpha[:, 0]))
    y = layer(torch.eye(N, dtype=torch.float64)).T
    (y * torch.tensor(G)).sum().backward()
    u = W / alpha
    levels = np.round(np.clip(u, -0.99, 0.99) * 1.5) / 1.5
    inside = (np.abs(u) <= 0.99).astype(float)
    np.testing.assert_allclose(y.detach().numpy(), alpha * levels, **CLOSE)
    np.testing.assert_allclose(layer.weight.grad.numpy(), G * inside, **CLOSE)
    low, high = (u < -0.99) * (-2 / 3), (u > 0.99) * (2 / 3)
    expected = ((low + high + inside * (levels - u)) * G).sum(1) / math.sqrt(W.size * 2 / 3)
    np.testing.assert_allclose(layer.weight_quantizer.scale.alpha.grad.numpy(), expected, **CLOSE)


def test_reste():
    surrogate = Power()
    surrogate.anneal(0.6)
    q, grad, _ = measured(Sign(scale=TensorScale(), surrogate=surrogate))
    alpha, o = np.abs(W).mean(), np.float32(1 + 2 * (1 - math.cos(math.pi * 0.3)))
    power = np.abs(W) ** ((1 - o) / o) / o * (np.abs(W) <= 1.5)
    slope = np.where(np.abs(W) > 0.1, power, 0.1 ** (1 / o) / 0.1)  # the chord of the power function
    assert (np.abs(W) <= 0.1).any()
    np.testing.assert_allclose(q, alpha * sgn(W), **CLOSE)
    np.testing.assert_allclose(grad, alpha * G * slope + sgn(W) * (G * sgn(W)).sum() / W.size, **CLOSE)


def test_chosen():
    torch.manual_seed(0)
    layer = QuantLinear(N, FILTERS, bias=False, weight_quantizer=Chosen(keep=0.3)).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(W))
    scores = layer.weight_quantizer.scores.detach().numpy()
    y = layer(torch.eye(N, dtype=torch.float64)).T
    (y * torch.tensor(G)).sum().backward()
    mask = np.abs(scores) >= np.sort(np.abs(scores), axis=None)[-round(0.3 * W.size)]
    s = np.abs(W)[mask].mean()
    np.testing.assert_allclose(y.detach().numpy(), s * mask * sgn(W), **CLOSE)
    np.testing.assert_allclose(layer.weight_quantizer.scores.grad.numpy(), s * G * sgn(W) * np.sign(scores), **CLOSE)
    assert layer.weight.grad is None
    with pytest.raises(HypersignError, match=r"the weights of the layer that sized them, \(5, 24\); got \(2, 24\)"):
        layer.weight_quantizer(torch.zeros(2, N))


def test_loss_aware_passes_the_gradient():
    q, grad, _ = measured(LossAware())
    np.testing.assert_allclose(q, np.abs(W).mean() * sgn(W), **CLOSE)
    np.testing.assert_allclose(grad, G, **CLOSE)


@pytest.mark.parametrize("progress", [0.0, 0.3, 0.55, 1.0])
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("kind", [PARQ, BinaryRelax])
def test_relaxed_weights(kind, count, progress):
    quantizer = kind(count=count)
    quantizer.anneal(progress)
    q, grad, _ = measured(quantizer)
    sigmoid = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    rho = (sigmoid(-10 * (progress - 0.5)) - sigmoid(-5)) / (sigmoid(5) - sigmoid(-5))
    expected = np.empty_like(W)
    for f, row in enumerate(W):
        size = np.sort(np.abs(row))[::-1]
        v = size.mean() if count == 2 else max((size[:k].sum() ** 2 / k, size[:k].mean()) for k in range(1, N + 1))[1]
        levels = [-v, v] if count == 2 else [-v, 0.0, v]
        for i, u in enumerate(row):
            nearest = min(levels, key=lambda level: abs(level - u))
            if kind is BinaryRelax:
                expected[f, i] = (1 - progress) * u + progress * nearest
                continue
            low = max((level for level in levels if level < u), default=levels[0])
            high = min((level for level in levels if level >= u), default=levels[-1])
            centre = (low + high) / 2
            expected[f, i] = nearest if rho < 1e-12 else min(max(centre + (u - centre) / rho, low), high)
    np.testing.assert_allclose(q, expected, **CLOSE)
    np.testing.assert_allclose(grad, G, **CLOSE)


@pytest.mark.parametrize("count", [2, 3])
def test_real_until(count):
    quantizer = RealUntil(hard_from=0.5, count=count)
    for progress, expected in ((0.4, W), (0.5, sgn(W) if count == 2 else np.sign(W) * (np.abs(W) > 0.5))):
        quantizer.anneal(progress)
        q, grad, _ = measured(quantizer)
        np.testing.assert_allclose(q, expected, **CLOSE)
        np.testing.assert_allclose(grad, G, **CLOSE)


# inputs

X = RNG.normal(size=(3, 4, 5, 5)) + 0.2
H = RNG.normal(size=X.shape)


def inputs(quantizer):
    """Quantized inputs of a convolution, their gradient, and the gradients of what the quantizer learns."""
    layer = QuantConv2d(4, 2, 3, input_quantizer=quantizer).double()
    x = torch.tensor(X, requires_grad=True)
    a = layer.effective_input(x)
    (a * torch.tensor(H)).sum().backward()
    learned = {name: p.grad.numpy() for name, p in layer.input_quantizer.named_parameters()}
    return a.detach().numpy(), x.grad.numpy(), learned


def polynomial(x):
    return np.maximum(0, 2 - 2 * np.abs(x))


def test_shifted_sign():
    quantizer = ShiftedSign()
    layer = QuantConv2d(4, 2, 3, input_quantizer=quantizer).double()
    beta = np.array([0.3, -0.5, 0.0, 1.0])
    with torch.no_grad():
        quantizer.beta.copy_(torch.tensor(beta))
    x = torch.tensor(X, requires_grad=True)
    a = layer.effective_input(x)
    (a * torch.tensor(H)).sum().backward()
    shifted = X + beta[:, None, None]
    np.testing.assert_allclose(a.detach().numpy(), sgn(shifted), **CLOSE)
    np.testing.assert_allclose(x.grad.numpy(), H * polynomial(shifted), **CLOSE)
    np.testing.assert_allclose(quantizer.beta.grad.numpy(), (H * polynomial(shifted)).sum((0, 2, 3)), **CLOSE)


def test_adabin_inputs():
    quantizer = AdaBinInputs()
    with torch.no_grad():
        quantizer.scale.value.fill_(0.8)
        quantizer.offset.value.fill_(0.3)
    a, grad, learned = inputs(quantizer)
    alpha, beta = np.float32(0.8), np.float32(0.3)
    u = (X - beta) / alpha
    np.testing.assert_allclose(a, alpha * sgn(u) + beta, **CLOSE)
    np.testing.assert_allclose(grad, H * polynomial(u), **CLOSE)
    np.testing.assert_allclose(learned["scale.value"], (H * (sgn(u) - u * polynomial(u))).sum(), **CLOSE)
    np.testing.assert_allclose(learned["offset.value"], (H * (1 - polynomial(u))).sum(), **CLOSE)


def test_image_sign():
    a, grad, _ = inputs(ImageSign())
    for image, h, mine, mine_grad in zip(X, H, a, grad, strict=True):
        n = image.size
        root = math.sqrt(image.var(ddof=1) + 1e-5)
        z = (image - image.mean()) / root
        np.testing.assert_allclose(mine, sgn(z), **CLOSE)
        g = h * polynomial(z)
        np.testing.assert_allclose(mine_grad, (g - g.mean() - z * (g * z).sum() / (n - 1)) / root, **CLOSE)


@pytest.mark.parametrize("signed", [0, 1])
def test_bit_inputs(signed):
    quantizer = BitInputs(signed=signed)
    with torch.no_grad():
        quantizer.scale.value.fill_(0.75)
        quantizer.beta.fill_(0.25)
    a, grad, learned = inputs(quantizer)
    u = (X - 0.25) / 0.75
    levels = sgn(u) if signed else np.round(np.clip(u, 0, 1))
    inside = np.abs(u) < 1 if signed else (u >= 0) & (u <= 1)
    np.testing.assert_allclose(a, 0.75 * levels, **CLOSE)
    np.testing.assert_allclose(grad, H * inside, **CLOSE)
    np.testing.assert_allclose(learned["scale.value"], (H * (levels - u * inside)).sum(), **CLOSE)
    np.testing.assert_allclose(learned["beta"], -(H * inside).sum(), **CLOSE)


def test_int8():
    a, grad, _ = inputs(Int8())
    scale = np.abs(X).max((1, 2, 3), keepdims=True) / 127
    np.testing.assert_allclose(a, scale * np.round(X / scale), **CLOSE)
    np.testing.assert_allclose(grad, H, **CLOSE)
    layer = QuantLinear(6, 2, input_quantizer=Int8())  # one scale per token
    x = torch.randn(2, 3, 6)
    scale = x.abs().amax(-1, keepdim=True) / 127
    expected = torch.nn.functional.linear(scale * (x / scale).round(), layer.weight, layer.bias)
    torch.testing.assert_close(layer(x), expected)


def levels8(token):
    scale = np.abs(token).max() / 127
    return scale * np.round(token / scale)


def image_sign(image):
    return sgn(image - image.mean())


def shifted(image):
    return sgn(image + 0.4 * (np.arange(len(image)) - 1).reshape(-1, *[1] * (image.ndim - 1)))


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize(
    ("kind", "functional"),
    [
        (QuantConv1d, torch.nn.functional.conv1d),
        (QuantConv2d, torch.nn.functional.conv2d),
        (QuantConv3d, torch.nn.functional.conv3d),
    ],
)
@pytest.mark.parametrize(
    ("make", "naive"),
    [(Int8, levels8), (ImageSign, image_sign), (ShiftedSign, shifted)],
    ids=lambda each: each.__name__,
)
def test_inputs_of_convolutions_image_by_image(make, naive, kind, functional, alone):
    """One image after the other, channels of different size; a single image without a batch too."""
    torch.manual_seed(0)
    layer = kind(3, 4, 3, input_quantizer=make()).double()
    if make is ShiftedSign:
        layer.input_quantizer.beta.data = 0.4 * (torch.arange(3.0).double() - 1)
    shape = (2, 3, 6, 5, 4)[: layer.weight.dim()]
    x = torch.randn(shape).double() * torch.tensor([0.1, 1.0, 10.0]).view(-1, *[1] * (len(shape) - 2)) + 0.3
    given = [x[0]] if alone else x
    expected = [functional(torch.tensor(naive(image.numpy()))[None], layer.weight, layer.bias)[0] for image in given]
    y = layer(x[0])[None] if alone else layer(x)
    torch.testing.assert_close(y, torch.stack(expected))


def test_int8_has_one_scale_per_token_whatever_comes_before():
    """A linear layer of images with channels last (ConvNeXt), converted: each pixel is a token."""
    model = convert(torch.nn.Sequential(torch.nn.Linear(6, 2)), input_quantizer=Int8()).model.double()
    x = torch.randn(2, 3, 4, 6).double() * torch.tensor([0.01, 1.0, 3.0, 20.0]).double()[:, None]
    rows = [levels8(row) for row in x.view(-1, 6).numpy()]
    expected = torch.tensor(np.array(rows)) @ model[0].weight.T + model[0].bias
    torch.testing.assert_close(model(x), expected.view(2, 3, 4, 2))


@pytest.mark.parametrize("make", [Int8, ImageSign, ShiftedSign])
def test_one_object_in_two_kinds_of_layers_is_refused(make):
    quantizer = make()
    QuantLinear(6, 2, input_quantizer=quantizer)
    QuantLinear(6, 2, input_quantizer=quantizer)
    with pytest.raises(HypersignError, match="weight has 2 dimensions, and this one's has 4: give each layer a quan"):
        QuantConv2d(3, 4, 3, input_quantizer=quantizer)


# sizes

LEARN = {
    "recu": ReCU,
    "siman": SiMaN,
    "rbnn": Turned,
    "paretoq": ParetoQ,
    "chosen": Chosen,
    "learned": lambda: Sign(scale=LearnedScale()),
}


@pytest.mark.parametrize("make", LEARN.values(), ids=LEARN)
def test_layers_size_what_quantizers_learn(make):
    from hypersign.layers import convert

    net = torch.nn.Sequential(torch.nn.Conv2d(3, 7, 3), torch.nn.Flatten(), torch.nn.Linear(28, 4))
    model = convert(net, weight_quantizer=make(), input_quantizer=ShiftedSign()).model
    for i, filters in ((0, 7), (2, 4)):
        for parameter in model[i].weight_quantizer.parameters():
            assert len(parameter) == filters
            assert parameter.is_leaf
    assert [len(model[i].input_quantizer.beta) for i in (0, 2)] == [3, 1]
    model(torch.randn(2, 3, 4, 4)).sum().backward()
    again = convert(net, weight_quantizer=make(), input_quantizer=ShiftedSign()).model
    again.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(again(x), model(x))


def test_a_learned_scale_belongs_to_one_layer():
    shared = Sign(scale=LearnedScale())
    QuantLinear(4, 3, weight_quantizer=shared)
    QuantLinear(4, 3, weight_quantizer=shared)  # the same size is the same numbers
    message = "a learned scale was sized for 3 filters or channels, and this layer has 5: give each layer"
    with pytest.raises(HypersignError, match=message):
        QuantLinear(4, 5, weight_quantizer=shared)


def test_a_learned_scale_starts_at_the_mean_magnitude():
    layer = QuantLinear(4, 3, weight_quantizer=Sign(scale=LearnedScale(), surrogate=StraightThrough()))
    torch.testing.assert_close(layer.weight_scale(), layer.weight.abs().mean(1))


@pytest.mark.parametrize(
    "quantizer",
    [
        SiMaN(),
        BitNet(),
        ParetoQ(),
        Turned(),
        PARQ(),
        BinaryRelax(),
        RealUntil(),
        Greedy(),
        LeastSquaresPlanes(),
        Chosen(),
    ],
    ids=lambda q: type(q).__name__,
)
def test_weights_only(quantizer):
    with pytest.raises(HypersignError, match=r"^input_quantizer must not be"):
        QuantLinear(4, 3, input_quantizer=quantizer)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ParetoQ(count=4), "levels of ParetoQ here, must be 2 or 3; got 4"),
        (lambda: PARQ(count=5), "must be 2 or 3; got 5"),
        (lambda: PARQ(steepness=0), "steepness must be a number > 0; got 0"),
        (lambda: RealUntil(hard_from=2), "hard_from must be a number >= 0 and <= 1; got 2"),
        (lambda: Greedy(planes=0), "planes must be an integer from 1 to 8; got 0"),
        (lambda: ReCU(first=0.2), "first must be a number >= 0.5 and < 1; got 0.2"),
        (lambda: BiPer(omega=-1), "omega must be a number > 0; got -1"),
        (lambda: BitInputs(signed=2), "signed must be 1 .* or 0 .*; got 2"),
        (lambda: Chosen(keep=0), "keep must be a number > 0 and <= 1; got 0"),
        (lambda: LearnedScale(start="median"), "start .* must be a number > 0; got 'median'"),
    ],
)
def test_options_outside_their_range(make, message):
    with pytest.raises(HypersignError, match=message):
        make()


def test_equal_weights_and_filters_of_one():
    for quantizer in (AdaBin(), IRNet(), ReCU(), SiMaN(), TwoValues(), LeastSquaresPlanes(), PARQ(), Turned()):
        for w in (np.full((2, 6), 0.5), np.zeros((2, 6)), np.array([[0.5], [-0.25]])):
            q, grad, _ = measured(quantizer.__class__(), w, np.ones_like(w))
            assert np.isfinite(q).all(), type(quantizer).__name__
            assert np.isfinite(grad).all(), type(quantizer).__name__
