"""Checkpoints whose weights are packed: told from the config, before a loader of a package that is absent is tried."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aftertune.errors import SubjectError, spelled_out
from aftertune.model._spec import SubjectSpec

# transformers can unpack these to plain weights as it loads them.
_UNPACKED = {"mxfp4", "fp8", "fbgemm_fp8"}


def refuse_packed(spec: SubjectSpec, beneath: Path | None = None) -> None:
    """Refuse a model whose config says that its weights are packed (4-bit, 8-bit).

    Args:
        spec: the model.
        beneath: the adapter that sits on it, if it is the base of one.

    Raises:
        SubjectError: they are.
    """
    settings = _config(spec).get("quantization_config")
    if not isinstance(settings, dict) or not settings or settings.get("quant_method") in _UNPACKED:
        return
    method = spelled_out(str(settings.get("quant_method", "unnamed")))[:40]
    bits = next((n for n, key in ((4, "load_in_4bit"), (8, "load_in_8bit")) if settings.get(key)), settings.get("bits"))
    packed = f"packed quantised weights ({method}{f', {bits}-bit' if bits else ''})"
    if beneath is None:
        raise SubjectError(f"{spec.text}: {packed} cannot be studied; use the unquantised checkpoint")
    raise SubjectError(
        f"{beneath}: its base, {spec.text}, has {packed}, which cannot be studied; give the unquantised one with --base"
    )


def _config(spec: SubjectSpec) -> dict[str, Any]:
    """A model's ``config.json``, or nothing where there is none to be had; its loader tells what is wrong."""
    from transformers.utils import cached_file

    if spec.kind not in ("folder", "hub"):
        return {}
    try:
        path = (
            Path(spec.location) / "config.json"
            if spec.kind == "folder"
            else Path(str(cached_file(spec.location, "config.json", revision=spec.revision or "main")))
        )
        config = json.loads(path.read_text("utf-8"))
    except Exception:  # the file's faults and the hub's
        return {}
    return config if isinstance(config, dict) else {}
