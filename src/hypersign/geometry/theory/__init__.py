"""The closed forms that measurements are held against.

Quantizing a filter of d weights turns it by an angle. In high dimension that angle hardly varies: for d
independent normals and their signs it tends to arccos(sqrt(2/pi)) = 37.07 degrees, with a spread that shrinks
like 1/sqrt(d). This module says what to expect for every d, for the sign and for ternary levels, for normal
weights and for any other law given by its moments.

For normal weights the first two moments of the cosine are exact at every d; for another law they are asymptotic.
The angle itself has a closed form at no finite d. It is computed from a law of the cosine: exactly, by
quadrature over the sphere, for the sign up to d = 16; beyond, and for every other quantizer, from the beta law
on [1/sqrt(d), 1] that has the cosine's mean and variance. Against the exact law that is wrong by .0015 degrees
in the mean and .01 in the standard deviation for the sign at d = 16, and by less for larger d; for ternary
levels at the best threshold by .12 and .44 degrees at d = 9, by .01 and .04 at d = 27.

Functions take numbers or NumPy arrays, broadcast, and return float64. Angles are in radians.
"""

from hypersign.geometry.theory.angle import angle_density, angle_mean, angle_std
from hypersign.geometry.theory.dot_products import sign_disagreement
from hypersign.geometry.theory.independent import Moments, limit_cosine, mean_cosine, std_cosine
from hypersign.geometry.theory.sign import (
    sign_angle,
    sign_angle_density,
    sign_angle_std,
    sign_cosine,
    sign_cosine_second_moment,
    sign_cosine_std,
)
from hypersign.geometry.theory.ternary import (
    OPTIMAL_THRESHOLD,
    ternary_cosine,
    ternary_cosine_std,
    ternary_level,
    ternary_nonzero_share,
)

__all__ = [
    "sign_cosine",
    "sign_cosine_second_moment",
    "sign_cosine_std",
    "sign_angle",
    "sign_angle_std",
    "sign_angle_density",
    "Moments",
    "limit_cosine",
    "mean_cosine",
    "std_cosine",
    "angle_mean",
    "angle_std",
    "angle_density",
    "OPTIMAL_THRESHOLD",
    "ternary_cosine",
    "ternary_cosine_std",
    "ternary_nonzero_share",
    "ternary_level",
    "sign_disagreement",
]
