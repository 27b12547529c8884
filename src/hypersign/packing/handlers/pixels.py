"""8-bit pixels as integers, for layers that read the image."""

from fractions import Fraction

__all__ = ["integer_pixels"]


def integer_pixels(pixel_range: tuple[float, float] | None) -> tuple[int, int, float] | None:
    """Multiplier, shift and unit of pixels that are integers times a unit; None where there are none.

        low + (high - low) u / 255 = unit (multiplier u + shift)   for u = 0, ..., 255

    They exist where 2 low 255 / (high - low) is an integer.

    >>> integer_pixels((-1.0, 1.0))
    (2, -255, 0.00392156862745098)
    """
    if pixel_range is None:
        return None
    low, high = map(Fraction, pixel_range)
    shift = 255 * low / (high - low)
    if shift.denominator > 2:
        return None
    return shift.denominator, int(shift * shift.denominator), float((high - low) / (255 * shift.denominator))
