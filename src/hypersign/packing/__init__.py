"""Packing: turn a trained network into a file of bits and integer thresholds, and verify that both agree."""

from hypersign.packing.file import file_size, pack
from hypersign.packing.fold import fold
from hypersign.packing.folding import LazyTensor
from hypersign.packing.peers import peers
from hypersign.packing.text import TextCertificate, pack_text, verify_text
from hypersign.packing.thresholds import find_thresholds
from hypersign.packing.verify import Certificate, Difference, verify

__all__ = [
    "pack",
    "file_size",
    "verify",
    "pack_text",
    "verify_text",
    "TextCertificate",
    "Certificate",
    "Difference",
    "peers",
    "fold",
    "LazyTensor",
    "find_thresholds",
]
