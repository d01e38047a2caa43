"""Charts of lanes: a comparison's metrics, models by domain, category or position, and a patch beside its controls."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from aftertune.report._canvas import Canvas, Shape, span, window
from aftertune.report._plot import STACKED, WIDE, Axis, Columns, Interval, Key, Lane, colour_of, draw_lanes, shape_of
from aftertune.report._sections import Effect, EffectRow, Effects, Table
from aftertune.report._text import (
    decision_word,
    label,
    number,
    signed,
    true_minus,
    unit,
    with_interval,
    with_unit,
    worsening,
)
from aftertune.stats import Finding, Worsening, base_metric, describe, find_metric, sampled_tasks

# Of more groups, the picture shows those that worsened most, the table all.
MOST_GROUPS = 24
# Multiples of the tolerance beyond which a value is cut off; near zero matters more.
_MOST, _LEAST = 6.0, -4.0

_DECISIONS: dict[str, Shape] = {
    "pass": "circle", "fail": "diamond", "inconclusive": "triangle", "not testable": "circle",
}  # fmt: skip


def forest_plot(
    findings: Sequence[Finding], *, name: str, title: str, narrow: bool = False, beside: Sequence[Finding] = ()
) -> str:
    """One row per top-level metric, deciding ones first, in multiples of its tolerance; right is worse.

    Args:
        findings: of one comparison; breakdowns are left out.
        name: unique within the page.
        title: what the tuned model is called.
        narrow: lay it out for a phone.
        beside: findings of the plots next to it, so that all share one axis.

    Returns:
        An ``<svg>`` element, or "" where there is no metric.
    """
    top = [f for f in findings if "/" not in f.metric]
    if not top:
        return ""
    columns = STACKED if narrow else Columns(WIDE, 284, 600)
    said = true_minus(" ".join(f"{describe(f)}." for f in top))
    canvas = Canvas(
        name, columns.width, f"{title}: worsening against what is tolerated",
        f"Each row is a metric; right is worse; the line at 1 is what is tolerated. {said}",
    )  # fmt: skip
    ends = [end / f.tolerance for f in (*top, *beside) if (w := _drawable(f)) for end in (w.low, w.high)]
    low, high = max(_LEAST, min([-1.0, *ends]) - 0.15), min(_MOST, max([2.0, *ends]) + 0.15)
    names = {0: "0", 1: "tolerance"}
    marks = tuple(
        (tick, names.get(tick, f"{tick}×".replace("-", "−"))) for tick in range(math.ceil(low), int(high) + 1)
    )
    axis = Axis(low, high, marks, ("← better", "worse than tolerated →"), limit=1.0)
    rows = []
    for heading, decides in (("Deciding metrics", True), ("Informing metrics", False)):
        members = [f for f in top if f.decides == decides]
        rows += [_metric_lane(f, "" if index else heading) for index, f in enumerate(members)]
    return draw_lanes(canvas, rows, axis, columns)


def _drawable(finding: Finding) -> Worsening | None:
    """How much worse, where that can be set against a tolerance."""
    usable = "/" not in finding.metric and math.isfinite(finding.tolerance) and finding.tolerance > 0
    return worsening(finding) if usable else None


def _metric_lane(finding: Finding, heading: str) -> Lane:
    """Name, interval, numbers and decision of one metric."""
    css = f"mark-{finding.decision.replace(' ', '-')}" if finding.decides else "mark-informing"
    worse, found = _drawable(finding), None
    if worse:
        value, *ends = (v / finding.tolerance for v in (worse.value, worse.low, worse.high))
        hollow = finding.decision in ("inconclusive", "not testable")
        shape = _DECISIONS[finding.decision]
        found = Interval(value, (ends[0], ends[1]), shape, css, hollow, _multiple(value))
    return Lane(
        found,
        label=label(finding.metric),
        small=f"{finding.metric}, {finding.clusters} prompts",
        value=with_interval(worse) if worse else finding.note or "not measured",
        aside=f"tolerance {with_unit(f'{finding.tolerance:g}', unit(finding.metric))}",
        word=decision_word(finding),
        css=css,
        heading=heading,
    )


def _multiple(ratio: float) -> str:
    sign = "−" if ratio < 0 else ""
    return f"{sign}{abs(ratio):.0f}×" if abs(ratio) < 1000 else f"{sign}>999×"


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
    groups: Mapping[str, Finding]

    @property
    def key(self) -> Key:
        """Its mark."""
        return Key(self.label, shape_of(self.place), colour_of(self.place))


def breakdown(findings: Iterable[Finding], metric: str, *, exact: bool = False) -> dict[str, Finding]:
    """The findings ``METRIC/GROUP`` by group; a user's set ``METRIC:STEM/GROUP`` names its stem too.

    Args:
        findings: of one comparison.
        metric: whose groups.
        exact: only of the metric by this very name, stem included.
    """
    groups: dict[str, Finding] = {}
    for finding in findings:
        head, separator, group = finding.metric.partition("/")
        if not separator or (head if exact else base_metric(head)) != metric or not _numeric(finding):
            continue
        stem = "" if exact else head.partition(":")[2]
        name = group.replace("_", " ") or "none"
        groups[f"{name} ({stem})" if stem else name] = finding
    return groups


def answer_shares(findings: Iterable[Finding]) -> dict[str, Finding]:
    """What became of sampled answers: the shares of every task, by a label, in the order of the table of tasks."""
    known = {f.metric: f for f in findings if f.items and _numeric(f)}
    tasks = {task: ms for task, ms in sampled_tasks(known).items() if any(m.id in known for m in ms)}
    shares: dict[str, Finding] = {}
    for task, metrics in tasks.items():
        for metric in metrics:
            if metric.id in known and metric.binary:
                name = metric.id.removeprefix(f"{task}.").replace("_", " ")
                shares[f"{name} ({task.replace('_', ' ')})" if len(tasks) > 1 else name] = known[metric.id]
    return shares


def worst_first(series: Sequence[Series]) -> list[str]:
    """All groups, the one that any model worsened most on top."""

    def worst(group: str) -> float:
        found = (worsening(one.groups[group]) for one in series if group in one.groups)
        return max((w.value for w in found if w), default=-math.inf)

    return sorted(groups_of(series), key=worst, reverse=True)


def groups_of(series: Sequence[Series]) -> list[str]:
    """All groups in order of first appearance."""
    return list(dict.fromkeys(group for one in series for group in one.groups))


def groups_chart(
    series: Sequence[Series], groups: Sequence[str], *, name: str, title: str, about: str = "",
    sides: tuple[str, str] = ("", ""), narrow: bool = False,
) -> str:  # fmt: skip
    """Base and tuned values by group; the whisker is the interval of the change, set around the tuned value.

    Nothing is drawn beyond the ends of the values' unit, and no whisker where one prompt alone was asked: it would
    reach over the whole plot and say nothing.

    Args:
        series: the models, all on one metric or on one unit.
        groups: which groups, from top to bottom.
        name: unique within the page.
        title: what is drawn.
        about: what the numbers are, written under the axis.
        sides: what lies left and right of 0.
        narrow: lay it out for a phone.

    Returns:
        An ``<svg>`` element, or "" where there is nothing to draw.
    """
    members = [(group, one, f) for group in groups for one in series if (f := one.groups.get(group))]
    if not members:
        return ""
    bounds = _bounds([f for _, _, f in members])
    rows = [
        _group_lane(group, one, f, bounds, first=one is next(o for o in series if group in o.groups))
        for group, one, f in members
    ]
    ends = [v for row in rows if row.found for v in (row.found.value, row.base or 0.0, *(row.found.ends or ()))]
    columns = STACKED if narrow else Columns(WIDE, 210, 730)
    said = " ".join(f"{group}, {one.label}: {number(f.base)} to {number(f.tuned)}." for group, one, f in members)
    canvas = Canvas(name, columns.width, title, said)
    axis = Axis(*span(ends, bounds=bounds), sides=sides, title=about)
    return draw_lanes(canvas, rows, axis, columns, [one.key for one in series], base=True)


def _group_lane(
    group: str, one: Series, finding: Finding, bounds: tuple[float, float] | None, *, first: bool
) -> Lane:  # fmt: skip
    low, high = (finding.base + end for end in sorted(finding.interval))
    if bounds:
        low, high = max(low, bounds[0]), min(high, bounds[1])
    ends = (low, high) if finding.clusters > 1 else None
    return Lane(
        Interval(finding.tuned, ends, one.key.shape, one.key.css),
        label=group if first else "",
        value=f"{number(finding.base)} → {number(finding.tuned)}",
        base=finding.base,
        first=first,
    )


def _bounds(findings: Sequence[Finding]) -> tuple[float, float] | None:
    """Ends of the unit, where all findings have the same ones and keep to them."""
    metrics = [find_metric(f.metric) for f in findings]
    ends = {metric.bounds if metric else None for metric in metrics}
    bounds = ends.pop() if len(ends) == 1 else None
    inside = bounds and all(bounds[0] <= v <= bounds[1] for f in findings for v in (f.base, f.tuned))
    return bounds if inside else None


def _numeric(finding: Finding) -> bool:
    return all(map(math.isfinite, (finding.base, finding.tuned, *finding.interval)))


_WORSE = {"higher": " Higher is worse.", "lower": " Lower is worse.", "either": " Either direction is worse."}


def effect_forest(row: EffectRow, places: Mapping[str, int], *, name: str, narrow: bool = False) -> str:
    """One lane per edit: the difference from before with its interval; 0 is "before".

    Args:
        row: what to draw.
        places: label → number, so that an edit keeps its mark from measure to measure.
        name: unique within the page.
        narrow: lay it out for a phone.

    Returns:
        An ``<svg>`` element, or "" where no edit has numbers.
    """
    drawn = [e for e in row.effects if all(map(math.isfinite, (e.difference, *e.interval)))]
    if not drawn:
        return ""
    width = 360.0 if narrow else 470.0
    canvas = Canvas(name, width, f"{row.measure}: change from before", _describe_effects(row))
    ends = [v for e in drawn for v in (e.difference, *e.interval)]
    leading = [v for e in drawn if e.emphasis for v in (e.difference, *e.interval)]
    sides = {"higher": ("", "worse →"), "lower": ("← worse", "")}.get(row.worse or "", ("", ""))
    lanes = [_effect_lane(e, places[e.label], drawable=e in drawn) for e in row.effects]
    return draw_lanes(canvas, lanes, Axis(*window(ends, leading), sides=sides), Columns(width, 114, width - 64))


def _effect_lane(effect: Effect, place: int, *, drawable: bool) -> Lane:
    css = "series-0" if effect.emphasis else "mark-informing"
    low, high = sorted(effect.interval)
    return Lane(
        Interval(effect.difference, (low, high), shape_of(place), css, not effect.emphasis) if drawable else None,
        label=effect.label,
        value=signed(effect.difference),
        quiet=not effect.emphasis,
        first=False,
    )


def _describe_effects(row: EffectRow) -> str:
    said = [f"{e.label} {_change(e)}" for e in row.effects]
    worse = _WORSE.get(row.worse or "", "")
    return f"Before: {with_unit(number(row.before), row.unit)}.{worse} Change: {'; '.join(said)}."


def effects_table(section: Effects) -> Table:
    """Every number."""
    rows = [
        (row.measure, e.label, number(row.before), number(e.after), _change(e), row.unit)
        for row in section.rows
        for e in row.effects
    ]
    header = ("Measure", "Edit", "Before", "After", "Difference [interval]", "Unit")
    return Table(section.title, "", header, tuple(rows), frozenset({2, 3, 4}))


def edit_places(rows: Sequence[EffectRow]) -> dict[str, int]:
    """Marks by label: the edit under test takes the first."""
    effects = sorted((e for row in rows for e in row.effects), key=lambda e: not e.emphasis)
    return {name: place for place, name in enumerate(dict.fromkeys(e.label for e in effects))}


def _change(effect: Effect) -> str:
    low, high = effect.interval
    return f"{signed(effect.difference)} [{signed(low)}, {signed(high)}]"
