"""Judges that rate a subject's answers by a rubric, and rules that sort answers without one.

Importing this room brings Inspect, which takes seconds: rooms that must start fast import it late.
"""

from aftertune.judges._agreement import (
    Agreement,
    Calibration,
    LabelledAnswer,
    agreement,
    alpha,
    calibrate,
    read_labelled,
)
from aftertune.judges._grader import (
    OPINIONS,
    Opinion,
    grader,
    graders,
    read_opinions,
    same_model,
    second_opinions,
)
from aftertune.judges._offline_facts import (
    OFFLINE_PROVIDER,
    OFFLINE_RUBRICS,
    is_offline,
    minilm_folder,
    offline_note,
    refuse_unserved,
)
from aftertune.judges._rating import Rating, expected_value, rate
from aftertune.judges._reply import read_reply
from aftertune.judges._response_kind import (
    RESPONSE_KINDS,
    ResponseForm,
    ResponseKind,
    answer_text,
    code_lines,
    response_kind,
    split_fences,
)
from aftertune.judges._rubrics import RUBRICS, JudgedTexts, Rubric, judge_prompt, read_judge_prompt

__all__ = [
    "OFFLINE_PROVIDER",
    "OFFLINE_RUBRICS",
    "OPINIONS",
    "RESPONSE_KINDS",
    "RUBRICS",
    "Agreement",
    "Calibration",
    "JudgedTexts",
    "LabelledAnswer",
    "Opinion",
    "Rating",
    "ResponseForm",
    "ResponseKind",
    "Rubric",
    "agreement",
    "alpha",
    "answer_text",
    "calibrate",
    "code_lines",
    "expected_value",
    "grader",
    "graders",
    "is_offline",
    "judge_prompt",
    "minilm_folder",
    "offline_note",
    "rate",
    "read_judge_prompt",
    "read_labelled",
    "read_opinions",
    "read_reply",
    "refuse_unserved",
    "response_kind",
    "same_model",
    "second_opinions",
    "split_fences",
]
