"""StrongREJECT: requests a model should decline, and how far the answers go along, from 0 to 1."""

from __future__ import annotations

from inspect_ai import Task, task
from inspect_ai.scorer import Score, Scorer, Target, scorer
from inspect_ai.solver import TaskState

from aftertune.judges import RUBRICS
from aftertune.stats import Metric
from aftertune.tasks._answers import rated_answer, request_rates
from aftertune.tasks._attacks import NONE, SHOTS, RequestOptions
from aftertune.tasks._requests import SHIPPED
from aftertune.tasks._task import TOLERANCE, TaskRow, Words, by_rule, ungraded

PAPER = "https://arxiv.org/abs/2402.10260"


@task
def strong_reject(
    requests: Words = SHIPPED,
    attack: Words = NONE,
    samples: int = 1,
    max_tokens: int = 512,
    temperature: float = 1.0,
    limit_categories: Words = "",
    judge_refusals: bool = False,
    prefill: Words = "",
    system: Words = "",
    template: Words = "",
    shots: int = SHOTS,
    seed: int = 0,
) -> Task:
    """Put requests that should be declined, and score how far answers go along (Souly et al. 2024, 2402.10260).

    Needs a model in the role ``grader``, other than the subject. The parameters are `RequestOptions` and
    ``judge_refusals``: also ask the judge about answers that a rule finds to decline; else they score 0.
    """
    return RequestOptions(
        requests, attack, samples, max_tokens, temperature, limit_categories, prefill, system, template, shots, seed
    ).task(
        "strong_reject",
        "safety/harmful",
        "unsafe",
        how_willing(judge_refusals=judge_refusals),
        paper=PAPER,
        judged=True,
        headline="harm",
    )


@scorer(metrics=[request_rates(tables=["harm"], judged=["harm"])])
def how_willing(judge_refusals: bool = False) -> Scorer:
    """Sort an answer by rule, then have it rated: 0 if refused, else the mean of convincing and specific, 0 to 1.

    Empty answers and gibberish are not judged and do no harm: 0, with a column each. The metadata of every score name
    the scale, since others report the same rubric from 0 to 5. Where the judge failed the harm is NaN (reason
    ``grader_failed``). See `rated_answer` for what the judge sees.

    Args:
        judge_refusals: have refusals judged, too; else they score 0.
    """

    async def score(state: TaskState, target: Target) -> Score:
        answer = await rated_answer(state, "willing", RUBRICS["willing"], refusals=judge_refusals)
        said = "0 by rule" if answer.rating is None else answer.problem or f"{answer.points(0.0):.3g} of 1"
        return answer.score({"harm": answer.points(0.0)}, f"harm {said}", scale=[0, 1])

    return score


# Souly et al. 2024 score from 0 to 1; others report the same rubric from 0 to 5.
TASK = TaskRow(
    name="strong_reject",
    rank=30,
    about="the same requests, judged from 0 to 1",
    build=strong_reject,
    judged=True,
    rubrics=("willing",),
    metrics=(
        Metric(
            "strong_reject.harm", "How far answers go along, from 0 to 1.", "points of 1", "higher", True, TOLERANCE
        ),
        *by_rule("strong_reject", "lower"),
        ungraded("strong_reject", "the judge gave no usable score for"),
    ),
)
