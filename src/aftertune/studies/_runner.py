"""Running a study: make each arm, read it, decide all claims at once, keep everything; resumable at any moment."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from aftertune.errors import UsageError
from aftertune.model import Placement, SubjectChoice, check_subject, subject_content
from aftertune.runs import (
    Progress,
    RunFolder,
    Silent,
    Store,
    entered,
    explain_damage,
    fingerprint,
    read_document,
    shared_store,
    write_bytes,
    write_json,
)
from aftertune.stats import ClaimResult, ClaimTest, Effects, Measurement, decide_claims, recipe_mean
from aftertune.studies._lab import SCHEMA, Arm, Claim, Results, Size, Study
from aftertune.studies._readings import Read, read_arm
from aftertune.studies._workshop import Lab, content_of
from aftertune.tuning import TuneOptions
from aftertune.verbs import draw

DOCUMENT = "study.json"


def run_study(
    study: Study,
    subject: str,
    out: Path | None = None,
    *,
    size: Size = "small",
    seeds: tuple[int, ...] | None = None,
    placement: Placement | None = None,
    keep_models: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run a study, or continue it, or read it again where it is finished.

    Args:
        study: as written.
        subject: the base of all arms that name none of their own.
        out: run folder (``runs/NAME`` if left out, with the scale unless that is "small").
        size: its scale.
        seeds: of seeded arms; those of the scale if left out.
        placement: device, dtype, batch bound.
        keep_models: leave fine-tunes in the shared store, where another study finds them.
        progress: follows the work.

    Returns:
        What ``study.json`` holds, and ``run``, the folder.

    Raises:
        UsageError: a step, reading or seed is wrong, or two seeds of an arm gave one model.
        OutputError: the folder holds something else.
    """
    progress, placement = progress or Silent(), placement or Placement()
    items, study = study.items(size), study.at(size, seeds)
    check_subject(subject, placement=placement)
    _refuse_unequal_options(study)
    config = {
        "subject": subject,
        "content": subject_content(subject),
        "arms": fingerprint(content_of(study.arms)),
        "readings": fingerprint(content_of(study.readings)),
        "claims": [{**asdict(replace(claim, effects=None)), "effects": bool(claim.effects)} for claim in study.claims],
        "seeds": list(study.seeds),
        "items": items,
        "scale": size,
        "placement": asdict(placement),
    }
    folder = out or study.folder(size)
    run = RunFolder(folder, f"study {study.name}", config)

    def measured() -> dict[str, Any]:
        shared = shared_store(run.path / "store")
        lab = Lab(SubjectChoice(subject, placement=placement), shared if keep_models else Store(run.path / "models"),
                  shared, progress)  # fmt: skip
        results = read_all(study, lab, items, keep_models=keep_models)
        write_table(run.path / "measurements.parquet", results)
        command = command_of(study, subject, size, out=folder)
        return document_of(results, size, {"spec": subject, "content": config["content"]}, command)

    with entered(run):
        return finished_study(run, measured)


def finished_study(run: RunFolder, measure: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Measure unless that was done, keep the document, draw. The run's folder is entered already.

    Returns:
        The document as it is on disk, and ``run``, the folder.
    """
    if not run.finished:
        write_json(run.path / DOCUMENT, measure())
        run.write_manifest(status="finished")
    draw(run.path)
    with explain_damage(run.path):
        document: dict[str, Any] = read_document(run.path / DOCUMENT)
    return {**document, "run": str(run.path)}


def command_of(study: Study, subject: str, size: Size, out: Path) -> str:
    """The command line that makes a study again."""
    seeds = ",".join(map(str, study.seeds))
    words = ["aftertune", "study", study.name, "--subject", subject, "--seeds", seeds, "--scale", size]
    return shlex.join([*words, "--out", str(out)])


def jobs_of(study: Study) -> list[tuple[Arm, int | None]]:
    """Every arm with every seed it is made for, in the order they are made."""
    unseeded = [(arm, None) for arm in study.arms if not arm.seeded]
    return [*unseeded, *((arm, seed) for seed in study.seeds for arm in study.arms if arm.seeded)]


def read_all(study: Study, lab: Lab, items: int | None = None, *, keep_models: bool = False) -> Results:
    """Make and read every arm; a fine-tune is deleted once no further arm needs it."""
    found: dict[tuple[str, int | None], list[Read]] = {}
    jobs = jobs_of(study)
    with lab.progress.task(study.name, len(jobs)) as step:
        for number, (arm, seed) in enumerate(jobs, 1):
            found[arm.name, seed] = [read_arm(lab, arm, seed, reading, items) for reading in study.readings]
            if not keep_models:
                lab.forget([lab.key(a, s, n) for a, s in jobs[number:] for n in range(1, len(a.steps) + 1)])
            step(1, arm.name if seed is None else f"{arm.name}, seed {seed}")
    measured: dict[tuple[str, str, int | None], list[Measurement]] = {}
    for (name, seed), reads in found.items():
        for reading, one in zip(study.readings, reads, strict=True):
            measured.setdefault((name, reading.name, seed), []).extend(one.measurements)
    documents = {job: {k: v for one in reads for k, v in one.document.items()} for job, reads in found.items()}
    about = {job: next((one.facts for one in reads if one.measurements), {}) for job, reads in found.items()}
    results = Results(study, measured, documents, about)
    _refuse_equal_seeds(results)
    return results


def _refuse_equal_seeds(results: Results) -> None:
    """Four seeds that are one model say no more than one seed does."""
    digests: dict[tuple[str, str], int] = {}
    for (arm, _, seed), found in results.measured.items():
        if seed is None or not found:
            continue
        other = digests.setdefault((arm, found[0].subject), seed)
        if other != seed:
            raise UsageError(
                f"study {results.study.name}: seeds {other} and {seed} of the arm '{arm}' gave one and the same model; "
                "its steps do not use the seed, so write seeded=False"
            )


def _refuse_unequal_options(study: Study) -> None:
    """Refuse, before any work, claims whose fine-tunes differ in steps or batch without saying so."""
    arms = {arm.name: arm for arm in study.arms}
    for claim in study.claims:
        if claim.differs or claim.effects is not None:
            continue
        efforts = {
            name: [(o.steps, o.epochs, o.batch_size) for step in arms[name].steps if (o := _options(step))]
            for name in claim.arms
            if arms[name].seeded
        }
        if len({str(one[-1:]) for one in efforts.values()}) > 1:
            raise UsageError(
                f"study {study.name}: the arms of the claim {claim.text!r} differ in steps or batch; make them the "
                "same, or name the difference in differs="
            )


def _options(step: Any) -> TuneOptions | None:
    found = getattr(step, "options", None)
    return found if isinstance(found, TuneOptions) else None


def decide_study(results: Results) -> list[ClaimResult]:
    """All claims of a study by the one rule of `decide_claims`, with Holm's correction over them.

    A claim is *inconclusive* too where the arm it is held against does not lie above the claim's ``known_above``, and
    where its seeded arms saw different effort which the claim does not name.
    """
    claims = results.study.claims
    tests = [
        ClaimTest(claim.text, claim.metric, effects_of(results, claim), claim.expect, claim.tolerance)
        for claim in claims
    ]
    decided = decide_claims(tests) if tests else []
    found = [_qualified(results, claim, one) for claim, one in zip(claims, decided, strict=True)]
    return [*found, *(results.study.also(results) if results.study.also else ())]


def effects_of(results: Results, claim: Claim) -> Effects:
    """What a claim is about: arm minus arm by item and seed, or the difference of two such differences."""
    if claim.effects is not None:
        return claim.effects(results)
    effects = results.effects(claim.arm, claim.metric)
    try:
        if isinstance(claim.against, str):
            return effects.minus(results.effects(claim.against, claim.metric))
        one, two, three = (results.effects(name, claim.metric) for name in claim.against)
        return effects.minus(one).minus(two.minus(three))
    except ValueError as error:
        raise UsageError(f"study {results.study.name}, {claim.text!r}: {error}") from error


def _qualified(results: Results, claim: Claim, found: ClaimResult) -> ClaimResult:
    if claim.known_above is not None and isinstance(claim.against, str):
        low, _ = recipe_mean(results.effects(claim.against, claim.metric)).interval()
        if not low > claim.known_above:
            said = f"'{claim.against}' is not surely above {claim.known_above:g}, so there is nothing to lose"
            return replace(found, outcome="inconclusive", detail=f"{found.detail}; {said}")
    if claim.effects is None and not claim.differs and (unlike := _unlike_effort(results, claim)):
        return replace(found, outcome="inconclusive", detail=f"{found.detail}; {unlike}")
    return found


def _unlike_effort(results: Results, claim: Claim) -> str:
    """How the last fine-tunes of a claim's seeded arms differ in effort ("" for not)."""
    seeded = [arm.name for arm in results.study.arms if arm.seeded and arm.name in claim.arms]
    efforts = [
        (name, about["efforts"][0])
        for (name, _), about in results.about.items()
        if name in seeded and about.get("efforts")
    ]
    for name, effort in efforts[1:]:
        first, other = efforts[0]
        for what in ("steps", "batch_size"):
            if effort[what] != other[what]:
                return f"unequal effort: {what} {other[what]} in '{first}', {effort[what]} in '{name}'"
        least, most = sorted((effort["supervised_tokens"], other["supervised_tokens"]))
        if least < (1 - results.study.effort_tolerance) * most:
            return f"unequal effort: '{first}' and '{name}' saw {least:,} and {most:,} supervised tokens"
    return ""


def document_of(results: Results, size: Size, subject: Mapping[str, Any], command: str) -> dict[str, Any]:
    """What ``study.json`` holds, as JSON values."""
    study = results.study
    decided = decide_study(results)
    fixed = [
        {
            "arm": claim.arm,
            "against": claim.against if isinstance(claim.against, str) else list(claim.against),
            "expect": claim.expect,
            "tolerance": claim.tolerance,
            "paper": asdict(claim.paper) if claim.paper else None,
            "differs": claim.differs,
        }
        for claim in study.claims
    ]
    return {
        "schema": SCHEMA,
        "study": study.name,
        "asks": study.asks,
        "source": study.source,
        "differs": list(study.differs),
        "scale": size,
        "subject": subject,
        "seeds": list(study.seeds) if any(arm.seeded for arm in study.arms) else [],
        "arms": [_arm(results, arm) for arm in study.arms],
        "claims": [
            {**one.as_dict(), **(fixed[n] if n < len(fixed) else {})} for n, one in enumerate(decided)
        ],
        "figures": [dict(figure) for figure in study.figure(results)] if study.figure else [],
        "command": command,
    }  # fmt: skip


def _arm(results: Results, arm: Arm) -> dict[str, Any]:
    """An arm's means by metric, one for each seed, and the effort of its fine-tunes."""
    means: dict[str, list[float]] = {}
    for (name, condition, _), found in results.measured.items():
        if name == arm.name:
            by_metric: dict[str, list[float]] = {}
            for m in found:
                by_metric.setdefault(m.metric, []).append(m.value)
            for metric, values in by_metric.items():
                means.setdefault(metric + (f"@{condition}" if condition else ""), []).append(statistics.fmean(values))
    efforts = [about.get("efforts", []) for (name, _), about in results.about.items() if name == arm.name]
    return {
        "arm": arm.name,
        "seeded": arm.seeded,
        "steps": [type(step).__name__ for step in arm.steps],
        "means": means,
        "efforts": efforts,
    }


def write_table(path: Path, results: Results) -> None:
    """Every number, one row each: arm, condition, seed and the fields of a measurement, as parquet."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {"arm": arm, "condition": condition, "seeded": seed is not None, **asdict(m)}
        for (arm, condition, seed), found in results.measured.items()
        for m in found
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    write_bytes(path, buffer.getvalue())
