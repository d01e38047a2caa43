"""A canvas that writes SVG: shapes by CSS class, escaped text, finite coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree

from aftertune.report._text import clean, shorten, wrap

Anchor = Literal["start", "middle", "end"]
Shape = Literal["circle", "square", "triangle", "diamond"]
Direction = Literal["left", "right", "up", "down"]

# Beyond this a picture says nothing more, and sums of two stay finite.
HUGE = 1e15
# Below this, steps between ticks would vanish.
_TINY = 1e-300


@dataclass(frozen=True)
class Scale:
    """A linear map from values to coordinates that keeps what lies outside at its ends."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The coordinate of a value."""
        inside = min(max(value, self.low), self.high)
        return self.start + (inside - self.low) / (self.high - self.low) * (self.end - self.start)


def span(
    values: Sequence[float], around: Sequence[float] = (0.0,), bounds: tuple[float, float] | None = None
) -> tuple[float, float]:
    """The range of finite values and of those it must show, widened a little and never empty.

    Args:
        values: what is drawn.
        around: what the range must hold besides.
        bounds: ends of the values' unit, beyond which no value can lie and nothing is drawn.
    """
    kept = [min(max(v, -HUGE), HUGE) for v in (*values, *around) if math.isfinite(v)]
    low, high = min(kept), max(kept)
    room = 0.06 * (high - low)
    room = room if room > _TINY else 1.0
    low, high = (low if low in around and low == 0 else low - room), high + room
    return (max(low, bounds[0]), min(high, bounds[1])) if bounds else (low, high)


def window(values: Sequence[float], leading: Sequence[float], bound: float | None = None) -> tuple[float, float]:
    """The range to draw: all values, unless some lie so far off that the leading ones would shrink to nothing.

    Args:
        values: finite ones.
        leading: those the chart is about; some of `values`.
        bound: a positive value that must be seen; what lies at four times it or beyond says no more.
    """
    values, leading = ([min(max(v, -HUGE), HUGE) for v in some] for some in (values, leading or values))
    low, high = min([0.0, *leading]), max([0.0, *leading])
    room = 2 * (high - low) or math.inf
    low, high = low - room, high + room
    if bound is not None:
        low, high = max(low, -2 * bound), min(high, 4 * bound)
    around = (0.0,) if bound is None else (0.0, 1.25 * bound)
    return span([v for v in values if low <= v <= high], around)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values between two ends, about so many."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= 0.7 * rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step + 0.0 for index in range(first, last + 1)]


def tick_text(tick: float) -> str:
    """A tick's value, short."""
    return f"{tick:.6g}".replace("-", "−")


class Canvas:
    """An SVG drawing with a text alternative.

    Args:
        name: unique within the page; made by us, never by a user.
        width: of the view box; the drawing is as wide as its container.
        title: what it is, for those who do not see it.
        description: what it shows.
        fixed: keep its width in pixels, for a box that scrolls.
    """

    def __init__(self, name: str, width: float, title: str, description: str, *, fixed: bool = False) -> None:
        self.width = width
        shown = _coordinate(width) if fixed else "100%"
        self._root = ElementTree.Element(
            "svg", {"role": "img", "class": "chart", "width": shown, "aria-labelledby": f"{name}-title {name}-desc"}
        )
        for tag, text in (("title", title), ("desc", description)):
            ElementTree.SubElement(self._root, tag, {"id": f"{name}-{tag}"}).text = clean(text)

    def render(self, height: float) -> str:
        """The drawing as text."""
        self._root.set("viewBox", f"0 0 {_coordinate(self.width)} {_coordinate(height)}")
        return ElementTree.tostring(self._root, encoding="unicode")

    def text(self, x: float, y: float, text: str, css: str, *, anchor: Anchor = "start", columns: int = 60) -> None:
        """One line of text; what was cut off stays readable as a tooltip."""
        shown = shorten(text, columns)
        element = self._add("text", css, {"x": x, "y": y})
        element.set("text-anchor", anchor)
        element.text = shown
        if shown.endswith("…"):
            ElementTree.SubElement(element, "title").text = clean(text)

    def lines(
        self, x: float, y: float, text: str, css: str, *, columns: int, most: int, anchor: Anchor = "start"
    ) -> None:
        """Text on several lines, the last of them at y."""
        shown = wrap(text, columns, most)
        for index, line in enumerate(shown):
            self.text(x, y - 14 * (len(shown) - 1 - index), line, css, anchor=anchor, columns=columns)

    def line(self, x1: float, y1: float, x2: float, y2: float, css: str) -> None:
        """A straight line."""
        self._add("line", css, {"x1": x1, "y1": y1, "x2": x2, "y2": y2})

    def box(self, x: float, y: float, width: float, height: float, css: str, *, tip: str = "") -> None:
        """A rectangle, with a tooltip where there is something to say."""
        box = self._add("rect", css, {"x": x, "y": y, "width": max(width, 0.0), "height": max(height, 0.0)})
        if tip:
            ElementTree.SubElement(box, "title").text = clean(tip)

    def polygon(self, points: Sequence[tuple[float, float]], css: str) -> None:
        """A closed shape."""
        joined = " ".join(f"{_coordinate(x)},{_coordinate(y)}" for x, y in points)
        self._add("polygon", css, {}).set("points", joined)

    def mark(self, shape: Shape, x: float, y: float, css: str, radius: float = 5.5) -> None:
        """A point: a shape of about the same area whichever it is."""
        r = radius
        match shape:
            case "circle":
                self._add("circle", css, {"cx": x, "cy": y, "r": r})
            case "square":
                side = 0.88 * r
                self.box(x - side, y - side, 2 * side, 2 * side, css)
            case "diamond":
                d = 1.27 * r
                self.polygon([(x, y - d), (x + d, y), (x, y + d), (x - d, y)], css)
            case "triangle":
                t = 1.25 * r
                self.polygon([(x, y - t), (x + t, y + 0.8 * t), (x - t, y + 0.8 * t)], css)

    def arrow(self, x: float, y: float, towards: Direction, css: str) -> None:
        """An arrowhead with its tip at (x, y): there is more this way."""
        back = -9 if towards in ("right", "down") else 9
        if towards in ("left", "right"):
            self.polygon([(x, y), (x + back, y - 5), (x + back, y + 5)], css)
        else:
            self.polygon([(x, y), (x - 5, y + back), (x + 5, y + back)], css)

    def _add(self, tag: str, css: str, numbers: dict[str, float]) -> ElementTree.Element:
        attributes = {"class": css} | {key: _coordinate(value) for key, value in numbers.items()}
        return ElementTree.SubElement(self._root, tag, attributes)


def _coordinate(value: float) -> str:
    if not math.isfinite(value):
        raise ValueError("a coordinate must be finite")
    return f"{value:.1f}".removesuffix(".0")
