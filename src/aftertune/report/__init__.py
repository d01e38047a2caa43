"""One self-contained HTML file, JUnit for machines, Markdown for job summaries."""

from aftertune.report._answers import AnswerSide, Change, SampledAnswer, SampledAnswers, fit_answers
from aftertune.report._categories import leading_metrics
from aftertune.report._html import render_report
from aftertune.report._judges import JudgeAgreement
from aftertune.report._junit import render_junit
from aftertune.report._markdown import render_markdown
from aftertune.report._page import Chapter, ComparisonSection, Example, ReportPage, StudyPage
from aftertune.report._sections import (
    OUTCOMES,
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
    "OUTCOMES",
    "AnswerSide",
    "Change",
    "Chapter",
    "Claim",
    "ComparisonSection",
    "Effect",
    "EffectRow",
    "Effects",
    "Example",
    "HeatMap",
    "JudgeAgreement",
    "Outcome",
    "Places",
    "ReportPage",
    "SampledAnswer",
    "SampledAnswers",
    "Section",
    "StudyPage",
    "Table",
    "TradeOff",
    "TradeOffLine",
    "TradeOffPoint",
    "fit_answers",
    "leading_metrics",
    "render_junit",
    "render_markdown",
    "render_report",
    "render_study",
]
