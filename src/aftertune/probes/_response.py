"""Response: how unlikely the last answers of given conversations are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from aftertune.data import Conversation, prompt_key
from aftertune.errors import UsageError
from aftertune.model import ChatSubject
from aftertune.probes._probe import LikelihoodProbe, Likelihoods, ProbeRow, Question, content_digest
from aftertune.stats import Metric

if TYPE_CHECKING:
    from aftertune.probes._plan import MeasurePlan

METRICS = (
    Metric(
        "response.nll",
        "mean negative log-likelihood per token of the last answer of a conversation (end of turn included)",
        "nats/token",
        worse="higher",
        decides=False,
        tolerance=0.25,
        short="surprise at your own answers",
    ),
)


def _read(likelihoods: Likelihoods) -> Mapping[str, float]:
    ((answer,),) = likelihoods
    return {"response.nll": -answer.mean}


def response_nll(conversations: Sequence[Conversation], suffix: str = "") -> LikelihoodProbe:
    """Negative log-likelihood of the last assistant turn of each conversation; clusters are first prompts.

    Items are called by source and line, a name that comes again with ``#2``, ``#3``, … behind it.

    Args:
        conversations: rows of your own, such as those kept out of tuning or of an attribution.
        suffix: ``:STEM``, to tell sets of rows apart.
    """
    rows = list(zip(_names(conversations), conversations, strict=True))

    def build(subject: ChatSubject) -> list[Question]:
        return [
            Question(
                item=name,
                cluster=prompt_key(c.prompt) or name,
                cases=(subject.chat.case(c.messages[:-1], (c.messages[-1].content,)),),
                read=_read,
                where=name,
            )
            for name, c in rows
        ]

    return LikelihoodProbe(
        name=f"response{suffix}",
        metrics=METRICS,
        build=build,
        content=content_digest([[(m.role, m.content) for m in c.messages] for c in conversations]),
        suffix=suffix,
        texts={name: {"prompt": c.prompt, "answer": c.messages[-1].content} for name, c in rows},
    )


def _names(conversations: Sequence[Conversation]) -> list[str]:
    seen: Counter[str] = Counter()
    names = []
    for conversation in conversations:
        place = f"{conversation.source}:{conversation.line}"
        seen[place] += 1
        names.append(place if seen[place] == 1 else f"{place}#{seen[place]}")
    return names


def _build(plan: MeasurePlan) -> Iterator[LikelihoodProbe]:
    raise UsageError("the probe response needs rows of yours; call response_nll and ask_probes from Python")


PROBE = ProbeRow(
    "response", 90, "likelihood of your own rows", METRICS, _build, needs="rows, from Python", default=False
)
