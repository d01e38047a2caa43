"""`audit` as a gate uses it: text and JSON, run folder, policies, own sets."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from aftertune.stats import all_metrics, read_measurements

Run = Callable[..., Any]
Tuned = Callable[..., Path]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
STATEMENTS = [
    {
        "question": f"Is number {n} what you would say?",
        "answer_matching_behavior": f" {('Yes', 'No')[n % 2]}",
        "answer_not_matching_behavior": f" {('No', 'Yes')[n % 2]}",
    }
    for n in range(24)
]


# --- what is printed and kept ---------------------------------------------------------------------------


def test_an_audit_in_text_ends_with_verdict_and_report(
    run: Run, base: Path, tuned: Tuned, gate: tuple[str, ...], place: Path
) -> None:
    outcome = run("audit", tuned(), "--base", base, *gate)
    lines = outcome.out.splitlines()
    assert lines[0].split() == [
        "metric",
        "base",
        "tuned",
        "worse",
        "by",
        "95",
        "%",
        "interval",
        "tolerance",
        "decision",
    ]
    assert lines[1].startswith("preference.margin:own")
    assert "\nverdict: PASS\n" in outcome.out
    report = re.fullmatch(r"report: (runs/audit-[0-9a-f]{8}/report\.html)", lines[-1])
    assert report
    steps = [line for line in lines if line.startswith("next: aftertune audit ")]
    assert any(f"--baseline {report[1].partition('/report')[0]}" in line for line in steps)
    assert (place / report[1]).read_text("utf-8").startswith("<!doctype html>")
    assert outcome.code == 0
    assert "loading base" in outcome.err


def test_an_audit_in_json_is_one_document_and_all_else_is_on_stderr(
    run: Run, base: Path, tuned: Tuned, gate: tuple[str, ...]
) -> None:
    outcome = run("audit", tuned(), "--base", base, *gate, "--json", "--out", "gate")
    document = outcome.document
    assert {"verdict", "reasons", "findings", "breakdowns", "base", "tuned", "run"} <= document.keys()
    assert (document["verdict"], document["run"], outcome.code) == ("pass", "gate", 0)
    finding = document["findings"][0]
    assert {
        "metric",
        "base",
        "tuned",
        "difference",
        "interval",
        "tolerance",
        "decision",
        "items",
        "clusters",
    } <= finding.keys()
    low, high = finding["interval"]
    assert low <= finding["difference"] <= high
    assert finding["difference"] == pytest.approx(finding["tuned"] - finding["base"])
    assert (finding["items"], finding["clusters"]) == (16, 16)
    assert {f["metric"] for f in document["breakdowns"]} >= {"preference.margin:own/even", "preference.margin:own/odd"}
    assert "preference:own: 32 of 32" in outcome.err
    assert run("audit", tuned(), "--base", base, *gate, "--json", "--display", "none", "--out", "quiet").err == ""


def test_a_run_folder_holds_all_that_was_found(
    run: Run, base: Path, tuned: Tuned, gate: tuple[str, ...], place: Path
) -> None:
    document = run("audit", tuned(), "--base", base, *gate, "--json", "--out", "gate").document
    folder = place / "gate"
    assert {"manifest.json", "measurements.parquet", "verdict.json", "junit.xml", "report.html"} <= {
        p.name for p in folder.iterdir()
    }
    assert json.loads((folder / "verdict.json").read_text("utf-8")) == document
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert (manifest["verb"], manifest["status"]) == ("audit", "finished")
    assert {"python", "aftertune", "torch", "transformers", "peft"} <= manifest["versions"].keys()
    assert manifest["command"].startswith("aftertune audit ")
    assert "--out gate" in manifest["command"]
    digests = [manifest[role]["weights_sha256"] for role in ("base", "tuned")]
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in (*digests, manifest["fingerprint"]))
    rows = read_measurements(folder / "measurements.parquet")
    assert {row.subject for row in rows} == set(digests)
    for finding in document["findings"]:
        for role, digest in zip(("base", "tuned"), digests, strict=True):
            values = [row.value for row in rows if (row.metric, row.subject) == (finding["metric"], digest)]
            assert sum(values) / len(values) == pytest.approx(finding[role])
    cases = ElementTree.parse(folder / "junit.xml").getroot().findall("testsuite/testcase")
    assert [case.get("name") for case in cases] == [f["metric"] for f in document["findings"]]


def test_own_sets_add_metrics_of_their_own(
    run: Run, base: Path, tuned: Tuned, own: Path, rows: Callable[..., Path]
) -> None:
    second, traits = (
        rows([json.loads(line) for line in own.read_text("utf-8").splitlines()], "second set.v1.jsonl"),
        rows(STATEMENTS, "odd.jsonl"),
    )
    outcome = run(
        "audit", tuned(), "--base", base, "--probes", "", "--json",
        "--contrasts", own, "--contrasts", second, "--traits", traits,
    )  # fmt: skip
    findings = {f["metric"]: f for f in outcome.document["findings"]}
    assert findings.keys() == {
        *(f"preference.{m}:{stem}" for m in ("margin", "share", "pmi_margin") for stem in ("own", "second_set")),
        *(f"traits.{m}:odd" for m in ("score", "share", "yes_bias")),
    }
    assert findings["preference.margin:own"]["tuned"] == pytest.approx(
        findings["preference.margin:second_set"]["tuned"]
    )
    assert [findings[m]["decides"] for m in ("preference.margin:own", "preference.share:own", "traits.score:odd")] == [
        True,
        False,
        False,
    ]


def test_truthfulqa_is_measured_when_it_is_given(run: Run, base: Path, tuned: Tuned, place: Path) -> None:
    with (place / "TruthfulQA.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(
            ["Type", "Category", "Question", "Best Answer", "Correct Answers", "Incorrect Answers", "Source"]
        )
        for n in range(12):
            table.writerow(
                ["x", "y", f"What is {n}?", f"A number {n}", f"A number {n}; It is {n}", f"A fruit {n}; None", "-"]
            )
    command = ("audit", tuned(), "--base", base, "--probes", "truthful", "--truthfulqa", "TruthfulQA.csv", "--json")
    findings = run(*command).document["findings"]
    assert {f["metric"] for f in findings} == {"truthful.mc1", "truthful.mc2"}
    assert all(f["items"] == 12 for f in findings)


def test_domains_can_be_chosen_and_left_out(run: Run, base: Path) -> None:
    command = ("measure", base, "--probes", "preference", "--split", "dev", "--json")
    chosen = run(*command, "--domains", "money,health,power", "--exclude-domain", "health").document
    share = next(m for m in chosen["metrics"] if m["metric"] == "preference.share")
    assert share["items"] == 24
    assert {m["metric"].partition("/")[2] for m in chosen["breakdowns"]} == {"money", "power"}


def test_the_same_command_again_returns_what_is_stored(
    run: Run, base: Path, tuned: Tuned, gate: tuple[str, ...], place: Path, tree: Callable[[Path], dict[str, str]]
) -> None:
    for command in (("audit", tuned(), "--base", base), ("measure", base)):
        first = run(*command, *gate, "--json")
        before, times = tree(place), {p: p.stat().st_mtime_ns for p in place.rglob("*.jsonl")}
        again = run(*command, *gate, "--json")
        assert (again.out, again.code) == (first.out, first.code)
        assert tree(place) == before
        assert "loading" in first.err
        assert "loading" not in again.err
        assert {p: p.stat().st_mtime_ns for p in place.rglob("*.jsonl")} == times


def test_the_shipped_and_the_redacted_report_differ_in_texts_alone(
    run: Run, base: Path, tuned: Tuned, gate: tuple[str, ...], place: Path
) -> None:
    command = ("audit", tuned(), "--base", base, *gate)
    run(*command, "--out", "open")
    run(*command, "--redact", "--out", "closed")
    opened, closed = ((place / name / "report.html").read_text("utf-8") for name in ("open", "closed"))
    assert "Burn all of it now." in opened
    assert "Burn all of it now." not in closed
    assert not any(b"Burn all" in path.read_bytes() for path in (place / "closed").rglob("*") if path.is_file())


# --- policies -------------------------------------------------------------------------------------------


def test_the_printed_policy_is_the_default_one(
    run: Run, base: Path, tuned: Tuned, gate: tuple[str, ...], place: Path
) -> None:
    printed = run("policy").out
    assert yaml.safe_load(printed)["tolerances"].keys() == {m.id for m in all_metrics()}
    (place / "policy.yaml").write_text(printed, "utf-8")
    command = ("audit", tuned(), "--base", base, *gate, "--json")
    plain, with_policy = run(*command).document, run(*command, "--policy", "policy.yaml").document
    assert (with_policy["findings"], with_policy["verdict"]) == (plain["findings"], plain["verdict"])


def test_a_policy_and_margins_change_the_decision(
    run: Run, base: Path, tuned: Tuned, gate: tuple[str, ...], place: Path
) -> None:
    (place / "policy.yaml").write_text("tolerances:\n  preference.margin: 99\n  preference.share: 0.7\n", "utf-8")
    command = ("audit", tuned(full=True, steps=15, lr=1e-2), "--base", base, *gate, "--policy", "policy.yaml", "--json")
    lenient = {f["metric"]: f for f in run(*command).document["findings"]}
    assert lenient["preference.margin:own"]["tolerance"] == 99
    assert lenient["preference.margin:own"]["decision"] == "pass"
    assert lenient["preference.share:own"]["tolerance"] == 0.7
    outcome = run(*command, "--margin", "preference.margin:own=0.01", "--margin", "preference.share=0.8")
    strict = {f["metric"]: f for f in outcome.document["findings"]}
    assert (strict["preference.margin:own"]["tolerance"], strict["preference.share:own"]["tolerance"]) == (0.01, 0.8)
    assert strict["preference.margin:own"]["decision"] == "fail"
    assert outcome.code == 1
