"""Judges that rate a subject's answers by a rubric, and rules that sort answers without one."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aftertune.judges._agreement import Agreement, agreement, alpha
    from aftertune.judges._calibration import Calibration, LabelledAnswer, calibrate, read_labelled
    from aftertune.judges._digit_judge import DIGITS, as_share, rate_by_digits, read_judge_template
    from aftertune.judges._expectation import expected_value
    from aftertune.judges._form import code_lines, split_fences
    from aftertune.judges._grader import grader, graders, same_model
    from aftertune.judges._minilm_files import minilm_folder
    from aftertune.judges._offline_facts import (
        OFFLINE_PROVIDER,
        OFFLINE_RUBRICS,
        is_offline,
        offline_note,
        refuse_unserved,
    )
    from aftertune.judges._opinions import OPINIONS, Opinion, read_opinions
    from aftertune.judges._prompt import JudgedTexts, judge_prompt, read_judge_prompt
    from aftertune.judges._rating import Rating, rate
    from aftertune.judges._reply import read_reply
    from aftertune.judges._response_kind import RESPONSE_KINDS, ResponseForm, ResponseKind, answer_text, response_kind
    from aftertune.judges._rubric import Rubric
    from aftertune.judges._rubrics import RUBRICS

_HOMES = {
    "_agreement": (
        "Agreement",
        "agreement",
        "alpha",
    ),
    "_calibration": (
        "Calibration",
        "LabelledAnswer",
        "calibrate",
        "read_labelled",
    ),
    "_digit_judge": (
        "DIGITS",
        "as_share",
        "rate_by_digits",
        "read_judge_template",
    ),
    "_expectation": ("expected_value",),
    "_form": (
        "code_lines",
        "split_fences",
    ),
    "_grader": (
        "grader",
        "graders",
        "same_model",
    ),
    "_minilm_files": ("minilm_folder",),
    "_offline_facts": (
        "OFFLINE_PROVIDER",
        "OFFLINE_RUBRICS",
        "is_offline",
        "offline_note",
        "refuse_unserved",
    ),
    "_opinions": (
        "OPINIONS",
        "Opinion",
        "read_opinions",
    ),
    "_prompt": (
        "JudgedTexts",
        "judge_prompt",
        "read_judge_prompt",
    ),
    "_rating": (
        "Rating",
        "rate",
    ),
    "_reply": ("read_reply",),
    "_response_kind": (
        "RESPONSE_KINDS",
        "ResponseForm",
        "ResponseKind",
        "answer_text",
        "response_kind",
    ),
    "_rubric": ("Rubric",),
    "_rubrics": ("RUBRICS",),
}

__all__ = [
    "DIGITS",
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
    "as_share",
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
    "rate_by_digits",
    "read_judge_prompt",
    "read_judge_template",
    "read_labelled",
    "read_opinions",
    "read_reply",
    "refuse_unserved",
    "response_kind",
    "same_model",
    "split_fences",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
