"""A run folder admits its own run, one process at a time, and refuses everything else without touching it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftertune.errors import OutputError, StorageError
from aftertune.runs import RunFolder, fingerprint, read_manifest, versions

Start = Callable[..., "subprocess.Popen[str]"]

CONFIG = {"base": {"spec": "a", "dtype": None}, "tuned": {"spec": "b"}, "margins": [0.1, 1e-17], "redact": False}
HOLD = """
import json, sys, time
from pathlib import Path
from aftertune.runs import RunFolder
with RunFolder(Path(sys.argv[1]), "audit", json.loads(sys.argv[2])).locked():
    print("in", flush=True)
    time.sleep(600)
"""
RACE = """
import json, sys, time
from pathlib import Path
from aftertune.errors import OutputError
from aftertune.runs import RunFolder
try:
    with RunFolder(Path(sys.argv[1]), "audit", json.loads(sys.argv[2])).locked():
        print("in", flush=True)
        time.sleep(600)
except OutputError as error:
    print(str(error).removeprefix(f"{sys.argv[1]}: ").partition(";")[0])
"""


def enter(path: Path, verb: str = "audit", config: Mapping[str, Any] = CONFIG) -> dict[str, Any]:
    with RunFolder(path, verb, config).locked() as run:
        return run.manifest


def refusal(path: Path, verb: str = "audit", config: Mapping[str, Any] = CONFIG) -> str:
    """The words of a refusal, which must be one line, name the folder and change nothing in it."""
    before = snapshot(path.parent)
    with pytest.raises(OutputError) as caught:
        enter(path, verb, config)
    assert snapshot(path.parent) == before
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"{path}: ")
    return text.removeprefix(f"{path}: ")


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def edit(path: Path, **changes: Any) -> None:
    manifest = json.loads((path / "manifest.json").read_text("utf-8"))
    (path / "manifest.json").write_text(json.dumps({**manifest, **changes}), "utf-8")


# --- going in and on ------------------------------------------------------------------------------------


def test_a_new_folder_says_what_made_it(tmp_path: Path) -> None:
    manifest = enter(tmp_path / "deep" / "run")
    assert manifest == read_manifest(tmp_path / "deep" / "run")
    assert (manifest["verb"], manifest["status"], manifest["config"]) == ("audit", "running", CONFIG)
    assert manifest["fingerprint"] == fingerprint(["audit", CONFIG])
    assert manifest["versions"] == versions()
    assert manifest["cpus"] == os.cpu_count()
    age = datetime.now(UTC) - datetime.fromisoformat(manifest["started"])
    assert timedelta(0) <= age + timedelta(seconds=1) < timedelta(minutes=1)


def test_the_same_run_goes_in_again_and_keeps_what_it_had(tmp_path: Path) -> None:
    first = enter(tmp_path / "run")
    (tmp_path / "run" / "journal.jsonl").write_text("kept")
    shuffled = json.loads(json.dumps(CONFIG, sort_keys=True))
    assert list(shuffled) != list(CONFIG)
    assert enter(tmp_path / "run", config=shuffled) == first
    assert (tmp_path / "run" / "journal.jsonl").read_text() == "kept"


def test_paths_and_odd_characters_in_a_configuration_stay_the_same_run(tmp_path: Path) -> None:
    config = {"template": Path("caf\udce9.jinja"), "pair": (1, 2), "name": "Zürich 😀"}
    manifest = enter(tmp_path / "run", config=config)
    assert manifest["config"] == {"template": "caf\udce9.jinja", "pair": [1, 2], "name": "Zürich 😀"}
    assert enter(tmp_path / "run", config=config) == manifest
    assert "differing: template" in refusal(tmp_path / "run", config={**config, "template": "caf\udcea.jinja"})


def test_an_empty_folder_is_taken_and_so_is_one_left_by_a_kill_at_the_very_start(tmp_path: Path) -> None:
    for name, leftovers in {"empty": (), "begun": (".lock", ".manifest.json.x1y2z3")}.items():
        (tmp_path / name).mkdir()
        for leftover in leftovers:
            (tmp_path / name / leftover).write_text("{")
        assert enter(tmp_path / name)["status"] == "running"


def test_a_run_is_finished_once_it_says_so_and_the_time_is_that_of_the_first_end(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run", "audit", CONFIG)
    with run.locked():
        assert not run.finished
        run.write_manifest(status="running", rows=5)
        assert not run.finished
        assert "finished" not in run.manifest
        run.write_manifest(status="finished", verdict="pass")
    assert run.finished
    edit(run.path, finished="2020-01-01T00:00:00+00:00")
    with RunFolder(tmp_path / "run", "audit", CONFIG).locked() as again:
        assert again.finished
        again.write_manifest(status="finished", verdict="fail")
        found = again.manifest
    assert (found["finished"], found["rows"], found["verdict"]) == ("2020-01-01T00:00:00+00:00", 5, "fail")
    assert (found["config"], found["verb"]) == (CONFIG, "audit")


def test_a_folder_inside_is_made_once(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run", "audit", CONFIG)
    with run.locked():
        inner = run.folder("measurements", "abc")
        (inner / "x").write_text("kept")
        assert run.folder("measurements", "abc") == inner == tmp_path / "run" / "measurements" / "abc"
        assert (inner / "x").read_text() == "kept"
        with pytest.raises(OutputError, match="not a directory"):
            run.folder("measurements", "abc", "x", "y")


# --- refusals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"redact": True}, "redact"),
        ({"tuned": {"spec": "c"}}, "tuned.spec"),
        ({"base": {"spec": "z", "dtype": "float16"}}, "base.dtype, base.spec"),
        ({"margins": [0.1, 2e-17]}, "margins"),
        ({"base": None}, "base"),
        ({"new": None}, "new"),
        ({"a1": 1, "a2": 2, "a3": 3, "a4": 4}, "a1, a2, a3"),
    ],
)
def test_another_configuration_is_refused_with_what_differs(
    changes: dict[str, Any], named: str, tmp_path: Path
) -> None:
    enter(tmp_path / "run")
    expected = f"holds a run with other settings (differing: {named}); name another folder with --out"
    assert refusal(tmp_path / "run", config={**CONFIG, **changes}) == expected


def test_a_setting_that_is_gone_is_named_even_where_it_was_none(tmp_path: Path) -> None:
    enter(tmp_path / "run", config={"spec": "a", "dtype": None})
    assert "(differing: dtype)" in refusal(tmp_path / "run", config={"spec": "a"})


def test_another_verb_is_refused(tmp_path: Path) -> None:
    enter(tmp_path / "run")
    assert refusal(tmp_path / "run", verb="measure").startswith("holds a run of `audit`; ")


def test_the_folder_of_another_version_is_refused(tmp_path: Path) -> None:
    enter(tmp_path / "run")
    edit(tmp_path / "run", versions={**versions(), "aftertune": "0.0.1"})
    assert refusal(tmp_path / "run").startswith(f"was made by aftertune 0.0.1, this is {versions()['aftertune']}; ")


@pytest.mark.parametrize("foreign", ["thesis.tex", ".hidden", "manifest.json.bak", "folder/deep.txt"])
def test_a_folder_with_something_else_in_it_is_refused_untouched(foreign: str, tmp_path: Path) -> None:
    file = tmp_path / "mine" / foreign
    file.parent.mkdir(parents=True)
    file.write_text("years of work")
    assert refusal(tmp_path / "mine").startswith("exists and is no run folder; ")


def test_a_file_in_the_way_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("years of work")
    assert refusal(tmp_path / "run") == "is a file; name a new folder with --out"


def test_places_where_no_folder_can_be_are_refused(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for name in ("dangling", "circle", "x" * 300):
        assert refusal(tmp_path / name).startswith("cannot be written (file ")
    (tmp_path / "file").write_text("")
    assert refusal(tmp_path / "file" / "run").startswith("cannot be written (not a directory)")


def test_a_read_only_place_is_refused(read_only: Path) -> None:
    assert refusal(read_only / "run").startswith("cannot be written (read-only file system)")


def test_a_full_disk_is_a_broken_run_that_can_be_gone_on_with(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(b"x" * 64 * 1024)
    with pytest.raises(StorageError, match="no space left"):
        enter(small_disk / "run")
    (small_disk / "ballast").unlink()
    assert enter(small_disk / "run")["status"] == "running"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\xfa",
        b"[" * 100_000,
        b"[]",
        b"null",
        b'"verb config fingerprint status"',
        b'{"name": "some package", "version": 3}',
        b'{"verb": "audit", "config": {}, "status": "running"}',
        b'{"verb": "audit", "config": {}, "fingerprint": "", "status": "running", "versions": null}',
    ],
    ids=lambda content: content[:40].decode("latin-1"),
)
def test_a_damaged_manifest_is_refused_untouched(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_bytes(content)
    assert re.match(
        r"(is no run folder|its manifest.json (was not written by aftertune|is damaged))", refusal(tmp_path / "run")
    )
    with pytest.raises(OutputError):
        read_manifest(tmp_path / "run")


def test_a_folder_without_manifest_holds_no_run(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(OutputError, match=r"is no run folder \(no readable manifest\.json\)"):
            read_manifest(folder)


# --- one process at a time ------------------------------------------------------------------------------


def test_a_second_process_is_kept_out_until_the_first_is_gone_even_if_killed(tmp_path: Path, start: Start) -> None:
    path = tmp_path / "run"
    holder = start(HOLD, path, json.dumps(CONFIG))
    assert holder.stdout is not None
    assert holder.stdout.readline() == "in\n"
    for _ in range(2):
        assert refusal(path) == "another process is at work in it; wait for it, or stop it"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert enter(path)["status"] == "running"


def test_of_many_processes_that_start_at_once_one_gets_in(tmp_path: Path, start: Start) -> None:
    processes = [start(RACE, tmp_path / "run", json.dumps(CONFIG)) for _ in range(5)]
    said = sorted(process.stdout.readline().strip() for process in processes if process.stdout)
    assert said == ["another process is at work in it"] * 4 + ["in"]


def test_a_run_that_fails_lets_go_of_its_folder(tmp_path: Path) -> None:
    def fail() -> None:
        with RunFolder(tmp_path / "run", "audit", CONFIG).locked():
            assert "another process" in refusal(tmp_path / "run")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert enter(tmp_path / "run")["status"] == "running"


# --- fingerprints ---------------------------------------------------------------------------------------

configs = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=10,
)


few = st.dictionaries(st.sampled_from("ab"), st.sampled_from([None, 0, 1, 1.0, "1", True, [1], {"c": 1}]), max_size=2)


def reordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    return [reordered(v) for v in value] if isinstance(value, list) else value


@given(configs)
def test_a_fingerprint_does_not_depend_on_the_order_of_keys(config: Any) -> None:
    assert fingerprint(reordered(config)) == fingerprint(config)
    assert re.fullmatch("[0-9a-f]{64}", fingerprint(config))


@given(few, few)
def test_different_configurations_have_different_fingerprints(one: dict[str, Any], other: dict[str, Any]) -> None:
    same = sorted(map(repr, one.items())) == sorted(map(repr, other.items()))
    assert (fingerprint(one) == fingerprint(other)) == same
