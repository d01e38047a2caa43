"""What a run was made with."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from aftertune.runs._secrets import command_without_secrets

_PACKAGES = ("aftertune", "torch", "transformers", "tokenizers", "peft", "trl", "datasets", "numpy", "safetensors")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on; absent ones are left out."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Platform, core count and the command that was given (keys and passwords in it hidden), for a manifest."""
    program = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "python"
    if program == "__main__.py" and Path(sys.argv[0]).parent.name == "aftertune":
        program = "aftertune"
    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "command": shlex.join([program, *command_without_secrets(sys.argv[1:])]) if program == "aftertune" else "",
    }
