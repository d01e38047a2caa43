"""Folders that are whole or absent."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from aftertune.errors import OutputError
from aftertune.runs._atomic import explain_storage

_RANDOM = 8  # letters that tempfile puts behind a prefix


def refuse_taken_folder(folder: Path, flag: str = "--out") -> None:
    """Refuse a place where `new_folder` could not make a folder, before there is anything to put into it.

    Args:
        folder: where it is to be.
        flag: the option that names another place.

    Raises:
        OutputError: something is there (a dangling link counts), or its parent may not be written.
    """
    with explain_storage(folder, flag):
        if folder.is_symlink() or folder.exists():
            raise OutputError(f"{folder}: exists; models are never overwritten, choose another {flag}")
        _refuse_parent(folder, flag)


def _refuse_parent(folder: Path, flag: str) -> None:
    # The names of what is made beside it are longer than its own.
    folder.with_name(f".{folder.name}.{'x' * _RANDOM}").exists()
    folder.with_name(f"{folder.name}.partial").exists()
    parent = next(path for path in folder.absolute().parents if path.exists() or path.is_symlink())
    if not parent.is_dir():
        raise OutputError(f"{parent}: cannot be written (it is no folder); choose another place with {flag}")
    with tempfile.TemporaryFile(dir=parent):  # the system says best why it may not
        pass


@contextlib.contextmanager
def new_folder(folder: Path, *, shared: bool = False) -> Iterator[Path]:
    """A place to make ``folder`` in; it appears under its name when the block ends well, and never otherwise.

    What is yielded does not exist yet, has the folder's name, and lies in a scratch folder of its own beside it, which
    may hold other things meanwhile and is gone afterwards.

    Args:
        folder: where it is to be; parents are made.
        shared: a cache, which another process may have filled meanwhile with the same; that one then stays.

    Raises:
        OutputError: it may not be written, or exists.
        StorageError: no space is left.
    """
    with explain_storage(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{folder.name}."
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=prefix, ignore_cleanup_errors=True) as scratch:
            made = Path(scratch) / folder.name
            yield made
            try:
                made.rename(folder)
            except OSError:
                if not (shared and folder.exists()):
                    raise
