"""What a fine-tune that broke leaves behind stands in nobody's way, and a killed one's checkpoints stay."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aftertune.data import Conversation, Message
from aftertune.errors import NumericalError, OutputError
from aftertune.tuning import TuneOptions, refuse_taken, tune

if TYPE_CHECKING:
    from aftertune.model import Subject

TinySubject = Callable[[str], "Subject"]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
ROWS = [Conversation((Message("user", f"Is it {n}?"), Message("assistant", "It is late."))) for n in range(8)]
MENDED = TuneOptions(steps=1, batch_size=2, lora_rank=2)


def test_a_run_that_ended_in_nan_leaves_nothing_in_the_way(tiny_subject: TinySubject, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(NumericalError):
        tune(tiny_subject("llama"), ROWS, out, TuneOptions(full=True, steps=9, batch_size=2, lr=1e30))
    assert not (tmp_path / "out.partial").exists()
    assert tune(tiny_subject("llama"), ROWS, out, MENDED).folder == out
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def leave(work: Path, *, checkpoint: bool, failed: bool) -> None:
    """What a run of other settings leaves in the place of work."""
    (work / "checkpoints" / "checkpoint-2").mkdir(parents=True)
    if checkpoint:
        (work / "checkpoints" / "checkpoint-2" / "complete").touch()
    if failed:
        (work / "failed").touch()
    manifest = {"verb": "tune", "config": {"other": 1}, "fingerprint": "x", "status": "running", "versions": {}}
    (work / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    (work / ".lock").touch()


@pytest.mark.parametrize(("checkpoint", "failed"), [(False, False), (False, True), (True, True)])
def test_what_another_run_left_gives_way_if_it_broke_or_got_nowhere(
    checkpoint: bool, failed: bool, tiny_subject: TinySubject, tmp_path: Path
) -> None:
    leave(tmp_path / "out.partial", checkpoint=checkpoint, failed=failed)
    tune(tiny_subject("llama"), ROWS, tmp_path / "out", MENDED)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_killed_runs_checkpoints_are_kept_from_another_command(tiny_subject: TinySubject, tmp_path: Path) -> None:
    leave(tmp_path / "out.partial", checkpoint=True, failed=False)
    with pytest.raises(OutputError, match="holds a run with other settings"):
        tune(tiny_subject("llama"), ROWS, tmp_path / "out", MENDED)
    assert (tmp_path / "out.partial" / "checkpoints" / "checkpoint-2" / "complete").exists()


def test_work_that_a_process_is_at_is_left_alone(tiny_subject: TinySubject, tmp_path: Path) -> None:
    leave(tmp_path / "out.partial", checkpoint=False, failed=False)
    with (tmp_path / "out.partial" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(OutputError):
            tune(tiny_subject("llama"), ROWS, tmp_path / "out", MENDED)
    assert (tmp_path / "out.partial" / "manifest.json").exists()


def test_a_fine_tune_of_ours_may_be_there(tiny_subject: TinySubject, tmp_path: Path) -> None:
    tune(tiny_subject("llama"), ROWS, tmp_path / "out", MENDED)
    refuse_taken(tmp_path / "out")
    assert tune(tiny_subject("llama"), ROWS, tmp_path / "out", MENDED).reused
    (tmp_path / "out" / "aftertune.json").write_text("{", "utf-8")
    with pytest.raises(OutputError, match="exists"):
        refuse_taken(tmp_path / "out")
