"""What runs keep: a journal of finished pieces in a run folder, and a store by content that runs share.

An entry is a folder ``<store>/<kind>/<digest of its key>`` with a ``key.json``: the key, and the SHA-256 of every file.
Keys hold digests of content, never paths, so a model that was moved is found and one that was replaced is not. The
store may be deleted at any time; what is missing or damaged is made again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from aftertune.runs._atomic import explain_storage, file_digest, write_json
from aftertune.runs._folder import fingerprint
from aftertune.runs._reading import open_regular
from aftertune.runs._stored import read_document


class Journal:
    """Key → JSON value, one line each, on disk before `record` returns.

    Each line ends with a checksum (CRC-32) of its key and value. A line that a kill cut short is dropped when the
    journal is opened again, and so are a line that was changed or damaged and all that follows it: they are worked
    out anew, so no damage becomes a number. Floats survive exactly.

    Args:
        path: the file; made on the first `record`, its folder must exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: dict[str, Any] = {}
        with explain_storage(path):
            self._read()

    def _read(self) -> None:
        if not self.path.exists():
            return
        sound = 0
        with open_regular(self.path) as file:
            for line in file:
                entry = _sound(line)
                if entry is None:
                    break
                self._entries[entry[0]] = entry[1]
                sound += len(line)
        if sound < self.path.stat().st_size:
            os.truncate(self.path, sound)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __getitem__(self, key: str) -> Any:
        return self._entries[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def record(self, key: str, value: Any) -> None:
        """Add an entry and make it last.

        Raises:
            StorageError: no space; the entry is not recorded.
        """
        line = _line(key, value)
        with explain_storage(self.path):
            end = self.path.stat().st_size if self.path.exists() else 0
            try:
                with self.path.open("ab") as file:
                    file.write(line)
                    file.flush()
                    os.fsync(file.fileno())
            except BaseException:
                # Half a line would spoil the one that is recorded next.
                with contextlib.suppress(OSError):
                    os.truncate(self.path, end)
                raise
        self._entries[key] = json.loads(line)[1]


def _line(key: str, value: Any) -> bytes:
    entry = json.dumps([key, value], ensure_ascii=True, separators=(",", ":"))
    return f'{entry[:-1]},"{zlib.crc32(entry.encode()):08x}"]\n'.encode()


def _sound(line: bytes) -> tuple[str, Any] | None:
    """Key and value of a line that is whole and unchanged; None for any other."""
    if not line.endswith(b"\n"):
        return None
    try:
        entry = json.loads(line)
        if not (isinstance(entry, list) and len(entry) == 3 and isinstance(entry[0], str)):
            return None
        # Compared as values: spaces that another program put between them change no number.
        written = json.loads(_line(entry[0], entry[1]))
    except (ValueError, RecursionError):
        return None
    return (entry[0], entry[1]) if written[2] == entry[2] else None


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
