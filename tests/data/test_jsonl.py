"""Reading rows: what is accepted, and the one line that every bad file gets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from aftertune.data import Row, read_rows
from aftertune.errors import DataError

Write = Callable[..., Path]
Complaint = Callable[..., DataError]


def test_rows_keep_their_fields_their_order_and_their_line_numbers(jsonl: Write) -> None:
    path = jsonl(['{"a": 1}', "", "   ", '{"a": "zwei"}'])
    assert read_rows(path) == [Row(str(path), 1, {"a": 1}), Row(str(path), 4, {"a": "zwei"})]


def test_a_last_line_without_newline_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2}')
    assert [row.fields["a"] for row in read_rows(path)] == [1, 2]


def test_a_utf8_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + '{"a": "ü"}\n'.encode())
    assert [row.fields for row in read_rows(path)] == [{"a": "ü"}]


def test_windows_line_ends_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\r\n\r\n{"a": 2}\r\n')
    assert [(row.line, row.fields["a"]) for row in read_rows(path)] == [(1, 1), (3, 2)]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1e"])
def test_unicode_line_separators_inside_a_string_do_not_split_the_row(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "rows.jsonl"
    text = f"one{separator}two"
    path.write_bytes(json.dumps({"a": text}, ensure_ascii=ord(separator) < 32).encode() + b'\n{"a": "b"}\n')
    assert [row.fields["a"] for row in read_rows(path)] == [text, "b"]


def test_a_missing_file_is_named(tmp_path: Path, complaint: Complaint) -> None:
    path = tmp_path / "absent.jsonl"
    error = complaint(read_rows, path)
    assert error.path == str(path)
    assert "no such file" in str(error)


def test_a_missing_local_looking_name_is_not_sought_on_the_hub(complaint: Complaint) -> None:
    assert "no such file" in str(complaint(read_rows, "data/absent.jsonl"))


def test_a_folder_is_refused(tmp_path: Path, complaint: Complaint) -> None:
    assert "folder" in str(complaint(read_rows, tmp_path))


@pytest.mark.parametrize("content", [b"", b"\n", b"\n  \n\t\r\n", b"\xef\xbb\xbf"])
def test_a_file_without_rows_is_refused(tmp_path: Path, complaint: Complaint, content: bytes) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_bytes(content)
    assert "no rows" in str(complaint(read_rows, path))


@pytest.mark.parametrize("number", [1, 2, 7])
@pytest.mark.parametrize("broken", ['{"a": 1', "{'a': 1}", '{"a": 1},', "a", '{"a": "b\tc"}', '{"a": 1} {"a": 2}'])
def test_broken_json_is_reported_with_its_line(jsonl: Write, complaint: Complaint, number: int, broken: str) -> None:
    path = jsonl([*['{"a": 1}'] * (number - 1), broken, '{"a": 1}'])
    error = complaint(read_rows, path)
    assert error.line == number
    assert str(error).startswith(f"{path}:{number}: ")
    assert "JSON" in str(error)


@pytest.mark.parametrize(
    ("value", "kind"), [("[1]", "list"), ('"text"', "str"), ("3", "int"), ("null", "NoneType"), ("true", "bool")]
)
def test_json_that_is_no_object_is_refused(jsonl: Write, complaint: Complaint, value: str, kind: str) -> None:
    error = complaint(read_rows, jsonl(['{"a": 1}', value]))
    assert error.line == 2
    assert "object" in str(error)
    assert kind in str(error)


@pytest.mark.parametrize("number", [1, 3])
def test_a_line_that_is_not_utf8_is_named(tmp_path: Path, complaint: Complaint, number: int) -> None:
    path = tmp_path / "latin.jsonl"
    path.write_bytes(b'{"a": "ok"}\n' * (number - 1) + '{"a": "müde"}\n'.encode("latin-1"))
    error = complaint(read_rows, path)
    assert error.line == number
    assert "UTF-8" in str(error)


def test_utf16_is_refused(tmp_path: Path, complaint: Complaint) -> None:
    path = tmp_path / "wide.jsonl"
    path.write_bytes('{"a": "b"}\n'.encode("utf-16"))
    assert "UTF-8" in str(complaint(read_rows, path))


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_deep_nesting_is_refused(jsonl: Write, complaint: Complaint, opening: str) -> None:
    error = complaint(read_rows, jsonl(['{"a": 1}', '{"a": ' + opening * 200_000]))
    assert error.line == 2


def test_an_integer_longer_than_python_converts_is_refused(jsonl: Write, complaint: Complaint) -> None:
    error = complaint(read_rows, jsonl(['{"a": 1}', '{"a": ' + "1" * 10_000 + "}"]))
    assert error.line == 2


def test_half_a_surrogate_pair_is_refused(jsonl: Write, complaint: Complaint) -> None:
    error = complaint(lambda source: read_rows(source)[1].text("a"), jsonl(['{"a": "ok"}', r'{"a": "\ud83d"}']))
    assert error.line == 2


def test_a_line_of_200_mb_is_refused_without_being_held(tmp_path: Path, complaint: Complaint) -> None:
    path = tmp_path / "long.jsonl"
    with path.open("wb") as file:
        file.write(b'{"a": 1}\n{"a": "')
        file.truncate(200 * 10**6)
    tracemalloc.start()
    try:
        error = complaint(read_rows, path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert error.line == 2
    assert "MiB" in str(error)
    assert peak < 64 * 2**20


def test_a_long_but_tolerable_line_is_read(jsonl: Write) -> None:
    text = "x" * (15 * 2**20)
    assert read_rows(jsonl([{"a": text}]))[0].fields["a"] == text


def test_a_json_file_may_hold_one_array(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"a": 1}, {"a": 2}], indent=2))
    assert [row.fields["a"] for row in read_rows(path)] == [1, 2]


def test_a_json_file_may_hold_lines(jsonl: Write) -> None:
    assert [row.fields["a"] for row in read_rows(jsonl([{"a": 1}, {"a": 2}], "rows.json"))] == [1, 2]


def test_a_json_array_after_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps([{"a": 1}, {"a": 2}], indent=2).encode())
    assert [row.fields["a"] for row in read_rows(path)] == [1, 2]


def test_an_empty_json_array_holds_no_rows(tmp_path: Path, complaint: Complaint) -> None:
    path = tmp_path / "rows.json"
    path.write_text("[]")
    assert "no rows" in str(complaint(read_rows, path))


def test_a_broken_json_array_is_reported_with_its_line(tmp_path: Path, complaint: Complaint) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[\n{"a": 1},\n{"a": }\n]\n')
    assert complaint(read_rows, path).line == 3


def test_a_json_array_that_is_not_utf8_is_reported_with_its_line(tmp_path: Path, complaint: Complaint) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes('[\n{"a": 1},\n{"a": "müde"}\n]\n'.encode("latin-1"))
    error = complaint(read_rows, path)
    assert "UTF-8" in str(error)
    assert error.line == 3


def test_a_json_array_nested_too_deeply_is_refused(tmp_path: Path, complaint: Complaint) -> None:
    path = tmp_path / "rows.json"
    path.write_text("[" * 200_000)
    assert "JSON" in str(complaint(read_rows, path))


def test_an_array_element_that_is_no_object_is_refused(tmp_path: Path, complaint: Complaint) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[{"a": 1}, 5]')
    assert "object" in str(complaint(read_rows, path))


def test_a_missing_field_lists_the_fields_there_are(jsonl: Write, complaint: Complaint) -> None:
    row = read_rows(jsonl([{"promt": "x", "answer": "y"}]))[0]
    error = complaint(row.text, "prompt")
    assert (error.line, error.field) == (1, "prompt")
    assert "promt" in str(error)
    assert "answer" in str(error)


def test_a_field_name_with_a_line_break_does_not_break_the_message(jsonl: Write, complaint: Complaint) -> None:
    complaint(read_rows(jsonl([{"a\nb": "x"}]))[0].text, "prompt")


@pytest.mark.parametrize("value", [1, 1.5, True, None, ["x"], {"x": "y"}])
def test_a_field_of_the_wrong_type_is_refused(jsonl: Write, complaint: Complaint, value: object) -> None:
    error = complaint(read_rows(jsonl([{"prompt": value}]))[0].text, "prompt")
    assert (error.line, error.field) == (1, "prompt")
    assert type(value).__name__ in str(error)


@pytest.mark.parametrize("value", ["", "  ", "\n\t"])
def test_a_blank_field_is_refused_unless_allowed(jsonl: Write, complaint: Complaint, value: str) -> None:
    row = read_rows(jsonl([{"prompt": value}]))[0]
    assert complaint(row.text, "prompt").field == "prompt"
    assert row.text("prompt", empty=True) == value


def test_text_pasted_in_place_of_a_path_is_refused(complaint: Complaint) -> None:
    complaint(read_rows, "never gonna give you up " * 400)


def test_a_hub_set_offline_gives_one_line(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from aftertune.data import read_rows\n"
        "from aftertune.errors import DataError\n"
        "try:\n"
        "    read_rows(sys.argv[1])\n"
        "except DataError as error:\n"
        "    print(error)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program, "some-owner/some-set:train[:10]"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert done.stdout.startswith("some-owner/some-set:train[:10]: ")
    assert "hub" in done.stdout.lower()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"prompt": "a", "prompt": "b"}', "the key 'prompt' stands twice"),
        ('{"a": {"b": 1, "b": 2}}', "the key 'b' stands twice"),
        ('{"a": NaN}', "NaN is no JSON"),
        ('{"a": 1e400}', "too large"),
        ('{"\x1b[2J": 1, "\x1b[2J": 2}'.replace("\x1b", "\\u001b"), "stands twice"),
        ('[{"a": 1}]', "must be a JSON object, not list"),
        ('"text"', "not str"),
        ("null", "not NoneType"),
    ],
)
def test_what_the_library_would_pass_over_is_an_error_of_its_line(
    jsonl: Write, complaint: Complaint, line: str, says: str
) -> None:
    error = complaint(read_rows, jsonl(['{"a": 1}', "", line]))
    assert error.line == 3
    assert says in str(error)
    assert str(error).isprintable()


def test_elements_of_an_array_keep_their_numbers_and_are_told_by_their_lines(
    tmp_path: Path, complaint: Complaint
) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[\n  {\n    "id": "a"\n  },\n  {\n    "id": "b",\n    "b": 1\n  }\n]\n')
    first, second = read_rows(path)
    assert (first.line, second.line) == (1, 2)
    assert complaint(second.text, "text").line == 5
    path.write_text('[\n{"id": "a"},\n{"id": "b",\n"id": "c"}]')
    assert complaint(read_rows, path).line == 3
    path.write_text('[\n{"id": "a"},\n5]')
    assert complaint(read_rows, path).line == 3


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("rows.csv", b"prompt,completion\nHi,Hello\n", "convert this .csv to .jsonl"),
        ("rows", b"- prompt: Hi\n", "convert this file to .jsonl"),
        ("rows.jsonl", b'[\n{"a": 1}\n]\n', "name a file that holds one array .json"),
        ("rows.jsonl.gz", b"\x1f\x8b\x08\x00", "unpack it first"),
        ("rows.jsonl", '{"a": 1}\n'.encode("utf-16"), "UTF-16"),
        ("rows.parquet", b"PAR1\x00\x00", "zero bytes"),
    ],
)
def test_a_file_of_another_format_tells_what_to_do(
    tmp_path: Path, complaint: Complaint, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert says in str(complaint(read_rows, tmp_path / name))
