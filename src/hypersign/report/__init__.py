"""The report: results and charts as one self-contained HTML page."""

from hypersign.report.comparison import write_comparison
from hypersign.report.document import write
from hypersign.report.pictures import Filters, Pictures, Sample, filters_of, samples_of
from hypersign.report.recurrence import write_over_time

__all__ = [
    "Filters",
    "Pictures",
    "Sample",
    "filters_of",
    "samples_of",
    "write",
    "write_comparison",
    "write_over_time",
]
