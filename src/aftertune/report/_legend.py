"""Which mark stands for what: shapes and colours by place, and the legend that names them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from aftertune.report._svg import Canvas, Shape
from aftertune.report._text import shorten

_SHAPES: tuple[Shape, ...] = ("circle", "square", "triangle", "diamond")
_COLOURS = 5


class Keyed(Protocol):
    """What a legend names."""

    @property
    def label(self) -> str:
        """What it is called."""

    @property
    def shape(self) -> Shape:
        """Its mark."""

    @property
    def css(self) -> str:
        """Its colour."""


def shape_of(place: int) -> Shape:
    """The mark of the thing at this place on the page."""
    return _SHAPES[place % len(_SHAPES)]


def colour_of(place: int) -> str:
    """The colour's class of the thing at this place on the page."""
    return f"series-{place % _COLOURS}"


def legend(canvas: Canvas, keyed: Sequence[Keyed], *, base: bool = False) -> float:
    """What each mark means; wraps to further lines. Returns where it ends."""
    x, y = 6.0, 14.0
    if base:
        canvas.line(x, y - 8, x, y + 8, "base-mark")
        canvas.text(x + 10, y + 5, "base", "legend")
        x += 64
    for one in keyed:
        label = shorten(one.label, 34)
        needed = 30 + 8.0 * len(label)
        if x + needed > canvas.width and x > 6:
            x, y = 6.0, y + 22
        canvas.mark(one.shape, x, y, f"mark {one.css}")
        canvas.text(x + 12, y + 5, label, "legend")
        x += needed
    return y + 12
