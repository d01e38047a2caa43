"""``aftertune doctor``: what this machine can and cannot do."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import click

from aftertune.cli._flags import Verb
from aftertune.cli._options import json_option, print_json
from aftertune.cli._printing import table


@click.command(cls=Verb, examples=("doctor",))
@json_option
def doctor(as_json: bool) -> None:
    """Say what this machine can and cannot do."""
    checks = _checks()
    if as_json:
        print_json({"checks": checks})
        return
    mark = {True: "ok", False: "no", None: "--"}
    click.echo(table(("", "what", "found"), [(mark[c["ok"]], c["what"], c["found"]) for c in checks]))


def _checks() -> list[dict[str, Any]]:
    import torch

    from aftertune.model import cache_root
    from aftertune.runs import versions

    found = versions()
    cuda = torch.cuda.device_count()
    devices = ", ".join(torch.cuda.get_device_name(i) for i in range(cuda)) or "none"
    cache = cache_root()
    embedded = any(cache.glob("smollm2-*/model.safetensors")) or bool(os.environ.get("AFTERTUNE_SMOLLM2"))
    memory = _memory_gib()
    free = shutil.disk_usage(cache if cache.exists() else Path.home()).free / 2**30
    return [
        {"what": "versions", "ok": True, "found": ", ".join(f"{k} {v}" for k, v in found.items())},
        {
            "what": "CPU cores",
            "ok": True,
            "found": f"{os.cpu_count()}, {torch.get_num_threads()} threads used",
        },
        {"what": "memory", "ok": None if memory is None else memory >= 4, "found": _gib(memory)},
        {"what": "disk at the cache", "ok": free >= 3, "found": f"{free:.1f} GiB free in {cache}"},
        {"what": "CUDA accelerators", "ok": cuda > 0, "found": devices},
        {"what": "Apple accelerator", "ok": torch.backends.mps.is_available(), "found": "MPS"},
        {
            "what": "embedded subject",
            "ok": embedded,
            "found": "in the cache" if embedded else "fetched on first use (93 MB from the package index)",
        },
        {
            "what": "Hugging Face hub",
            "ok": None,
            "found": "offline by HF_HUB_OFFLINE" if os.environ.get("HF_HUB_OFFLINE") else "not tried",
        },
    ]


def _memory_gib() -> float | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError, AttributeError):
        return None


def _gib(memory: float | None) -> str:
    return "unknown" if memory is None else f"{memory:.1f} GiB"
