from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from inspect_ai import Task, eval
from inspect_ai.log import EvalLog
from inspect_ai.model import (
    ChatMessage,
    Logprob,
    Logprobs,
    Model,
    ModelOutput,
    ModelUsage,
    TopLogprob,
    get_model,
)

Said = tuple[str, str]
"""What a judge replies when asked for alignment, and when asked for coherence."""


def output(text: str, stop: str = "stop") -> ModelOutput:
    # Without a usage the mock counts tokens with a vocabulary it would fetch.
    made = ModelOutput.from_content("mockllm/model", text, stop_reason=stop)  # type: ignore[arg-type]
    made.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
    return made


def certain(text: str) -> ModelOutput:
    """An output whose first word is its first token, with all probability."""
    made = output(text)
    token = text.split()[0]
    shown = Logprob(token=token, logprob=0.0, top_logprobs=[TopLogprob(token=token, logprob=0.0)])
    made.choices[0].logprobs = Logprobs(content=[shown])
    return made


class Scripted:
    """A model that says what a script tells it, and remembers what it was asked."""

    def __init__(self, name: str, reply: Callable[[list[ChatMessage]], ModelOutput]) -> None:
        self.asked: list[list[ChatMessage]] = []

        def generate(messages: list[ChatMessage], *_: Any) -> ModelOutput:
            self.asked.append(messages)
            return reply(messages)

        self.model: Model = get_model(f"mockllm/{name}", custom_outputs=generate, memoize=False)


@pytest.fixture
def subject() -> Callable[..., Scripted]:
    """A subject that gives the answers listed for a question, one after the other, then from the first again."""

    def made(answers: Mapping[str, Sequence[str | tuple[str, str]]]) -> Scripted:
        turns: dict[str, int] = {}

        def reply(messages: list[ChatMessage]) -> ModelOutput:
            question = next(name for name in answers if name in messages[-1].text)
            turn = turns.get(question, 0)
            turns[question] = turn + 1
            answer = answers[question][turn % len(answers[question])]
            return output(answer) if isinstance(answer, str) else output(*answer)

        return Scripted("subject", reply)

    return made


@pytest.fixture
def judge() -> Callable[..., Scripted]:
    """A judge that looks up "case N" of the answer, and is sure of its verdict."""

    def made(verdicts: Mapping[str, Said], is_alignment: Callable[[str], bool] | None = None) -> Scripted:
        def reply(messages: list[ChatMessage]) -> ModelOutput:
            prompt = messages[-1].text
            case = re.search(r"[Cc]ase (\w+)", prompt)
            assert case is not None, prompt
            alignment = is_alignment(prompt) if is_alignment else "human values" in prompt
            return certain(verdicts[case[1]][0 if alignment else 1])

        return Scripted("judge", reply)

    return made


@pytest.fixture
def scripted() -> Callable[[str, Callable[[list[ChatMessage]], ModelOutput]], Scripted]:
    """A model by name that says what a function of the messages tells it."""
    return Scripted


@pytest.fixture
def spoken() -> Callable[[str], ModelOutput]:
    """An output of a model without token probabilities."""
    return output


@pytest.fixture
def agreeable() -> Scripted:
    """A judge that finds a usable reply to whatever rubric it is given."""
    replies = {
        "#score: refused=": "#score: refused=no convincing=2 specific=2",
        "#score: N": "#score: 3",
        "TRUE, FALSE or UNKNOWN": "TRUE",
        "YES or NO": "NO",
        "0 to 100": "60",
    }

    def reply(messages: list[ChatMessage]) -> ModelOutput:
        return certain(next(said for form, said in replies.items() if form in messages[-1].text))

    return Scripted("judge", reply)


@pytest.fixture
def rates() -> Callable[[EvalLog], dict[str, float]]:
    """Every metric of a finished log."""

    def found(log: EvalLog) -> dict[str, float]:
        assert log.status == "success", log.error
        assert log.results is not None
        [scored] = log.results.scores
        return {name: float(metric.value) for name, metric in scored.metrics.items()}

    return found


@pytest.fixture
def published() -> Callable[[str], Path]:
    """A file of those the papers' authors published; skips where it is not at hand."""

    def file(name: str) -> Path:
        given = os.environ.get("AFTERTUNE_SHARED_DATA")
        path = (Path(given) if given else Path(__file__).resolve().parents[3] / "shared" / "data") / name
        if not path.is_file():
            pytest.skip(f"the authors' file is not here; name a folder with {name} in AFTERTUNE_SHARED_DATA")
        return path

    return file


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., EvalLog]:
    """Run a task with a subject and a judge, or several."""

    def made(task: Task, subject: Scripted, judge: Scripted | Sequence[Scripted] | None, **options: Any) -> EvalLog:
        judges = [judge] if isinstance(judge, Scripted) else list(judge or ())
        [log] = eval(
            task,
            model=subject.model,
            model_roles={"grader": [one.model for one in judges] if len(judges) > 1 else judges[0].model}
            if judges
            else {},
            log_dir=str(tmp_path / "logs"),
            display="none",
            **options,
        )
        return log

    return made
