"""Sign hashing: vectors to packed bits, search by Hamming distance, and the recall to expect before hashing.

A random rotation spreads a vector evenly over its components; their signs are its code. Two vectors at an angle
theta differ in a share theta/pi of their bits, so that Hamming distance sorts by angle, at a bit a component and
one xor and popcount per word. Rescoring a few times as many candidates with the original vectors repairs most of
what is lost; `plan` says beforehand how much.

Neighbours are those of the least Euclidean distance. Scaled to length 1 beforehand, vectors are compared by cosine.
"""

from hypersign.hashing.estimators import (
    Estimate,
    asymmetric_cosine,
    code_cosines,
    hamming_angle,
    hamming_cosine,
    rabitq_cosine,
)
from hypersign.hashing.hasher import SignHasher
from hypersign.hashing.index import HammingIndex, Neighbours, Within, recall
from hypersign.hashing.planning import Plan, Row, measure, plan
from hypersign.hashing.prediction import Angles, predicted_recall
from hypersign.hashing.pruning import BoundedIndex, Pruned
from hypersign.hashing.survey import CodeRecall, VectorAngles, VectorsGeometry, inspect_vectors
from hypersign.hashing.vector_files import open_vectors
from hypersign.hashing.vectors import hash_file

__all__ = [
    "SignHasher",
    "HammingIndex",
    "Neighbours",
    "Within",
    "BoundedIndex",
    "Pruned",
    "recall",
    "hash_file",
    "open_vectors",
    "plan",
    "measure",
    "inspect_vectors",
    "predicted_recall",
    "VectorsGeometry",
    "VectorAngles",
    "CodeRecall",
    "Plan",
    "Row",
    "Angles",
    "hamming_angle",
    "hamming_cosine",
    "asymmetric_cosine",
    "code_cosines",
    "rabitq_cosine",
    "Estimate",
]
