"""The heat map: a matrix of numbers, each written in its cell."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from aftertune.report._sections import HeatMap, Table
from aftertune.report._shades import Shades, cell
from aftertune.report._svg import Canvas
from aftertune.report._text import compact, number, with_unit, wrap

_WIDE, _NARROW = 920.0, 360.0
_LEAST_CELL = 44.0
_ROW = 30.0
_HEAD_LINES = 3
# A description that lists more cells than this would tire rather than tell.
_MOST_IN_WORDS = 36


@dataclass(frozen=True)
class _Layout:
    """Row labels stand beside their cells on a wide screen, above them on a phone."""

    left: float
    cell: float
    narrow: bool

    @property
    def label(self) -> float:
        """Room above the cells of a row."""
        return 22.0 if self.narrow else 0.0

    @property
    def numbered(self) -> bool:
        """Whether columns are too slender for their labels."""
        return self.narrow and self.cell < 80


@dataclass(frozen=True)
class _Numbers:
    """How the values are coloured and written."""

    shades: Shades
    whole: bool

    @classmethod
    def of(cls, section: HeatMap) -> _Numbers:
        """A matrix of whole numbers is written without decimals."""
        values = [value for _, _, value in _cells(section)] or [0.0]
        whole = all(value == round(value) and abs(value) < 1e5 for value in values)
        return cls(Shades(min(values), max(values), section.diverging), whole)

    def write(self, value: float) -> str:
        """A value, short."""
        return f"{value:.0f}".replace("-", "−") if self.whole and math.isfinite(value) else compact(value)


def heat_map(section: HeatMap, *, name: str, narrow: bool = False) -> str:
    """Cells in colour with their numbers, marked ones outlined.

    Args:
        section: what to draw.
        name: unique within the page.
        narrow: lay it out for a phone.

    Returns:
        An ``<svg>`` element, or "" where there is no cell. With many columns it is wider than a page.
    """
    if not section.rows or not section.columns:
        return ""
    layout = _layout(len(section.columns), narrow)
    page = _NARROW if narrow else _WIDE
    width = max(page, layout.left + layout.cell * len(section.columns))
    canvas = Canvas(name, width, section.title, describe_heat_map(section), fixed=width > page)
    numbers = _Numbers.of(section)
    low, high = map(numbers.write, numbers.shades.ends)
    # Within what is seen before one scrolls.
    right = 0.8 * page if width > page else page
    numbers.shades.strip(canvas, low, high if narrow else with_unit(high, section.unit), right=right)
    y = _head(canvas, section, layout, 30)
    for row, label in enumerate(section.rows):
        if narrow:
            place = f"{row + 1} " if layout.numbered and section.rows == section.columns else ""
            canvas.text(0, y + 16, place + label, "legend", columns=48)
        else:
            canvas.text(layout.left - 10, y + 20, label, "legend", anchor="end", columns=25)
        y += layout.label
        _row(canvas, section, layout, numbers, row, y)
        y += _ROW
    return canvas.render(y + 4)


def describe_heat_map(section: HeatMap) -> str:
    """The values in words where they are few, else the greatest and the least."""
    cells = list(_cells(section))
    if not cells:
        return "No cell holds a number."
    said = [f"{row}, {column}: {number(value)}" for row, column, value in cells]
    empty = len(section.rows) * len(section.columns) - len(cells)
    tail = f" {empty} without a number." if empty else ""
    if len(cells) <= _MOST_IN_WORDS:
        return with_unit("Values", section.unit, " in ") + f". {'; '.join(said)}.{tail}"
    by_value = sorted(range(len(cells)), key=lambda index: cells[index][2])
    return (
        f"{len(section.rows)} rows, {len(section.columns)} columns{with_unit('', section.unit, ', in ')}. "
        f"Greatest: {said[by_value[-1]]}. Least: {said[by_value[0]]}.{tail}"
    )


def heat_map_table(section: HeatMap) -> Table:
    """The same matrix with its numbers in full."""
    corner = " / ".join(filter(None, (section.row_label, section.column_label)))
    rows = [
        (label, *("–" if value is None else number(value) for value in values))
        for label, values in zip(section.rows, section.values, strict=True)
    ]
    header = (with_unit(corner, section.unit, ", ") if corner else section.unit, *section.columns)
    return Table(section.title, "", header, tuple(rows), frozenset(range(1, len(header))))


def _layout(columns: int, narrow: bool) -> _Layout:
    left = 0.0 if narrow else 200.0
    room = (_NARROW if narrow else _WIDE) - left
    return _Layout(left, min(max(room / columns, _LEAST_CELL), 110.0), narrow)


def _cells(section: HeatMap) -> Iterator[tuple[str, str, float]]:
    for row, values in zip(section.rows, section.values, strict=True):
        for column, value in zip(section.columns, values, strict=True):
            if value is not None and math.isfinite(value):
                yield row, column, value


def _head(canvas: Canvas, section: HeatMap, layout: _Layout, y: float) -> float:
    """Labels of the columns; returns where the rows begin."""
    rows = f"{section.row_label} ↓" if section.row_label else ""
    columns = f"{section.column_label} →" if section.column_label else ""
    if layout.narrow:
        canvas.text(0, y + 4, ", ".join(filter(None, (rows, columns))), "axis", columns=52)
    else:
        canvas.text(layout.left, y + 4, columns, "axis", columns=60)
    if layout.numbered and section.rows != section.columns:
        for index, label in enumerate(section.columns):
            canvas.text(180 * (index % 2), y + 24 + 18 * (index // 2), f"{index + 1} {label}", "axis", columns=24)
        y += 18 * math.ceil(len(section.columns) / 2) + 6
    shown = [str(index + 1) if layout.numbered else label for index, label in enumerate(section.columns)]
    fitting = max(3, int((layout.cell - 4) / 6.9))
    bottom = y + 10 + 14 * max(len(wrap(label, fitting, _HEAD_LINES)) for label in shown)
    for index, label in enumerate(shown):
        x = layout.left + (index + 0.5) * layout.cell
        canvas.lines(x, bottom, label, "axis", anchor="middle", columns=fitting, most=_HEAD_LINES)
    if not layout.narrow:
        canvas.text(layout.left - 10, bottom, rows, "axis", anchor="end", columns=25)
    return bottom + 8


def _row(canvas: Canvas, section: HeatMap, layout: _Layout, numbers: _Numbers, row: int, y: float) -> None:
    shades, width = numbers.shades, layout.cell
    for column, value in enumerate(section.values[row]):
        x = layout.left + column * width
        said = "–" if value is None else numbers.write(value)
        css, ink = ("missing", "none")
        if value is not None and math.isfinite(value):
            css, ink = shades.css(value), shades.ink(value)
        cell(canvas, x, y, width, _ROW, css, f"{section.rows[row]}, {section.columns[column]}: {said}")
        canvas.text(x + width / 2, y + 20, said, ink, anchor="middle", columns=int(width / 6))
        if (row, column) in section.marked:
            canvas.box(x + 2, y + 2, width - 4, _ROW - 4, "outline")
