"""What a screen is, and running some over the rows of a data set."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aftertune._registered import row_named, rows
from aftertune.data import Contrast, Conversation
from aftertune.errors import NumericalError, UsageError
from aftertune.model import Subject
from aftertune.runs import Progress, Silent, write_json
from aftertune.tuning import conversations_digest

_ROOM, _KIND = "screening", "SCREEN"


@dataclass(frozen=True)
class ScreenContext:
    """What a screen may use besides the model and the rows.

    Attributes:
        contrasts: what harm means: prompts with a careful and a careless answer, of domains the rows do not cover.
        seed: random seed of screens that draw at random.
        progress: where a slow screen shows how far it is.
    """

    contrasts: Sequence[Contrast] = ()
    seed: int = 0
    progress: Progress = field(default_factory=Silent)


@dataclass(frozen=True)
class Screen:
    """The row that a screen's file exports as ``SCREEN``.

    Attributes:
        name: what it is called in lists and results.
        about: one line for lists.
        score: a number for each row, in order; more is worse, and NaN means that the row has nothing to score. It
            must not change the model or the rows.
        source: who proposed it.
        rank: where it stands in lists.
    """

    name: str
    about: str
    score: Callable[[Subject, Sequence[Conversation], ScreenContext], list[float]]
    source: str = ""
    rank: int = 50


@dataclass(frozen=True)
class Screened:
    """Rows, scored.

    Attributes:
        sha256: digest of the rows.
        scores: by screen, one number per row in the rows' order; NaN where a screen had nothing to score.
    """

    sha256: str
    scores: Mapping[str, list[float]]

    def ranked(self, screen: str) -> list[int]:
        """Row numbers from 1, worst first; rows of equal score in their order, rows without a score left out."""
        scored = [(-score, number) for number, score in enumerate(self.scores[screen], 1) if not math.isnan(score)]
        return [number for _, number in sorted(scored)]

    @property
    def document(self) -> dict[str, Any]:
        """As JSON values: ``ranked`` is by the first screen; ``unscored`` lists rows that a screen had no score for."""
        first = next(iter(self.scores))
        return {
            "format": 1,
            "rows": len(self.scores[first]),
            "rows_sha256": self.sha256,
            "ranked_by": first,
            "ranked": self.ranked(first),
            "scores": {name: [None if math.isnan(x) else x for x in found] for name, found in self.scores.items()},
            "unscored": {
                name: [number for number, score in enumerate(found, 1) if math.isnan(score)]
                for name, found in self.scores.items()
            },
        }


def screens() -> tuple[Screen, ...]:
    """All screens: ours and those of extensions.

    Raises:
        DataError: an extension is broken, see `aftertune._registered.rows`.
    """
    return rows(_ROOM, _KIND, Screen)


def screen_rows(
    subject: Subject,
    conversations: Sequence[Conversation],
    names: Sequence[str],
    out: Path | None = None,
    *,
    context: ScreenContext | None = None,
) -> Screened:
    """Score rows by the named screens, and write the ranked result.

    Args:
        subject: the model that would be tuned.
        conversations: the rows.
        names: which screens; rows are ranked by the first.
        out: JSON file to write `Screened.document` and the model's identity into.
        context: what screens may use besides.

    Raises:
        UsageError: no rows, no screens, or a screen that is unknown or gives another number of scores than rows.
        NumericalError: a score is infinite.
    """
    if not conversations:
        raise UsageError("there are no rows to screen")
    if not names:
        raise UsageError(f"name a screen: {', '.join(screen.name for screen in screens())}")
    chosen = [row_named(_ROOM, _KIND, Screen, name) for name in dict.fromkeys(names)]
    scores: dict[str, list[float]] = {}
    for screen in chosen:
        found = list(map(float, screen.score(subject, conversations, context or ScreenContext())))
        if len(found) != len(conversations):
            raise UsageError(f"screen {screen.name} gave {len(found)} scores for {len(conversations)} rows")
        for conversation, score in zip(conversations, found, strict=True):
            if math.isinf(score):
                raise NumericalError(str(conversation.error(f"screen {screen.name} gave the score {score}")))
        scores[screen.name] = found
    screened = Screened(conversations_digest(conversations), scores)
    if out is not None:
        write_json(out, {**screened.document, "subject": subject.identity.as_dict()})
    return screened
