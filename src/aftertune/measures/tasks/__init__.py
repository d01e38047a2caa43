"""Inspect tasks: what a model says when asked, judged. Importing this room imports Inspect."""

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
from aftertune.measures.tasks._questions import Question, in_forms, read_questions
from aftertune.measures.tasks._rates import funnel_rates

__all__ = [
    "Counts",
    "Funnel",
    "JudgedAnswer",
    "Question",
    "aligned_and_coherent",
    "emergent_misalignment",
    "funnel",
    "funnel_rates",
    "in_forms",
    "need_grader",
    "read_questions",
    "stored_answer",
]
