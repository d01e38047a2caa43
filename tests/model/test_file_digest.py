"""A file is read once, and again as soon as anything of it may have changed."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from aftertune.errors import SubjectError
from aftertune.model import cache_root, content_digest
from aftertune.model._identity import SMALL

OLD = 1_600_000_000 * 10**9


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AFTERTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def settled(path: Path, content: bytes) -> Path:
    """A file that has lain there for a while; the inode's own time can only be waited for."""
    path.write_bytes(content)
    os.utime(path, ns=(OLD, OLD))
    time.sleep(2.1)
    return path


def entries() -> list[Path]:
    return sorted((cache_root() / "digests").glob("*.json"))


def test_a_digest_is_kept_and_served_until_the_file_changes(tmp_path: Path) -> None:
    path, other = tmp_path / "weights.safetensors", tmp_path / "other.safetensors"
    other.write_bytes(b"c" * (SMALL + 1))
    settled(path, b"a" * (SMALL + 1))
    assert content_digest(path) == hashlib.sha256(b"a" * (SMALL + 1)).hexdigest()
    [entry] = entries()
    mark = "0" * 64  # what only the store can give
    kept = json.loads(entry.read_text("utf-8"))
    entry.write_text(json.dumps({**kept, "sha256": mark}), "utf-8")
    assert content_digest(path) == mark
    (tmp_path / "link.safetensors").symlink_to(path)
    assert content_digest(tmp_path / "link.safetensors") == mark
    # Written into in place, with size and modification time as before: only the inode's own time tells.
    with path.open("r+b") as file:
        file.write(b"b")
    os.utime(path, ns=(OLD, OLD))
    assert path.stat().st_mtime_ns == OLD
    assert content_digest(path) == hashlib.sha256(b"b" + b"a" * SMALL).hexdigest()
    # Another file moved to its place, likewise.
    os.utime(other, ns=(OLD, OLD))
    other.replace(path)
    assert content_digest(path) == hashlib.sha256(b"c" * (SMALL + 1)).hexdigest()


def test_what_changed_just_now_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"a" * (SMALL + 1))
    os.utime(path, ns=(OLD, OLD))
    content_digest(path)
    assert entries() == []


def test_small_files_are_read_each_time(tmp_path: Path) -> None:
    assert content_digest(settled(tmp_path / "config.json", b"{}")) == hashlib.sha256(b"{}").hexdigest()
    assert entries() == []


@pytest.mark.parametrize("damage", ["", "[]", "{", '{"facts": 1}', '{"facts": [], "sha256": 1}', "[" * 5000])
def test_a_damaged_store_is_read_past(damage: str, tmp_path: Path) -> None:
    path = settled(tmp_path / "weights.safetensors", b"a" * (SMALL + 1))
    true = content_digest(path)
    [entry] = entries()
    entry.write_text(damage, "utf-8")
    assert content_digest(path) == true


def test_a_store_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path, cache: Path) -> None:
    cache.write_text("a file where the folder should be", "utf-8")
    path = settled(tmp_path / "weights.safetensors", b"a" * (SMALL + 1))
    assert content_digest(path) == hashlib.sha256(b"a" * (SMALL + 1)).hexdigest()


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(SubjectError, match=r"cannot be read \(no regular file\)"):
        content_digest(tmp_path / "pipe.safetensors")
    with pytest.raises(SubjectError, match=r"cannot be read \(no such file\)"):
        content_digest(tmp_path / "absent")
