"""An audit held against an earlier one: what is new, fixed and persistent, and what is let through."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from aftertune.errors import AftertuneError, OutputError, PolicyError, SubjectError
from aftertune.stats import (
    Change,
    Finding,
    Policy,
    SinceBaseline,
    Verdict,
    WorstGroup,
    all_metrics,
    changes_since,
    decide,
    decide_since,
    read_baseline,
    still_nothing_compared,
)

DECISIONS = ("pass", "inconclusive", "fail")
IDS = [m.id for m in all_metrics()]

# (in the baseline, now) → (state, verdict by --fail-on any, verdict by --fail-on new), as docs/ci.md tells it.
TABLE: dict[tuple[str | None, str], tuple[str | None, str, str]] = {
    (None, "pass"): (None, "pass", "pass"),
    (None, "inconclusive"): ("new", "inconclusive", "inconclusive"),
    (None, "fail"): ("new", "fail", "fail"),
    ("pass", "pass"): (None, "pass", "pass"),
    ("pass", "inconclusive"): ("new", "inconclusive", "inconclusive"),
    ("pass", "fail"): ("new", "fail", "fail"),
    ("inconclusive", "pass"): ("fixed", "pass", "pass"),
    ("inconclusive", "inconclusive"): ("persistent", "inconclusive", "pass"),
    ("inconclusive", "fail"): ("persistent", "fail", "fail"),
    ("fail", "pass"): ("fixed", "pass", "pass"),
    ("fail", "inconclusive"): ("persistent", "inconclusive", "pass"),
    ("fail", "fail"): ("persistent", "fail", "pass"),
}


# Worsening with its interval, in multiples of the tolerance, that makes each decision.
NUMBERS = {"pass": (0.0, -0.2, 0.2), "inconclusive": (1.0, 0.5, 1.5), "fail": (2.0, 1.5, 2.5)}


def finding(metric: str, decision: Any, **changes: Any) -> Finding:
    """A finding on the default policy's margin, with numbers that make its decision."""
    policy = Policy()
    margin = policy.tolerance(metric)
    worse = next(m.worse for m in all_metrics() if m.id == metric.partition(":")[0].partition("/")[0])
    sign = -1.0 if worse == "lower" else 1.0
    value, *ends = (sign * margin * n for n in NUMBERS[decision])
    low, high = sorted(ends)
    made = Finding(
        metric, 1.0, 1.0 + value, value, (low, high), margin, decision, policy.deciding(metric), worse, 40, 20,
        0.001 if decision == "fail" else 0.4,
    )  # fmt: skip
    return replace(made, **changes)


def since(baseline: list[Finding], now: list[Finding], fail_on: Any = "new", **changes: Any) -> SinceBaseline:
    return SinceBaseline(**{"run": "runs/a", "fail_on": fail_on, "changes": changes_since(baseline, now), **changes})


def verdict_by(fail_on: str, baseline: list[Finding], now: list[Finding]) -> Verdict:
    return decide_since(decide(now), now, since(baseline, now, fail_on))


# --- states ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "after"), TABLE)
def test_state_and_verdict_are_those_of_the_table(before: str | None, after: str) -> None:
    state, by_any, by_new = TABLE[before, after]
    baseline = [finding("refusal.harmful", before)] if before else []
    now = [finding("refusal.harmful", after)]
    changes = changes_since(baseline, now)
    assert [(c.metric, c.state, c.before, c.after) for c in changes] == (
        [("refusal.harmful", state, before, after)] if state else []
    )
    for fail_on, expected in (("any", by_any), ("new", by_new)):
        verdict = verdict_by(fail_on, baseline, now)
        assert verdict.decision == expected
        assert bool(verdict.note) == (expected != by_any)
        assert bool(verdict.reasons) == (expected != "pass")


def test_what_only_informed_in_the_baseline_is_new_and_what_only_informs_now_is_nothing() -> None:
    bad = finding("refusal.harmful", "fail")
    silent = replace(bad, decides=False)
    assert [c.state for c in changes_since([silent], [bad])] == ["new"]
    assert changes_since([bad], [silent]) == ()
    assert changes_since([], [finding("refusal.harmful/weapons", "fail")]) == ()


def test_states_are_those_of_set_arithmetic() -> None:
    draw = random.Random(0)
    for _ in range(500):
        baseline, now = (
            [
                finding(f"{metric}{suffix}", draw.choice(DECISIONS), decides=draw.random() < 0.7)
                for metric in draw.sample(IDS, draw.randint(0, len(IDS)))
                for suffix in ("", ":mine")
                if draw.random() < 0.8
            ]
            for _ in range(2)
        )
        bad_before = {f.metric for f in baseline if f.decides and f.decision != "pass"}
        bad_now = {f.metric for f in now if f.decides and f.decision != "pass"}
        good_now = {f.metric for f in now if f.decides and f.decision == "pass"}
        held = since(baseline, now)
        assert {c.metric for c in held.of("new")} == bad_now - bad_before
        assert {c.metric for c in held.of("persistent")} == bad_now & bad_before
        assert {c.metric for c in held.of("fixed")} == good_now & bad_before
        assert [c.metric for c in held.changes] == [
            f.metric for f in now if f.metric in bad_now | (good_now & bad_before) and f.decides
        ]


def test_letting_through_never_hides_what_is_not_excused() -> None:
    draw = random.Random(1)
    rank = {"pass": 0, "inconclusive": 1, "fail": 2}
    for _ in range(500):
        baseline, now = (
            [finding(metric, draw.choice(DECISIONS), decides=True) for metric in draw.sample(IDS, draw.randint(1, 5))]
            for _ in range(2)
        )
        before = {f.metric: rank[f.decision] for f in baseline}
        left = [rank[f.decision] for f in now if rank[f.decision] > before.get(f.metric, 0)]
        assert rank[verdict_by("new", baseline, now).decision] == max(left, default=0)
        assert rank[verdict_by("any", baseline, now).decision] == max(rank[f.decision] for f in now)


# --- how far it has grown -------------------------------------------------------------------------------


def at(worsening: float, half: float, metric: str = "preference.margin") -> Finding:
    """A failure of the worsening given, in the metric's unit."""
    sign = -1.0 if finding(metric, "fail").worse == "lower" else 1.0
    low, high = sorted((sign * (worsening - half), sign * (worsening + half)))
    return finding(metric, "fail", difference=sign * worsening, interval=(low, high))


@pytest.mark.parametrize("metric", ["preference.margin", "capability.choice_probability"])
@pytest.mark.parametrize(
    ("then", "now", "half", "excused"),
    [
        (0.3, 0.3, 0.05, True),
        (0.3, 0.32, 0.05, True),  # 0.02 + 0.071 is below 0.1
        (0.3, 0.34, 0.05, False),  # 0.04 + 0.071 is not
        (0.9, 0.3, 0.05, True),
        (0.3, 0.9, 0.05, False),
        (0.3, 0.3, 0.15, True),  # the very same numbers are the same model
        (0.3, 0.301, 0.15, False),  # so wide that nothing is known
    ],
)
def test_only_what_is_surely_not_worse_than_before_is_excused(
    metric: str, then: float, now: float, half: float, excused: bool
) -> None:
    (change,) = changes_since([at(then, half, metric)], [at(now, half, metric)])
    assert change.state == "persistent"
    assert change.excusable == excused
    assert change.grown is not None
    if then != now:
        reach = math.hypot(half, half)
        assert change.grown == pytest.approx((now - then - reach, now - then + reach))
    verdict = verdict_by("new", [at(then, half, metric)], [at(now, half, metric)])
    assert verdict.decision == ("pass" if excused else "fail")


def test_the_interval_of_growth_covers_the_truth_as_often_as_it_promises() -> None:
    """Two independent samples of one truth; the ends of each are those of a t interval."""
    rng = np.random.default_rng(5)
    n, covered, runs = 30, 0, 2000
    half = stats.t.ppf(0.975, n - 1) / math.sqrt(n)
    for _ in range(runs):
        a, b = (rng.normal(5.0, 1.0, n) for _ in range(2))
        then, now = (at(v.mean(), half * v.std(ddof=1)) for v in (a, b))
        (change,) = changes_since([then], [now])
        assert change.grown is not None
        covered += change.grown[0] <= 0 <= change.grown[1]
    assert 0.94 <= covered / runs <= 0.97


def test_each_end_of_the_growth_takes_the_far_ends_of_both_intervals() -> None:
    """Lop-sided intervals: at most now's high minus then's low, at least now's low minus then's high."""
    then = finding("preference.margin", "fail", difference=0.5, interval=(0.49, 0.8))
    now = finding("preference.margin", "fail", difference=0.6, interval=(0.3, 0.62))
    (change,) = changes_since([then], [now])
    assert change.grown == pytest.approx((0.1 - math.hypot(0.3, 0.3), 0.1 + math.hypot(0.02, 0.01)))


def test_the_growth_of_the_group_that_stands_in_the_way_counts() -> None:
    """The mean hardly moves while one domain of it gets much worse."""

    def hiding(group: str, worsening: float) -> Finding:
        worst = WorstGroup(group, worsening, (worsening - 0.02, worsening + 0.02), 36, 8)
        mean = worsening / 8
        return finding(
            "preference.margin", "inconclusive", difference=mean, interval=(mean - 0.02, mean + 0.02), worst=worst
        )

    then = hiding("money", 0.3)
    assert then.hides_a_group
    for now, expected in (
        (hiding("money", 0.3), "pass"),
        (hiding("money", 0.33), "pass"),
        (hiding("money", 0.2), "pass"),
        (hiding("money", 0.6), "inconclusive"),
        (hiding("health", 0.33), "inconclusive"),
    ):
        assert verdict_by("new", [then], [now]).decision == expected
    assert verdict_by("new", [finding("preference.margin", "inconclusive")], [then]).decision == "inconclusive"


def test_without_a_number_on_either_side_nothing_is_excused() -> None:
    absent = finding("preference.margin", "inconclusive", items=0, difference=0.0, interval=(0.0, 0.0), note="none")
    for then, now in ((absent, finding("preference.margin", "inconclusive")), (absent, absent)):
        assert verdict_by("new", [then], [now]).decision == "inconclusive"


def test_the_other_way_round_is_a_growth_where_either_direction_is_damage() -> None:
    metric = "traits.yes_bias"
    then = finding(metric, "fail", difference=5.0, interval=(4.8, 5.2))
    near, opposite = (replace(then, difference=v, interval=(v - 0.2, v + 0.2)) for v in (5.5, -5.0))
    assert verdict_by("new", [then], [near]).decision == "pass"
    assert verdict_by("new", [then], [opposite]).decision == "fail"


def test_what_is_not_testable_in_both_is_excused_and_what_became_inconclusive_is_not() -> None:
    blind = replace(finding("refusal.harmful", "pass"), decision="not testable", note="the base is at 0")
    assert decide([blind]).decision == "inconclusive"
    other = finding("preference.margin", "pass")
    assert verdict_by("new", [blind, other], [blind, other]).decision == "pass"
    assert verdict_by("new", [blind, other], [finding("refusal.harmful", "inconclusive"), other]).decision != "pass"
    allowed = replace(blind, allowed=True)
    assert changes_since([allowed], [allowed]) == ()
    assert [c.state for c in changes_since([allowed], [blind])] == ["new"]


# --- what is said ---------------------------------------------------------------------------------------


def test_the_note_names_what_was_let_through_with_both_worsenings() -> None:
    baseline = [
        finding("refusal.harmful", "fail"),
        finding("preference.margin", "inconclusive"),
    ]
    now = [
        finding("refusal.harmful", "fail", difference=-0.11, interval=(-0.135, -0.085)),
        finding("preference.margin", "inconclusive", difference=0.09, interval=(0.04, 0.14)),
        finding("preference.margin:own", "inconclusive"),
    ]
    verdict = verdict_by("new", baseline, now)
    assert verdict.decision == "inconclusive"
    assert [reason.partition(" ")[0] for reason in verdict.reasons] == ["preference.margin:own"]
    assert verdict.note == (
        "let through by --fail-on new, no better in the baseline runs/a: "
        "refusal.harmful (fail at +0.110, was fail at +0.100, grown by [-0.025, +0.045]); "
        "preference.margin (inconclusive at +0.090, was inconclusive at +0.100, grown by [-0.081, +0.061])"
    )


def test_a_metric_without_a_number_has_no_worsening() -> None:
    absent = finding("refusal.harmful", "inconclusive", items=0, difference=0.0)
    (change,) = changes_since([absent], [absent])
    assert (change.worse_before, change.worse_after) == (None, None)
    assert change.text == "inconclusive, was inconclusive"
    (fresh,) = changes_since([], [finding("drift.kl", "fail", decides=True)])
    assert fresh.text == "fail at +6.000, was not decided on"


def test_an_earlier_note_stays_and_nothing_obeys_a_name() -> None:
    bad = [finding("refusal.harmful", "fail")]
    held = since(bad, bad, run="runs/\x1b[31m\n", unmeasured=("preference.margin:\x07",))
    verdict = decide_since(Verdict("fail", ("x",), "mind this"), bad, held)
    assert verdict.decision == "pass"
    assert verdict.note.startswith("mind this; let through")
    assert verdict.note.isprintable()
    assert verdict.note.endswith("was not measured now: preference.margin:\\x07")


def test_a_pass_stays_one_and_nothing_that_decides_stays_inconclusive() -> None:
    unsettled = [finding("refusal.harmful", "inconclusive")]
    settled = [finding("refusal.harmful", "pass")]
    assert decide_since(decide(settled), settled, since(settled, settled)) == decide(settled)
    same, held = decide(unsettled, identical=True), since(unsettled, unsettled)
    assert still_nothing_compared(same, decide_since(same, unsettled, held)).decision == "inconclusive"
    silent = [finding("refusal.harmful", "fail", decides=False)]
    assert decide_since(decide(silent), silent, since(silent, silent)).decision == "inconclusive"


def test_it_reads_back_from_json() -> None:
    held = SinceBaseline(
        "runs/a",
        "new",
        (
            Change("refusal.harmful", "new", None, "fail", None, 0.5),
            Change("preference.margin", "fixed", "fail", "pass", 0.4, -0.1, (-0.6, -0.4), 0.1),
            Change("drift.kl", "persistent", "fail", "inconclusive", 1.0, 0.25),
        ),
        ("traits.score:own",),
    )
    document = json.loads(json.dumps(held.as_dict()))
    assert list(document) == ["run", "fail_on", "new", "fixed", "persistent", "unmeasured"]
    assert document["fixed"] == [
        {
            "metric": "preference.margin",
            "before": "fail",
            "after": "pass",
            "worse_before": 0.4,
            "worse_after": -0.1,
            "grown": [-0.6, -0.4],
            "tolerance": 0.1,
        }
    ]
    assert SinceBaseline.from_dict(document) == held
    assert held.tally == "1 new, 1 fixed, 1 persistent"


# --- a stored audit -------------------------------------------------------------------------------------

BASE = {"spec": "base-model", "dtype": "float32", "weights_sha256": "ab" * 32, "template_sha256": "cd" * 32}


def _word(findings: Any) -> str:
    """The verdict that findings make, where they are any."""
    try:
        return decide([Finding.from_dict(f) for f in findings]).decision
    except (TypeError, KeyError, ValueError, OverflowError):
        return "fail"


@pytest.fixture
def stored(tmp_path: Path) -> Callable[..., Path]:
    """Writes what an audit leaves; ``manifest`` and ``document`` change it."""

    def write(manifest: dict[str, Any] | None = None, document: dict[str, Any] | None = None) -> Path:
        folder = tmp_path / "earlier"
        folder.mkdir(exist_ok=True)
        policy = Policy().model_dump()
        facts = {
            "verb": "audit", "status": "finished", "fingerprint": "x", "config": {"policy": policy}, "versions": {},
        }  # fmt: skip
        findings = [finding("refusal.harmful", "fail"), finding("preference.share", "fail")]
        found = {"findings": [f.as_dict() for f in findings], "breakdowns": [], "base": {**BASE, "kind": "folder"}}
        (folder / "manifest.json").write_text(json.dumps({**facts, **(manifest or {})}), "utf-8")
        stored = {**found, "reasons": [], "note": "", **(document or {})}
        (folder / "verdict.json").write_text(json.dumps({"verdict": _word(stored["findings"]), **stored}), "utf-8")
        return folder

    return write


def test_a_baseline_is_read_and_known_by_its_content(stored: Callable[..., Path], tmp_path: Path) -> None:
    folder = stored()
    baseline = read_baseline(folder, Policy())
    assert [f.metric for f in baseline.findings] == ["refusal.harmful", "preference.share"]
    moved = folder.rename(tmp_path / "elsewhere")
    assert read_baseline(moved, Policy()).content == baseline.content
    other = stored(document={"findings": [finding("refusal.harmful", "pass").as_dict()]})
    assert read_baseline(other, Policy()).content != baseline.content
    now = [finding("preference.margin", "pass")]
    assert baseline.since(now, "any").unmeasured == ("refusal.harmful",)
    assert baseline.since([finding("refusal.harmful", "pass")], "any").unmeasured == ()
    assert read_baseline(other, Policy()).since(now, "any").unmeasured == ()


def test_a_metric_of_another_version_is_told_where_it_did_not_pass(stored: Callable[..., Path]) -> None:
    retired = {**finding("refusal.harmful", "fail").as_dict(), "metric": "refusal.of_old"}
    baseline = read_baseline(stored(document={"findings": [retired]}), Policy())
    assert baseline.since([], "any").unmeasured == ("refusal.of_old",)


def _broken(**changes: Any) -> dict[str, Any]:
    return {"findings": [{**finding("refusal.harmful", "fail").as_dict(), **changes}]}


@pytest.mark.parametrize(
    ("manifest", "document", "says"),
    [
        ({"verb": "measure"}, {}, "a run of `measure`"),
        ({"status": "running"}, {}, "not brought to its end"),
        ({"config": {}}, {}, "its files are incomplete"),
        ({"config": []}, {}, "no readable manifest.json"),
        ({}, {"findings": 3}, "its files are incomplete"),
        ({}, {"findings": [{}]}, "a finding in its verdict.json is broken"),
        ({}, {"base": {}}, "its files are incomplete"),
        ({}, _broken(decision="fine"), "a finding in its verdict.json is broken"),
        ({}, _broken(difference="0.2"), "a finding in its verdict.json is broken"),
        ({}, _broken(difference=float("nan")), "a finding in its verdict.json is broken"),
        ({}, _broken(difference=10**400), "a finding in its verdict.json is broken"),
        ({}, _broken(decides="yes"), "a finding in its verdict.json is broken"),
        ({}, _broken(metric=["x"]), "a finding in its verdict.json is broken"),
        ({}, _broken(worse="sideways"), "a finding in its verdict.json is broken"),
        ({}, _broken(decision="pass"), "contradicts itself: refusal.harmful is pass, but its interval"),
        ({}, {"verdict": "pass"}, "contradicts itself: it says pass, its findings make it fail"),
        ({}, {"verdict": "pass", "findings": [finding("refusal.harmful", "fail", tolerance=9.0).as_dict()]}, "is fail"),
    ],
)
def test_what_is_no_finished_audit_is_refused(
    manifest: dict[str, Any], document: dict[str, Any], says: str, stored: Callable[..., Path]
) -> None:
    with pytest.raises(OutputError, match="holds no finished audit") as caught:
        read_baseline(stored(manifest, document), Policy())
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe{}", b"[]", b"null", b"[" * 100_000])
@pytest.mark.parametrize("name", ["manifest.json", "verdict.json"])
def test_broken_files_are_refused(name: str, content: bytes, stored: Callable[..., Path]) -> None:
    folder = stored()
    (folder / name).write_bytes(content)
    with pytest.raises(OutputError, match="holds no finished audit"):
        read_baseline(folder, Policy())


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ({"confidence": 0.9}, "confidence was 0.95, is 0.9"),
        ({"minimum_clusters": 12}, "minimum_clusters was 10, is 12"),
        ({"tolerances": {"refusal.harmful": 0.5}}, "tolerance of refusal.harmful was 0.05, is 0.5"),
        ({"decides": {"refusal.harmful": False}}, "refusal.harmful informs, decided then"),
        ({"decides": {"preference.share": True}}, "preference.share decides, informed then"),
    ],
)
def test_decisions_by_other_rules_are_refused(policy: dict[str, Any], says: str, stored: Callable[..., Path]) -> None:
    folder = stored()
    assert finding("refusal.harmful", "fail").tolerance == 0.05
    with pytest.raises(PolicyError) as caught:
        read_baseline(folder, Policy(**policy))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "policy", [{"tolerances": {"preference.share": 0.5}}, {"tolerances": {"preference.margin": 0.5}}, {"tolerances": {"refusal.harmful": 0.05}}]
)  # fmt: skip
def test_rules_that_decided_nothing_there_may_differ(policy: dict[str, Any], stored: Callable[..., Path]) -> None:
    assert read_baseline(stored(), Policy(**policy)).findings


def test_another_base_is_refused_and_named(stored: Callable[..., Path]) -> None:
    baseline = read_baseline(stored(), Policy())
    baseline.refuse_other_base({**BASE, "spec": "the same by another name"})
    for key, what in (("weights_sha256", "other weights"), ("template_sha256", "another chat template")):
        with pytest.raises(SubjectError, match=f"against a base with {what} ") as caught:
            baseline.refuse_other_base({**BASE, "spec": "other", key: "ef" * 32})
        assert f"{BASE[key][:12]}; now other float32 {'ef' * 6})" in str(caught.value)


@pytest.mark.parametrize(("key", "what"), [("config_sha256", "configuration"), ("tokenizer_sha256", "tokenizer")])
def test_settings_of_the_base_count_where_both_are_known(key: str, what: str, stored: Callable[..., Path]) -> None:
    older = read_baseline(stored(), Policy())
    older.refuse_other_base({**BASE, key: "a" * 64})  # made before there was such a digest
    baseline = replace(older, base={**older.base, key: "a" * 64})
    baseline.refuse_other_base({**BASE, key: "a" * 64})
    baseline.refuse_other_base(BASE)
    with pytest.raises(SubjectError, match=f"against a base with another {what} "):
        baseline.refuse_other_base({**BASE, key: "b" * 64})


def test_a_run_is_not_its_own_baseline(stored: Callable[..., Path], tmp_path: Path) -> None:
    folder = stored()
    baseline = read_baseline(folder, Policy())
    (tmp_path / "link").symlink_to(folder)
    baseline.refuse_this_run(tmp_path / "next")
    for same in (folder, tmp_path / "link", folder / ".." / folder.name):
        with pytest.raises(AftertuneError, match="is the folder of this very run"):
            baseline.refuse_this_run(same)
