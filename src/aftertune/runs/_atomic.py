"""Files that are whole or absent, and storage errors in words."""

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
            raise OutputError(f"{where}: cannot be written ({reason}); choose another place with {flag}") from error
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
