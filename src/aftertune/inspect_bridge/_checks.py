"""What a run of Inspect meets around it: judges, packages, data sets, parameters of tasks; settled before it begins.

While tasks run, Inspect loads the nearest ``.env`` above the working folder into the environment, and keeps a trace of
requests under ``inspect_ai/traces`` in the user's data folder (or in ``INSPECT_TRACE_FILE``). A redacted run does
neither; ``AFTERTUNE_NO_DOTENV=1`` keeps ``.env`` out of any run.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io
import math
import os
import re
import socket
import subprocess
import sys
import tempfile
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aftertune.errors import AftertuneError, DataError, UsageError
from aftertune.inspect_bridge._foreign_tasks import KNOWN_TASKS, PACKAGE
from aftertune.model import check_subject

NO_DOTENV = "AFTERTUNE_NO_DOTENV"
_WRITES = ("INSPECT_TRACE_FILE", "INSPECT_PY_LOGGER_FILE")
_HUB_PATIENCE = 3.0  # seconds to find out whether there is a hub

# Providers that load weights or start a server when a model is made: their models are not made just to see.
_HEAVY = frozenset({"hf", "vllm", "vllm-completions", "sglang", "transformer_lens", "nnterp", "llama-cpp-python"})
_OURS = "aftertune"
# Made up by Inspect itself: they are no servers that could be down.
_SHAM = frozenset({"mockllm", "none"})
_PATIENCE = 60  # seconds
_TOKENS = 16  # some providers take no fewer

# What no task can do with less or more; a task may have narrower bounds of its own.
_BOUNDS: dict[str, tuple[float, float]] = {
    "samples": (1, 100_000),
    "max_tokens": (1, 1_000_000),
    "verdict_tokens": (1, 1_000_000),
    "temperature": (0, 100),
    "shots": (0, 1_000),
    "seed": (0, 2**32 - 1),
    "least_coherent": (0, 1_000_000_000),
}
_KINDS = {
    "int": "a whole number", "float": "a number", "str": "text", "bool": "true or false", "NoneType": "nothing",
    "list": "a list of texts",
}  # fmt: skip


def refuse_unknown_judges(graders: Sequence[str], *, redact: bool = False) -> None:
    """Refuse judges that cannot be made: another provider's name, a package or a key that is missing.

    Judges that are a subject of ours are checked as subjects are; nothing is loaded, and no request is sent.

    Raises:
        UsageError: it names the judge and what is missing.
        SubjectError: a judge of ours cannot be found or used.
    """
    from aftertune.judges import is_offline, refuse_unserved

    for name in graders:
        provider, slash, model = name.partition("/")
        if not (provider and slash and model):
            raise UsageError(f"--grader {name}: must be PROVIDER/MODEL, as Inspect names it")
        if provider == _OURS:
            if not model.startswith("live:"):  # which are in memory
                check_subject(model)
        elif is_offline(name):
            refuse_unserved(name, {})
        elif provider in _HEAVY:
            _refuse_absent(name, provider)
        else:
            with inspect_files(redact=redact):
                _made(name)


def refuse_silent_judges(graders: Sequence[str], *, redact: bool = False) -> None:
    """Send each judge on a server one tiny request, once, and see that the offline judge's files are there.

    Judges that load weights here are left out: their first answer would cost their loading.

    Raises:
        UsageError: one does not answer; the line says why.
    """
    from aftertune.judges import is_offline

    if any(map(is_offline, graders)):
        from aftertune.judges import minilm_folder

        minilm_folder()  # the one thing that it can lack
    here = {*_HEAVY, *_SHAM, _OURS}
    served = [name for name in graders if name.partition("/")[0] not in here and not is_offline(name)]
    if not served:
        return
    import anyio

    with inspect_files(redact=redact):
        for name in served:
            anyio.run(_ask, name)


def _refuse_absent(name: str, provider: str) -> None:
    from inspect_ai._util.registry import registry_lookup

    packages = {"hf": "transformers", "vllm-completions": "vllm", "llama-cpp-python": "openai"}
    package = packages.get(provider, provider)
    if registry_lookup("modelapi", f"inspect_ai/{provider}") is None and registry_lookup("modelapi", provider) is None:
        raise UsageError(f"--grader {name}: Inspect knows no provider {provider}")
    if importlib.util.find_spec(package) is None:
        raise UsageError(f"--grader {name}: needs the package {package}; pip install {package}")


def _made(name: str) -> Any:
    from inspect_ai.model import get_model

    try:
        with contextlib.redirect_stdout(sys.stderr):  # Inspect greets its hooks there
            return get_model(name, memoize=False)
    except AftertuneError:
        raise
    except Exception as error:
        raise UsageError(f"--grader {name}: {first_line(error)}") from error


async def _ask(name: str) -> None:
    import anyio
    from inspect_ai.model import ChatMessageUser, GenerateConfig

    judge = _made(name)
    config = GenerateConfig(max_tokens=max(_TOKENS, judge.config.max_tokens or 0), max_retries=0, timeout=_PATIENCE)
    try:
        with anyio.fail_after(_PATIENCE), contextlib.redirect_stdout(sys.stderr):
            output = await judge.generate([ChatMessageUser(content="Reply with the word yes.")], config=config)
        problem = output.error or ""
    except TimeoutError:
        problem = f"no answer within {_PATIENCE} seconds"
    except Exception as error:
        problem = first_line(error.__cause__ if isinstance(error.__cause__, Exception) else error)
    finally:
        with contextlib.suppress(Exception):
            await judge.api.aclose()
    if problem:
        first = (str(problem).strip().splitlines() or ["no reason given"])[0]
        raise UsageError(f"--grader {name}: does not answer ({first[:200]}); check its name, its key and its address")


def check_foreign(name: str, args: Mapping[str, Any]) -> None:
    """Make a task of another package, so that what it lacks is known before a model is loaded.

    Files are left to Inspect, and so is whatever else goes wrong here: a task may look for the model under evaluation.
    """
    package, _, bare = name.partition("/")
    if ".py" in name or _there(name) or package == "hf" or not package.isidentifier():
        _check_file(name)
        return
    from inspect_ai.util import registry_create

    if importlib.util.find_spec(package) is None:
        mend = "pip install 'aftertune[evals]'" if package == PACKAGE else "install what brings it"
        raise UsageError(f"--task {name}: there is no package {package}; {mend}")
    try:
        with hub_data(name), contextlib.redirect_stdout(io.StringIO()):
            task = registry_create("task", name, **args)
    except AftertuneError:
        raise
    except LookupError as error:
        if "registry" not in str(error):
            return
        raise UsageError(f"--task {name}: no such task in {package}; see `inspect list tasks`") from error
    except (AssertionError, ImportError) as error:
        row = KNOWN_TASKS.get(bare)
        mend = row.install if row and row.install and package == PACKAGE else ""
        raise UsageError(
            f"--task {name}: needs a package that is not installed; {mend or first_line(error)}"
        ) from error
    except TypeError as error:  # a parameter it does not know
        raise UsageError(f"--task {name}: {first_line(error)}") from error
    except OSError as error:  # what it fetches past `datasets`, or a file that a parameter names
        problem = f"what it needs cannot be loaded ({first_line(error)}); nothing was decided"
        raise DataError(problem, path=name) from error
    except Exception:
        return
    if getattr(task.sandbox, "type", None) == "docker":
        _need_docker(name)


def _there(name: str) -> bool:
    try:
        return Path(name).exists()
    except OSError as error:
        raise UsageError(f"--task {name[:60]}…: cannot be read ({error.strerror}); check the name") from None


def _check_file(name: str) -> None:
    """Refuse a file of tasks that is not there."""
    path = name.partition("@")[0]
    if path.endswith(".py") and not any(c in name for c in "*?[") and not _there(path):
        raise UsageError(f"--task {name}: no such file; check the path")


def _need_docker(name: str) -> None:
    try:
        found = subprocess.run(["docker", "version"], capture_output=True, timeout=20, check=False)
        missing = found.returncode != 0
    except (OSError, subprocess.TimeoutExpired):
        missing = True
    if missing:
        raise UsageError(f"--task {name}: runs what the model wrote in docker, and docker does not answer; start it")


def make_task(task: Callable[..., Any], name: str, args: Mapping[str, Any]) -> Any:
    """A task of ours, by its function and name, with parameters of the kinds that the function declares.

    Raises:
        UsageError: a parameter that it does not know, of another kind, or out of bounds.
        DataError: a file that a parameter names cannot be used.
    """
    known = inspect.signature(task).parameters
    hints = typing.get_type_hints(inspect.unwrap(task))
    for key, value in args.items():
        if key not in known:
            raise UsageError(f"-T {key}: no parameter of {name}; choose from {', '.join(known)}")
        _refuse_other_kind(key, value, hints.get(key, Any))
        _refuse_beyond(key, value)
    try:
        return task(**args)
    except AftertuneError:
        raise
    except Exception as error:  # a value that the task cannot work with
        given = ", ".join(f"{key}={_shown(value)}" for key, value in args.items())
        raise UsageError(f"-T {given}: {name} cannot be made with it ({first_line(error)})") from error


def _refuse_other_kind(key: str, value: Any, hint: Any) -> None:
    from pydantic import TypeAdapter, ValidationError

    try:
        TypeAdapter(hint).validate_python(value, strict=True)
    except ValidationError:
        kinds = [k for part in (typing.get_args(hint) or (hint,)) if (k := _kind(part))]
        quoted = f"; quote it: -T {key}='\"{value}\"'" if "text" in kinds and isinstance(value, int | float) else ""
        raise UsageError(f"-T {key}={_shown(value)}: must be {' or '.join(kinds)}{quoted}") from None


def _kind(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    name = getattr(typing.get_origin(hint) or hint, "__name__", str(hint))
    return "" if name == "NoneType" else _KINDS.get(name, name)


def _refuse_beyond(key: str, value: Any) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return
    low, high = _BOUNDS.get(key, (-math.inf, math.inf))
    if not math.isfinite(value) or not low <= value <= high:
        bounds = f"from {low:,.0f} to {high:,.0f}" if key in _BOUNDS else "finite"
        raise UsageError(f"-T {key}={_shown(value)}: must be {bounds}")


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


@contextlib.contextmanager
def hub_data(tasks: str) -> Iterator[None]:
    """While inside, `datasets.load_dataset` does not wait for a hub that is not there.

    The libraries beneath try again for half a minute, and ``inspect_evals`` for minutes on top: what it cannot load is
    an error here that nobody retries. Where nobody answers at the hub's address, the cache is used as it is.

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
            problem = _hub_problem(error, reached=reached, why=why)
            if problem is None:
                raise
            wanted = f"{path} ({name})" if name else str(path)
            raise DataError(f"its data set {wanted} {problem}; nothing was decided", path=tasks) from error

    quiet = datasets.utils.logging
    level, bars = quiet.get_verbosity(), quiet.is_progress_bar_enabled()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_replaced(datasets, load_dataset=load_at_once))
        if not reached:
            stack.enter_context(_replaced(datasets.config, HF_HUB_OFFLINE=True))
            stack.enter_context(_replaced(constants, HF_HUB_OFFLINE=True))
        stack.callback(quiet.set_verbosity, level)
        stack.callback(quiet.enable_progress_bar if bars else quiet.disable_progress_bar)
        quiet.set_verbosity_error()  # else it tells that the cache was used
        quiet.disable_progress_bar()
        yield


def _hub_problem(error: Exception, *, reached: bool, why: str) -> str | None:
    """What is wrong with a data set and how to mend it; None for what those who called should see."""
    from datasets.exceptions import DatasetNotFoundError

    if isinstance(error, DatasetNotFoundError):  # not there, or behind a gate
        reason = first_line(error).rstrip(".")
        return f"cannot be had ({reason}); ask for access on its page, and log in with `hf auth login`"
    missing = isinstance(error, ConnectionError | FileNotFoundError) or "Couldn't find cache" in str(error)
    if reached and not isinstance(error, ConnectionError):
        return None
    mend = "fetch it once where there is a network, or point HF_HOME to a copy of the cache of one who did"
    return f"is not in the cache, and {why}; {mend}" if missing else None


def _answers(endpoint: str) -> bool:
    """Whether somebody listens at an address; taken for granted behind a proxy."""
    proxies = ("https_proxy", "http_proxy", "all_proxy")
    if any(os.environ.get(name) or os.environ.get(name.upper()) for name in proxies):
        return True
    address = urlsplit(endpoint)
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((str(address.hostname), port), timeout=_HUB_PATIENCE).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _replaced(owner: Any, **values: Any) -> Iterator[None]:
    """While inside, an object has other attributes."""
    before = {name: getattr(owner, name) for name in values}
    for name, value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


@contextlib.contextmanager
def inspect_files(*, redact: bool) -> Iterator[None]:
    """While inside, keys of ``.env`` are loaded as Inspect does; a run with ``redact`` has no ``.env`` and no trace."""
    from inspect_ai._eval import context, evalset
    from inspect_ai._util import logger
    from inspect_ai._util.dotenv import init_dotenv

    with contextlib.ExitStack() as stack:
        if redact or os.environ.get(NO_DOTENV):
            for reader in (context, evalset):
                stack.enter_context(_replaced(reader, init_dotenv=lambda: None))
        else:
            init_dotenv()  # Inspect does so once a task starts, which is after judges are looked for
        if redact:
            stack.enter_context(_replaced(_log_handler(logger), trace_logger=None, file_logger=None))
        yield


def _log_handler(logger: Any) -> Any:
    """Inspect's handler of log records; made now where it is not there yet, without a trace file."""
    if logger._logHandler["handler"] is None:
        held = {name: os.environ.pop(name) for name in _WRITES if name in os.environ}
        try:
            with tempfile.TemporaryDirectory() as folder:
                logger.init_logger("error", trace_dir=Path(folder))
                made: Any = logger._logHandler["handler"]
                made.trace_logger.close()
                made.trace_logger = None
        finally:
            os.environ.update(held)
    return logger._logHandler["handler"]


def first_line(error: BaseException) -> str:
    """What an error says, in one line without markup."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"\[/?[a-z ]+\]", "", lines[0]).removeprefix("ERROR: ")
