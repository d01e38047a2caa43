"""Who judges: the models in the grader role, never the subject itself; and what each of them said of an answer."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from inspect_ai.model import Model, get_model, model_roles

from aftertune.errors import UsageError
from aftertune.judges._rating import rate
from aftertune.judges._rubrics import Rubric
from aftertune.model import Subject

ROLE = "grader"
OPINIONS = "opinions"


def grader() -> Model:
    """The judge of the running evaluation: the first model in the role "grader".

    Raises:
        UsageError: no model has the role, or the one that has it is the subject.
    """
    return graders()[0]


def graders() -> tuple[Model, ...]:
    """Every model in the role "grader", checked as in `grader`; those after the first give second opinions."""
    bound = model_roles().get(ROLE)
    judges = tuple(bound) if isinstance(bound, list) else () if bound is None else (bound,)
    if not judges:
        raise UsageError(f"this task needs a judge, and none is named; add --model-role {ROLE}=PROVIDER/MODEL")
    subject = _subject()
    for judge in judges:
        if subject is not None and same_model(judge, subject):
            raise UsageError(
                f"{judge} is the model under evaluation and may not judge itself; "
                f"name another with --model-role {ROLE}=PROVIDER/MODEL"
            )
    return judges


def same_model(first: Model, second: Model) -> bool:
    """Whether two models are one.

    They are if they share a provider object; if both are subjects of ours with the same weights and patches, however
    they are named; or if name, arguments and address are the same.
    """
    if first.api is second.api:
        return True
    ours = [s for model in (first, second) if isinstance(s := getattr(model.api, "present", None), Subject)]
    if len(ours) == 2:
        one, other = (subject.identity for subject in ours)
        return (one.weights_sha256, one.patches) == (other.weights_sha256, other.patches)
    return (
        str(first) == str(second)
        and first.api.base_url == second.api.base_url
        and _arguments(first) == _arguments(second)
    )


async def second_opinions(rubrics: Mapping[str, Rubric], question: str, answer: str) -> dict[str, Any]:
    """Ask every judge after the first the same, as part of a score's metadata; metrics rest on the first alone.

    Args:
        rubrics: by the names under which the score notes its first judge's ratings.
        question: what the first judge read.
        answer: likewise.

    Returns:
        ``{"opinions": [{"grader": NAME, RUBRIC: rating, …}, …]}``, which `read_opinions` reads; empty where there is
        one judge.
    """
    said = []
    for judge in graders()[1:]:
        ratings = {name: asdict(await rate(judge, rubric, question, answer)) for name, rubric in rubrics.items()}
        said.append({"grader": str(judge), **ratings})
    return {OPINIONS: said} if said else {}


def _subject() -> Model | None:
    try:
        return get_model()
    except ValueError:  # no evaluation runs
        return None


def _arguments(model: Model) -> str:
    # Live objects, such as weights in memory, are the same only if they are one object.
    return json.dumps(model.model_args, sort_keys=True, default=lambda value: f"{type(value).__name__}@{id(value)}")


@dataclass(frozen=True)
class Opinion:
    """One judge on one answer by one rubric.

    Attributes:
        judge: its name.
        rubric: what it was asked, as the scorer names it, such as "aligned".
        value: on the rubric's scale; None where there is no number.
        word: one of the rubric's words; None where there is none. Without both the answer is ungraded.
        place: 0 for the judge that the metrics rest on, 1 and on for second opinions.
    """

    judge: str
    rubric: str
    value: float | None = None
    word: str | None = None
    place: int = 0


def read_opinions(scores: Iterable[Mapping[str, Any] | None]) -> tuple[Opinion, ...]:
    """The ratings of one answer, those of the first judge first.

    A scorer of ours notes its judge under ``grader``, its rubrics under ``rubrics``, and what the judge said under
    each rubric's name. Second opinions stand in the list ``opinions``, each noted likewise: a judge under ``grader``,
    ratings under the rubrics' names. Or they are scores of their own, as ``inspect score --action append`` adds them.

    Args:
        scores: metadata of the answer's scores, in the order of the log.

    Returns:
        Nothing for scores of other tasks, and of answers that were not shown to a judge.
    """
    found: list[Opinion] = []
    place = 0
    for metadata in scores:
        rubrics = (metadata or {}).get("rubrics")
        if not metadata or not isinstance(rubrics, Mapping):
            continue
        further = metadata.get(OPINIONS)
        for noted in (metadata, *(further if isinstance(further, list) else ())):
            if isinstance(noted, Mapping) and isinstance(noted.get("grader"), str):
                found.extend(_ratings(noted, rubrics, place))
                place += 1
    return tuple(found)


def _ratings(noted: Mapping[str, Any], rubrics: Iterable[str], place: int) -> Iterator[Opinion]:
    for rubric in rubrics:
        rating = noted.get(rubric)
        if not isinstance(rating, Mapping):
            continue
        word = rating.get("word")
        yield Opinion(
            judge=noted["grader"],
            rubric=rubric,
            value=_finite(rating.get("value")),
            word=word if isinstance(word, str) else None,
            place=place,
        )


def _finite(value: Any) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None
