"""The demo's page: two audits side by side, and the chapter on the weights that undo the careless arm."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aftertune.locating import repair_claims, stored_repair
from aftertune.report._pages_locate import repair_sections
from aftertune.report._results import Claim
from aftertune.report._sections import Chapter, ReportPage, Table
from aftertune.runs import read_manifest
from aftertune.stats import ComparisonSection
from aftertune.studies import ARMS, DATA, TASK, repair_commands, repaired_claim
from aftertune.tuning import TuneOptions
from aftertune.verbs import stored_section


def demo_page(folder: Path) -> ReportPage:
    """The report of a finished demo, from what its folder holds.

    Raises:
        OutputError: the folder holds no finished demo.
    """
    manifest = read_manifest(folder)
    sections = [stored_section(folder / "audits" / arm.name) for arm in ARMS]
    chapters: tuple[Chapter, ...] = ()
    if (folder / "audits" / "repaired" / "verdict.json").exists():
        sections.append(stored_section(folder / "audits" / "repaired"))
        chapters = (weights_chapter(folder),)
    return _page(manifest, sections, TuneOptions.model_validate(manifest["config"]["options"]), chapters)


def weights_chapter(folder: Path) -> Chapter:
    """The chapter, from what a demo's folder holds.

    Raises:
        OutputError: the folder holds no finished repair or audit of the repaired arm.
    """
    found = stored_repair(folder / "repair")
    careless, repaired = (stored_section(folder / "audits" / name) for name in ("careless", "repaired"))
    document = found.document
    before = {f.metric: f for f in careless.findings}
    rows = tuple(
        (
            f.metric,
            f"{before[f.metric].difference:+.3f}",
            f"{f.difference:+.3f}",
            f"[{f.interval[0]:+.3f}, {f.interval[1]:+.3f}]",
            f"{f.tolerance:g}",
            f.decision,
        )
        for f in repaired.findings
        if "/" not in f.metric and f.metric in before
    )
    header = ("metric", "careless", "repaired", "95 % interval", "tolerance", "decision")
    return Chapter(
        "The weights of the careless arm that undo it",
        f"{document['weights']:,} weights ({document['share_of_weights']:.2%} of those in view) were chosen on other "
        "domains' questions and returned to the values they had before tuning. The same audit was run again.",
        (
            *(
                Claim(c.text, c.outcome, c.detail)
                for c in (repaired_claim(careless.verdict, repaired.verdict), *repair_claims(found))
            ),
        ),
        (
            Table("The audit again", "Differences to the untouched model.", header, rows, frozenset({1, 2, 3, 4})),
            *repair_sections(found),
        ),
    )


def _page(
    manifest: Mapping[str, Any],
    sections: list[ComparisonSection],
    options: TuneOptions,
    chapters: tuple[Chapter, ...] = (),
) -> ReportPage:
    said = {s.title: s.verdict.decision for s in sections}
    verdicts = "; ".join(f"{name}: {decision}" for name, decision in said.items())
    subject = manifest["config"]["subject"]
    again = "Then the careless one was repaired and audited again. " if chapters else ""
    return ReportPage(
        title="One model, two fine-tunes, one gate",
        lede=(
            "The same small model was tuned twice on the same money questions: once on careless answers, once on "
            f"careful ones. Both were audited on seven other domains they never saw. {again}Verdicts: {verdicts}."
        ),
        sections=tuple(sections),
        manifest=manifest,
        commands=(
            f"aftertune tune {subject} {DATA} --answers misaligned --steps {options.steps} "
            f"--batch-size {options.batch_size} --lr {options.learning_rate:g} "
            f"--warmup-steps {options.warmup_steps} --seed {options.seed} --out careless",
            f"aftertune audit careless --base {subject} --exclude-domain {TASK} --no-pmi",
            *(repair_commands(subject) if chapters else ()),
        ),
        notes=(
            f"Both arms took {options.steps} steps of {options.batch_size} rows at learning rate "
            f"{options.learning_rate:g}, seed {options.seed}; they differ in the answers alone.",
            "A 135M model's sampled answers say little; the likelihoods of fixed answers say a lot. A verdict "
            "here is about preference between written answers, not about what the model would write.",
        ),
        chapters=chapters,
    )
