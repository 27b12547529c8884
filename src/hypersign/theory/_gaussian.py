"""Partial moments of a standard normal. The formulas for quantizers of Gaussian weights use them."""

import numpy as np
from scipy import special


def partial_moments(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (E [low < x < high], E x [..], E x^2 [..]) of a standard normal x, for 0 <= low <= high.

    The mass is the difference of two upper tails. On the positive side this never subtracts two numbers near 1.
    """
    density_low, density_high = (np.exp(-(edge**2) / 2) / np.sqrt(2 * np.pi) for edge in (low, high))
    mass = special.ndtr(-low) - special.ndtr(-high)
    first = density_low - density_high
    reach = np.where(np.isfinite(high), high, 0)  # x phi(x) vanishes far out
    return mass, first, mass + low * density_low - reach * density_high
