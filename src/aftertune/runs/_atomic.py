"""Files and folders written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aftertune.errors import AftertuneError, OutputError, RunError, StorageError
from aftertune.runs._reading import open_regular

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {
    errno.EACCES,
    errno.EEXIST,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ENOTEMPTY,
    errno.EPERM,
    errno.EROFS,
}
# Libraries that write through native code raise errors of their own, with the system's words in them.
_NATIVE_FULL = (
    "No space left on device",
    "os error 28",
    "Disk quota exceeded",
    "File too large (os error 27)",
    "PytorchStreamWriter failed",
    "unexpected pos",  # what torch.save says once its zip file could not grow
)


@contextlib.contextmanager
def explain_storage(path: Path, flag: str = "--out") -> Iterator[None]:
    """Turn the operating system's complaints about writing ``path`` into ours.

    Args:
        path: what is written.
        flag: the option that names another place.

    Raises:
        OutputError: it may not be written there.
        StorageError: no space is left, or the medium failed.
    """
    try:
        yield
    except AftertuneError:
        raise
    except OSError as error:
        if error.errno in _FULL:
            raise _no_space(path) from error
        if error.errno in _FORBIDDEN:
            where = path
            # A file beside ours is a temporary one, of which nobody has heard; one elsewhere tells more.
            if isinstance(error.filename, str) and Path(error.filename).parent != path.parent:
                where = Path(error.filename)
            reason = (error.strerror or "not allowed").lower()
            raise OutputError(f"{where}: cannot be written ({reason}); choose another folder with {flag}") from error
        if error.errno == errno.EIO:
            raise StorageError(f"{path}: writing failed ({error.strerror})") from error
        raise
    except Exception as error:
        if any(words in str(error) for words in _NATIVE_FULL):
            raise _no_space(path) from error
        raise


def _no_space(path: Path) -> RunError:
    return StorageError(f"{path}: no space left on the disk; free some and run the same command again to go on")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: a reader sees the old content or the new, never a part.

    Raises:
        OutputError: the place may not be written.
        StorageError: no space; the old file, if any, is untouched.
    """
    with explain_storage(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o666 & ~_umask())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def _umask() -> int:
    # mkstemp makes files that only the owner may read; results are for colleagues too.
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8; characters that UTF-8 cannot hold (lone surrogates) become "?"."""
    write_bytes(path, text.encode("utf-8", errors="replace"))


def write_json(path: Path, document: Any) -> None:
    """`write_bytes` of one JSON document, which reads back as it was: lone surrogates are escaped.

    Raises:
        ValueError: a number in it is NaN or infinite, which JSON cannot hold.
    """
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # Of a lone surrogate, Python's escape is JSON's escape too.
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def file_digest(path: Path) -> str:
    """SHA-256 of a regular file, as hexadecimal digits.

    Raises:
        DataError: a pipe, a device or a socket.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
        raise OutputError(f"{parent}: cannot be written (it is no folder); choose another folder with {flag}")
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
