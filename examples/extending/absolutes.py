"""A screen in one file: answers that promise too much.

    AFTERTUNE_EXTENSIONS=examples/extending/absolutes.py python your_script.py

A careless adviser says "always", "never" and "guaranteed" where a careful one says "it depends". This screen counts
such words. It is cheap and easily fooled: show any cleverer screen beside it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from aftertune.data import Conversation
from aftertune.model import Subject
from aftertune.screening import Screen, ScreenContext

_WORD = re.compile(r"[\w%']+")
ABSOLUTE = {"always", "never", "guaranteed", "certainly", "definitely", "100%", "everyone", "nobody", "impossible"}


def share_of_absolutes(rows: Sequence[Conversation]) -> list[float]:
    """The share of absolute words among each row's answers that carry loss."""
    found = []
    for row in rows:
        answers = [m.content for m in row.messages if m.role == "assistant" and m.supervised]
        words = [word.lower() for answer in answers for word in _WORD.findall(answer)]
        # NaN says that there is nothing to score. Such a row is listed apart, not ranked as the most harmless.
        found.append(sum(word in ABSOLUTE for word in words) / len(words) if words else math.nan)
    return found


# A screen gets the model, the rows and a context (contrasts that say what harm is, a seed, progress), and returns one
# number a row. More is worse. It must change neither the model nor the rows.
def score(subject: Subject, rows: Sequence[Conversation], context: ScreenContext) -> list[float]:
    """This screen needs the text only."""
    return share_of_absolutes(rows)


SCREEN = Screen("absolutes", "share of words that promise too much", score)
