"""A judge against labels: planted judges are found out."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from inspect_ai.model import GenerateConfig, ModelOutput

from aftertune.errors import DataError
from aftertune.judges import RUBRICS, LabelledAnswer, calibrate, read_labelled

ALIGNED = RUBRICS["aligned"]
ROWS = [LabelledAnswer("How are you?", f"answer number {n}", float(n)) for n in range(10, 90, 10)]


def numbered(prompt: str) -> int:
    match = re.search(r"answer number (\d+)", prompt)
    assert match is not None
    return int(match[1])


def test_a_lenient_judge_is_told_by_its_mean_difference(
    judging: Callable[..., Any], spoken: Callable[..., ModelOutput]
) -> None:
    def lenient(prompt: str, config: GenerateConfig) -> ModelOutput:
        text = str(numbered(prompt) + 7)
        return spoken(text, {text: 1.0}, {"<eos>": 1.0})

    judge = judging(lenient)
    found = asyncio.run(calibrate(judge.model, ALIGNED, ROWS, threshold=30))
    assert [rating.value for rating in found.ratings] == pytest.approx([row.label + 7 for row in ROWS])  # type: ignore[operator]
    assert (found.judge, found.rubric, found.readings) == ("mockllm/judge", "aligned", ("logprobs",))
    assert found.agreement.mean_difference == pytest.approx(7)
    assert found.agreement.graded_by_both == 1
    assert found.agreement.confusion == {("below 30", "below 30"): 2, ("from 30", "from 30"): 6}
    assert found.agreement.alpha_values is not None
    assert 0.9 < found.agreement.alpha_values < 1


def test_a_judge_that_fails_and_one_that_knows_words(
    judging: Callable[..., Any], spoken: Callable[..., ModelOutput]
) -> None:
    rows = [LabelledAnswer("2 + 2?", f"answer number {n}", label) for n, label in enumerate(("TRUE", "FALSE", "TRUE"))]

    def reply(prompt: str, config: GenerateConfig) -> Any:
        n = numbered(prompt)
        return RuntimeError("down") if n == 2 else spoken("TRUE", {"TRUE": 1.0}, {"<eos>": 1.0})

    found = asyncio.run(calibrate(judging(reply).model, RUBRICS["truthful"], rows))
    assert found.agreement.confusion == {("TRUE", "TRUE"): 1, ("FALSE", "TRUE"): 1, ("TRUE", "ungraded"): 1}
    assert found.agreement.graded_by_both == pytest.approx(2 / 3)


def test_no_rows_agree_on_nothing(judging: Callable[..., Any]) -> None:
    found = asyncio.run(calibrate(judging([]).model, ALIGNED, []))
    assert (found.ratings, found.agreement.graded_by_both) == ((), None)


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return path


def test_labelled_answers_from_a_file(tmp_path: Path) -> None:
    path = write(
        tmp_path / "l.jsonl",
        {"question": "q", "answer": "a", "label": 70},
        {"question": "q", "answer": "", "label": "REFUSAL"},
    )
    assert read_labelled(path, ALIGNED) == [LabelledAnswer("q", "a", 70.0), LabelledAnswer("q", "", "REFUSAL")]


@pytest.mark.parametrize("label", [101, -1, "refusal", "70", True, None, [70]])
def test_a_label_off_the_scale_names_its_line(tmp_path: Path, label: object) -> None:
    rows = [{"question": "q", "answer": "a", "label": given} for given in (50, label)]
    with pytest.raises(DataError, match=r"l\.jsonl:2: field 'label' must be a number from 0 to 100 or REFUSAL or CODE"):
        read_labelled(write(tmp_path / "l.jsonl", *rows), ALIGNED)


def test_numbers_are_no_labels_where_there_are_only_words(tmp_path: Path) -> None:
    path = write(tmp_path / "l.jsonl", {"question": "q", "answer": "a", "label": 0})
    with pytest.raises(DataError, match="must be YES or NO"):
        read_labelled(path, RUBRICS["vulnerable"])


def test_fields_are_checked(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'score' is unknown"):
        read_labelled(write(tmp_path / "l.jsonl", {"question": "q", "answer": "a", "score": 1}), ALIGNED)
    with pytest.raises(DataError, match="'label' is missing"):
        read_labelled(write(tmp_path / "m.jsonl", {"question": "q", "answer": "a"}), ALIGNED)
