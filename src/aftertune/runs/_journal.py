"""An append-only record of finished pieces of work, so that a killed run does not do them twice."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aftertune.runs._atomic import explain_storage
from aftertune.runs._reading import open_regular


class Journal:
    """Key → JSON value, one line each, on disk before `record` returns.

    A line that a kill cut short is dropped when the journal is opened again, and so is all that follows a
    damaged line. Floats survive exactly.

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
                try:
                    entry = json.loads(line)
                except (ValueError, RecursionError):
                    break
                if not line.endswith(b"\n"):
                    break
                if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
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
        line = json.dumps([key, value], ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
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
