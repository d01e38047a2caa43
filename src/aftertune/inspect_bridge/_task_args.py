"""Parameters of our tasks: their kinds and bounds are checked before a model is loaded."""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Callable, Mapping
from typing import Any

from aftertune.errors import AftertuneError, UsageError

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


def make_task(task: Callable[..., Any], name: str, args: Mapping[str, Any]) -> Any:
    """A task of ours with its parameters, each of the kind that the task declares.

    Args:
        task: the task's function.
        name: what to call it in complaints.
        args: the parameters given.

    Raises:
        UsageError: a parameter that it does not know, of another kind, or out of bounds.
        DataError: a file that a parameter names cannot be used.
    """
    known = inspect.signature(task).parameters
    hints = typing.get_type_hints(inspect.unwrap(task))
    for key, value in args.items():
        if key not in known:
            raise UsageError(f"-T {key}: no parameter of {name}; there are {', '.join(known)}")
        _refuse_other_kind(key, value, hints.get(key, Any))
        _refuse_beyond(key, value)
    try:
        return task(**args)
    except AftertuneError:
        raise
    except Exception as error:  # a value that the task cannot work with
        given = ", ".join(f"{key}={_shown(value)}" for key, value in args.items())
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(f"-T {given}: {name} cannot be made with it ({reason})") from error


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
