"""The report: results and charts as one self-contained HTML page."""

from hypersign.report.document import write

__all__ = ["write"]
