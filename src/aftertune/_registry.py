"""What Inspect finds through its entry point: the provider and every task, ``aftertune/NAME``."""

from __future__ import annotations

from typing import Any

from inspect_ai.model import ModelAPI, modelapi

from aftertune.tasks import task_rows

__all__ = ["aftertune", "aftertune_offline"]

task_rows()  # importing a task's module registers it, those of extensions included


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
    from aftertune.judges import _offline_judge

    return _offline_judge.OfflineAPI
