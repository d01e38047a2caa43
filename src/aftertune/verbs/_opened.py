"""A subject for as long as it is needed: named, loaded at the first need, measured once, let go of.

What was measured is kept by content (`aftertune.runs.Store`): a base that an earlier run measured in the same way is
neither loaded nor measured again.
"""

from __future__ import annotations

import gc
import hashlib
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from os import PathLike
from pathlib import Path
from typing import Any

from aftertune.errors import RunError
from aftertune.inspect_bridge import LoggedRun, TaskPlan, run_tasks
from aftertune.model import DIGESTS, Placement, Subject, SubjectChoice, resolve_device, resolve_dtype
from aftertune.probes import REFERENCE, MeasurePlan, measure_subject
from aftertune.runs import (
    Journal,
    Progress,
    RunFolder,
    Silent,
    Store,
    fingerprint,
    read_document,
    refuse_other_model,
    shared_store,
    versions,
    write_json,
)
from aftertune.stats import Measurement, read_measurements, write_measurements

Named = str | PathLike[str] | SubjectChoice
"""How a caller may name a subject: folder, adapter folder, hub id, .gguf file, "smollm2", or a choice with settings."""

LOGS = "logs"
_KIND = "measurements"
_TABLE = "measurements.parquet"


def chosen(named: Named, placement: Placement | None = None) -> SubjectChoice:
    """A subject's choice; a placement applies to what is named by a string or a path."""
    if isinstance(named, SubjectChoice):
        return named
    return SubjectChoice(str(named), placement=placement or Placement())


@dataclass(frozen=True)
class Measuring:
    """One subject, measured.

    Attributes:
        identity: who it is.
        measurements: every number.
        batches_reused: forward passes that were not made, since an earlier run had made them.
        folder: its journal and drift reference.
    """

    identity: dict[str, Any]
    measurements: tuple[Measurement, ...]
    batches_reused: int
    folder: Path

    def only_asked_of(self, other: Measuring) -> Measuring:
        """The numbers on what another subject was asked too, where that was asked less."""
        asked = {(m.metric, m.item) for m in other.measurements}
        return replace(self, measurements=tuple(m for m in self.measurements if (m.metric, m.item) in asked))

    def with_answers(self, logged: Sequence[LoggedRun], *, redact: bool = False) -> Measuring:
        """The same with the numbers of its sampled answers."""
        found = [m for one in logged for m in one.measurements]
        return replace(self, measurements=(*self.measurements, *(without_prompts(found) if redact else found)))


def without_prompts(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Measurements whose cluster, which may be the prompt's text, is a digest: that groups as well."""
    clusters: dict[str, set[str]] = {}
    for m in measurements:
        clusters.setdefault(m.metric, set()).add(m.cluster)
    # A number in front keeps the order of the prompts, and with it every digit of what is summed in that order.
    numbers = {(metric, name): n for metric, names in clusters.items() for n, name in enumerate(sorted(names))}
    return [
        replace(m, cluster=f"{numbers[m.metric, m.cluster]:05}-{fingerprint(m.cluster)[:16]}") for m in measurements
    ]


class Opened:
    """A subject inside `opened`.

    Args:
        choice: how to load it.
        run: the run folder, which keeps measurements where nothing is shared.
        role: what it is in the run, such as "base".
        redact: keep no text: what is measured stays in the run folder, with digests for prompts.
        progress: notified of what goes on.
    """

    def __init__(
        self, choice: SubjectChoice, run: RunFolder, role: str, *, redact: bool = False, progress: Progress | None
    ) -> None:
        self.choice, self.run, self.role, self.redact = choice, run, role, redact
        self.progress = progress or Silent()
        self._files = choice.config["content"]
        self.store: Store = shared_store(run.path, shared=_is_settled(self._files) and not redact)

    @cached_property
    def subject(self) -> Subject:
        """The loaded subject; loaded at the first call.

        Raises:
            RunError: its files changed while they were read.
        """
        self.progress.say(f"loading {self.role}: {self.choice.spec}")
        subject = self.choice.load(self.progress)
        if self.choice.config["content"] != self._files:
            raise RunError(f"{self.choice.spec}: changed while it was loaded; run the same command again")
        return subject

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Who it is; read from the store, without loading, where these very files were loaded before."""
        if self.store.folder == self.run.path:  # a run that is refused for this base is to leave nothing
            return self.subject.identity.as_dict()
        # With its names, which the record tells; measurements are found by content alone.
        named = {name: value for name, value in self.choice.config.items() if name != "placement"}
        key = {**named, **self._precision, **_code()}

        def make(folder: Path) -> None:
            write_json(folder / "identity.json", self.subject.identity.as_dict())

        return dict(read_document(self.store.kept("subjects", key, make) / "identity.json"))

    def measured(self, plan: MeasurePlan, *, drift_from: Path | None = None, keep_reference: bool = False) -> Measuring:
        """Run a plan, or take its numbers from the store.

        Args:
            plan: what to ask.
            drift_from: the folder of the base's `Measuring`, to measure drift from it.
            keep_reference: keep what others drift from.

        Raises:
            AftertuneError: as `aftertune.probes.measure_subject` does.
        """
        reference = drift_from / REFERENCE if drift_from and plan.drift_requests else None
        key = {
            **{name: self.identity[name] for name in DIGESTS},
            **self._precision,
            "max_batch_tokens": self.choice.placement.max_batch_tokens,
            "plan": plan.config,
            "drift_from": drift_from.name if drift_from and reference else None,
            "keeps_reference": keep_reference and bool(plan.drift_requests),
            "prompts": "digests" if self.redact else "texts",
            **_code(),
        }
        reused = None

        def make(folder: Path) -> None:
            nonlocal reused
            found = measure_subject(
                self.subject,
                plan,
                folder,
                drift_from=reference,
                keep_reference=keep_reference and bool(plan.drift_requests),
                progress=self.progress,
            )
            reused = found.batches_reused
            rows = found.measurements
            write_measurements(folder / _TABLE, without_prompts(rows) if self.redact else rows)

        folder = self.store.kept(_KIND, key, make)
        if reused is None:
            self.progress.say(f"{self.role}: measured before, nothing is measured again ({folder})")
            reused = sum(name != REFERENCE for name in Journal(folder / "journal.jsonl"))
        return Measuring(self.identity, tuple(read_measurements(folder / _TABLE)), reused, folder)

    def sampled(self, tasks: TaskPlan | None) -> list[LoggedRun]:
        """Its answers to tasks; the logs lie in the run folder, and a killed run continues with them."""
        if not tasks:
            return []
        refuse_other_model(self.run, self.role, self.subject.content)  # Inspect continues logs by the model's name
        folder = self.run.folder(LOGS, self.role)
        return run_tasks(self.subject, tasks, folder, redact=self.redact, progress=self.progress)

    @cached_property
    def _precision(self) -> dict[str, Any]:
        """Where it runs and in which precision."""
        import torch

        device = resolve_device(self.choice.placement.device)
        name = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
        dtype = str(resolve_dtype(self.choice.placement.dtype, device)).removeprefix("torch.")
        return {"device": device, "chip": name, "dtype": dtype}


@contextmanager
def opened(
    choice: SubjectChoice, run: RunFolder, role: str, *, redact: bool = False, progress: Progress | None = None
) -> Iterator[Opened]:
    """A subject that is loaded when it is first needed and let go of at the end; see `Opened`."""
    one = Opened(choice, run, role, redact=redact, progress=progress)
    try:
        yield one
    finally:
        one.__dict__.pop("subject", None)
        _release_memory()


def _release_memory() -> None:
    """Give back what a subject held, accelerators' memory too."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _is_settled(content: Any) -> bool:
    """Whether digests say all: a hub model without a known commit may change under its name."""
    if isinstance(content, dict):
        return all(_is_settled(value) and (name, value) != ("commit", None) for name, value in content.items())
    return not isinstance(content, list) or all(map(_is_settled, content))


@cache
def _code() -> dict[str, Any]:
    """What numbers depend on beside the subject and the plan: versions of packages, and the code that measures."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for room in ("data", "model", "probes"):
        for path in sorted((root / room).rglob("*.py")):
            digest.update(path.read_bytes())
    return {"versions": versions(), "code": digest.hexdigest()}
