"""A new folder is there whole, or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from aftertune.errors import OutputError
from aftertune.runs import new_folder


def held(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def break_off(folder: Path, error: type[BaseException]) -> None:
    with new_folder(folder) as made:
        made.mkdir()
        (made / "half").write_text("half")
        raise error


def test_it_appears_at_the_end_with_parents_and_for_everybody(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with new_folder(folder) as made:
        made.mkdir()
        (made / "model").write_text("whole")
        (made.parent / "leftover").write_text("scratch")
        assert not folder.exists()
    assert (folder / "model").read_text() == "whole"
    assert held(folder.parent) == ["b"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~mask


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_block_that_breaks_off_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error):
        break_off(tmp_path / "b", error)
    assert held(tmp_path) == []


def test_what_another_process_made_meanwhile_stays_where_it_is_shared(tmp_path: Path) -> None:
    def race(shared: bool) -> None:
        with new_folder(tmp_path / "b", shared=shared) as made:
            made.mkdir()
            (made / "model").write_text("ours")
            (tmp_path / "b").mkdir(exist_ok=True)
            (tmp_path / "b" / "model").write_text("theirs")

    race(shared=True)
    assert (tmp_path / "b" / "model").read_text() == "theirs"
    with pytest.raises(OutputError):
        race(shared=False)
    assert (tmp_path / "b" / "model").read_text() == "theirs"
    assert held(tmp_path) == ["b"]


def test_a_place_that_cannot_be_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"), new_folder(tmp_path / "file" / "b") as made:
        made.mkdir()
