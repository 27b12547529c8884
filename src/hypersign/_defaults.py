"""Defaults that a Python function and a command share.

They stand apart from the functions because many of those import torch, which `hypersign COMMAND --help` does without.
"""

__all__: list[str] = []

# training
SAVE_SECONDS = 60.0
"""Seconds between saves of a training run's state."""

# inspection and ablation
INSPECTED_IMAGES = 500
"""Images that inspection measures on, as in the paper."""
ABLATED_IMAGES = 1000
"""Test images that ablation measures on."""
REESTIMATE_IMAGES = 1000
"""Training images that ablation re-estimates batch norm on, in each round."""
ABLATION_ROUNDS = 3
"""How often ablation measures everything."""

FORECAST_IMAGES = 256
"""Training images that a forecast of a run measures on."""
FORECAST_HELD_OUT = 1000
"""Test images that a plan is measured on."""

# weight files and vectors
SAMPLED_WEIGHTS = 1 << 17
"""Weights per tensor that best levels and rotations are measured on."""
SAMPLED_VECTORS = 20_000
"""Vectors that are measured."""

# hashing and search
CODE_BITS = 256
"""Length of a code."""
ROTATION_ROUNDS = 3
"""Rounds of random signs and Hadamard transforms."""
NEIGHBOURS = 10
"""Nearest neighbours that a plan counts and a search finds."""
PLAN_QUERIES = 200
"""Rows that a plan draws as queries."""

# packed networks
PACKED_BATCH = 64
"""Images that a packed network takes at a time."""
PROFILE_REPEATS = 30
"""How often a profile runs everything."""

# simulations: the paper's cases
DRAWS = 10_000
"""Random vectors per case."""
PAIR_DIMENSIONS = (3, 10, 27)
BINARY_PAIR_DIMENSIONS = (10, 100, 1000)
SIGN_DIMENSIONS = (3, 10, 27)
TERNARY_THRESHOLDS = (0.01, 0.02 / 0.18, 0.2, 0.3, 0.5)
"""Thresholds in standard deviations; .02/.18 is that of the paper's trained network."""
LEVEL_NUMBERS = (2, 3, 4, 8)
LEVEL_DIMENSION = 1000
"""Dimension of the vectors whose thresholds or numbers of levels vary."""
ROTATED_DIMENSIONS = (10, 100, 500)
ROTATIONS = ("none", "haar")
RATE = 0.1
"""Component i has standard deviation exp(RATE i)."""
