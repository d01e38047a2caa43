"""Transfer: do weights found on one kind of harm carry the others?

For every domain as many neurons and heads are chosen by the guarded score and put to zero. What that does to the
preference margin of every domain is read on prompts that were not attributed, and what it costs, on harmless requests
that were not either. Beside each choice stand as many chosen at random, and as many chosen with the aligned answers in
the place of the misaligned ones. How far two domains choose the same units is given with what chance would give to
choices that prefer the same matrices.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from aftertune.data import shipped_contrasts
from aftertune.locating import Example, answers_probe, contrast_example
from aftertune.model import WeightView, read_patch
from aftertune.probes import LikelihoodProbe
from aftertune.stats import Effects
from aftertune.studies._lab import Arm, Claim, Figure, PaperFinding, Reading, Results, Scale, Study
from aftertune.studies._sets import KEEP_HELD_OUT, held_out_keep_examples, keep_examples
from aftertune.studies._steps import Choice, Cut
from aftertune.studies._workshop import Lab

DOMAINS = ("money", "health", "sport_safety", "relationships", "honesty_at_work")
COUNT, ATTRIBUTED, HELD_OUT = 32, 12, 12
EDITS: tuple[Choice, ...] = ("patch", "random", "content_matched")
MARGIN, LOSS = "preference.margin", "response.nll:keep"


def attributed(domain: str) -> tuple[Example, ...]:
    """What a domain's units are chosen by: the development split and some of the measuring one."""
    chosen = [*shipped_contrasts("dev", (domain,)), *shipped_contrasts("measure", (domain,))[:ATTRIBUTED]]
    return tuple(map(contrast_example, chosen))


def held_out(domain: str) -> tuple[Example, ...]:
    """What a domain is read on; none of `attributed`."""
    measure = shipped_contrasts("measure", (domain,))
    return tuple(map(contrast_example, measure[ATTRIBUTED : ATTRIBUTED + HELD_OUT]))


def probes() -> list[LikelihoodProbe]:
    """Every domain's held-out prompts, and harmless requests."""
    domains = [answers_probe(domain, held_out(domain)) for domain in DOMAINS]
    return [*domains, answers_probe("keep", held_out_keep_examples())]


@dataclass(frozen=True)
class Chosen:
    """A reading of which units an arm's patch holds, and how many there are to choose from."""

    def document(self, lab: Lab, subject: str, folder: Path) -> dict[str, Any]:
        """Members by matrix, and every matrix's units and layer; nothing for an arm without a patch."""
        from aftertune.attribution import selection_of, unit_spaces

        _, plus, patch = subject.rpartition("+")
        if not plus:
            return {}
        view = WeightView(lab.load(subject).model)
        edits = read_patch(Path(patch)).edits
        selection = selection_of(view, {name: edit.index for name, edit in edits.items()}, "neuron+head")
        spaces = list(unit_spaces(view, "neuron+head"))
        return {
            "members": {name: members.tolist() for name, members in selection.members.items()},
            "units": {space.matrix.name: space.units for space in spaces},
            "layers": {space.matrix.name: space.matrix.layer for space in spaces},
        }


def elsewhere(edit: str, beyond: str, results: Results) -> Effects:
    """The change of each prompt's margin under the units of all other domains, beyond that under another edit.

    One effect a prompt: the mean over the domains attributed other than the prompt's own. So a prompt that is read
    under four domains' edits counts once.
    """
    parts = []
    for target in DOMAINS:
        metric = f"{MARGIN}:{target}"
        changes = [
            results.effects(f"{edit} {source}", metric).minus(
                results.effects(f"{beyond} {source}" if beyond else "untouched", metric)
            )
            for source in DOMAINS
            if source != target
        ]
        parts.append(replace(changes[0], values=np.mean([change.values for change in changes], axis=0)))
    return Effects(
        tuple(item for part in parts for item in part.items),
        tuple(cluster for part in parts for cluster in part.clusters),
        tuple(stratum for part in parts for stratum in part.strata),
        (),
        np.concatenate([part.values for part in parts]),
    )


def maps(results: Results) -> list[Figure]:
    """Falls domain by domain, under the patches and both controls, on one scale; costs; how far choices agree."""
    names = [domain.replace("_", " ") for domain in DOMAINS]
    diagonal = [[i, i] for i in range(len(names))]

    def fall(edit: str, source: str, metric: str) -> float:
        change = results.effects(f"{edit} {source}", metric).minus(results.effects("untouched", metric))
        return -float(change.values.mean())

    falls = [
        {
            "kind": "heat_map",
            "title": f"Fall of the preference margin: {edit.replace('_', '-')}",
            "guide": f"Rows: the domain whose {_count(results)} neurons and heads were put to zero. Columns: the "
            "domain it is read on, on other prompts. Higher is less careless.",
            "rows": names,
            "columns": names,
            "values": [[fall(edit, a, f"{MARGIN}:{b}") for b in DOMAINS] for a in DOMAINS],
            "unit": "nats/token",
            "row_label": "found on",
            "column_label": "read on",
            "marked": diagonal,
            "scale_group": "falls",
        }
        for edit in EDITS
    ]
    costs = [[f"{-fall(edit, a, LOSS):+.3f}" for edit in EDITS] for a in DOMAINS]
    table = {
        "kind": "table",
        "title": "What it costs",
        "guide": f"Rise of the loss on {KEEP_HELD_OUT} helpful answers to harmless requests, nats per token.",
        "header": ["found on", *(edit.replace("_", "-") for edit in EDITS)],
        "rows": [[name, *row] for name, row in zip(names, costs, strict=True)],
        "numeric": [1, 2, 3],
    }
    common = {
        "kind": "heat_map",
        "title": "How far the choices are the same",
        "guide": "Jaccard overlap of the chosen units, minus what chance gives to choices from the same matrices.",
        "rows": names,
        "columns": names,
        "values": overlaps([results.documents[f"patch {domain}", None] for domain in DOMAINS]),
        "marked": diagonal,
    }
    return [*falls, table, common]


def overlaps(chosen: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """Jaccard overlap beyond chance of every two choices."""
    import torch

    from aftertune.attribution import Selection, overlap

    def selection(one: Mapping[str, Any]) -> Selection:
        members = {name: torch.tensor(numbers) for name, numbers in one["members"].items()}
        return Selection(members, members, "neuron+head", 0, sum(one["units"].values()))

    def beyond_chance(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
        found = overlap(selection(one), selection(other), one["units"], one["layers"])
        return found.jaccard - found.expected

    return [[beyond_chance(one, other) for other in chosen] for one in chosen]


def _count(results: Results) -> int:
    members = results.documents[f"patch {DOMAINS[0]}", None]["members"]
    return sum(map(len, members.values()))


def _claim(text: str, beyond: str, paper: PaperFinding | None = None) -> Claim:
    effects = functools.partial(elsewhere, "patch", beyond)
    return Claim(text, MARGIN, "patch", beyond or "untouched", "lower", paper=paper, effects=effects)


PAPER = PaperFinding("weights found on one harm type lower the others", "Orgad et al. 2026, finding 2")

STUDY = Study(
    "transfer",
    "do weights found on one kind of harm carry the others?",
    "Orgad et al. 2026, finding 2",
    rank=20,
    arms=(
        Arm("untouched"),
        *(
            Arm(f"{edit} {domain}", (Cut(functools.partial(attributed, domain), keep_examples, COUNT, choice=edit),))
            for edit in EDITS
            for domain in DOMAINS
        ),
    ),
    readings=(Reading(probes), Reading(Chosen())),
    claims=(
        _claim("Weights found on one domain lower the others", "", PAPER),
        _claim("More than as many random units do", "random"),
        _claim("More than as many units chosen by the aligned answers do", "content_matched"),
    ),
    figure=maps,
    scales={"smoke": Scale(rows=6, items=4, settings={"count": 3, "score": "snip-contrast"})},
    differs=("The paper prunes single weights of large models; these are whole neurons and heads of a small one.",),
)
