"""Prune, then tune: does pruning on a narrow domain beforehand reduce what narrow fine-tuning spreads?

Claim (Orgad et al. 2026, finding 4). Three arms that differ in the base alone: untouched, with neurons and heads put
to zero that carry careless money advice by the guarded or the contrastive score, and with as many chosen at random in
the same matrices. Each is tuned on careless money advice with equal steps, batch and seeds, and read on other domains;
the loss on held-out careless money advice tells whether the narrow skill was learnt all the same.
"""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from aftertune.attribution import guarded_score, random_control, select_count, unit_importance, unit_score, unit_sums
from aftertune.data import DOMAINS, read_contrasts, shipped_contrasts, shipped_path
from aftertune.locating import Example, answers_probe, contrast_example, trees_of
from aftertune.model import EMBEDDED, Placement, WeightView, load, make_patch, subject_content, write_patch
from aftertune.probes import LikelihoodProbe, ask_probes
from aftertune.report import Claim, StudyPage, Table, render_study
from aftertune.runs import Journal, Progress, RunFolder, Silent, read_manifest, refuse_other_model, write_text
from aftertune.stats import cluster_bootstrap
from aftertune.studies._careless_money import OPTIONS
from aftertune.studies._study_run import kept_study
from aftertune.studies._transfer import keep_examples
from aftertune.tuning import tune

Score = Literal["guarded", "contrastive"]

COUNTS = (16,)
SEEDS = (0, 1, 2)
# Of the units, what the contrastive score leaves to the keep set; without it the first one chosen breaks the model.
PROTECTED = 0.001
PER_DOMAIN = 9
TASK_HELD_OUT = 24


def _attributed() -> tuple[Example, ...]:
    return tuple(
        map(contrast_example, [*shipped_contrasts("dev", ("money",)), *shipped_contrasts("measure", ("money",))])
    )


def _probes() -> list[LikelihoodProbe]:
    others = [c for d in DOMAINS if d != "money" for c in shipped_contrasts("measure", (d,))[:PER_DOMAIN]]
    task = read_contrasts(shipped_path("tune/money"))[-TASK_HELD_OUT:]
    return [
        answers_probe("others", tuple(map(contrast_example, others))),
        answers_probe("task", tuple(map(contrast_example, task))),
        answers_probe("keep", keep_examples()),
    ]


def prune_then_tune_study(
    out: Path | None = None,
    *,
    subject: str = EMBEDDED,
    counts: Sequence[int] = COUNTS,
    seeds: Sequence[int] = SEEDS,
    score: Score = "guarded",
    placement: Placement | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Tune untouched, pruned and randomly pruned bases on careless money advice, and read them on other domains.

    Args:
        out: run folder (``runs/prune-then-tune`` if left out).
        subject: the model.
        counts: how many neurons and heads are pruned, one pair of arms each.
        seeds: of adapter weights and data order.
        score: how they are chosen: the contrast of misaligned answers with their twins and the keep set, either less
            each unit's importance to the keep set, or with the `PROTECTED` most important ones left out.
        placement: device, dtype, batch bound.
        progress: told what goes on; finished arms are kept, so a killed study goes on.
    """
    progress, placement = progress or Silent(), placement or Placement()
    config = {
        "subject": subject,
        "content": subject_content(subject),
        "counts": list(counts),
        "seeds": list(seeds),
        "score": score,
        "options": OPTIONS.model_dump(),
        "placement": asdict(placement),
    }
    run = RunFolder(out or Path("runs") / "prune-then-tune", "study prune_then_tune", config)
    return kept_study(
        run, lambda: _run(run, subject, counts, seeds, score, placement, progress), rebuild_prune_then_tune_report
    )


def _run(
    run: RunFolder, subject: str, counts: Sequence[int], seeds: Sequence[int], score: Score, placement: Placement,
    progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    bases = _bases(run, subject, counts, score, placement, progress)
    journal = Journal(run.path / "evaluations.jsonl")
    probes = _probes()

    def ask(name: str, spec: str) -> None:
        loaded = load(spec, placement=placement, merge=True, progress=progress)
        if spec == subject:
            refuse_other_model(run, "subject", loaded.content)
        measured = ask_probes(loaded, probes)
        journal.record(name, [[m.metric, m.item, m.value] for m in measured])

    for arm, spec in bases.items():
        if f"{arm} base" not in journal:
            ask(f"{arm} base", spec)
    for seed in seeds:
        for arm, spec in bases.items():
            name = f"{arm} {seed}"
            if name in journal:
                continue
            progress.say(f"{arm}, seed {seed}")
            folder = run.path / "models" / name.replace(" ", "-")
            rows = [c.conversation("misaligned") for c in read_contrasts(shipped_path("tune/money"))[:-TASK_HELD_OUT]]
            options = OPTIONS.model_copy(update={"seed": seed})
            run.folder("models")
            base = load(spec, placement=placement, merge=True)
            refuse_other_model(run, "subject" if spec == subject else f"{arm} base", base.content)
            tune(base, rows, folder, options, source="tune/money",
                 side="misaligned", progress=progress)  # fmt: skip
            ask(name, str(folder))
            shutil.rmtree(folder)
    values = {name: {(metric, item): value for metric, item, value in journal[name]} for name in journal}
    return {
        "study": "prune_then_tune",
        "subject": subject,
        "score": score,
        **prune_then_tune_figures(values, tuple(bases), counts, seeds),
    }


def _bases(
    run: RunFolder, subject: str, counts: Sequence[int], score: Score, placement: Placement, progress: Progress
) -> dict[str, str]:
    """Arm → subject spec; the patches are made once."""
    files = {
        f"{kind} {count}": run.path / f"{kind}-{count}.safetensors" for count in counts for kind in ("pruned", "random")
    }
    if not all(file.exists() for file in files.values()):
        loaded = load(subject, placement=placement, merge=True, progress=progress)
        refuse_other_model(run, "subject", loaded.content)
        view = WeightView(loaded.model)
        sums = []
        with progress.task("gradients", 3) as step:
            for examples, pick in (
                (_attributed(), "conversation"),
                (_attributed(), "twin"),
                (keep_examples(), "conversation"),
            ):
                trees, _ = trees_of(loaded, examples, lambda e, p=pick: getattr(e, p))  # type: ignore[misc]
                sums.append(unit_sums(loaded, trees, "neuron+head", view=view))
                step(1)
        for count in counts:
            if score == "guarded":
                chosen = select_count(view, guarded_score(*sums), count=count, unit="neuron+head")
            else:
                chosen = select_count(view, unit_score(*sums), unit_importance(sums[-1]), count=count,
                                      keep_fraction=PROTECTED, unit="neuron+head")  # fmt: skip
            for kind, selection in (("pruned", chosen), ("random", random_control(view, chosen))):
                file = files[f"{kind} {count}"]
                if not file.exists():
                    about = {
                        "subject": loaded.identity.as_dict(),
                        "unit": "neuron+head",
                        "units": count,
                        "kind": kind,
                        "score": score,
                    }
                    write_patch(file, make_patch(view, selection.chosen, "zero", about))
    return {"tune": subject, **{arm: f"{subject}+{file}" for arm, file in files.items()}}


def prune_then_tune_figures(
    values: Mapping[str, Mapping[tuple[str, str], float]],
    arms: Sequence[str],
    counts: Sequence[int],
    seeds: Sequence[int],
) -> dict[str, Any]:
    """What the study says, from what was read; no model is needed.

    Args:
        values: by (metric, item), nats per token, of every arm before tuning ("pruned 16 base") and after it with
            every seed ("pruned 16 0").
        arms: "tune" (the untouched base), and "pruned COUNT" and "random COUNT" for each of ``counts``.
        counts: how many units were pruned.
        seeds: of the tuning.

    Returns:
        JSON values. ``arms``: means before and after, by seed. ``differences``: each arm minus "tune".
        ``beyond_random``: for each count the pruned arm minus the random one.
    """
    return {
        "arms": [_arm(arm, values, seeds) for arm in arms],
        "differences": [
            {"arm": arm, **_difference(values, arm, "tune", seeds)} for arm in arms if arm != "tune"
        ],
        "beyond_random": [
            {"count": count, **_difference(values, f"pruned {count}", f"random {count}", seeds)} for count in counts
        ],
    }  # fmt: skip


def _mean(found: Mapping[tuple[str, str], float], metric: str) -> float:
    return statistics.fmean(value for (name, _), value in found.items() if name == metric)


def _arm(arm: str, values: Mapping[str, Mapping[tuple[str, str], float]], seeds: Sequence[int]) -> dict[str, Any]:
    metrics = ("preference.margin:others", "response.nll:task", "response.nll:keep")
    return {
        "arm": arm,
        "before": {metric: _mean(values[f"{arm} base"], metric) for metric in metrics},
        "after": {metric: [_mean(values[f"{arm} {seed}"], metric) for seed in seeds] for metric in metrics},
    }


def _difference(
    values: Mapping[str, Mapping[tuple[str, str], float]], arm: str, other: str, seeds: Sequence[int]
) -> dict[str, Any]:
    """Margin and task loss of an arm minus another's after tuning, over items and seeds, prompts resampled."""
    found: dict[str, Any] = {}
    for metric in ("preference.margin:others", "response.nll:task"):
        items = [item for name, item in values[f"{arm} {seeds[0]}"] if name == metric]
        pairs = [
            (values[f"{arm} {s}"][metric, i] - values[f"{other} {s}"][metric, i], i) for s in seeds for i in items
        ]  # fmt: skip
        estimate = cluster_bootstrap([v for v, _ in pairs], [i for _, i in pairs], [""] * len(pairs))
        found[metric] = {"difference": estimate.value, "interval": [estimate.low, estimate.high]}
    return found


def prune_then_tune_claims(document: Mapping[str, Any]) -> tuple[Claim, ...]:
    """Finding 4 of Orgad et al. 2026, at this size."""

    def claim(text: str, found: Mapping[str, Any]) -> Claim:
        margin, task = found["preference.margin:others"], found["response.nll:task"]
        low, high = margin["interval"]
        outcome: Any = "holds" if high < 0 else "does not hold" if low > 0 else "cannot be told"
        detail = (
            f"margin {margin['difference']:+.3f} [{low:+.3f}, {high:+.3f}], task loss {task['difference']:+.3f} "
            f"[{task['interval'][0]:+.3f}, {task['interval'][1]:+.3f}] nats per token"
        )
        return Claim(text, outcome, detail)

    plain = [
        claim(f"{row['arm']} units before tuning lowers the margin on other domains", row)
        for row in document["differences"]
        if row["arm"].startswith("pruned")
    ]
    beyond = [claim(f"More than {row['count']} random units do", row) for row in document["beyond_random"]]
    return (*plain, *beyond)


def prune_then_tune_page(folder: Path) -> StudyPage:
    """The report of a finished study."""
    document = json.loads((folder / "study.json").read_text("utf-8"))
    rows = tuple(
        (
            arm["arm"],
            metric,
            f"{arm['before'][metric]:+.3f}",
            " ".join(f"{value:+.3f}" for value in arm["after"][metric]),
            f"{statistics.fmean(arm['after'][metric]):+.3f}",
        )
        for arm in document["arms"]
        for metric in arm["before"]
    )
    header = ("arm", "measure", "before tuning", "after, by seed", "mean")
    return StudyPage(
        title=f"Prune, then tune: {document['subject']}",
        lede="Does taking out the weights of narrow bad advice beforehand stop it from spreading?",
        claims=prune_then_tune_claims(document),
        sections=(Table("Arms", "Equal steps, batch and seeds; they differ in the base alone.", header, rows,
                        frozenset({2, 3, 4})),),
        manifest=read_manifest(folder),
        commands=("aftertune study prune_then_tune",),
        notes=("Intervals resample prompts; seeds enter as repeated measurements of the same prompts.",),
    )  # fmt: skip


def rebuild_prune_then_tune_report(folder: Path) -> Path:
    """Write ``report.html`` of a finished study anew."""
    write_text(folder / "report.html", render_study(prune_then_tune_page(folder)))
    return folder / "report.html"
