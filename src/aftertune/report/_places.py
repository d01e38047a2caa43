"""Where the chosen weights sit: layers by kinds of matrices, with sums along both."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from aftertune.report._sections import Places, Table
from aftertune.report._shades import Shades, cell
from aftertune.report._svg import Canvas
from aftertune.report._text import count, number

# Room for the sums: at the right of the grid, and above it.
_SUMS = 92.0
_BARS = 54.0


@dataclass(frozen=True)
class _Grid:
    """Every cell there is, those that nobody named included."""

    layers: tuple[int, ...]
    roles: tuple[str, ...]
    section: Places

    @classmethod
    def of(cls, section: Places) -> _Grid:
        named = [*section.counts, *(section.total or {})]
        layers = sorted({*range(section.layers), *(layer for layer, _ in named)})
        roles = dict.fromkeys([*section.roles, *(role for _, role in named)])
        return cls(tuple(layers), tuple(roles), section)

    @property
    def places(self) -> list[tuple[int, str]]:
        return [(layer, role) for layer in self.layers for role in self.roles]

    def chosen(self, layer: int, role: str) -> int:
        return self.section.counts.get((layer, role), 0)

    def exists(self, layer: int, role: str) -> bool:
        total = self.section.total
        return total is None or total.get((layer, role), 0) > 0 or self.chosen(layer, role) > 0

    def shade(self, layer: int, role: str) -> float:
        """What the colour shows: the share chosen where sizes are known, else the count."""
        total = self.section.total
        size = 1 if total is None else total.get((layer, role), 0)
        return self.chosen(layer, role) / size if size else 0.0

    def of_layer(self, layer: int) -> int:
        return sum(self.chosen(layer, role) for role in self.roles)

    def of_role(self, role: str) -> int:
        return sum(self.chosen(layer, role) for layer in self.layers)

    @property
    def all(self) -> int:
        return sum(map(self.of_role, self.roles))

    def shades(self) -> Shades:
        return Shades(0.0, max(self.shade(*place) for place in self.places), diverging=False)

    def tip(self, layer: int, role: str) -> str:
        """A cell in words."""
        text = f"layer {layer}, {role}: {self.chosen(layer, role):,}"
        total = self.section.total
        return text if total is None else f"{text} of {total.get((layer, role), 0):,}"


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
    page, needed = (360.0, 130 + 30.0 * len(grid.roles)) if narrow else (920.0, 220 + 8.0 * len(grid.layers))
    canvas = Canvas(name, max(page, needed), section.title, describe_places(section), fixed=needed > page)
    shades = grid.shades()
    ends = (
        "0",
        f"{number(100 * shades.high)} % of a matrix" if section.total is not None else f"{shades.high:,.0f} weights",
    )
    shades.strip(canvas, *ends, right=0.8 * page if needed > page else page)
    return canvas.render(_down(canvas, grid, shades) if narrow else _across(canvas, grid, shades))


def describe_places(section: Places) -> str:
    """How many in how many matrices, by kind, and the layers with most."""
    grid = _Grid.of(section)
    every = [place for place in grid.places if grid.exists(*place)]
    touched = [place for place in every if grid.chosen(*place)]
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


def _across(canvas: Canvas, grid: _Grid, shades: Shades) -> float:
    """Layers from left to right; returns the height."""
    left, right, top, height = 120.0, canvas.width - _SUMS, 36 + _BARS, 26.0
    width = (right - left) / len(grid.layers)
    bottom = top + height * len(grid.roles)
    canvas.text(left - 10, top - 10, "all kinds", "axis", anchor="end")
    canvas.text(right + 8, top - 10, "all layers", "axis")
    canvas.text(left - 10, bottom + 18, "layer", "axis", anchor="end")
    layer_sums = {layer: grid.of_layer(layer) for layer in grid.layers}
    for row, role in enumerate(grid.roles):
        canvas.text(left - 10, top + row * height + 18, role, "legend", anchor="end", columns=15)
    _sums(canvas, [grid.of_role(role) for role in grid.roles], right + 8, top, height)
    numbers = _fits(grid, width)
    every = max(1, math.ceil(24 / width))
    for index, layer in enumerate(grid.layers):
        x = left + index * width
        bar = _BARS * _part(layer_sums[layer], layer_sums.values())
        canvas.box(x + 1, top - 6 - bar, width - 2, bar, "bar", tip=f"layer {layer}: {layer_sums[layer]:,}")
        for row, role in enumerate(grid.roles):
            _cell(canvas, grid, shades, (layer, role), (x, top + row * height, width, height), numbers)
        if index % every == 0:
            canvas.text(x + width / 2, bottom + 18, str(layer), "axis", anchor="middle", columns=6)
    return bottom + 26


def _down(canvas: Canvas, grid: _Grid, shades: Shades) -> float:
    """Layers from top to bottom; returns the height."""
    left, right, top = 30.0, canvas.width - _SUMS, 82.0
    width, height = (right - left) / len(grid.roles), 20.0 if len(grid.layers) <= 40 else 17.0
    bottom = top + height * len(grid.layers)
    canvas.text(0, top - 8, "layer", "axis")
    canvas.text(right + 8, top - 8, "all kinds", "axis")
    canvas.text(0, bottom + 17, "all", "axis")
    numbers = _fits(grid, width)
    for column, role in enumerate(grid.roles):
        x = left + (column + 0.5) * width
        fitting = min(16, max(3, int((width - 2) / 6.2)))
        canvas.lines(x, top - 8, role, "axis", anchor="middle", columns=fitting, most=3)
        canvas.text(x, bottom + 17, count(grid.of_role(role)), "small", anchor="middle", columns=6)
    _sums(canvas, [grid.of_layer(layer) for layer in grid.layers], right + 8, top, height)
    for row, layer in enumerate(grid.layers):
        y = top + row * height
        canvas.text(left - 6, y + height / 2 + 4, str(layer), "axis", anchor="end", columns=4)
        for column, role in enumerate(grid.roles):
            _cell(canvas, grid, shades, (layer, role), (left + column * width, y, width, height), numbers)
    return bottom + 26


def _fits(grid: _Grid, width: float) -> bool:
    """Whether every number fits its cell; a map that shows only the short ones would mislead."""
    return all(6.4 * len(count(grid.chosen(*place))) + 2 <= width for place in grid.places)


def _cell(
    canvas: Canvas,
    grid: _Grid,
    shades: Shades,
    place: tuple[int, str],
    at: tuple[float, float, float, float],
    numbered: bool,
) -> None:
    x, y, width, height = at
    value, chosen = grid.shade(*place), grid.chosen(*place)
    exists = grid.exists(*place)
    cell(canvas, x, y, width, height, shades.css(value) if exists else "missing", grid.tip(*place))
    if numbered and chosen:
        ink = f"small {shades.ink(value)}"
        canvas.text(x + width / 2, y + height / 2 + 4, count(chosen), ink, anchor="middle", columns=6)


def _sums(canvas: Canvas, sums: Sequence[int], x: float, y: float, height: float) -> None:
    """Bars to the right, one below the other, with their numbers."""
    room = _SUMS - 50
    for index, value in enumerate(sums):
        length = room * _part(value, sums)
        middle = y + (index + 0.5) * height
        canvas.box(x, middle - 0.3 * height, length, 0.6 * height, "bar")
        canvas.text(x + length + 5, middle + 4, count(value), "small", columns=6)


def _part(value: int, of: Iterable[int]) -> float:
    most = max(of, default=0)
    return value / most if most > 0 and value > 0 else 0.0
