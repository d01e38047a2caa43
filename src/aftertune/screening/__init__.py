"""Before tuning: which rows of the data would do harm? One screen a file; each scores rows, and more is worse."""

from aftertune.screening._screen import Screen, ScreenContext, Screened, screen_rows, screens

__all__ = ["Screen", "ScreenContext", "Screened", "screen_rows", "screens"]
