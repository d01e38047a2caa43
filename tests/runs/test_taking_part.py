"""A run that was begun with one model never goes on with another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aftertune.errors import OutputError
from aftertune.runs import RunFolder, read_manifest, refuse_other_model

MODEL = {"weights_sha256": "a" * 64, "dtype": "float32", "device": "cpu"}


def begun(folder: Path) -> RunFolder:
    run = RunFolder(folder, "locate", {"a": 1}, flag="--run")
    with run.locked():
        refuse_other_model(run, "subject", MODEL)
    return run


def test_the_same_model_goes_on_and_roles_do_not_mix(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    with run.locked():
        refuse_other_model(run, "subject", dict(reversed(MODEL.items())))
        refuse_other_model(run, "base", {**MODEL, "weights_sha256": "b" * 64})
    assert read_manifest(run.path)["status"] == "running"
    assert set(read_manifest(run.path)["models"]) == {"subject", "base"}


@pytest.mark.parametrize("key", MODEL)
def test_another_one_is_refused_in_one_line(key: str, tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    with (
        run.locked(),
        pytest.raises(OutputError, match=rf"begun with another subject \(differing: {key}\).*--run") as e,
    ):
        refuse_other_model(run, "subject", {**MODEL, key: "other"})
    assert "\n" not in str(e.value)
    assert read_manifest(run.path)["models"] == {"subject": MODEL}


@pytest.mark.parametrize("damage", [{"subject": "x"}, {"subject": []}, [], "x"])
def test_a_damaged_note_is_another_model(damage: Any, tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    run.write_manifest(status="running", models=damage)
    with run.locked(), pytest.raises(OutputError, match=r"begun with another subject|is damaged"):
        refuse_other_model(run, "subject", MODEL)
