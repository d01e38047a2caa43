"""What libraries print and raise: kept quiet, said in our words."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

from aftertune.errors import AftertuneError, MemoryExhausted, SubjectError


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


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """No bars, and no reports on stderr of what loading left out: we read these reports, and refuse."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with no_bars(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)


@contextlib.contextmanager
def explain_reading(where: object, problem: str, mend: str = "") -> Iterator[None]:
    """Turn whatever a library raises over the files of a model into one line of ours.

    Readers of weights, configs and tokenizers raise errors of their own, down to bare `Exception`; so nothing
    but calls into them belongs into the block.

    Args:
        where: the spec, folder or file that is read.
        problem: what is then wrong, such as "cannot be loaded"; the library's reason is put behind it.
        mend: what to do about it, if anything is known.

    Raises:
        SubjectError: the library gave up.
        MemoryExhausted: it ran out of memory.
    """
    try:
        yield
    except AftertuneError:
        raise
    except Exception as error:
        if is_shortage(error):
            raise MemoryExhausted(
                f"{where}: does not fit in memory; use a smaller --dtype or another --device"
            ) from error
        raise SubjectError(f"{where}: {problem} ({reason(error)}){mend and f'; {mend}'}") from error


def reason(error: BaseException) -> str:
    """The first line of an error's message; the second too, where the first only announces it."""
    if isinstance(error, RecursionError):  # whose own words speak of Python
        return "nested too deeply"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1]).rstrip(".")


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on the host or on an accelerator."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text
