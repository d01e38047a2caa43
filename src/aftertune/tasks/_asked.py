"""From requests to what Inspect runs: samples, and what their outputs say of how they ended."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple

from inspect_ai.dataset import Sample
from inspect_ai.model import ChatMessageUser, ModelOutput, StopReason

from aftertune.errors import UsageError
from aftertune.tasks._attacks import attacked, opening_words
from aftertune.tasks._requests import Label, TaskRequest, chosen, read_task_requests

Words = str | list[str]
"""The text of an option; Inspect's command line splits it at commas."""


class Asked(NamedTuple):
    """What a task asks.

    Attributes:
        source: where the requests come from, as the user named it.
        attack: the wrappers around them.
        samples: of Inspect.
    """

    source: str
    attack: str
    samples: list[Sample]

    def metadata(self, paper: str) -> dict[str, str]:
        """What a task's metadata say of it."""
        return {
            "paper": paper,
            "requests": self.source,
            "attack": self.attack,
            "asked_sha256": digest(self.samples),
        }


def asked_requests(
    requests: Words,
    shipped: str,
    label: Label,
    *,
    attack: Words,
    limit_categories: Words,
    prefill: Words,
    system: Words,
    template: Words,
    shots: int,
    seed: int,
) -> Asked:
    """Read, choose and wrap requests, as the options of a task say.

    Raises:
        DataError: the requests cannot be used.
        UsageError: options that make no sense.
    """
    source, wrappers = words(requests, "requests"), words(attack, "attack")
    rows = wrapped_samples(
        chosen(read_task_requests(source, shipped, label), names(limit_categories, "limit_categories"), source),
        attack=wrappers,
        prefill=words(prefill, "prefill"),
        system=words(system, "system"),
        template=words(template, "template"),
        shots=shots,
        seed=seed,
    )
    return Asked(source, wrappers, rows)


def wrapped_samples(
    requests: Sequence[TaskRequest], *, attack: str, prefill: str, system: str, template: str, shots: int, seed: int
) -> list[Sample]:
    """A sample for every request, wrapped as `attacked` does it.

    Raises:
        UsageError: see `attacked`.
    """
    opening = opening_words(attack, prefill)
    return [
        Sample(
            id=request.id,
            input=attacked(
                [*request.context, ChatMessageUser(content=request.text)],
                attack,
                prefill=prefill,
                system=system,
                template=template,
                shots=shots,
                seed=seed,
                key=request.id,
            ),
            metadata={
                "question": request.id,
                "cluster": request.cluster,
                "category": request.category,
                "wording": request.text,
                "attack": attack,
                **({"prefill": opening} if opening else {}),
            },
        )
        for request in requests
    ]


def words(value: Words, name: str) -> str:
    """The text of an option.

    Raises:
        UsageError: it is none, as of a number.
    """
    parts = value if isinstance(value, list) else [value]
    if not all(isinstance(part, str) for part in parts):
        raise UsageError(f"{name} must be text, not {value!r}; put it in quotes within the quotes of the shell")
    return ",".join(parts)


def names(value: Words, name: str) -> list[str]:
    """The parts of an option between commas.

    Raises:
        UsageError: it is no text.
    """
    return [part.strip() for part in words(value, name).split(",") if part.strip()]


def ending(output: ModelOutput) -> tuple[StopReason, bool | None]:
    """Why an output stopped, and whether it was cut off; None where the provider does not say."""
    stop: StopReason = output.stop_reason if output.choices else "unknown"
    return stop, None if stop == "unknown" else stop in ("max_tokens", "model_length")


def digest(samples: Sequence[Sample]) -> str:
    """What is asked, in one number: logs of unlike requests or wrappers differ in it."""
    asked = [[s.id, [[m.role, m.text] for m in s.input]] for s in samples if not isinstance(s.input, str)]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()
