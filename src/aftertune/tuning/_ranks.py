"""Several processes that tune one model together (`torchrun`): the first owns the folder, the others wait for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from aftertune.errors import AftertuneError, ExitCode, RunError, UsageError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


def processes() -> int:
    """How many processes tune together, as `torchrun` says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process owns the run folder and speaks for all."""
    return int(os.environ.get("RANK", "0")) == 0


def join(device: torch.device) -> None:
    """Meet the other processes; nothing to do for one alone."""
    if processes() > 1:
        from accelerate import PartialState

        PartialState(cpu=device.type == "cpu")


def by_first(work: Callable[[], T]) -> T:
    """Do something in the first process only, and give its result to all.

    Raises:
        AftertuneError: the first process could not do it; in the others a `UsageError` or `RunError` says so.
    """
    if processes() == 1:
        return work()
    from torch import distributed

    answer: list[tuple[T | None, str, int]] = [(None, "", 0)]
    failure: Exception | None = None
    if is_first():
        try:
            answer = [(work(), "", 0)]
        except Exception as error:  # the others would wait for ever
            failure = error
            code = int(error.exit_code if isinstance(error, AftertuneError) else ExitCode.BROKEN)
            answer = [(None, str(error) or type(error).__name__, code)]
    distributed.broadcast_object_list(answer, src=0)
    if failure:
        raise failure
    result, problem, exit_code = answer[0]
    if exit_code:
        raise (UsageError if exit_code == ExitCode.USAGE else RunError)(f"the first process stopped: {problem}")
    return result  # type: ignore[return-value]


def agreed(choice: bool, device: torch.device) -> bool:
    """What the first process chose, for all: clocks and rounding differ between processes."""
    if processes() == 1:
        return choice
    import torch

    flag = torch.tensor(int(choice), device=device)
    torch.distributed.broadcast(flag, src=0)
    return bool(flag)
