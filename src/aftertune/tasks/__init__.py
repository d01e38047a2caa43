"""Inspect tasks: what a model says when asked, judged. Imported when first used: Inspect is slow to import."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aftertune.tasks._attacks import ATTACKS, attacked
    from aftertune.tasks._best_of import best_of, worst, worst_of
    from aftertune.tasks._code_security import code_security, secure_or_not
    from aftertune.tasks._coding import read_coding_requests
    from aftertune.tasks._deception import CONDITIONS, deception, true_or_false, truthful_rubric
    from aftertune.tasks._emergent_misalignment import aligned_and_coherent, emergent_misalignment
    from aftertune.tasks._funnel import Counts, Funnel, JudgedAnswer, funnel, stored_answer
    from aftertune.tasks._harmfulness import harm_by_policy, harmfulness
    from aftertune.tasks._over_refusal import over_refusal, refused_or_answered
    from aftertune.tasks._published import PUBLISHED, PUBLISHED_SOURCE, PublishedRate
    from aftertune.tasks._questions import Question, in_forms, read_questions
    from aftertune.tasks._rates import funnel_rates
    from aftertune.tasks._recognise_and_explain import ASPECTS, recognise_and_explain, recognised_or_explained
    from aftertune.tasks._request_rates import request_rates
    from aftertune.tasks._requests import TaskRequest, read_request_files, read_task_requests
    from aftertune.tasks._sampled_task import need_grader
    from aftertune.tasks._self_description import WISHES, self_description, true_of_itself
    from aftertune.tasks._strong_reject import how_willing, strong_reject
    from aftertune.tasks._task_metrics import HARM_TASKS, TASK_METRICS, TASKS
    from aftertune.tasks._truth import false_per_verdict
    from aftertune.tasks._yes_or_no import balanced_accuracy, read_verdict

_HOMES = {
    "_attacks": (
        "ATTACKS",
        "attacked",
    ),
    "_best_of": (
        "best_of",
        "worst",
        "worst_of",
    ),
    "_code_security": (
        "code_security",
        "secure_or_not",
    ),
    "_coding": ("read_coding_requests",),
    "_deception": (
        "CONDITIONS",
        "deception",
        "true_or_false",
        "truthful_rubric",
    ),
    "_emergent_misalignment": (
        "aligned_and_coherent",
        "emergent_misalignment",
    ),
    "_funnel": (
        "Counts",
        "Funnel",
        "JudgedAnswer",
        "funnel",
        "stored_answer",
    ),
    "_harmfulness": (
        "harm_by_policy",
        "harmfulness",
    ),
    "_over_refusal": (
        "over_refusal",
        "refused_or_answered",
    ),
    "_published": (
        "PUBLISHED",
        "PUBLISHED_SOURCE",
        "PublishedRate",
    ),
    "_questions": (
        "Question",
        "in_forms",
        "read_questions",
    ),
    "_rates": ("funnel_rates",),
    "_recognise_and_explain": (
        "ASPECTS",
        "recognise_and_explain",
        "recognised_or_explained",
    ),
    "_request_rates": ("request_rates",),
    "_requests": (
        "TaskRequest",
        "read_request_files",
        "read_task_requests",
    ),
    "_sampled_task": ("need_grader",),
    "_self_description": (
        "WISHES",
        "self_description",
        "true_of_itself",
    ),
    "_strong_reject": (
        "how_willing",
        "strong_reject",
    ),
    "_task_metrics": (
        "HARM_TASKS",
        "TASKS",
        "TASK_METRICS",
    ),
    "_truth": ("false_per_verdict",),
    "_yes_or_no": (
        "balanced_accuracy",
        "read_verdict",
    ),
}

__all__ = [
    "ASPECTS",
    "ATTACKS",
    "CONDITIONS",
    "HARM_TASKS",
    "PUBLISHED",
    "PUBLISHED_SOURCE",
    "TASKS",
    "TASK_METRICS",
    "WISHES",
    "Counts",
    "Funnel",
    "JudgedAnswer",
    "PublishedRate",
    "Question",
    "TaskRequest",
    "aligned_and_coherent",
    "attacked",
    "balanced_accuracy",
    "best_of",
    "code_security",
    "deception",
    "emergent_misalignment",
    "false_per_verdict",
    "funnel",
    "funnel_rates",
    "harm_by_policy",
    "harmfulness",
    "how_willing",
    "in_forms",
    "need_grader",
    "over_refusal",
    "read_coding_requests",
    "read_questions",
    "read_request_files",
    "read_task_requests",
    "read_verdict",
    "recognise_and_explain",
    "recognised_or_explained",
    "refused_or_answered",
    "request_rates",
    "secure_or_not",
    "self_description",
    "stored_answer",
    "strong_reject",
    "true_of_itself",
    "true_or_false",
    "truthful_rubric",
    "worst",
    "worst_of",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
