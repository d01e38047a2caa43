"""Charts in which the models of a report stand beside one another: by domain, and by token position."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from aftertune.report._legend import colour_of, legend, shape_of
from aftertune.report._svg import Canvas, Scale, Shape, span, tick_text, ticks
from aftertune.report._text import number, worsening
from aftertune.stats import Finding, base_metric
from aftertune.tasks import TASKS


@dataclass(frozen=True)
class Series:
    """One tuned model's findings on one metric, by group.

    Attributes:
        label: what the tuned model is called.
        place: its number on the page; colour and shape follow from it.
        groups: group → finding.
    """

    label: str
    place: int
    groups: dict[str, Finding]

    @property
    def shape(self) -> Shape:
        """Its mark."""
        return shape_of(self.place)

    @property
    def css(self) -> str:
        """Its colour."""
        return colour_of(self.place)


def breakdown(findings: Iterable[Finding], metric: str) -> dict[str, Finding]:
    """The findings ``METRIC/GROUP`` by group; a user's set ``METRIC:STEM/GROUP`` names its stem too."""
    groups: dict[str, Finding] = {}
    for finding in findings:
        head, separator, group = finding.metric.partition("/")
        numbers = (finding.base, finding.tuned, *finding.interval)
        if not separator or base_metric(head) != metric or not all(map(math.isfinite, numbers)):
            continue
        stem = head.partition(":")[2]
        label = group.replace("_", " ")
        groups[f"{label} ({stem})" if stem else label] = finding
    return groups


def answer_shares(findings: Iterable[Finding]) -> dict[str, Finding]:
    """What became of sampled answers: the shares of every task, by a label, in the order of the table of tasks."""
    known = {f.metric: f for f in findings if all(map(math.isfinite, (f.base, f.tuned, *f.interval)))}
    several = sum(any(m.id in known for m in row.metrics) for row in TASKS.values()) > 1
    shares: dict[str, Finding] = {}
    for task, row in TASKS.items():
        for metric in row.metrics:
            finding = known.get(metric.id)
            if finding is not None and finding.items and metric.binary:
                label = metric.id.removeprefix(f"{task}.").replace("_", " ")
                shares[f"{label} ({task.replace('_', ' ')})" if several else label] = finding
    return shares


def groups_of(series: Sequence[Series]) -> list[str]:
    """All groups in order of first appearance."""
    return list(dict.fromkeys(group for one in series for group in one.groups))


def worst_first(series: Sequence[Series]) -> list[str]:
    """All groups, the one that any model worsened most on top."""

    def worst(group: str) -> float:
        found = (worsening(one.groups[group]) for one in series if group in one.groups)
        return max((w.value for w in found if w), default=-math.inf)

    return sorted(groups_of(series), key=worst, reverse=True)


def _description(series: Sequence[Series], groups: Sequence[str]) -> str:
    sentences = []
    for group in groups:
        for one in series:
            if finding := one.groups.get(group):
                moved = f"{number(finding.base)} to {number(finding.tuned)}"
                sentences.append(f"{group}, {one.label}: {moved}.")
    return " ".join(sentences)


@dataclass(frozen=True)
class _Layout:
    width: float
    left: float
    right: float
    lane: float
    stacked: bool


_WIDE = _Layout(width=920, left=190, right=730, lane=22, stacked=False)
_NARROW = _Layout(width=360, left=18, right=342, lane=22, stacked=True)


def answers_chart(series: Sequence[Series], *, name: str, narrow: bool = False) -> str:
    """Shares of all sampled answers, base and tuned, the difference's interval around the tuned one.

    Args:
        series: the models, their groups from `answer_shares`.
        name: unique within the page.
        narrow: lay it out for a phone.

    Returns:
        An ``<svg>`` element, or "" where nothing was sampled.
    """
    title = "What became of the sampled answers, base and tuned"
    return _lanes_chart(series, groups_of(series), title, ("", ""), name, narrow=narrow)


def domain_chart(series: Sequence[Series], *, name: str, narrow: bool = False) -> str:
    """Base and tuned values of ``preference.margin`` by domain, the difference's interval around the tuned one.

    Args:
        series: the models, on the same metric.
        name: unique within the page.
        narrow: lay it out for a phone.

    Returns:
        An ``<svg>`` element, or "" where there is no breakdown.
    """
    sides = ("← prefers aligned", "prefers misaligned →")
    return _lanes_chart(series, worst_first(series), "Preference by domain, base and tuned", sides, name, narrow=narrow)


def _lanes_chart(
    series: Sequence[Series], groups: Sequence[str], title: str, sides: tuple[str, str], name: str, *, narrow: bool
) -> str:
    if not groups:
        return ""
    layout = _NARROW if narrow else _WIDE
    canvas = Canvas(name, layout.width, title, _description(series, groups))
    y = top = legend(canvas, series, base=True) + 22
    found = [f for one in series for f in one.groups.values()]
    ends = [v for f in found for v in (f.base, f.tuned, f.base + f.interval[0], f.base + f.interval[1])]
    scale = Scale(*span(ends), layout.left, layout.right)
    lanes = [sum(group in one.groups for one in series) for group in groups]
    head = 24.0 if layout.stacked else 8.0
    bottom = top + sum(head + 8 + layout.lane * n for n in lanes)
    _lanes_axis(canvas, scale, top, bottom, layout, sides)
    for group in groups:
        canvas.line(0, y, layout.width, y, "rule")
        label_y = y + 18 if layout.stacked else y + head + layout.lane / 2 + 4
        canvas.text(0, label_y, group, "label", columns=44 if layout.stacked else 24)
        y += head
        for one in series:
            if finding := one.groups.get(group):
                _lane(canvas, scale, one, finding, y + layout.lane / 2, layout)
                y += layout.lane
        y += 8
    return canvas.render(bottom + 26)


def _lanes_axis(
    canvas: Canvas, scale: Scale, top: float, bottom: float, layout: _Layout, sides: tuple[str, str]
) -> None:
    for tick in ticks(scale.low, scale.high, 4 if layout.stacked else 6):
        canvas.line(scale(tick), top, scale(tick), bottom, "grid")
        canvas.text(scale(tick), bottom + 18, tick_text(tick), "axis", anchor="middle")
    canvas.line(scale(0), top, scale(0), bottom, "zero")
    room = 120
    if scale(0) - scale.start > room:
        canvas.text(scale(0) - 8, top - 8, sides[0], "axis", anchor="end")
    if scale.end - scale(0) > room + 20:
        canvas.text(scale(0) + 8, top - 8, sides[1], "axis")


def _lane(canvas: Canvas, scale: Scale, one: Series, finding: Finding, y: float, layout: _Layout) -> None:
    base, tuned = scale(finding.base), scale(finding.tuned)
    low, high = (scale(finding.base + end) for end in finding.interval)
    canvas.line(base, y, tuned, y, f"move {one.css}")
    canvas.whisker(low, high, y, f"whisker {one.css}")
    canvas.line(base, y - 8, base, y + 8, "base-mark")
    canvas.mark(one.shape, tuned, y, f"mark {one.css}")
    if not layout.stacked:
        moved = f"{number(finding.base)} → {number(finding.tuned)}"
        canvas.text(layout.width, y + 4, moved, "value", anchor="end")


_DRIFT_WIDTH = 360.0


def drift_chart(series: Sequence[Series], *, name: str) -> str:
    """Divergence from the base by token position, with intervals.

    Args:
        series: the models, on ``drift.kl``.
        name: unique within the page.

    Returns:
        An ``<svg>`` element, or "" where there is no breakdown.
    """
    groups = groups_of(series)
    if not groups:
        return ""
    canvas = Canvas(name, _DRIFT_WIDTH, "Drift from the base by token position", _description(series, groups))
    top = legend(canvas, series) + 34
    bottom = top + 160
    left, right = 42.0, canvas.width
    tops = [v for one in series for f in one.groups.values() for v in (f.tuned, f.interval[1])]
    scale = Scale(0.0, max(span(tops)[1], 1e-9), bottom, top)
    canvas.text(0, top - 16, "KL divergence, nats per token", "axis")
    for tick in ticks(scale.low, scale.high, 4):
        canvas.line(left, scale(tick), right, scale(tick), "zero" if tick == 0 else "grid")
        canvas.text(left - 8, scale(tick) + 4, tick_text(tick), "axis", anchor="end")
    step = (right - left) / len(groups)
    for index, group in enumerate(groups):
        x = left + step * (index + 0.5)
        label = group.removeprefix("token ")
        canvas.text(x, bottom + 20, label, "axis", anchor="middle", columns=max(3, int(step / 7)))
        _drift_points(canvas, scale, series, group, x, min(16.0, step / (len(series) + 1)))
    canvas.text((left + right) / 2, bottom + 42, "position in the answer, tokens", "axis", anchor="middle")
    return canvas.render(bottom + 52)


def _drift_points(
    canvas: Canvas, scale: Scale, series: Sequence[Series], group: str, middle: float, gap: float
) -> None:
    """The models' values at one position, side by side so that none hides another."""
    for index, one in enumerate(series):
        if finding := one.groups.get(group):
            x = middle + (index - (len(series) - 1) / 2) * gap
            low, high = (scale(end) for end in finding.interval)
            canvas.line(x, scale(0), x, scale(finding.tuned), f"move {one.css}")
            canvas.line(x, low, x, high, f"whisker {one.css}")
            canvas.mark(one.shape, x, scale(finding.tuned), f"mark {one.css}", radius=5)
