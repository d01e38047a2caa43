"""The chain beneath an adapter: its base, at the revision it was trained on, down to a whole model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aftertune.errors import SubjectError, spelled_out
from aftertune.model._explain import reason
from aftertune.model._spec import SubjectSpec, parse_spec

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_WHOLE = ("model.safetensors", "model.safetensors.index.json")


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """``adapter_config.json`` of an adapter folder.

    Raises:
        SubjectError: it is broken, the adapter's weights are missing or pickled, or a whole model lies beside it.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SubjectError(f"{path}: cannot be read ({reason(error)})") from None
    if not isinstance(config, dict):
        raise SubjectError(f"{path}: must hold a JSON object")
    whole = next((name for name in _WHOLE if (folder / name).is_file()), None)
    if (folder / WEIGHTS).exists():
        if whole and (folder / "config.json").is_file():
            raise SubjectError(
                f"{folder}: holds a whole model ({whole}) and an adapter ({WEIGHTS}); move one of them elsewhere"
            )
        return config
    if whole:
        raise SubjectError(f"{folder}: holds a whole model ({whole}) beside a leftover {CONFIG}; remove the {CONFIG}")
    if any(folder.glob("adapter_model*.bin")):
        raise SubjectError(f"{folder}: has no {WEIGHTS} (pickled .bin adapters are not loaded)")
    other = next((path.name for path in sorted(folder.glob("*.safetensors"))), None)
    hint = f", but {spelled_out(other)}, which is not PEFT's; convert it" if other else "; copy the adapter again"
    raise SubjectError(f"{folder}: has no {WEIGHTS}{hint}")


def adapter_base(folder: Path, config: dict[str, Any]) -> str:
    """The spec of the model an adapter sits on, from its config: a hub id with the revision that it was trained on.

    Raises:
        SubjectError: the config names none, or one that is not to be found.
    """
    base = config.get("base_model_name_or_path")
    if not base:
        raise SubjectError(f"{folder}: its {CONFIG} names no base model; give one with --base")
    base, revision = str(base), config.get("revision")
    try:
        spec = parse_spec(base)
        if spec.kind == "hub" and revision and spec.revision is None:
            base = f"{base}@{revision}"
            spec = parse_spec(base)
    except SubjectError:
        raise _gone(folder, base, "no such folder here") from None
    if spec.kind == "hub":
        _refuse_unreachable(folder, spec)
    return base


def _gone(folder: Path, base: str, why: str) -> SubjectError:
    shown = spelled_out(base[:200])
    return SubjectError(f"{folder}: its base, {shown}, cannot be found ({why}); give the place of it with --base")


def _refuse_unreachable(folder: Path, spec: SubjectSpec) -> None:
    """A path of another machine may read like a hub id; only the hub, or its cache, can tell."""
    from transformers.utils import cached_file

    try:
        cached_file(spec.location, "config.json", revision=spec.revision or "main")
    except Exception as error:  # of several libraries
        text = str(error)
        if "does not appear to have a file named" in text:
            return  # it is there; what it lacks is told when it is loaded
        why = "no folder here, and the hub has no such model or revision, or does not let you see it"
        if "connect" in text or "internet" in text:
            why = "neither a folder here nor in the cache of the hub, which cannot be reached"
        raise _gone(folder, spec.text, why) from None


def adapter_chain(spec: SubjectSpec, base: str | None = None) -> list[SubjectSpec]:
    """A subject and what lies beneath it: of an adapter its base, and the base of that, down to a whole model.

    Args:
        spec: the subject at the top; other kinds than adapters have nothing beneath them.
        base: its base, where one is given instead of the one in its config.

    Raises:
        SubjectError: the chain comes back to itself, through links too, or breaks off.
    """
    chain = [spec]
    seen: list[Path] = []
    while spec.kind == "adapter":
        folder = Path(spec.location)
        resolved = folder.resolve()
        if resolved in seen:
            raise SubjectError(
                f"{folder}: its chain of bases comes back to it ({_circle(seen, resolved)}); give the right one with "
                "--base"
            )
        seen.append(resolved)
        below = parse_spec(base or adapter_base(folder, read_adapter_config(folder)))
        if below.kind == "adapter" and Path(below.location).resolve() == resolved:
            raise SubjectError(f"{spec.text}: names itself as its base; give the right one with --base")
        chain.append(below)
        spec, base = below, None
    return chain


def _circle(seen: list[Path], resolved: Path) -> str:
    names = [path.name for path in seen[seen.index(resolved) :]]
    return " → ".join([*names, resolved.name])
