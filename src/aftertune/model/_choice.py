"""How to load a subject when its turn comes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from aftertune.model._chat import Chat
from aftertune.model._content import subject_content
from aftertune.model._device import Placement
from aftertune.model._loading import load
from aftertune.model._preflight import check_subject
from aftertune.model._subject import Subject
from aftertune.runs import Progress, require_regular


@dataclass(frozen=True)
class SubjectChoice:
    """How to load a subject, when its turn comes.

    Attributes:
        spec: what `load` takes.
        base: for an adapter, its base instead of the one in its config.
        tokenizer: where to take the tokenizer from instead.
        chat_template: a Jinja file or "plain" instead of the tokenizer's own.
        placement: device, dtype and batch bound.
        trust_remote_code: run model code that comes with the checkpoint.
    """

    spec: str
    base: str | None = None
    tokenizer: str | None = None
    chat_template: str | None = None
    placement: Placement = field(default_factory=Placement)
    trust_remote_code: bool = False

    def load(self, progress: Progress | None = None, *, merge: bool = False) -> Subject:
        """Load it; with ``merge``, an adapter is folded into its base."""
        return load(
            self.spec,
            base=self.base,
            tokenizer=self.tokenizer,
            chat_template=self.chat_template,
            placement=self.placement,
            trust_remote_code=self.trust_remote_code,
            merge=merge,
            progress=progress,
        )

    def check(self) -> Chat | None:
        """Refuse what its small files tell that it cannot be used, before anything is loaded; see `check_subject`."""
        return check_subject(
            self.spec,
            base=self.base,
            tokenizer=self.tokenizer,
            chat_template=self.chat_template,
            placement=self.placement,
            trust_remote_code=self.trust_remote_code,
        )

    @property
    def config(self) -> dict[str, Any]:
        """What determines its numbers, without loading it: part of a run's identity.

        Raises:
            SubjectError: something that it is made of is not there; see `subject_content`.
        """
        require_regular(self.chat_template or "")
        content = subject_content(self.spec, base=self.base, tokenizer=self.tokenizer, chat_template=self.chat_template)
        return {**asdict(self), "content": content}
