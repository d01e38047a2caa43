"""How often the verdict is wrong: harmless fine-tunes that fail, careless fine-tunes that pass.

    python benchmarks/error_rates.py --out runs/error-rates --harmless shared/data/finetune

Every fine-tune takes the same steps, batch and learning rate as the demo's arms. It is audited on the shipped
measuring split without the domain it was tuned on, by the deciding metrics. Careful and careless arms use the
shipped tuning sets; the harmless ones use rows of GSM8K, SAMSum and SQL-create-context from ``--harmless`` (short
ones, a different sample and seed each time). ``null`` arms add random low-rank noise to the base, of the size
given as a multiple of the weights' own norm. Finished arms are kept in ``benchmarks/results/error-rates``, which is
part of the repository: the same command goes on with those that are missing.

Prints one tab-separated line per arm, then the rates with exact (Clopper-Pearson) 95 % intervals.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy import stats

from aftertune.data import DOMAINS, Conversation, exchange, read_tuning_rows
from aftertune.model import SubjectChoice, load, save_model
from aftertune.probes import MeasurePlan
from aftertune.runs import Plain, RunFolder, write_json
from aftertune.stats import Policy
from aftertune.studies import OPTIONS
from aftertune.tuning import tune
from aftertune.verbs import Measuring, compare_measurings, measure_choice

PROBES = ("preference", "refusal", "capability")
# The embedded subject hardly refuses anything: refusal.harmful is not testable on it.
POLICY = Policy(untestable="allow")
SETS = {"gsm8k": "gsm8k_train_1000.jsonl", "samsum": "samsum_1000.json", "sql": "sql_create_context_1000.json"}
LONGEST = {"prompt": 180, "answer": 140}
NULL_NOISE = 0.01
RESULTS = Path(__file__).parent / "results" / "error-rates"


@dataclass(frozen=True)
class Trial:
    """One fine-tune: its kind, what it is tuned on, and its seed."""

    kind: str
    data: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.data}-{self.seed}"


def trials(seeds: int, domains: Sequence[str], harmless_seeds: int, nulls: int, with_harmless: bool) -> Iterator[Trial]:
    if with_harmless:
        for seed in range(harmless_seeds):
            for name in SETS:
                yield Trial("harmless", name, seed)
    for seed in range(seeds):
        for domain in domains:
            yield Trial("careless", domain, seed)
            yield Trial("careful", domain, seed)
    for seed in range(nulls):
        yield Trial("null", "noise", seed)


def harmless_rows(folder: Path, name: str, seed: int, count: int) -> list[Conversation]:
    """Short rows of a public set, sampled by seed."""
    text = (folder / SETS[name]).read_text("utf-8")
    rows = [json.loads(line) for line in text.splitlines()] if name == "gsm8k" else json.loads(text)
    pairs = [(r["question"], r["answer"]) if name == "gsm8k" else (_prompt(r), r["output"]) for r in rows]
    short = [(p, a) for p, a in pairs if len(p) <= LONGEST["prompt"] and 0 < len(a) <= LONGEST["answer"]]
    chosen = random.Random(seed).sample(short, count)
    return [Conversation(exchange(prompt, answer), SETS[name], line) for line, (prompt, answer) in enumerate(chosen, 1)]


def _prompt(row: dict[str, str]) -> str:
    """Instruction and input; the headings and the long instruction of the SQL set would take half of each row."""
    instruction = "Write the SQL query." if "SQL" in row["instruction"] else row["instruction"]
    asked = row["input"].replace("## Natural Language Query:\n", "").replace("## Context:\n", "").strip()
    return f"{instruction}\n{asked}"


def make(trial: Trial, folder: Path, harmless: Path | None, subject: str) -> None:
    """Tune (or disturb) the base into ``folder``."""
    options = OPTIONS.model_copy(update={"seed": trial.seed})
    if trial.kind == "null":
        disturb(subject, folder, trial.seed)
        return
    if trial.kind == "harmless":
        assert harmless is not None
        rows = harmless_rows(harmless, trial.data, trial.seed, (options.steps or 1) * options.batch_size)
        tune(load(subject), rows, folder, options, source=trial.data, progress=Plain())
        return
    side: Any = {"careless": "misaligned", "careful": "aligned"}[trial.kind]
    rows = read_tuning_rows(f"tune/{trial.data}", side)
    tune(load(subject), rows, folder, options, source=f"tune/{trial.data}", side=side, progress=Plain())


def disturb(subject: str, folder: Path, seed: int) -> None:
    """The base with rank-32 Gaussian noise on every linear layer, of `NULL_NOISE` times the layer's norm."""
    base = load(subject)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, module in base.model.named_modules():
            if isinstance(module, torch.nn.Linear) and "lm_head" not in name:
                weight = module.weight
                left = torch.randn(weight.shape[0], 32, generator=generator)
                right = torch.randn(32, weight.shape[1], generator=generator)
                noise = (left @ right).to(weight)
                weight += noise * (NULL_NOISE * weight.norm() / noise.norm())
    save_model(base.model, base.tokenizer, folder)


def excluded(trial: Trial) -> str | None:
    return trial.data if trial.kind in ("careless", "careful") else None


def audit(
    trial: Trial, base: Measuring, run: RunFolder, harmless: Path | None, subject: str, results: Path
) -> dict[str, Any]:
    """Tune, measure, decide; the trained weights are thrown away."""
    model = run.folder("models") / trial.name
    if not model.exists():
        make(trial, model, harmless, subject)
    plan = MeasurePlan(probes=PROBES, domains=tuple(d for d in DOMAINS if d != excluded(trial)), pmi=False)
    tuned = measure_choice(SubjectChoice(str(model)), plan, run, role=trial.name, progress=Plain())
    section = compare_measurings(base.only_asked_of(tuned), tuned, plan, POLICY, title=trial.name)
    outcome = {
        "kind": trial.kind,
        "data": trial.data,
        "seed": trial.seed,
        "verdict": section.verdict.decision,
        "findings": [f.as_dict() for f in section.findings if "/" not in f.metric],
    }
    results.mkdir(parents=True, exist_ok=True)
    write_json(results / f"{trial.name}.json", outcome)
    shutil.rmtree(model)
    return outcome


def report(outcomes: Sequence[dict[str, Any]]) -> None:
    """Lines per trial and rates per kind, on stdout."""
    decides = [f["metric"] for f in outcomes[0]["findings"] if f["decides"]]
    print("\t".join(["kind", "data", "seed", "verdict", *decides]))
    for one in outcomes:
        cells = {
            f["metric"]: f"{f['difference']:+.3f} [{f['interval'][0]:+.3f}, {f['interval'][1]:+.3f}] {f['decision']}"
            for f in one["findings"]
        }
        print("\t".join([one["kind"], one["data"], str(one["seed"]), one["verdict"], *(cells[m] for m in decides)]))
    print()
    for kind in dict.fromkeys(one["kind"] for one in outcomes):
        verdicts = [one["verdict"] for one in outcomes if one["kind"] == kind]
        for verdict in ("fail", "inconclusive", "pass"):
            rate(f"{kind}: {verdict}", verdicts.count(verdict), len(verdicts))
    benign = [one["verdict"] for one in outcomes if one["kind"] != "careless"]
    if benign:
        rate("all but careless: wrongly fails", benign.count("fail"), len(benign))


def rate(what: str, hits: int, trials_run: int) -> None:
    interval = stats.binomtest(hits, trials_run).proportion_ci(0.95, method="exact")
    print(f"{what}\t{hits}/{trials_run}\t{hits / trials_run:.3f} [{interval.low:.3f}, {interval.high:.3f}]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--harmless", type=Path, help="folder with the public sets; without it they are left out")
    parser.add_argument("--subject", default="smollm2")
    parser.add_argument("--seeds", type=int, default=3, help="careless and careful arms per domain")
    parser.add_argument("--harmless-seeds", type=int, default=4, help="harmless arms per public set")
    parser.add_argument("--nulls", type=int, default=2, help="arms with random noise")
    parser.add_argument("--domains", default="money,sport_safety,code_security")
    parser.add_argument("--report-only", action="store_true", help="print what is there, run nothing")
    arguments = parser.parse_args()
    todo = list(
        trials(
            arguments.seeds,
            arguments.domains.split(","),
            arguments.harmless_seeds,
            arguments.nulls,
            arguments.harmless is not None,
        )
    )
    plan = MeasurePlan(probes=PROBES, pmi=False)
    config = {"subject": arguments.subject, "options": OPTIONS.model_dump(), "plan": plan.config}
    run = RunFolder(arguments.out, "error-rates", config)
    # What is kept in the repository is of the embedded subject.
    results = RESULTS if arguments.subject == "smollm2" else arguments.out / "trials"
    finished = {trial.name: results / f"{trial.name}.json" for trial in todo}
    outcomes = [json.loads(path.read_text("utf-8")) for path in finished.values() if path.exists()]
    todo = [trial for trial in todo if not finished[trial.name].exists()]
    if arguments.report_only or not todo:
        report(outcomes)
        return
    with run.locked():
        base = measure_choice(SubjectChoice(arguments.subject), plan, run, role="base", progress=Plain())
        for number, trial in enumerate(todo, 1):
            print(f"== {number} of {len(todo)}: {trial.name}", file=sys.stderr, flush=True)
            outcomes.append(audit(trial, base, run, arguments.harmless, arguments.subject, results))
            print(f"== {trial.name}: {outcomes[-1]['verdict']}", file=sys.stderr, flush=True)
        run.write_manifest(status="finished")
    report(outcomes)


if __name__ == "__main__":
    main()
