"""One self-contained HTML file, JUnit for machines, Markdown for job summaries."""

from aftertune.report._html import render_report
from aftertune.report._junit import render_junit
from aftertune.report._markdown import render_markdown
from aftertune.report._page import Chapter, ComparisonSection, Example, ReportPage, StudyPage
from aftertune.report._sections import (
    Claim,
    Effect,
    EffectRow,
    Effects,
    HeatMap,
    Outcome,
    Places,
    Section,
    Table,
    TradeOff,
    TradeOffLine,
    TradeOffPoint,
)
from aftertune.report._study import render_study

__all__ = [
    "Chapter",
    "Claim",
    "ComparisonSection",
    "Effect",
    "EffectRow",
    "Effects",
    "Example",
    "HeatMap",
    "Outcome",
    "Places",
    "ReportPage",
    "Section",
    "StudyPage",
    "Table",
    "TradeOff",
    "TradeOffLine",
    "TradeOffPoint",
    "render_junit",
    "render_markdown",
    "render_report",
    "render_study",
]
