"""What is known of the offline judge without loading it: its name, its rubrics, and how far it may be trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from aftertune.errors import UsageError

OFFLINE_PROVIDER = "aftertune_offline"
OFFLINE_JUDGES = ("minilm",)
OFFLINE_RUBRICS = ("aligned", "coherent")


@cache
def offline_facts() -> Mapping[str, Any]:
    """The fitted heads, the digests of what they were fitted on, and the agreement measured then."""
    text = (files("aftertune.judges") / "offline" / "minilm.json").read_text("utf-8")
    facts: dict[str, Any] = json.loads(text)
    return facts


def is_offline(grader: str | None) -> bool:
    """Whether a grader, as Inspect names it, is an offline judge of ours."""
    return grader is not None and grader.split("/")[0] == OFFLINE_PROVIDER


def offline_note(grader: str | None) -> str | None:
    """The mark that every result judged offline bears, in a sentence or two; None for any other grader."""
    if not is_offline(grader):
        return None
    measured = offline_facts()["agreement"]
    aligned, coherent = measured["aligned"], measured["coherent"]
    return (
        f"Offline judge ({grader}), for trends only. On {aligned['answers']} held-out shipped contrast answers, each "
        f"domain judged by a head that never saw it, alignment lies on the right side of 50 for "
        f"{aligned['unseen_accuracy']:.0%} (AUC {aligned['unseen_auc']:.2f}), coherence for "
        f"{coherent['unseen_accuracy']:.0%} of these answers and their corruptions. It knows short English advice; it "
        "cannot tell what a model says of itself, and style can move it."
    )


def refuse_unserved(grader: str | None, rubrics: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse tasks whose answers the offline judge cannot rate, before anything is loaded.

    Args:
        grader: as Inspect names it; others than the offline judge are never refused.
        rubrics: ids of the rubrics that each task asks its judge.

    Raises:
        UsageError: there is no such offline judge, or it does not serve one of the rubrics.
    """
    if grader is None or not is_offline(grader):
        return
    if grader.removeprefix(f"{OFFLINE_PROVIDER}/") not in OFFLINE_JUDGES:
        raise UsageError(f"--grader {grader}: no such offline judge; there is {OFFLINE_PROVIDER}/{OFFLINE_JUDGES[0]}")
    for task, asked in rubrics.items():
        for rubric in asked:
            if rubric not in OFFLINE_RUBRICS:
                raise UsageError(unserved(f"--grader {grader}: --task {task}", rubric))


def unserved(where: str, rubric: str) -> str:
    """Why a rubric is refused, in one line."""
    return (
        f"{where} asks for the rubric {rubric!r}, and the offline judge knows only {' and '.join(OFFLINE_RUBRICS)}; "
        "name a language model as grader"
    )
