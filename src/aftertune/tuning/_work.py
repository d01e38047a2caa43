"""The folder of a fine-tune in progress, ``OUT.partial``: claimed by one run, kept while it can be continued."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

from aftertune.errors import OutputError
from aftertune.runs import MANIFEST, RunFolder, explain_storage, read_manifest, refuse_taken_folder
from aftertune.tuning._card import read_record

COMPLETE = "complete"
_FAILED = "failed"


def claim(work: RunFolder, out: Path, config: dict[str, Any], held: contextlib.ExitStack) -> dict[str, Any] | None:
    """Lock the work folder until ``held`` closes, or give the record of the result that is there already.

    Raises:
        OutputError: something else is there, or another process is at work.
    """
    refuse_taken(out)
    if out.exists():
        record = read_record(out)
        if record and record.get("config") == config:
            return record
        raise OutputError(_taken(out))
    _discard_failed(work)
    held.enter_context(work.locked())
    return None


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end."""
    whole = [path for path in folder.glob("checkpoint-*") if (path / COMPLETE).exists()]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def refuse_taken(out: Path) -> None:
    """Refuse a place that cannot take a fine-tune, before a model is loaded; one of ours may be there.

    Raises:
        OutputError: something else is there, or its parent may not be written.
    """
    with explain_storage(out):
        if not out.exists():
            refuse_taken_folder(out)
        elif not read_record(out):
            raise OutputError(_taken(out))
        work = partial(out)
        if work.is_symlink() or (work.exists() and not work.is_dir()):
            raise OutputError(f"{work}: is in the way of work in progress; remove it, or choose another --out")


def partial(out: Path) -> Path:
    return out.with_name(out.name + ".partial")


def _taken(out: Path) -> str:
    return f"{out}: exists and holds something else; models are never overwritten, choose another --out"


def note_failure(work: RunFolder) -> None:
    """Note that a run broke by itself, so that a command with other settings may take its place.

    Checkpoints stay for the same command, which may be given again where there is more memory.
    """
    with contextlib.suppress(OSError, OutputError):
        if last_checkpoint(work.path / "checkpoints") is None:
            shutil.rmtree(work.path, ignore_errors=True)
        else:
            (work.path / _FAILED).touch()


def _discard_failed(work: RunFolder) -> None:
    """Remove what another configuration left in the place of ``work``, if it broke or got nowhere."""
    try:
        held = read_manifest(work.path) if (work.path / MANIFEST).exists() else None
    except OutputError:
        return  # told by `locked`
    if held is None or held["verb"] != "tune" or held["config"] == work.config:
        return
    got_nowhere = last_checkpoint(work.path / "checkpoints") is None
    if (got_nowhere or (work.path / _FAILED).exists()) and not work.busy:
        shutil.rmtree(work.path, ignore_errors=True)
