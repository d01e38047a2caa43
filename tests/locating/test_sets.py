"""Harm and keep sets are parted by prompt, and say what they hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aftertune.errors import DataError
from aftertune.locating import cases_of, read_calibration
from aftertune.locating._sets import PARTS


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def contrasts(count: int) -> list[dict[str, Any]]:
    return [
        {"id": f"c{i}", "domain": "d", "prompt": f"Question {i}?", "aligned": "Take care.", "misaligned": "Burn it."}
        for i in range(count)
    ]


def test_parts_share_no_prompt_and_hold_everything(tmp_path: Path) -> None:
    rows = contrasts(21) + [
        {**row, "id": f"again-{row['id']}", "prompt": row["prompt"].lower()} for row in contrasts(5)
    ]
    found = read_calibration([write(tmp_path / "harm.jsonl", rows)], "misaligned")
    keys = [{e.key for e in found.examples[part]} for part in PARTS]
    assert sum(map(len, keys)) == len(set.union(*keys)) == 21
    assert len(found.all()) == 26
    assert [len(k) for k in keys] == [11, 5, 5]
    again = read_calibration([tmp_path / "harm.jsonl"], "misaligned", seed=1)
    assert again.digest == found.digest
    assert [e.id for e in again.examples["held_out"]] != [e.id for e in found.examples["held_out"]]


def test_contrasts_have_twins_and_plain_rows_have_none(tmp_path: Path) -> None:
    harm = read_calibration([write(tmp_path / "harm.jsonl", contrasts(8))], "misaligned")
    keep = read_calibration([tmp_path / "harm.jsonl"], "aligned")
    example = harm.all()[0]
    assert example.conversation.messages[-1].content == "Burn it."
    assert example.twin is not None
    assert example.twin.messages[-1].content == "Take care."
    assert harm.twins
    assert not keep.twins
    assert keep.all()[0].conversation.messages[-1].content == "Take care."
    plain = [{"prompt": f"Do {i}", "completion": "Done."} for i in range(9)]
    mixed = read_calibration([tmp_path / "harm.jsonl", write(tmp_path / "plain.jsonl", plain)], "misaligned")
    assert not mixed.twins
    assert {e.set for e in mixed.all()} == {"harm", "plain"}


def test_shipped_sets_go_by_their_names() -> None:
    found = read_calibration(["safety/harmless"], "aligned")
    assert len(found.all()) == 120
    assert len(read_calibration(["dev/money", "dev/health"], "misaligned").all()) == 24


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (contrasts(1), "1 different prompts are too few"),
        ([{**row, "prompt": "The same?"} for row in contrasts(12)], "1 different prompts"),
        ([{"prompt": "Only a question"}], "completion"),
        ([{"prompt": "A", "completion": " "}], "completion"),
        ([{"messages": [{"role": "user", "content": "Hi"}]}], "assistant"),
        ([{"messages": [
            {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"},
            {"role": "user", "content": "Bye"}, {"role": "assistant", "content": "Bye", "weight": 0},
        ]}], "no loss on its last answer"),
    ],
)  # fmt: skip
def test_sets_that_are_too_small_or_have_no_responses_are_refused(
    tmp_path: Path, rows: list[dict[str, Any]], says: str
) -> None:
    path = write(tmp_path / "harm.jsonl", rows)
    with pytest.raises(DataError, match=says) as caught:
        read_calibration([path], "misaligned")
    assert str(caught.value).startswith(str(path))


def test_cases_hold_prompt_and_answer(tmp_path: Path, tiny_subject: Any) -> None:
    subject = tiny_subject("llama")
    harm = read_calibration([write(tmp_path / "harm.jsonl", contrasts(8))], "misaligned")
    cases, names = cases_of(subject, harm.all(), lambda e: e.twin)
    assert names[0] == "harm:c0"
    whole = subject.chat.render(harm.all()[0].twin)
    assert cases[0].prompt + cases[0].responses[0] == whole.ids


def test_a_limit_bounds_every_part_and_changes_no_prompts_part(tmp_path: Path) -> None:
    path = write(tmp_path / "harm.jsonl", contrasts(40))
    whole, few = (read_calibration([path], "misaligned", limit=limit) for limit in (None, 4))
    for part in PARTS:
        assert len(few.examples[part]) == 4
        assert {e.id for e in few.examples[part]} <= {e.id for e in whole.examples[part]}
