"""Labels beside points, placed where nothing else stands."""

from __future__ import annotations

from aftertune.report._svg import Anchor, Canvas
from aftertune.report._text import columns_of, shorten

_COLUMN = 6.9
_ABOVE, _BELOW = 11.0, 4.0


class Labels:
    """Places labels one after the other; one that finds no room is left out.

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

    def place(self, x: float, y: float, text: str, columns: int = 28) -> bool:
        """Write a label beside a point, to the right if there is room; False where there is none at all."""
        text = shorten(text, columns)
        width = _COLUMN * columns_of(text)
        spots: tuple[tuple[Anchor, float, float, float], ...] = (
            ("start", x + 11, y + 4, x + 11),
            ("end", x - 11, y + 4, x - 11 - width),
            ("start", x + 6, y + 20, x + 6),
            ("end", x - 6, y - 12, x - 6 - width),
            ("middle", x, y - 13, x - width / 2),
            ("middle", x, y + 21, x - width / 2),
        )
        for anchor, at, baseline, left in spots:
            box = (left, baseline - _ABOVE, left + width, baseline + _BELOW)
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
