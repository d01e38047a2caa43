"""What runs share: made once, whole or not there, by one process at a time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from aftertune.errors import OutputError
from aftertune.runs import Journal, Store, cache_root, shared_store

KEY = {"weights": "abc", "plan": [1, 2]}


def writes(text: str, made: list[str]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        made.append(text)
        (folder / "inner").mkdir(exist_ok=True)
        (folder / "inner" / "value.txt").write_text(text)

    return make


def value(entry: Path) -> str:
    return (entry / "inner" / "value.txt").read_text()


def test_an_entry_is_made_once_and_known_by_its_key_alone(tmp_path: Path) -> None:
    made: list[str] = []
    first = Store(tmp_path).kept("measured", KEY, writes("one", made))
    again = Store(tmp_path).kept("measured", {"plan": [1, 2], "weights": "abc"}, writes("two", made))
    assert (again, value(again), made) == (first, "one", ["one"])
    Store(tmp_path).kept("measured", {**KEY, "weights": "other"}, writes("three", made))
    Store(tmp_path).kept("model", KEY, writes("four", made))
    assert made == ["one", "three", "four"]


@pytest.mark.parametrize("harm", ["changed", "lost", "added", "key", "no key", "link"])
def test_a_damaged_entry_is_made_again(harm: str, tmp_path: Path) -> None:
    made: list[str] = []
    entry = Store(tmp_path / "store").kept("measured", KEY, writes("one", made))
    file = entry / "inner" / "value.txt"
    if harm == "changed":
        file.write_text("1ne")
    elif harm == "lost":
        file.unlink()
    elif harm == "added":
        (entry / "more").write_text("x")
    elif harm == "key":
        (entry / "key.json").write_text('{"key": {}, "files": {}}')
    elif harm == "no key":
        (entry / "key.json").unlink()
    else:
        file.unlink()
        file.symlink_to("/nowhere")
    again = Store(tmp_path / "store").kept("measured", KEY, writes("two", made))
    assert (again, value(again), made) == (entry, "two", ["one", "two"])


def test_what_broke_off_is_continued(tmp_path: Path) -> None:
    store, passes = Store(tmp_path), []

    def make(folder: Path) -> None:
        journal = Journal(folder / "journal.jsonl")
        for step in "abc":
            if step not in journal:
                passes.append(step)
                if len(passes) == 2:
                    raise KeyboardInterrupt
                journal.record(step, step)

    with pytest.raises(KeyboardInterrupt):
        store.kept("measured", KEY, make)
    entry = store.kept("measured", KEY, make)
    assert passes == ["a", "b", "b", "c"]
    assert [path.name for path in entry.parent.iterdir() if path.is_dir()] == [entry.name]


def test_what_failed_with_nothing_done_leaves_no_folder(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        raise OutputError("refused")

    with pytest.raises(OutputError, match="refused"):
        Store(tmp_path).kept("measured", KEY, make)
    assert not [path for path in tmp_path.rglob("*") if path.is_dir() and path.name != "measured"]


SLOW = """
import sys, time
from pathlib import Path
from aftertune.runs import Store

def make(folder):
    with open(sys.argv[2], "a") as log:
        log.write("made\\n")
    time.sleep(1)
    (folder / "value.txt").write_text("one")

print((Store(Path(sys.argv[1])).kept("model", {"a": 1}, make) / "value.txt").read_text())
"""


def test_two_processes_make_an_entry_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SLOW, str(tmp_path / "store"), str(tmp_path / "log")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=60)[0] for process in both] == ["one\n", "one\n"]
    assert (tmp_path / "log").read_text() == "made\n"


def test_where_runs_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private = tmp_path / "run"
    assert shared_store(private).folder == private  # AFTERTUNE_STORE=off in all tests
    monkeypatch.delenv("AFTERTUNE_STORE")
    assert shared_store(private).folder == cache_root() / "store"
    assert shared_store(private, shared=False).folder == private
    monkeypatch.setenv("AFTERTUNE_STORE", str(tmp_path / "mine"))
    assert shared_store(private).folder == tmp_path / "mine"


def test_a_store_that_cannot_be_written_is_only_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    there = Store(tmp_path / "shared").kept("measured", KEY, writes("one", made))
    monkeypatch.setenv("AFTERTUNE_STORE", str(tmp_path / "shared"))
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write anywhere
    store = shared_store(tmp_path / "run")
    assert store.kept("measured", KEY, writes("two", made)) == there
    other = store.kept("measured", {"b": 2}, writes("three", made))
    assert made == ["one", "three"]
    assert other.is_relative_to(tmp_path / "run")


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    with pytest.raises(OutputError, match="AFTERTUNE_STORE"):
        Store(tmp_path / "store").kept("measured", KEY, writes("one", []))
