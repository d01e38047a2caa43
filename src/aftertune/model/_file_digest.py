"""Digests of files by content, taken once: a large checkpoint is not read again to see that it is still there.

A digest is kept under the cache folder with the file's size, times, inode and device, and counts only while all of
them are the same. The time of the last change of an inode cannot be set by hand, so that a file that was replaced or
written into is read again even where its size and modification time were kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path

from aftertune.errors import AftertuneError, SubjectError
from aftertune.runs import file_digest, write_json

SMALL = 2**20
"""Bytes up to which a file is read each time."""
_SETTLED = 2 * 10**9  # nanoseconds; what changed more recently may change again within one tick of a coarse clock


def content_digest(path: Path) -> str:
    """SHA-256 (hex) of a file.

    Raises:
        SubjectError: it is no regular file, or cannot be read.
    """
    try:
        if not path.is_file():
            raise SubjectError(f"{path}: cannot be read ({'no regular file' if path.exists() else 'no such file'})")
        before = path.stat()
        if before.st_size <= SMALL:
            return file_digest(path)
        began, facts = time.time_ns(), _facts(before)
        kept = _kept_at(path)
        found = kept and _read(kept, facts)
        if found:
            return found
        digest = file_digest(path)
        settled = began - max(before.st_mtime_ns, before.st_ctime_ns) > _SETTLED
        if kept and settled and _facts(path.stat()) == facts:
            _keep(kept, path, facts, digest)
    except OSError as error:
        raise SubjectError(f"{path}: cannot be read ({(error.strerror or str(error)).lower()})") from None
    return digest


def _facts(stat: os.stat_result) -> list[int]:
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev]


def _kept_at(path: Path) -> Path | None:
    """Where the digest of a file is kept; None where there is no place for it."""
    from aftertune.runs import cache_root

    with contextlib.suppress(OSError, RuntimeError):  # no home, a loop of links
        name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
        return cache_root() / "digests" / f"{name[:32]}.json"
    return None


def _read(kept: Path, facts: list[int]) -> str | None:
    """A kept digest of a file with these facts; whatever is wrong with the entry, the file is read again."""
    try:
        entry = json.loads(kept.read_text("utf-8"))
        digest = entry["sha256"]
        whole = entry["facts"] == facts and isinstance(digest, str) and len(bytes.fromhex(digest)) == 32
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return digest if whole else None


def _keep(kept: Path, path: Path, facts: list[int], digest: str) -> None:
    with contextlib.suppress(OSError, AftertuneError):  # a cache that cannot be written costs time, not the run
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(kept, {"file": str(path), "facts": facts, "sha256": digest})
