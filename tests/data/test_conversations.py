"""Chat and prompt/completion rows."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aftertune.data import Conversation, Message, ask, exchange, read_conversations
from aftertune.errors import DataError

Write = Callable[..., Path]
Complaint = Callable[..., DataError]

GOOD = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}


def chat(*turns: tuple[object, object]) -> dict[str, object]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def test_chat_rows_are_read_with_their_origin(jsonl: Write) -> None:
    path = jsonl(
        [GOOD, chat(("system", "Be kind."), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))]
    )
    first, second = read_conversations(path)
    assert first == Conversation((Message("user", "Hi"), Message("assistant", "Hello")), str(path), 1)
    assert [m.role for m in second.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert (second.prompt, second.line) == ("a", 2)


def test_prompt_and_completion_rows_are_read(jsonl: Write) -> None:
    path = jsonl([{"prompt": "Hi", "completion": "Hello"}, {"prompt": "a", "completion": "b", "system": "Be kind."}])
    first, second = read_conversations(path)
    assert first.messages == exchange("Hi", "Hello")
    assert second.messages == (Message("system", "Be kind."), *exchange("a", "b"))


def test_a_null_system_prompt_counts_as_none(jsonl: Write) -> None:
    [row] = read_conversations(jsonl([{"prompt": "a", "completion": "b", "system": None}]))
    assert row.messages == exchange("a", "b")


def test_other_fields_are_left_alone(jsonl: Write) -> None:
    [row] = read_conversations(jsonl([{**GOOD, "source": "web", "score": 3}]))
    assert row.messages == exchange("Hi", "Hello")


def test_an_empty_system_prompt_differs_from_none() -> None:
    assert ask("Hi", "") == (Message("system", ""), Message("user", "Hi"))
    assert ask("Hi") == (Message("user", "Hi"),)


@pytest.mark.parametrize(
    ("row", "field"),
    [
        (chat(("assistant", "b"), ("user", "a")), "messages[0]"),
        (chat(("user", "a"), ("user", "b"), ("assistant", "c")), "messages[1]"),
        (chat(("user", "a"), ("assistant", "b"), ("assistant", "c")), "messages[2]"),
        (chat(("system", "s"), ("system", "s"), ("user", "a"), ("assistant", "b")), "messages[1]"),
        (chat(("user", "a"), ("system", "s"), ("assistant", "b")), "messages[1]"),
        (chat(("system", "s"), ("assistant", "b")), "messages[1]"),
        (chat(("user", "a"), ("assistant", "b"), ("user", "c")), "messages"),
        (chat(("user", "a")), "messages"),
        (chat(("system", "s")), "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": {"role": "user", "content": "a"}}, "messages"),
        ({"messages": ["Hi", "Hello"]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant"}]}, "messages[1]"),
        ({"messages": [{"from": "human", "value": "a"}]}, "messages[0]"),
        (chat(("human", "a"), ("assistant", "b")), "messages[0]"),
        (chat(("line\nbreak", "a"), ("assistant", "b")), "messages[0]"),
        (chat((["user"], "a"), ("assistant", "b")), "messages[0]"),
        (chat(("tool", "a"), ("assistant", "b")), "messages[0]"),
        (chat(("user", 5), ("assistant", "b")), "messages[0]"),
        (chat(("user", "a"), ("assistant", None)), "messages[1]"),
        (chat(("user", "a"), ("assistant", "")), "messages[1]"),
        (chat(("user", "a"), ("assistant", " \n")), "messages[1]"),
        (chat(("user", ""), ("assistant", "b")), "messages[0]"),
        ({"prompt": "a"}, "completion"),
        ({"completion": "b"}, "prompt"),
        ({"prompt": 1, "completion": "b"}, "prompt"),
        ({"prompt": "a", "completion": ""}, "completion"),
        ({"prompt": "a", "completion": "b", "system": 3}, "system"),
    ],
)
def test_a_bad_row_is_reported_with_line_and_field(jsonl: Write, complaint: Complaint, row: object, field: str) -> None:
    path = jsonl([GOOD, GOOD, row, GOOD])
    error = complaint(read_conversations, path)
    assert (error.path, error.line, error.field) == (str(path), 3, field)
    assert str(error).startswith(f"{path}:3: field '{field}' ")


def test_a_row_of_another_kind_lists_its_fields(jsonl: Write, complaint: Complaint) -> None:
    error = complaint(read_conversations, jsonl([GOOD, {"instruction": "a", "output": "b"}]))
    assert error.line == 2
    assert "instruction, output" in str(error)


def test_an_empty_row_is_refused(jsonl: Write, complaint: Complaint) -> None:
    assert complaint(read_conversations, jsonl([{}])).line == 1


def test_a_complaint_about_a_conversation_names_its_origin(jsonl: Write) -> None:
    path = jsonl([GOOD, GOOD])
    assert str(read_conversations(path)[1].error("is too long")) == f"{path}:2: is too long"
    assert str(Conversation(exchange("a", "b")).error("is too long")) == "<memory>: is too long"


TEXT = st.text(min_size=1, max_size=60).filter(lambda t: any(unicodedata.category(c)[0] not in "ZC" for c in t))


@st.composite
def conversations(draw: st.DrawFn) -> list[tuple[str, str]]:
    turns = [(role, draw(TEXT)) for _ in range(draw(st.integers(1, 3))) for role in ("user", "assistant")]
    return [("system", draw(st.text(max_size=60))), *turns] if draw(st.booleans()) else turns


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(conversations(), min_size=1, max_size=4), ascii_only=st.booleans())
def test_any_unicode_conversation_survives_the_way_through_a_file(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[tuple[str, str]]], ascii_only: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "any-unicode.jsonl"
    lines = [json.dumps(chat(*turns), ensure_ascii=ascii_only) for turns in rows]
    path.write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8"))
    read = read_conversations(path)
    assert [[(m.role, m.content) for m in row.messages] for row in read] == rows
    assert [row.line for row in read] == list(range(1, len(rows) + 1))


@settings(max_examples=50, deadline=None)
@given(prompt=TEXT, completion=TEXT)
def test_any_unicode_prompt_and_completion_survive_the_way_through_a_file(
    tmp_path_factory: pytest.TempPathFactory, prompt: str, completion: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any-completion.jsonl"
    line = json.dumps({"prompt": prompt, "completion": completion}, ensure_ascii=False)
    path.write_bytes(line.encode("utf-8"))
    [row] = read_conversations(path)
    assert row.messages == (Message("user", prompt), Message("assistant", completion))


@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any-bytes.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_conversations(path)
    assert len(str(caught.value).splitlines()) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NEAR_MISS = st.fixed_dictionaries(
    {}, optional={"messages": st.lists(st.fixed_dictionaries({"role": JSON, "content": JSON})) | JSON, "prompt": JSON}
)


@settings(max_examples=150, deadline=None)
@given(row=NEAR_MISS | st.dictionaries(st.text(st.characters(categories=["L"])), JSON, max_size=3))
def test_any_json_object_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, row: dict[str, object]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any-object.jsonl"
    path.write_text(json.dumps(row) + "\n", "utf-8")
    try:
        read = read_conversations(path)
    except DataError as error:
        assert len(str(error).splitlines()) == 1
        assert error.line == 1
    else:
        assert read[0].messages[-1].role == "assistant"
