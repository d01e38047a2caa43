"""What is to be measured: which probes, on which sets."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aftertune.data import (
    DOMAINS,
    TRAITS,
    Request,
    read_choice_questions,
    read_contrasts,
    read_reasons,
    read_requests,
    read_rows,
    read_statements,
    read_truthfulqa,
    shipped_contrasts,
    shipped_path,
)
from aftertune.errors import UsageError
from aftertune.probes._capability import capability
from aftertune.probes._drift import drift_content
from aftertune.probes._explanation import explanation
from aftertune.probes._preference import preference
from aftertune.probes._question import LikelihoodProbe
from aftertune.probes._recognition import recognition
from aftertune.probes._refusal import refusal
from aftertune.probes._table import DEFAULT_PROBES, PROBES
from aftertune.probes._traits import traits
from aftertune.probes._truthful import truthful

DRIFT_REQUESTS = 40

# Fields of an item's texts that hold what a user asks in it.
_PROMPTS = ("prompt", "harmless")


@dataclass(frozen=True)
class MeasurePlan:
    """Which probes run on which sets.

    Attributes:
        probes: names from the table of probes; those of the default whose needs are not met are left out.
        domains: domains of the shipped contrasts and reasons.
        split: "measure", "dev" for choosing defaults, or "measure_v1", the former wording of "measure".
        contrasts: a user's own contrast files.
        traits: a user's own statement files.
        truthfulqa: TruthfulQA's CSV.
        pmi: also measure `preference.pmi_margin` and `explanation.pmi_margin`, which inform and take as long as
            the margins themselves.
    """

    probes: tuple[str, ...] = DEFAULT_PROBES
    domains: tuple[str, ...] = DOMAINS
    split: str = "measure"
    contrasts: tuple[Path, ...] = ()
    traits: tuple[Path, ...] = ()
    truthfulqa: Path | None = None
    pmi: bool = True
    likelihood_probes: tuple[LikelihoodProbe, ...] = field(init=False, compare=False, repr=False)
    drift_requests: tuple[Request, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        _refuse_unknown("probe", self.probes, tuple(row.name for row in PROBES))
        _refuse_unknown("domain", self.domains, DOMAINS)
        if "truthful" in self.probes and self.truthfulqa is None and not set(DEFAULT_PROBES) <= set(self.probes):
            raise UsageError("the probe truthful needs TruthfulQA.csv; give it with --truthfulqa FILE")
        if "response" in self.probes:
            raise UsageError("the probe response needs rows of yours; call response_nll and ask_probes from Python")
        object.__setattr__(self, "likelihood_probes", tuple(self._build()))
        if not self.likelihood_probes and "drift" not in self.probes:
            raise UsageError("nothing is left to measure; name at least one probe")
        harmless = read_requests(shipped_path("safety/harmless")) if "drift" in self.probes else []
        # Every third: rows stand by category, and all categories should be there.
        object.__setattr__(self, "drift_requests", tuple(harmless[:: len(harmless) // DRIFT_REQUESTS or 1]))

    def _build(self) -> Iterator[LikelihoodProbe]:
        if "preference" in self.probes and self.domains:
            yield preference(shipped_contrasts(self.split, self.domains), pmi=self.pmi)
        for stem, path in _stems("--contrasts", self.contrasts):
            yield preference(read_contrasts(path), f":{stem}", pmi=self.pmi)
        if "traits" in self.probes:
            shipped = [(t, s) for t in TRAITS for s in read_statements(shipped_path(f"traits/{t}"))]
            yield traits(shipped)
        for stem, path in _stems("--traits", self.traits):
            yield traits([(stem, s) for s in read_statements(path)], f":{stem}")
        if "refusal" in self.probes:
            yield refusal(*_safety())
        if "truthful" in self.probes and self.truthfulqa is not None:
            yield truthful(read_truthfulqa(self.truthfulqa))
        if "capability" in self.probes:
            texts = [(r.text("id"), r.text("text")) for r in read_rows(shipped_path("capability/neutral"))]
            yield capability(read_choice_questions(shipped_path("capability/choices")), texts)
        if "recognition" in self.probes:
            yield recognition(shipped_contrasts(self.split, self.domains), *_safety())
        if "explanation" in self.probes and self.domains:
            reasons = read_reasons(shipped_path("explain/reasons"))
            yield explanation([r for r in reasons if r.domain in self.domains], pmi=self.pmi)

    @property
    def config(self) -> dict[str, Any]:
        """What determines the measurements, by content: part of a run's identity."""
        return {
            "probes": {probe.name: probe.content for probe in self.likelihood_probes},
            "drift": drift_content(self.drift_requests) if self.drift_requests else None,
        }

    def texts(self, metric: str, item: str) -> dict[str, str]:
        """What a report may show of an item: field → text."""
        for probe in self.likelihood_probes:
            if probe.texts and any(metric == m.id + probe.suffix for m in probe.metrics):
                return dict(probe.texts.get(item, {}))
        return {}

    def prompts(self) -> list[tuple[str, str]]:
        """(prompt, where) of every contrast, reason and request, to be checked against what was tuned on.

        What several probes ask stands where it comes first.
        """
        found: dict[str, str] = {}
        for probe in self.likelihood_probes:
            for item, text in (probe.texts or {}).items():
                for prompt in (text[name] for name in _PROMPTS if name in text):
                    found.setdefault(prompt, f"{probe.name} {item}")
        return list(found.items())


def _safety() -> tuple[list[Request], list[Request]]:
    return read_requests(shipped_path("safety/harmful")), read_requests(shipped_path("safety/harmless"))


def _refuse_unknown(kind: str, given: tuple[str, ...], known: tuple[str, ...]) -> None:
    for name in given:
        if name not in known:
            raise UsageError(f"{kind} {name!r} is unknown; known are {', '.join(known)}")


def _stems(flag: str, paths: tuple[Path, ...]) -> Iterator[tuple[str, Path]]:
    seen: dict[str, Path] = {}
    for path in paths:
        stem = re.sub(r"[^\w.-]", "_", unicodedata.normalize("NFKC", path.name.partition(".")[0] or path.stem))
        if stem.casefold() in seen:
            raise UsageError(
                f"{flag} {path}: its metrics would be called {stem!r} as those of {seen[stem.casefold()]}; rename one"
            )
        seen[stem.casefold()] = path
        yield stem, path
