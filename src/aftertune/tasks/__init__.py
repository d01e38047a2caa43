"""Inspect tasks: what a model says when asked, judged. A task is one module of this room that exports its row ``TASK``.

Importing this room brings Inspect, which takes seconds: rooms that must start fast import it late.
"""

from aftertune.tasks._answers import false_per_verdict, request_rates
from aftertune.tasks._attacks import ATTACKS, attacked
from aftertune.tasks._code_security import code_security, secure_or_not
from aftertune.tasks._deception import CONDITIONS, deception, true_or_false, truthful_rubric
from aftertune.tasks._emergent_misalignment import aligned_and_coherent, emergent_misalignment
from aftertune.tasks._funnel import Counts, Funnel, JudgedAnswer, funnel, funnel_rates, stored_answer
from aftertune.tasks._harmfulness import harm_by_policy, harmfulness
from aftertune.tasks._over_refusal import over_refusal, refused_or_answered
from aftertune.tasks._questions import Question, in_forms, read_questions
from aftertune.tasks._recognise_and_explain import (
    ASPECTS,
    balanced_accuracy,
    read_verdict,
    recognise_and_explain,
    recognised_or_explained,
)
from aftertune.tasks._requests import TaskRequest, read_coding_requests, read_request_files, read_task_requests
from aftertune.tasks._self_description import WISHES, self_description, true_of_itself
from aftertune.tasks._strong_reject import how_willing, strong_reject
from aftertune.tasks._task import TaskRow, best_of, need_grader, task_rows, worst, worst_of

__all__ = [
    "ASPECTS",
    "ATTACKS",
    "CONDITIONS",
    "WISHES",
    "Counts",
    "Funnel",
    "JudgedAnswer",
    "Question",
    "TaskRequest",
    "TaskRow",
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
    "task_rows",
    "true_of_itself",
    "true_or_false",
    "truthful_rubric",
    "worst",
    "worst_of",
]
