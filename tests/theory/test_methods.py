"""Angles of published methods on normal weights: closed forms against quadrature and against the methods
themselves."""

import itertools

import numpy as np
import pytest
import torch
from scipy import integrate

from hypersign import theory
from hypersign._checks import HypersignError
from hypersign.geometry.weights import angles, predicted_angle
from hypersign.layers import QuantLinear
from hypersign.quantizers import PARQ, AdaBin, BinaryRelax, BiPer, Chosen, Sign, Turned, TwoValues, quantizer_of
from hypersign.training import METHODS

V = np.sqrt(2 / np.pi)


def by_quadrature(function, mean=0.0, points=()):
    """Cosine between w of mean `mean` and variance 1, and function(w), cut at `points`."""
    edges = [-12, *sorted(points), 12]

    def expectation(f):
        density = lambda w: f(w) * np.exp(-((w - mean) ** 2) / 2) / np.sqrt(2 * np.pi)  # noqa: E731
        return sum(integrate.quad(density, a, b, limit=200)[0] for a, b in itertools.pairwise(edges))

    size = expectation(lambda w: function(w) ** 2) * expectation(lambda w: w * w)
    return expectation(lambda w: w * function(w)) / np.sqrt(size)


@pytest.mark.parametrize("mean", [0.0, 0.4, -2.0])
def test_two_values(mean):
    adabin = by_quadrature(lambda w: mean + np.sign(w - mean), mean, [mean])
    assert theory.adabin_cosine(mean) == pytest.approx(adabin, abs=1e-9)
    nearest = by_quadrature(lambda w: mean + V * np.sign(w - mean), mean, [mean])
    assert theory.two_values_cosine(mean) == pytest.approx(nearest, abs=1e-9)
    assert theory.two_values_cosine(mean) >= theory.adabin_cosine(mean) - 1e-12


@pytest.mark.parametrize("omega", [0.2, 0.49999, 0.5, 1.0, 2.3, 6.0])
def test_sines(omega):
    zeros = [j * np.pi / omega for j in range(-30, 31) if abs(j * np.pi / omega) < 12]
    assert theory.sine_cosine(omega) == pytest.approx(by_quadrature(lambda w: np.sin(omega * w)), abs=1e-8)
    square = by_quadrature(lambda w: np.sign(np.sin(omega * w)), points=zeros)
    assert theory.sine_sign_cosine(omega) == pytest.approx(square, abs=1e-7)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.8, 1.0])
def test_relaxations(share):
    rho = max(share, 1e-6)
    clipped = by_quadrature(lambda w: np.clip(w / rho, -V, V), points=[-rho * V, 0, rho * V])
    assert theory.clipped_cosine(share) == pytest.approx(clipped, abs=1e-6)
    relaxed = by_quadrature(lambda w: (1 - share) * w + share * V * np.sign(w), points=[0])
    assert theory.relaxed_cosine(share) == pytest.approx(relaxed, abs=1e-9)


def test_shares_outside_their_range():
    for function in (theory.clipped_cosine, theory.relaxed_cosine, theory.kept_cosine):
        for share in (-0.1, 1.1, np.nan):
            with pytest.raises(HypersignError, match=r"must be numbers from 0 to 1; got"):
                function(share)
    with pytest.raises(HypersignError, match=r"omega must be numbers > 0"):
        theory.sine_sign_cosine(0.0)


def measured(quantizer, sigma=1.0, mean=0.0, filters=40, d=4096):
    """The mean angle of normal filters, in degrees."""
    layer = QuantLinear(d, filters, bias=False, weight_quantizer=quantizer)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        layer.weight.copy_(sigma * torch.randn(filters, d, generator=generator) + mean)
    torch.manual_seed(1)  # not the weights' own stream
    layer.fit_quantizers()
    return float(np.degrees(angles(layer).mean())), layer


def degrees(cosine):
    return float(np.degrees(np.arccos(cosine)))


def at(quantizer, progress):
    quantizer.anneal(progress)
    return quantizer


@pytest.mark.parametrize(
    ("quantizer", "sigma", "mean", "cosine"),
    [
        (AdaBin(), 0.05, 0.0, theory.adabin_cosine(0.0)),
        (AdaBin(), 0.05, 0.05, theory.adabin_cosine(1.0)),
        (TwoValues(), 0.05, 0.05, theory.two_values_cosine(1.0)),
        (Sign(), 0.05, 0.0, theory.sign_cosine(4096)),
        (BiPer(omega=20), 0.05, 0.0, theory.sine_sign_cosine(1.0)),
        (BiPer(omega=20), 0.1, 0.0, theory.sine_sign_cosine(2.0)),
        (at(BiPer(omega=20), 0.0), 0.05, 0.0, theory.sine_cosine(1.0)),
        (at(PARQ(), 0.5), 0.05, 0.0, theory.clipped_cosine(0.5)),
        (at(BinaryRelax(), 0.5), 0.05, 0.0, theory.relaxed_cosine(0.5)),
        (Chosen(keep=0.5), 0.05, 0.0, theory.kept_cosine(0.5)),
    ],
)
def test_methods_measure_what_is_predicted(quantizer, sigma, mean, cosine):
    """40 filters of 4096: the mean of the angles has a standard deviation of some hundredths of a degree."""
    assert measured(quantizer, sigma, mean)[0] == pytest.approx(degrees(cosine), abs=0.15)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_rbnn_hardly_turns_many_filters(share):
    """Its rounds start at the identity and stay near it where 200 filters share one rotation."""
    quantizer = Turned()
    _, layer = measured(quantizer, filters=200, d=256)
    with torch.no_grad():
        quantizer.phi.fill_(np.arcsin(share))
    assert np.degrees(angles(layer).mean()) == pytest.approx(37.07, abs=0.8)


ANGLES = {
    "ls-2": degrees(theory.lloyd_max_cosine(4)),
    "ls-t": degrees(theory.ternary_cosine(theory.OPTIMAL_THRESHOLD)),
    "greedy": degrees(theory.greedy_cosine(2)),
    "siman": 90.0,
    "hadanets": degrees(theory.group_cosine(16)),
    "bitnet": degrees(theory.ternary_cosine(V / 2)),
    "mpt": degrees(theory.kept_cosine(0.5)),
}
"""Methods whose levels are not the signs of centred weights, at 37.07 degrees; `biper` depends on the size."""


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("biper", "rbnn")])
def test_angle_of_each_method(method):
    """Measured with its own quantizer at its end, with the prediction that inspection shows."""
    weights = METHODS[method].parts["weights"].format(levels=METHODS[method].levels[0])
    angle, layer = measured(quantizer_of(weights), 0.05)
    expected = ANGLES.get(method, 37.07)
    assert angle == pytest.approx(expected, abs=0.2)
    assert np.degrees(predicted_angle(layer)) == pytest.approx(expected, abs=0.1)


def test_the_page_has_these_angles():
    from pathlib import Path

    page = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()
    for method, angle in {name: angle for name, angle in ANGLES.items() if name != "siman"}.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{method}`") and f"{angle:.2f}" in line)
        assert f"| {angle:.2f} |" in row
    for method in METHODS:
        assert f"\n| `{method}`" in page
