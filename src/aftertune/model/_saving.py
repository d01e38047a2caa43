"""Writing a model as an ordinary checkpoint: a new folder, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aftertune.errors import OutputError
from aftertune.model._quiet import no_bars
from aftertune.runs import new_folder


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Save weights (safetensors) and tokenizer to ``folder``, which must not exist.

    Raises:
        OutputError: the folder exists or may not be written.
        StorageError: no space; nothing is left behind.
    """
    if folder.exists():
        raise OutputError(f"{folder}: exists; models are never overwritten, choose another --out")
    with new_folder(folder) as made:
        with no_bars():
            model.save_pretrained(made, safe_serialization=True)
        tokenizer.save_pretrained(made)
