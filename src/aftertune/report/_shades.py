"""Colours for numbers: cells of a heat map, and the strip that explains them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from aftertune.report._svg import Canvas
from aftertune.report._text import columns_of, shorten

_STEPS = 5
# From this step on the fill is strong, and the number in it takes the colour of the page.
_STRONG = 4
_SWATCH = 13.0


@dataclass(frozen=True)
class Shades:
    """Steps of colour between two values.

    Attributes:
        low: the least value.
        high: the greatest value.
        diverging: two colours that part at 0, each as strong as the greater of both ends asks for.
    """

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

    def css(self, value: float) -> str:
        """The class of a cell's fill."""
        return _fill(self.step(value))

    def ink(self, value: float) -> str:
        """The class of a cell's text."""
        return "over" if abs(self.step(value)) >= _STRONG else "in"

    def strip(self, canvas: Canvas, low: str, high: str, *, right: float) -> None:
        """The steps side by side with what their ends stand for, ending at `right` and a line high."""
        steps = range(-_STEPS if self.diverging else 0, _STEPS + 1)
        high = shorten(high, 24)
        left = right - 7.4 * columns_of(high) - 6 - _SWATCH * len(steps)
        canvas.text(right, 13, high, "axis", anchor="end")
        canvas.text(left - 6, 13, low, "axis", anchor="end")
        for index, step in enumerate(steps):
            canvas.box(left + index * _SWATCH, 2, _SWATCH, 14, f"cell {_fill(step)}")


def cell(canvas: Canvas, x: float, y: float, width: float, height: float, css: str, tip: str) -> None:
    """A rectangle with a hair of the page around it."""
    canvas.box(x + 0.5, y + 0.5, width - 1, height - 1, f"cell {css}", tip=tip)


def _fill(step: int) -> str:
    return f"hot-{step}" if step > 0 else f"cold-{-step}"
