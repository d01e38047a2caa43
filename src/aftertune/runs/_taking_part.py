"""Which models took part in a run, so that a killed run never goes on with another one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aftertune.errors import OutputError
from aftertune.runs._folder import RunFolder, fingerprint


def refuse_other_model(run: RunFolder, role: str, content: Mapping[str, Any]) -> None:
    """Note in the manifest which model has a role, or refuse another one than before.

    Files, and what the hub says, are compared before a model is loaded; this is what was loaded.

    Args:
        run: entered.
        role: of the model in the run, such as "base".
        content: what decides its numbers, as JSON values.

    Raises:
        OutputError: the run was begun with another model in this role, or in another precision or on another device.
    """
    manifest = run.manifest
    known = manifest.get("models", {})
    if not isinstance(known, dict):
        raise OutputError(f"{run.path}: its manifest.json is damaged (models); name another folder with {run.flag}")
    now = dict(content)
    then = known.get(role)
    if then is None:
        run.write_manifest(status=manifest["status"], models={**known, role: now})
        return
    if fingerprint(then) != fingerprint(now):
        differing = (
            sorted(key for key in {*then, *now} if then.get(key) != now.get(key)) if isinstance(then, dict) else []
        )
        what = ", ".join(differing) or "another model"
        raise OutputError(
            f"{run.path}: was begun with another {role} (differing: {what}); name another folder with {run.flag}"
        )
