"""The forest plot: every metric's worsening in multiples of its own margin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from aftertune.report._interval import Interval, draw_interval
from aftertune.report._svg import Canvas, Scale, Shape
from aftertune.report._text import decision_word, number, unit, with_interval, worsening
from aftertune.stats import Finding, Worsening, describe
from aftertune.tasks import TASKS

# What lies further off than this many margins is clipped; near zero matters more.
_MOST = 6.0
_LEAST = -4.0

_SHAPES: dict[str, Shape] = {"pass": "circle", "fail": "diamond", "inconclusive": "triangle", "not testable": "circle"}


@dataclass(frozen=True)
class _Layout:
    """Where things stand: beside the plot on a wide screen, above and below it on a phone."""

    width: float
    left: float
    right: float
    row: float
    middle: float
    columns: int

    @property
    def stacked(self) -> bool:
        return self.width < 600


_WIDE = _Layout(width=920, left=240, right=588, row=46, middle=21, columns=32)
_NARROW = _Layout(width=360, left=18, right=338, row=82, middle=35, columns=30)

_HEAD = 30.0
_GROUP = 30.0


@dataclass(frozen=True)
class _Row:
    finding: Finding
    worse: Worsening | None

    @property
    def css(self) -> str:
        return f"mark-{self.finding.decision.replace(' ', '-')}" if self.finding.decides else "mark-informing"

    def ratio(self, value: float) -> float:
        return value / self.finding.margin


def forest_plot(
    findings: Sequence[Finding], *, name: str, title: str, narrow: bool = False, beside: Sequence[Finding] = ()
) -> str:
    """One row per top-level metric, deciding ones first; right is worse, 1 is the margin.

    Args:
        findings: of one comparison; breakdowns are left out.
        name: unique within the page.
        title: what the tuned model is called.
        narrow: lay it out for a phone.
        beside: findings of the plots next to it, so that all share one axis.

    Returns:
        An ``<svg>`` element, or "" where there is no metric.
    """
    rows = _rows(findings)
    if not rows:
        return ""
    layout = _NARROW if narrow else _WIDE
    groups = [("Deciding metrics", [r for r in rows if r.finding.decides])]
    groups.append(("Informing metrics", [r for r in rows if not r.finding.decides]))
    shown = [(heading, members) for heading, members in groups if members]
    canvas = Canvas(name, layout.width, f"{title}: worsening against the margin", _description(rows))
    scale = _scale([*rows, *_rows(beside)], layout)
    bottom = _HEAD + sum(_GROUP + layout.row * len(members) for _, members in shown)
    _signposts(canvas, scale)
    if not layout.stacked:
        _backdrop(canvas, scale, _HEAD, bottom)
    y = _HEAD
    for heading, members in shown:
        canvas.text(0, y + 20, heading, "group")
        y += _GROUP
        for row in members:
            canvas.line(0, y, layout.width, y, "rule")
            _draw(canvas, layout, scale, row, y)
            y += layout.row
    _axis(canvas, scale, bottom)
    return canvas.render(bottom + 26)


def _rows(findings: Sequence[Finding]) -> list[_Row]:
    rows = []
    for finding in findings:
        if "/" not in finding.metric:
            usable = math.isfinite(finding.margin) and finding.margin > 0
            rows.append(_Row(finding, worsening(finding) if usable else None))
    return rows


def _description(rows: Sequence[_Row]) -> str:
    intro = "Each row is a metric; right is worse; the line at 1 is its margin."
    return " ".join([intro, *(f"{describe(row.finding)}." for row in rows)])


def _scale(rows: Sequence[_Row], layout: _Layout) -> Scale:
    ends = [row.ratio(end) for row in rows if row.worse for end in (row.worse.low, row.worse.high)]
    low = max(_LEAST, min([-1.0, *ends]) - 0.15)
    high = min(_MOST, max([2.0, *ends]) + 0.15)
    return Scale(low, high, layout.left, layout.right)


def _signposts(canvas: Canvas, scale: Scale) -> None:
    canvas.text(scale(0) - 8, 20, "← better", "axis", anchor="end")
    canvas.text(scale(1) + 8, 20, "worse than the margin →", "axis", columns=30)


def _backdrop(canvas: Canvas, scale: Scale, top: float, bottom: float) -> None:
    """The zone beyond the margin, the zero line and the margin line."""
    canvas.box(scale(1), top, scale.end - scale(1), bottom - top, "zone")
    canvas.line(scale(0), top, scale(0), bottom, "zero")
    canvas.line(scale(1), top, scale(1), bottom, "margin-line")


def _axis(canvas: Canvas, scale: Scale, bottom: float) -> None:
    canvas.line(scale.start, bottom, scale.end, bottom, "rule")
    for tick in range(math.ceil(scale.low), math.floor(scale.high) + 1):
        label = {0: "0", 1: "margin"}.get(tick, f"{number(tick).removesuffix('.000')}×")
        if tick == 2 and scale(2) - scale(1) < 44:
            label = ""
        canvas.line(scale(tick), bottom, scale(tick), bottom + 4, "rule")
        canvas.text(scale(tick), bottom + 18, label, "axis", anchor="middle")


def _draw(canvas: Canvas, layout: _Layout, scale: Scale, row: _Row, y: float) -> None:
    """Name, interval, numbers and decision of one metric."""
    finding, middle = row.finding, y + layout.middle
    numbers = with_interval(row.worse) if row.worse else finding.note or "not measured"
    margin = f"margin {finding.margin:g} {unit(finding.metric)}"
    word = f"word {row.css}"
    if layout.stacked:
        canvas.text(0, y + 19, finding.metric, "label", columns=layout.columns)
        canvas.text(layout.width, y + 19, decision_word(finding), word, anchor="end")
        canvas.text(0, y + 69, numbers, "value", columns=30)
        canvas.text(layout.width, y + 69, margin, "unit", anchor="end", columns=26)
        middle += 6
        # Only behind the plot itself: text stands above and below it here.
        _backdrop(canvas, scale, middle - 13, middle + 13)
    else:
        task, dot, key = finding.metric.partition(".")
        # The names of tasks' metrics would reach into the plot.
        name, first = (key, f"{task}: ") if dot and task in TASKS else (finding.metric, "")
        canvas.text(0, middle - 1, name, "label", columns=layout.columns)
        canvas.text(0, middle + 15, f"{first}{finding.items} items, {finding.clusters} prompts", "unit", columns=44)
        canvas.text(layout.right + 18, middle - 1, numbers, "value", columns=28)
        canvas.text(layout.right + 18, middle + 15, margin, "unit", columns=30)
        canvas.text(layout.width, middle - 1, decision_word(finding), word, anchor="end")
    canvas.line(scale(1), middle - 9, scale(1), middle + 9, "margin-tick")
    if row.worse:
        _interval(canvas, scale, row, row.worse, middle)


def _interval(canvas: Canvas, scale: Scale, row: _Row, worse: Worsening, y: float) -> None:
    """Whisker and mark; a multiple of the margin where they leave the plot."""
    low, value, high = (row.ratio(v) for v in (worse.low, worse.value, worse.high))
    decision = row.finding.decision
    found = Interval(low, value, high, _SHAPES[decision], row.css, hollow=decision in ("inconclusive", "not testable"))
    draw_interval(canvas, scale, found, y, _multiple(value))


def _multiple(ratio: float) -> str:
    sign = "−" if ratio < 0 else ""
    return f"{sign}{abs(ratio):.0f}×" if abs(ratio) < 1000 else f"{sign}>999×"
