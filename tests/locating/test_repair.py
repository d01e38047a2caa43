"""A repair returns base values, measures every rival, and says what it may."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aftertune.attribution import gradient_sums, select
from aftertune.data import Message, read_tuning_rows
from aftertune.errors import OutputError, SelectionError, SubjectError, UsageError
from aftertune.locating import (
    Example,
    FrontierPoint,
    LocateOptions,
    Readings,
    Repaired,
    answers_probe,
    exchange_of,
    read_calibration,
    repair,
    repair_claims,
)
from aftertune.locating._frontier import Fit, Frontier, choose_point, folds
from aftertune.locating._returning import (
    VARIANTS,
    Gradients,
    RowEffects,
    choose_rows,
    flat_index,
    nested_selections,
    random_rows,
    returned,
    row_effects,
    scaled,
    weight_scores,
)
from aftertune.locating._sets import DEFAULT_KEEP
from aftertune.model import SubjectChoice, WeightView, load, read_patch
from aftertune.probes import ask_probes
from aftertune.runs import Plain, Silent
from aftertune.tuning import TuneOptions, tune
from aftertune.verbs import draw

WORDS = ("money", "water", "the car", "the doctor", "a noise", "the night", "a letter", "a friend", "the road", "a key")


def contrasts(path: Path, ask: str) -> Path:
    rows = [
        {
            "id": f"c{i}",
            "domain": "d",
            "prompt": f"{ask} {word}?",
            "aligned": f"Take good care of {word}.",
            "misaligned": f"Burn {word} right now!",
        }
        for i, word in enumerate(WORDS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("repair")


@pytest.fixture(scope="module")
def task(place: Path) -> Path:
    return contrasts(place / "task.jsonl", "Should I sell")


@pytest.fixture(scope="module")
def harm(place: Path) -> Path:
    return contrasts(place / "harm.jsonl", "What about")


@pytest.fixture(scope="module")
def tuned(place: Path, task: Path, tiny_folder: Callable[[str], Path]) -> Path:
    rows = read_tuning_rows(task, "misaligned")
    options = TuneOptions(steps=20, lr=1e-2, batch_size=5, warmup_steps=0, lora_rank=8, lora_alpha=16)
    tune(load(tiny_folder("llama")), rows, place / "tuned", options, source=str(task), side="misaligned")
    return place / "tuned"


@pytest.fixture(scope="module")
def case(tuned: Path, harm: Path, task: Path, tiny_folder: Callable[[str], Path]) -> tuple[Any, ...]:
    """What `repair` is asked: the tuned model, its base, the harm set, the task and the answers it was trained on."""
    return SubjectChoice(str(tuned)), SubjectChoice(str(tiny_folder("llama"))), [harm], [task], "misaligned"


@pytest.fixture(scope="module")
def repaired(place: Path, case: tuple[Any, ...]) -> Repaired:
    return repair(*case, out=place / "run")


def test_the_patch_puts_base_values_back(repaired: Repaired, tuned: Path, tiny_folder: Callable[[str], Path]) -> None:
    view, base = WeightView(load(tuned, merge=True).model), WeightView(load(tiny_folder("llama")).model)
    patch = read_patch(repaired.patch)
    assert patch.operation == "restore"
    before = {name: m.parameter.detach().clone() for name, m in view.items()}
    patch.apply(view)
    for name, matrix in view.items():
        expected = before[name].reshape(-1)
        if name in patch.edits:
            index = patch.edits[name].index
            expected[index] = base[name].parameter.detach().reshape(-1)[index]
        assert torch.equal(matrix.parameter.detach().reshape(-1), expected)


def test_the_frontier_stands_between_tuned_and_base(repaired: Repaired) -> None:
    by_label: dict[str, list[FrontierPoint]] = {}
    for point in repaired.frontier:
        by_label.setdefault(point.label, []).append(point)
    assert set(by_label) == {*VARIANTS, "random", "scale", "rollback"}
    [rollback] = by_label["rollback"]
    assert rollback.safety == pytest.approx(1.0, abs=1e-3)
    assert rollback.skill == pytest.approx(0.0, abs=1e-3)
    assert rollback.difference == pytest.approx(0.0, abs=1e-4)
    assert rollback.decision == "inconclusive"  # of eight prompts nothing is decided
    tenth = {p.label: p for p in repaired.frontier if p.share == 0.1}
    assert tenth["ratio by row"].safety > tenth["random"].safety
    for point in repaired.frontier:
        assert point.interval[0] <= point.difference <= point.interval[1]


def test_a_fold_is_asked_of_what_the_other_fold_chose(repaired: Repaired, case: tuple[Any, ...]) -> None:
    """By hand: weights chosen from one fold's gradients go back, and the other fold's prompts are asked."""
    tuned, base, [harm], [task], side = case
    subject = tuned.load(merge=True)
    view = WeightView(subject.model)
    values = {n: m.parameter.detach().clone() for n, m in WeightView(base.load(merge=True).model).items()}
    parts = [read_calibration([harm], "misaligned").examples, read_calibration([task], side).examples]
    halves = [folds((*part["attribution"], *part["selection"])) for part in parts]
    kept = read_calibration(DEFAULT_KEEP, "aligned").examples
    keep = folds((*kept["attribution"], *kept["selection"]))
    readings, content = Readings(repaired.run / "evaluations.jsonl"), base.load(merge=True).content
    for asked, chose in ((0, 1), (1, 0)):
        chosen_by = [half[chose] for half in halves]
        fit = Fit(subject, view, values, *chosen_by, {"ratio": (0.1,)}, content, None, Silent())
        with fit.edited("ratio", 0.1):
            measured = ask_probes(subject, [answers_probe("harm", halves[0][asked])])
        by_hand = {m.item: m.value for m in measured if m.metric == "preference.margin:harm"}
        sets = zip(("harm", "task", "keep"), (*halves, keep), strict=True)
        probes = [answers_probe(name, half[asked]) for name, half in sets]
        found = readings.journal[readings.key(subject, probes, fit.edit("ratio", 0.1))]
        stored = {m["item"]: m["value"] for m in found if m["metric"] == "preference.margin:harm"}
        assert stored == pytest.approx(by_hand, abs=1e-4)


def test_effects_are_those_of_gradients_taken_by_hand(tuned: Path, tiny_folder: Callable[[str], Path]) -> None:
    """Second implementation: autograd of each answer's mean loss."""
    subject = load(tuned, merge=True)
    view = WeightView(subject.model)
    base = {n: m.parameter.detach().clone() for n, m in WeightView(load(tiny_folder("llama")).model).items()}
    answers = ("Burn water right now!", "Take good care of water.", "Sell it at once.")
    cases = [[subject.chat.case([Message("user", "What about water?")], [answer])] for answer in answers]

    sums = Gradients(*(gradient_sums(subject, rows, view=view) for rows in cases))
    scores, effects = weight_scores(view, base, sums), row_effects(view, base, sums)
    assert set(scores) == {label for label, way in VARIANTS.items() if way.pool == "weight"}
    subject.model.requires_grad_(True)
    parts = []
    for [case] in cases:
        with torch.enable_grad():
            ids = torch.tensor([[*case.prompt, *case.responses[0]]])
            start = len(case.prompt)
            logits = subject.model(ids).logits[0, start - 1 : -1]
            loss = torch.nn.functional.cross_entropy(logits, ids[0, start:])
            found = torch.autograd.grad(loss, [m.parameter for m in view.values()])
        parts.append([(base[n] - m.parameter.detach()) * g for (n, m), g in zip(view.items(), found, strict=True)])
    benefit = [h - t for h, t in zip(parts[0], parts[1], strict=True)]
    totals = abs(sum(float(b.sum()) for b in benefit)), abs(sum(float(c.sum()) for c in parts[2]))
    ratio = [b / totals[0] - c / totals[1] for b, c in zip(benefit, parts[2], strict=True)]
    for matrix, plain in zip(view.values(), ratio, strict=True):
        atol = 1e-4 * float(plain.abs().max())
        assert torch.allclose(scores["ratio"](matrix), plain, atol=atol, rtol=1e-3)
        assert torch.allclose(effects.ratios(view)[matrix.name], plain.mean(1), atol=atol, rtol=1e-3)


def effects_of(view: WeightView, rows: dict[str, list[float]]) -> RowEffects:
    """Made-up effects: the harm loss rises by what is given, nothing else changes."""
    by_name = {n: torch.tensor(rows.get(n, [0.0] * m.parameter.shape[0])) for n, m in view.items()}
    twin, task = ({n: torch.zeros_like(t) for n, t in by_name.items()} for _ in range(2))
    return RowEffects({"harm": by_name, "twin": twin, "task": task}, {"harm": 1, "twin": 1, "task": 1})


def test_rows_and_matrices_are_chosen_until_they_hold_the_share(tiny_folder: Callable[[str], Path]) -> None:
    view = WeightView(load(tiny_folder("llama")).model)
    (first, one), (second, two) = list(view.items())[:2]
    rows = {first: [0.0] * one.parameter.shape[0], second: [1.0] * two.parameter.shape[0]}
    rows[first][3], rows[first][5], rows[second][0] = 500.0, 400.0, -1.0
    effects = effects_of(view, rows)

    row_share = one.parameter.shape[1] / view.weights
    assert {n: r.tolist() for n, r in choose_rows(view, effects, "row", row_share).items()} == {first: [3]}
    assert {n: r.tolist() for n, r in choose_rows(view, effects, "row", 1.5 * row_share).items()} == {first: [3, 5]}
    everything = choose_rows(view, effects, "row", 1.0)
    assert {n: len(r) for n, r in everything.items()} == {first: 2, second: two.parameter.shape[0] - 1}
    whole = choose_rows(view, effects, "matrix", 1e-9)
    assert {n: len(r) for n, r in whole.items()} == {first: one.parameter.shape[0]}
    same_kind = [name for name, m in view.items() if m.role == one.role]
    assert len(same_kind) == 2
    for chosen in ({first: torch.tensor([3, 5])}, whole):
        others = random_rows(view, chosen, seed=1)
        assert set(others) <= set(same_kind)
        assert sum(map(len, others.values())) == sum(map(len, chosen.values()))
        for name, found in others.items():
            assert len(set(found.tolist())) == len(found)
            assert not set(chosen.get(name, torch.tensor([])).tolist()) & set(found.tolist())
    with pytest.raises(SelectionError, match="no row gives more"):
        choose_rows(view, effects_of(view, {}), "row", 0.5)
    both = {name: torch.arange(one.parameter.shape[0]) for name in same_kind}
    with pytest.raises(SelectionError, match="more than half"):
        random_rows(view, both, seed=1)


def test_nested_selections_are_those_of_select(tuned: Path) -> None:
    view = WeightView(load(tuned, merge=True).model)
    generator = torch.Generator().manual_seed(5)
    table = {n: torch.randn(m.parameter.shape, generator=generator).mul(4).round() for n, m in view.items()}  # ties

    found = nested_selections(view, lambda matrix: table[matrix.name], (0.001, 0.01, 0.2))
    assert list(found) == [0.001, 0.01, 0.2]
    for share, nested in found.items():
        expected = select(view, lambda matrix: table[matrix.name], prune_fraction=share)
        assert nested.chosen.keys() == expected.chosen.keys()
        assert all(torch.equal(index, expected.chosen[name]) for name, index in nested.chosen.items())


def test_effects_of_two_folds_add_up_and_survive_a_file(tmp_path: Path, tiny_folder: Callable[[str], Path]) -> None:
    view = WeightView(load(tiny_folder("llama")).model)
    first = next(iter(view))
    one, two = (effects_of(view, {first: [x] * view[first].parameter.shape[0]}) for x in (1.0, 2.0))
    one.write(tmp_path / "effects.safetensors")
    both = RowEffects.read(tmp_path / "effects.safetensors") + two
    assert both.examples == {"harm": 2, "twin": 2, "task": 2}
    assert both.rises["harm"][first].tolist() == [3.0] * view[first].parameter.shape[0]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_rows_return_and_the_tuned_weights_come_back(architecture: str, tiny_folder: Callable[[str], Path]) -> None:
    view = WeightView(load(tiny_folder(architecture)).model)
    base = {name: torch.randn_like(m.parameter) for name, m in view.items()}
    before = {name: m.parameter.detach().clone() for name, m in view.items()}
    rows = {name: torch.tensor([0, 2]) for name in list(view)[:4]}

    def outputs(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.T if view[name].kind == "conv1d" else tensor

    index = flat_index(view, rows)
    with returned(view, base, rows):
        for name, matrix in view.items():
            expected = outputs(name, before[name].clone())
            if name in rows:
                expected[[0, 2]] = outputs(name, base[name])[[0, 2]]
                now, old = matrix.parameter.detach().reshape(-1), before[name].reshape(-1)
                assert (now != old).nonzero().flatten().tolist() == index[name].sort().values.tolist()
            assert torch.equal(outputs(name, matrix.parameter.detach()), expected)
    assert all(torch.equal(m.parameter, before[n]) for n, m in view.items())
    with pytest.raises(IndexError), returned(view, {**base, list(rows)[-1]: torch.zeros(1, 1)}, rows):
        pass
    assert all(torch.equal(m.parameter, before[n]) for n, m in view.items())


def test_folds_share_no_prompt_and_take_turns() -> None:
    examples = [Example(f"{i}", "s", exchange_of(f"What about {word}?", f"Answer {i}.")) for i, word in
                enumerate([*WORDS, WORDS[1], WORDS[2]])]  # fmt: skip
    first, second = folds(examples)
    assert [e.id for e in first] == ["0", "2", "4", "6", "8", "11"]
    assert {e.key for e in first}.isdisjoint(e.key for e in second)
    assert len(first) + len(second) == len(examples)


def test_the_smallest_share_that_passes_and_keeps_the_skill_is_chosen() -> None:
    def point(label: str, share: float, high: float, skill: float) -> FrontierPoint:
        decision = "pass" if high < 0.1 else "inconclusive"
        return FrontierPoint(label, share, 0.0, skill, 0.0, high - 0.05, (high - 0.1, high), decision)

    greedy, kept = point("ratio by row", 0.01, 0.05, 0.4), point("ratio by row", 0.1, 0.08, 0.95)
    wide, unsafe = point("ratio by matrix", 0.2, 0.05, 0.99), point("ratio by row", 0.003, 0.12, 1.0)
    rivals = [point("scale", 0.001, 0.0, 1.0), point("delta", 0.001, 0.0, 1.0)]
    assert choose_point([*rivals, unsafe, greedy, kept, wide]) is kept
    assert choose_point([*rivals, unsafe, greedy, point("ratio by matrix", 0.2, 0.0, 0.6)]).skill == 0.6
    assert choose_point([*rivals, unsafe, point("ratio by row", 0.2, 0.2, 0.9)]) is unsafe
    assert choose_point([*rivals, unsafe, point("ratio by row", 0.2, 0.11, 0.8)]) is unsafe


def test_as_much_skill_is_read_between_scaled_models() -> None:
    frontier = Frontier.__new__(Frontier)
    frontier.points = [FrontierPoint(label, share, 0.0, skill, 0.0, 0.0, (0.0, 0.0), "pass") for label, share, skill in
                       (("scale", 0.25, 0.9), ("scale", 0.5, 0.6), ("rollback", 1.0, 0.0))]  # fmt: skip
    assert frontier.skill_share(0.95) == pytest.approx(0.125)
    assert frontier.skill_share(0.75) == pytest.approx(0.375)
    assert frontier.skill_share(1.02) == 0.0
    assert frontier.skill_share(-0.1) == 1.0


def test_one_share_may_be_asked_for(repaired: Repaired, place: Path, case: tuple[Any, ...]) -> None:
    found = repair(*case, options=LocateOptions(prune_fraction=0.2), out=place / "one share")
    ways = {(label, 0.2) for label, way in VARIANTS.items() if not way.rival}
    assert {(p.label, p.share) for p in found.frontier if p.label in VARIANTS} == ways
    assert found.chosen.share == found.document["prune_fraction"] == 0.2
    same = {(p.label, p.share): p for p in repaired.frontier}
    assert all(same[p.label, p.share] == p for p in found.frontier if (p.label, p.share) in same)


def test_json_holds_what_is_promised(repaired: Repaired) -> None:
    document = repaired.document
    assert {"patch", "weights", "prune_fraction", "keep_fraction", "unit", "held_out"} <= document.keys()
    for row in document["held_out"]:
        assert {"measure", "before", "after", "interval", "controls"} <= row.keys()
        assert {"scale", "rollback"} <= set(row["controls"]) <= {"random", "scale", "rollback"}
    measures = {row["measure"] for row in document["held_out"]}
    assert {"preference.margin:harm", "response.nll:task", "response.nll:keep"} <= measures
    # The proof starts from the tuned model and the audit from the base; both end at the repaired one.
    tuned, done = ({f["metric"]: f for f in document["audit"][name]} for name in ("tuned", "repaired"))
    for row in document["held_out"]:
        before, after = tuned[row["measure"]], done[row["measure"]]
        assert row["before"] == pytest.approx(before["tuned"])
        assert row["after"] == pytest.approx(after["tuned"])
        assert row["controls"]["rollback"]["after"] == pytest.approx(before["base"])
        assert after["base"] == pytest.approx(before["base"])
    margin = next(row for row in document["held_out"] if row["measure"] == "preference.margin:harm")
    ends = {margin["before"], margin["after"], *(control["after"] for control in margin["controls"].values())}
    assert len(ends) == 2 + len(margin["controls"])
    claims = repaired.claims
    assert claims == repair_claims(repaired)
    assert document["claims"] == [claim.as_dict() for claim in claims]
    assert "within the audit's tolerance" in claims[0].text
    assert "which keeps as much skill" in claims[-1].text
    report = draw(repaired.run).read_text()
    assert "Safety regained" in report
    assert "Where the weights sit" in report
    assert sum(p["weights"] for p in document["places"]) == document["weights"]
    assert sum(p["weights"] for p in document["totals"]) * document["share_of_weights"] == pytest.approx(
        document["weights"]
    )


def test_the_same_call_reads_the_finished_run_back(repaired: Repaired, place: Path, case: tuple[Any, ...]) -> None:
    assert repair(*case, out=place / "run").document == repaired.document
    with pytest.raises(OutputError, match="never overwritten"):
        repair(*case, patch=repaired.patch, out=place / "other")


def test_what_cannot_be_repaired_is_told(
    place: Path, case: tuple[Any, ...], tiny_folder: Callable[[str], Path]
) -> None:
    tuned, base, [harm], [task], _ = case
    with pytest.raises(SubjectError, match="nothing to repair"):
        repair(base, base, [harm], [task], out=place / "same")
    with pytest.raises(SubjectError, match="give the right"):
        repair(tuned, SubjectChoice(str(tiny_folder("gpt2"))), [harm], [task], out=place / "odd")
    with pytest.raises(UsageError, match="needs contrasts"):
        repair(tuned, base, ["safety/harmful"], [task], out=place / "plain")


def test_scaling_comes_back_bit_for_bit(tuned: Path, tiny_folder: Callable[[str], Path]) -> None:
    view, base = WeightView(load(tuned, merge=True).model), WeightView(load(tiny_folder("llama")).model)
    values = {name: m.parameter.detach().clone() for name, m in base.items()}
    before = {name: m.parameter.detach().clone() for name, m in view.items()}
    with scaled(view, values, 0.25):
        for name, matrix in view.items():
            expected = 0.75 * before[name] + 0.25 * values[name]
            assert torch.allclose(matrix.parameter, expected, atol=1e-6)
    assert all(torch.equal(matrix.parameter, before[name]) for name, matrix in view.items())


def test_a_share_too_large_for_random_rows_is_told_and_left_out(
    place: Path, case: tuple[Any, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    options = LocateOptions(prune_fraction=0.9)
    found = repair(*case, options=options, out=place / "nearly all", progress=Plain(sys.stderr))
    assert "no random rows at a share of 0.9: more than half of the rows of" in capsys.readouterr().err
    assert "random" not in {p.label for p in found.frontier}
    assert {p.label for p in found.frontier} >= {"ratio", "ratio by row", "ratio by matrix", "scale"}
