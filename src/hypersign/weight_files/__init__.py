"""Other people's checkpoints, tensor by tensor: what one bit would do to each, and one file against another."""

from hypersign.weight_files.measure import (
    GROUPS,
    LEVELS,
    GroupAngle,
    LevelsAngle,
    RotatedAngle,
    RowAngles,
    TensorGeometry,
    Unmeasured,
    WeightsGeometry,
    inspect_weights,
)
from hypersign.weight_files.pair import PairGeometry, RowCosines, TensorPair, inspect_pair
from hypersign.weight_files.stored import StoredTensor, TensorFile
from hypersign.weight_files.tensors import is_tensor_file, open_tensors

__all__ = [
    "open_tensors",
    "is_tensor_file",
    "TensorFile",
    "StoredTensor",
    "inspect_weights",
    "WeightsGeometry",
    "TensorGeometry",
    "RowAngles",
    "GroupAngle",
    "LevelsAngle",
    "RotatedAngle",
    "Unmeasured",
    "inspect_pair",
    "PairGeometry",
    "TensorPair",
    "RowCosines",
    "GROUPS",
    "LEVELS",
]
