"""The transfer study on a tiny model: its matrix is what editing by hand gives."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest

from aftertune.locating import answers_probe
from aftertune.model import WeightView, as_subject, load, make_patch, read_patch
from aftertune.probes import ask_probes
from aftertune.runs import Silent
from aftertune.studies import find_study
from aftertune.studies._transfer import (
    _selections,
    domain_examples,
    held_out_keep_examples,
    keep_examples,
    transfer_study,
)

DOMAINS = ("money", "health")


@pytest.mark.slow
def test_falls_are_differences_of_margins_and_claims_follow(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    document = transfer_study(out, subject=str(tiny_folder("llama")), domains=DOMAINS, count=3, guard=False)
    journal = dict(json.loads(line)[:2] for line in (out / "evaluations.jsonl").read_text().splitlines())
    for edit, falls in document["falls"].items():
        for row, source in zip(falls, DOMAINS, strict=True):
            for value, target in zip(row, DOMAINS, strict=True):
                ids = [e.id for e in domain_examples(target)[1]]
                by_hand = statistics.fmean(journal["before"][0][i] - journal[f"{edit} {source}"][0][i] for i in ids)
                assert value == pytest.approx(by_hand)
        for value, source in zip(document["costs"][edit], DOMAINS, strict=True):
            after, before = (statistics.fmean(journal[name][1].values()) for name in (f"{edit} {source}", "before"))
            assert value == pytest.approx(after - before)
    patch = read_patch(out / "patches" / "money.safetensors")
    view = WeightView(load(tiny_folder("llama")).model)
    with patch.applied(view):
        patched = ask_probes(as_subject(view.model, load(tiny_folder("llama")).tokenizer, "patched"),
                             [answers_probe("money", domain_examples("money")[1])])  # fmt: skip
    margins = {m.item: m.value for m in patched if m.metric == "preference.margin:money"}
    assert margins == pytest.approx({item: journal["patch money"][0][item] for item in margins}, abs=1e-5)
    plain = ask_probes(load(tiny_folder("llama")), [answers_probe("money", domain_examples("money")[1])])
    margins = {m.item: m.value for m in plain if m.metric == "preference.margin:money"}
    assert margins == pytest.approx({item: journal["before"][0][item] for item in margins}, abs=1e-5)
    # Each control was read under its own edit.
    subject = load(tiny_folder("llama"))
    view = WeightView(subject.model)
    selections = _selections(subject, view, {d: domain_examples(d) for d in DOMAINS}, 3, False, Silent())
    for edit in ("random", "content_matched"):
        with make_patch(view, selections[edit]["health"].chosen, "zero", {}, digest=False).applied(view):
            measured = ask_probes(subject, [answers_probe("money", domain_examples("money")[1]),
                                            answers_probe("keep", held_out_keep_examples())])  # fmt: skip
        margins, losses = journal[f"{edit} health"]
        read = {m.item: m.value for m in measured if m.metric == "preference.margin:money"}
        assert read == pytest.approx({item: margins[item] for item in read}, abs=1e-5)
        assert {m.item: m.value for m in measured if m.metric == "response.nll:keep"} == pytest.approx(losses, abs=1e-5)
    assert document["overlap"][0][0]["jaccard"] == 1.0
    report = (out / "report.html").read_text()
    assert "Transfer between kinds of harm" in report
    again = transfer_study(out, subject=str(tiny_folder("llama")), domains=DOMAINS, count=3, guard=False)
    assert again == document
    assert len((out / "evaluations.jsonl").read_text().splitlines()) == len(journal)


def test_attributed_and_held_out_prompts_are_distinct() -> None:
    for domain in DOMAINS:
        attributed, held = domain_examples(domain)
        assert not {e.key for e in attributed} & {e.key for e in held}
    assert not {e.key for e in keep_examples()} & {e.key for e in held_out_keep_examples()}
    assert find_study("transfer") is not None
    assert find_study("no such") is None
