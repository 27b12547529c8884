"""The playground: one HTML file that holds a packed network and runs it on its bits."""

from hypersign.playground.page import Sample, page, write

__all__ = ["page", "write", "Sample"]
