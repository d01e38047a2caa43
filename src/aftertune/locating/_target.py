"""Where a patch goes: what is wrong with the place is told before any work is done."""

from __future__ import annotations

import tempfile
from pathlib import Path

from aftertune.errors import OutputError
from aftertune.runs import RunFolder, explain_storage


def is_made(target: Path, run: RunFolder, document: str) -> bool:
    """Whether this run has written its patch already.

    Args:
        target: of the patch.
        run: the run, perhaps not begun.
        document: what the run writes into its folder before the patch.

    Raises:
        OutputError: another patch is there, or the place cannot be written.
    """
    with explain_storage(target):
        taken = target.exists() or target.is_symlink()
        if not taken and target.parent != run.path:
            with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}."):  # named as when written
                pass
    if taken and not (run.path / document).exists():
        raise OutputError(f"{target}: exists; patches are never overwritten, choose another --out")
    return taken
