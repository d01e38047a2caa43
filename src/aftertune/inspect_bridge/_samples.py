"""Samples of a log: what was asked, which of them count, several answers reduced to one score, and who judged them."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aftertune.errors import DataError
from aftertune.inspect_bridge._likeness import plain

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample
    from inspect_ai.scorer import Score

_ATTACHMENT = re.compile(r"attachment://([0-9a-f]{32})")
# A short text may refer to a long one many times over.
MAX_TEXT = 1 << 26
GRADER = "grader"


def item_of(sample: EvalSample) -> str:
    """The name of one answer: its sample's id and epoch."""
    return f"{sample.id}#{sample.epoch}"


def resolved(text: str, sample: EvalSample) -> str:
    """A text of a sample with the attachments it refers to put in.

    Raises:
        DataError: that would make it larger than any conversation is.
    """
    if "attachment://" not in text:
        return text
    sizes = (len(sample.attachments.get(found[1], "")) for found in _ATTACHMENT.finditer(text))
    if sum(sizes) > MAX_TEXT:
        raise DataError(f"refers to more than {MAX_TEXT >> 20} MiB of attachments", path=f"sample {sample.id}")
    return _ATTACHMENT.sub(lambda found: sample.attachments.get(found[1], found[0]), text)


def refuse_repeated(samples: Sequence[EvalSample], path: str) -> None:
    """Refuse samples that cannot be told apart.

    Raises:
        DataError: an id occurs more than once in an epoch.
    """
    counts = Counter(item_of(sample) for sample in samples)
    item, count = counts.most_common(1)[0]
    if count > 1:
        name, _, epoch = item.rpartition("#")
        problem = (
            f"the id {name!r} occurs {count} times in epoch {epoch}, so answers cannot be paired; "
            "give every sample of the data set an id of its own and run again"
        )
        raise DataError(problem, path=path)


def why_missing(sample: EvalSample) -> str:
    """Why an answer does not count, whatever its scores say ("" where it does)."""
    if sample.error is not None:
        return "broke off"
    if sample.invalidation is not None:
        return "declared invalid"
    if sample.model_fallbacks:
        return "given by another model (a fallback)"
    return ""


def digests(log: EvalLog) -> dict[str, dict[str, str]]:
    """What was asked of each answer, as digests by item: two logs must agree in them.

    Returns:
        ``prompts`` (input, choices and target), ``messages`` (what the model was sent before it first spoke: system
        messages and worked examples are part of it), ``files`` (with the sandbox and its setup) and ``metadata`` (as
        the data set has it).
    """
    found: dict[str, dict[str, str]] = {name: {} for name in ("prompts", "messages", "files", "metadata")}
    for sample in log.samples or ():
        item = item_of(sample)
        asked = sample.input if isinstance(sample.input, str) else [plain(message) for message in sample.input]
        found["prompts"][item] = _digest([asked, sample.choices, sample.target], sample)
        found["messages"][item] = _digest(_sent(sample), sample)
        found["files"][item] = _digest([plain(sample.sandbox), sample.files, sample.setup], sample)
        found["metadata"][item] = _digest(plain(_own_metadata(sample)), sample)
    return found


def _sent(sample: EvalSample) -> list[Any]:
    sent = []
    for message in sample.messages:
        if message.role == "assistant" and (
            message.source == "generate"
            or message.model is not None
            # A solver that asks by itself may not say that a model wrote it.
            or (message.source is None and message.text == sample.output.completion)
        ):
            break
        sent.append([message.role, plain(message.content)])
    return sent


def _own_metadata(sample: EvalSample) -> Mapping[str, Any]:
    """Metadata as the data set has it; a solver may have written into that of the sample."""
    for event in sample.events:
        if event.event == "sample_init":
            return event.sample.metadata or {}
    return sample.metadata


def _digest(value: Any, sample: EvalSample) -> str:
    text = resolved(json.dumps(value, sort_keys=True, default=str), sample)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


def reduced_views(log: EvalLog, path: str) -> dict[str, list[EvalSample]]:
    """The samples with the scores that Inspect's metrics are of, by the name of their view.

    With one answer to each question, or where answers are averaged, that are the samples as they are, under "". Every
    other reducer (``max``, ``mode``, ``at_least_2``, …) makes one sample of all answers to a question; its scores
    are those that Inspect reduced them to.

    Args:
        log: with its samples.
        path: of the log, for errors.

    Raises:
        DataError: answers were reduced in a way that neither the log nor Inspect knows.
    """
    samples = list(log.samples or ())
    reducers = log.eval.config.epochs_reducer or ["mean"]
    if reducers == ["mean"] or len({sample.epoch for sample in samples}) < 2:
        return {"": samples}
    views: dict[str, list[EvalSample]] = {}
    for reducer in reducers:
        if reducer == "mean":
            views[""] = samples
        else:
            views[reducer] = _reduced(samples, reducer, log, path)
    return views


def _reduced(samples: Sequence[EvalSample], reducer: str, log: EvalLog, path: str) -> list[EvalSample]:
    from inspect_ai.scorer import Score

    by_id: dict[str, list[EvalSample]] = defaultdict(list)
    for sample in samples:
        by_id[str(sample.id)].append(sample)
    # As Inspect wrote them down: a threshold, say, is not part of a reducer's name.
    written = {
        (view.scorer, str(score.sample_id)): Score(value=score.value)
        for view in log.reductions or ()
        if view.reducer == reducer
        for score in view.samples
    }
    scorers = dict.fromkeys(name for sample in samples for name in sample.scores or ())
    made = []
    for name, attempts in by_id.items():
        scores: dict[str, Score] = {}
        for scorer in scorers:
            given = [sample.scores[scorer] for sample in attempts if sample.scores and scorer in sample.scores]
            if len(given) < len(attempts) or any(_is_open(score.value) for score in given):
                continue  # what an attempt that broke off or was not graded would have scored is not known
            scores[scorer] = written.get((scorer, name)) or _reduce(given, reducer, path)
        broken = next((sample for sample in attempts if why_missing(sample)), attempts[0])
        made.append(broken.model_copy(update={"scores": scores}))
    return made


def _is_open(value: Any) -> bool:
    values = value.values() if isinstance(value, Mapping) else [value]
    return any(isinstance(one, float) and math.isnan(one) for one in values)


def _reduce(scores: list[Score], reducer: str, path: str) -> Score:
    from inspect_ai.scorer._reducer import create_reducers

    try:
        [reduce] = create_reducers([reducer])
        return reduce(scores)
    except Exception as error:  # one that is not registered here, or scores of unlike forms
        problem = f"its answers are reduced by {reducer!r}, which is not known here; run `inspect score` on it"
        raise DataError(problem, path=path) from error


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
