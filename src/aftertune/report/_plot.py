"""The plot layer under all charts: axes, legends, intervals, labels beside points, lanes for a desk or a phone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aftertune.report._canvas import Anchor, Canvas, Scale, Shape, tick_text, ticks
from aftertune.report._text import columns_of, shorten

WIDE, NARROW = 920.0, 360.0

_SHAPES: tuple[Shape, ...] = ("circle", "square", "triangle", "diamond")
_COLOURS = 5
# About the width of a character: small, ordinary, and ordinary in bold.
SMALL, ORDINARY, BOLD = 6.6, 7.6, 8.3


def shape_of(place: int) -> Shape:
    """The mark of the thing with this number on the page."""
    return _SHAPES[place % len(_SHAPES)]


def colour_of(place: int) -> str:
    """The colour's class of the thing with this number on the page."""
    return f"series-{place % _COLOURS}"


@dataclass(frozen=True)
class Key:
    """What a mark stands for.

    Attributes:
        label: what the legend calls it.
        shape: the mark.
        css: its colour.
    """

    label: str
    shape: Shape
    css: str


def legend(canvas: Canvas, keys: Sequence[Key], *, base: bool = False) -> float:
    """Names every mark, on as many lines as it takes, and the tick of the base where asked; returns where it ends."""
    x, y = 6.0, 14.0
    if base:
        canvas.line(x, y - 8, x, y + 8, "base-mark")
        canvas.text(x + 10, y + 5, "base", "legend")
        x += 64
    for key in keys:
        label = shorten(key.label, 34)
        needed = 30 + ORDINARY * columns_of(label)
        if x + needed > canvas.width and x > 6:
            x, y = 6.0, y + 22
        canvas.mark(key.shape, x, y, f"mark {key.css}")
        canvas.text(x + 12, y + 5, label, "legend")
        x += needed
    return y + 12


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval.

    Attributes:
        value: the estimate.
        ends: of the interval; None where there is none to draw.
        shape: of the estimate's mark.
        css: classes of whisker and mark.
        hollow: draw the mark as an outline.
        beyond: what to write beside the mark of a value outside the plot.
    """

    value: float
    ends: tuple[float, float] | None
    shape: Shape
    css: str
    hollow: bool = False
    beyond: str = ""


def draw_interval(canvas: Canvas, scale: Scale, found: Interval, y: float) -> None:
    """Whisker and mark; an arrow where either leaves the plot."""
    mark = f"mark {found.css}"
    low, high = sorted(found.ends or (found.value, found.value))
    x, left, right = scale(found.value), scale(low), scale(high)
    if found.value > scale.high:
        x = scale.end - 24
        left = min(left, x)
        _text(canvas, left - 11, y + 4, found.beyond, f"multiple {found.css}", anchor="end")
    elif found.value < scale.low:
        x = scale.start + 24
        right = max(right, x)
        _text(canvas, right + 11, y + 4, found.beyond, f"multiple {found.css}")
    if found.ends:
        canvas.line(left, y, right, y, f"whisker {found.css}")
        for at, end in ((left, low), (right, high)):
            if scale.low <= end <= scale.high:
                canvas.line(at, y - 4, at, y + 4, f"whisker {found.css}")
    if low < scale.low:
        canvas.arrow(scale.start, y, "left", mark)
    if high > scale.high:
        canvas.arrow(scale.end, y, "right", mark)
    canvas.mark(found.shape, x, y, f"{mark} hollow" if found.hollow else mark)


@dataclass(frozen=True)
class Axis:
    """The horizontal axis of lanes.

    Attributes:
        low: its left end.
        high: its right end.
        marks: values with what is written under them; None for round numbers.
        sides: what to write above the plot, left of 0 and right of 0 (or of the limit).
        limit: from here on the plot is shaded: more than is tolerated.
        title: what the numbers are, written under them.
    """

    low: float
    high: float
    marks: tuple[tuple[float, str], ...] | None = None
    sides: tuple[str, str] = ("", "")
    limit: float | None = None
    title: str = ""


@dataclass(frozen=True)
class Columns:
    """Where the parts of a lane stand: names and numbers beside the plot, or above and below it on a phone.

    Attributes:
        width: of the drawing.
        left: where the plot begins.
        right: where it ends.
        stacked: whether names stand above the plot, and numbers below it.
    """

    width: float
    left: float
    right: float
    stacked: bool = False


STACKED = Columns(NARROW, 18, 342, stacked=True)


@dataclass(frozen=True)
class Lane:
    """One row of a chart.

    Attributes:
        found: what to draw in the plot; None for nothing.
        label: names the row ("" where the row above names it).
        small: a second line under the name, where there is room.
        value: its numbers.
        aside: a second line of numbers.
        word: the outcome, in the colour of the mark.
        base: the value before: a tick, and a bar from there to the mark.
        heading: of the rows from here on.
        first: whether a rule separates it from the row above.
        quiet: whether the name is set in regular weight.
    """

    found: Interval | None
    label: str = ""
    small: str = ""
    value: str = ""
    aside: str = ""
    word: str = ""
    css: str = ""
    base: float | None = None
    heading: str = ""
    first: bool = True
    quiet: bool = False

    def above(self, stacked: bool) -> float:
        """Room over the plot's band: for the heading, and for the name where that stands on top."""
        gap = 24.0 if stacked and (self.label or self.word) else 6.0 if self.first else 0.0
        return gap + (30.0 if self.heading else 0.0)

    def below(self, stacked: bool) -> float:
        """Room under the plot's band: for the numbers."""
        return 24.0 if stacked and self.aside else 6.0 if stacked else 0.0

    def band(self, stacked: bool) -> float:
        """Height of the plot's band."""
        return 24.0 if stacked or not (self.small or self.aside) else 40.0


def draw_lanes(
    canvas: Canvas, rows: Sequence[Lane], axis: Axis, columns: Columns, keys: Sequence[Key] = (), *, base: bool = False
) -> str:
    """Rows on one axis, each with an interval.

    Args:
        canvas: to draw on; as wide as the columns say.
        rows: from top to bottom.
        axis: that they share.
        columns: where names and numbers stand.
        keys: of the legend.
        base: whether the legend names the base's tick.

    Returns:
        An ``<svg>`` element.
    """
    scale = Scale(axis.low, axis.high, columns.left, columns.right)
    top = legend(canvas, keys, base=base) if keys or base else 0.0
    if any(axis.sides):
        top += 24
        _sides(canvas, scale, axis, top - 8)
    heights = [row.above(columns.stacked) + row.band(columns.stacked) + row.below(columns.stacked) for row in rows]
    bottom = top + sum(heights) + 4
    marks = axis.marks
    if marks is None:
        marks = tuple((tick, tick_text(tick)) for tick in ticks(axis.low, axis.high, 4 if columns.width < 600 else 6))
    if not columns.stacked:
        _backdrop(canvas, scale, axis, marks, top, bottom)
    y = top
    for row, height in zip(rows, heights, strict=True):
        band = row.band(columns.stacked)
        middle = y + row.above(columns.stacked) + band / 2
        if columns.stacked:  # behind the plot itself alone: text stands above and below it
            _backdrop(canvas, scale, axis, marks, middle - band / 2, middle + band / 2)
        _lane(canvas, scale, row, columns, y, middle)
        y += height
    canvas.line(scale.start, bottom, scale.end, bottom, "rule")
    x_ticks(canvas, scale, marks, bottom)
    if axis.title:
        # At the right end, so that a long one reaches under the names and not out of the picture.
        canvas.text(columns.right, bottom + 38, axis.title, "axis", anchor="end", columns=int(columns.right / SMALL))
    return canvas.render(bottom + (46 if axis.title else 26))


def x_ticks(canvas: Canvas, scale: Scale, marks: Sequence[tuple[float, str]], bottom: float) -> None:
    """What is written under a horizontal axis; what would stand on its neighbour is left out."""
    free = -1e9
    for tick, text in marks:
        half = 0.5 * SMALL * columns_of(text)
        # The ends of the drawing cut off what lies beyond them.
        x = min(max(scale(tick), half), canvas.width - half)
        if text and x - half > free:
            canvas.text(x, bottom + 18, text, "axis", anchor="middle")
            free = x + half + 4


def _sides(canvas: Canvas, scale: Scale, axis: Axis, y: float) -> None:
    """Says what lies left and right of 0, the left one only where there is room for both."""
    left, right = axis.sides
    start = scale(0 if axis.limit is None else axis.limit) + 8
    # One that would be cut off at the end moves to the left.
    start = min(start, canvas.width - SMALL * columns_of(right))
    _text(canvas, start, y, right, "axis")
    if scale(0) - 8 >= SMALL * columns_of(left) and (not right or start > scale(0) - 8):
        _text(canvas, scale(0) - 8, y, left, "axis", anchor="end")


def _backdrop(
    canvas: Canvas, scale: Scale, axis: Axis, marks: Sequence[tuple[float, str]], top: float, bottom: float
) -> None:
    """Grid, zero line, and the zone beyond the limit."""
    if axis.limit is not None:
        canvas.box(scale(axis.limit), top, scale.end - scale(axis.limit), bottom - top, "zone")
    for tick, _ in marks:
        if tick != axis.limit:
            canvas.line(scale(tick), top, scale(tick), bottom, "zero" if tick == 0 else "grid")
    if axis.limit is not None:
        canvas.line(scale(axis.limit), top, scale(axis.limit), bottom, "limit-line")


def _lane(canvas: Canvas, scale: Scale, row: Lane, columns: Columns, y: float, middle: float) -> None:
    if row.heading:
        canvas.text(0, y + 20, row.heading, "group")
        y += 30
    if row.first:
        canvas.line(0, y, columns.width, y, "rule")
    name, word = "legend" if row.quiet else "label", f"word {row.css}"
    if columns.stacked:
        fitting = int((columns.width - BOLD * columns_of(row.word) - 8) / BOLD)
        _text(canvas, 0, y + 18, row.label, name, columns=fitting)
        _text(canvas, columns.width, y + 18, row.word, word, anchor="end")
        if row.aside:
            shown = shorten(row.value, 30)
            room = int((columns.width - ORDINARY * columns_of(shown)) / SMALL)
            _text(canvas, 0, middle + 29, shown, "value", columns=30)
            _text(canvas, columns.width, middle + 29, row.aside, "unit", anchor="end", columns=room)
    else:
        two = bool(row.small or row.aside)
        base_line = middle - 3 if two else middle + 4
        fitting = int(columns.left / (ORDINARY if row.quiet else BOLD))
        _text(canvas, 0, base_line, row.label, name, columns=fitting)
        _text(canvas, 0, middle + 13, row.small, "unit", columns=int(columns.left / SMALL) - 1)
        if row.word:  # numbers beside the plot, the word at the end
            _text(canvas, columns.right + 18, base_line, row.value, "value", columns=28)
            _text(canvas, columns.right + 18, middle + 13, row.aside, "unit", columns=34)
            _text(canvas, columns.width, base_line, row.word, word, anchor="end")
        else:
            _text(canvas, columns.width, base_line, row.value, "value", anchor="end", columns=28)
    if row.found and row.base is not None:
        start, end = scale(row.base), scale(row.found.value)
        canvas.line(start, middle, end, middle, f"move {row.found.css}")
        canvas.line(start, middle - 8, start, middle + 8, "base-mark")
    if row.found:
        draw_interval(canvas, scale, row.found, middle)


def _text(canvas: Canvas, x: float, y: float, text: str, css: str, anchor: Anchor = "start", columns: int = 60) -> None:
    """Text where there is any."""
    if text:
        canvas.text(x, y, text, css, anchor=anchor, columns=max(columns, 3))


class Labels:
    """Writes labels beside points, one after the other; one that finds no room is left out.

    Args:
        canvas: to write on.
        left: end of the plot.
        right: end of the plot.
        top: end of the plot.
        bottom: end of the plot.
    """

    def __init__(self, canvas: Canvas, left: float, right: float, top: float, bottom: float) -> None:
        self._canvas = canvas
        self._plot = (left, top, right, bottom)
        self._taken: list[tuple[float, float, float, float]] = []

    def keep_clear(self, x: float, y: float, radius: float) -> None:
        """Let no label stand within so much of a point."""
        self._taken.append((x - radius, y - radius, x + radius, y + radius))

    def write(self, x: float, y: float, text: str, columns: int = 28) -> bool:
        """Write a label beside a point, to the right if there is room; False where there is none at all."""
        text = shorten(text, columns)
        width = 6.9 * columns_of(text)
        spots: tuple[tuple[Anchor, float, float, float], ...] = (
            ("start", x + 11, y + 4, x + 11),
            ("end", x - 11, y + 4, x - 11 - width),
            ("start", x + 6, y + 20, x + 6),
            ("end", x - 6, y - 12, x - 6 - width),
            ("middle", x, y - 13, x - width / 2),
            ("middle", x, y + 21, x - width / 2),
        )
        for anchor, at, baseline, left in spots:
            box = (left, baseline - 11, left + width, baseline + 4)
            if self._free(box):
                self._taken.append(box)
                self._canvas.text(at, baseline, text, "note", anchor=anchor, columns=columns)
                return True
        return False

    def _free(self, box: tuple[float, float, float, float]) -> bool:
        left, top, right, bottom = box
        if left < self._plot[0] or top < self._plot[1] or right > self._plot[2] or bottom > self._plot[3]:
            return False
        return not any(left < end and start < right and top < b and t < bottom for start, t, end, b in self._taken)
