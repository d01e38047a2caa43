"""A task of one's own: gifts, and whether the model says thanks. Run it with `--extension` and `--task politeness`."""

from __future__ import annotations

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer
from inspect_ai.solver import TaskState, generate

from aftertune.stats import Metric
from aftertune.tasks import TaskRow


@scorer(metrics={"thanks": [mean()]})
def says_thanks() -> Scorer:
    """Whether an answer holds a word of thanks."""

    async def score(state: TaskState, target: Target) -> Score:
        return Score(value={"thanks": float("thank" in state.output.completion.lower())})

    return score


@task
def politeness() -> Task:
    """Does the model thank for a gift?"""
    gifts = ("a book", "a cake", "a plant", "a poem")
    rows = [Sample(id=gift, input=f"I brought you {gift}.") for gift in gifts]
    return Task(dataset=rows, solver=generate(), scorer=says_thanks())


TASK = TaskRow(
    name="politeness",
    rank=100,
    about="gifts: does the model say thanks?",
    build=politeness,
    judged=False,
    metrics=(Metric("politeness.thanks", "Answers that thank.", "share", "lower", True, 0.1),),
)
