"""Data to train on: digits, MNIST, Fashion-MNIST, CIFAR-10, your own folder or `.npz` of images, your own tensors,
texts.

`load` returns a whole data set of images as uint8 tensors, or a text (`TextData`). `TensorData` holds tensors of any
kind. `data.batches` makes the batches of a split on the training device. Files are checked by SHA-256; the module
`files` says where it searches for them. The addresses in `sources` were not tested.
"""

from hypersign.data.base import Data, EpochBatches, Examples
from hypersign.data.batches import Augmentation, Batches, TensorBatches
from hypersign.data.files import NAMES, Status, cache_folder, fetch, status
from hypersign.data.folder import load_folder
from hypersign.data.images import ImageData, fingerprint, stratified_split
from hypersign.data.loading import load, locate
from hypersign.data.npz import load_npz
from hypersign.data.splits import Split, TensorSplit
from hypersign.data.tensors import TensorData
from hypersign.data.text import TextBatches, TextData, TextSplit, decode, encode

__all__ = [
    "NAMES",
    "load",
    "locate",
    "Data",
    "fetch",
    "status",
    "Status",
    "cache_folder",
    "load_folder",
    "load_npz",
    "ImageData",
    "Split",
    "fingerprint",
    "stratified_split",
    "Batches",
    "EpochBatches",
    "Examples",
    "TensorBatches",
    "TensorData",
    "TensorSplit",
    "Augmentation",
    "TextBatches",
    "TextData",
    "TextSplit",
    "decode",
    "encode",
]
