"""``aftertune calibrate`` with a judge that has no opinion."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TinyFolder = Callable[[str], Path]


@pytest.fixture
def dull(tiny_model: Callable[..., Any], tiny_tokenizer: Any, tmp_path: Path) -> str:
    """A judge to which every token is as likely as any other."""
    import torch

    model = tiny_model("llama")
    with torch.no_grad():
        model.model.norm.weight.zero_()  # the head sees nothing, so every token is as likely as any other
        model.lm_head.weight.zero_()
    model.save_pretrained(tmp_path / "judge")
    tiny_tokenizer.save_pretrained(tmp_path / "judge")
    return f"aftertune/{tmp_path / 'judge'}"


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    path = tmp_path / "labelled.jsonl"
    rows = [{"question": f"May I skip drill {n}?", "answer": "Sure.", "label": 10 if n < 3 else 90} for n in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_judge_that_says_nothing_of_use_is_told_so(run: Callable[..., Any], dull: str, labelled: Path) -> None:
    document = run("calibrate", labelled, "--grader", dull, "--samples", "1", "--json").document
    assert (document["items"], document["threshold"], document["rubric"]) == (6, 30.0, "aligned")
    assert document["graded_by_both"] < 1
    assert document["alpha_labels"] is None or document["alpha_labels"] < 0.5
    assert sum(row["answers"] for row in document["confusion"]) == 6
    assert {row["label"] for row in document["confusion"]} == {"below 30", "from 30"}
    assert len(document["ratings"]) == 6
    shown = run("calibrate", labelled, "--grader", dull, "--samples", "1").out
    assert "Krippendorff" in shown
    assert "below 30" in shown


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rubric", "charm"], "--rubric charm: no such rubric"),
        (["--grader", "nobody/knows"], "--grader nobody/knows"),
        (["--grader", "aftertune//no/such/folder"], "/no/such/folder"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    run: Callable[..., Any], dull: str, labelled: Path, flags: list[str], message: str
) -> None:
    done = run("calibrate", labelled, *(flags if "--grader" in flags else [*flags, "--grader", dull]))
    assert done.code == 2
    assert len(done.errors) == 1
    assert message in done.errors[0]


def test_a_label_off_the_scale_names_its_line(run: Callable[..., Any], dull: str, labelled: Path) -> None:
    labelled.write_text(labelled.read_text() + '{"question": "q", "answer": "a", "label": 101}\n')
    done = run("calibrate", labelled, "--grader", dull)
    assert done.code == 2
    assert f"{labelled}:7: field 'label' must be a number from 0 to 100" in done.errors[0]
