"""Scores of other tasks count as Inspect counts them, and what cannot be read is named."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inspect_ai import Epochs, Task, eval, score
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import EvalLog, read_eval_log, write_eval_log
from inspect_ai.model import ModelOutput
from inspect_ai.scorer import Score, Scorer, Target, accuracy, at_least, mean, scorer, value_to_float
from inspect_ai.solver import Generate, Solver, TaskState, solver

from aftertune.errors import DataError, UsageError
from aftertune.inspect_bridge import LoggedRun, read_log
from aftertune.inspect_bridge._foreign_tasks import number_of
from aftertune.stats import Policy
from aftertune.verbs import compare_logs

COUNT = 40
Values = dict[tuple[str, int], Any]


@solver
def canned() -> Solver:
    async def solve(state: TaskState, generate: Generate) -> TaskState:
        state.output = ModelOutput.from_content("mockllm/one", f"attempt {state.epoch}")
        return state

    return solve


def giving(name: str, values: Values, metrics: Any = None) -> Scorer:
    @scorer(name=name, metrics=metrics or [mean()])
    def listed() -> Scorer:
        async def judged(state: TaskState, target: Target) -> Score:
            return Score(value=values[str(state.sample_id), state.epoch])

        return judged

    return listed()


def run(folder: Path, scorers: list[Scorer], epochs: Any = 1, count: int = COUNT) -> EvalLog:
    rows = [Sample(id=f"q{n}", input=f"ask {n}") for n in range(count)]
    task = Task(dataset=MemoryDataset(rows), solver=canned(), scorer=scorers, name="odd", epochs=epochs)
    [log] = eval(task, model="mockllm/one", log_dir=str(folder), display="none")
    assert log.status == "success", log.error
    return log


def share(good: Any, bad: Any, of_good: int) -> Values:
    return {(f"q{n}", 1): good if n < of_good else bad for n in range(COUNT)}


def means(logged: LoggedRun) -> dict[str, float]:
    found: dict[str, list[float]] = defaultdict(list)
    for m in logged.measurements:
        found[m.metric.partition(":")[2]].append(m.value)
    return {metric: math.fsum(values) / len(values) for metric, values in found.items()}


def reported(log: EvalLog, scorer_name: str, reducer: str | None = None) -> float:
    assert log.results
    [entry] = [s for s in log.results.scores if s.scorer == scorer_name and s.reducer == reducer]
    return float(next(iter(entry.metrics.values())).value)


@given(
    st.one_of(
        st.sampled_from(["C", "I", "P", "N", "yes", "No", "TRUE", "false", " 0.5", "1e-3", "-2", "0_1"]),
        st.floats(allow_nan=False, allow_infinity=False),
        st.integers(-5, 5),
        st.booleans(),
        st.floats(-1e6, 1e6).map(str),
    )
)
def test_a_value_is_the_number_that_inspect_makes_of_it(value: Any) -> None:
    assert number_of(value) == value_to_float()(value)


@pytest.mark.parametrize("value", ["c", "maybe", "", "nan", "inf", "85%", None, [1.0], {"a": 1}, math.nan])
def test_what_inspect_takes_for_nothing_is_no_number(value: Any) -> None:
    assert math.isnan(number_of(value))


TEXTS = {
    "yes": ("yes", "no"),
    "grade": ("C", "I"),
    "number": ("1.0", "0.0"),
    "bool": (True, False),
    "true": ("True", "FALSE"),
}


def test_a_text_beside_another_scorer_counts(tmp_path: Path) -> None:
    def side(name: str, kept: int) -> EvalLog:
        made = [giving(text, share(*pair, kept)) for text, pair in TEXTS.items()]
        made.append(
            giving("parts", share({"safe": "yes", "why": "so"}, {"safe": "no", "why": "no"}, kept), {"safe": [mean()]})
        )
        made.append(giving("format", share(1.0, 0.0, COUNT)))
        return run(tmp_path / name, made)

    base, tuned = side("base", COUNT), side("tuned", 4)
    outcome = compare_logs(Path(base.location), Path(tuned.location), out=tmp_path / "run")
    found = {f.metric.partition(":")[2]: f for f in outcome.findings}
    for text in TEXTS:
        assert (found[f"odd.{text}"].base, found[f"odd.{text}"].tuned) == (reported(base, text), reported(tuned, text))
        assert found[f"odd.{text}"].decision == "fail"
    assert (found["odd.parts.safe"].base, found["odd.parts.safe"].tuned) == (1, 0.1)
    assert "odd.parts.why" not in found
    assert "not read, being texts that Inspect does not count: parts.why" in outcome.verdict.note


@pytest.mark.parametrize("bad", [[0.0, 1.0], "green", None], ids=["list", "text", "entry"])
def test_what_cannot_be_read_is_named_and_does_not_pass(tmp_path: Path, bad: Any) -> None:
    values, metrics = share(bad, bad, COUNT), None
    if bad is None:
        values, metrics = share({"safe": "green"}, {"safe": "red"}, COUNT), {"safe": [mean()]}
    logs = [
        run(tmp_path / side, [giving("safe", values, metrics), giving("format", share(1.0, 0.0, COUNT))])
        for side in ("base", "tuned")
    ]
    wide = Policy(tolerances={"inspect.undirected": 0.2})
    paths = [Path(log.location) for log in logs]
    outcome = compare_logs(*paths, wide, out=tmp_path / "run")
    assert outcome.verdict.decision == "inconclusive"
    assert any("odd.safe" in reason for reason in outcome.verdict.reasons)
    assert "is not read: its values are" in outcome.verdict.note
    name = next(f.metric for f in outcome.findings if ".safe" in f.metric)
    silent = Policy(tolerances={"inspect.undirected": 0.2}, decides={name: False})
    assert compare_logs(*paths, silent, out=tmp_path / "silent").verdict.decision == "pass"


def test_an_unscored_side_is_missing_and_not_left_out(tmp_path: Path) -> None:
    scored, unscored = share(1.0, 0.0, COUNT), share(math.nan, math.nan, COUNT)
    others = giving("format", share(1.0, 0.0, COUNT))
    base, tuned = (run(tmp_path / n, [giving("safe", v), others]) for n, v in (("base", scored), ("tuned", unscored)))
    outcome = compare_logs(Path(base.location), Path(tuned.location), out=tmp_path / "run")
    assert any("odd.safe" in reason for reason in outcome.verdict.reasons)
    assert outcome.verdict.decision == "inconclusive"


@pytest.mark.parametrize("reducer", ["max", "mode", "median", "at_least_2", "pass_at_2", "pass_k_2"])
def test_answers_are_reduced_as_the_log_says(tmp_path: Path, reducer: str) -> None:
    draw = random.Random(7)
    values = {(f"q{n}", e): float(draw.random() < 0.3) for n in range(12) for e in (1, 2, 3)}
    log = run(tmp_path, [giving("judged", values)], Epochs(3, reducer), 12)
    logged = read_log(Path(log.location))
    assert means(logged) == {f"odd.{reducer}": pytest.approx(reported(log, "judged", reducer))}
    assert reported(log, "judged", reducer) != pytest.approx(math.fsum(values.values()) / 36)
    assert len(logged.measurements) == 12
    assert {m.item for m in logged.measurements} == logged.answers.keys()
    assert logged.answers["q0"].answer == "[1] attempt 1\n\n[2] attempt 2\n\n[3] attempt 3"


def test_a_threshold_that_the_reducers_name_does_not_tell_is_the_logs_own(tmp_path: Path) -> None:
    values = {(f"q{n}", e): 0.6 if n < 4 else 0.1 for n in range(8) for e in (1, 2)}
    log = run(tmp_path, [giving("judged", values)], Epochs(2, [at_least(2, value=0.5), "mean"]), 8)
    found = means(read_log(Path(log.location)))
    assert found == {"odd.at_least_2": 0.5, "odd": pytest.approx(0.35)}
    assert reported(log, "judged", "at_least_2") == 0.5


def test_an_attempt_that_nobody_graded_leaves_its_question_open(tmp_path: Path) -> None:
    values: Values = {(f"q{n}", e): 0.0 for n in range(8) for e in (1, 2)}
    values["q3", 2] = math.nan
    logged = read_log(Path(run(tmp_path, [giving("judged", values)], Epochs(2, "max"), 8).location))
    assert [m.item for m in logged.measurements if math.isnan(m.value)] == ["q3"]


def test_numbers_that_are_not_those_of_the_results_are_refused(tmp_path: Path) -> None:
    right = share("right", "wrong", 10)
    log = run(
        tmp_path / "own", [giving("named", right, [accuracy(value_to_float(correct="right", incorrect="wrong"))])]
    )
    with pytest.raises(DataError, match=r"no score in it is a number \(named: its values are texts, and no numbers"):
        read_log(Path(log.location))
    turned = [accuracy(value_to_float(correct=0, incorrect=1))]
    log = run(tmp_path / "turned", [giving("turned", share(1, 0, 10), turned)])
    assert reported(log, "turned") == 0.75
    with pytest.raises(DataError, match=r"scorer 'turned' has a mean of 0.75 in the log's results and of 0.25"):
        read_log(Path(log.location))


def test_a_scorer_that_was_appended_is_named_and_the_shared_one_compared(tmp_path: Path) -> None:
    logs = [run(tmp_path / side, [giving("judged", share(1.0, 0.0, COUNT))]) for side in ("base", "tuned")]
    twice = score(logs[1], giving("second", share(1.0, 0.0, 3)), action="append", display="none")
    write_eval_log(twice, str(tmp_path / "twice.eval"))
    wide = Policy(tolerances={"inspect.undirected": 0.2})
    outcome = compare_logs(Path(logs[0].location), tmp_path / "twice.eval", wide, out=tmp_path / "run")
    assert [f.metric for f in outcome.findings] == ["inspect.undirected:odd"]
    assert outcome.verdict.decision == "pass"
    assert outcome.verdict.note == "odd, tuned: scored in one log only, and not compared: second"
    alone = score(logs[1], giving("second", share(1.0, 0.0, 3)), action="overwrite", display="none")
    write_eval_log(alone, str(tmp_path / "alone.eval"))
    with pytest.raises(UsageError, match=r"differ in scored \(scored: \['judged'\] and \['second'\]\)"):
        compare_logs(Path(logs[0].location), tmp_path / "alone.eval", out=tmp_path / "other")


def test_answers_of_another_model_are_missing(tmp_path: Path) -> None:
    from inspect_ai.model import ModelFallback

    log = run(tmp_path, [giving("judged", share(1.0, 0.0, COUNT))])
    log = read_eval_log(log.location)
    assert log.samples
    fields = {name: "mockllm/x" for name, field in ModelFallback.model_fields.items() if field.is_required()}
    log.samples[0].model_fallbacks = [ModelFallback.model_construct(**fields)]
    write_eval_log(log, str(tmp_path / "other.json"))
    logged = read_log(tmp_path / "other.json")
    assert [m.item for m in logged.measurements if math.isnan(m.value)] == ["q0#1"]
    assert logged.notes == ("1 of 40 answers given by another model (a fallback)",)
