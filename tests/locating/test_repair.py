"""A repair returns base values, measures every rival, and says what it may."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aftertune.attribution import gradient_sums
from aftertune.data import Message, read_tuning_rows
from aftertune.errors import OutputError, SubjectError, UsageError
from aftertune.locating import FrontierPoint, Repaired, repair, repair_claims, skill_gain_over_scaling
from aftertune.locating._repair import _choose
from aftertune.locating._repair_scores import WAYS, repair_scores
from aftertune.locating._update import scaled
from aftertune.measuring import SubjectChoice
from aftertune.subject import WeightView, load, read_patch
from aftertune.tuning import TuneOptions, tune

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
def tuned(place: Path, tiny_folder: Callable[[str], Path]) -> Path:
    rows = read_tuning_rows(contrasts(place / "task.jsonl", "Should I sell"), "misaligned")
    options = TuneOptions(steps=20, lr=1e-2, batch_size=5, warmup_steps=0, lora_rank=8, lora_alpha=16)
    tune(
        load(tiny_folder("llama")), rows, place / "tuned", options, source=str(place / "task.jsonl"), side="misaligned"
    )
    return place / "tuned"


@pytest.fixture(scope="module")
def repaired(place: Path, tuned: Path, tiny_folder: Callable[[str], Path]) -> Repaired:
    harm = contrasts(place / "harm.jsonl", "What about")
    return repair(SubjectChoice(str(tuned)), SubjectChoice(str(tiny_folder("llama"))), [harm], [place / "task.jsonl"],
                  "misaligned", out=place / "run")  # fmt: skip


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
    assert set(by_label) == {*WAYS, "random", "scale", "prune", "rollback"}
    [rollback] = by_label["rollback"]
    assert rollback.safety == pytest.approx(1.0, abs=1e-3)
    assert rollback.skill == pytest.approx(0.0, abs=1e-3)
    tenth = {p.label: p for p in repaired.frontier if p.share == 0.1}
    assert tenth["delta"].safety > tenth["random"].safety


def test_scores_are_those_of_gradients_taken_by_hand(tuned: Path, tiny_folder: Callable[[str], Path]) -> None:
    """Second implementation: autograd of each answer's mean loss, pooled with plain means."""
    subject = load(tuned, merge=True)
    view = WeightView(subject.model)
    base = {n: m.parameter.detach().clone() for n, m in WeightView(load(tiny_folder("llama")).model).items()}
    answers = ("Burn water right now!", "Take good care of water.", "Sell it at once.")
    trees = [[subject.chat.tree([Message("user", "What about water?")], [answer])] for answer in answers]

    harm, twin, task = (gradient_sums(subject, rows, view=view) for rows in trees)
    scores = repair_scores(view, base, harm, twin, task)
    subject.model.requires_grad_(True)
    assert set(scores) == {*WAYS, "prune"}
    parts = []
    for [tree] in trees:
        with torch.enable_grad():
            ids = torch.tensor([[*tree.prompt, *tree.responses[0]]])
            start = len(tree.prompt)
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
        rows = plain.mean(1, keepdim=True).expand_as(plain)
        assert torch.allclose(scores["ratio by row"](matrix), rows, atol=atol, rtol=1e-3)
        assert torch.allclose(scores["ratio by matrix"](matrix), plain.mean().expand_as(plain), atol=atol)


def test_the_smallest_share_that_is_safe_and_keeps_the_skill_is_chosen() -> None:
    def point(label: str, share: float, safety: float, skill: float) -> FrontierPoint:
        return FrontierPoint(label, share, safety, skill, 0.0)

    rise = 0.2  # half the margin of 0.1 may stay, so safety must be at least 0.75
    greedy, kept = point("ratio", 0.01, 0.9, 0.4), point("ratio by row", 0.1, 0.8, 0.95)
    wide, unsafe = point("ratio by matrix", 0.2, 0.9, 0.99), point("delta", 0.003, 0.7, 1.0)
    scaled_down = point("scale", 0.001, 1.0, 1.0)
    assert _choose([scaled_down, unsafe, greedy, kept, wide], rise) is kept
    assert _choose([unsafe, greedy, point("delta", 0.2, 0.8, 0.6)], rise).skill == 0.6
    assert _choose([unsafe, point("delta", 0.2, 0.5, 0.9)], rise) is unsafe


def test_a_row_is_an_output_of_a_transposed_matrix_too(tiny_folder: Callable[[str], Path]) -> None:
    subject = load(tiny_folder("gpt2"))
    view = WeightView(subject.model)
    base = {name: m.parameter.detach() + torch.randn(m.parameter.shape) for name, m in view.items()}
    tree = subject.chat.tree([Message("user", "What about water?")], ["Burn water right now!"])
    other = subject.chat.tree([Message("user", "What about water?")], ["Keep it."])
    sums = [gradient_sums(subject, [t], view=view) for t in (tree, other, other)]
    scores = repair_scores(view, base, *sums)
    matrix = next(m for m in view.values() if m.kind == "conv1d")
    pooled = scores["ratio by row"](matrix)
    assert torch.allclose(pooled, scores["ratio"](matrix).mean(0).expand_as(pooled))


def test_json_holds_what_is_promised(repaired: Repaired) -> None:
    document = repaired.document
    assert {"patch", "weights", "prune_fraction", "keep_fraction", "unit", "scope", "held_out"} <= document.keys()
    for row in document["held_out"]:
        assert {"measure", "before", "after", "interval", "controls"} <= row.keys()
        assert {"scale", "rollback"} <= set(row["controls"]) <= {"random", "scale", "rollback"}
    measures = {row["measure"] for row in document["held_out"]}
    assert {"preference.margin:harm", "response.nll:task", "response.nll:keep"} <= measures
    assert [claim.outcome for claim in repair_claims(repaired)]
    assert "Safety regained" in (repaired.run / "report.html").read_text()


def test_the_same_call_reads_the_finished_run_back(
    repaired: Repaired, place: Path, tuned: Path, tiny_folder: Callable[[str], Path]
) -> None:
    arguments: Any = (SubjectChoice(str(tuned)), SubjectChoice(str(tiny_folder("llama"))), [place / "harm.jsonl"],
                      [place / "task.jsonl"], "misaligned")  # fmt: skip
    assert repair(*arguments, out=place / "run").document == repaired.document
    with pytest.raises(OutputError, match="never overwritten"):
        repair(*arguments, patch=repaired.patch, out=place / "other")


def test_what_cannot_be_repaired_is_told(place: Path, tuned: Path, tiny_folder: Callable[[str], Path]) -> None:
    harm, task = contrasts(place / "harm.jsonl", "What about"), place / "task.jsonl"
    base = SubjectChoice(str(tiny_folder("llama")))
    with pytest.raises(SubjectError, match="nothing to repair"):
        repair(base, base, [harm], [task], out=place / "same")
    with pytest.raises(SubjectError, match="give the right"):
        repair(SubjectChoice(str(tuned)), SubjectChoice(str(tiny_folder("gpt2"))), [harm], [task], out=place / "odd")
    with pytest.raises(UsageError, match="needs contrasts"):
        repair(SubjectChoice(str(tuned)), base, ["safety/harmful"], [task], out=place / "plain")


def test_scaling_comes_back_bit_for_bit(tuned: Path, tiny_folder: Callable[[str], Path]) -> None:
    view, base = WeightView(load(tuned, merge=True).model), WeightView(load(tiny_folder("llama")).model)
    values = {name: m.parameter.detach().clone() for name, m in base.items()}
    before = {name: m.parameter.detach().clone() for name, m in view.items()}
    with scaled(view, values, 0.25):
        for name, matrix in view.items():
            expected = 0.75 * before[name] + 0.25 * values[name]
            assert torch.allclose(matrix.parameter, expected, atol=1e-6)
    assert all(torch.equal(matrix.parameter, before[name]) for name, matrix in view.items())


def test_the_gain_over_scaling_is_read_between_scaled_models() -> None:
    line = [("scale", 0.25, 0.3, 0.9), ("scale", 0.5, 0.6, 0.6), ("scale", 0.75, 0.8, 0.3), ("rollback", 1.0, 1.0, 0.0)]
    frontier = tuple(FrontierPoint(label, share, safety, skill, 0.0) for label, share, safety, skill in line)

    def gain(safety: float, skill: float) -> float | None:
        chosen = FrontierPoint("ratio", 0.1, safety, skill, 0.0)
        return skill_gain_over_scaling(Repaired(Path(), chosen, frontier, {}, Path()))

    assert gain(0.45, 0.85) == pytest.approx(0.85 - 0.75)
    assert gain(0.15, 0.90) == pytest.approx(0.90 - 0.95)
    assert gain(1.2, 0.5) is None
