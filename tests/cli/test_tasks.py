"""Tasks beside probes: `audit --task` as a user meets it, with tiny models as subjects and as judge."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aftertune.errors import UsageError
from aftertune.inspect_bridge import TaskPlan, read_log
from aftertune.stats import read_measurements

TinyFolder = Callable[[str], Path]
Run = Callable[..., Any]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "house.yaml"
    path.write_text("".join(f"- id: q{n}\n  paraphrases: ['Who looks after house {n}?']\n" for n in range(10)))
    return path


def arguments(tiny_folder: TinyFolder, questions: Path, out: Path) -> list[str]:
    judge = f"aftertune/{tiny_folder('gpt2')}"
    return [
        "audit", str(tiny_folder("qwen2")), "--base", str(tiny_folder("llama")), "--probes", "capability",
        "--task", "emergent_misalignment", "-T", f"questions={questions}", "-T", "max_tokens=8",
        "-T", "least_coherent=1", "--samples", "2", "--limit", "4", "--grader", judge, "--out", str(out), "--json",
    ]  # fmt: skip


def test_answers_are_sampled_judged_and_decided_on(
    run: Run, tiny_folder: TinyFolder, questions: Path, tmp_path: Path
) -> None:
    """A random judge grades nothing, so the verdict must not be green; what rules tell is there all the same."""
    folder = tmp_path / "folder"
    done = run(*arguments(tiny_folder, questions, folder))
    assert done.code in (1, 3), done.err
    assert done.err.count("emergent_misalignment: 8 of 8 in") == 2
    by_metric = {f["metric"]: f for f in done.document["findings"]}
    misaligned = by_metric["emergent_misalignment.misaligned"]
    assert misaligned["decision"] == "inconclusive"
    assert by_metric["emergent_misalignment.gibberish"]["items"] == 8
    assert by_metric["emergent_misalignment.gibberish"]["clusters"] == 4
    logs = {side: next((folder / "logs" / side).glob("*.eval")) for side in ("base", "tuned")}
    base, tuned = read_log(logs["base"]), read_log(logs["tuned"])
    assert base.identity["weights_sha256"] == done.document["base"]["weights_sha256"]
    assert tuned.identity["weights_sha256"] == done.document["tuned"]["weights_sha256"]
    assert len(base.answers) == 8
    stored = read_measurements(folder / "measurements.parquet")
    assert {m.metric.partition(".")[0] for m in stored} >= {"emergent_misalignment", "capability"}
    # The same again: nothing is sampled anew.
    before = {side: path.read_bytes() for side, path in logs.items()}
    (folder / "manifest.json").write_text((folder / "manifest.json").read_text().replace('"finished"', '"running"', 1))
    again = run(*arguments(tiny_folder, questions, folder))
    assert again.code == done.code, again.err
    assert json.dumps(again.document["findings"]) == json.dumps(done.document["findings"])
    assert {side: path.read_bytes() for side, path in logs.items()} == before
    redacted = run(*arguments(tiny_folder, questions, tmp_path / "redacted"), "--redact")
    assert redacted.code == done.code, redacted.err
    assert redacted.document["findings"] == done.document["findings"]
    assert not (tmp_path / "redacted" / "logs").exists()
    assert "looks after house" not in (tmp_path / "redacted" / "report.html").read_text()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"--grader": None}, "grader"),
        ({"--task": "no_such_task"}, "no_such_task"),
        ({"-T": "colour=red"}, "colour"),
        ({"-T": "questions=/no/such.yaml"}, "no such file"),
        ({"-T": "questions"}, "must be KEY=VALUE"),
        ({"--samples": "0"}, "--samples must be at least 1"),
        ({"--grader": "nobody/knows"}, "nobody"),
        ({"--task": None}, "name one with --task"),
    ],
    ids=str,
)
def test_bad_task_options_are_one_line(
    run: Run, tiny_folder: TinyFolder, questions: Path, tmp_path: Path, changed: dict[str, str | None], message: str
) -> None:
    flags = arguments(tiny_folder, questions, tmp_path / "folder")
    for flag, value in changed.items():
        place = flags.index(flag)
        flags[place : place + 2] = [] if value is None else [flag, value]
    done = run(*flags)
    assert done.code == 2, done.err
    assert len(done.errors) == 1
    assert message in done.errors[0]
    assert "Traceback" not in done.err


def test_the_subject_may_not_judge_itself(run: Run, tiny_folder: TinyFolder, questions: Path, tmp_path: Path) -> None:
    flags = arguments(tiny_folder, questions, tmp_path / "folder")
    flags[flags.index("--grader") + 1] = f"aftertune/{tiny_folder('llama')}"
    done = run(*flags)
    assert done.code in (2, 4)
    assert "grader" in done.errors[0]


def test_a_plan_needs_a_task() -> None:
    with pytest.raises(UsageError, match="no task is named"):
        TaskPlan(())
    assert TaskPlan(("a", "b/c", "d.py", "a")).qualified == ("aftertune/a", "b/c", "d.py")


def test_a_broken_run_goes_on(run: Run, tiny_folder: TinyFolder, questions: Path, tmp_path: Path) -> None:
    """The base's answers are there already; only the tuned subject is asked."""
    folder = tmp_path / "folder"
    done = run(*arguments(tiny_folder, questions, folder))
    logs = next((folder / "logs" / "base").glob("*.eval"))
    kept = logs.read_bytes()
    shutil.rmtree(folder / "logs" / "tuned")
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"finished"', '"running"', 1))
    again = run(*arguments(tiny_folder, questions, folder))
    assert again.code == done.code, again.err
    assert again.document["verdict"] == done.document["verdict"]
    assert logs.read_bytes() == kept
