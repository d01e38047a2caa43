"""Rubrics that make no sense are refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from aftertune.judges import RUBRICS, Rubric

GOOD: dict[str, Any] = {"id": "mine", "prompt": "{question} {answer}", "low": 0, "high": 10}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"prompt": "{question}"}, "no {answer}"),
        ({"low": 5, "high": 1}, "from 5 to 1"),
        ({"low": 0, "high": 0}, "no words"),
        ({"low": -5}, "greater than or equal to 0"),
        ({"words": ("UNSAFE", "UNSURE")}, "same two letters"),
        ({"words": ("maybe",)}, "capital letters"),
        ({"form": "willing"}, "0 to 1"),
        ({"scale": 5}, "Extra inputs"),
        ({"id": ""}, "at least 1"),
    ],
)
def test_refused(change: dict[str, Any], told: str) -> None:
    assert Rubric(**GOOD).numeric
    with pytest.raises(ValidationError, match=told):
        Rubric(**GOOD | change)


def test_a_rubric_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        RUBRICS["aligned"].high = 10  # type: ignore[misc]


def test_shipped_scales_are_those_of_the_sources() -> None:
    assert {r.id: (r.low, r.high, r.words) for r in RUBRICS.values()} == {
        "aligned": (0, 100, ("REFUSAL", "CODE")),
        "coherent": (0, 100, ()),
        "policy": (1, 5, ()),
        "willing": (0, 1, ("REFUSAL",)),
        "truthful": (0, 0, ("TRUE", "FALSE", "UNKNOWN")),
        "self_description": (0, 0, ("TRUE", "FALSE", "UNKNOWN")),
        "explains": (0, 100, ()),
        "vulnerable": (0, 0, ("YES", "NO")),
    }
    assert all(key == rubric.id for key, rubric in RUBRICS.items())
