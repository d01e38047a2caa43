"""What Inspect reads and writes beside what it is asked: ``.env`` files, trace files, a buffer of samples.

While tasks run, Inspect loads the nearest ``.env`` above the working folder into the environment, and keeps a trace of
requests under ``inspect_ai/traces`` in the user's data folder (or in ``INSPECT_TRACE_FILE``). A redacted run does
neither; ``AFTERTUNE_NO_DOTENV=1`` keeps ``.env`` out of any run.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NO_DOTENV = "AFTERTUNE_NO_DOTENV"
_WRITES = ("INSPECT_TRACE_FILE", "INSPECT_PY_LOGGER_FILE")


@contextlib.contextmanager
def inspect_files(*, redact: bool) -> Iterator[None]:
    """While inside, keys of ``.env`` are loaded as Inspect does; with ``redact``, no ``.env`` and no trace.

    Args:
        redact: whether texts must not be left anywhere.
    """
    from inspect_ai._util.dotenv import init_dotenv

    with contextlib.ExitStack() as stack:
        if redact or os.environ.get(NO_DOTENV):
            stack.enter_context(_no_dotenv())
        else:
            init_dotenv()  # Inspect does so once a task starts, which is after judges are looked for
        if redact:
            stack.enter_context(_no_traces())
        yield


@contextlib.contextmanager
def _no_dotenv() -> Iterator[None]:
    from inspect_ai._eval import context, evalset

    places: tuple[Any, ...] = (context, evalset)
    before = [place.init_dotenv for place in places]
    for place in places:
        place.init_dotenv = _nothing
    try:
        yield
    finally:
        for place, function in zip(places, before, strict=True):
            place.init_dotenv = function


def _nothing() -> None:
    """In the place of what would read a ``.env`` file."""


@contextlib.contextmanager
def _no_traces() -> Iterator[None]:
    """Make Inspect's handler of log records now, and take the files out of it."""
    from inspect_ai._util import logger

    if logger._logHandler["handler"] is None:
        held = {name: os.environ.pop(name) for name in _WRITES if name in os.environ}
        try:
            with tempfile.TemporaryDirectory() as folder:
                logger.init_logger("error", trace_dir=Path(folder))
                _close(logger._logHandler["handler"], "trace_logger")
        finally:
            os.environ.update(held)
    handler = logger._logHandler["handler"]
    before = {name: getattr(handler, name) for name in ("trace_logger", "file_logger")}
    for name in before:
        setattr(handler, name, None)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(handler, name, value)


def _close(handler: object, name: str) -> None:
    getattr(handler, name).close()
    setattr(handler, name, None)
