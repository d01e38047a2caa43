"""One self-contained HTML file, and JUnit for machines."""

from aftertune.report._html import render_report
from aftertune.report._junit import render_junit
from aftertune.report._page import ComparisonSection, Example, ReportPage

__all__ = ["ComparisonSection", "Example", "ReportPage", "render_junit", "render_report"]
