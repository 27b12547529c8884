"""Data to train on: digits, MNIST, Fashion-MNIST, CIFAR-10, your own folder or `.npz` of images, your own tensors,
texts.

`load` returns a whole data set of images as uint8 tensors, or a text (`TextData`); `read` returns images as NumPy
arrays, without torch. `TensorData` holds tensors of any kind. `data.batches` makes the batches of a split on the
training device. Files are checked by SHA-256; the module `files` says where it searches for them. The addresses in
`sources` were not tested.
"""

from typing import TYPE_CHECKING

from hypersign._lazy import lazily

if TYPE_CHECKING:
    from hypersign.data.arrays import ImageArrays, Labelled, stratified_split
    from hypersign.data.base import Data, EpochBatches, Examples
    from hypersign.data.batches import Augmentation, Batches, TensorBatches
    from hypersign.data.files import NAMES, Status, cache_folder, fetch, status
    from hypersign.data.images import ImageData, fingerprint
    from hypersign.data.loading import load, load_folder, load_npz
    from hypersign.data.reading import is_text, locate, read
    from hypersign.data.splits import Split, TensorSplit
    from hypersign.data.tensors import TensorData
    from hypersign.data.text import TextBatches, TextData, TextSplit, decode, encode

__all__ = [
    "NAMES",
    "load",
    "read",
    "is_text",
    "locate",
    "Data",
    "fetch",
    "status",
    "Status",
    "cache_folder",
    "load_folder",
    "load_npz",
    "ImageData",
    "ImageArrays",
    "Labelled",
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

_MODULES = {
    "arrays": ("ImageArrays", "Labelled", "stratified_split"),
    "base": ("Data", "EpochBatches", "Examples"),
    "batches": ("Augmentation", "Batches", "TensorBatches"),
    "files": ("NAMES", "Status", "cache_folder", "fetch", "status"),
    "images": ("ImageData", "fingerprint"),
    "loading": ("load", "load_folder", "load_npz"),
    "reading": ("is_text", "locate", "read"),
    "splits": ("Split", "TensorSplit"),
    "tensors": ("TensorData",),
    "text": ("TextBatches", "TextData", "TextSplit", "decode", "encode"),
}

__getattr__, __dir__ = lazily(__name__, {name: module for module, names in _MODULES.items() for name in names})
