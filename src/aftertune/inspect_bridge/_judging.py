"""Who judged the answers of a log, by what, and who changed a score by hand."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from aftertune.inspect_bridge._likeness import plain
from aftertune.inspect_bridge._samples import item_of

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample
    from inspect_ai.scorer import Score

GRADER = "grader"


def rubrics(log: EvalLog) -> list[str]:
    """What judges were asked, as our scorers note it; nothing for tasks of others."""
    found = {json.dumps((score.metadata or {}).get("rubrics")) for _, _, score in _scores(log)}
    nothing = json.dumps(None)
    return sorted(found - {nothing}) or sorted(found)


def graders(log: EvalLog) -> dict[str, list[str]]:
    """Who has which role. Who judged is what the scores say: `inspect score` leaves the log's head as it was."""
    named = {name: _models(role) for name, role in sorted((log.eval.model_roles or {}).items())}
    noted = {judge for sample in log.samples or () if (judge := _first_judge(sample))}
    return {**named, GRADER: sorted(noted)} if noted else named


def roles(log: EvalLog, names: Mapping[str, list[str]]) -> dict[str, Any]:
    """Settings and arguments of the models that have roles, but of graders only those that judged.

    Where a model is served does not count, as it does not for the model itself: ports change from run to run.

    Args:
        log: for its head.
        names: who has which role, see `graders`.
    """
    return {
        name: [
            _without_address(plain(model))
            for model in _listed(role)
            if name != GRADER or _name(model) in names.get(GRADER, [])
        ]
        for name, role in sorted((log.eval.model_roles or {}).items())
    }


def _without_address(model: Any) -> Any:
    return {key: value for key, value in model.items() if key != "base_url"} if isinstance(model, dict) else model


def scorers(log: EvalLog) -> dict[str, Any]:
    """Each scorer's options (the judge inside it is one) and metrics, by the name that its scores have."""
    found: dict[str, Any] = {}
    for scorer in log.eval.scorers or ():
        bare = scorer.name.rpartition("/")[2]
        names = (
            bare,
            *(f"{bare}{number}" for number in range(1, len(found) + 2)),
        )  # as Inspect tells equal names apart
        found[next(name for name in names if name not in found)] = {
            "scorer": scorer.name,
            "options": plain(scorer.options or {}),
            "metrics": plain(_metrics(scorer.metrics)),
        }
    return found


def _metrics(metrics: Any) -> Any:
    if isinstance(metrics, dict):
        return {key: _metrics(inner) for key, inner in metrics.items()}
    if isinstance(metrics, list):
        return [_metrics(one) for one in metrics]
    return metrics


def judges(log: EvalLog) -> dict[str, list[str]]:
    """The models that graded, by scorer, as Inspect's own graders note them; with none named a model judges itself."""
    found: dict[str, set[str]] = defaultdict(set)
    for _, name, score in _scores(log):
        grading = (score.metadata or {}).get("grading")
        for message in grading if isinstance(grading, list) else ():
            if isinstance(message, Mapping) and message.get("role") == "assistant" and message.get("model"):
                found[name].add(str(message["model"]))
    return {name: sorted(models) for name, models in sorted(found.items())}


def other_models(log: EvalLog) -> list[str]:
    """Models that took part beside the one under test, where no score says who judged."""
    if graders(log) or judges(log):
        return []
    used = {name for sample in log.samples or () for name in sample.model_usage}
    return sorted(used - {log.eval.model})


def edited(log: EvalLog) -> dict[str, list[str]]:
    """Answers whose score somebody changed after the run, by scorer."""
    found: dict[str, list[str]] = defaultdict(list)
    for sample, name, score in _scores(log):
        if any(edit.provenance is not None for edit in score.history):
            found[name].append(item_of(sample))
    return {name: sorted(items) for name, items in sorted(found.items())}


def _scores(log: EvalLog) -> Iterator[tuple[EvalSample, str, Score]]:
    for sample in log.samples or ():
        for name, score in (sample.scores or {}).items():
            yield sample, name, score


def _first_judge(sample: EvalSample) -> str | None:
    notes = (score.metadata or {} for score in (sample.scores or {}).values())
    return next((n["grader"] for n in notes if "rubrics" in n and isinstance(n.get("grader"), str)), None)


def _models(role: Any) -> list[str]:
    return [_name(model) for model in _listed(role)]


def _listed(role: Any) -> list[Any]:
    return role if isinstance(role, list) else [role]


def _name(model: Any) -> str:
    return str(getattr(model, "model", model))
