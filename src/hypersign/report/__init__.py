"""The report: results and charts as one self-contained HTML page."""

from hypersign.report.comparison import write_comparison
from hypersign.report.document import write
from hypersign.report.pictures import Filters, Pictures, Sample, filters_of, samples_of

__all__ = ["Filters", "Pictures", "Sample", "filters_of", "samples_of", "write", "write_comparison"]
