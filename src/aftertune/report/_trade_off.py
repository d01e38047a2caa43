"""The trade-off chart: harm removed against benign cost, one line for the patch and quiet ones for its controls."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from aftertune.report._labels import Labels
from aftertune.report._legend import colour_of, legend, shape_of
from aftertune.report._plane import Plane
from aftertune.report._sections import Table, TradeOff, TradeOffPoint
from aftertune.report._svg import Canvas, Scale, Shape, tick_text, ticks, window
from aftertune.report._text import number, with_unit


@dataclass(frozen=True)
class _Line:
    """A line with its mark; controls are hollow and thin."""

    label: str
    place: int
    points: tuple[TradeOffPoint, ...]
    emphasis: bool

    @property
    def shape(self) -> Shape:
        return shape_of(self.place)

    @property
    def css(self) -> str:
        return colour_of(self.place) if self.emphasis else f"{colour_of(self.place)} hollow"

    @property
    def finite(self) -> list[TradeOffPoint]:
        return [p for p in self.points if _finite(p)]

    def standing(self, plane: Plane) -> list[TradeOffPoint]:
        """Points to mark: of those that follow one another beyond the same side, the first tells enough."""
        sides = [plane.beyond((point.x, point.y)) for point in self.finite]
        return [
            p for p, here, before in zip(self.finite, sides, [(), *sides], strict=False) if not here or here != before
        ]


def trade_off_chart(section: TradeOff, *, name: str, narrow: bool = False) -> str:
    """The lines, the budget as a dashed line, and arrows for what lies outside.

    Args:
        section: what to draw.
        name: unique within the page.
        narrow: lay it out for a phone.

    Returns:
        An ``<svg>`` element, or "" where no point has both numbers.
    """
    lines = _lines(section)
    if not any(line.finite for line in lines):
        return ""
    canvas = Canvas(name, 360 if narrow else 920, section.title, describe_trade_off(section))
    top = legend(canvas, lines) + 38
    bottom = top + (270 if narrow else 360)
    plane = _plane(lines, _budget(section), (44, canvas.width - 8), (bottom, top))
    _axes(canvas, plane, section, ticks_across=4 if narrow else 8)
    # Emphasised lines come last, on top of their controls.
    for line in reversed(lines):
        _curve(canvas, plane, line)
    outside = any(plane.beyond((point.x, point.y)) for line in lines for point in line.finite)
    _notes(canvas, plane, section, lines)
    if outside:
        canvas.text(canvas.width - 8, bottom + 62, "arrows: beyond the plot, see the table", "axis", anchor="end")
    return canvas.render(bottom + (70 if outside else 50))


def describe_trade_off(section: TradeOff) -> str:
    """The main numbers in words: what each line removes at most, and what it removes within the budget."""
    sentences = [f"{section.y_label} against {section.x_label}."]
    budget = _budget(section)
    if budget is not None:
        sentences.append(f"The budget is {with_unit(number(budget), section.x_unit)}.")
    for line in _lines(section):
        best, within = _best(line), _best(line, budget)
        if best is None:
            sentences.append(f"{line.label}: no numbers.")
            continue
        text = f"{line.label}, {len(line.finite)} point{'s' * (len(line.finite) != 1)}: at most {_said(best)}"
        if budget is not None:
            text += "; within the budget " + ("the same" if within is best else _said(within) if within else "none")
        sentences.append(f"{text}.")
    return " ".join(sentences)


def trade_off_table(section: TradeOff) -> Table:
    """Every point."""
    header = ("", with_unit(section.x_label, section.x_unit, ", "), with_unit(section.y_label, section.y_unit, ", "))
    rows = [(line.label, number(p.x), number(p.y), p.note) for line in section.lines for p in line.points]
    return Table(section.title, "", (*header, "Edit"), tuple(rows), frozenset({1, 2}))


def _lines(section: TradeOff) -> list[_Line]:
    """Emphasised ones first, so that the first colour and mark are theirs."""
    ordered = sorted(section.lines, key=lambda line: not line.emphasis)
    return [_Line(line.label, place, line.points, line.emphasis) for place, line in enumerate(ordered)]


def _finite(point: TradeOffPoint) -> bool:
    return math.isfinite(point.x) and math.isfinite(point.y)


def _budget(section: TradeOff) -> float | None:
    budget = section.budget
    return budget if budget is not None and math.isfinite(budget) and budget >= 0 else None


def _best(line: _Line, budget: float | None = None) -> TradeOffPoint | None:
    """The point that removes most, of those within the budget."""
    limit = math.inf if budget is None else budget
    return max((p for p in line.finite if p.x <= limit), key=lambda p: p.y, default=None)


def _said(point: TradeOffPoint) -> str:
    note = f" ({point.note})" if point.note else ""
    return f"{number(point.y)} at {number(point.x)}{note}"


def _plane(
    lines: Sequence[_Line], budget: float | None, across: tuple[float, float], upward: tuple[float, float]
) -> Plane:
    points = [p for line in lines for p in line.finite]
    leading = [p for line in lines if line.emphasis for p in line.finite]
    x = window([p.x for p in points], [p.x for p in leading], budget or None)
    # A point that paid far too much need not be seen, however much it removed.
    paid = [p for p in points if p.x <= x[1]] or points
    y = window([p.y for p in paid], [p.y for p in leading if p.x <= x[1]])
    return Plane(Scale(*x, *across), Scale(*y, *upward))


def _axes(canvas: Canvas, plane: Plane, section: TradeOff, ticks_across: int) -> None:
    left, right, bottom, top = plane.x.start, plane.x.end, plane.y.start, plane.y.end
    budget = _budget(section)
    if budget is not None:
        canvas.box(plane.x(budget), top, right - plane.x(budget), bottom - top, "zone")
    for tick in ticks(plane.x.low, plane.x.high, ticks_across):
        canvas.line(plane.x(tick), top, plane.x(tick), bottom, "zero" if tick == 0 else "grid")
        canvas.text(plane.x(tick), bottom + 18, tick_text(tick), "axis", anchor="middle")
    for tick in ticks(plane.y.low, plane.y.high, 6):
        canvas.line(left, plane.y(tick), right, plane.y(tick), "zero" if tick == 0 else "grid")
        canvas.text(left - 8, plane.y(tick) + 4, tick_text(tick), "axis", anchor="end", columns=7)
    columns = min(60, int(canvas.width / 7))
    canvas.text(0, top - 22, f"↑ {with_unit(section.y_label, section.y_unit, ', ')}", "axis", columns=columns)
    x_title = f"{with_unit(section.x_label, section.x_unit, ', ')} →"
    canvas.text(right, bottom + 40, x_title, "axis", anchor="end", columns=columns)
    if budget is not None:
        at = plane.x(budget)
        canvas.line(at, top - 4, at, bottom, "margin-line")
        middle = min(max(at, left + 48), right - 48)
        canvas.text(middle, top - 8, f"budget {tick_text(budget)}", "axis", anchor="middle", columns=20)


def _curve(canvas: Canvas, plane: Plane, line: _Line) -> None:
    """The joined points; one that lies outside stands at the edge with an arrow."""
    strong = " strong" if line.emphasis else ""
    for segment in _segments(plane, line):
        canvas.line(*segment, f"curve {colour_of(line.place)}{strong}")
    # A lone point is larger: it must show where it coincides with the end of a line.
    radius = 6.5 if line.emphasis else 5.0 if len(line.points) > 1 else 7.0
    for point in line.standing(plane):
        for x, y, side in plane.arrows((point.x, point.y)):
            canvas.arrow(x, y, side, f"mark {colour_of(line.place)}")
        canvas.mark(line.shape, *plane.mark((point.x, point.y)), f"mark {line.css}", radius)


def _notes(canvas: Canvas, plane: Plane, section: TradeOff, lines: Sequence[_Line]) -> None:
    """What the emphasised points are, the best within the budget first, as far as there is room."""
    labels = Labels(canvas, plane.x.start, plane.x.end, plane.y.end, plane.y.start)
    for line in lines:
        for point in line.standing(plane):
            labels.keep_clear(*plane.mark((point.x, point.y)), 8)
    for x, y in _strokes(plane, lines):
        labels.keep_clear(x, y, 2)
    for line in lines:
        if line.emphasis:
            shown = [p for p in line.finite if p.note and not plane.beyond((p.x, p.y))]
            best = _best(line, _budget(section))
            for point in sorted(shown, key=lambda p: p is not best):
                labels.place(plane.x(point.x), plane.y(point.y), point.note)


def _strokes(plane: Plane, lines: Sequence[_Line]) -> Iterator[tuple[float, float]]:
    """Places along every drawn segment, close enough that no label fits between them."""
    for line in lines:
        for x1, y1, x2, y2 in _segments(plane, line):
            steps = 1 + int(math.hypot(x2 - x1, y2 - y1) / 6)
            for step in range(steps + 1):
                yield x1 + (x2 - x1) * step / steps, y1 + (y2 - y1) * step / steps


def _segments(plane: Plane, line: _Line) -> Iterator[tuple[float, float, float, float]]:
    """The line from point to point, as far as it can be seen; broken where a point has no numbers."""
    for start, end in pairwise(line.points):
        if _finite(start) and _finite(end) and (cut := plane.cut((start.x, start.y), (end.x, end.y))):
            yield cut
