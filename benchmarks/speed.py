"""How fast scoring is, as ratios side by side in one run, and how quickly the command line answers.

    python benchmarks/speed.py contrasts --subject smollm2
    python benchmarks/speed.py truthfulqa --csv TruthfulQA.csv     # needs: pip install 'aftertune[bench]'
    python benchmarks/speed.py startup

Rivals take turns within a round, so that a slow minute of the machine hits all of them; figures are medians
over the rounds.
"""

from __future__ import annotations

import argparse
import csv
import functools
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from aftertune.data import ask, read_truthfulqa, shipped_contrasts
from aftertune.model import PromptAnswers, Subject, load, score
from aftertune.probes import truthful
from aftertune.probes._truthful import plain_prompt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    contrasts = verbs.add_parser("contrasts")
    truthfulqa = verbs.add_parser("truthfulqa")
    truthfulqa.add_argument("--csv", type=Path, required=True)
    truthfulqa.add_argument("--questions", type=int, default=60)
    startup = verbs.add_parser("startup")
    for one, rounds in ((contrasts, 3), (truthfulqa, 1), (startup, 7)):
        one.add_argument("--rounds", type=int, default=rounds)
    for one in (contrasts, truthfulqa):
        one.add_argument("--subject", default="smollm2")
    arguments = parser.parse_args()
    if arguments.verb == "contrasts":
        bench_contrasts(load(arguments.subject), arguments.rounds)
    elif arguments.verb == "truthfulqa":
        bench_truthfulqa(load(arguments.subject), arguments.csv, arguments.questions, arguments.rounds)
    else:
        bench_startup(arguments.rounds)


def bench_contrasts(subject: Subject, rounds: int) -> None:
    """Scoring the shipped contrasts against bare forward passes over the same distinct tokens."""
    cases = [
        PromptAnswers(
            subject.chat.prompt(ask(c.prompt)),
            tuple(subject.chat.response(ask(c.prompt), answer) for answer in (c.aligned, c.misaligned)),
        )
        for c in shipped_contrasts("measure")
    ]
    distinct = sum(case.tokens for case in cases)
    flat = [token for case in cases for ids in (case.prompt, *case.responses) for token in ids]
    width = statistics.median_low([case.tokens for case in cases])
    rows = max(1, subject.max_batch_tokens // width)
    blocks = torch.tensor(flat[: len(flat) // width * width]).view(-1, width).split(rows)

    def bare(logits: bool) -> None:
        model: Any = subject.model
        inner = model if logits else model.get_decoder()
        with torch.inference_mode():
            for block in blocks:
                inner(input_ids=block.to(subject.device), use_cache=False)

    times = _take_turns(
        {
            "aftertune: likelihoods of both answers": lambda: score(subject, cases),
            "bare forward pass, logits everywhere": lambda: bare(True),
            "bare forward pass, no logits at all": lambda: bare(False),
        },
        rounds,
    )
    print(f"\n{len(cases)} contrasts, {distinct} distinct tokens (prompt once, each answer once); medians of {rounds}")
    _print(times)


def bench_truthfulqa(subject: Subject, path: Path, count: int, rounds: int) -> None:
    """MC1 beside lm-evaluation-harness: same model object, prompt, items."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    questions = [replace(q, true=(q.best,)) for q in read_truthfulqa(path)[:count]]
    model: Any = subject.model
    harness = HFLM(pretrained=model, tokenizer=subject.tokenizer, batch_size=8)
    requests = [
        Instance("loglikelihood", {}, (plain_prompt(q.question), f" {answer}"), index)
        for q in questions
        for index, answer in enumerate((q.best, *q.false))
    ]
    found: dict[str, Sequence[float]] = {}

    def ours() -> None:
        cases = [case for question in truthful(questions).build(subject) for case in question.cases]
        found["ours"] = [one.total for scores in score(subject, cases) for one in scores]

    def theirs() -> None:
        found["theirs"] = [total for total, _ in harness.loglikelihood(requests, disable_tqdm=True)]

    times = _take_turns({"aftertune": ours, "lm-evaluation-harness": theirs}, rounds)
    gap = max(abs(a - b) / max(1.0, abs(b)) for a, b in zip(found["ours"], found["theirs"], strict=True))
    print(f"\n{count} questions, {len(requests)} choices; medians of {rounds}")
    _print(times)
    for name, totals in found.items():
        print(f"MC1 {name}: {_mc1(questions, totals):.4f}")
    print(f"largest relative difference of a log-likelihood: {gap:.1e}")


def _mc1(questions: Sequence[Any], totals: Sequence[float]) -> float:
    rest, right = iter(totals), 0
    for question in questions:
        best, *false = [next(rest) for _ in range(1 + len(question.false))]
        right += best > max(false)
    return right / len(questions)


def bench_startup(rounds: int) -> None:
    """Seconds until the command line or an import answers, in new processes."""
    commands = {
        "aftertune --help": [sys.executable, "-m", "aftertune", "--help"],
        "import aftertune": [sys.executable, "-c", "import aftertune"],
        "bare python": [sys.executable, "-c", "pass"],
    }
    rivals = {n: functools.partial(subprocess.run, c, check=True, capture_output=True) for n, c in commands.items()}
    times = _take_turns(rivals, rounds)
    print(f"\nmedians of {rounds}")
    _print(times)


def _take_turns(rivals: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for number in range(rounds):
        for name, run in rivals.items():
            began = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - began)
            print(f"round {number + 1}: {name}: {times[name][-1]:.2f} s", file=sys.stderr, flush=True)
    return times


def _print(times: Mapping[str, list[float]]) -> None:
    first = statistics.median(next(iter(times.values())))
    writer = csv.writer(sys.stdout, delimiter="\t", lineterminator="\n")
    writer.writerow(["what", "seconds", "first as a multiple of this"])
    for name, seconds in times.items():
        median = statistics.median(seconds)
        writer.writerow([name, f"{median:.3f}", f"{first / median:.2f}" if math.isfinite(median) else ""])


if __name__ == "__main__":
    main()
