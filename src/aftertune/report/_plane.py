"""Points and lines between two axes, and what becomes of those that lie outside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from aftertune.report._svg import Direction, Scale

Point: TypeAlias = tuple[float, float]

# Room between the plot's edge and the mark of a point outside: its arrow stands there.
_RIM = 16.0
_OUTWARD: dict[Direction, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


@dataclass(frozen=True)
class Plane:
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
