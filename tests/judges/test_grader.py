"""Who may judge: never the subject, and never a silent stand-in."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig, Model, ModelOutput, get_model
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer
from inspect_ai.solver import TaskState, generate

from aftertune.errors import AftertuneError, UsageError
from aftertune.inspect_bridge import inspect_model
from aftertune.judges import grader, graders, same_model
from aftertune.model import Subject

Spoken = Callable[..., ModelOutput]


def model(spoken: Spoken, name: str = "mockllm/model", **arguments: Any) -> Model:
    return get_model(name, custom_outputs=lambda *_: spoken("hello"), **arguments)


@scorer(metrics=[mean()])
def who_judges() -> Scorer:
    async def score(state: TaskState, target: Target) -> Score:
        try:
            return Score(value=1, explanation=f"{grader()} {[str(judge) for judge in graders()]}")
        except AftertuneError as error:
            return Score(value=0, explanation=f"{type(error).__name__}: {error}")

    return score


@pytest.fixture
def told(tmp_path: Path) -> Callable[..., str]:
    """What `grader` says inside an evaluation."""

    def run(subject: Model, judges: Model | Sequence[Model] | None) -> str:
        task = Task(dataset=[Sample(input="?")], solver=generate(), scorer=who_judges())
        roles = {} if judges is None else {"grader": judges}
        [log] = eval(task, model=subject, model_roles=roles, log_dir=str(tmp_path), display="none")  # type: ignore[arg-type]
        assert log.status == "success", log.error
        assert log.samples is not None
        [found] = (log.samples[0].scores or {}).values()
        return str(found.explanation)

    return run


def test_the_grader_role_judges(told: Callable[..., str], spoken: Spoken) -> None:
    assert told(model(spoken), model(spoken, "mockllm/judge")) == "mockllm/judge ['mockllm/judge']"


def test_more_judges_than_one(told: Callable[..., str], spoken: Spoken) -> None:
    judges = [model(spoken, "mockllm/one"), model(spoken, "mockllm/two")]
    assert told(model(spoken), judges) == "mockllm/one ['mockllm/one', 'mockllm/two']"


def test_without_a_judge_the_subject_does_not_step_in(told: Callable[..., str], spoken: Spoken) -> None:
    message = told(model(spoken), None)
    assert message.startswith("UsageError")
    assert "--model-role grader=" in message
    assert "\n" not in message


def test_the_subject_may_not_judge_itself_nor_give_a_second_opinion(told: Callable[..., str], spoken: Spoken) -> None:
    subject = model(spoken)
    for judges in (subject, [model(spoken, "mockllm/judge"), subject]):
        message = told(subject, judges)
        assert message.startswith("UsageError: mockllm/model is the model under evaluation")
        assert "--model-role grader=" in message


def test_outside_an_evaluation_there_is_no_grader() -> None:
    with pytest.raises(UsageError, match="--model-role grader="):
        contextvars.Context().run(grader)  # an evaluation run before leaves its roles behind in this one


def test_models_are_told_apart(spoken: Spoken) -> None:
    weights = [object(), object()]
    one = model(spoken)
    copied = Model(one.api, GenerateConfig(temperature=0.5))
    assert same_model(one, copied), "the same provider object with other settings"
    reply = lambda *_: spoken("hello")  # noqa: E731

    def made(name: str = "mockllm/local", **arguments: Any) -> Model:
        return get_model(name, custom_outputs=reply, **arguments)

    assert same_model(made(model_path="a"), made(model_path="a"))
    assert not same_model(made(model_path="a"), made(model_path="b"))
    assert not same_model(made("mockllm/x"), made("mockllm/y"))
    assert not same_model(made(base_url="http://one"), made(base_url="http://two"))
    assert same_model(made(weights=weights[0]), made(weights=weights[0]))
    assert not same_model(made(weights=weights[0]), made(weights=weights[1]))


def test_subjects_of_ours_are_known_by_their_weights(tiny_subject: Callable[[str], Subject]) -> None:
    one, again, other = tiny_subject("llama"), tiny_subject("llama"), tiny_subject("gpt2")
    first, second = inspect_model(one), inspect_model(again)
    assert str(first) != str(second)
    assert same_model(first, second), "loaded twice, named twice"
    assert not same_model(first, inspect_model(other))
