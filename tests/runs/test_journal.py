"""What was recorded is there again after any kill, exactly; what was not whole is not there."""

from __future__ import annotations

import json
import math
import random
import signal
import subprocess
import time
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aftertune.errors import OutputError, StorageError
from aftertune.runs import Journal

Start = Callable[..., "subprocess.Popen[str]"]
Limit = Callable[[int], AbstractContextManager[None]]

WRITE = """
import sys
from pathlib import Path
from aftertune.runs import Journal
journal = Journal(Path(sys.argv[1]))
for number in range(len(journal), 10**9):
    journal.record(f"batch/{number}", [number, number / 7, "x" * (number % 50)])
    print(number, flush=True)
"""

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def contents(path: Path) -> dict[str, Any]:
    journal = Journal(path)
    return {key: journal[key] for key in journal}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("journal") / "journal.jsonl"


# --- recording ------------------------------------------------------------------------------------------


@given(st.lists(st.floats(), min_size=1, max_size=20))
@settings(max_examples=100, deadline=None)
def test_floats_survive_to_the_last_bit(scratch: Path, numbers: list[float]) -> None:
    scratch.unlink(missing_ok=True)
    Journal(scratch).record("numbers", numbers)
    assert [n.hex() for n in Journal(scratch)["numbers"]] == [n.hex() for n in numbers]


@given(st.lists(st.tuples(st.text(), values), max_size=6))
@settings(max_examples=60, deadline=None)
def test_any_values_under_any_keys_come_back_in_order(scratch: Path, records: list[tuple[str, Any]]) -> None:
    scratch.unlink(missing_ok=True)
    journal = Journal(scratch)
    for key, value in records:
        journal.record(key, value)
        assert repr(journal[key]) == repr(Journal(scratch)[key]) == repr(value)
    expected = dict(records)
    assert list(Journal(scratch)) == list(journal) == list(expected)
    assert len(Journal(scratch)) == len(journal) == len(expected)


def test_what_is_recorded_reads_at_once_as_it_will_after_opening_again(path: Path) -> None:
    journal = Journal(path)
    journal.record("pair", (1, {2: "two"}))
    assert journal["pair"] == Journal(path)["pair"] == [1, {"2": "two"}]
    assert "pair" in journal
    assert "other" not in journal
    with pytest.raises(KeyError):
        journal["other"]


def test_the_last_of_two_records_under_a_key_counts(path: Path) -> None:
    for value in (1, 2):
        Journal(path).record("key", value)
    assert contents(path) == {"key": 2}


def test_lone_surrogates_and_line_ends_do_not_break_lines(path: Path) -> None:
    odd = {"caf\udce9": "a\nb\r\u2028\u0085c", "\ud800": ["\x00"]}
    for key, value in odd.items():
        Journal(path).record(key, value)
    assert contents(path) == odd
    assert len(path.read_bytes().splitlines()) == 2


def test_a_journal_is_not_made_before_something_is_recorded(path: Path) -> None:
    assert len(Journal(path)) == 0
    assert not path.exists()


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no such file or directory"):
        Journal(tmp_path / "absent" / "journal.jsonl").record("key", 1)
    with pytest.raises(OutputError, match="is a directory"):
        Journal(tmp_path)


# --- damage ---------------------------------------------------------------------------------------------

RECORDS = {"drift/2048/0": [0.1, -1e-300], "é": "ü", "traits:x/1/2": {"a": None}, "last": [True, 3]}


def write_records(path: Path) -> list[bytes]:
    path.unlink(missing_ok=True)
    journal = Journal(path)
    for key, value in RECORDS.items():
        journal.record(key, value)
    return path.read_bytes().splitlines(keepends=True)


def test_cut_anywhere_the_whole_lines_stay_and_recording_goes_on(path: Path) -> None:
    lines = write_records(path)
    everything = b"".join(lines)
    ends = [sum(map(len, lines[:n])) for n in range(len(lines) + 1)]
    for cut in range(len(everything) + 1):
        path.write_bytes(everything[:cut])
        whole = max(n for n, end in enumerate(ends) if end <= cut)
        expected = dict(list(RECORDS.items())[:whole])
        assert contents(path) == expected
        assert path.read_bytes() == everything[: ends[whole]]
        Journal(path).record("after", cut)
        assert contents(path) == {**expected, "after": cut}


@pytest.mark.parametrize(
    "damage",
    [
        b"garbage\n",
        b"\n",
        b"\x00" * 64 + b"\n",
        b"\xff\xfe\x00\n",
        b"5\n",
        b"null\n",
        b'"ab"\n',
        b'["key"]\n',
        b'["key",1,2]\n',
        b"[1,2]\n",
        b'[["key"],1]\n',
        b'{"key":1,"other":2}\n',
        b'["key",1]["other",2]\n',
        b"[" * 100_000 + b"\n",
    ],
    ids=lambda damage: repr(damage[:24]),
)
def test_a_damaged_line_drops_itself_and_all_that_follows(damage: bytes, path: Path) -> None:
    lines = write_records(path)
    for at in range(len(lines)):
        path.write_bytes(b"".join([*lines[:at], damage, *lines[at:]]))
        kept = dict(list(RECORDS.items())[:at])
        assert contents(path) == kept
        assert path.read_bytes() == b"".join(lines[:at])
        Journal(path).record("after", at)
        assert contents(path) == {**kept, "after": at}


# --- no space -------------------------------------------------------------------------------------------


def fill(path: Path) -> dict[str, str]:
    journal = Journal(path)
    for number in range(100):
        try:
            journal.record(f"{number}", "x" * 1000)
        except StorageError as error:
            assert str(error).startswith(f"{path}: no space left")
            assert f"{number}" not in journal
            break
    else:
        pytest.fail("there was space for everything")
    return {f"{n}": "x" * 1000 for n in range(len(journal))}


def test_an_entry_for_which_there_is_no_space_is_not_recorded_and_spoils_no_later_one(
    path: Path, file_limit: Limit
) -> None:
    with file_limit(10_500):
        kept = fill(path)
        assert 5 < len(kept) < 11
        journal = Journal(path)
        with pytest.raises(StorageError):
            journal.record("large", "y" * 5000)
        journal.record("small", 1)
        assert contents(path) == {**kept, "small": 1}
    journal.record("large", "y" * 5000)
    assert contents(path) == {**kept, "small": 1, "large": "y" * 5000}


def test_on_a_full_disk_what_was_recorded_stays(small_disk: Path) -> None:
    kept = fill(small_disk / "journal.jsonl")
    assert 30 < len(kept) <= 64
    assert contents(small_disk / "journal.jsonl") == kept


# --- kills ----------------------------------------------------------------------------------------------


def test_killed_at_any_moment_nothing_that_was_recorded_is_lost(path: Path, start: Start) -> None:
    told = -1
    moments = random.Random(5)
    for _ in range(6):
        process = start(WRITE, path)
        assert process.stdout is not None
        first = int(process.stdout.readline())
        assert first > told
        time.sleep(moments.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        told = max([first, *(int(line) for line in process.stdout if line.endswith("\n"))])
        process.wait()
        found = contents(path)
        assert list(found) == [f"batch/{n}" for n in range(len(found))]
        assert len(found) in (told + 1, told + 2)  # the last may be on disk without having been told
        assert all(v == [n, n / 7, "x" * (n % 50)] for n, v in enumerate(found.values()))
    assert told >= 5


def test_lines_are_json_that_other_programs_can_read(path: Path) -> None:
    write_records(path)
    lines = [json.loads(line) for line in path.read_text("ascii").splitlines()]
    assert [line[:2] for line in lines] == [[k, v] for k, v in RECORDS.items()]
    # The checksum, worked out here from its definition.
    for line in lines:
        assert int(line[2], 16) == zlib.crc32(json.dumps(line[:2], separators=(",", ":")).encode())


def test_a_line_that_was_changed_drops_itself_and_all_that_follows(path: Path) -> None:
    lines = write_records(path)
    for at, (key, value) in enumerate(RECORDS.items()):
        checksum = json.loads(lines[at])[2]
        for changed in (
            [key + "x", value, checksum],
            [key, 0.1000001, checksum],
            [key, value, "00000000"],
            [key, value],
        ):
            path.write_bytes(b"".join([*lines[:at], json.dumps(changed).encode() + b"\n", *lines[at + 1 :]]))
            assert contents(path) == dict(list(RECORDS.items())[:at])


def test_spaces_that_another_program_put_in_change_nothing(path: Path) -> None:
    lines = write_records(path)
    path.write_bytes(b"".join(json.dumps(json.loads(line)).encode() + b"\n" for line in lines))
    assert contents(path) == RECORDS
    assert math.isclose(Journal(path)["drift/2048/0"][0], 0.1, rel_tol=0)
