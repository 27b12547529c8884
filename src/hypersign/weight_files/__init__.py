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
from hypersign.weight_files.writing import Levels, write_bitnet, write_gguf

__all__ = [
    "open_tensors",
    "is_tensor_file",
    "TensorFile",
    "StoredTensor",
    "Levels",
    "write_gguf",
    "write_bitnet",
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
