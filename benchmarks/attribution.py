"""What attribution costs: against a bare training step, and against the algorithm as published.

    python benchmarks/attribution.py passes       # both scores of 64 harm and 64 keep examples, and unit sums
    python benchmarks/attribution.py published    # one pass per layer at batch 1, on a few layers and examples
    python benchmarks/attribution.py selection    # choosing among all weights; applying and undoing a patch

Rivals take turns within one process. ``passes`` prints medians of the rounds; ``published`` runs the plain baseline on
as many layers as ``--layers`` says and gives its time for all of them in proportion; both are compared to float64, and
what is summed by unit to the published sums.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import torch

from aftertune.attribution import GradientSums, UnitSums, absolute_score, gradient_sums, select, signed_score
from aftertune.attribution import unit_sums as sum_units
from aftertune.data import ask, shipped_contrasts
from aftertune.model import PromptAnswers, Subject, WeightView, load, make_patch, plan_batches


def rows(subject: Subject, side: str, count: int) -> list[PromptAnswers]:
    """Cases of the first contrasts of the measuring split."""
    contrasts = shipped_contrasts("measure")[:count]
    return [subject.chat.case(ask(c.prompt, c.system), (getattr(c, side),)) for c in contrasts]


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def bare_pass(subject: Subject, cases: list[PromptAnswers]) -> None:
    """Forward and backward of an ordinary training step on the same tokens: labels, loss, parameter gradients."""
    model = subject.model
    for batch in plan_batches(cases, subject.max_batch_tokens):
        width = max(cases[i].tokens + 1 for i in batch)
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        labels = torch.full_like(ids, -100)
        mask = torch.zeros_like(ids)
        for row, index in enumerate(batch):
            whole = cases[index].prompt + cases[index].responses[0]
            ids[row, : len(whole)] = torch.tensor(whole)
            mask[row, : len(whole)] = 1
            labels[row, len(cases[index].prompt) : len(whole)] = torch.tensor(cases[index].responses[0])
        model.zero_grad()
        model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss.backward()
    model.zero_grad(set_to_none=True)


def passes(subject: Subject, examples: int, rounds: int) -> None:
    harm, keep = rows(subject, "misaligned", examples), rows(subject, "aligned", examples)
    view = WeightView(subject.model)
    ways: dict[str, Callable[[], object]] = {
        "bare forward and backward": lambda: (bare_pass(subject, harm), bare_pass(subject, keep)),
        "both scores of every weight": lambda: (
            gradient_sums(subject, harm, view=view),
            gradient_sums(subject, keep, absolute=True, view=view),
        ),
        "both scores of every neuron and head": lambda: (
            sum_units(subject, harm, "neuron+head", view=view),
            sum_units(subject, keep, "neuron+head", view=view),
        ),
    }
    for parameter in subject.model.parameters():
        parameter.requires_grad_(True)
    tokens = sum(case.tokens + 1 for case in (*harm, *keep))
    print(
        f"{2 * examples} examples, {tokens} tokens, {view.weights} weights in view, {torch.get_num_threads()} threads"
    )
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            seconds[name].append(timed(work))
    bare = statistics.median(seconds["bare forward and backward"])
    for name, values in seconds.items():
        print(f"{name}\t{statistics.median(values):.1f} s\t{statistics.median(values) / bare:.2f}")
    model = sum(p.numel() * p.element_size() for p in subject.model.parameters())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"model {model / 2**30:.2f} GiB, accumulators {3 * 4 * view.weights / 2**30:.2f} GiB, "
          f"peak of the process {peak / 2**30:.2f} GiB")  # fmt: skip


def published(subject: Subject, examples: int, layers: int) -> None:
    """Layer by layer, example by example: the whole data again for every decoder layer (Orgad et al. 2026)."""
    view, cases = WeightView(subject.model), rows(subject, "misaligned", examples)
    count = 1 + max(m.layer or 0 for m in view.values())
    began = time.perf_counter()
    ours = gradient_sums(subject, cases, absolute=True, view=view)
    mine = time.perf_counter() - began
    began = time.perf_counter()
    theirs = layer_by_layer(subject, view, cases, range(count - layers, count))
    seconds = (time.perf_counter() - began) * count / layers
    began = time.perf_counter()
    units = sum_units(subject, cases, "neuron+head", view=view)
    by_unit = time.perf_counter() - began
    print(f"{examples} examples, {layers} of {count} layers run")
    print(f"published, all layers in proportion\t{seconds:.1f} s")
    print(f"one pass, every weight\t{mine:.1f} s, ratio {seconds / mine:.1f}")
    print(f"one pass, every neuron and head\t{by_unit:.1f} s, ratio {seconds / by_unit:.1f}")
    summed = _by_unit(view, theirs[0], units)
    print(f"the latter, largest difference from the published sums\t{_off((units.signed,), (summed,)):.1e}")
    subject.model.double()
    exact = layer_by_layer(subject, view, cases, range(count - 1, count))
    for name, sums in (("one pass", (ours.signed, ours.absolute)), ("published", theirs)):
        print(f"{name}, largest difference from float64, as a share of a matrix's largest\t{_off(sums, exact):.1e}")


Sums = tuple[dict[str, torch.Tensor], ...]


def layer_by_layer(subject: Subject, view: WeightView, cases: list[PromptAnswers], layers: range) -> Sums:
    """Signed and absolute sums by the plain algorithm."""
    signed: dict[str, torch.Tensor] = {}
    absolute: dict[str, torch.Tensor] = {}
    for layer in layers:
        inside = {name: m.parameter for name, m in view.items() if m.layer == layer}
        for parameter in subject.model.parameters():
            parameter.requires_grad_(False)
        for name, parameter in inside.items():
            parameter.requires_grad_(True)
            signed[name], absolute[name] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        for case in cases:
            ids = torch.tensor([case.prompt + case.responses[0]])
            logits = subject.model(input_ids=ids, use_cache=False).logits[0, len(case.prompt) - 1 : -1]
            torch.nn.functional.cross_entropy(logits, torch.tensor(case.responses[0])).backward()
            for name, parameter in inside.items():
                assert parameter.grad is not None
                signed[name] += parameter.grad
                absolute[name] += parameter.grad.abs()
                parameter.grad = None
    return signed, absolute


def _by_unit(view: WeightView, signed: dict[str, torch.Tensor], units: UnitSums) -> dict[str, torch.Tensor]:
    """What the published sums say of neurons and heads: weight times gradient, over a unit's columns."""
    found = {}
    for name, gradient in signed.items():
        if name in units.signed:
            columns = (view[name].parameter.detach() * gradient).sum(0)
            found[name] = columns.view(len(units.signed[name]), -1).sum(1)
    return found


def _off(found: Sums, exact: Sums) -> float:
    return max(
        float((mine[name].double() - true[name]).abs().max() / true[name].abs().max())
        for mine, true in zip(found, exact, strict=True)
        for name in true
    )


def selection(subject: Subject, rounds: int) -> None:
    view = WeightView(subject.model)
    generator = torch.Generator().manual_seed(0)
    sums = GradientSums(
        {n: torch.randn(m.parameter.shape, generator=generator) for n, m in view.items()},
        {n: torch.rand(m.parameter.shape, generator=generator) for n, m in view.items()},
        [0.0] * 64,
    )
    harm, keep = signed_score(sums), absolute_score(sums)
    for prune in (1e-6, 1e-5, 1e-4):
        chosen = select(view, harm, keep, prune_fraction=prune, keep_fraction=14 * prune)
        seconds = [
            timed(lambda q=prune: select(view, harm, keep, prune_fraction=q, keep_fraction=14 * q))  # type: ignore[misc]
            for _ in range(rounds)
        ]
        patch = make_patch(view, chosen.chosen, "zero", {}, digest=False)
        edits = [(timed(lambda p=patch: p.apply(view)), timed(lambda p=patch: p.undo(view))) for _ in range(rounds)]  # type: ignore[misc]
        print(
            f"{view.weights} scores, {chosen.weights} chosen\tselect {statistics.median(seconds):.2f} s\t"
            f"apply {1000 * statistics.median(a for a, _ in edits):.1f} ms\t"
            f"undo {1000 * statistics.median(u for _, u in edits):.1f} ms"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("passes", "published", "selection"))
    parser.add_argument("--subject", default="smollm2")
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="torch threads; as the library chooses if left out")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    subject = load(arguments.subject)
    if arguments.what == "passes":
        passes(subject, arguments.examples, arguments.rounds)
    elif arguments.what == "published":
        published(subject, arguments.examples, arguments.layers)
    else:
        selection(subject, arguments.rounds)


if __name__ == "__main__":
    main()
