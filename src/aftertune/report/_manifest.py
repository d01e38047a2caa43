"""What a run's manifest tells a reader: versions, machine, configuration, command."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_SUMMARY_KEYS = ("verb", "started", "platform", "cpus", "seed", "seeds", "fingerprint")


def manifest_parts(manifest: Mapping[str, Any], commands: Sequence[str]) -> dict[str, Any]:
    """The template's variables on how a page was made.

    Args:
        manifest: of the run.
        commands: how to reproduce; the manifest's own stands in where there are none.
    """
    return {
        "versions": as_mapping(manifest.get("versions")),
        "run": [(key, manifest[key]) for key in _SUMMARY_KEYS if manifest.get(key) not in (None, "")],
        "config": _config(manifest),
        "commands": [c for c in commands if c] or [c for c in [str(manifest.get("command") or "")] if c],
    }


def level(manifest: Mapping[str, Any]) -> str:
    """The intervals' coverage as "95 %", where the manifest tells."""
    for place in (manifest, as_mapping(manifest.get("config"))):
        confidence = as_mapping(place.get("policy")).get("confidence")
        if isinstance(confidence, float):
            return f"{100 * confidence:g} %"
    return ""


def as_mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def plain(value: Any) -> str:
    """A JSON value in words a reader can scan."""
    if isinstance(value, Mapping):
        return ", ".join(f"{str(k).replace('_', ' ')} {plain(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    return f"{value:g}" if isinstance(value, float) else str(value)


def _config(manifest: Mapping[str, Any]) -> str:
    config = as_mapping(manifest.get("config"))
    return json.dumps(config, indent=2, ensure_ascii=False, sort_keys=True, default=str) if config else ""
