"""Reports as HTML pages that stand alone: one run by itself, and several beside one another."""

from labelenc.reports.comparison import Comparison, write_comparison
from labelenc.reports.notes import RunResult, reading_notes
from labelenc.reports.page import Page
from labelenc.reports.run_folder import ReportError
from labelenc.reports.run_report import report_after_run, report_of_folder, write_run_report

__all__ = [
    "Comparison",
    "Page",
    "ReportError",
    "RunResult",
    "reading_notes",
    "report_after_run",
    "report_of_folder",
    "write_comparison",
    "write_run_report",
]
