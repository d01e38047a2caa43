"""Inspect tasks: what a model says when asked, judged. Importing this room imports Inspect."""

from aftertune.measures.tasks._attacks import ATTACKS, attacked
from aftertune.measures.tasks._best_of import best_of, worst, worst_of
from aftertune.measures.tasks._emergent_misalignment import (
    aligned_and_coherent,
    emergent_misalignment,
    need_grader,
)
from aftertune.measures.tasks._funnel import (
    Counts,
    Funnel,
    JudgedAnswer,
    funnel,
    stored_answer,
)
from aftertune.measures.tasks._harmfulness import harm_by_policy, harmfulness
from aftertune.measures.tasks._over_refusal import over_refusal, refused_or_answered
from aftertune.measures.tasks._questions import Question, in_forms, read_questions
from aftertune.measures.tasks._rates import funnel_rates
from aftertune.measures.tasks._request_rates import request_rates
from aftertune.measures.tasks._requests import TaskRequest, read_task_requests

__all__ = [
    "ATTACKS",
    "Counts",
    "Funnel",
    "JudgedAnswer",
    "Question",
    "TaskRequest",
    "aligned_and_coherent",
    "attacked",
    "best_of",
    "emergent_misalignment",
    "funnel",
    "funnel_rates",
    "harm_by_policy",
    "harmfulness",
    "in_forms",
    "need_grader",
    "over_refusal",
    "read_questions",
    "read_task_requests",
    "refused_or_answered",
    "request_rates",
    "stored_answer",
    "worst",
    "worst_of",
]
