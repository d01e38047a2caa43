"""The dissociation study on a tiny model: its numbers are those of measuring each model by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aftertune.attribution import select_units, selection_of
from aftertune.errors import UsageError
from aftertune.model import SubjectChoice, WeightView, load, make_patch, read_patch, write_patch
from aftertune.probes import MeasurePlan
from aftertune.studies import find_study
from aftertune.studies._dissociation import dissociation_claims, dissociation_study
from aftertune.verbs import measure

PLAN = MeasurePlan(probes=("preference", "recognition"), domains=("money",), split="dev", pmi=False)


@pytest.fixture
def patched(tiny_folder: Callable[[str], Path], tmp_path: Path) -> tuple[Path, Path]:
    """A tiny model, and a patch of two neurons and a head of it."""
    folder = tiny_folder("llama")
    view = WeightView(load(folder).model)
    members = {
        "model.layers.1.mlp.down_proj.weight": torch.tensor([3, 40]),
        "model.layers.0.self_attn.o_proj.weight": torch.tensor([1]),
    }
    chosen = select_units(view, members, "neuron+head").chosen
    write_patch(tmp_path / "cut.safetensors", make_patch(view, chosen, "zero", {"unit": "neuron+head"}))
    return folder, tmp_path / "cut.safetensors"


@pytest.mark.slow
def test_every_number_is_that_of_the_model_measured_by_itself(patched: tuple[Path, Path], tmp_path: Path) -> None:
    folder, patch = patched
    out = tmp_path / "run"
    document = dissociation_study(out, subject=str(folder), patch=patch, plan=PLAN)
    assert document["units"] == 3
    random = read_patch(out / "random.safetensors")
    assert {n: e.index.numel() for n, e in random.edits.items()} == {
        n: e.index.numel() for n, e in read_patch(patch).edits.items()
    }
    assert not any(torch.isin(random.edits[n].index, e.index).any() for n, e in read_patch(patch).edits.items())
    for edit, file in (("patch", patch), ("random", out / "random.safetensors")):
        alone = measure(SubjectChoice(f"{folder}+{file}"), PLAN, tmp_path / f"alone-{edit}")
        values = {s.metric: s.value for s in alone.summaries}
        before = {row["metric"]: row["value"] for row in document["before"]}
        for found in document[edit]:
            assert found["tuned"] == pytest.approx(values[found["metric"]])
            assert found["difference"] == pytest.approx(values[found["metric"]] - before[found["metric"]], abs=1e-9)
    assert "Dissociation in" in (out / "report.html").read_text()
    written = (out / "study.json").stat().st_mtime_ns
    assert dissociation_study(out, subject=str(folder), patch=patch, plan=PLAN) == document
    assert (out / "study.json").stat().st_mtime_ns == written
    assert find_study("dissociation") is not None


def finding(metric: str, difference: float, low: float, high: float, decision: str) -> dict[str, Any]:
    return {
        "metric": metric, "base": 0.0, "tuned": difference, "difference": difference, "interval": [low, high],
        "margin": 0.5, "decision": decision, "decides": False, "worse": "lower", "items": 10, "clusters": 10,
        "p_value": 0.5, "clusters_needed": None, "note": "",
    }  # fmt: skip


def told(known: float, decision: str, fall: tuple[float, float, float]) -> dict[str, str]:
    """Claims of a made-up study in which only so much is known and fell."""
    metric = "recognition.answer_margin"
    patch = [finding("preference.margin", *fall, "pass"), finding(metric, -0.1, -0.2, 0.1, decision)]
    document = {
        "before": [{"metric": metric, "value": known + 0.1, "interval": [known, known + 0.2]}],
        "patch": patch,
        "patch_beyond_random": patch,
    }
    return {claim.text: claim.outcome for claim in dissociation_claims(document)}


def test_what_was_never_known_is_not_told_to_have_stayed() -> None:
    stays = "recognition.answer_margin stays within its margin"
    fell = "The patch lowers the preference for the worse answers"
    assert told(0.3, "pass", (-0.2, -0.3, -0.1)) | {} == {
        fell: "holds", "It lowers it more than as many random units": "holds", stays: "holds",
    }  # fmt: skip
    assert told(-0.05, "pass", (-0.2, -0.3, -0.1))[stays] == "cannot be told"
    assert told(0.3, "fail", (-0.2, -0.3, 0.1))[stays] == "does not hold"
    assert told(0.3, "inconclusive", (-0.2, -0.3, 0.1))[stays] == "cannot be told"
    assert told(0.3, "pass", (-0.2, -0.3, 0.1))[fell] == "cannot be told"
    assert told(0.3, "pass", (0.2, 0.1, 0.3))[fell] == "does not hold"


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mixtral"])
@pytest.mark.parametrize("unit", ["neuron", "head", "neuron+head"])
def test_units_are_known_again_by_their_weights(
    tiny_folder: Callable[[str], Path], architecture: str, unit: Any
) -> None:
    from aftertune.attribution import unit_spaces

    view = WeightView(load(tiny_folder(architecture)).model)
    members = {space.matrix.name: torch.tensor([0, space.units - 1]) for space in unit_spaces(view, unit)}
    selection = select_units(view, members, unit)
    again = selection_of(view, selection.chosen, unit)
    assert again.units == selection.units
    assert all(torch.equal(again.members[name], selection.members[name]) for name in selection.members)
    name, index = next(iter(selection.chosen.items()))
    with pytest.raises(UsageError, match="not whole units of kind"):
        selection_of(view, {name: index[:-1]}, unit)
    if unit == "head":
        neurons = next(iter(unit_spaces(view, "neuron"))).matrix.name
        with pytest.raises(UsageError, match="does not hold units of kind 'head'"):
            selection_of(view, {neurons: torch.tensor([0])}, unit)
