"""Small forests: what a patch and its controls did to one measure, on the measure's own scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from aftertune.report._interval import Interval, draw_interval
from aftertune.report._legend import shape_of
from aftertune.report._sections import Effect, EffectRow, Effects, Table
from aftertune.report._svg import Canvas, Scale, tick_text, ticks, window
from aftertune.report._text import number, signed

_WIDE, _NARROW = 470.0, 360.0
_LABELS, _VALUES = 114.0, 64.0
_TOP, _LANE = 24.0, 28.0
_WORSE = {"higher": " Higher is worse.", "lower": " Lower is worse.", "either": " Worse is either way."}


def effect_forest(row: EffectRow, places: Mapping[str, int], *, name: str, narrow: bool = False) -> str:
    """One lane per edit: the difference from before with its interval; 0 is "before".

    Args:
        row: what to draw.
        places: label → place, so that an edit keeps its mark from measure to measure.
        name: unique within the page.
        narrow: lay it out for a phone.

    Returns:
        An ``<svg>`` element, or "" where no edit has numbers.
    """
    drawn = [effect for effect in row.effects if _finite(effect)]
    if not drawn:
        return ""
    width = _NARROW if narrow else _WIDE
    canvas = Canvas(name, width, f"{row.measure}: change from before", describe_effects(row))
    ends = [end for effect in drawn for end in _numbers(effect)]
    leading = [end for effect in drawn if effect.emphasis for end in _numbers(effect)]
    scale = Scale(*window(ends, leading), _LABELS, width - _VALUES)
    bottom = _TOP + _LANE * len(row.effects)
    _axis(canvas, scale, row, bottom)
    for index, effect in enumerate(row.effects):
        y = _TOP + _LANE * (index + 0.5)
        label = "label" if effect.emphasis else "legend"
        canvas.text(0, y + 4, effect.label, label, columns=15)
        canvas.text(width, y + 4, signed(effect.difference), "value", anchor="end", columns=9)
        if _finite(effect):
            low, high = sorted(effect.interval)
            css = "series-0" if effect.emphasis else "mark-informing"
            shape = shape_of(places[effect.label])
            found = Interval(low, effect.difference, high, shape, css, hollow=not effect.emphasis)
            draw_interval(canvas, scale, found, y)
    return canvas.render(bottom + 26)


def describe_effects(row: EffectRow) -> str:
    """The measure before, and the change under every edit."""
    said = [f"{e.label} {_interval(e)}" for e in row.effects]
    unit = f" {row.unit}" if row.unit else ""
    worse = _WORSE.get(row.worse or "", "")
    return f"Before: {number(row.before)}{unit}.{worse} Change: {'; '.join(said)}."


def effects_table(section: Effects) -> Table:
    """Every number."""
    rows = [
        (row.measure, e.label, number(row.before), number(e.after), _interval(e), row.unit)
        for row in section.rows
        for e in row.effects
    ]
    header = ("Measure", "Edit", "Before", "After", "Difference [interval]", "Unit")
    return Table(section.title, "", header, tuple(rows), frozenset({2, 3, 4}))


def edit_places(rows: Sequence[EffectRow]) -> dict[str, int]:
    """Marks by label: the edit under test takes the first."""
    effects = sorted((e for row in rows for e in row.effects), key=lambda e: not e.emphasis)
    return {label: place for place, label in enumerate(dict.fromkeys(e.label for e in effects))}


def _numbers(effect: Effect) -> tuple[float, float, float]:
    return (effect.difference, *effect.interval)


def _finite(effect: Effect) -> bool:
    return all(map(math.isfinite, _numbers(effect)))


def _interval(effect: Effect) -> str:
    low, high = effect.interval
    return f"{signed(effect.difference)} [{signed(low)}, {signed(high)}]"


def _axis(canvas: Canvas, scale: Scale, row: EffectRow, bottom: float) -> None:
    """Ticks, the line of no change, and which way is worse."""
    canvas.line(scale.start, bottom, scale.end, bottom, "rule")
    for tick in ticks(scale.low, scale.high, 4):
        canvas.line(scale(tick), _TOP, scale(tick), bottom, "zero" if tick == 0 else "grid")
        canvas.text(scale(tick), bottom + 18, tick_text(tick), "axis", anchor="middle", columns=9)
    if row.worse == "higher":
        canvas.text(scale.end, _TOP - 8, "worse →", "axis", anchor="end")
    elif row.worse == "lower":
        canvas.text(scale.start, _TOP - 8, "← worse", "axis")
