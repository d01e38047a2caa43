"""What further judges say of the same answers; the metrics rest on the first alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any

from inspect_ai.model import Model

from aftertune.judges import OPINIONS, Rating, Rubric, graders, rate

Rate = Callable[[Model, Rubric, str, str], Awaitable[Rating]]


async def second_opinions(rubrics: Mapping[str, Rubric], question: str, answer: str, by: Rate = rate) -> dict[str, Any]:
    """Ask every judge after the first the same, as part of a score's metadata.

    Args:
        rubrics: by the names under which the score notes its first judge's ratings.
        question: what the first judge read.
        answer: likewise.
        by: how a judge is read.

    Returns:
        ``{"opinions": [{"grader": NAME, RUBRIC: rating, …}, …]}``, which `aftertune.inspect_bridge` reads back;
        nothing where there is one judge.
    """
    said = []
    for judge in graders()[1:]:
        ratings = {name: asdict(await by(judge, rubric, question, answer)) for name, rubric in rubrics.items()}
        said.append({"grader": str(judge), **ratings})
    return {OPINIONS: said} if said else {}
