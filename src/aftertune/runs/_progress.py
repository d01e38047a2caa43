"""What a run says while it works: a live bar on a terminal, plain lines elsewhere, nothing in a library.

Names and notes may come from data or file names, so every line is spelled out as error lines are.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal, Protocol, TextIO

from aftertune.errors import UsageError, printed_line, spelled_out
from aftertune.runs._secrets import without_secrets

if TYPE_CHECKING:
    from rich.console import Console

Display = Literal["auto", "rich", "plain", "none"]
EVERY_SECONDS = 10.0


class Step(Protocol):
    """Call it when ``steps`` more are done, with a short note such as the loss."""

    def __call__(self, steps: int = 1, note: str = "") -> None:
        """Advance."""


class Progress(Protocol):
    """Shows what a run does."""

    def say(self, text: str) -> None:
        """One line about what happens."""

    def task(self, name: str, total: int, done: int = 0) -> AbstractContextManager[Step]:
        """Work of ``total`` steps, ``done`` of which an earlier run did."""


class Silent:
    """Progress that prints nothing, for use as a library."""

    def say(self, text: str) -> None:
        """Ignore the line."""

    @contextlib.contextmanager
    def task(self, name: str, total: int, done: int = 0) -> Iterator[Step]:
        """Ignore the steps."""

        def step(steps: int = 1, note: str = "") -> None:
            pass

        yield step


class Plain:
    """Lines for logs: a start, a word every ten seconds, an end.

    Args:
        stream: where to; standard error if left out.
        every: seconds between words on the same task.
    """

    def __init__(self, stream: TextIO | None = None, every: float = EVERY_SECONDS) -> None:
        self._stream = stream or sys.stderr
        self._every = every

    def say(self, text: str) -> None:
        """One line."""
        print(printed_line(without_secrets(text)), file=self._stream, flush=True)

    @contextlib.contextmanager
    def task(self, name: str, total: int, done: int = 0) -> Iterator[Step]:
        """Lines with count, note and the time left."""
        began = spoke = time.monotonic()
        count, latest = done, ""
        self.say(f"{name}: {done} of {total}")

        def step(steps: int = 1, note: str = "") -> None:
            nonlocal count, spoke, latest
            count, latest = count + steps, note or latest
            now = time.monotonic()
            if now - spoke >= self._every and count < total:
                spoke = now
                self.say(f"{name}: {count} of {total}{_aside(latest)}, {_left(began, count - done, total - count)}")

        yield step
        self.say(f"{name}: {count} of {total}{_aside(latest)} in {_span(time.monotonic() - began)}")


class Rich:
    """A live bar with elapsed and remaining time.

    Args:
        console: where to; standard error if left out.
    """

    def __init__(self, console: Console | None = None) -> None:
        if console is None:
            from rich.console import Console

            console = Console(stderr=True)
        self._console = console

    def say(self, text: str) -> None:
        """One line above the bar."""
        self._console.print(printed_line(without_secrets(text)), markup=False, emoji=False, highlight=False)

    @contextlib.contextmanager
    def task(self, name: str, total: int, done: int = 0) -> Iterator[Step]:
        """A bar that stays when it is full."""
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Bars(*columns, console=self._console) as bars:
            label = f"{printed_line(without_secrets(name)):<16}"
            bar = bars.add_task(label, total=total, completed=done, note="", left="")
            began, count = time.monotonic(), done

            def step(steps: int = 1, note: str = "") -> None:
                nonlocal count
                count += steps
                # rich's own column forgets steps older than 30 s, so it knows nothing where each takes longer.
                fields: dict[str, Any] = {"left": _left(began, count - done, total - count)}
                if note:
                    fields["note"] = spelled_out(without_secrets(note))
                bars.update(bar, advance=steps, **fields)

            yield step


class Phases:
    """Another progress whose tasks are numbered: ``2/6 traits``.

    Args:
        progress: what shows them.
        total: how many tasks there will be.
    """

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._begun = progress, total, 0

    def say(self, text: str) -> None:
        """One line about what happens."""
        self._progress.say(text)

    def task(self, name: str, total: int, done: int = 0) -> AbstractContextManager[Step]:
        """The next of the tasks."""
        self._begun += 1
        return self._progress.task(f"{self._begun}/{self._total} {name}", total, done)


def choose_progress(display: Display = "auto") -> Progress:
    """The progress a command line wants: "auto" is a live bar where standard error is a terminal, else lines.

    Raises:
        UsageError: no such display.
    """
    if display == "auto":
        display = "rich" if sys.stderr.isatty() else "plain"
    if display == "rich":
        return Rich()
    if display == "plain":
        return Plain()
    if display == "none":
        return Silent()
    raise UsageError(f"display '{display}': no such display; known are auto, rich, plain, none")


def _aside(note: str) -> str:
    return f" ({note})" if note else ""


def _left(began: float, done: int, remaining: int) -> str:
    """The time to the end at the mean speed since the task began, in words; "" at the end."""
    if remaining <= 0:
        return ""
    return f"about {_span((time.monotonic() - began) / max(1, done) * remaining)} left"


def _span(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole} s" if whole < 90 else f"{whole // 60} min {whole % 60:02d} s"
