"""One self-contained HTML file, JUnit for machines, Markdown for job summaries."""

from aftertune.report._audit_page import render_report
from aftertune.report._figures import figure_files, render_png, render_svg
from aftertune.report._html import render_study
from aftertune.report._maps import share_scales
from aftertune.report._pages import page_of, render, summary, write_report
from aftertune.report._pages_locate import locate_page, repair_page, repair_sections
from aftertune.report._results import OUTCOMES, Claim, Outcome
from aftertune.report._sections import (
    Chapter,
    Effect,
    EffectRow,
    Effects,
    HeatMap,
    Page,
    Places,
    ReportPage,
    Section,
    StudyPage,
    Table,
    TradeOff,
    TradeOffLine,
    TradeOffPoint,
)
from aftertune.report._summaries import render_junit, render_markdown
from aftertune.report._words import Explanation, Step, explain

__all__ = [
    "OUTCOMES",
    "Chapter",
    "Claim",
    "Effect",
    "EffectRow",
    "Effects",
    "Explanation",
    "HeatMap",
    "Outcome",
    "Page",
    "Places",
    "ReportPage",
    "Section",
    "Step",
    "StudyPage",
    "Table",
    "TradeOff",
    "TradeOffLine",
    "TradeOffPoint",
    "explain",
    "figure_files",
    "locate_page",
    "page_of",
    "render",
    "render_junit",
    "render_markdown",
    "render_png",
    "render_report",
    "render_study",
    "render_svg",
    "repair_page",
    "repair_sections",
    "share_scales",
    "summary",
    "write_report",
]
