"""The drawing step: the one door below the command line through which a verb reaches the reports."""

from __future__ import annotations

from pathlib import Path

from aftertune.stats import ComparisonSection


def draw(folder: Path) -> Path:
    """Write ``report.html`` of a finished run anew, from what its folder holds.

    Raises:
        OutputError: the folder holds no finished run, or a damaged one.
    """
    from aftertune.report import write_report

    return write_report(folder)


def junit(section: ComparisonSection) -> str:
    """A comparison as JUnit, for machines that know tests."""
    from aftertune.report import render_junit

    return render_junit(f"aftertune audit of {section.title}", section.findings, section.verdict, section.since)
