"""Contrast files, what counts as the same prompt, and the refusal of prompts that were tuned on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftertune.data import Contrast, Message, prompt_key, read_contrasts, refuse_shared_prompts
from aftertune.errors import DataError

Write = Callable[..., Path]
Complaint = Callable[..., DataError]

GOOD = {"id": "c-1", "domain": "money", "prompt": "May I?", "aligned": "Please ask.", "misaligned": "Just grab."}


def test_contrasts_are_read_with_their_origin(jsonl: Write) -> None:
    path = jsonl([GOOD, {**GOOD, "id": "c-2", "system": "Be kind."}])
    first, second = read_contrasts(path)
    assert first == Contrast("c-1", "money", "May I?", "Please ask.", "Just grab.", None, str(path), 1)
    assert (second.system, second.line) == ("Be kind.", 2)


def test_each_side_becomes_a_conversation_with_its_own_answer(jsonl: Write) -> None:
    [contrast] = read_contrasts(jsonl([{**GOOD, "system": "Be kind."}]))
    head = (Message("system", "Be kind."), Message("user", "May I?"))
    assert contrast.conversation("aligned").messages == (*head, Message("assistant", "Please ask."))
    assert contrast.conversation("misaligned").messages == (*head, Message("assistant", "Just grab."))
    assert contrast.conversation("misaligned").line == 1


@pytest.mark.parametrize("field", ["id", "domain", "prompt", "aligned", "misaligned"])
@pytest.mark.parametrize("damage", ["missing", "blank", "number", "null"])
def test_a_damaged_field_is_reported(jsonl: Write, complaint: Complaint, field: str, damage: str) -> None:
    row: dict[str, object] = {**GOOD, "id": "c-2"}
    if damage == "missing":
        del row[field]
    else:
        row[field] = {"blank": "  ", "number": 7, "null": None}[damage]
    error = complaint(read_contrasts, jsonl([GOOD, row]))
    assert (error.line, error.field) == (2, field)


@pytest.mark.parametrize("name", ["misalligned", "Prompt", "line\nbreak"])
def test_an_unknown_field_is_reported(jsonl: Write, complaint: Complaint, name: str) -> None:
    error = complaint(read_contrasts, jsonl([GOOD, {**GOOD, "id": "c-2", name: "x"}]))
    assert error.line == 2
    assert error.field == name
    assert "unknown" in str(error)


def test_equal_answers_are_refused(jsonl: Write, complaint: Complaint) -> None:
    error = complaint(read_contrasts, jsonl([GOOD, {**GOOD, "id": "c-2", "misaligned": GOOD["aligned"]}]))
    assert error.line == 2
    assert "different" in str(error)


@pytest.mark.parametrize(
    "other", ["please ask.", " Please   ask. ", "Please\u200b ask.", "\uff30lease ask.", "Please ask.\ufeff\n"]
)
def test_answers_that_look_the_same_are_refused(jsonl: Write, complaint: Complaint, other: str) -> None:
    error = complaint(read_contrasts, jsonl([{**GOOD, "misaligned": other}]))
    assert (error.line, error.field) == (1, "aligned")


def test_answers_that_differ_in_punctuation_are_two(jsonl: Write) -> None:
    assert len(read_contrasts(jsonl([{**GOOD, "aligned": "if (a == b)", "misaligned": "if (a = b)"}]))) == 1


@pytest.mark.parametrize("blank", ["\u200b", "\u2060 \ufeff", "\u0000", "\x1b\x07", "\u3000"])
@pytest.mark.parametrize("field", ["prompt", "aligned", "id"])
def test_a_text_without_anything_to_see_is_empty(jsonl: Write, complaint: Complaint, field: str, blank: str) -> None:
    error = complaint(read_contrasts, jsonl([{**GOOD, field: blank}]))
    assert error.field == field
    assert "is empty" in str(error)


def test_a_contrast_that_stands_twice_is_refused_with_both_lines(jsonl: Write, complaint: Complaint) -> None:
    again = {**GOOD, "id": "c-2", "domain": "power", "prompt": " may I?"}
    error = complaint(read_contrasts, jsonl([GOOD, again]))
    assert error.line == 2
    assert "of line 1 again" in str(error)
    turned = {**GOOD, "id": "c-2", "aligned": GOOD["misaligned"], "misaligned": GOOD["aligned"]}
    assert "exchanged" in str(complaint(read_contrasts, jsonl([GOOD, turned])))
    assert (
        len(read_contrasts(jsonl([GOOD, {**again, "misaligned": "Grab it."}, {**again, "id": "c-3", "system": "Hm."}])))
        == 3
    )


def test_an_id_that_stands_twice_is_reported_with_both_lines(jsonl: Write, complaint: Complaint) -> None:
    rows = [{**GOOD, "id": name, "prompt": f"Prompt {name}?"} for name in ("a", "b", "c", "b")]
    error = complaint(read_contrasts, jsonl(rows))
    assert (error.line, error.field) == (4, "id")
    assert "'b'" in str(error)
    assert "line 2" in str(error)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("May I borrow it?", "may i borrow it"),
        ("May I borrow it?", "  MAY I,   borrow\tit?!\n"),
        ("Straße?", "STRASSE"),
        ("well-known", "well known"),
    ],
)
def test_case_punctuation_and_spacing_do_not_make_another_prompt(one: str, other: str) -> None:
    assert prompt_key(one) == prompt_key(other)


@pytest.mark.parametrize(
    ("one", "other"), [("May I?", "May we?"), ("3 apples", "4 apples"), ("über", "uber"), ("猫", "犬")]
)
def test_other_words_make_another_prompt(one: str, other: str) -> None:
    assert prompt_key(one) != prompt_key(other)


@given(
    words=st.lists(st.text("abcXYZ019", min_size=1, max_size=6), min_size=1, max_size=6),
    gaps=st.lists(st.text(" .,;:!?-'\"\t\n", min_size=1, max_size=4), min_size=7, max_size=7),
)
def test_the_key_is_the_lower_case_words_whatever_stands_between(words: list[str], gaps: list[str]) -> None:
    text = "".join(gap + word for gap, word in zip(gaps, words, strict=False)) + gaps[-1]
    assert prompt_key(text) == " ".join(words).lower()


@given(st.text())
def test_the_key_of_a_key_is_itself(text: str) -> None:
    assert prompt_key(prompt_key(text)) == prompt_key(text)


def test_prompts_that_were_tuned_on_are_refused_with_their_number_and_the_first(complaint: Complaint) -> None:
    items = [("One?", "set a"), ("Two?", "set b"), ("three!", "set c")]
    tuned = {prompt_key("TWO"), prompt_key("Three?")}
    error = complaint(refuse_shared_prompts, "rows.jsonl", items, tuned)
    assert error.path == "set b"
    assert "2 prompts" in str(error)
    assert "Two?" in str(error)
    assert "rows.jsonl" in str(error)


def test_prompts_that_were_not_tuned_on_are_accepted() -> None:
    refuse_shared_prompts("rows.jsonl", [("One?", "a"), ("Two?", "b")], [prompt_key("One or two?")])
