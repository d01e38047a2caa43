"""One tree of exceptions; each leaf knows its exit code.

::

    AftertuneError                     4
    ├── UsageError                     2   something the caller can mend
    │   ├── DataError                  2   a file: what, which line, which field
    │   ├── SubjectError               2   a model that cannot be found or used
    │   ├── PatchError                 2   a patch that is damaged, or made for other weights
    │   ├── PolicyError                2   a policy file or a tolerance
    │   ├── SelectionError             2   scores and fractions that leave nothing to choose
    │   └── OutputError                2   an output folder that is taken or cannot be written
    └── RunError                       4   the run broke
        ├── NumericalError             4   NaN or infinite weights, losses, likelihoods
        ├── MemoryExhausted            4   out of memory at the smallest batch
        └── StorageError               4   disk full, or a write that failed midway

Exit codes: 0 pass · 1 fail · 2 usage · 3 inconclusive · 4 broken run. Messages are one line: what is
wrong, where, and how to mend it. The command line prints them without a traceback.
"""

from __future__ import annotations

import os
import re
from enum import IntEnum
from typing import ClassVar

__all__ = [
    "AftertuneError",
    "DataError",
    "ExitCode",
    "MemoryExhausted",
    "NumericalError",
    "OutputError",
    "PatchError",
    "PolicyError",
    "RunError",
    "SelectionError",
    "StorageError",
    "SubjectError",
    "UsageError",
    "printed_line",
    "spelled_out",
]


# What CI runners obey wherever it stands in a line: ``##[error]``, ``##vso[task…]``, ``##teamcity[…]``.
_RUNNER_COMMAND = re.compile(r"#(?=#\w*\[)")


def spelled_out(text: str) -> str:
    """Text with all that a terminal or a CI runner would obey (from data, names, model output) spelled out."""
    return _RUNNER_COMMAND.sub(r"\\x23", "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text))


def printed_line(text: str) -> str:
    """`spelled_out` for a line of its own: GitHub's runner also obeys ``::command::`` where a line begins."""
    line = spelled_out(text)
    start = len(line) - len(line.lstrip())
    return f"{line[:start]}\\x3a{line[start + 1 :]}" if line.startswith("::", start) else line


class ExitCode(IntEnum):
    """What the process returns; the same for every verb."""

    PASS = 0
    FAIL = 1
    USAGE = 2
    INCONCLUSIVE = 3
    BROKEN = 4


class AftertuneError(Exception):
    """Root of every error this package raises on purpose."""

    exit_code: ClassVar[ExitCode] = ExitCode.BROKEN


class UsageError(AftertuneError):
    """The caller asked for something that cannot be done as asked."""

    exit_code = ExitCode.USAGE


class DataError(UsageError):
    """A data file that cannot be used.

    Args:
        problem: what is wrong and how to mend it; line breaks and control characters in it are spelled out.
        path: the file (or data set name).
        line: 1-based line in the file, where one is to blame.
        field: the field of that line, where one is to blame.
    """

    def __init__(
        self, problem: str, *, path: str | os.PathLike[str], line: int | None = None, field: str | None = None
    ) -> None:
        where = str(path) if line is None else f"{path}:{line}"
        what = problem if field is None else f"field '{field}' {problem}"
        super().__init__(spelled_out(f"{where}: {what}"))
        self.path, self.line, self.field = str(path), line, field


class SubjectError(UsageError):
    """A model, tokenizer or chat template that cannot be found, loaded or used."""


class PatchError(UsageError):
    """A patch file that is damaged, or that does not belong to the weights at hand."""


class PolicyError(UsageError):
    """A policy file or a tolerance that makes no sense."""


class SelectionError(UsageError):
    """Scores, fractions and sets that leave nothing to choose, or not enough for a control."""


class OutputError(UsageError):
    """An output path that is taken, or that may not be written."""


class RunError(AftertuneError):
    """The run started but could not be finished."""


class NumericalError(RunError):
    """A NaN or an infinity where a finite number must stand."""


class MemoryExhausted(RunError):
    """Out of memory even with the smallest batch."""


class StorageError(RunError):
    """Writing failed: no space left, or the medium gave up."""
