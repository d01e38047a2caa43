"""The trade-off chart: harm removed against benign cost, one line for the patch and quiet ones for its controls."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

from aftertune.report._canvas import Canvas, Direction, Scale, tick_text, ticks, window
from aftertune.report._plot import NARROW, SMALL, WIDE, Key, Labels, colour_of, legend, shape_of, x_ticks
from aftertune.report._sections import Table, TradeOff, TradeOffPoint
from aftertune.report._text import number, with_unit, wrap

Point: TypeAlias = tuple[float, float]

# Room between the plot's edge and the mark of a point outside: its arrow stands there.
_RIM = 16.0
_OUTWARD: dict[Direction, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


@dataclass(frozen=True)
class _Plane:
    """Both scales; y grows upwards."""

    x: Scale
    y: Scale

    def beyond(self, point: Point) -> tuple[Direction, ...]:
        """On which sides of the plot a point lies; none if it lies within."""
        x, y = point
        sides: list[Direction] = []
        if not self.x.low <= x <= self.x.high:
            sides.append("right" if x > self.x.high else "left")
        if not self.y.low <= y <= self.y.high:
            sides.append("up" if y > self.y.high else "down")
        return tuple(sides)

    def mark(self, point: Point) -> Point:
        """Where a point's mark stands: at the edge, but for its arrow, if it lies outside."""
        x, y = self.x(point[0]), self.y(point[1])
        for side in self.beyond(point):
            dx, dy = _OUTWARD[side]
            x, y = x - _RIM * dx, y - _RIM * dy
        return x, y

    def arrows(self, point: Point) -> Iterator[tuple[float, float, Direction]]:
        """The arrows of a point that lies outside: their tips, and where they point to."""
        x, y = self.mark(point)
        for side in self.beyond(point):
            dx, dy = _OUTWARD[side]
            yield x + _RIM * dx, y + _RIM * dy, side

    def cut(self, start: Point, end: Point) -> tuple[float, float, float, float] | None:
        """The part of a segment within the plot, in coordinates; None if it passes by (Liang and Barsky)."""
        first, last = 0.0, 1.0
        pairs = ((start[0], end[0], self.x), (start[1], end[1], self.y))
        for here, there, scale in pairs:
            # In quarters: differences of huge values would not be finite.
            here, there, low, high = here / 4, there / 4, scale.low / 4, scale.high / 4
            run = there - here
            for room, direction in ((here - low, -run), (high - here, run)):
                if direction == 0 and room < 0:
                    return None
                if direction < 0:
                    first = max(first, room / direction)
                elif direction > 0:
                    last = min(last, room / direction)
        if first > last:
            return None
        x1, x2, y1, y2 = (
            scale(here * (1 - share) + there * share) for here, there, scale in pairs for share in (first, last)
        )
        return x1, y1, x2, y2


@dataclass(frozen=True)
class _Line:
    """A line with its mark; controls are hollow and thin."""

    label: str
    place: int
    points: tuple[TradeOffPoint, ...]
    emphasis: bool

    @property
    def key(self) -> Key:
        css = colour_of(self.place) if self.emphasis else f"{colour_of(self.place)} hollow"
        return Key(self.label, shape_of(self.place), css)

    @property
    def leading(self) -> bool:
        """Whether the axes must hold it: what the chart is about, and single points that it is set against."""
        return self.emphasis or len(self.points) == 1

    @property
    def finite(self) -> list[TradeOffPoint]:
        return [p for p in self.points if _finite(p)]

    def standing(self, plane: _Plane) -> list[TradeOffPoint]:
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
    canvas = Canvas(name, NARROW if narrow else WIDE, section.title, _describe(section))
    # A long title takes a second line on a phone.
    x_more, y_more = (
        14.0 * (len(wrap(title, min(60, int(canvas.width / SMALL)), 2)) - 1) for title in _titles(section)
    )
    top = legend(canvas, [line.key for line in lines]) + 38 + y_more
    bottom = top + (270 if narrow else 360)
    plane = _plane(lines, _budget(section), (44, canvas.width - 8), (bottom, top))
    _axes(canvas, plane, section, ticks_across=4 if narrow else 8)
    # Emphasised lines come last, on top of their controls.
    for line in reversed(lines):
        _curve(canvas, plane, line)
    outside = any(plane.beyond((point.x, point.y)) for line in lines for point in line.finite)
    _notes(canvas, plane, section, lines)
    if outside:
        said = "arrows: beyond the plot, see the table"
        canvas.text(canvas.width - 8, bottom + 62 + x_more, said, "axis", anchor="end")
    return canvas.render(bottom + (70 if outside else 50) + x_more)


def _titles(section: TradeOff) -> tuple[str, str]:
    """Of the horizontal and of the vertical axis."""
    x, y = with_unit(section.x_label, section.x_unit, ", "), with_unit(section.y_label, section.y_unit, ", ")
    return f"{x} →", f"↑ {y}"


def _describe(section: TradeOff) -> str:
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
) -> _Plane:
    """Both axes: they hold all that the chart is about, and of the controls what does not dwarf it.

    Where a budget says what matters, what costs several times as much is left to an arrow.
    """
    points = [p for line in lines for p in line.finite]
    leading = [p for line in lines if line.leading for p in line.finite]
    x = window([p.x for p in points], [p.x for p in leading], budget or None)
    # A point that paid far too much need not be seen, however much it removed.
    paid = [p for p in points if p.x <= x[1]] or points
    y = window([p.y for p in paid], [p.y for p in leading if p.x <= x[1]])
    return _Plane(Scale(*x, *across), Scale(*y, *upward))


def _axes(canvas: Canvas, plane: _Plane, section: TradeOff, ticks_across: int) -> None:
    left, right, bottom, top = plane.x.start, plane.x.end, plane.y.start, plane.y.end
    budget = _budget(section)
    if budget is not None:
        canvas.box(plane.x(budget), top, right - plane.x(budget), bottom - top, "zone")
    ends = (plane.x.low, plane.x.high)
    for tick in ticks(*ends, ticks_across):
        canvas.line(plane.x(tick), top, plane.x(tick), bottom, "zero" if tick == 0 else "grid")
    x_ticks(canvas, plane.x, [(tick, tick_text(tick)) for tick in ticks(*ends, ticks_across)], bottom)
    for tick in ticks(plane.y.low, plane.y.high, 6):
        canvas.line(left, plane.y(tick), right, plane.y(tick), "zero" if tick == 0 else "grid")
        canvas.text(left - 8, plane.y(tick) + 4, tick_text(tick), "axis", anchor="end", columns=7)
    columns = min(60, int(canvas.width / SMALL))
    canvas.lines(0, top - 22, _titles(section)[1], "axis", columns=columns, most=2)
    x_title = wrap(_titles(section)[0], columns, 2)
    for index, text in enumerate(x_title):
        canvas.text(right, bottom + 40 + 14 * index, text, "axis", anchor="end", columns=columns)
    if budget is not None:
        at = plane.x(budget)
        canvas.line(at, top - 4, at, bottom, "limit-line")
        middle = min(max(at, left + 48), right - 48)
        canvas.text(middle, top - 8, f"budget {tick_text(budget)}", "axis", anchor="middle", columns=20)


def _curve(canvas: Canvas, plane: _Plane, line: _Line) -> None:
    """The joined points; one that lies outside stands at the edge with an arrow."""
    strong = " strong" if line.emphasis else ""
    for segment in _segments(plane, line):
        canvas.line(*segment, f"curve {colour_of(line.place)}{strong}")
    # A lone point is larger: it must show where it coincides with the end of a line.
    radius = 6.5 if line.emphasis else 5.0 if len(line.points) > 1 else 7.0
    for point in line.standing(plane):
        for x, y, side in plane.arrows((point.x, point.y)):
            canvas.arrow(x, y, side, f"mark {colour_of(line.place)}")
        canvas.mark(line.key.shape, *plane.mark((point.x, point.y)), f"mark {line.key.css}", radius)


def _notes(canvas: Canvas, plane: _Plane, section: TradeOff, lines: Sequence[_Line]) -> None:
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
                labels.write(plane.x(point.x), plane.y(point.y), point.note)


def _strokes(plane: _Plane, lines: Sequence[_Line]) -> Iterator[tuple[float, float]]:
    """Places along every drawn segment, close enough that no label fits between them."""
    for line in lines:
        for x1, y1, x2, y2 in _segments(plane, line):
            steps = 1 + int(math.hypot(x2 - x1, y2 - y1) / 6)
            for step in range(steps + 1):
                yield x1 + (x2 - x1) * step / steps, y1 + (y2 - y1) * step / steps


def _segments(plane: _Plane, line: _Line) -> Iterator[tuple[float, float, float, float]]:
    """The line from point to point, as far as it can be seen; broken where a point has no numbers."""
    for start, end in pairwise(line.points):
        if _finite(start) and _finite(end) and (cut := plane.cut((start.x, start.y), (end.x, end.y))):
            yield cut
