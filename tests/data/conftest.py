from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from aftertune.errors import DataError, ExitCode


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., Path]:
    """A writer of JSON Lines files: strings go in as they are, anything else as JSON."""

    def write(rows: Sequence[object], name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        path.write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8"))
        return path

    return write


@pytest.fixture
def complaint() -> Callable[..., DataError]:
    """Calls a reader that must refuse, and checks that it does so in one line with exit code 2."""

    def call(read: Callable[..., object], *arguments: object, **options: object) -> DataError:
        with pytest.raises(DataError) as caught:
            read(*arguments, **options)
        text = str(caught.value)
        assert len(text.splitlines()) == 1, text
        assert text.startswith(caught.value.path)
        assert caught.value.exit_code == ExitCode.USAGE == 2
        return caught.value

    return call
