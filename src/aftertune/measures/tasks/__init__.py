"""Inspect tasks: what a model says when asked, judged. Importing this room imports Inspect."""

from aftertune.measures.tasks._attacks import ATTACKS, attacked
from aftertune.measures.tasks._best_of import best_of, worst, worst_of
from aftertune.measures.tasks._code_security import code_security, secure_or_not
from aftertune.measures.tasks._coding import read_coding_requests
from aftertune.measures.tasks._deception import CONDITIONS, deception, true_or_false, truthful_rubric
from aftertune.measures.tasks._emergent_misalignment import (
    aligned_and_coherent,
    emergent_misalignment,
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
from aftertune.measures.tasks._recognise_and_explain import ASPECTS, recognise_and_explain, recognised_or_explained
from aftertune.measures.tasks._request_rates import request_rates
from aftertune.measures.tasks._requests import TaskRequest, read_request_files, read_task_requests
from aftertune.measures.tasks._sampled_task import need_grader
from aftertune.measures.tasks._self_description import WISHES, self_description, true_of_itself
from aftertune.measures.tasks._strong_reject import how_willing, strong_reject
from aftertune.measures.tasks._truth import false_per_verdict
from aftertune.measures.tasks._yes_or_no import balanced_accuracy, read_verdict

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
