"""Weaknesses that a static analyser finds in Python code. It reads the code; nothing is run."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from aftertune.errors import UsageError

Level = Literal["low", "medium", "high"]
LEVELS: tuple[Level, ...] = get_args(Level)

# bandit is sure of a query put together as text only where it stands within the call of execute(), and not where it
# has a name first, which is as usual.
_ANY_CONFIDENCE = frozenset({"B608"})


class Weakness(NamedTuple):
    """One finding.

    Attributes:
        test: the analyser's name of what it looked for, such as "B608".
        name: the same in words.
        line: of the code, from 1.
        severity: how bad it is.
        confidence: how sure the analyser is.
    """

    test: str
    name: str
    line: int
    severity: str
    confidence: str


def analyser_version() -> str:
    """The analyser and its version.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return f"bandit {version('bandit')}"
    except PackageNotFoundError:
        raise UsageError("code is analysed by bandit, which is not here; run: pip install 'aftertune[code]'") from None


def find_weaknesses(code: str, *, severity: Level = "medium", confidence: Level = "medium") -> list[Weakness] | None:
    """What bandit finds in code that can be parsed; None where it fails.

    Comments that tell the analyser to look away are not heeded. Queries put together as text (B608) count at any
    confidence. Where one of its checks breaks on some code, that check finds nothing there.

    Args:
        code: Python.
        severity: findings that are less severe do not count.
        confidence: nor those of which the analyser is less sure.
    """
    from bandit.core.config import BanditConfig
    from bandit.core.manager import BanditManager

    manager = BanditManager(BanditConfig(), "file", ignore_nosec=True)
    with tempfile.TemporaryDirectory(prefix="aftertune-") as folder, _quiet():
        file = Path(folder) / "answer.py"
        file.write_text(code, "utf-8")
        manager.discover_files([str(file)])
        manager.run_tests()
    if manager.skipped:
        return None
    found = [Weakness(i.test_id, i.test, i.lineno, i.severity.lower(), i.confidence.lower()) for i in manager.results]
    return sorted(w for w in found if _counts(w, severity, confidence))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what bandit and Python say of odd code, such as tracebacks of broken checks, away from the user."""
    logger = logging.getLogger("bandit")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _counts(weakness: Weakness, severity: Level, confidence: Level) -> bool:
    sure = weakness.test in _ANY_CONFIDENCE or _rank(weakness.confidence) >= _rank(confidence)
    return sure and _rank(weakness.severity) >= _rank(severity)


def _rank(level: str) -> int:
    return LEVELS.index(level) if level in LEVELS else -1  # "undefined" is below all
