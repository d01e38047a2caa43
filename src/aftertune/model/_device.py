"""Where and in which precision a subject runs, and how many tokens it takes at once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aftertune.errors import UsageError

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Placement:
    """How to run a subject; None means choose for this machine.

    Attributes:
        device: "cpu", "cuda", "cuda:1", "mps", or "auto" to spread layers over all accelerators.
        dtype: one of "float32", "bfloat16", "float16".
        max_batch_tokens: bound on prompt plus response tokens of one forward pass.
    """

    device: str | None = None
    dtype: str | None = None
    max_batch_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in DTYPES:
            raise UsageError(f"dtype {self.dtype!r} is unknown; choose {', '.join(DTYPES)}")
        if self.max_batch_tokens is not None and self.max_batch_tokens < 1:
            raise UsageError(f"max batch tokens must be positive, not {self.max_batch_tokens}")
        if self.max_batch_tokens is not None and self.max_batch_tokens >= 2**31:
            raise UsageError(f"max batch tokens must be below {2**31}, not {self.max_batch_tokens}")


def resolve_device(device: str | None) -> str:
    """The device to load on: as asked, else the first accelerator, else the CPU.

    Under `torchrun` the first GPU means the one of this process.

    Raises:
        UsageError: no such device here.
    """
    import torch

    mine = os.environ.get("LOCAL_RANK")
    if device is None:
        if torch.cuda.is_available():
            return "cuda" if mine is None else f"cuda:{mine}"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    if device == "auto":
        return device
    try:
        if torch.empty(0, device=device).is_meta:
            raise RuntimeError("it holds no values")
    except Exception as error:  # of every accelerator's own kind, and for every text that names none
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(f"device {device!r} cannot be used here ({reason}); try --device cpu") from None
    return device


def resolve_dtype(dtype: str | None, device: str) -> torch.dtype:
    """The precision to load in: as asked, else fp32 on a CPU and bf16 (fp16 on old GPUs) elsewhere."""
    import torch

    if dtype is not None:
        found: torch.dtype = getattr(torch, dtype)
        return found
    if device == "cpu":
        return torch.float32
    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.float32


def default_batch_tokens(device: torch.device, vocabulary: int) -> int:
    """A bound that keeps the logits of a batch near 256 MB on a CPU and 1 GB on an accelerator (fp32)."""
    budget = 2**28 if device.type == "cpu" else 2**30
    floor, ceiling = (256, 2048) if device.type == "cpu" else (1024, 16384)
    return max(floor, min(ceiling, budget // (4 * max(vocabulary, 1))))
