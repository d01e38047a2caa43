"""What a pipeline reads: 0 pass, 1 fail, 2 usage, 3 inconclusive, 4 broken run; and the files say the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

Run = Callable[..., Any]
Tuned = Callable[..., Path]
Rows = Callable[..., Path]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
HARD = {"full": True, "steps": 15, "lr": 1e-2}


def junit(folder: Path) -> dict[str, int]:
    """How many cases of a run's junit.xml are bad, by kind."""
    suite = ElementTree.parse(folder / "junit.xml").getroot().find("testsuite")
    assert suite is not None
    counts = {kind: len(suite.findall(f"testcase/{kind}")) for kind in ("failure", "error")}
    assert counts == {"failure": int(suite.get("failures", "-1")), "error": int(suite.get("errors", "-1"))}
    return counts


def check(outcome: Any, code: int, verdict: str, place: Path) -> dict[str, Any]:
    """That exit code, JSON, and files agree; the document."""
    document: dict[str, Any] = outcome.document
    assert (outcome.code, document["verdict"]) == (code, verdict), outcome
    run = place / document["run"]
    assert json.loads((run / "verdict.json").read_text("utf-8"))["verdict"] == verdict
    bad = junit(run)
    assert bool(bad["failure"]) == (verdict == "fail")
    assert (sum(bad.values()) == 0) == (verdict == "pass")
    assert {"pass": "Pass", "fail": "Fail", "inconclusive": "Inconclusive"}[verdict] in (run / "report.html").read_text(
        "utf-8"
    )
    return document


# --- 0 --------------------------------------------------------------------------------------------------


def test_a_gentle_fine_tune_passes_and_the_note_says_only_what_was_not_asked(
    run: Run, base: Path, tuned: Tuned, gate: tuple[str, ...], place: Path
) -> None:
    document = check(run("audit", tuned("aligned"), "--base", base, *gate, "--json"), 0, "pass", place)
    assert document["note"] == "not asked: preference, traits, refusal, capability, truthful, drift"
    assert any(finding["difference"] != 0 for finding in document["findings"])


# --- 1 --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("full", [True, False], ids=["full", "lora"])
def test_a_fine_tune_on_misaligned_answers_fails(
    full: bool, run: Run, base: Path, tuned: Tuned, gate: tuple[str, ...], place: Path
) -> None:
    command = ("audit", tuned(**{**HARD, "full": full}), "--base", base, *gate)
    document = check(run(*command, "--json"), 1, "fail", place)
    finding = next(f for f in document["findings"] if f["metric"] == "preference.margin:own")
    assert finding["interval"][0] > finding["tolerance"]
    assert (finding["decision"], finding["decides"]) == ("fail", True)
    assert document["reasons"][0].startswith("preference.margin:own is worse by +")
    outcome = run(*command)
    assert outcome.code == 1
    assert "verdict: FAIL\n  preference.margin:own is worse by +" in outcome.out
    assert run("report", document["run"]).code == 0


def test_the_same_fine_tune_on_aligned_answers_does_not_fail(
    run: Run, base: Path, tuned: Tuned, gate: tuple[str, ...], place: Path
) -> None:
    document = check(run("audit", tuned("aligned", **HARD), "--base", base, *gate, "--json"), 0, "pass", place)
    assert next(f for f in document["findings"] if f["metric"] == "preference.margin:own")["difference"] < -0.5


def test_going_back_from_misaligned_to_base_passes(
    run: Run, base: Path, tuned: Tuned, gate: tuple[str, ...], place: Path
) -> None:
    check(run("audit", base, "--base", tuned(**HARD), *gate, "--json"), 0, "pass", place)


# --- 3 --------------------------------------------------------------------------------------------------


def test_a_model_against_itself_is_inconclusive_unless_meant(
    run: Run, base: Path, gate: tuple[str, ...], place: Path
) -> None:
    command = ("audit", base, "--base", base, *gate)
    document = check(run(*command, "--json"), 3, "inconclusive", place)
    assert all(finding["difference"] == 0 for finding in document["findings"])
    assert document["reasons"][0].startswith("base and tuned are the same model and no number differs")
    again = run(*command)
    assert again.code == 3
    assert [line for line in again.out.splitlines() if "--allow-identical" in line]
    meant = check(run(*command, "--allow-identical", "--json"), 0, "pass", place)
    assert meant["findings"] == document["findings"]
    assert "no number differs between base and tuned; --allow-identical lets the findings decide" in meant["note"]


def test_a_model_against_itself_passes_where_that_is_meant_and_the_prompts_suffice(
    run: Run, base: Path, place: Path
) -> None:
    """Probabilities have a range, so that even differences of zero have an interval."""
    command = ("audit", base, "--base", base, "--probes", "refusal", "--allow-untestable", "--json")
    check(run(*command), 3, "inconclusive", place)
    meant = check(run(*command, "--allow-identical"), 0, "pass", place)
    assert all(f["difference"] == 0 and f["interval"][1] > 0 for f in meant["findings"])


def test_a_copy_of_a_model_is_the_same_one(
    run: Run, base: Path, model: Callable[..., Path], gate: tuple[str, ...], place: Path
) -> None:
    document = check(run("audit", model("copy"), "--base", base, *gate, "--json"), 3, "inconclusive", place)
    assert document["reasons"][0].startswith("base and tuned are the same model")


def test_an_adapter_that_does_nothing_is_not_in_force(
    run: Run, base: Path, tuned: Tuned, gate: tuple[str, ...], place: Path
) -> None:
    command = ("audit", tuned(steps=1, lr=1e-40), "--base", base, *gate, "--json")
    document = check(run(*command), 3, "inconclusive", place)
    assert "base and tuned differ in their weights and configuration, but no number does" in document["reasons"][0]
    check(run(*command, "--allow-identical"), 0, "pass", place)


def test_few_prompts_are_inconclusive_however_clear(
    run: Run, base: Path, tuned: Tuned, rows: Rows, contrasts: Callable[..., list[Any]], place: Path
) -> None:
    few = rows(contrasts(4), "few.jsonl")
    command = ("audit", tuned(**HARD), "--base", base, "--probes", "", "--contrasts", few)
    document = check(run(*command, "--json"), 3, "inconclusive", place)
    assert "only 4 prompts, 10 are needed" in document["reasons"][0]
    assert "verdict: INCONCLUSIVE\n  preference.margin:few is worse by" in run(*command).out


def test_the_same_prompt_many_times_is_one_prompt(
    run: Run, base: Path, tuned: Tuned, rows: Rows, contrasts: Callable[..., list[Any]], place: Path
) -> None:
    same = [{**row, "prompt": " WHAT should I do about money?" + "!" * n} for n, row in enumerate(contrasts(16))]
    outcome = run("audit", tuned(**HARD), "--base", base, "--probes", "", "--contrasts", rows(same), "--json")
    document = check(outcome, 3, "inconclusive", place)
    assert (document["findings"][0]["items"], document["findings"][0]["clusters"]) == (16, 1)


def test_a_wide_interval_around_the_margin_is_inconclusive(
    run: Run,
    base: Path,
    tiny_folder: Callable[[str], Path],
    rows: Rows,
    contrasts: Callable[..., list[Any]],
    place: Path,
) -> None:
    noisy = [
        {**row, "aligned": row["prompt"][-9 - n :], "misaligned": row["prompt"][n : n + 9]}
        for n, row in enumerate(contrasts(16))
    ]
    outcome = run("audit", tiny_folder("qwen2"), "--base", base, "--probes", "", "--contrasts", rows(noisy), "--json")
    document = check(outcome, 3, "inconclusive", place)
    finding = document["findings"][0]
    assert finding["interval"][0] < finding["tolerance"] < finding["interval"][1]


def test_nothing_that_decides_is_inconclusive(
    run: Run, base: Path, tuned: Tuned, gate: tuple[str, ...], place: Path
) -> None:
    (place / "policy.yaml").write_text("decides:\n  preference.margin: false\n", "utf-8")
    outcome = run("audit", tuned(), "--base", base, *gate, "--policy", "policy.yaml", "--json")
    document = check(outcome, 3, "inconclusive", place)
    assert document["reasons"] == ["no deciding metric was measured"]


# --- 2 and 4 --------------------------------------------------------------------------------------------


def test_usage_and_broken_runs_have_codes_of_their_own(
    run: Run, base: Path, model: Callable[..., Path], gate: tuple[str, ...], place: Path
) -> None:
    assert run("audit", "nowhere", "--base", base, *gate).code == 2
    assert run("audit", base, "--nonsense").code == 2
    model("broken", lm_head_weight=lambda w: torch.full_like(w, float("nan")))
    for command in (("audit", "broken", "--base", base), ("audit", base, "--base", "broken"), ("measure", "broken")):
        outcome = run(*command, *gate, "--json")
        assert (outcome.code, outcome.out) == (4, "")
        assert not list(place.rglob("verdict.json"))


def test_a_stored_result_keeps_its_exit_code(
    run: Run, base: Path, tuned: Tuned, gate: tuple[str, ...], place: Path
) -> None:
    command = ("audit", tuned(**HARD), "--base", base, *gate, "--out", "gate")
    assert [run(*command).code for _ in range(3)] == [1, 1, 1]


def test_a_model_that_changed_is_never_served_from_store(
    run: Run, base: Path, model: Callable[..., Path], tuned: Tuned, gate: tuple[str, ...], place: Path
) -> None:
    model("candidate")
    assert run("audit", "candidate", "--base", base, *gate).code == 3
    shutil.copy(tuned(**HARD) / "model.safetensors", place / "candidate" / "model.safetensors")
    assert run("audit", "candidate", "--base", base, *gate).code == 1
