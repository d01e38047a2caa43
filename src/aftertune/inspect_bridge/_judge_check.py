"""Whether the judges of a run can be asked at all: found out before a model is loaded."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Sequence
from typing import Any

from aftertune.errors import AftertuneError, UsageError
from aftertune.inspect_bridge._inspect_privacy import inspect_files
from aftertune.model import check_subject

# Providers that load weights or start a server when a model is made: their models are not made just to see.
_HEAVY = frozenset({"hf", "vllm", "vllm-completions", "sglang", "transformer_lens", "nnterp", "llama-cpp-python"})
_OURS = "aftertune"
# Made up by Inspect itself: they are no servers that could be down.
_SHAM = frozenset({"mockllm", "none"})
_PATIENCE = 60  # seconds
_TOKENS = 16  # some providers take no fewer


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
        raise UsageError(f"--grader {name}: {_reason(error)}") from error


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
        problem = _reason(error.__cause__ if isinstance(error.__cause__, Exception) else error)
    finally:
        with contextlib.suppress(Exception):
            await judge.api.aclose()
    if problem:
        first = (str(problem).strip().splitlines() or ["no reason given"])[0]
        raise UsageError(f"--grader {name}: does not answer ({first[:200]}); check its name, its key and its address")


def _reason(error: BaseException) -> str:
    from aftertune.inspect_bridge._task_runs import first_line

    return first_line(error)
