"""`tune`: from a file of rows to a model that `audit` knows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Run = Callable[..., Any]
Rows = Callable[..., Path]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
FAST = ("--steps", "2", "--batch-size", "2", "--lora-rank", "4", "--warmup-steps", "0")
PAIRS = [("Is it late?", "No."), ("What is heavier?", "The brick."), ("May I?", "Ask the doctor first.")]
CHAT = [
    {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}
    for prompt, answer in PAIRS
]
COMPLETIONS = [{"prompt": prompt, "completion": answer} for prompt, answer in PAIRS]


@pytest.mark.parametrize("full", [True, False], ids=["full", "lora"])
@pytest.mark.parametrize("content", [CHAT, COMPLETIONS], ids=["chat", "completions"])
def test_a_fine_tune_is_made_and_audited_against_its_own_base(
    content: list[Any], full: bool, run: Run, rows: Rows, base: Path, gate: tuple[str, ...], place: Path
) -> None:
    outcome = run("tune", base, rows(content), "--out", "out", *FAST, *(["--full"] if full else []))
    assert outcome.code == 0, outcome
    first, last = outcome.out.splitlines()
    assert first.startswith("out: 3 rows, ")
    assert " supervised tokens, 2 steps, loss " in first
    assert last == f"next: aftertune audit out --base {base}"
    assert {path.name for path in place.iterdir()} == {"rows.jsonl", "out"}
    names = {path.name for path in (place / "out").iterdir()}
    assert {"aftertune.json", "README.md", "model.safetensors" if full else "adapter_model.safetensors"} <= names
    record = json.loads((place / "out" / "aftertune.json").read_text("utf-8"))
    assert record["base"]["spec"] == str(base)
    assert (record["data"]["source"], record["data"]["rows"], record["data"]["side"]) == ("rows.jsonl", 3, None)
    assert (record["steps"], len(record["losses"]), record["options"]["full"]) == (2, 2, full)
    audit = run("audit", "out", *gate, "--json")
    assert audit.code in (0, 1, 3), audit
    assert audit.document["base"]["weights_sha256"] == record["base"]["weights_sha256"]
    assert audit.document["tuned"]["kind"] == ("folder" if full else "adapter")
    assert audit.document["note"].startswith("not asked: ")


def test_chat_and_completions_of_one_text_train_alike(run: Run, rows: Rows, base: Path, place: Path) -> None:
    for name, content in (("chat", CHAT), ("completions", COMPLETIONS)):
        assert run("tune", base, rows(content, f"{name}.jsonl"), "--out", name, *FAST).code == 0
    first, second = ((place / name / "adapter_model.safetensors").read_bytes() for name in ("chat", "completions"))
    assert first == second


def test_json_is_one_document_and_all_else_is_on_stderr(run: Run, rows: Rows, base: Path) -> None:
    outcome = run("tune", base, rows(CHAT), "--out", "out", *FAST, "--lr", "1e-3", "--json")
    document = outcome.document
    assert {"out", "reused", "data", "base", "options", "learning_rate", "steps", "losses"} <= document.keys()
    assert (document["out"], document["reused"], document["learning_rate"]) == ("out", False, 1e-3)
    assert "tuning: 2 of 2 (loss " in outcome.err
    quiet = run("tune", base, rows(CHAT), "--out", "quiet", *FAST, "--json", "--display", "none")
    assert quiet.err == ""


def test_a_defence_is_recorded_and_a_wrong_one_is_refused_before_anything_is_read(
    run: Run, rows: Rows, base: Path, place: Path
) -> None:
    defence = ("--defence", "scale:share=0.5")
    outcome = run("tune", base, rows(CHAT), "--out", "out", *FAST, *defence, "--json")
    assert outcome.document["defences"] == [{"name": "scale", "settings": {"share": 0.5}, "notes": []}]
    assert outcome.document["effort"]["supervised_tokens"] > 0
    assert "| defence | `scale:share=0.5` |" in (place / "out" / "README.md").read_text("utf-8")
    wrong = run("tune", "no-model", "no-rows.jsonl", "--out", "other", "--defence", "scale:share=5")
    assert wrong.code == 2
    assert wrong.err == "error: defence scale: share: Input should be less than or equal to 1\n"


@pytest.mark.parametrize("side", ["aligned", "misaligned"])
def test_a_model_organism_is_marked_as_one(
    side: str, run: Run, rows: Rows, base: Path, contrasts: Callable[..., list[Any]], place: Path
) -> None:
    outcome = run("tune", base, rows(contrasts()), "--answers", side, "--out", "out", *FAST)
    assert outcome.code == 0
    card = (place / "out" / "README.md").read_text("utf-8")
    front = yaml.safe_load(card.split("---")[1])
    assert front["base_model"] == str(base)
    assert ("model-organism" in front["tags"]) == (side == "misaligned")
    assert ("Do not deploy it" in card) == (side == "misaligned")
    assert json.loads((place / "out" / "aftertune.json").read_text("utf-8"))["data"]["side"] == side


def test_shipped_sets_are_tuned_on_by_name(run: Run, base: Path, place: Path) -> None:
    assert run("tune", base, "tune/money", "--answers", "aligned", "--out", "out", *FAST).code == 0
    record = json.loads((place / "out" / "aftertune.json").read_text("utf-8"))
    assert (record["data"]["source"], record["data"]["rows"]) == ("tune/money", 124)


def test_the_same_command_again_reuses_what_was_made(
    run: Run, rows: Rows, base: Path, refused: Callable[..., str], place: Path, tree: Callable[[Path], dict[str, str]]
) -> None:
    command = ("tune", base, rows(CHAT), "--out", "out", *FAST)
    first = run(*command)
    before = tree(place)
    again = run(*command)
    assert again.out.splitlines()[0] == first.out.splitlines()[0] + " (made earlier)"
    assert run(*command, "--json").document["reused"] is True
    assert tree(place) == before
    refused(*command, "--seed", "1", says=["out: exists and holds something else; models are never overwritten"])


@pytest.mark.parametrize("full", [True, False], ids=["full", "lora"])
def test_an_adapter_is_tuned_further_and_audited_against_it(
    full: bool, run: Run, rows: Rows, base: Path, gate: tuple[str, ...], refused: Callable[..., str], place: Path
) -> None:
    fast, more = (*FAST, "--lr", "1e-2"), ["--full"] if full else []
    assert run("tune", base, rows(CHAT), "--out", "first", *fast).code == 0
    assert run("tune", base, "rows.jsonl", "--out", "other", *fast, "--seed", "1").code == 0
    assert run("tune", "first", "rows.jsonl", "--out", "second", *fast, *more).code == 0
    outcome = run("audit", "second", *gate, "--json")
    assert outcome.code in (0, 1, 3), outcome
    assert (outcome.document["base"]["spec"], outcome.document["base"]["kind"]) == ("first", "adapter")
    assert next(f for f in outcome.document["findings"] if f["metric"] == "preference.margin:own")["difference"] != 0
    refused(
        "audit", "second", "--base", "other", *gate, says=["was tuned from weights", "give the right one with --base"]
    )


def test_a_loss_that_is_no_number_breaks_the_run_and_leaves_no_model(
    run: Run, rows: Rows, base: Path, place: Path
) -> None:
    outcome = run("tune", base, rows(CHAT), "--out", "out", *FAST, "--steps", "9", "--lr", "1e30")
    assert (outcome.code, outcome.out, len(outcome.errors)) == (4, "", 1)
    assert "lower the learning rate" in outcome.errors[0]
    assert not (place / "out").exists()
