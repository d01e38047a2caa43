"""A canvas that writes SVG: shapes by CSS class, escaped text, finite coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree

from aftertune.report._text import clean, shorten

Anchor = Literal["start", "middle", "end"]
Shape = Literal["circle", "square", "triangle", "diamond"]

# Beyond this a picture says nothing more, and sums of two stay finite.
_HUGE = 1e15


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


def span(values: Sequence[float], around: Sequence[float] = (0.0,)) -> tuple[float, float]:
    """The range of finite values and of those it must show, widened a little and never empty."""
    kept = [min(max(v, -_HUGE), _HUGE) for v in (*values, *around) if math.isfinite(v)]
    low, high = min(kept), max(kept)
    room = 0.06 * (high - low) or 1.0
    return (low if low in around and low == 0 else low - room), high + room


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values between two ends, about so many."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= 0.7 * rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step + 0.0 for index in range(first, last + 1)]


class Canvas:
    """An SVG drawing with a text alternative.

    Args:
        name: unique within the page; made by us, never by a user.
        width: of the view box; the drawing is as wide as its container.
        title: what it is, for those who do not see it.
        description: what it shows.
        css: class of the drawing.
    """

    def __init__(self, name: str, width: float, title: str, description: str, css: str = "chart") -> None:
        self.width = width
        self._root = ElementTree.Element(
            "svg", {"role": "img", "class": css, "width": "100%", "aria-labelledby": f"{name}-title {name}-desc"}
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

    def line(self, x1: float, y1: float, x2: float, y2: float, css: str) -> None:
        """A straight line."""
        self._add("line", css, {"x1": x1, "y1": y1, "x2": x2, "y2": y2})

    def box(self, x: float, y: float, width: float, height: float, css: str) -> None:
        """A rectangle."""
        self._add("rect", css, {"x": x, "y": y, "width": max(width, 0.0), "height": max(height, 0.0)})

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

    def arrow(self, x: float, y: float, *, right: bool, css: str) -> None:
        """An arrowhead whose tip is at x: there is more this way."""
        back = x - 9 if right else x + 9
        self.polygon([(x, y), (back, y - 5), (back, y + 5)], css)

    def whisker(self, x1: float, x2: float, y: float, css: str, *, caps: tuple[bool, bool] = (True, True)) -> None:
        """A horizontal interval with caps at the ends that were not cut off."""
        self.line(x1, y, x2, y, css)
        for x, capped in zip((x1, x2), caps, strict=True):
            if capped:
                self.line(x, y - 4, x, y + 4, css)

    def _add(self, tag: str, css: str, numbers: dict[str, float]) -> ElementTree.Element:
        attributes = {"class": css} | {key: _coordinate(value) for key, value in numbers.items()}
        return ElementTree.SubElement(self._root, tag, attributes)


def _coordinate(value: float) -> str:
    if not math.isfinite(value):
        raise ValueError("a coordinate must be finite")
    return f"{value:.1f}".removesuffix(".0")
