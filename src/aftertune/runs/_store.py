"""What runs share, kept by content: measurements of a base, models that a study's steps made.

An entry is a folder ``<store>/<kind>/<digest of its key>`` with a ``key.json``: the key, and the SHA-256 of every file.
Keys hold digests of content, never paths, so a model that was moved is found and one that was replaced is not. The
store may be deleted at any time; what is missing or damaged is made again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from aftertune.runs._atomic import explain_storage, file_digest, write_json
from aftertune.runs._folder import fingerprint
from aftertune.runs._stored import read_document

_KEY = "key.json"
_SAID = "AFTERTUNE_STORE"


def cache_root() -> Path:
    """Where models and shared results are kept: ``$AFTERTUNE_CACHE``, else ``~/.cache/aftertune``."""
    return Path(os.environ.get("AFTERTUNE_CACHE") or Path.home() / ".cache" / "aftertune")


class Store:
    """A folder of results by content, which several processes may use at once.

    Args:
        folder: where entries are; made when the first is kept.
        otherwise: where an entry goes that this store lacks, for one that may be read but not written.
    """

    def __init__(self, folder: Path, otherwise: Store | None = None) -> None:
        self.folder = folder
        self.otherwise = otherwise

    def kept(self, kind: str, key: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
        """The folder of an entry, made now unless it is there whole.

        Args:
            kind: what it is, such as "measured".
            key: all that decides its content, as JSON values; digests, never paths.
            make: fills the folder it is given. That folder outlives a kill, so a journal in it lets the next call
                continue. Another process that wants the same entry waits until this one is done.

        Raises:
            OutputError: the store cannot be written.
            StorageError: no space.
        """
        entry = self.folder / kind / fingerprint(key)[:32]
        if _is_whole(entry, key):
            return entry
        if self.otherwise is not None:
            return self.otherwise.kept(kind, key, make)
        partial = entry.with_suffix(".partial")
        with self._alone(entry):
            if _is_whole(entry, key):  # another process made it meanwhile
                return entry
            with explain_storage(entry, _SAID):
                _reopen(entry, partial)
            try:
                make(partial)
            except BaseException:
                with contextlib.suppress(OSError):
                    partial.rmdir()  # unless there is something in it to continue from
                raise
            with explain_storage(entry, _SAID):
                digests = {str(path.relative_to(partial)): file_digest(path) for path in _files(partial)}
                write_json(partial / _KEY, {"key": key, "files": digests})
                partial.rename(entry)
        return entry

    @contextlib.contextmanager
    def _alone(self, entry: Path) -> Iterator[None]:
        with explain_storage(entry, _SAID):
            entry.parent.mkdir(parents=True, exist_ok=True)
            # Never removed: a process that waits for it holds the file, not its name.
            lock = entry.with_suffix(".lock").open("w")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def shared_store(private: Path, *, shared: bool = True) -> Store:
    """The store that all runs share; where there is none, one of this run alone.

    ``AFTERTUNE_STORE`` names the shared one (``$AFTERTUNE_CACHE/store`` if it is not set) or says ``off``. One that
    cannot be written is only read.

    Args:
        private: a folder of this run.
        shared: False for a run whose results must not leave its folder.
    """
    said = os.environ.get(_SAID, "")
    own = Store(private)
    if not shared or said.lower() == "off":
        return own
    folder = Path(said) if said else cache_root() / "store"
    return Store(folder, None if _writable(folder) else own)


def _writable(folder: Path) -> bool:
    for path in (folder, *folder.parents):
        if path.exists():
            return path.is_dir() and os.access(path, os.W_OK | os.X_OK)
    return False


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / _KEY)


def _reopen(entry: Path, partial: Path) -> None:
    """Make a damaged entry a partial one, of the files that are as they were recorded."""
    if not entry.exists():
        partial.mkdir(exist_ok=True)
        return
    sound: dict[str, str] = {}
    with contextlib.suppress(Exception):  # a damaged record vouches for no file
        sound = dict(read_document(entry / _KEY)["files"])
    if sound and not partial.exists():
        entry.rename(partial)
        (partial / _KEY).unlink()
        for path in list(partial.rglob("*")):
            name = str(path.relative_to(partial))
            if not path.is_dir() and not (path.is_file() and sound.get(name) == file_digest(path)):
                path.unlink()
    else:
        shutil.rmtree(entry)
        partial.mkdir(exist_ok=True)


def _is_whole(entry: Path, key: Mapping[str, Any]) -> bool:
    """Whether an entry holds what was put there, unchanged, under this very key."""
    try:
        held = read_document(entry / _KEY)
        files: dict[str, str] = held["files"]
        if fingerprint(held["key"]) != fingerprint(key):
            return False
        return files == {str(path.relative_to(entry)): file_digest(path) for path in _files(entry)}
    except Exception:  # whatever is wrong with it, it is made again
        return False
