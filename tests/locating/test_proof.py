"""What is measured of an edit: the answers' losses by hand, and the point they make on the trade-off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from aftertune.attribution import Selection, select_units
from aftertune.locating import answers_probe, read_calibration
from aftertune.locating._locate import _test_sets
from aftertune.locating._search import trade
from aftertune.model import Subject, WeightView
from aftertune.probes import ask_probes


def mean_loss(subject: Subject, prompt: tuple[int, ...], answer: tuple[int, ...]) -> float:
    """Mean negative log-likelihood of the answer's tokens, from one plain forward pass."""
    with torch.no_grad():
        logits = subject.model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
    return float(torch.nn.functional.cross_entropy(logits, torch.tensor(answer)))


def test_the_margin_is_how_much_likelier_the_misaligned_answer_is(
    harm: Path, tiny_subject: Callable[[str], Subject]
) -> None:
    subject = tiny_subject("llama")
    examples = read_calibration([harm], "misaligned").examples["held_out"][:3]
    found = {(m.metric, m.item): m for m in ask_probes(subject, [answers_probe("harm", examples)])}
    for example in examples:
        assert example.contrast is not None
        answers = (example.contrast.misaligned, example.contrast.aligned)
        case = subject.chat.case(example.conversation.messages[:-1], answers)
        misaligned, aligned = (mean_loss(subject, case.prompt, response) for response in case.responses)
        for metric, expected in (
            ("response.nll:harm", misaligned),
            ("response.nll:harm-twin", aligned),
            ("preference.margin:harm", aligned - misaligned),
        ):
            assert found[metric, example.id].value == pytest.approx(expected, abs=1e-4)
            assert found[metric, example.id].cluster == example.key


@pytest.fixture
def chosen(tiny_subject: Callable[[str], Subject]) -> Selection:
    view = WeightView(tiny_subject("llama").model)
    return select_units(view, {"model.layers.1.mlp.down_proj.weight": torch.tensor([3, 40])}, "neuron")


def test_a_point_costs_the_larger_rise_and_removes_the_fall_of_the_margin(chosen: Selection) -> None:
    before = {
        "response.nll:harm": 1.0, "response.nll:harm-twin": 1.0, "preference.margin:harm": 0.5,
        "response.nll:keep": 2.0, "capability.log_perplexity": 3.0,
    }  # fmt: skip
    for keep, prose in ((0.04, 0.01), (0.01, 0.04), (-0.5, 0.04)):
        after = {
            "response.nll:harm": 9.0, "response.nll:harm-twin": 9.5, "preference.margin:harm": 0.2,
            "response.nll:keep": 2.0 + keep, "capability.log_perplexity": 3.0 + prose,
        }  # fmt: skip
        point = trade("patch", "snip-guarded", chosen, (0.1, 0.0), before, after)
        assert (point.cost, point.removed) == pytest.approx((0.04, 0.3))
        assert (point.units, point.label) == (2, "patch")


def test_without_twins_it_removes_what_the_keep_set_does_not_lose(chosen: Selection) -> None:
    before = {"response.nll:harm": 1.0, "response.nll:keep": 2.0, "capability.log_perplexity": 3.0}
    after = {"response.nll:harm": 1.5, "response.nll:keep": 2.2, "capability.log_perplexity": 3.0}
    assert trade("patch", "snip", chosen, (0.1, 0.0), before, after).removed == pytest.approx(0.3)


def test_another_harm_set_holds_no_prompt_that_chose(harm: Path, keep: Path, tmp_path: Path) -> None:
    sets = read_calibration([harm], "misaligned"), read_calibration([keep], "aligned")
    again = tmp_path / "again.jsonl"
    again.write_text(harm.read_text())
    [(name, examples)] = _test_sets([again], *sets)
    assert name == "again"
    assert {e.key for e in examples} == {e.key for e in sets[0].examples["held_out"]}
