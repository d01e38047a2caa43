"""Data sets that tasks load from the hub: at once, or one line that says which is missing."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from aftertune.errors import DataError

_PATIENCE = 3.0  # seconds to find out whether there is a hub
_PROXIES = ("https_proxy", "http_proxy", "all_proxy")


@contextlib.contextmanager
def hub_data(tasks: str) -> Iterator[None]:
    """While inside, `datasets.load_dataset` does not wait for a hub that is not there.

    The libraries beneath try again for half a minute, and ``inspect_evals`` for minutes on top. Here the hub is knocked
    at once; if nobody answers, what the cache holds is taken as it is, and what it does not hold is an error that
    nobody retries. A hub that answers, though busily, is left to those libraries.

    Args:
        tasks: whose data it is, for the message.

    Raises:
        DataError: a data set is neither here nor to be had.
    """
    import datasets
    from huggingface_hub import constants

    off = bool(datasets.config.HF_HUB_OFFLINE or constants.HF_HUB_OFFLINE)
    reached = not off and _answers(constants.ENDPOINT)
    why = "the hub is switched off by HF_HUB_OFFLINE" if off else f"{constants.ENDPOINT} cannot be reached"
    load = datasets.load_dataset

    def load_at_once(path: Any, name: Any = None, *args: Any, **options: Any) -> Any:
        try:
            return load(path, name, *args, **options)
        except Exception as error:
            problem = _problem(error, reached=reached, why=why)
            if problem is None:
                raise
            wanted = f"{path} ({name})" if name else str(path)
            raise DataError(f"its data set {wanted} {problem}; nothing was decided", path=tasks) from error

    with contextlib.ExitStack() as stack:
        stack.enter_context(_replaced(datasets, "load_dataset", load_at_once))
        if not reached:
            stack.enter_context(_replaced(datasets.config, "HF_HUB_OFFLINE", True))
            stack.enter_context(_replaced(constants, "HF_HUB_OFFLINE", True))
        stack.enter_context(_quiet())
        yield


def _problem(error: Exception, *, reached: bool, why: str) -> str | None:
    """What is wrong with a data set and how to mend it; None for what those who called should see."""
    from datasets.exceptions import DatasetNotFoundError

    if isinstance(error, DatasetNotFoundError):  # not there, or behind a gate
        return f"cannot be had ({_first_line(error)}); ask for access on its page, and log in by `hf auth login`"
    missing = isinstance(error, ConnectionError | FileNotFoundError) or "Couldn't find cache" in str(error)
    if reached and not isinstance(error, ConnectionError):
        return None
    mend = "fetch it once where there is a network, or point HF_HOME to a copy of the cache of one who did"
    return f"is not in the cache, and {why}; {mend}" if missing else None


def _answers(endpoint: str) -> bool:
    """Whether somebody listens at an address; taken for granted behind a proxy."""
    if any(os.environ.get(name) or os.environ.get(name.upper()) for name in _PROXIES):
        return True
    place = urlsplit(endpoint)
    port = place.port or (80 if place.scheme == "http" else 443)
    deadline = time.monotonic() + _PATIENCE
    try:
        addresses = socket.getaddrinfo(place.hostname, port, type=socket.SOCK_STREAM)
    except OSError:
        return False
    for *_, address in addresses:
        left = deadline - time.monotonic()
        if left <= 0:
            break
        with contextlib.suppress(OSError):
            socket.create_connection((str(address[0]), port), timeout=left).close()
            return True
    return False


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No bars, and no news that the cache was used."""
    from datasets.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
