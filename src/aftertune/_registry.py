"""What Inspect finds through its entry point: the provider and every task, ``aftertune/…``."""

from __future__ import annotations

from typing import Any

from inspect_ai.model import ModelAPI, modelapi

from aftertune.tasks import (
    code_security,
    deception,
    emergent_misalignment,
    harmfulness,
    over_refusal,
    recognise_and_explain,
    self_description,
    strong_reject,
)

__all__ = [
    "aftertune",
    "aftertune_offline",
    "code_security",
    "deception",
    "emergent_misalignment",
    "harmfulness",
    "over_refusal",
    "recognise_and_explain",
    "self_description",
    "strong_reject",
]


@modelapi(name="aftertune")
def aftertune() -> type[ModelAPI]:
    """Any subject of ours as a model: ``--model aftertune/SUBJECT``."""
    # torch is imported when a model is asked for, not when tasks are listed.
    from aftertune.inspect_bridge import _provider

    api: Any = _provider.SubjectAPI
    return api  # type: ignore[no-any-return]


@modelapi(name="aftertune_offline")
def aftertune_offline() -> type[ModelAPI]:
    """The judge without a language model: ``--model-role grader=aftertune_offline/minilm``."""
    from aftertune.judges import _offline_provider

    return _offline_provider.OfflineAPI
