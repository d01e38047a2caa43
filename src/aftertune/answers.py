"""Sampled answers of two subjects, side by side: drawing them, whether they compare, and which differ most."""

from __future__ import annotations

from collections.abc import Sequence

from aftertune.comparison import Policy
from aftertune.errors import UsageError
from aftertune.measures import LoggedRun, Measurement, TaskPlan, find_metric, run_tasks
from aftertune.measuring import SubjectChoice, release_memory
from aftertune.report import Example
from aftertune.runs import Progress, RunFolder

Pair = tuple[LoggedRun, LoggedRun]
LOGS = "logs"


def sample_both(
    base: SubjectChoice, tuned: SubjectChoice, plan: TaskPlan, run: RunFolder, *, progress: Progress | None = None
) -> list[Pair]:
    """Run the tasks on one subject, then on the other; their logs lie in the run folder.

    Args:
        base: the one compared to.
        tuned: the one compared.
        plan: which tasks, and how.
        run: the run folder.
        progress: told what goes on.

    Returns:
        The two runs of every task, in the order of the plan.
    """
    sides = []
    for role, choice in (("base", base), ("tuned", tuned)):
        subject = choice.load(progress)
        sides.append(run_tasks(subject, plan, run.folder(LOGS, role), progress=progress))
        del subject
        release_memory()
    ours, theirs = ({logged.task: logged for logged in side} for side in sides)
    pairs = [(ours[task], theirs[task]) for task in ours]
    for pair in pairs:
        refuse_unlike(*pair)
    return pairs


def refuse_unlike(base: LoggedRun, tuned: LoggedRun) -> None:
    """Refuse to compare runs that asked, sampled or judged differently.

    Raises:
        UsageError: it names what differs.
    """
    unlike = [key for key in base.asked if base.asked[key] != tuned.asked[key]]
    if not unlike:
        return
    key = unlike[0]
    mend = "score one again by `inspect score` with the other's judge" if key == "graders" else "run both alike"
    raise UsageError(
        f"{base.path}, {tuned.path}: cannot be compared, they differ in {', '.join(unlike)} "
        f"({key}: {base.asked[key]!r} and {tuned.asked[key]!r}); {mend}"
    )


def worst_answers(pairs: Sequence[Pair], policy: Policy, count: int) -> tuple[Example, ...]:
    """Answers that worsened most on what decides, with those of the base beside them.

    Args:
        pairs: base and tuned by task.
        policy: says which metrics decide.
        count: at most so many.
    """
    found: list[tuple[float, Example]] = []
    for base, tuned in pairs:
        earlier = {(m.metric, m.item): m.value for m in base.measurements}
        for m in tuned.measurements:
            value = earlier.get((m.metric, m.item))
            if value is not None and policy.deciding(m.metric) and _worsening(m, value) > 0:
                found.append((_worsening(m, value), _example(m, value, base, tuned)))
    found.sort(key=lambda pair: -pair[0])
    return tuple(example for _, example in found[:count])


def _worsening(tuned: Measurement, base: float) -> float:
    metric = find_metric(tuned.metric)
    assert metric is not None
    return (tuned.value - base) * (1 if metric.worse == "higher" else -1)


def _example(m: Measurement, before: float, base: LoggedRun, tuned: LoggedRun) -> Example:
    texts = {
        "question": tuned.answers[m.item].question,
        "answer of the base": base.answers[m.item].answer,
        "answer of the tuned": tuned.answers[m.item].answer,
        "judged": tuned.answers[m.item].judged,
    }
    return Example(m.metric, m.item, m.group, before, m.value, {key: text for key, text in texts.items() if text})
