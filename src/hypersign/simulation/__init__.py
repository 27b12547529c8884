"""Monte Carlo simulation of random vectors and their angles, compared with theory."""

from hypersign.simulation.estimates import Estimate, SimulatedAngle, Simulation
from hypersign.simulation.vectors import ROTATIONS, binary_pairs, levels, pairs, rotated, sign, ternary

__all__ = [
    "pairs",
    "binary_pairs",
    "sign",
    "ternary",
    "levels",
    "rotated",
    "ROTATIONS",
    "Simulation",
    "SimulatedAngle",
    "Estimate",
]
