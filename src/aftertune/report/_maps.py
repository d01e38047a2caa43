"""Maps of cells: a matrix of numbers, and the layers and matrices that chosen weights sit in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from aftertune.report._canvas import Canvas
from aftertune.report._plot import NARROW, SMALL, WIDE
from aftertune.report._sections import HeatMap, Places, Section, Table
from aftertune.report._text import columns_of, compact, count, number, shorten, with_unit, wrap

_STEPS = 5
# From this step on the fill is strong, and the number in it takes the colour of the page.
_STRONG = 4
_SWATCH = 13.0
_LEAST_CELL = 44.0
_ROW = 30.0
_HEAD_LINES = 3
# A description that lists more cells than this would tire rather than tell.
_MOST_IN_WORDS = 36


@dataclass(frozen=True)
class _Shades:
    """Steps of colour between two values; where diverging, two colours that part at 0, equally strong on both sides."""

    low: float
    high: float
    diverging: bool

    @property
    def ends(self) -> tuple[float, float]:
        """The values that the strongest colours stand for."""
        most = max(abs(self.low), abs(self.high))
        return (-most, most) if self.diverging else (self.low, self.high)

    def step(self, value: float) -> int:
        """-5 to 5 where diverging, else 0 to 5."""
        if self.diverging:
            most = self.ends[1]
            return round(_STEPS * (value / most)) if most > 0 else 0
        # Halved first: the difference of huge values would not be finite.
        part, whole = value / 2 - self.low / 2, self.high / 2 - self.low / 2
        # Rounded up: only the least value has no colour.
        return math.ceil(_STEPS * (part / whole)) if whole > 0 else 0

    def ink(self, value: float) -> str:
        """The class of a cell's text."""
        return "over" if abs(self.step(value)) >= _STRONG else "in"

    def fill(self, value: float) -> str:
        """The class of a cell's fill."""
        return _fill(self.step(value))

    def strip(self, canvas: Canvas, low: str, high: str, *, right: float) -> None:
        """The steps side by side with what their ends stand for, ending at `right` and a line high."""
        steps = range(-_STEPS if self.diverging else 0, _STEPS + 1)
        high = shorten(high, 24)
        left = right - 7.4 * columns_of(high) - 6 - _SWATCH * len(steps)
        canvas.text(left + _SWATCH * len(steps) + 6, 13, high, "axis")
        canvas.text(left - 6, 13, low, "axis", anchor="end")
        for index, step in enumerate(steps):
            canvas.box(left + index * _SWATCH, 2, _SWATCH, 14, f"cell {_fill(step)}")


def _fill(step: int) -> str:
    return f"hot-{step}" if step > 0 else f"cold-{-step}"


def _cell(canvas: Canvas, at: tuple[float, float, float, float], css: str, tip: str) -> None:
    """A rectangle with a hair of the page around it."""
    x, y, width, height = at
    canvas.box(x + 0.5, y + 0.5, width - 1, height - 1, f"cell {css}", tip=tip)


def share_scales(sections: Sequence[Section]) -> list[Section]:
    """Sections in which heat maps of the same scale group have the same limits, so that equal colours mean equal."""
    groups: dict[str, list[float]] = {}
    for one in sections:
        if isinstance(one, HeatMap) and one.scale_group:
            groups.setdefault(one.scale_group, []).extend(value for _, _, value in _cells(one))
    return [
        replace(one, limits=(min(values), max(values)))
        if isinstance(one, HeatMap) and (values := groups.get(one.scale_group))
        else one
        for one in sections
    ]


def heat_map(section: HeatMap, *, name: str, narrow: bool = False) -> str:
    """Cells in colour with their numbers, marked ones outlined.

    Args:
        section: what to draw.
        name: unique within the page.
        narrow: lay it out for a phone: labels of rows above their cells, numbers for the names of slender columns.

    Returns:
        An ``<svg>`` element, or "" where there is no cell. With many columns it is wider than a page.
    """
    if not section.rows or not section.columns:
        return ""
    page, left, above = (NARROW, 0.0, 22.0) if narrow else (WIDE, 200.0, 0.0)
    cell = min(max((page - left) / len(section.columns), _LEAST_CELL), 110.0)
    width = max(page, left + cell * len(section.columns))
    canvas = Canvas(name, width, section.title, _describe(section), fixed=width > page)
    values = [value for _, _, value in _cells(section)]
    shades = _Shades(*(section.limits or (min(values, default=0.0), max(values, default=0.0))), section.diverging)
    whole = all(value == round(value) and abs(value) < 1e5 for value in values)

    def write(value: float) -> str:
        return f"{value:.0f}".replace("-", "−") if whole and math.isfinite(value) else compact(value)

    low, high = (write(end) if whole else compact(end) for end in shades.ends)
    # Within what is seen before one scrolls.
    shades.strip(
        canvas, low, high if narrow else with_unit(high, section.unit), right=0.8 * page if width > page else page
    )
    numbered = narrow and cell < 80
    y = _head(canvas, section, left, cell, numbered=numbered)
    for row, label in enumerate(section.rows):
        if narrow:
            place = f"{row + 1} " if numbered and section.rows == section.columns else ""
            canvas.text(0, y + 16, place + label, "legend", columns=48)
        else:
            canvas.text(left - 10, y + 20, label, "legend", anchor="end", columns=25)
        y += above
        for column, value in enumerate(section.values[row]):
            x = left + column * cell
            said = "–" if value is None else write(value)
            known = value is not None and math.isfinite(value)
            css, ink = (shades.fill(value), shades.ink(value)) if known and value is not None else ("missing", "none")
            tip = f"{section.rows[row]}, {section.columns[column]}: {said}"
            _cell(canvas, (x, y, cell, _ROW), css, tip)
            canvas.text(x + cell / 2, y + 20, said, ink, anchor="middle", columns=int(cell / 6))
            if (row, column) in section.marked:
                canvas.box(x + 2, y + 2, cell - 4, _ROW - 4, "outline")
        y += _ROW
    return canvas.render(y + 4)


def _head(canvas: Canvas, section: HeatMap, left: float, cell: float, *, numbered: bool) -> float:
    """Labels of the columns, below the strip of colours; returns where the rows begin."""
    y = 30.0
    rows = f"{section.row_label} ↓" if section.row_label else ""
    columns = f"{section.column_label} →" if section.column_label else ""
    if left:
        canvas.text(left, y + 4, columns, "axis", columns=60)
    else:
        canvas.text(0, y + 4, ", ".join(filter(None, (rows, columns))), "axis", columns=52)
    if numbered and section.rows != section.columns:
        for index, label in enumerate(section.columns):
            canvas.text(180 * (index % 2), y + 24 + 18 * (index // 2), f"{index + 1} {label}", "axis", columns=24)
        y += 18 * math.ceil(len(section.columns) / 2) + 6
    shown = [str(index + 1) if numbered else label for index, label in enumerate(section.columns)]
    fitting = max(3, int((cell - 4) / 6.9))
    bottom = y + 10 + 14 * max(len(wrap(label, fitting, _HEAD_LINES)) for label in shown)
    for index, label in enumerate(shown):
        x = left + (index + 0.5) * cell
        canvas.lines(x, bottom, label, "axis", anchor="middle", columns=fitting, most=_HEAD_LINES)
    if left:
        canvas.text(left - 10, bottom, rows, "axis", anchor="end", columns=25)
    return bottom + 8


def _describe(section: HeatMap) -> str:
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


def _cells(section: HeatMap) -> Iterator[tuple[str, str, float]]:
    for row, values in zip(section.rows, section.values, strict=True):
        for column, value in zip(section.columns, values, strict=True):
            if value is not None and math.isfinite(value):
                yield row, column, value


@dataclass(frozen=True)
class _Grid:
    """Every matrix there is, those that nobody named included."""

    layers: tuple[int, ...]
    roles: tuple[str, ...]
    section: Places

    @classmethod
    def of(cls, section: Places) -> _Grid:
        named = [*section.counts, *(section.total or {})]
        layers = sorted({*range(section.layers), *(layer for layer, _ in named)})
        roles = dict.fromkeys([*section.roles, *(role for _, role in named)])
        return cls(tuple(layers), tuple(roles), section)

    def chosen(self, layer: int, role: str) -> int:
        return self.section.counts.get((layer, role), 0)

    def size(self, layer: int, role: str) -> int | None:
        """Weights of a matrix; None where sizes are not known."""
        return None if self.section.total is None else self.section.total.get((layer, role), 0)

    def exists(self, layer: int, role: str) -> bool:
        return self.size(layer, role) != 0 or self.chosen(layer, role) > 0

    def shade(self, layer: int, role: str) -> float:
        """What the colour shows: the share chosen where sizes are known, else the count."""
        size = self.size(layer, role)
        return self.chosen(layer, role) / (1 if size is None else size) if size != 0 else 0.0

    def of_layer(self, layer: int) -> int:
        return sum(self.chosen(layer, role) for role in self.roles)

    def of_role(self, role: str) -> int:
        return sum(self.chosen(layer, role) for layer in self.layers)

    @property
    def matrices(self) -> list[tuple[int, str]]:
        return [(layer, role) for layer in self.layers for role in self.roles]

    @property
    def all(self) -> int:
        return sum(map(self.of_role, self.roles))


def places_map(section: Places, *, name: str, narrow: bool = False) -> str:
    """Counts in cells, sums as bars: layers across on a wide screen, down on a phone.

    Args:
        section: what to draw.
        name: unique within the page.
        narrow: lay it out for a phone.

    Returns:
        An ``<svg>`` element, or "" where there is no matrix.
    """
    grid = _Grid.of(section)
    if not grid.layers or not grid.roles:
        return ""
    page, needed = (NARROW, 130 + 30.0 * len(grid.roles)) if narrow else (WIDE, 220 + 8.0 * len(grid.layers))
    canvas = Canvas(name, max(page, needed), section.title, _describe_places(grid), fixed=needed > page)
    shades = _Shades(0.0, max(grid.shade(*matrix) for matrix in grid.matrices), diverging=False)
    most = f"{number(100 * shades.high)} % of a matrix" if section.total is not None else f"{shades.high:,.0f} weights"
    shades.strip(canvas, "0", most, right=0.8 * page if needed > page else page)
    sums = 92.0  # room for those at the right
    right, top, left = canvas.width - sums, 82.0 if narrow else 90.0, 34.0 if narrow else 120.0
    across, down = (grid.roles, grid.layers) if narrow else (grid.layers, grid.roles)
    width = (right - left) / len(across)
    height = 26.0 if not narrow else 20.0 if len(grid.layers) <= 40 else 17.0
    bottom = top + height * len(down)
    # A map that shows only the short numbers would mislead.
    numbered = all(SMALL * len(count(grid.chosen(*matrix))) + 2 <= width for matrix in grid.matrices)
    for index, (layer, role) in enumerate(grid.matrices):
        first, second = divmod(index, len(grid.roles))
        column, row = (second, first) if narrow else (first, second)
        x, y, chosen = left + column * width, top + row * height, grid.chosen(layer, role)
        size = grid.size(layer, role)
        tip = f"layer {layer}, {role}: {chosen:,}" + (f" of {size:,}" if size is not None else "")
        value = grid.shade(layer, role)
        _cell(canvas, (x, y, width, height), shades.fill(value) if grid.exists(layer, role) else "missing", tip)
        if numbered and chosen:
            ink = f"small {shades.ink(value)}"
            canvas.text(x + width / 2, y + height / 2 + 4, count(chosen), ink, anchor="middle", columns=6)
    _names(canvas, grid, (left, top, width, height), narrow=narrow)
    totals = list(map(grid.of_layer, grid.layers) if narrow else map(grid.of_role, grid.roles))
    for index, value in enumerate(totals):
        length, middle = (sums - 50) * value / max(1, *totals), top + (index + 0.5) * height
        canvas.box(right + 8, middle - 0.3 * height, length, 0.6 * height, "bar")
        canvas.text(right + length + 13, middle + 4, count(value), "small", columns=6)
    return canvas.render(bottom + 26)


def _names(canvas: Canvas, grid: _Grid, box: tuple[float, float, float, float], *, narrow: bool) -> None:
    """Layers and kinds of matrices around the map, and the sums of its columns: bars above it, or numbers below."""
    left, top, width, height = box
    across, down = (len(grid.roles), len(grid.layers)) if narrow else (len(grid.layers), len(grid.roles))
    right, bottom = left + width * across, top + height * down
    canvas.text(right + 8, top - 10, "all kinds" if narrow else "all layers", "axis")
    canvas.text(left - 10, top - 10, "layer" if narrow else "all kinds", "axis", anchor="end")
    canvas.text(left - 10, bottom + 18, "all" if narrow else "layer", "axis", anchor="end")
    most, every = max(1, *map(grid.of_layer, grid.layers)), max(1, math.ceil(24 / width))
    for index, role in enumerate(grid.roles):
        if narrow:
            x, fitting = left + (index + 0.5) * width, min(16, max(3, int((width - 2) / 6.2)))
            canvas.lines(x, top - 8, role, "axis", anchor="middle", columns=fitting, most=3)
            canvas.text(x, bottom + 18, count(grid.of_role(role)), "small", anchor="middle", columns=6)
        else:
            canvas.text(left - 10, top + index * height + 18, role, "legend", anchor="end", columns=15)
    for index, layer in enumerate(grid.layers):
        if narrow:
            canvas.text(left - 6, top + (index + 0.5) * height + 4, str(layer), "axis", anchor="end", columns=4)
            continue
        x, bar = left + index * width, 54.0 * grid.of_layer(layer) / most
        canvas.box(x + 1, top - 6 - bar, width - 2, bar, "bar", tip=f"layer {layer}: {grid.of_layer(layer):,}")
        if index % every == 0:
            canvas.text(x + width / 2, bottom + 18, str(layer), "axis", anchor="middle", columns=6)


def _describe_places(grid: _Grid) -> str:
    """How many in how many matrices, by kind, and the layers with most."""
    every = [matrix for matrix in grid.matrices if grid.exists(*matrix)]
    touched = [matrix for matrix in every if grid.chosen(*matrix)]
    text = f"{grid.all:,} weights in {len(touched)} of {len(every)} matrices."
    if not touched:
        return text
    kinds = sorted(grid.roles, key=grid.of_role, reverse=True)
    layers = sorted(grid.layers, key=grid.of_layer, reverse=True)[:3]
    by_kind = ", ".join(f"{role} {grid.of_role(role):,}" for role in kinds)
    by_layer = ", ".join(f"layer {layer} {grid.of_layer(layer):,}" for layer in layers if grid.of_layer(layer))
    return f"{text} By kind: {by_kind}. Most in {by_layer}."


def places_table(section: Places) -> Table:
    """Every count, with its share where sizes are known, and the sums."""
    grid = _Grid.of(section)

    def said(layer: int, role: str) -> str:
        if not grid.exists(layer, role):
            return "–"
        chosen = grid.chosen(layer, role)
        if section.total is None or not chosen:
            return f"{chosen:,}"
        return f"{chosen:,} ({number(100 * grid.shade(layer, role))} %)"

    rows = [
        (str(layer), *(said(layer, role) for role in grid.roles), f"{grid.of_layer(layer):,}") for layer in grid.layers
    ]
    rows.append(("all", *(f"{grid.of_role(role):,}" for role in grid.roles), f"{grid.all:,}"))
    header = ("layer", *grid.roles, "all")
    return Table(section.title, "", header, tuple(rows) if grid.roles else (), frozenset(range(1, len(header))))
