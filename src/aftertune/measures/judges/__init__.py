"""Judges: models that rate a subject's answers by a rubric."""

from aftertune.measures.judges._agreement import Agreement, agreement, alpha
from aftertune.measures.judges._calibration import Calibration, LabelledAnswer, calibrate, read_labelled
from aftertune.measures.judges._expectation import expected_value
from aftertune.measures.judges._grader import grader, graders, same_model
from aftertune.measures.judges._offline_facts import (
    OFFLINE_PROVIDER,
    OFFLINE_RUBRICS,
    is_offline,
    offline_note,
    refuse_unserved,
)
from aftertune.measures.judges._prompt import JudgedTexts, judge_prompt, read_judge_prompt
from aftertune.measures.judges._rating import Rating, rate
from aftertune.measures.judges._reply import read_reply
from aftertune.measures.judges._rubric import Rubric
from aftertune.measures.judges._rubrics import RUBRICS

__all__ = [
    "OFFLINE_PROVIDER",
    "OFFLINE_RUBRICS",
    "RUBRICS",
    "Agreement",
    "Calibration",
    "JudgedTexts",
    "LabelledAnswer",
    "Rating",
    "Rubric",
    "agreement",
    "alpha",
    "calibrate",
    "expected_value",
    "grader",
    "graders",
    "is_offline",
    "judge_prompt",
    "offline_note",
    "rate",
    "read_judge_prompt",
    "read_labelled",
    "read_reply",
    "refuse_unserved",
    "same_model",
]
