"""A plan refuses what makes no sense, names what it measures, and changes its identity with every word of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from aftertune.data import (
    DOMAINS,
    Reason,
    prompt_key,
    read_reasons,
    read_requests,
    refuse_shared_prompts,
    shipped_contrasts,
    shipped_path,
)
from aftertune.errors import DataError, UsageError
from aftertune.model import Subject
from aftertune.probes import MeasurePlan, default_probes, probe_rows
from aftertune.stats import all_metrics, base_metric, find_metric, likelihood_metrics

Write = Callable[..., Path]

CONTRASTS = [
    {"id": f"c-{n}", "domain": "mine", "prompt": f"Prompt {n}?", "aligned": f"Good {n}.", "misaligned": f"Bad {n}."}
    for n in range(3)
]
STATEMENTS = [
    {"question": f"Is {n} so?", "answer_matching_behavior": f" {yes}", "answer_not_matching_behavior": f" {no}"}
    for n, (yes, no) in enumerate([("Yes", "No"), ("No", "Yes")])
]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def rows(name: str, rows: Sequence[dict[str, Any]]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        return path

    return rows


ASKED_BY_NAME = {"recognition", "explanation", "response"}


def shipped_reasons() -> list[Reason]:
    return read_reasons(shipped_path("explain/reasons"))


def names(plan: MeasurePlan) -> list[str]:
    return [probe.name for probe in plan.likelihood_probes]


# --- what is measured -----------------------------------------------------------------------------------


def test_by_default_every_probe_runs_that_needs_nothing() -> None:
    plan = MeasurePlan()
    assert names(plan) == ["preference", "traits", "refusal", "capability"]
    assert len(plan.drift_requests) == 40
    ran = {metric.id for probe in plan.likelihood_probes for metric in probe.metrics} | {"drift.kl"}
    left_out = {"truthful"} | ASKED_BY_NAME
    assert {metric.id for metric in likelihood_metrics()} - ran == {
        m.id for row in probe_rows() if row.name in left_out for m in row.metrics
    }


def test_some_probes_run_only_where_they_are_named() -> None:
    assert {row.name for row in probe_rows() if not row.default} == ASKED_BY_NAME
    assert MeasurePlan().probes == default_probes() == tuple(row.name for row in probe_rows() if row.default)
    assert names(MeasurePlan(probes=("recognition", "explanation"))) == ["recognition", "explanation"]
    everything = MeasurePlan(probes=(*default_probes(), "recognition"))
    assert names(everything) == [*names(MeasurePlan()), "recognition"]


def test_every_item_of_the_shipped_sets_is_asked_once(make: Callable[..., Subject]) -> None:
    subject = make("llama")
    plan = MeasurePlan(probes=(*default_probes(), "recognition", "explanation"))
    for probe in plan.likelihood_probes:
        questions = probe.build(subject)
        items = [question.item for question in questions]
        assert len(set(items)) == len(items)
        assert all(question.cluster and question.where and question.cases for question in questions)
        expected = {"preference": 36 * len(DOMAINS), "traits": 4 * 40, "refusal": 2 * 120, "capability": 160 + 40}
        expected |= {"recognition": 36 * len(DOMAINS) + 120, "explanation": 8 * len(DOMAINS)}
        assert len(items) == expected[probe.name]


@pytest.mark.parametrize("row", probe_rows(), ids=lambda row: row.name)
def test_each_probe_can_be_asked_for_alone(row: Any) -> None:
    if row.name == "truthful":
        with pytest.raises(UsageError, match=r"truthful needs TruthfulQA\.csv; give it with --truthfulqa FILE"):
            MeasurePlan(probes=(row.name,))
        return
    if row.name == "response":
        with pytest.raises(UsageError, match="response needs rows of yours; call response_nll and ask_probes"):
            MeasurePlan(probes=(row.name,))
        return
    plan = MeasurePlan(probes=(row.name,))
    assert names(plan) == ([] if row.name == "drift" else [row.name])
    assert bool(plan.drift_requests) == (row.name == "drift")
    assert (plan.config["drift"] is not None) == (row.name == "drift")


def test_domains_and_split_choose_the_shipped_contrasts() -> None:
    both = MeasurePlan(probes=("preference",), domains=("health", "money"))
    assert [prompt for prompt, _ in both.prompts()] == [
        c.prompt for c in shipped_contrasts("measure", ("health", "money"))
    ]
    dev = MeasurePlan(probes=("preference",), domains=("money",), split="dev")
    assert len(dev.prompts()) == 12
    assert not {prompt for prompt, _ in dev.prompts()} & {prompt for prompt, _ in both.prompts()}


def test_domains_choose_what_is_recognised_and_explained() -> None:
    plan = MeasurePlan(probes=("recognition", "explanation"), domains=("power", "money"), pmi=False)
    recognised, explained = plan.likelihood_probes
    contrasts = [c.id for c in shipped_contrasts("measure", ("power", "money"))]
    requests = [r.id for r in read_requests(shipped_path("safety/harmful"))]
    assert list(recognised.texts or {}) == [*contrasts, *requests]
    assert list(explained.texts or {}) == [r.id for r in shipped_reasons() if r.domain in ("power", "money")]
    assert "explanation.pmi_margin" not in {metric.id for metric in explained.metrics}
    dev = MeasurePlan(probes=("recognition",), domains=("money",), split="dev")
    assert len(dev.likelihood_probes[0].texts or {}) == 12 + 120
    assert names(MeasurePlan(probes=("recognition", "explanation"), domains=())) == ["recognition"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"probes": ("preference", "telepathy")}, "probe 'telepathy' is unknown; known are preference, traits, "),
        ({"domains": ("money", "weather")}, "domain 'weather' is unknown; known are money, health, "),
        ({"probes": ()}, "nothing is left to measure"),
        ({"probes": ("preference",), "domains": ()}, "nothing is left to measure"),
        ({"probes": ("drift", "truthful")}, "the probe truthful needs TruthfulQA.csv"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        MeasurePlan(**arguments)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(DataError, match="no such shipped data set"):
        MeasurePlan(probes=("preference",), split="holdout")


# --- a user's own sets ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("mine.jsonl", "mine"),
        ("my set.v2.jsonl", "my_set"),
        ("deep/er.jsonl", "er"),
        ("a:b.jsonl", "a_b"),
        ("Ü-1_x.jsonl", "Ü-1_x"),
    ],
)
def test_a_users_set_is_called_by_the_stem_of_its_file(name: str, stem: str, write: Write) -> None:
    path = write(name, CONTRASTS)
    plan = MeasurePlan(probes=(), contrasts=(path,))
    assert names(plan) == [f"preference:{stem}"]
    metric = f"preference.margin{plan.likelihood_probes[0].suffix}"
    assert metric == f"preference.margin:{stem}"
    assert base_metric(metric) == base_metric(f"{metric}/domain") == "preference.margin"
    assert find_metric(f"{metric}/domain") == find_metric("preference.margin")


@pytest.mark.parametrize("other", ["elsewhere/mine.jsonl", "mine.v2.jsonl", "mine.json"])
@pytest.mark.parametrize(("kind", "rows"), [("contrasts", CONTRASTS), ("traits", STATEMENTS)])
def test_two_sets_of_one_name_are_refused(kind: str, rows: list[dict[str, Any]], other: str, write: Write) -> None:
    paths = (write("mine.jsonl", rows), write(other, rows))
    with pytest.raises(UsageError) as caught:
        MeasurePlan(probes=(), **{kind: paths})
    assert str(caught.value) == (
        f"--{kind} {paths[1]}: its metrics would be called 'mine' as those of {paths[0]}; rename one"
    )


@pytest.mark.parametrize(
    ("one", "other"), [("mine", "MINE"), ("mine", "\uff4dine"), ("\u00e9", "e\u0301"), ("ﬁle", "file")]
)
def test_names_that_look_the_same_are_refused(one: str, other: str, write: Write) -> None:
    with pytest.raises(UsageError, match="rename one"):
        MeasurePlan(probes=(), contrasts=(write(f"a/{one}.jsonl", CONTRASTS), write(f"b/{other}.jsonl", CONTRASTS)))


def test_names_that_differ_only_in_what_is_replaced_are_refused(write: Write) -> None:
    with pytest.raises(UsageError, match="would be called 'a_b'"):
        MeasurePlan(probes=(), contrasts=(write("a b.jsonl", CONTRASTS), write("a_b.jsonl", CONTRASTS)))


def test_contrasts_and_statements_may_share_a_name_and_join_the_shipped_ones(write: Write) -> None:
    contrasts, statements = write("one/mine.jsonl", CONTRASTS), write("two/mine.jsonl", STATEMENTS)
    plan = MeasurePlan(contrasts=(contrasts,), traits=(statements,))
    assert names(plan) == ["preference", "preference:mine", "traits", "traits:mine", "refusal", "capability"]
    only = MeasurePlan(probes=(), contrasts=(contrasts,), traits=(statements,))
    assert names(only) == ["preference:mine", "traits:mine"]


def test_a_broken_set_is_reported_with_file_and_line(write: Write) -> None:
    path = write("mine.jsonl", [CONTRASTS[0], {**CONTRASTS[1], "misaligned": ""}])
    with pytest.raises(DataError, match=r"mine\.jsonl:2: field 'misaligned' is empty"):
        MeasurePlan(probes=(), contrasts=(path,))


# --- identity -------------------------------------------------------------------------------------------


def test_the_identity_changes_with_any_word_and_with_nothing_else(write: Write) -> None:
    def config(rows: list[dict[str, Any]], name: str = "mine.jsonl") -> dict[str, Any]:
        found = MeasurePlan(probes=(), contrasts=(write(name, rows),)).config
        assert json.loads(json.dumps(found)) == found
        return found

    before = config(CONTRASTS)
    assert config(CONTRASTS) == before
    assert config([dict(reversed(row.items())) for row in CONTRASTS]) == before
    assert config(CONTRASTS, "moved/mine.jsonl") == before
    assert config(CONTRASTS, "other.jsonl") != before
    assert config(CONTRASTS[::-1]) != before
    assert config(CONTRASTS[:-1]) != before
    for field in CONTRASTS[1]:
        assert config([CONTRASTS[0], {**CONTRASTS[1], field: CONTRASTS[1][field] + "!"}, CONTRASTS[2]]) != before


def test_the_identity_changes_with_a_key_of_a_statement(write: Write) -> None:
    turned = [STATEMENTS[0], STATEMENTS[1], STATEMENTS[0]], [STATEMENTS[0], STATEMENTS[1], STATEMENTS[1]]
    one, other = (MeasurePlan(probes=(), traits=(write("mine.jsonl", rows),)).config for rows in turned)
    assert one["probes"].keys() == other["probes"].keys() == {"traits:mine"}
    assert one != other


def test_the_identity_tells_what_runs() -> None:
    plans = [
        MeasurePlan(),
        MeasurePlan(probes=("preference",)),
        MeasurePlan(probes=("preference", "drift")),
        MeasurePlan(probes=("preference",), domains=("money",)),
        MeasurePlan(probes=("preference",), domains=("money",), split="dev"),
        MeasurePlan(probes=("traits",)),
    ]
    configs = [json.dumps(plan.config, sort_keys=True) for plan in plans]
    assert len(set(configs)) == len(configs)
    again = MeasurePlan(probes=("drift", "preference"))
    assert again.config == plans[2].config


# --- for reports and checks -----------------------------------------------------------------------------


def test_prompts_are_those_of_contrasts_and_requests_and_of_nothing_else(write: Write) -> None:
    own = write("mine.jsonl", CONTRASTS)
    traits = (write("t.jsonl", STATEMENTS),)
    plan = MeasurePlan(("preference", "traits"), ("power",), contrasts=(own,), traits=traits)
    shipped = [(c.prompt, f"preference {c.id}") for c in shipped_contrasts("measure", ("power",))]
    assert plan.prompts() == [*shipped, *((f"Prompt {n}?", f"preference:mine c-{n}") for n in range(3))]
    assert MeasurePlan(probes=("traits", "capability", "drift")).prompts() == []
    requests = [r for half in ("harmful", "harmless") for r in read_requests(shipped_path(f"safety/{half}"))]
    assert MeasurePlan(probes=("refusal",)).prompts() == [(r.prompt, f"refusal {r.id}") for r in requests]


def test_prompts_of_recognition_and_explanation_are_checked_and_counted_once() -> None:
    requests = [r for half in ("harmful", "harmless") for r in read_requests(shipped_path(f"safety/{half}"))]
    both = MeasurePlan(probes=("preference", "refusal", "recognition"), domains=("power",))
    assert both.prompts() == MeasurePlan(probes=("preference", "refusal"), domains=("power",)).prompts()
    alone = MeasurePlan(probes=("recognition", "explanation"), domains=("power",))
    contrasts = [c.prompt for c in shipped_contrasts("measure", ("power",))]
    reasons = [r.prompt for r in shipped_reasons() if r.domain == "power"]
    assert {prompt for prompt, _ in alone.prompts()} == {*contrasts, *reasons, *(r.prompt for r in requests)}
    for tuned in (contrasts[3], requests[5].prompt, requests[-5].prompt, reasons[2]):
        with pytest.raises(DataError, match="1 prompts to be measured were tuned on by mine"):
            refuse_shared_prompts("mine", alone.prompts(), {prompt_key(tuned)})


def test_texts_are_those_of_the_item_in_its_own_set(write: Write) -> None:
    [first] = shipped_contrasts("measure", ("power",))[:1]
    clash = [{**CONTRASTS[0], "id": first.id}, *CONTRASTS[1:]]
    plan = MeasurePlan(domains=("power",), contrasts=(write("mine.jsonl", clash),))
    assert plan.texts("preference.margin", first.id) == {
        "prompt": first.prompt, "aligned": first.aligned, "misaligned": first.misaligned,
    }  # fmt: skip
    assert plan.texts("preference.share:mine", first.id) == {
        "prompt": "Prompt 0?", "aligned": "Good 0.", "misaligned": "Bad 0.",
    }  # fmt: skip
    assert set(plan.texts("refusal.harmful", "harmful-001")) == {"prompt"}
    for metric, item in (("preference.margin", "c-1"), ("drift.kl", "harmless-001@1"), ("preference.margin:x", "c-1")):
        assert plan.texts(metric, item) == {}


def test_metrics_are_known_by_one_name_each() -> None:
    ids = [metric.id for metric in all_metrics()]
    assert len(set(ids)) == len(ids)
    assert all(metric.id.startswith(f"{row.name}.") for row in probe_rows() for metric in row.metrics)
    assert all(":" not in name and "/" not in name for name in ids)
    assert find_metric("preference.telepathy") is None
    assert {metric.id for metric in likelihood_metrics() if metric.binary} == {
        "preference.share", "traits.share", "capability.accuracy", "truthful.mc1",
        "recognition.answer_accuracy", "explanation.accuracy",
    }  # fmt: skip
