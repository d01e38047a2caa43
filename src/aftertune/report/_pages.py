"""From a finished run's folder to what is read of it: its report as HTML, a summary in Markdown, JUnit for machines.

A verb is named once, in the table of builders below: a builder makes a page of a run folder, and what becomes of the
page is the same for all.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

from aftertune.errors import OutputError
from aftertune.report._audit_page import render_report
from aftertune.report._html import render_study
from aftertune.report._sections import Page, ReportPage, StudyPage
from aftertune.report._summaries import page_junit, page_markdown
from aftertune.runs import explain_damage, read_manifest, write_text

Builder = Callable[[Path], Page]

# Verb → module and function. Imported when a page is made: a builder may bring its whole verb along.
_BUILDERS = {
    "audit": "aftertune.report._audit_page:audit_page",
    "compare": "aftertune.report._audit_page:audit_page",
    "demo": "aftertune.report._pages_demo:demo_page",
    "locate": "aftertune.report._pages_locate:locate_page",
    "repair": "aftertune.report._pages_locate:repair_page",
    "study": "aftertune.report._pages_study:study_page",
}


def page_of(folder: Path) -> Page:
    """The page of a finished run.

    Args:
        folder: the run folder.

    Raises:
        OutputError: it holds no finished run, is damaged, or is of a verb that has no report.
    """
    verb = str(read_manifest(folder)["verb"])
    path = _BUILDERS.get(verb.partition(" ")[0])
    if path is None:
        known = ", ".join(_BUILDERS)
        raise OutputError(f"{folder}: is a run of `{verb}`, which has no report; reports are of {known}")
    module, _, name = path.partition(":")
    builder: Builder = getattr(importlib.import_module(module), name)
    with explain_damage(folder):
        return builder(folder)


def render(page: Page) -> str:
    """A page as one HTML file; what its texts hold is shown as text."""
    return render_report(page) if isinstance(page, ReportPage) else render_study(page)


def write_report(folder: Path) -> Path:
    """Write ``report.html`` of a finished run anew, from what its folder holds; raises as `page_of` does."""
    page = page_of(folder)
    path = folder / "report.html"
    with explain_damage(folder):
        text = render(page)
    write_text(path, text)
    if read_manifest(folder)["verb"].startswith("study ") and isinstance(page, StudyPage):
        from aftertune.report._pages_study import write_study_figures

        write_study_figures(page, folder)
    return path


def summary(folder: Path, form: str) -> str:
    """What a finished run found, as "markdown" or "junit"; raises as `page_of` does."""
    page = page_of(folder)
    with explain_damage(folder):
        return page_junit(page) if form == "junit" else page_markdown(page)
