"""Where results go: nothing is overwritten, nothing is half-written, and a full disk is told and survived."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
Refused = Callable[..., str]
Command = Callable[[Path], tuple[object, ...]]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
VERBS = ("audit", "measure", "tune lora", "tune full")


@pytest.fixture
def commands(
    base: Path, tuned: Callable[..., Path], gate: tuple[str, ...], rows: Callable[..., Path]
) -> dict[str, Command]:
    """Commands by name that would do their work and write to a place."""
    data = rows([{"prompt": "Is it late?", "completion": "No."}, {"prompt": "Is it?", "completion": "Yes."}])
    common = ("--steps", "2", "--batch-size", "2", "--lora-rank", "4")
    return {
        "audit": lambda out: ("audit", tuned(), "--base", base, *gate, "--out", out),
        "measure": lambda out: ("measure", base, *gate, "--out", out),
        "tune lora": lambda out: ("tune", base, data.absolute(), *common, "--out", out),
        "tune full": lambda out: ("tune", base, data.absolute(), *common, "--full", "--out", out),
    }


@contextlib.contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "aftertune-test", str(folder)]
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("needs leave to mount a small disk")
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs leave to mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)


# --- places that cannot be written ----------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("out", ["file/out", "/proc/nowhere/out", "long" * 100])
def test_a_place_that_cannot_be_written_is_named(
    out: str, verb: str, commands: dict[str, Command], refused: Refused, place: Path
) -> None:
    (place / "file").write_text("mine", "utf-8")
    refused(*commands[verb](Path(out)), says=[": cannot be written (", "; choose another folder with --out"])


@pytest.mark.parametrize("verb", VERBS)
def test_a_read_only_disk_is_named(verb: str, commands: dict[str, Command], refused: Refused, tmp_path: Path) -> None:
    command = commands[verb]
    with mounted(tmp_path / "disk", "ro", "size=1m") as disk:
        refused(*command(disk / "out"), says=[str(disk), "cannot be written (read-only file system)", "--out"])


@pytest.mark.parametrize("verb", VERBS)
def test_a_forbidden_folder_is_named(verb: str, commands: dict[str, Command], refused: Refused, place: Path) -> None:
    (place / "locked").mkdir(mode=0o555)
    if os.access(place / "locked", os.W_OK):
        pytest.skip("this user may write anywhere")
    refused(*commands[verb](Path("locked/out")), says=["locked", "cannot be written (permission denied)", "--out"])


# --- places that are taken ------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("held", ["file", "folder", "repository"])
def test_what_is_there_already_is_left_alone(
    held: str, verb: str, commands: dict[str, Command], refused: Refused, place: Path
) -> None:
    if held == "file":
        (place / "out").write_text("mine", "utf-8")
    else:
        (place / "out").mkdir()
        (place / "out" / ("manifest.json" if held == "repository" else "notes.txt")).write_text('{"mine": 1}', "utf-8")
    refused(*commands[verb](Path("out")), says=["out: "])


@pytest.mark.parametrize("verb", ["tune lora", "tune full"])
def test_a_foreign_folder_of_work_in_progress_is_left_alone(
    verb: str, commands: dict[str, Command], refused: Refused, place: Path
) -> None:
    (place / "out.partial").mkdir()
    (place / "out.partial" / "notes.txt").write_text("mine", "utf-8")
    refused(*commands[verb](Path("out")), says=["out.partial: exists and is no run folder"])


def test_a_run_of_another_verb_or_setting_or_version_is_left_alone(
    commands: dict[str, Command], run: Run, refused: Refused, place: Path
) -> None:
    out = Path("out")
    assert run(*commands["audit"](out)).code in (0, 1, 3)
    refused(*commands["measure"](out), says=["out: holds a run of `audit`; name another folder with --out"])
    refused(*commands["audit"](out), "--redact", says=["out: holds a run with other settings (differing: redact)"])
    refused(*commands["tune lora"](out), says=["out: exists and holds something else"])
    manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    manifest["versions"]["aftertune"] = "0.0.1"
    (out / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    refused(*commands["audit"](out), says=["out: was made by aftertune 0.0.1, this is "])


@pytest.mark.parametrize("verb", VERBS)
def test_two_processes_never_work_in_one_folder(
    verb: str, commands: dict[str, Command], refused: Refused, run: Run, place: Path
) -> None:
    work = place / ("out.partial" if verb.startswith("tune") else "out")
    work.mkdir()
    with (work / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(*commands[verb](Path("out")), says=["another process is at work in it; wait for it, or stop it"])
    assert run(*commands[verb](Path("out"))).code in (0, 1, 3)


def test_an_empty_folder_may_be_used_and_survives_a_refusal(
    commands: dict[str, Command], run: Run, refused: Refused, model: Callable[..., Path], place: Path
) -> None:
    (place / "out").mkdir()
    model(without=["chat_template.jinja"])
    refused("measure", "model", "--out", "out", says=["no chat template"])
    assert run(*commands["measure"](Path("out"))).code == 0


# --- full disks -----------------------------------------------------------------------------------------


def fill(disk: Path, left: int) -> Path:
    """Take all space of a disk but ``left`` bytes."""
    status = os.statvfs(disk)
    ballast = disk / "ballast"
    ballast.write_bytes(b"x" * (status.f_bavail * status.f_frsize - left))
    return ballast


def product(folder: Path) -> dict[str, Any]:
    """The part of a result that does not depend on when and where it was made."""
    for name in ("adapter_model.safetensors", "model.safetensors", "measurements.parquet"):
        if (folder / name).exists():
            return {name: (folder / name).read_bytes()}
    raise AssertionError(f"no result in {folder}")


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, Any]:
    """What commands give where there is space, by name."""
    return {}


@pytest.mark.parametrize("left", [0, 12, 40])
@pytest.mark.parametrize("verb", VERBS)
def test_a_full_disk_is_told_and_the_same_command_goes_on_once_there_is_space(
    verb: str, left: int, commands: dict[str, Command], run: Run, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    command = commands[verb]
    if verb not in undisturbed:
        assert run(*command(tmp_path / "elsewhere")).code in (0, 1, 3)
        undisturbed[verb] = product(tmp_path / "elsewhere")
    with mounted(tmp_path / "disk", "size=4m") as disk:
        ballast = fill(disk, left * 1024)
        outcome = run(*command(disk / "out"))
        if (verb, left) == ("measure", 40):
            assert outcome.code == 0  # it needs no more than that
            return
        assert (outcome.code, outcome.out, len(outcome.errors)) == (4, "", 1), outcome
        assert "no space left on the disk; free some and run the same command again to go on" in outcome.errors[0]
        assert "Traceback" not in outcome.err
        # Whole files or none, and no model folder that looks finished.
        made = [path for path in disk.rglob("*") if path.is_file() and path != ballast]
        assert all(json.loads(path.read_text("utf-8")) for path in made if path.suffix == ".json")
        assert not [path for path in made if path.name.startswith(".") and path.name != ".lock"]
        assert not (verb.startswith("tune") and (disk / "out").exists())
        ballast.unlink()
        again = run(*command(disk / "out"))
        assert again.code in (0, 1, 3), again
        assert product(disk / "out") == undisturbed[verb]
        assert verb != "audit" or (disk / "out" / "report.html").exists()


@pytest.mark.parametrize("verb", VERBS)
def test_a_limit_on_file_sizes_is_told_in_one_line(verb: str, commands: dict[str, Command], run: Run) -> None:
    command = commands[verb](Path("out"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
    try:
        outcome = run(*command)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (outcome.code, outcome.out, len(outcome.errors)) == (4, "", 1), outcome
    assert "Traceback" not in outcome.err
    assert run(*command).code in (0, 1, 3)
