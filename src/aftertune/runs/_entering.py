"""Entering a run's folder, so that a run refused at the door leaves no trace; and the folder it has by default."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from aftertune.errors import AftertuneError, RunError
from aftertune.runs._atomic import explain_storage
from aftertune.runs._folder import RunFolder, fingerprint


@contextlib.contextmanager
def entered(run: RunFolder) -> Iterator[None]:
    """`RunFolder.locked`, but a run that is refused before its first number leaves no trace in a new folder.

    Raises:
        OutputError: see `RunFolder.locked`.
    """
    with explain_storage(run.path):
        absent = [path for path in (run.path, *run.path.parents) if not path.exists()]
        new = bool(absent) or (run.path.is_dir() and not any(run.path.iterdir()))
    with run.locked():
        try:
            yield
        except AftertuneError as error:
            # Under the lock, so that no other process's run is taken for a refused one.
            with contextlib.suppress(OSError):
                if new and not _has_work(run.path, journals=isinstance(error, RunError)):
                    _clear(run.path, absent)
            raise


def _has_work(folder: Path, *, journals: bool) -> bool:
    """Whether a run left more than its lock and manifest; its own journals count if they may be gone on with."""
    small = {folder / ".lock", folder / "manifest.json", *(() if journals else folder.glob("*.jsonl"))}
    return any(path.is_file() for path in folder.rglob("*") if path not in small)


def _clear(folder: Path, made: Sequence[Path]) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    for path in made:
        path.rmdir()


def default_folder(verb: str, config: Mapping[str, Any]) -> Path:
    """``runs/VERB-xxxxxxxx``: the same configuration, the same folder."""
    return Path("runs") / f"{verb}-{fingerprint(config)[:8]}"
