"""What is to be measured: which probes, on which sets."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aftertune._registered import foreign_sha256
from aftertune.data import DOMAINS, Request, read_requests, shipped_path
from aftertune.errors import UsageError
from aftertune.probes._drift import drift_content
from aftertune.probes._probe import LikelihoodProbe, default_probes, probe_rows

DRIFT_REQUESTS = 40

# Fields of an item's texts that hold what a user asks in it.
_PROMPTS = ("prompt", "harmless")


@dataclass(frozen=True)
class MeasurePlan:
    """Which probes run on which sets.

    Attributes:
        probes: names from `probe_rows`; those of the default whose needs are not met are left out.
        domains: domains of the shipped contrasts and reasons.
        split: "measure", "dev" for choosing defaults, or "measure_v1", the former wording of "measure".
        contrasts: a user's own contrast files.
        traits: a user's own statement files.
        truthfulqa: TruthfulQA's CSV.
        pmi: also measure `preference.pmi_margin` and `explanation.pmi_margin`, which inform and take as long as
            the margins themselves.
    """

    probes: tuple[str, ...] = field(default_factory=default_probes)
    domains: tuple[str, ...] = DOMAINS
    split: str = "measure"
    contrasts: tuple[Path, ...] = ()
    traits: tuple[Path, ...] = ()
    truthfulqa: Path | None = None
    pmi: bool = True
    likelihood_probes: tuple[LikelihoodProbe, ...] = field(init=False, compare=False, repr=False)
    drift_requests: tuple[Request, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        _refuse_unknown("probe", self.probes, tuple(row.name for row in probe_rows()))
        _refuse_unknown("domain", self.domains, DOMAINS)
        object.__setattr__(self, "likelihood_probes", tuple(self._build()))
        if not self.likelihood_probes and "drift" not in self.probes:
            raise UsageError("nothing is left to measure; name at least one probe")
        harmless = read_requests(shipped_path("safety/harmless")) if "drift" in self.probes else []
        # Every third: rows stand by category, and all categories should be there.
        object.__setattr__(self, "drift_requests", tuple(harmless[:: len(harmless) // DRIFT_REQUESTS or 1]))

    def _build(self) -> Iterator[LikelihoodProbe]:
        for row in probe_rows():
            if row.name in self.probes or (row.own_sets and getattr(self, row.own_sets)):
                yield from row.build(self)

    def own_sets(self, name: str) -> Iterator[tuple[str, Path]]:
        """(stem, path) of a user's own sets: the stem tells their metrics apart.

        Args:
            name: "contrasts" or "traits".

        Raises:
            UsageError: two files of one stem.
        """
        seen: dict[str, Path] = {}
        for path in getattr(self, name):
            stem = re.sub(r"[^\w.-]", "_", unicodedata.normalize("NFKC", path.name.partition(".")[0] or path.stem))
            if other := seen.get(stem.casefold()):
                raise UsageError(
                    f"--{name} {path}: its metrics would be called {stem!r} as those of {other}; rename one"
                )
            seen[stem.casefold()] = path
            yield stem, path

    @property
    def config(self) -> dict[str, Any]:
        """What determines the measurements, by content: part of a run's identity."""
        extensions = {row.name: foreign_sha256(row.build) for row in probe_rows() if row.name in self.probes}
        return {
            "probes": {probe.name: probe.content for probe in self.likelihood_probes},
            "drift": drift_content(self.drift_requests) if self.drift_requests else None,
            **({"extensions": found} if (found := {k: v for k, v in extensions.items() if v}) else {}),
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


def _refuse_unknown(kind: str, given: tuple[str, ...], known: tuple[str, ...]) -> None:
    for name in given:
        if name not in known:
            raise UsageError(f"{kind} {name!r} is unknown; known are {', '.join(known)}")
