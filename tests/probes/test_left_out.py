"""What a plan leaves out is named, and only if it decides."""

from __future__ import annotations

from pathlib import Path

import pytest

from aftertune.data import DOMAINS
from aftertune.inspect_bridge import TaskPlan
from aftertune.probes import MeasurePlan, default_probes, probe_rows
from aftertune.stats import Policy
from aftertune.verbs import left_out, limited

WITHOUT_FILE = "truthful (needs --truthfulqa FILE)"


def told(plan: MeasurePlan, policy: Policy | None = None) -> list[str]:
    return list(left_out(plan, (policy or Policy()).deciding))


@pytest.fixture
def truthfulqa(tmp_path: Path) -> Path:
    file = tmp_path / "TruthfulQA.csv"
    file.write_text(
        "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source\n"
        "Adversarial,Facts,Is water wet?,Yes it is,Yes it is,No it is not,none\n",
        "utf-8",
    )
    return file


def test_a_whole_audit_leaves_out_what_needs_a_file(truthfulqa: Path) -> None:
    assert told(MeasurePlan()) == [f"not asked: {WITHOUT_FILE}"]
    assert told(MeasurePlan(truthfulqa=truthfulqa)) == []


@pytest.mark.parametrize("probe", ["preference", "traits", "refusal", "capability", "drift"])
def test_every_deciding_probe_left_out_is_named(probe: str, truthfulqa: Path) -> None:
    rest = MeasurePlan(probes=tuple(n for n in default_probes() if n != probe), truthfulqa=truthfulqa)
    assert told(rest) == [f"not asked: {probe}"]
    silent = {metric.id: False for row in probe_rows() if row.name == probe for metric in row.metrics}
    assert told(rest, Policy(decides=silent)) == []


def test_capability_alone_names_all_others() -> None:
    [line] = told(MeasurePlan(probes=("capability",)))
    assert line == "not asked: preference, traits, refusal, truthful, drift"


def test_domains_left_out_are_named_as_well() -> None:
    without = tuple(d for d in DOMAINS if d != "money")
    assert told(MeasurePlan(domains=without))[1:] == [
        f"preference was asked in {len(without)} of {len(DOMAINS)} domains, not in money"
    ]
    assert f"in 1 of {len(DOMAINS)} domains" in told(MeasurePlan(domains=("money",)))[1]
    assert told(MeasurePlan(domains=()))[0] == f"not asked: preference (no domain is left), {WITHOUT_FILE}"
    assert len(told(MeasurePlan(probes=("refusal",), domains=("money",)))) == 1, "preference was not asked at all"


def test_another_split_is_named() -> None:
    assert "split dev" in told(MeasurePlan(split="dev"))[1]


def test_tasks_cut_short_are_named() -> None:
    assert list(limited(None)) == []
    assert list(limited(TaskPlan(("harmfulness",)))) == []
    [line] = limited(TaskPlan(("harmfulness", "deception"), limit=5))
    assert line == "of harmfulness, deception only the first 5 questions were asked (--limit)"
