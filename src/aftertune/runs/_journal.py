"""An append-only record of finished pieces of work, so that a killed run does not do them twice."""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aftertune.runs._atomic import explain_storage
from aftertune.runs._reading import open_regular


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
