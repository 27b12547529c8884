"""Closed-form predictions of what quantization does, to compare with measurements.

Quantizing a filter of d weights turns it by an angle. In high dimension this angle hardly varies: for d
independent normals and their signs it tends to arccos(sqrt(2/pi)) = 37.07 degrees, and its standard deviation
shrinks like 1/sqrt(d). This package predicts, for every d:

- the angle for the sign, for ternary levels and for any number of levels
- the angle for normal weights, for any other distribution of independent weights, and for correlated components
- the correlation and the signs of dot products
- the errors of hashes made of signs of random projections

For normal weights the first two moments of the cosine are exact at every d. So they are for any weights that
are given themselves (`Moments.of`), whatever their tails. From moments alone they are asymptotic, and NaN beyond a
kurtosis of .3 d.

The angle has no closed form at finite d, so it is computed from a distribution of the cosine. For the
sign up to d = 16 this distribution is exact (quadrature over the sphere). For larger d, and for other levels of
normals, it is the beta distribution on [1/sqrt(d), 1] with the cosine's mean and variance. The beta distribution
has these errors compared with the exact one: for the sign at d = 16, .0015 degrees in the mean and .01 in the
standard deviation, and less for larger d; for ternary levels at the best threshold, .12 and .44 degrees at d = 9,
and .01 and .04 at d = 27.

Functions take numbers or NumPy arrays, broadcast them, and return float64. Angles are in radians.
"""

from hypersign.theory.angle import angle_density, angle_mean, angle_std
from hypersign.theory.correlated import (
    correlated_sign_cosine,
    correlated_sign_cosine_std,
    effective_dimension,
    hadamard_sign_cosine,
    hadamard_sign_cosine_std,
)
from hypersign.theory.dot_products import (
    activations_binarized_r,
    both_binarized_r,
    pooled_r,
    sign_disagreement,
    sign_flip_share,
    weights_binarized_r,
)
from hypersign.theory.groups import group_cosine
from hypersign.theory.hashing import (
    hash_angle_std,
    hash_collision,
    hash_product,
    orthogonal_hash_angle_std,
    rabitq_bound,
    rabitq_bound_share,
    rabitq_std,
)
from hypersign.theory.independent import Moments, limit_cosine, mean_cosine, moments_angle, std_cosine
from hypersign.theory.levels import (
    Levels,
    greedy_cosine,
    greedy_error,
    greedy_scales,
    lloyd_max,
    lloyd_max_cosine,
    lloyd_max_cosine_std,
    lloyd_max_error,
)
from hypersign.theory.methods import (
    adabin_cosine,
    clipped_cosine,
    kept_cosine,
    relaxed_cosine,
    sine_cosine,
    sine_sign_cosine,
    two_values_cosine,
)
from hypersign.theory.pairs import (
    binary_pair_angle_std,
    pair_angle_density,
    pair_angle_std,
    pair_cosine_std,
)
from hypersign.theory.quantized_normals import NormalMixture, QuantizedNormals, Steps
from hypersign.theory.sign import (
    sign_angle,
    sign_angle_density,
    sign_angle_std,
    sign_cosine,
    sign_cosine_second_moment,
    sign_cosine_std,
)
from hypersign.theory.ternary import (
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
    "moments_angle",
    "correlated_sign_cosine",
    "correlated_sign_cosine_std",
    "effective_dimension",
    "hadamard_sign_cosine",
    "hadamard_sign_cosine_std",
    "angle_mean",
    "angle_std",
    "angle_density",
    "OPTIMAL_THRESHOLD",
    "ternary_cosine",
    "ternary_cosine_std",
    "ternary_nonzero_share",
    "ternary_level",
    "Levels",
    "lloyd_max",
    "lloyd_max_cosine",
    "lloyd_max_cosine_std",
    "lloyd_max_error",
    "greedy_scales",
    "greedy_cosine",
    "greedy_error",
    "group_cosine",
    "adabin_cosine",
    "clipped_cosine",
    "kept_cosine",
    "relaxed_cosine",
    "sine_cosine",
    "sine_sign_cosine",
    "two_values_cosine",
    "weights_binarized_r",
    "activations_binarized_r",
    "both_binarized_r",
    "pooled_r",
    "sign_disagreement",
    "sign_flip_share",
    "NormalMixture",
    "QuantizedNormals",
    "Steps",
    "pair_cosine_std",
    "pair_angle_std",
    "pair_angle_density",
    "binary_pair_angle_std",
    "hash_collision",
    "hash_product",
    "hash_angle_std",
    "orthogonal_hash_angle_std",
    "rabitq_std",
    "rabitq_bound",
    "rabitq_bound_share",
]
