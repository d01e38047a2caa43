"""An interval with its estimate, cut off at the ends of the plot where it goes on beyond."""

from __future__ import annotations

from dataclasses import dataclass

from aftertune.report._svg import Canvas, Scale, Shape


@dataclass(frozen=True)
class Interval:
    """What to draw.

    Attributes:
        low: lower end.
        value: the estimate.
        high: upper end.
        shape: of the estimate's mark.
        css: classes of whisker and mark.
        hollow: draw the mark as an outline.
    """

    low: float
    value: float
    high: float
    shape: Shape
    css: str
    hollow: bool = False


def draw_interval(canvas: Canvas, scale: Scale, found: Interval, y: float, beyond: str = "") -> None:
    """Whisker and mark; arrows where they leave the plot.

    Args:
        canvas: to draw on.
        scale: of the plot.
        found: the interval.
        y: its height.
        beyond: what to write beside a mark that stands for a value outside the plot.
    """
    x, left, right = scale(found.value), scale(found.low), scale(found.high)
    if found.value > scale.high:
        x = scale.end - 24
        left = min(left, x)
        if beyond:
            canvas.text(left - 11, y + 4, beyond, f"multiple {found.css}", anchor="end")
    elif found.value < scale.low:
        x = scale.start + 24
        right = max(right, x)
        if beyond:
            canvas.text(right + 11, y + 4, beyond, f"multiple {found.css}")
    inside = (scale.low <= found.low <= scale.high, scale.low <= found.high <= scale.high)
    canvas.whisker(left, right, y, f"whisker {found.css}", caps=inside)
    if found.low < scale.low:
        canvas.arrow(scale.start, y, "left", f"mark {found.css}")
    if found.high > scale.high:
        canvas.arrow(scale.end, y, "right", f"mark {found.css}")
    canvas.mark(found.shape, x, y, f"mark {found.css}{' hollow' if found.hollow else ''}")
