"""Strict JSON and YAML: what the libraries let pass in silence is an error, the rest is what they give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from aftertune.errors import DataError
from aftertune.runs import Unparsable, parse_json, parse_json_array, parse_yaml, read_json, read_text, read_yaml

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(value=JSON, indent=st.sampled_from([None, 0, 2]), ascii_only=st.booleans())
def test_json_is_what_the_library_makes_of_it(value: Any, indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    assert parse_json(text) == value
    rows = json.dumps([value, [value]], indent=indent, ensure_ascii=ascii_only)
    assert [found for _, found in parse_json_array(f" {rows}\n")] == [value, [value]]


@settings(max_examples=150, deadline=None)
@given(text=st.text(st.sampled_from('[]{}:,"1 \n\\e.-aNulltrue'), max_size=20))
def test_an_array_is_accepted_where_the_library_accepts_one(text: str) -> None:
    try:
        expected = json.loads(text)
    except ValueError:
        expected = None
    try:
        found = [value for _, value in parse_json_array(text)]
    except Unparsable:
        assert not isinstance(expected, list) or "NaN" in text or len(set(text)) < len(text)  # NaN, inf, doubled keys
    else:
        assert found == expected


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('{"a": 1, "a": 1}', "the key 'a' stands twice"),
        ('{"b": [{"a": 1, "c": 2, "a": 3}]}', "the key 'a' stands twice"),
        ('{"\\u0061": 1, "a": 2}', "the key 'a' stands twice"),
        ("NaN", "NaN is no JSON"),
        ('{"a": Infinity}', "Infinity is no JSON"),
        ('{"a": -Infinity}', "-Infinity is no JSON"),
        ('{"a": 1e999}', "too large"),
        ('{"a": -1e999}', "too large"),
        ("1" * 5000, "too many digits"),
        ("[" * 200_000, "nested too deeply"),
        ('{"a":' * 200_000, "nested too deeply"),
        ("", "broken JSON"),
        ("{'a': 1}", "broken JSON at column 2"),
        ('{"a": 1} {}', "broken JSON at column 10"),
        ('"a\nb"', "broken JSON"),
    ],
)
def test_what_is_no_strict_json_is_refused(text: str, word: str) -> None:
    with pytest.raises(Unparsable) as caught:
        parse_json(text)
    assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[\n{"a": 1},\n{"a": 1,\n "a": 2}\n]', 3),
        ("[\n1,\n2\n3]", 4),
        ("[\n1,\n]", 3),
        ("[\n1\n]\n[2]", 4),
        ("[1", 1),
        ("[\n{}\n,\n{", 4),
        ("[\n1,\n\n[[NaN]]]", 4),
        ("{}", 1),
        ("", 1),
    ],
)
def test_a_mistake_in_an_array_is_told_with_its_line(text: str, line: int) -> None:
    with pytest.raises(Unparsable) as caught:
        list(parse_json_array(text))
    assert caught.value.line == line


def test_elements_of_an_array_are_told_with_their_lines() -> None:
    assert list(parse_json_array('\n[\n{"a":\n1}, 2,\n\n3]\n')) == [(3, {"a": 1}), (4, 2), (6, 3)]
    assert list(parse_json_array("[ ]")) == []


@settings(max_examples=100, deadline=None)
@given(value=JSON.filter(lambda v: isinstance(v, list | dict)))
def test_yaml_is_what_the_library_makes_of_it(value: Any) -> None:
    text = yaml.safe_dump(value, allow_unicode=True)
    assert parse_yaml(text).value == yaml.safe_load(text) == value


BOMB = "a0: &a0 [x, x, x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 4)}]\n" for n in range(1, 30))
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 4)}]}}\n" for n in range(1, 30))


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "the key 'a' stands twice"),
        ("a:\n  b: 1\n  'b': 2\n", 3, "the key 'b' stands twice"),
        ("- {a: 1, a: 1}\n", 1, "stands twice"),
        ("x: &x {a: 1}\ny:\n  <<: *x\n  <<: *x\n", 4, "'<<' stands twice"),
        ("a: 1\nyes: 2\n", 2, "no text but bool"),
        ("1: 2\n", 1, "no text but int"),
        ("2020-01-01: 2\n", 1, "no text but timestamp"),
        ("~: 2\n", 1, "no text but null"),
        ("? [a]\n: 2\n", 1, "a list or mapping is no text"),
        ("a: &a\n  b: *a\n", 1, "contains itself"),
        (BOMB, 9, "more than 200,000 values"),
        (MERGES, 10, "more than 200,000 values"),
        ("a: 1:30\n", 1, "base 8 or 60"),
        ("a: 1:30.5\n", 1, "base 8 or 60"),
        ("a: 0644\n", 1, "base 8 or 60"),
        ("a: 2020-13-01\n", None, "broken YAML"),
        ("a: [\n", 2, "broken YAML"),
        ("a: *b\n", 1, "broken YAML"),
        ("a: !!python/object/apply:os.getcwd []\n", 1, "broken YAML"),
        ("a: 1\n---\nb: 1\n", 2, "broken YAML"),
        ("a: \x1b\n", None, "broken YAML"),
        ("[" * 5000, None, "nested too deeply"),
        ("a: " + "1" * 5000, None, "broken YAML"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_plain_yaml_is_refused(text: str, line: int | None, word: str) -> None:
    with pytest.raises(Unparsable) as caught:
        parse_yaml(text)
    assert word in str(caught.value)
    assert (caught.value.line, len(str(caught.value).splitlines())) == (line, 1)


def test_aliases_merges_and_quoted_numbers_stay_what_they_are() -> None:
    text = "x: &x {a: 1, b: 2}\ny: {<<: *x, a: 3}\nz: [*x, '0644', \"1:30\", 0, 0.5, 10, 1e3]\n"
    document = parse_yaml(text)
    assert document.value == yaml.safe_load(text)
    assert document.lines == (1, 2, 3)
    assert parse_yaml("# nothing\n").value is None


@pytest.mark.parametrize(
    ("content", "line", "word"),
    [
        ("a: 1".encode("utf-16"), None, "UTF-16"),
        ("a: 1".encode("utf-16-le"), 1, "zero bytes"),
        (b"\x1f\x8b\x08\x00", None, "compressed"),
        (b"PK\x03\x04rest", None, "compressed"),
        (b"a: 1\nb: \xff\n", 2, "is not UTF-8 (byte 4)"),
        (b"\xef\xbb\xbfa: 1\nb: \xff\n", 2, "is not UTF-8 (byte 4)"),
        (b"a: 1\nb: \x00\n", 2, "zero bytes"),
        (b"x" * 101, None, "larger than"),
    ],
)
def test_files_that_hold_no_text_are_refused(tmp_path: Path, content: bytes, line: int | None, word: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    for read in (read_text, read_json, read_yaml):
        with pytest.raises(DataError) as caught:
            read(path, 100)
        assert word in str(caught.value)
        assert (caught.value.path, caught.value.line) == (str(path), line)


def test_a_byte_order_mark_and_windows_lines_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert read_yaml(path, 100).value == {"a": 1, "b": 2}
    path.write_bytes(b'\xef\xbb\xbf{"a":\r\n1}\r\n')
    assert read_json(path, 100) == {"a": 1}
    with pytest.raises(DataError, match="no such file"):
        read_json(tmp_path / "nowhere", 100)
    with pytest.raises(DataError, match="is a folder"):
        read_json(tmp_path, 100)
