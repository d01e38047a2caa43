"""Bars by category: the base's, and below it each tuned model's with the interval of its change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aftertune.report._charts import Series
from aftertune.report._interval import Interval, draw_interval
from aftertune.report._legend import legend
from aftertune.report._svg import Canvas, Scale, span, tick_text, ticks
from aftertune.report._text import number
from aftertune.stats import Finding


@dataclass(frozen=True)
class _Layout:
    """Names beside the bars on a wide screen, above them on a phone."""

    width: float
    left: float
    right: float
    head: float
    columns: int

    @property
    def stacked(self) -> bool:
        return self.width < 600


_WIDE = _Layout(width=920, left=210, right=760, head=8, columns=26)
_NARROW = _Layout(width=360, left=4, right=342, head=24, columns=44)

_BASE, _TUNED = 10.0, 18.0


def bars_chart(series: Sequence[Series], groups: Sequence[str], *, name: str, title: str, narrow: bool = False) -> str:
    """Base and tuned values by group as bars from zero; the difference's interval lies around the tuned one's end.

    Args:
        series: the models, all on one metric.
        groups: which groups, in this order.
        name: unique within the page.
        title: what is drawn.
        narrow: lay it out for a phone.

    Returns:
        An ``<svg>`` element, or "" where there is nothing to draw.
    """
    members = [(group, [(one, f) for one in series if (f := one.groups.get(group))]) for group in groups]
    members = [(group, found) for group, found in members if found]
    if not members:
        return ""
    layout = _NARROW if narrow else _WIDE
    findings = [f for _, found in members for _, f in found]
    canvas = Canvas(name, layout.width, title, _description(members))
    top = legend(canvas, series, base=True) + 12
    ends = [v for f in findings for v in (f.base, f.tuned, f.base + f.interval[0], f.base + f.interval[1])]
    scale = Scale(*span(ends), layout.left, layout.right)
    heights = [layout.head + len(found) * (_BASE + _TUNED) + 8 for _, found in members]
    bottom = top + sum(heights)
    marks = ticks(scale.low, scale.high, 4 if layout.stacked else 6)
    for tick in marks:
        canvas.text(scale(tick), bottom + 18, tick_text(tick), "axis", anchor="middle")
    y = top
    for (group, found), height in zip(members, heights, strict=True):
        canvas.line(0, y, layout.width, y, "rule")
        canvas.text(0, y + (18 if layout.stacked else layout.head + 20), group, "label", columns=layout.columns)
        at = y + layout.head
        # Only beside the bars: on a phone the name stands above them.
        for tick in marks:
            canvas.line(scale(tick), at, scale(tick), y + height, "zero" if tick == 0 else "grid")
        for one, finding in found:
            _pair(canvas, scale, one, finding, at, layout)
            at += _BASE + _TUNED
        y += height
    return canvas.render(bottom + 26)


def _pair(canvas: Canvas, scale: Scale, one: Series, finding: Finding, y: float, layout: _Layout) -> None:
    """The base's bar, hollow, with its end marked; the tuned one's below, filled, with its interval."""
    _bar(canvas, scale, finding.base, y, _BASE, "bar-base")
    canvas.line(scale(finding.base), y, scale(finding.base), y + _BASE, "base-mark")
    middle = y + _BASE + _TUNED / 2
    _bar(canvas, scale, finding.tuned, middle - 5, 10, f"bar-tuned {one.css}")
    low, high = (finding.base + end for end in sorted(finding.interval))
    draw_interval(canvas, scale, Interval(low, finding.tuned, high, one.shape, one.css), middle)
    if not layout.stacked:
        moved = f"{number(finding.base)} → {number(finding.tuned)}"
        canvas.text(layout.width, middle, moved, "value", anchor="end")


def _bar(canvas: Canvas, scale: Scale, value: float, y: float, height: float, css: str) -> None:
    start, end = sorted((scale(0), scale(value)))
    canvas.box(start, y, end - start, height, css)


def _description(members: Sequence[tuple[str, Sequence[tuple[Series, Finding]]]]) -> str:
    return " ".join(
        f"{group}, {one.label}: {number(f.base)} to {number(f.tuned)}." for group, found in members for one, f in found
    )
