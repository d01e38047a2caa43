"""What an earlier run left is read with suspicion: damage is one line, never a number or a traceback."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from aftertune.errors import OutputError
from aftertune.runs import explain_damage, read_document, stored_as


@dataclass(frozen=True)
class Inner:
    name: str
    ends: tuple[float, float]


@dataclass(frozen=True)
class Outer:
    count: int
    share: float
    sure: bool
    inner: Inner
    by_name: Mapping[str, float]
    note: str = ""


SOUND = {"count": 3, "share": 0.5, "sure": True, "inner": {"name": "a", "ends": [0, 1.5]}, "by_name": {"x": 1}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "Expecting value"),
        ('{"a": 1', "delimiter"),
        ('{"a": NaN}', "holds NaN"),
        ('{"a": [-Infinity]}', "holds -Infinity"),
        ('{"a": 1e999}', "too large"),
        ('{"a": 1' + "0" * 400 + "}", "too large"),
        ('{"a": 1' + "0" * 5000 + "}", "too large"),
        ('{"a": 1, "a": 2}', "holds a key twice"),
        ("[" * 100_000, "nested too deeply"),
        ("\xff", "utf-8"),
    ],
)
def test_a_damaged_document_is_refused(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(OutputError, match="is damaged") as caught, explain_damage(tmp_path):
        read_document(tmp_path / "a.json")
    assert says in str(caught.value)
    assert str(caught.value).endswith("run the same command again in a new folder")
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_file_and_a_folder_in_its_place_are_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"is incomplete \(a\.json is missing\)"), explain_damage(tmp_path):
        read_document(tmp_path / "a.json")
    (tmp_path / "a.json").mkdir()
    with pytest.raises(OutputError, match=r"is damaged \(a\.json is no file\)"), explain_damage(tmp_path):
        read_document(tmp_path / "a.json")


def test_an_error_that_is_no_damage_passes(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), explain_damage(tmp_path):
        raise KeyboardInterrupt
    with pytest.raises(RuntimeError), explain_damage(tmp_path):
        raise RuntimeError("ours")


def test_sound_values_come_back_as_they_were() -> None:
    found = stored_as(Outer, SOUND)
    assert found == Outer(3, 0.5, True, Inner("a", (0.0, 1.5)), {"x": 1.0})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"count": "3"}, "'count' of a outer"),
        ({"count": 3.5}, "'count'"),
        ({"count": True}, "'count'"),
        ({"count": None}, "'count'"),
        ({"share": "0.5"}, "'share'"),
        ({"share": [0.5]}, "'share'"),
        ({"sure": "yes"}, "'sure'"),
        ({"inner": []}, "'inner'"),
        ({"inner": {"name": "a", "ends": [1]}}, "'inner.ends"),
        ({"inner": {"name": 1, "ends": [1, 2]}}, "'inner.name'"),
        ({"by_name": [1]}, "'by_name'"),
        ({"extra": 1}, "unknown field 'extra'"),
    ],
)
def test_values_of_another_kind_are_refused(change: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        stored_as(Outer, {**SOUND, **change})
    assert says in str(caught.value)


@pytest.mark.parametrize("value", [None, [], "x", 3])
def test_what_is_no_object_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="a outer is a"):
        stored_as(Outer, value)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ValueError, match="'share' of a outer"):
        stored_as(Outer, {k: v for k, v in SOUND.items() if k != "share"})
