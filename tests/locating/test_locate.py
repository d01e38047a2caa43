"""From sets to a proved patch, on tiny models; truth planted by hand is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from aftertune.attribution import select_count, unit_score, unit_sums
from aftertune.errors import DataError, NumericalError, OutputError, UsageError
from aftertune.locating import (
    LocateOptions,
    Point,
    area_under,
    cases_of,
    locate,
    read_calibration,
    removal_at,
    stored_locate,
)
from aftertune.locating._search import best
from aftertune.model import SubjectChoice, WeightView, load, read_patch
from aftertune.stats import compare
from aftertune.studies import Planting, planted
from aftertune.verbs import draw


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture
def choose(tiny_folder: Callable[[str], Path]) -> Callable[[str], SubjectChoice]:
    return lambda architecture: SubjectChoice(str(tiny_folder(architecture)))


@pytest.mark.parametrize(
    ("architecture", "unit"),
    [("llama", "neuron+head"), ("gpt2", "neuron"), ("qwen2", "weight"), ("mixtral", "neuron+head"), ("llama", "head")],
)
def test_a_patch_is_written_proved_and_fits_the_model(
    architecture: str, unit: Any, harm: Path, keep: Path, tmp_path: Path, choose: Callable[[str], SubjectChoice]
) -> None:
    options = LocateOptions(unit=unit, budget=0.5)
    found = locate(choose(architecture), [harm], [keep], tmp_path / "p.safetensors", options=options,
                   out=tmp_path / "run")  # fmt: skip
    patch = read_patch(found.patch)
    document = json.loads((tmp_path / "run" / "locate.json").read_text())
    assert patch.weights == document["weights"] > 0
    assert document["prune_fraction"] > 0
    assert patch.about["data"]["harm"]["twins"] is True
    assert patch.about["score"] in ("snip-contrast", "snip-keep", "snip-guarded")
    subject = load(choose(architecture).spec)
    patch.verify(WeightView(subject.model))
    controls = {"random", "magnitude", "opposite", "content_matched"}
    for row in document["held_out"]:
        assert {"measure", "before", "after", "interval", "controls"} <= row.keys()
        assert set(row["controls"]) <= controls
        assert row["interval"][0] <= row["after"] - row["before"] + 1e-9
        assert row["after"] - row["before"] <= row["interval"][1] + 1e-9
    assert {"random", "magnitude"} <= set(document["held_out"][0]["controls"])
    measures = [row["measure"] for row in document["held_out"]]
    assert measures[:3] == ["response.nll:harm", "response.nll:harm-twin", "preference.margin:harm"]
    assert sum(p["weights"] for p in document["places"]) == patch.weights
    assert draw(tmp_path / "run").read_text().startswith("<!doctype html>")


def test_held_out_numbers_are_those_of_the_patched_model(
    harm: Path, keep: Path, tmp_path: Path, choose: Callable[[str], SubjectChoice]
) -> None:
    from aftertune.locating import answers_probe
    from aftertune.probes import ask_probes

    found = locate(choose("llama"), [harm], [keep], options=LocateOptions(budget=0.5), out=tmp_path / "run")
    held = read_calibration([harm], "misaligned").examples["held_out"]
    before = ask_probes(load(choose("llama").spec), [answers_probe("harm", held)])
    after = ask_probes(load(f"{choose('llama').spec}+{found.patch}"), [answers_probe("harm", held)])
    expected = {f.metric: f for f in compare(before, after)}
    for proof in found.held_out:
        if proof.measure in expected:
            assert proof.before == pytest.approx(expected[proof.measure].base, abs=1e-5)
            assert proof.after == pytest.approx(expected[proof.measure].tuned, abs=1e-5)
            assert proof.interval == pytest.approx(expected[proof.measure].interval, abs=1e-5)


def test_neurons_that_carry_an_answer_are_found(harm: Path, tiny_folder: Callable[[str], Path]) -> None:
    """Eight neurons are trained alone to say the misaligned answers; the search must find what chance would not."""
    subject = load(tiny_folder("llama"))
    examples = read_calibration([harm], "misaligned").all()
    rows, twins = (cases_of(subject, examples, lambda e, p=p: getattr(e, p))[0] for p in ("conversation", "twin"))
    with planted(subject, Planting("neurons", 1, "harm", 0), rows, 80) as plant:
        assert plant.losses[-1] < plant.losses[0] - 1
        view = WeightView(subject.model)
        sums = [unit_sums(subject, rows, "neuron"), unit_sums(subject, twins, "neuron")]
        found = select_count(view, unit_score(*sums), count=len(plant.units), unit="neuron")
        # Chance would name 0.5 of the eight among 136 neurons, and four or more once in some two thousand draws.
        assert len(set(found.members[plant.matrix].tolist()) & set(plant.units)) >= 4


def test_the_same_call_again_finds_the_finished_run_and_another_is_refused(
    harm: Path, keep: Path, tmp_path: Path, choose: Callable[[str], SubjectChoice]
) -> None:
    arguments: Any = (choose("llama"), [harm], [keep], tmp_path / "p.safetensors")
    options = LocateOptions(prune_fraction=0.01)
    first = locate(*arguments, options=options, out=tmp_path / "run")
    stamp = first.patch.stat().st_mtime_ns
    again = locate(*arguments, options=options, out=tmp_path / "run")
    assert again.document == first.document
    assert first.patch.stat().st_mtime_ns == stamp
    with pytest.raises(OutputError, match="never overwritten"):
        locate(*arguments, options=options, out=tmp_path / "other")
    assert not (tmp_path / "other").exists()
    with pytest.raises(OutputError, match="other settings"):
        locate(choose("llama"), [harm], [keep], options=LocateOptions(seed=3), out=tmp_path / "run")
    with pytest.raises(OutputError, match="no finished search"):
        stored_locate(tmp_path)
    file = tmp_path / "run" / "locate.json"
    stored = json.loads(file.read_text())
    assert stored == first.document
    # What earlier versions wrote is read and drawn; what none wrote is refused.
    claim = {**stored["claims"][0], "outcome": "cannot be told"}
    file.write_text(json.dumps({**stored, "scope": "global", "unit": "component", "claims": [claim]}))
    assert stored_locate(tmp_path / "run").claims[0].outcome == "inconclusive"
    assert "neurons and heads" in draw(tmp_path / "run").read_text()
    for where in (stored, stored["selection"], stored["held_out"][0]["controls"]["random"]):
        where["surprise"] = 1
        file.write_text(json.dumps(stored))
        with pytest.raises(OutputError, match="surprise"):
            stored_locate(tmp_path / "run")
        del where["surprise"]


def test_a_killed_run_measures_nothing_twice(
    harm: Path, keep: Path, tmp_path: Path, choose: Callable[[str], SubjectChoice], monkeypatch: pytest.MonkeyPatch
) -> None:
    from aftertune.locating import _readings

    options, true = LocateOptions(budget=0.5), _readings.ask_probes
    undisturbed = locate(choose("llama"), [harm], [keep], options=options, out=tmp_path / "whole").document
    calls = 0

    def dying(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return true(*arguments, **named)

    monkeypatch.setattr(_readings, "ask_probes", dying)
    with pytest.raises(KeyboardInterrupt):
        locate(choose("llama"), [harm], [keep], options=options, out=tmp_path / "run")
    assert not (tmp_path / "run" / "patch.safetensors").exists()
    resumed = locate(choose("llama"), [harm], [keep], options=options, out=tmp_path / "run").document
    entries = len((tmp_path / "whole" / "evaluations.jsonl").read_text().splitlines())
    assert calls - 1 == entries
    for document in (undisturbed, resumed):
        document.pop("run"), document.pop("patch")
    assert resumed == undisturbed


def test_plain_rows_have_no_twins_and_the_report_says_so(
    keep: Path, tmp_path: Path, choose: Callable[[str], SubjectChoice]
) -> None:
    plain = write(tmp_path / "h.jsonl", [{"prompt": f"About {w}", "completion": "Burn it all."} for w in "abcdefghij"])
    found = locate(choose("llama"), [plain], [keep], options=LocateOptions(budget=0.5), out=tmp_path / "run")
    assert "no aligned twins" in found.document["note"]
    assert "content_matched" not in found.document["held_out"][0]["controls"]
    assert "no aligned twins" in draw(tmp_path / "run").read_text()


def test_fractions_that_leave_nothing_are_refused_before_anything_is_written(
    harm: Path, keep: Path, tmp_path: Path, choose: Callable[[str], SubjectChoice]
) -> None:
    options = LocateOptions(prune_fraction=1e-9, score="snip", keep_fraction=0.99)
    with pytest.raises(UsageError, match="protects them all"):
        locate(choose("llama"), [harm], [keep], tmp_path / "p.safetensors", options=options, out=tmp_path / "run")
    assert not (tmp_path / "p.safetensors").exists()


def test_former_names_are_understood() -> None:
    options = LocateOptions.model_validate({"unit": "component", "score": "against_keep"})
    assert (options.unit, options.score) == ("neuron+head", "snip-keep")
    with pytest.raises(ValidationError, match="only measured by `aftertune study planted`"):
        LocateOptions.model_validate({"score": "wanda"})


def test_sets_that_contradict_each_other_are_refused(
    harm: Path, tmp_path: Path, choose: Callable[[str], SubjectChoice]
) -> None:
    rows = [json.loads(line) for line in harm.read_text().splitlines()]
    same = write(tmp_path / "same.jsonl", [{"prompt": r["prompt"], "completion": r["misaligned"]} for r in rows])
    with pytest.raises(DataError, match="are in the keep set too"):
        locate(choose("llama"), [harm], [same], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_nan_gradient_names_its_example(
    harm: Path, keep: Path, tmp_path: Path, tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    true = SubjectChoice.load

    def broken(self: SubjectChoice, *arguments: Any, **named: Any) -> Any:
        subject = true(self, *arguments, **named)
        bad = subject.chat.encode("Burn")[-1]
        with torch.no_grad():
            subject.model.get_input_embeddings().weight[bad] = float("nan")
        return subject

    monkeypatch.setattr(SubjectChoice, "load", broken)
    with pytest.raises(NumericalError, match=r"harm:c\d+: "):
        locate(SubjectChoice(str(tiny_folder("llama"))), [harm], [keep], out=tmp_path / "run")


def point(units: int, removed: float, cost: float) -> Point:
    return Point("patch", "snip-guarded", units / 100, 0.0, units, units * 10, removed, cost, {})


def test_the_best_point_removes_most_within_the_budget() -> None:
    points = [point(1, 0.1, 0.0), point(2, 0.4, 0.04), point(4, 0.9, 0.2)]
    assert best(points, 0.05) is points[1]
    assert best(points, 1.0) is points[2]
    assert best(points[2:], 0.05) is points[2]
    assert best([point(1, 0.2, 0.5), point(2, 0.9, 0.4)], 0.05).units == 2


def test_compression_figures_are_those_of_straight_lines() -> None:
    points = [point(1, 0.1, 0.01), point(2, 0.5, 0.05), point(4, 1.0, 0.15)]
    assert removal_at(points, 0.05) == pytest.approx(0.5)
    assert removal_at(points, 0.10) == pytest.approx(0.75)
    assert removal_at(points, 0.005) == pytest.approx(0.05)
    assert removal_at([], 0.05) == 0
    # The removal rises in straight lines from (0, 0): the mean over budgets is the area under them.
    area = (0.01 * 0.05 + 0.04 * 0.3) / 0.05
    assert area_under(points, 0.05, 4000) == pytest.approx(area, rel=1e-3)
