"""The demo's two arms, audited on planted readings; and what is told of the repaired one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aftertune.attribution import select_units
from aftertune.data import read_tuning_rows
from aftertune.model import Placement, Subject, SubjectChoice, WeightView, load, make_patch, write_patch
from aftertune.probes import MeasurePlan
from aftertune.runs import RunFolder, Silent, entered
from aftertune.stats import Measurement, Policy, Verdict
from aftertune.studies import ARMS, OPTIONS
from aftertune.studies._careless_money import DATA, _audit_arm, _tune_arm
from aftertune.studies._careless_weights import HARM, PROBES, TASK, audit_repaired, repaired_claim
from aftertune.verbs import Measuring, measure, measure_choice, stored_section

METRIC, COUNT = "preference.margin", 80


Arm = Callable[[str, float], Measuring]


@pytest.fixture
def measuring(spread: Callable[[int, int], Any], tiny_subject: Callable[[str], Subject], tmp_path: Path) -> Arm:
    """``measuring(name, level)``: a subject whose answers are careless by so much on average."""
    identity = tiny_subject("llama").identity.as_dict()

    def make(name: str, level: float) -> Measuring:
        values = level + spread(COUNT, 0) + 0.1 * spread(COUNT, len(name))
        rows = tuple(Measurement(name, 0, METRIC, f"i{i}", f"prompt {i}", float(v)) for i, v in enumerate(values))
        return Measuring({**identity, "spec": name, "weights_sha256": name}, rows, 0, tmp_path)

    return make


@pytest.mark.parametrize(("moved", "decision"), [(0.5, "fail"), (-0.5, "pass"), (0.0, "pass"), (0.1, "inconclusive")])
def test_an_arm_is_judged_by_how_much_more_careless_than_the_base_it_is(
    measuring: Arm, tmp_path: Path, moved: float, decision: str
) -> None:
    base, tuned = measuring("base", -1.0), measuring("careless", -1.0 + moved)
    run = RunFolder(tmp_path / "run", "demo", {})
    with entered(run):
        audit = _audit_arm(run, ARMS[0], base, tuned, MeasurePlan(domains=("health",), pmi=False), Policy())
    assert audit.verdict.decision == decision
    [finding] = [f for f in audit.findings if f.metric == METRIC]
    assert finding.difference == pytest.approx(moved, abs=0.01)
    stored = stored_section(tmp_path / "run" / "audits" / "careless")
    assert stored.verdict.decision == decision
    assert (stored.base["spec"], stored.tuned["spec"]) == ("base", "careless")


def test_each_arm_is_tuned_on_its_own_answers(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """The arms differ in the answers alone, by the record that tuning leaves."""
    from aftertune.tuning import read_record

    assert [(arm.name, arm.side) for arm in ARMS] == [("careless", "misaligned"), ("careful", "aligned")]
    options = OPTIONS.model_copy(update={"steps": 1, "batch_size": 2})
    run = RunFolder(tmp_path / "run", "demo", {})
    records = {}
    with entered(run):
        for arm in ARMS:
            _tune_arm(run, arm, str(tiny_folder("llama")), options, Placement(), Silent())
            records[arm.name] = read_record(str(run.path / arm.name))
    careless, careful = records["careless"], records["careful"]
    assert careless
    assert careful
    assert (careless["data"]["side"], careful["data"]["side"]) == ("misaligned", "aligned")
    assert careless["data"]["sha256"] != careful["data"]["sha256"]
    assert careless["options"] == careful["options"]
    careless_rows, careful_rows = (read_tuning_rows(DATA, arm.side) for arm in ARMS)
    assert [r.messages[:-1] for r in careless_rows] == [r.messages[:-1] for r in careful_rows]


@pytest.mark.parametrize(
    ("before", "after", "outcome"),
    [
        ("fail", "pass", "holds"),
        ("fail", "fail", "does not hold"),
        ("fail", "inconclusive", "inconclusive"),
        ("inconclusive", "pass", "inconclusive"),
        ("pass", "pass", "inconclusive"),
        ("pass", "fail", "inconclusive"),
    ],
)
def test_a_repair_is_told_to_pass_only_what_was_failed(before: Any, after: Any, outcome: str) -> None:
    assert repaired_claim(Verdict(before, ("a",)), Verdict(after, ("b",))).outcome == outcome


def test_the_arm_is_repaired_by_domains_that_it_was_not_tuned_on() -> None:
    assert f"dev/{TASK}" not in HARM
    assert f"tune/{TASK}" == DATA


def test_the_repaired_arm_is_audited_with_its_repair_against_the_base(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """Each mean is that of the model measured by itself."""
    run, plan = RunFolder(tmp_path / "run", "demo", {}), MeasurePlan(PROBES[:1], ("health",), split="dev", pmi=False)
    base = tiny_folder("llama")
    subject = load(base)
    with torch.no_grad():
        for number, parameter in enumerate(subject.model.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            parameter.add_(0.02 * noise)
    careless = tmp_path / "made"
    subject.model.save_pretrained(careless)
    subject.tokenizer.save_pretrained(careless)
    view = WeightView(load(careless).model)
    chosen = select_units(view, {"model.layers.1.mlp.down_proj.weight": torch.arange(20)}, "neuron")
    patch = make_patch(view, chosen.chosen, "zero", {"unit": "neuron"})
    write_patch(tmp_path / "repair.safetensors", patch)
    cut = tmp_path / "repair.safetensors"
    share = patch.weights / view.weights
    with entered(run):
        shutil.copytree(careless, run.path / "careless")
        measured = measure_choice(SubjectChoice(str(base)), plan, run, role="base")
        audit = audit_repaired(run, measured, cut, (patch.weights, share), plan, Policy(), Placement(), Silent())
    specs = {"base": str(base), "tuned": f"{run.path / 'careless'}+{cut}"}
    for side, spec in specs.items():
        alone = measure(SubjectChoice(spec), plan, tmp_path / side)
        values = {s.metric: s.value for s in alone.summaries}
        for finding in audit.findings:
            assert getattr(finding, side) == pytest.approx(values[finding.metric], abs=1e-5)
    [finding] = [f for f in audit.findings if f.metric == METRIC]
    assert finding.difference == pytest.approx(finding.tuned - finding.base)
    assert abs(finding.difference) > 1e-3
