"""How often a finding is wrong, by the shape of the data: simulated, with the project's own intervals.

    python benchmarks/verdict_rates.py --runs 2000 --json benchmarks/results/verdict-rates.json

Per shape, number of prompts and truth: how many runs in a hundred pass, and how many fail. With the truth exactly at
the tolerance both are wrong, and nominally 2.5 each. With no effect at all a fail is wrong, and what neither passes nor
fails is open. Differences without bounds have a standard deviation of 4.4 tolerances, as contrasts have (0.44 against
0.1); shares are held to 0.05.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aftertune.stats import MeanInterval, mean_interval

PROMPTS = (12, 24, 48, 76, 150, 252)
LEVEL = 0.025
SPREAD = 4.4
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Shape:
    """A way to draw differences.

    Attributes:
        name: for the table.
        draw: values and each one's prompt, of a generator, a number of prompts and a true mean in tolerances.
        extent: the range of a difference; None for metrics without bounds.
        tolerance: in the unit of the values.
    """

    name: str
    draw: Callable[[np.random.Generator, int, float], tuple[Numbers, Numbers]]
    extent: tuple[float, float] | None = None
    tolerance: float = 1.0

    def interval(self, rng: np.random.Generator, prompts: int, truth: float) -> MeanInterval:
        """One simulated data set's."""
        values, owners = self.draw(rng, prompts, truth)
        return mean_interval(values.tolist(), [str(owner) for owner in owners.tolist()], extent=self.extent)


def unbounded(standard: Callable[[np.random.Generator, int], Numbers]) -> Callable[..., tuple[Numbers, Numbers]]:
    """One difference a prompt, of mean zero and standard deviation one before it is scaled."""

    def draw(rng: np.random.Generator, prompts: int, truth: float) -> tuple[Numbers, Numbers]:
        return truth + SPREAD * standard(rng, prompts), np.arange(prompts, dtype=np.float64)

    return draw


def rare(rate: float, size: float) -> Callable[[np.random.Generator, int], Numbers]:
    """Normal, but a share of the prompts is moved by several standard deviations."""
    deviation = math.sqrt(1 + size**2 * rate * (1 - rate))
    return lambda rng, n: (rng.normal(0, 1, n) + size * ((rng.random(n) < rate) - rate)) / deviation


def lognormal(rng: np.random.Generator, n: int) -> Numbers:
    standard: Numbers = (np.exp(rng.normal(0, 1, n)) - math.exp(0.5)) / math.sqrt((math.e - 1) * math.e)
    return standard


def unequal(rng: np.random.Generator, prompts: int, truth: float) -> tuple[Numbers, Numbers]:
    """One to fifteen answers a prompt, half of whose variance is the prompt's."""
    sizes = np.minimum(rng.geometric(0.3, prompts), 15)
    noise = np.repeat(rng.normal(0, 1, prompts), sizes) + rng.normal(0, 1, int(sizes.sum()))
    return truth + SPREAD * noise / math.sqrt(2), np.repeat(np.arange(prompts, dtype=np.float64), sizes)


def share(base: float, answers: int = 1, kappa: float = 0.3) -> Callable[..., tuple[Numbers, Numbers]]:
    """Zeros and ones of two subjects; several answers to a prompt share its rate (beta distributed)."""

    def draw(rng: np.random.Generator, prompts: int, truth: float) -> tuple[Numbers, Numbers]:
        def answered(rate: float) -> Numbers:
            own = np.full(prompts, rate) if answers == 1 or not 0 < rate < 1 else rng.beta(
                kappa, kappa * (1 - rate) / rate, prompts
            )  # fmt: skip
            return (rng.random((prompts, answers)) < own[:, None]).astype(float).ravel()

        tuned = answered(base + 0.05 * truth)
        return tuned - answered(base), np.repeat(np.arange(prompts, dtype=np.float64), answers)

    return draw


def probability(rng: np.random.Generator, prompts: int, truth: float) -> tuple[Numbers, Numbers]:
    """A probability that is near 0.9 on the base and falls to nothing on a few prompts."""
    base = rng.beta(9, 1, prompts)
    lost = rng.random(prompts) < 0.05 * truth / 0.9
    return np.where(lost, base, 0.0), np.arange(prompts, dtype=np.float64)


SHAPES = (
    Shape("normal", unbounded(lambda rng, n: rng.normal(0, 1, n))),
    Shape("t, 3 degrees", unbounded(lambda rng, n: rng.standard_t(3, n) / math.sqrt(3))),
    Shape("exponential", unbounded(lambda rng, n: rng.exponential(1, n) - 1)),
    Shape("lognormal", unbounded(lognormal)),
    Shape("lognormal, turned", unbounded(lambda rng, n: -lognormal(rng, n))),
    Shape("1 in 50 ten SD worse", unbounded(rare(0.02, 10))),
    Shape("1 in 50 ten SD better", unbounded(rare(0.02, -10))),
    Shape("1 in 100 ten SD worse", unbounded(rare(0.01, 10))),
    Shape("1 in 20 five SD worse", unbounded(rare(0.05, 5))),
    Shape("unequal clusters", unequal),
    Shape("share, base 0", share(0.0), (-1, 1), 0.05),
    Shape("share, base 0.1", share(0.1), (-1, 1), 0.05),
    Shape("share, base 0.4", share(0.4), (-1, 1), 0.05),
    Shape("share, base 0, 10 answers a prompt", share(0.0, 10), (-1, 1), 0.05),
    Shape("probability, lost on a few", probability, (-1, 1), 0.05),
)


def rates(shape: Shape, prompts: int, truth: float, runs: int, seed: int) -> tuple[float, float]:
    """Shares of runs that pass and that fail; truth in tolerances."""
    rng = np.random.default_rng(seed)
    passed = failed = 0
    for _ in range(runs):
        found = shape.interval(rng, prompts, truth)
        if found.degenerate:  # inconclusive
            continue
        # The same as high < tolerance and low > tolerance, at one evaluation each.
        passed += found.turned().tail(-shape.tolerance) < LEVEL
        failed += found.tail(shape.tolerance) < LEVEL
    return passed / runs, failed / runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    began, table = time.perf_counter(), []
    print("| shape | truth | what | " + " | ".join(map(str, PROMPTS)) + " |")
    print("|---|---|---|" + "---:|" * len(PROMPTS))
    for shape in SHAPES:
        for truth in (1.0, 0.0):
            found = {n: rates(shape, n, truth, options.runs, options.seed + n) for n in PROMPTS}
            table += [
                {"shape": shape.name, "truth": truth, "prompts": n, "pass": p, "fail": f} for n, (p, f) in found.items()
            ]
            what = ("wrong pass", "wrong fail") if truth else ("pass", "wrong fail")
            for place, name in enumerate(what):
                cells = " | ".join(f"{100 * found[n][place]:.1f}" for n in PROMPTS)
                print(f"| {shape.name} | {'at the tolerance' if truth else 'zero'} | {name} | {cells} |", flush=True)
    print(f"\n{options.runs} runs a cell, {time.perf_counter() - began:.0f} s")
    if options.json:
        options.json.write_text(
            json.dumps({"runs": options.runs, "seed": options.seed, "rows": table}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
