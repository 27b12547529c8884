"""Hashing: vectors become packed bits that are searched, and recall is predicted before hashing.

A random rotation spreads a vector evenly over its components, and the signs of the components are its code. Two
vectors at an angle theta differ in a share theta/pi of their bits. So the Hamming distance sorts vectors by angle,
with one bit per component and one xor and popcount per word. Rescoring a few times as many candidates with the
original vectors restores most of the lost recall; `plan` predicts how much.

Level codes have 1 to 6 bits per dimension and estimate a metric: Euclidean distance, cosine or inner product. True
neighbours are by Euclidean distance unless a function is given another metric; `rescore` sorts by any of the three.
"""

from hypersign.hashing.engines import hash_dataset
from hypersign.hashing.estimators import (
    DistanceEstimate,
    Estimate,
    asymmetric_cosine,
    code_cosines,
    code_distances,
    hamming_angle,
    hamming_cosine,
    rabitq_cosine,
)
from hypersign.hashing.expected_scores import Angles
from hypersign.hashing.hasher import SignHasher
from hypersign.hashing.index import HammingIndex, Neighbours, Within, recall
from hypersign.hashing.mean import ExactMean
from hypersign.hashing.planning import Choice, Plan, Row, measure, plan
from hypersign.hashing.prediction import Prediction, predicted_recall
from hypersign.hashing.pruning import BoundedIndex, Pruned
from hypersign.hashing.stored import StoredVectors
from hypersign.hashing.survey import CodeRecall, VectorAngles, VectorsGeometry, inspect_vectors
from hypersign.hashing.vector_files import open_vectors
from hypersign.hashing.vectors import hash_file, import_bits, packed_words

__all__ = [
    "SignHasher",
    "HammingIndex",
    "Neighbours",
    "Within",
    "BoundedIndex",
    "Pruned",
    "recall",
    "hash_file",
    "hash_dataset",
    "ExactMean",
    "import_bits",
    "packed_words",
    "open_vectors",
    "StoredVectors",
    "plan",
    "measure",
    "inspect_vectors",
    "predicted_recall",
    "VectorsGeometry",
    "VectorAngles",
    "CodeRecall",
    "Plan",
    "Row",
    "Choice",
    "Prediction",
    "Angles",
    "hamming_angle",
    "hamming_cosine",
    "asymmetric_cosine",
    "code_cosines",
    "rabitq_cosine",
    "Estimate",
    "code_distances",
    "DistanceEstimate",
]
