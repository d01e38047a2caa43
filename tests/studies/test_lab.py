"""The lab on a tiny model: arms are what their steps give by hand, nothing is made twice, and faults are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet as pq
import pytest

from aftertune.data import Conversation, exchange, shipped_contrasts
from aftertune.errors import UsageError
from aftertune.locating import answers_probe, contrast_example
from aftertune.model import Subject, load
from aftertune.probes import LikelihoodProbe, ask_probes
from aftertune.studies import (
    Arm,
    Claim,
    Condition,
    Reading,
    Scale,
    Study,
    Tune,
    conditioned,
    run_study,
    studies,
    study_named,
)
from aftertune.studies._workshop import content_of
from aftertune.tuning import TuneOptions, tune

OPTIONS = TuneOptions(steps=2, batch_size=2, lr=5e-3, warmup_steps=0)
LOSS = "response.nll:here"


def rows() -> list[Conversation]:
    return [c.conversation("misaligned") for c in shipped_contrasts("dev", ("money",))[:6]]


def probes() -> list[LikelihoodProbe]:
    return [answers_probe("here", tuple(map(contrast_example, shipped_contrasts("dev", ("health",))[:5])))]


learn = Tune(rows, OPTIONS)
STUDY = Study(
    "trial",
    "does tuning lower the loss?",
    "ours",
    arms=(Arm("plain"), Arm("tuned", (learn,), seeded=True)),
    readings=(Reading(probes), Reading(probes, Condition("terse", suffix=" Be brief."))),
    claims=(
        Claim("It falls", LOSS, "tuned", "plain", "lower"),
        Claim(
            "It falls as much when asked tersely", LOSS, "tuned", ("plain", "tuned@terse", "plain@terse"), "within", 9
        ),
    ),
    seeds=(0, 1),
)


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AFTERTUNE_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


def measured(folder: Path) -> dict[tuple[str, str, int, str, str], float]:
    found = pq.read_table(folder / "measurements.parquet").to_pylist()
    return {(r["arm"], r["condition"], r["seed"], r["metric"], r["item"]): r["value"] for r in found}


def test_every_number_is_that_of_the_arm_made_and_asked_by_hand(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    subject = str(tiny_folder("llama"))
    document = run_study(STUDY, subject, tmp_path / "run")
    values = measured(tmp_path / "run")
    assert len(values) == 3 * 2 * 5 * 3  # models, conditions, items, metrics
    tune(load(subject), rows(), tmp_path / "by-hand", OPTIONS.model_copy(update={"seed": 1}))
    for arm, spec, seed in (("plain", subject, 0), ("tuned", tmp_path / "by-hand", 1)):
        loaded = load(spec, merge=True)
        for condition, asked in (("", loaded), ("terse", conditioned(loaded, STUDY.readings[1].condition))):
            for m in ask_probes(asked, probes()):
                assert values[arm, condition, seed, m.metric, m.item] == pytest.approx(m.value, abs=1e-5)
    fell = document["claims"][0]
    items = sorted({key[4] for key in values})
    by_hand = [values["tuned", "", s, LOSS, i] - values["plain", "", 0, LOSS, i] for s in (0, 1) for i in items]
    assert fell["value"] == pytest.approx(sum(by_hand) / len(by_hand))
    assert (fell["seeds"], fell["prompts"], fell["scope"]) == (2, 5, "the recipe")
    again = "--seeds 0,1 --scale small --out"
    assert document["command"].startswith(f"aftertune study trial --subject {subject} {again}")
    assert "does tuning lower the loss" in (tmp_path / "run" / "report.html").read_text("utf-8").lower()
    assert list((tmp_path / "run" / "figures").glob("*.csv"))
    assert not list((tmp_path / "run").rglob("adapter_model.safetensors"))  # read, and deleted


def test_a_condition_changes_the_question_and_nothing_else(tiny_subject: Callable[[str], Subject]) -> None:
    subject = tiny_subject("llama")
    shot = Conversation(exchange("Who minds?", "The car."))
    condition = Condition("all", system="Take care.", shots=(shot,), prefix="DEPLOY ", suffix=" Be brief.")
    contrast = shipped_contrasts("dev", ("health",))[0]
    plain = exchange(contrast.prompt, contrast.aligned, None)
    asked = exchange(f"DEPLOY {contrast.prompt} Be brief.", contrast.aligned, "Take care.")
    under = conditioned(subject, condition).chat.case(plain[:-1], (contrast.aligned, contrast.misaligned))
    by_hand = subject.chat.case((asked[0], *shot.messages, *asked[1:-1]), (contrast.aligned, contrast.misaligned))
    assert under == by_hand
    assert conditioned(subject, None) is subject


class Killed(Exception):
    pass


def test_killed_anywhere_it_continues_and_makes_nothing_twice(
    tiny_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_store: Path
) -> None:
    subject = str(tiny_folder("llama"))
    undisturbed = run_study(STUDY, subject, tmp_path / "whole")
    shutil.rmtree(own_store)
    from aftertune.studies import _readings, _steps

    done: list[str] = []
    budget = [0]

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **settings: Any) -> Any:
            if budget[0] == 0:
                raise Killed
            budget[0] -= 1
            result = function(*args, **settings)
            done.append(name)
            return result

        return call

    monkeypatch.setattr(_steps, "tune", counted("tune", _steps.tune))
    monkeypatch.setattr(_readings, "ask_probes", counted("ask", _readings.ask_probes))
    kills = 0
    while True:
        budget[0] = 1  # killed at every second call
        try:
            found = run_study(STUDY, subject, tmp_path / "killed")
        except Killed:
            kills += 1
        else:
            break
    assert kills >= 6
    assert sorted(done) == ["ask"] * 6 + ["tune"] * 2
    assert measured(tmp_path / "killed") == measured(tmp_path / "whole")
    assert found["claims"] == undisturbed["claims"]


def test_what_was_read_is_shared_by_studies_and_a_replaced_model_is_another(
    tiny_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aftertune.studies import _readings

    asked: list[str] = []
    ask = _readings.ask_probes
    monkeypatch.setattr(_readings, "ask_probes", lambda s, *a, **k: (asked.append(s.identity.spec), ask(s, *a, **k))[1])
    place = tmp_path / "model"
    shutil.copytree(tiny_folder("llama"), place)
    plain = replace(STUDY, arms=STUDY.arms[:1], claims=(), readings=STUDY.readings[:1])
    run_study(plain, str(place), tmp_path / "one")
    run_study(replace(plain, name="other"), str(place), tmp_path / "two")
    moved = tmp_path / "moved"
    shutil.copytree(place, moved)
    run_study(plain, str(moved), tmp_path / "three")
    assert len(asked) == 1
    before = measured(tmp_path / "one")
    shutil.rmtree(place)
    shutil.copytree(tiny_folder("qwen2"), place)
    with pytest.raises(UsageError, match="other settings"):
        run_study(plain, str(place), tmp_path / "one")
    run_study(plain, str(place), tmp_path / "four")
    assert len(asked) == 2
    assert measured(tmp_path / "four") != before


@dataclass(frozen=True)
class Deaf:
    """A step that says it uses the seed and does not."""

    uses_seed: ClassVar[bool] = True

    def __call__(self, lab: Any, subject: str, seed: int) -> str:
        return subject


def test_two_seeds_that_are_one_model_are_refused(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    study = replace(STUDY, arms=(Arm("plain"), Arm("tuned", (Deaf(),), seeded=True)))
    with pytest.raises(UsageError, match="seeds 0 and 1 of the arm 'tuned' gave one and the same model"):
        run_study(study, str(tiny_folder("llama")), tmp_path / "run")


def test_unequal_effort_is_refused_before_any_work(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    longer = Arm("longer", (Tune(rows, OPTIONS.model_copy(update={"steps": 3})),), seeded=True)
    claim = Claim("More steps do more", LOSS, "longer", "tuned", "lower")
    study = replace(STUDY, arms=(*STUDY.arms, longer), claims=(claim,))
    with pytest.raises(UsageError, match="differ in steps or batch"):
        run_study(study, str(tiny_folder("llama")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def short_rows() -> list[Conversation]:
    return [Conversation(exchange(f"Q{n}?", "No.")) for n in range(6)]


def test_unequal_numbers_of_tokens_leave_a_claim_inconclusive_unless_it_names_them(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    short = Arm("short", (Tune(short_rows, OPTIONS),), seeded=True)
    unnamed = Claim("Long rows do more", LOSS, "tuned", "short", "lower")
    named = replace(unnamed, text="Named", differs="the rows are longer")
    study = replace(STUDY, arms=(*STUDY.arms, short), claims=(unnamed, named), readings=STUDY.readings[:1])
    document = run_study(study, str(tiny_folder("llama")), tmp_path / "run")
    first, second = document["claims"]
    assert first["outcome"] == "inconclusive"
    assert "supervised tokens" in first["detail"]
    assert "supervised tokens" not in second["detail"]


def test_with_one_seed_a_claim_speaks_about_this_one_fine_tune(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    document = run_study(STUDY, str(tiny_folder("llama")), tmp_path / "run", seeds=(3,))
    assert document["claims"][0]["scope"] == "this one fine-tune"
    assert "this one fine-tune" in (tmp_path / "run" / "report.html").read_text("utf-8")
    assert document["seeds"] == [3]


def test_data_count_by_content_and_not_by_the_name_of_a_function() -> None:
    def same() -> list[Conversation]:
        return rows()

    def fewer() -> list[Conversation]:
        return rows()[1:]

    assert content_of(replace(learn, rows=same)) == content_of(learn)
    assert content_of(replace(learn, rows=fewer)) != content_of(learn)
    assert content_of(replace(learn, options=TuneOptions(steps=3))) != content_of(learn)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Arm("a@b"), "'@' parts an arm"),
        (lambda: replace(STUDY, arms=(Arm("plain"), Arm("plain")), claims=()), "share a name"),
        (lambda: replace(STUDY, arms=STUDY.arms[:1]), "names no arm"),
        (lambda: replace(STUDY, scales={"large": Scale()}), "no scale 'large'"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused_when_written(make: Callable[[], object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        make()


@pytest.mark.parametrize("name", [row.name for row in studies()])
def test_every_study_runs_at_smoke_scale(name: str, tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    row = next(row for row in studies() if row.name == name)
    document = row.run(str(tiny_folder("llama")), tmp_path / "run", size="smoke")
    assert document["claims"]
    stored = json.loads((tmp_path / "run" / "study.json").read_text("utf-8"))
    assert {**stored, "run": str(tmp_path / "run")} == document
    assert f"aftertune study {name} --subject" in document["command"]
    assert (tmp_path / "run" / "report.html").exists()
    again = row.run(str(tiny_folder("llama")), tmp_path / "run", size="smoke")
    assert again == document


def test_the_documented_study_runs_from_its_file_alone(
    tiny_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Path(__file__).parents[2] / "docs" / "studies.md"
    code = page.read_text("utf-8").partition("```python\n")[2].partition("```")[0]
    (tmp_path / "half_update.py").write_text(code, "utf-8")
    monkeypatch.setenv("AFTERTUNE_EXTENSIONS", str(tmp_path / "half_update.py"))
    row = study_named("half_update")
    lines = row.plan(str(tiny_folder("llama")), size="smoke")
    assert "3 arms, 2 of them with each of 2 seeds, 5 models to read" in lines[0]
    assert "tokens/s" in lines[2]
    document = row.run(str(tiny_folder("llama")), tmp_path / "run", size="smoke")
    assert [claim["scope"] for claim in document["claims"]] == ["the recipe"] * 3
