"""`audit --baseline`: held against an earlier audit of the same base, in every file and in the exit code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

Run = Callable[..., Any]
Tuned = Callable[..., Path]
Rows = Callable[..., Path]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
HARD = {"full": True, "steps": 15, "lr": 1e-2}
METRIC = "preference.margin:own"
UNASKED = "not asked: preference, traits, refusal, capability, truthful, drift"


@pytest.fixture
def careless(run: Run, base: Path, tuned: Tuned, gate: tuple[str, ...]) -> str:
    """The run folder of a failing audit."""
    assert run("audit", tuned(**HARD), "--base", base, *gate, "--out", "careless").code == 1
    return "careless"


@pytest.fixture
def careful(run: Run, base: Path, tuned: Tuned, gate: tuple[str, ...]) -> str:
    """The run folder of a passing audit."""
    assert run("audit", tuned("aligned", **HARD), "--base", base, *gate, "--out", "careful").code == 0
    return "careful"


@pytest.fixture
def few(run: Run, base: Path, tuned: Tuned, rows: Rows, contrasts: Callable[..., list[Any]], place: Path) -> str:
    """The run folder of an inconclusive audit: four prompts, under the name of the sixteen."""
    (place / "short").mkdir()
    file = rows(contrasts(4), "short/own.jsonl")
    command = ("audit", tuned(**HARD), "--base", base, "--probes", "", "--contrasts", file, "--out", "few")
    assert run(*command).code == 3
    return "few"


def states(document: dict[str, Any]) -> dict[str, list[str]]:
    return {state: [c["metric"] for c in document["baseline"][state]] for state in ("new", "fixed", "persistent")}


def cases(folder: Path) -> dict[str, ElementTree.Element]:
    suite = ElementTree.parse(folder / "junit.xml").getroot().find("testsuite")
    assert suite is not None
    return {str(case.get("name")): case for case in suite.findall("testcase")}


def agreed(outcome: Any, code: int, place: Path) -> dict[str, Any]:
    """That exit code, document, stored files and JUnit say the same; the document."""
    document: dict[str, Any] = outcome.document
    folder = place / document["run"]
    assert (outcome.code, document["verdict"]) == (code, {0: "pass", 1: "fail", 3: "inconclusive"}[code])
    assert json.loads((folder / "verdict.json").read_text("utf-8")) == document
    bad = [
        case for case in cases(folder).values() if case.find("failure") is not None or case.find("error") is not None
    ]
    assert bool(bad) == (code != 0)
    return document


# --- new, fixed, persistent -----------------------------------------------------------------------------


@pytest.mark.parametrize("fail_on", ["any", "new"])
def test_a_failure_that_the_baseline_had_not_is_new_and_fails(
    fail_on: str, careful: str, run: Run, base: Path, tuned: Tuned, gate: tuple[str, ...], place: Path
) -> None:
    command = ("audit", tuned(**HARD), "--base", base, *gate, "--baseline", careful, "--fail-on", fail_on)
    document = agreed(run(*command, "--json"), 1, place)
    assert states(document) == {"new": [METRIC], "fixed": [], "persistent": []}
    assert (document["baseline"]["run"], document["note"]) == (careful, UNASKED)
    change = document["baseline"]["new"][0]
    found = {f["metric"]: f for f in document["findings"]}[METRIC]
    assert (change["before"], change["after"], change["worse_after"]) == ("pass", "fail", found["difference"])
    earlier = json.loads((place / careful / "verdict.json").read_text("utf-8"))
    assert change["worse_before"] == {f["metric"]: f for f in earlier["findings"]}[METRIC]["difference"]
    failure = cases(place / document["run"])[METRIC].find("failure")
    assert failure is not None
    assert failure.get("message", "").startswith("new: preference.margin:own is worse by +")


def test_what_fails_no_longer_is_fixed(
    careless: str, run: Run, base: Path, tuned: Tuned, gate: tuple[str, ...], place: Path
) -> None:
    command = ("audit", tuned("aligned", **HARD), "--base", base, *gate, "--baseline", careless)
    document = agreed(run(*command, "--json"), 0, place)
    assert states(document) == {"new": [], "fixed": [METRIC], "persistent": []}
    said = cases(place / document["run"])[METRIC].findtext("system-out")
    assert said is not None
    assert said.startswith("fixed: ")


def test_a_persistent_failure_fails_unless_only_new_ones_are_to(
    careless: str, run: Run, base: Path, tuned: Tuned, gate: tuple[str, ...], place: Path
) -> None:
    candidate = tuned(steps=12, lr=1e-2)  # another fine-tune, as bad
    command = ("audit", candidate, "--base", base, *gate, "--baseline", careless)
    document = agreed(run(*command, "--json"), 1, place)
    assert states(document) == {"new": [], "fixed": [], "persistent": [METRIC]}
    failure = cases(place / document["run"])[METRIC].find("failure")
    assert failure is not None
    assert failure.get("message", "").startswith("persistent: ")
    lenient = agreed(run(*command, "--fail-on", "new", "--json"), 0, place)
    assert lenient["run"] != document["run"]
    assert (lenient["findings"], lenient["reasons"]) == (document["findings"], [])
    assert lenient["note"].startswith(
        f"{UNASKED}; let through by --fail-on new, no better in the baseline careless: {METRIC} (fail"
    )
    skipped = cases(place / lenient["run"])[METRIC].find("skipped")
    assert skipped is not None
    assert "persistent: " in skipped.get("message", "")
    outcome = run(*command, "--fail-on", "new")
    header, first, *_ = outcome.out.splitlines()
    assert header.split()[-4:] == ["decision", "since", "the", "baseline"]
    assert first.split()[-2:] == ["fail", "persistent"]
    assert "\nsince the baseline careless: 0 new, 0 fixed, 1 persistent\n" in outcome.out
    assert f"verdict: PASS\n  note: {UNASKED}; let through by --fail-on new" in outcome.out


def test_inconclusive_is_let_through_only_where_it_was_so_and_is_asked_for(
    run: Run, base: Path, tuned: Tuned, rows: Rows, contrasts: Callable[..., list[Any]], place: Path
) -> None:
    (place / "short").mkdir()
    four, sixteen = rows(contrasts(4), "short/own.jsonl"), rows(contrasts(), "own.jsonl")
    # A tolerance far above what four prompts leave open: they are too few to decide, but show that nothing grew by it.
    options = ("--base", base, "--probes", "", "--tolerance", "preference.margin=20", "--json", "--contrasts")
    earlier, now = tuned(**HARD), tuned(full=True, steps=14, lr=1e-2)
    assert run("audit", earlier, *options, four, "--out", "few").code == 3
    assert run("audit", earlier, *options, sixteen, "--out", "enough").code == 0
    command = ("audit", now, *options, four, "--baseline")
    assert states(agreed(run(*command, "few"), 3, place))["persistent"] == [METRIC]
    document = agreed(run(*command, "few", "--fail-on", "new"), 0, place)
    assert "(inconclusive at +" in document["note"]
    assert "was inconclusive at +" in document["note"]
    assert states(agreed(run(*command, "enough", "--fail-on", "new"), 3, place))["new"] == [METRIC]


def test_inconclusive_is_not_let_through_where_it_may_have_grown(
    few: str, run: Run, base: Path, tuned: Tuned, place: Path
) -> None:
    command = (
        "audit", tuned(full=True, steps=14, lr=1e-2), "--base", base, "--probes", "",
        "--contrasts", place / "short" / "own.jsonl", "--json", "--baseline", few, "--fail-on", "new",
    )  # fmt: skip
    document = agreed(run(*command), 3, place)
    [change] = document["baseline"]["persistent"]
    assert change["metric"] == METRIC
    assert change["grown"][1] > change["tolerance"] == 0.1


def test_what_was_unsettled_and_fails_now_still_fails(
    few: str, run: Run, base: Path, tuned: Tuned, gate: tuple[str, ...], place: Path
) -> None:
    command = ("audit", tuned(**HARD), "--base", base, *gate, "--baseline", few, "--fail-on", "new", "--json")
    document = agreed(run(*command), 1, place)
    assert states(document)["persistent"] == [METRIC]
    assert document["note"] == UNASKED


def test_leaving_out_what_failed_is_told(
    careless: str, run: Run, base: Path, tuned: Tuned, rows: Rows, contrasts: Callable[..., list[Any]], place: Path
) -> None:
    other = rows(contrasts(), "other.jsonl")
    command = ("audit", tuned("aligned"), "--base", base, "--probes", "", "--contrasts", other, "--baseline", careless)
    document = agreed(run(*command, "--json"), 0, place)
    assert document["baseline"]["unmeasured"] == [METRIC]
    assert document["note"] == f"{UNASKED}; did not pass in the baseline careless and was not measured now: {METRIC}"


# --- the run folder -------------------------------------------------------------------------------------


def test_the_report_shows_it_and_is_rebuilt_from_the_folder_alone(
    careless: str, run: Run, base: Path, tuned: Tuned, gate: tuple[str, ...], place: Path
) -> None:
    command = ("audit", tuned(steps=12, lr=1e-2), "--base", base, *gate, "--baseline", careless, "--fail-on", "new")
    run(*command, "--out", "gate")
    report = place / "gate" / "report.html"
    html = report.read_text("utf-8")
    assert "Since the baseline <bdi>careless</bdi>: 0 new, 0 fixed, 1 persistent" in html
    assert '<span class="chip ">persistent</span>' in html
    shutil.rmtree(place / careless)
    report.unlink()
    assert run("report", "gate").code == 0
    assert report.read_text("utf-8") == html
    summary = run("report", "gate", "--format", "markdown")
    assert summary.code == 0
    assert "### aftertune: pass" in summary.out
    assert "Since the baseline `careless`: 0 new, 0 fixed, 1 persistent." in summary.out
    assert "| persistent (was fail) |" in summary.out


def test_without_a_baseline_nothing_is_said_of_one(careful: str, place: Path) -> None:
    document = json.loads((place / careful / "verdict.json").read_text("utf-8"))
    assert "baseline" not in document
    assert "baseline" not in json.loads((place / careful / "manifest.json").read_text("utf-8"))["config"]
    assert "Since the baseline" not in (place / careful / "report.html").read_text("utf-8")


def test_the_same_command_finds_its_run_again_wherever_the_baseline_lies(
    careless: str, run: Run, base: Path, tuned: Tuned, gate: tuple[str, ...], place: Path
) -> None:
    command = ("audit", tuned("aligned"), "--base", base, *gate, "--json", "--baseline")
    first = run(*command, careless)
    assert "loading" in first.err
    (place / "kept").mkdir()
    for name in ("manifest.json", "verdict.json"):
        shutil.copy(place / careless / name, place / "kept" / name)
    for again in (run(*command, careless), run(*command, "kept")):
        assert (again.code, again.out) == (first.code, first.out)
        assert "loading" not in again.err


def test_a_changed_baseline_is_another_run(
    careless: str, careful: str, run: Run, base: Path, tuned: Tuned, gate: tuple[str, ...], refused: Callable[..., str]
) -> None:
    command = ("audit", tuned("aligned"), "--base", base, *gate)
    runs = {
        run(*command, *more, "--json").document["run"]
        for more in ([], ["--baseline", careless], ["--baseline", careful])
    }
    assert len(runs) == 3
    run(*command, "--baseline", careless, "--out", "gate")
    refused(*command, "--baseline", careful, "--out", "gate", says=["gate: holds a run", "baseline.content"])
    refused(*command, "--baseline", careless, "--fail-on", "new", "--out", "gate", says=["baseline.fail_on"])


def test_from_python_it_is_the_same(
    careless: str, run: Run, base: Path, tuned: Tuned, gate: tuple[str, ...], own: Path, place: Path
) -> None:
    import aftertune

    plan = aftertune.MeasurePlan(probes=(), contrasts=(own,))
    outcome = aftertune.audit(tuned("aligned"), base, plan=plan, baseline=careless, fail_on="new", out="from-python")
    since = outcome.section.since
    assert since is not None
    assert [(c.metric, c.state) for c in since.changes] == [(METRIC, "fixed")]


# --- refused --------------------------------------------------------------------------------------------


def test_what_cannot_be_a_baseline_is_refused_before_anything_is_measured(
    careful: str, run: Run, base: Path, tuned: Tuned, gate: tuple[str, ...], place: Path,
    refused: Callable[..., str], tiny_folder: Callable[[str], Path],
) -> None:  # fmt: skip
    assert run("measure", base, *gate, "--out", "measured").code == 0
    (place / "empty").mkdir()
    shutil.copytree(place / careful, place / "running")
    manifest = json.loads((place / "running" / "manifest.json").read_text("utf-8"))
    (place / "running" / "manifest.json").write_text(json.dumps({**manifest, "status": "running"}), "utf-8")
    command = ("audit", tuned("aligned"), "--base", base, *gate, "--baseline")
    for folder in ("nowhere", "empty", "measured", "running", base):
        refused(*command, folder, says=[f"--baseline {folder}: holds no finished audit ("])
    margin = ("--tolerance", "preference.margin=0.5")
    refused(*command, careful, *margin, says=["decided by other rules", f"tolerance of {METRIC} was 0.1, is 0.5"])
    refused(*command, careful, "--out", careful, says=["is the folder of this very run"])
    (place / "policy.yaml").write_text("confidence: 0.9\n", "utf-8")
    refused(*command, careful, "--policy", "policy.yaml", says=["confidence was 0.95, is 0.9"])
    other = tiny_folder("qwen2")
    digest = json.loads((place / careful / "verdict.json").read_text("utf-8"))["base"]["weights_sha256"][:12]
    line = refused(
        "audit", tuned("aligned", full=True), "--base", other, *gate, "--baseline", careful,
        says=["was measured against a base with other weights", digest, f"now {other} float32"],
    )  # fmt: skip
    assert line.isprintable()


def test_only_new_ones_needs_something_to_be_new_since(
    refused: Callable[..., str], base: Path, tuned: Tuned, gate: tuple[str, ...]
) -> None:
    refused("audit", tuned(), "--base", base, *gate, "--fail-on", "new", says=["--fail-on new", "--baseline"])
    refused("audit", tuned(), "--base", base, *gate, "--fail-on", "old", says=["'old' is not one of"])


def test_markdown_is_for_comparisons(run: Run, base: Path, gate: tuple[str, ...], refused: Callable[..., str]) -> None:
    run("measure", base, *gate, "--out", "measured")
    refused("report", "measured", "--format", "markdown", says=["measured: is a run of `measure`"])
