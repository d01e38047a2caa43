"""Where fetched and converted models are kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """Where fetched and converted models are kept: ``$AFTERTUNE_CACHE``, else ``~/.cache/aftertune``."""
    return Path(os.environ.get("AFTERTUNE_CACHE") or Path.home() / ".cache" / "aftertune")
