"""Keep transformers' own progress bars off stderr while we load and save."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def no_bars() -> Iterator[None]:
    """Switch transformers' progress bars off for a block, and back on if they were."""
    from transformers.utils import logging

    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()
