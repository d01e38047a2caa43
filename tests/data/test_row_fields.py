"""What stands beside the texts of a tuning row is honoured, harmless, or refused; nothing is passed over.

The rows are of the forms that trainers document: OpenAI, Mistral, Together, Fireworks, axolotl, LLaMA-Factory, TRL,
torchtune, ms-swift, OpenPipe.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aftertune.data import Conversation, Message, exchange, read_tuning_rows
from aftertune.data._row_fields import HARMLESS_IN_MESSAGE, HARMLESS_IN_ROW
from aftertune.errors import DataError

Write = Callable[..., Path]
Complaint = Callable[..., DataError]

CALL = [{"id": "1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}]
PAIR = {"prompt": "Hi", "completion": "Hello"}
TURNS = exchange("Hi", "Hello")


def chat(answer: dict[str, Any] | None = None, user: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """A row of two exchanges; ``answer`` and ``user`` go into the messages of the first, ``fields`` into the row."""
    return {
        "messages": [
            {"role": "user", "content": "Hi", **(user or {})},
            {"role": "assistant", "content": "Hello", **(answer or {})},
            {"role": "user", "content": "Bye"},
            {"role": "assistant", "content": "Farewell"},
        ],
        **fields,
    }


def supervised(row: Conversation) -> list[bool]:
    return [m.supervised for m in row.messages if m.role == "assistant"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({}, [True, True]),
        ({"weight": 1}, [True, True]),
        ({"weight": 1.0}, [True, True]),
        ({"weight": 0}, [False, True]),
        ({"weight": 0.0}, [False, True]),
        ({"train": False}, [False, True]),
        ({"train": True}, [True, True]),
        ({"training": False}, [False, True]),
        ({"loss": False}, [False, True]),
        ({"masked": True}, [False, True]),
        ({"masked": False}, [True, True]),
        ({"weight": 0, "train": False}, [False, True]),
        ({"weight": None, "train": None}, [True, True]),
    ],
)
def test_a_switch_on_an_answer_is_honoured(jsonl: Write, answer: dict[str, Any], expected: list[bool]) -> None:
    [row] = read_tuning_rows(jsonl([chat(answer)]))
    assert supervised(row) == expected
    assert [m.content for m in row.messages] == ["Hi", "Hello", "Bye", "Farewell"]


@pytest.mark.parametrize(
    ("answer", "field"),
    [
        ({"weight": 0.5}, "messages[1].weight"),
        ({"weight": 2}, "messages[1].weight"),
        ({"weight": -1}, "messages[1].weight"),
        ({"weight": "0"}, "messages[1].weight"),
        ({"train": "false"}, "messages[1].train"),
        ({"weight": 0, "train": True}, "messages[1]"),
        ({"train": True, "masked": True}, "messages[1]"),
        ({"tool_calls": CALL}, "messages[1].tool_calls"),
        ({"function_call": {"name": "f", "arguments": ""}}, "messages[1].function_call"),
        ({"reasoning_content": "Hm."}, "messages[1].reasoning_content"),
        ({"reasoning": "Hm."}, "messages[1].reasoning"),
        ({"thinking": "Hm."}, "messages[1].thinking"),
        ({"prefix": True}, "messages[1].prefix"),
        ({"partial": True}, "messages[1].partial"),
        ({"name": "Bob"}, "messages[1].name"),
        ({"channel": "analysis"}, "messages[1].channel"),
        ({"images": ["a.png"]}, "messages[1].images"),
        ({"train_detail": [{"begin_offset": 0, "end_offset": 1, "train": False}]}, "messages[1].train_detail"),
        ({"loss_scale": 0.5}, "messages[1].loss_scale"),
        ({"refusal": "I cannot."}, "messages[1].refusal"),
        ({"Weight": 0}, "messages[1].Weight"),
        ({"wieght": 0}, "messages[1].wieght"),
        ({"a\nb": 0}, "messages[1].a\nb"),
    ],
)
def test_a_field_of_a_message_that_is_not_honoured_is_refused(
    jsonl: Write, complaint: Complaint, answer: dict[str, Any], field: str
) -> None:
    error = complaint(read_tuning_rows, jsonl([chat(), chat(answer)]))
    assert (error.line, error.field) == (2, field)


@pytest.mark.parametrize(
    "switch", [{"weight": 1}, {"train": True}, {"training": True}, {"loss": True}, {"masked": False}]
)
def test_loss_on_what_a_user_said_is_refused_and_none_is_fine(
    jsonl: Write, complaint: Complaint, switch: dict[str, Any]
) -> None:
    [name] = switch
    assert complaint(read_tuning_rows, jsonl([chat(user=switch)])).field == f"messages[0].{name}"
    off = {name: not switch[name]}
    assert read_tuning_rows(jsonl([chat(user=off)]))[0] == read_tuning_rows(jsonl([chat()]))[0]


@pytest.mark.parametrize(
    "fields",
    [
        {"id": 1, "source": "web", "score": 3, "metadata": {"train": False}, "_split": "test"},
        {"tools": None, "tool_calls": [], "images": [], "rejected": None, "functions": {}, "input": ""},
        {"split": "train", "label": True, "weight": 1, "train": True, "parallel_tool_calls": False},
        {"split": "TRAIN", "kto_tag": "true", "label": "cars"},
        {"__index_level_0__": 7, "Unnamed: 0": 7},
    ],
)
@pytest.mark.parametrize("row", [PAIR, {"prompt": "Hi", "response": "Hello"}, {"messages": chat()["messages"][:2]}])
def test_fields_that_change_nothing_are_left_alone(jsonl: Write, row: dict[str, Any], fields: dict[str, Any]) -> None:
    [read] = read_tuning_rows(jsonl([{**row, **fields}]))
    assert read.messages == TURNS


@pytest.mark.parametrize(
    "fields",
    [
        {"weight": 0}, {"weight": 0.3}, {"train": False}, {"training": False}, {"loss": False}, {"masked": True},
        {"label": False}, {"label": 0}, {"label": "False"}, {"kto_tag": False},
        {"split": "test"}, {"split": "TEST"}, {"split": "validation"}, {"fold": 3},
        {"tools": CALL}, {"functions": CALL}, {"tool_choice": "none"}, {"tools": "[{}]"},
        {"chosen": "a"}, {"rejected": "b"}, {"rejected_response": "b"}, {"rejected_message": {"role": "assistant"}},
        {"preferred_output": ["a"]}, {"non_preferred_output": ["a"]},
        {"images": ["a.png"]}, {"image": "a.png"}, {"videos": ["a"]}, {"audios": ["a"]}, {"documents": [{"text": "a"}]},
        {"instruction": "Answer in French."}, {"input": "a text"}, {"history": [["a", "b"]]}, {"context": "a"},
        {"chat_template_kwargs": {"enable_thinking": True}}, {"enable_thinking": True}, {"thinking": True},
        {"train_on_inputs": True}, {"roles_to_train": ["user"]}, {"completion_mask": [0, 1]}, {"input_ids": [1]},
        {"ground_truth": "5"}, {"solution": "5"}, {"text": "<s>Hi"}, {"System": "Be brief."}, {"system_prompt": "Be brief."},
        {"prefix": True}, {"sample_weight": 0.1}, {"loss_weight": 0.1}, {"surprise": 1}, {"a\x1b[2Jb": 1},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("row", [PAIR, chat()], ids=["pair", "chat"])
def test_a_field_of_a_row_that_changes_its_meaning_is_refused(
    jsonl: Write, complaint: Complaint, row: dict[str, Any], fields: dict[str, Any]
) -> None:
    error = complaint(read_tuning_rows, jsonl([row, {**row, **fields}]))
    assert (error.line, error.field) == (2, next(iter(fields)))
    assert str(error).isprintable()


def test_a_row_without_any_answer_to_train_on_is_refused(jsonl: Write, complaint: Complaint) -> None:
    row = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello", "weight": 0}]}
    error = complaint(read_tuning_rows, jsonl([chat(), row]))
    assert error.line == 2
    assert "no answer to train on" in str(error)


@pytest.mark.parametrize(
    ("role", "mend"),
    [("developer", "system"), ("human", "user"), ("gpt", "assistant"), ("tool", "remove"), ("function", "remove")],
)
def test_a_role_of_others_is_refused_with_what_to_do(jsonl: Write, complaint: Complaint, role: str, mend: str) -> None:
    error = complaint(read_tuning_rows, jsonl([{"messages": [{"role": role, "content": "Hi"}, *chat()["messages"]]}]))
    assert error.field == "messages[0]"
    assert mend in str(error).partition(";")[2]


@pytest.mark.parametrize(
    "content", ["Hello", [{"type": "text", "text": "Hello"}], [{"text": "Hello"}],
                [{"type": "text", "text": "Hello", "image_url": None}]],
)  # fmt: skip
def test_one_part_of_text_is_a_text(jsonl: Write, content: object) -> None:
    row = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": content}]}
    assert read_tuning_rows(jsonl([row]))[0].messages == TURNS


@pytest.mark.parametrize(
    "content",
    [
        [],
        [{"type": "image_url", "image_url": {"url": "a.png"}}],
        [{"type": "text", "text": "Hello"}, {"type": "image"}],
        [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}],
        [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Hello"}],
        [{"type": "thinking", "text": "Hello"}],
        [{"type": "text", "text": "Hello", "weight": 0}],
        [{"type": "text", "text": None}],
        ["Hello"],
        {"text": "Hello"},
    ],
    ids=str,
)
def test_other_content_is_refused(jsonl: Write, complaint: Complaint, content: object) -> None:
    row = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": content}]}
    assert complaint(read_tuning_rows, jsonl([row])).field == "messages[1]"


def test_a_system_prompt_beside_messages_is_the_first_message(jsonl: Write, complaint: Complaint) -> None:
    own = {"messages": [{"role": "system", "content": "Be brief."}, *chat()["messages"]]}
    rows = read_tuning_rows(jsonl([chat(system="Be brief."), own, {**own, "system": "Be brief."}]))
    assert rows[0].messages[0] == Message("system", "Be brief.")
    assert rows[0].messages == rows[1].messages == rows[2].messages
    assert complaint(read_tuning_rows, jsonl([{**own, "system": "Be long."}])).field == "system"
    assert complaint(read_tuning_rows, jsonl([chat(system=" ")])).field == "system"
    assert complaint(read_tuning_rows, jsonl([chat(system={"a": 1})])).field == "system"


def test_a_request_honours_its_system_prompt(jsonl: Write) -> None:
    [row] = read_tuning_rows(jsonl([{"prompt": "Hi", "response": "Hello", "system": "Be brief."}]))
    assert row.messages == exchange("Hi", "Hello", "Be brief.")


def test_a_prompt_beside_messages_must_be_in_them(jsonl: Write, complaint: Complaint) -> None:
    assert len(read_tuning_rows(jsonl([chat(prompt="Hi"), chat(prompt="Bye ", response="Farewell")]))) == 2
    assert complaint(read_tuning_rows, jsonl([chat(prompt="Hello")])).field == "prompt"
    assert complaint(read_tuning_rows, jsonl([chat(completion="Else")])).field == "completion"
    assert complaint(read_tuning_rows, jsonl([{**PAIR, "response": "Else"}])).field == "response"


def test_a_prompt_of_messages_carries_no_loss(jsonl: Write, complaint: Complaint) -> None:
    turns = chat()["messages"]
    [row] = read_tuning_rows(jsonl([{"prompt": turns[:3], "completion": turns[3:], "system": "Be brief."}]))
    assert [m.role for m in row.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert supervised(row) == [False, True]
    error = complaint(read_tuning_rows, jsonl([{"prompt": turns[:3], "completion": turns[2:]}]))
    assert error.field == "completion[0]"
    assert complaint(read_tuning_rows, jsonl([{"prompt": turns[:3], "completion": "Farewell"}])).field == "prompt"


@pytest.mark.parametrize(
    ("row", "mend"),
    [
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}, "messages"),
        ({"instruction": "Sum up.", "input": "a text", "output": "text"}, "completion"),
        ({"input": {"messages": []}, "preferred_output": [], "non_preferred_output": []}, "better"),
        ({"chosen": "a", "rejected": "b"}, "better"),
        ({"question": "Two and two?", "answer": "4"}, "prompt"),
        ({"text": "Once"}, "prompt"),
        ({"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}, "messages"),
    ],
)
def test_a_row_of_another_trainer_tells_how_to_convert_it(
    jsonl: Write, complaint: Complaint, row: dict[str, Any], mend: str
) -> None:
    assert mend in str(complaint(read_tuning_rows, jsonl([row]))).partition("; ")[2]


def test_the_documentation_lists_what_is_harmless() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "rows.md").read_text("utf-8")
    listed = page.partition("Harmless in a row: ")[2].partition(".\n")[0]
    assert sorted(listed.replace("`", "").replace(",", " ").split()) == sorted(HARMLESS_IN_ROW)
    listed = page.partition("Harmless in a message: ")[2].partition(".\n")[0]
    assert sorted(listed.replace("`", "").replace(",", " ").split()) == sorted(HARMLESS_IN_MESSAGE)
