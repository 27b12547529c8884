"""Images to train on: digits, MNIST, Fashion-MNIST, CIFAR-10, your own folder or `.npz`.

`load` gives the whole data set as uint8 tensors, `Batches` makes float32 batches of it on the training
device. Downloads and everything found are checked by SHA-256; see `files` for where they are looked for and
`sources` for the addresses, which were not tried.
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
]
