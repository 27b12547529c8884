import numpy as np
import pytest

from hypersign import figures
from hypersign.quantizers import HardTanh, Identity, Optimal, Polynomial, Sign, Ternary


@pytest.mark.parametrize(
    ("quantizer", "forward", "backward"),
    [
        (Sign(), np.sign, lambda x: abs(x) < 1),
        (Ternary(0.3, surrogate=HardTanh(clip=0.5)), lambda x: np.sign(x) * (abs(x) > 0.3), lambda x: abs(x) < 0.5),
        (Sign(surrogate=Polynomial()), np.sign, lambda x: np.maximum(2 - 2 * abs(x), 0)),
        (Identity(), lambda x: x, np.ones_like),
    ],
)  # fmt: skip
def test_curves_are_the_rule_and_its_surrogate(quantizer, forward, backward):
    levels, derivative = figures.quantizer_curves(quantizer, limit=1.25).lines
    x = np.asarray(levels.get_xdata())
    away = np.abs(np.abs(x)[:, None] - [0, 0.3, 0.5, 1]).min(1) > 1e-4  # steps, where float32 decides
    np.testing.assert_allclose(np.asarray(levels.get_ydata())[away], forward(x[away]), atol=1e-6)
    np.testing.assert_allclose(np.asarray(derivative.get_ydata())[away], backward(x[away]), atol=1e-5)


def test_an_optimal_threshold_is_that_of_the_whole_curve():
    levels = figures.quantizer_curves(Ternary(Optimal()), limit=1.0).lines[0]
    x, y = np.asarray(levels.get_xdata()), np.asarray(levels.get_ydata())
    assert np.abs(x[y == 0]).max() == pytest.approx(0.612 / 3**0.5, abs=2e-3)  # uniform on [-1, 1]
