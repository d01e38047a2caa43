"""Where a study's subjects are made: kept by content, so that nothing is made twice."""

from __future__ import annotations

import functools
import gc
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from aftertune.attribution import UnitSums, unit_sums
from aftertune.data import Contrast, Conversation
from aftertune.locating import Example, cases_of
from aftertune.model import Subject, SubjectChoice, WeightView
from aftertune.probes import LikelihoodProbe, MeasurePlan
from aftertune.runs import Progress, Silent, Store, file_digest, fingerprint, versions
from aftertune.studies._lab import Arm, Step
from aftertune.tuning import read_record


class Lab:
    """Makes the subjects of a study.

    Args:
        root: the study's base.
        models: keeps what steps make.
        shared: keeps readings, for all runs.
        progress: follows the work.
    """

    def __init__(self, root: SubjectChoice, models: Store, shared: Store, progress: Progress | None = None) -> None:
        self.root, self.models, self.shared = root, models, shared
        self.progress = progress or Silent()
        self._keys: dict[str, str] = {}  # spec → digest of what it is made of
        self._based: dict[str, str] = {}  # folder of a fine-tune → what it lies upon
        self._contents: dict[str, str] = {}
        self._loaded: tuple[str, Subject] | None = None
        self._sums: dict[str, UnitSums] = {}

    def key(self, arm: Arm, seed: int | None, steps: int | None = None) -> str:
        """Digest of what an arm is made of (after so many steps): known before it is made, and free of paths."""
        base = arm.subject or self.root.spec
        if base not in self._contents:
            choice = replace(self.root, spec=base)
            self._contents[base] = fingerprint(
                [choice.config["content"], asdict(choice.placement), versions().get("aftertune")]
            )
        key = self._contents[base]
        for step in arm.steps[:steps]:
            key = self._after(key, step, seed)
        return key

    def _after(self, key: str, step: Step, seed: int | None) -> str:
        return fingerprint([key, content_of(step), seed if step.uses_seed else None])

    def make(self, arm: Arm, seed: int | None) -> str:
        """The spec of an arm's subject; steps that were taken before are not taken again."""
        spec = arm.subject or self.root.spec
        self._keys[spec] = self.key(arm, seed, 0)
        for number, step in enumerate(arm.steps, 1):
            spec = step(self, spec, seed or 0)
            self._keys[spec] = self.key(arm, seed, number)
        return spec

    def kept(self, step: Step, subject: str, seed: int, make: Callable[[Path], None]) -> Path:
        """The folder of what a step makes of a subject, made now unless it is there."""
        return self.models.kept("made", {"made": self._after(self._keys[subject], step, seed)}, make)

    def upon(self, folder: Path, subject: str) -> str:
        """The spec of a fine-tune; an adapter lies upon ``subject``, wherever that is by now."""
        self._based[str(folder)] = subject
        return str(folder)

    def choice(self, spec: str) -> SubjectChoice:
        """How to load a subject that the lab knows."""
        base = self._based.get(spec.partition("+")[0])
        return SubjectChoice(spec, base=base, placement=self.root.placement) if base else replace(self.root, spec=spec)

    def load(self, spec: str) -> Subject:
        """A subject to be asked; the last one stays in memory, so leave it as it is."""
        if self._loaded is None or self._loaded[0] != spec:
            self._loaded = spec, self.fresh(spec)
        return self._loaded[1]

    def fresh(self, spec: str) -> Subject:
        """A subject of one's own, to be changed at will."""
        self.release()
        return self.choice(spec).load(self.progress, merge=True)

    def release(self) -> None:
        """Let go of the subject in memory."""
        import torch

        self._loaded = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def efforts(self, spec: str) -> list[Mapping[str, Any]]:
        """Steps, batch and tokens of each fine-tune that led to a subject, the last one first."""
        found = []
        folder = spec.partition("+")[0]
        while folder in self._based:
            record = read_record(folder)
            if record and "effort" in record:
                found.append(record["effort"])
            folder = self._based[folder].partition("+")[0]
        return found

    def forget(self, needed: Sequence[str]) -> None:
        """Delete fine-tunes, but for those of these keys. Patches are small and stay."""
        self.release()
        for folder in [folder for folder in self._based if self._keys.get(folder) not in needed]:
            shutil.rmtree(Path(folder).parent, ignore_errors=True)
            del self._based[folder]

    def sums(self, subject: str, examples: Sequence[Example], side: str) -> UnitSums:
        """Gradient sums of the answers of one side by neuron and head; taken once for all arms."""
        key = fingerprint([self._keys[subject], content_of(list(examples)), side])
        if key not in self._sums:
            loaded = self.load(subject)
            cases, names = cases_of(loaded, examples, lambda e: getattr(e, side))
            self._sums[key] = unit_sums(loaded, cases, "neuron+head", names=names, view=WeightView(loaded.model))
        return self._sums[key]


def content_of(value: Any) -> Any:
    """What decides an outcome, as JSON values: of data the texts, of functions what they give, of files the bytes."""
    if isinstance(value, Conversation):
        return [[m.role, m.content, m.supervised] for m in value.messages]
    if isinstance(value, Contrast):
        return [value.prompt, value.aligned, value.misaligned, value.system]
    if isinstance(value, Example):
        return [content_of(value.conversation), content_of(value.twin)]
    if isinstance(value, LikelihoodProbe):
        return [value.name, value.suffix, value.content]
    if isinstance(value, MeasurePlan):
        return value.config
    if isinstance(value, BaseModel):
        return {"type": type(value).__name__, **value.model_dump(mode="json")}
    if is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__name__, **{f.name: content_of(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, Path):
        return file_digest(value)
    if isinstance(value, Mapping):
        return {str(key): content_of(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [content_of(one) for one in value]
    if callable(value):
        return _given(value)
    return value


@functools.lru_cache(maxsize=256)
def _given(function: Callable[[], Any]) -> str:
    return fingerprint(content_of(function()))
