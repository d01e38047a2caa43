"""Rows that register themselves: found where they lie, ordered, and every fault of an extension said in one line."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import aftertune
from aftertune import _registered
from aftertune._registered import EXTENSIONS, foreign_sha256, row_named, rows
from aftertune.errors import DataError, UsageError


@dataclass(frozen=True)
class Toy:
    """A row of the test's own type."""

    name: str
    rank: int = 0


HEAD = "from dataclasses import dataclass\n\nfrom test_registered import Toy\n\n"
Extension = Callable[..., Path]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the files that tests write find `Toy` in this very module."""
    monkeypatch.setitem(sys.modules, "test_registered", sys.modules[__name__])


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package below aftertune with two rows in three modules."""
    package = tmp_path / "aftertune" / "toys"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "_late.py").write_text(HEAD + "PROBE = Toy('late', 9)\nTASK = Toy('a_task')\n")
    (package / "_early.py").write_text(HEAD + "PROBE = Toy('early', 1)\n")
    (package / "_shared.py").write_text("from aftertune.toys._late import PROBE\n")
    monkeypatch.setattr(aftertune, "__path__", [*aftertune.__path__, str(package.parent)])
    monkeypatch.delenv(EXTENSIONS, raising=False)
    for name in [m for m in sys.modules if m.startswith("aftertune.toys")]:
        del sys.modules[name]
    _registered._found.cache_clear()
    return "toys"


@pytest.fixture
def extension(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Extension:
    """Write a file and name it in the variable, behind those already there."""

    def write(text: str, name: str = "mine.py") -> Path:
        path = tmp_path / name
        path.write_text(text)
        before = os.environ.get(EXTENSIONS)
        monkeypatch.setenv(EXTENSIONS, str(path) if before is None else f"{before}{os.pathsep}{path}")
        return path

    return write


def test_rows_are_found_where_they_lie_by_rank_then_name(room: str, extension: Extension) -> None:
    assert [row.name for row in rows(room, "PROBE", Toy)] == ["early", "late"]
    assert [row.name for row in rows(room, "TASK", Toy)] == ["a_task"]
    extension(HEAD + "PROBE = Toy('also', 9)\n")
    assert [row.name for row in rows(room, "PROBE", Toy)] == ["early", "also", "late"]
    assert rows(room, "PROBE", Toy) == rows(room, "PROBE", Toy)


def test_a_file_may_define_dataclasses_and_export_rows_of_two_kinds(room: str, extension: Extension) -> None:
    text = "@dataclass(frozen=True)\nclass Mine(Toy):\n    more: int = 1\n\nPROBE = Mine('b')\nTASK = Mine('c')\n"
    extension("from __future__ import annotations\n" + HEAD + text)
    probe, task = row_named(room, "PROBE", Toy, "b"), row_named(room, "TASK", Toy, "c")
    assert type(probe) is type(task)


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("PROBE = 'late'\n", None, "PROBE is a str; it must be a Toy"),
        ("x = 1\n", None, "exports no row; assign one to PROBE, TASK, STUDY, DEFENCE or SCREEN"),
        (HEAD + "PROBE = Toy('Bad name')\n", None, "PROBE is named 'Bad name'; begin with a letter"),
        (HEAD + "PROBE = Toy('x\\x1b[31m')\n", None, "PROBE is named 'x\\x1b[31m'"),
        ("\nimport there_is_none\n", 2, "cannot be imported: ModuleNotFoundError: No module named 'there_is_none'"),
        ("\n\nPROBE = (\n", 3, "cannot be imported: SyntaxError: '(' was never closed"),
        ("raise SystemExit(7)\n", 1, "cannot be imported: SystemExit: 7"),
        ("raise ValueError('a\\nb')\n", 1, "cannot be imported: ValueError: a\\nb"),
    ],
)
def test_a_fault_of_an_extension_is_one_line_that_names_its_file(
    room: str, extension: Extension, text: str, line: int | None, problem: str
) -> None:
    path = extension(text)
    for _ in range(2):  # a failure is not kept
        with pytest.raises(DataError) as caught:
            rows(room, "PROBE", Toy)
        assert caught.value.line == line
        assert str(caught.value).startswith(f"{path}{f':{line}' if line else ''}: {problem}")
        assert "\n" not in str(caught.value)


def test_an_extension_that_is_not_there_is_named(room: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EXTENSIONS, str(tmp_path / "none.py"))
    with pytest.raises(DataError, match=r"none\.py: cannot be imported: FileNotFoundError: it is no Python file"):
        rows(room, "PROBE", Toy)


def test_two_rows_of_one_name_are_named_with_both_files(room: str, extension: Extension) -> None:
    path = extension(HEAD + "PROBE = Toy('late')\n")
    with pytest.raises(DataError, match=rf"{path}: PROBE is named 'late', and so is that of .*_late\.py"):
        rows(room, "PROBE", Toy)
    assert rows(room, "TASK", Toy)


def test_an_extension_may_ask_for_rows_while_it_is_imported(room: str, extension: Extension) -> None:
    asking = "from aftertune._registered import rows\nSEEN = [row.name for row in rows('toys', 'PROBE', Toy)]\n"
    extension(HEAD + "PROBE = Toy('other')\n", "other.py")
    extension(HEAD + asking + "PROBE = Toy('asking')\nTASK = Toy('seen-' + '-'.join(SEEN))\n", "asking.py")
    assert [row.name for row in rows(room, "PROBE", Toy)] == ["asking", "other", "early", "late"]
    assert [row.name for row in rows(room, "TASK", Toy)] == ["a_task", "seen-other-early-late"]


def test_a_file_named_twice_is_one_extension(room: str, extension: Extension) -> None:
    extension(HEAD + "PROBE = Toy('b')\n")
    extension(HEAD + "PROBE = Toy('b')\n")
    assert [row.name for row in rows(room, "PROBE", Toy)] == ["b", "early", "late"]


def test_a_mistyped_name_is_met_with_a_similar_one_or_all(room: str) -> None:
    with pytest.raises(UsageError, match=r"there is no probe named 'erly'; did you mean 'early'\?"):
        row_named(room, "PROBE", Toy, "erly")
    with pytest.raises(UsageError, match="there is no probe named 'zzz'; choose from early, late"):
        row_named(room, "PROBE", Toy, "zzz")


def test_the_digest_of_an_extension_follows_its_text(room: str, extension: Extension) -> None:
    path = extension("@dataclass(frozen=True)\nclass Mine(Toy): ...\n".join([HEAD, "PROBE = Mine('b')\n"]))
    made = type(row_named(room, "PROBE", Toy, "b"))
    before = foreign_sha256(made)
    path.write_text(path.read_text() + "# changed\n")
    assert before != foreign_sha256(made) is not None
    assert foreign_sha256(UsageError) is None


def test_an_installed_package_registers_by_its_entry_point(
    room: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "installed_rows.py").write_text(HEAD + "PROBE = Toy('installed')\n")
    info = tmp_path / "installed_rows-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: installed-rows\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[aftertune]\nrows = installed_rows\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert importlib.metadata.entry_points(group="aftertune").names == {"rows"}
    assert [row.name for row in rows(room, "PROBE", Toy)] == ["installed", "early", "late"]


def test_the_command_line_names_extensions_whatever_the_folder(
    room: str, extension: Extension, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    from aftertune.cli._main import cli

    extension(HEAD + "PROBE = Toy('one')\n", "one.py")
    (tmp_path / "two.py").write_text(HEAD + "PROBE = Toy('two')\n")
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(cli, ["--extension", "two.py", "data"]).exit_code == 0
    monkeypatch.chdir("/")
    assert [row.name for row in rows(room, "PROBE", Toy)] == ["one", "two", "early", "late"]


def test_no_extension_is_imported_before_rows_are_asked_for(extension: Extension, tmp_path: Path) -> None:
    extension(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    subprocess.run([sys.executable, "-m", "aftertune", "--help"], check=True, capture_output=True)
    assert not (tmp_path / "ran").exists()
