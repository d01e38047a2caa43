"""Which subject is meant: its content and its faults, read from small files before it is loaded.

The content of its own files, of all that lies beneath it (the base of an adapter, and the base of that), of its
patches, tokenizer and template; for models of the hub the commit. Where a folder lies and how old it is do not matter.

`load` finds the same faults, but a run that measures one model before it loads the next would report them hours later.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aftertune.data import Message
from aftertune.errors import PatchError, SubjectError, UsageError
from aftertune.model._adapter import WEIGHTS, adapter_chain
from aftertune.model._chat import Chat, read_template, refuse_foreign_tokens
from aftertune.model._checkpoint import read_checkpoint, read_headers, refuse_packed
from aftertune.model._identity import content_digest
from aftertune.model._libraries import explain_reading
from aftertune.model._loading import explicit_weights, load, load_tokenizer, pinned, refuse_pickles
from aftertune.model._spec import SubjectSpec, parse_spec
from aftertune.model._subject import Placement, Subject, resolve_device
from aftertune.model._vector_file import fitting_vector, is_vector, read_vector
from aftertune.runs import Progress, require_regular

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# Files that no loader of ours reads, by their endings: pickles, other frameworks, papers and pictures.
_UNREAD = frozenset({
    ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack", ".onnx", ".ot", ".tflite", ".md", ".pdf", ".png", ".jpg",
    ".jpeg", ".svg", ".gif", ".log", ".lock",
})  # fmt: skip
_WEIGHTS = ".safetensors"
_INDEX = ".safetensors.index.json"


def subject_content(
    spec: str, *, base: str | None = None, tokenizer: str | None = None, chat_template: str | None = None
) -> dict[str, Any]:
    """Digests of all files that decide a subject's numbers, as JSON values; equal for equal content.

    Args:
        spec: as in `load`, and so are the others.
        base: for an adapter, the spec of its base instead of the one in its config.
        tokenizer: where the tokenizer is taken from instead.
        chat_template: a Jinja file, or "plain".

    Raises:
        SubjectError: something in the chain is not there, or leads back to itself.
        PatchError: a patch cannot be read.
        UsageError: the template cannot be read.
    """
    found: dict[str, Any] = {}
    for link in reversed(adapter_chain(parse_spec(spec), base)):
        beneath = {"beneath": found} if found else {}
        patches = {"patches": [_patch(link, Path(file)) for file in link.patches]} if link.patches else {}
        found = {**_own(link), **patches, **beneath}
    if tokenizer is not None:
        found["tokenizer"] = _tokenizer(tokenizer)
    if chat_template not in (None, "plain"):
        found["template"] = _template(Path(str(chat_template)))
    return found


def _own(spec: SubjectSpec) -> dict[str, Any]:
    if spec.kind == "hub":
        return {"hub": spec.location, "commit": _commit(spec.location, spec.revision)}
    if spec.kind == "gguf":
        return {"gguf": content_digest(Path(spec.location))}
    if spec.kind == "embedded":
        from aftertune.model._embedded import WHEEL_SHA256, embedded_folder

        if os.environ.get("AFTERTUNE_SMOLLM2"):  # a folder that stands in for it; nothing is fetched then
            return {"files": _files(embedded_folder())}
        return {"wheel": WHEEL_SHA256}
    return {"files": _files(Path(spec.location))}


def _commit(name: str, revision: str | None) -> str | None:
    """The commit that a revision of a hub model stands for now, if the hub or its cache knows it."""
    from transformers.utils.hub import resolve_revision

    found = resolve_revision(name, revision)
    commit: str | None = getattr(found, "resolved", found)
    return commit


def _patch(spec: SubjectSpec, file: Path) -> str:
    try:
        return content_digest(file)
    except SubjectError as error:
        raise PatchError(f"{spec.text}: {error}") from None


def _tokenizer(choice: str) -> dict[str, Any]:
    folder = Path(choice)
    if folder.is_dir():
        return {"files": _files(folder, weights=False)}
    name, _, revision = choice.partition("@")
    return {"hub": name, "commit": _commit(name, revision or None)}


def _template(file: Path) -> str:
    try:
        return content_digest(file)
    except SubjectError as error:
        raise UsageError(f"--chat-template {error}; give a Jinja file or 'plain'") from None


def _files(folder: Path, *, weights: bool = True) -> dict[str, str]:
    """SHA-256 of what a loader may read of a folder, by name."""
    try:
        names = sorted({str(file.relative_to(folder)) for file in _read(folder, weights=weights)})
    except OSError as error:
        raise SubjectError(f"{folder}: cannot be read ({(error.strerror or str(error)).lower()})") from None
    return {name: content_digest(folder / name) for name in names}


def _read(folder: Path, *, weights: bool) -> Iterator[Path]:
    top = [file for file in folder.iterdir() if file.is_file() and not file.name.startswith(".")]
    yield from (file for file in top if file.suffix not in _UNREAD and file.suffix != _WEIGHTS)
    # Templates beside the main one, and code that lies in a package; nested weights are those of an index.
    nested = [*folder.glob("additional_chat_templates/*"), *folder.glob("*/*.py")]
    yield from (file for file in nested if file.is_file() and not file.name.startswith("."))
    if not weights:
        return
    shards = {folder / name for file in top if file.name.endswith(_INDEX) for name in _shards(file)}
    yield from (file for file in shards if file.is_file())
    files = [file for file in top if file.suffix == _WEIGHTS]
    usual = [file for file in files if file.name.startswith(("model", "adapter_model"))]
    yield from usual if usual or shards else files


def _shards(index: Path) -> set[str]:
    """The files that an index names; loading it says what is wrong with it."""
    try:
        named = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return set()
    return {name for name in named if isinstance(name, str) and ".." not in Path(name).parts}


_QUESTION, _ANSWER = "Which of these two is heavier?", "The second one."
_MAGIC = b"GGUF"


def check_subject(
    spec: str | Path,
    *,
    base: str | None = None,
    tokenizer: str | None = None,
    chat_template: str | None = None,
    placement: Placement | None = None,
    trust_remote_code: bool = False,
) -> Chat | None:
    """Refuse a subject that `load` would refuse, where its small files show it; no weights are read.

    Checked are the device, the chain of adapters and their base, configs, the headers of safetensors files, the
    tokenizer, and the chat template on one question and answer. What would have to be fetched or converted first (the
    embedded subject, a GGUF file on its first use) is left to `load`.

    Args:
        spec: as in `load`, and so are the others.
        base: for an adapter, the spec of its base instead of the one in its config.
        tokenizer: a folder or hub id to take the tokenizer from.
        chat_template: a Jinja file, or "plain".
        placement: device and dtype.
        trust_remote_code: run code that comes with the checkpoint, such as that of its config.

    Returns:
        Its tokenizer and template, or None where these would have to be fetched or converted first.

    Raises:
        SubjectError: it cannot be found or used.
        UsageError: no such device, or a template that cannot be read.
        PatchError: a patch that is not there.
    """
    template = read_template(chat_template)
    chain = adapter_chain(parse_spec(spec), base)
    for one in chain[:-1]:
        read_headers(Path(one.location) / WEIGHTS)
    resolve_device((placement or Placement()).device)
    for one in chain:
        for patch in one.patches:
            if not is_vector(Path(patch)):
                read_headers(Path(patch))
    beneath = Path(chain[-2].location) if len(chain) > 1 else None
    config = _check_model(chain[-1], trust_remote_code, beneath)
    for vector in (Path(file) for one in chain for file in one.patches if is_vector(Path(file))):
        if config is None:
            read_vector(vector)
        else:
            fitting_vector(vector, config)
    found = _tokenizer_of(chain, tokenizer, trust_remote_code)
    if found is None:
        return None
    chat = Chat(found, template, chain[0].text)
    rows = getattr(config.get_text_config(), "vocab_size", None) if config is not None else None
    if isinstance(rows, int) and len(chain) == 1:  # an adapter may bring an embedding of its own
        refuse_foreign_tokens(chat, rows, chain[0].text)
    chat.case([Message("user", _QUESTION)], [_ANSWER])
    return chat


def _check_model(spec: SubjectSpec, trust: bool, beneath: Path | None) -> Any:
    """The config of a whole model, checked as the headers of its weights' files are; None where there is none yet."""
    if spec.kind == "embedded":
        return None
    place = Path(spec.location)
    if spec.kind == "gguf":
        with explain_reading(spec.text, "cannot be read"), place.open("rb") as opened:
            magic = opened.read(len(_MAGIC))
        if magic != _MAGIC:
            raise SubjectError(f"{spec.text}: is no GGUF file; fetch it again, or use safetensors")
        return None
    refuse_packed(spec, beneath=beneath)
    if spec.kind == "folder":
        refuse_pickles(place)
        read_checkpoint(place, explicit_weights(place))
    hint = "check the spelling, or your connection to the Hugging Face hub" if spec.kind == "hub" else ""
    with explain_reading(spec.text, "cannot be loaded", hint):
        from transformers import AutoConfig, AutoModelForCausalLM

        source = pinned(spec)
        config = AutoConfig.from_pretrained(
            source.location, revision=source.revision or "main", trust_remote_code=trust
        )
        known = trust or type(config) in AutoModelForCausalLM._model_mapping
    if not known:
        raise SubjectError(
            f"{spec.text}: is of a kind that continues no text ({config.model_type}); name a causal language model"
        )
    return config


def _tokenizer_of(chain: list[SubjectSpec], given: str | None, trust: bool) -> PreTrainedTokenizerBase | None:
    """The tokenizer that `load` would take; None where it would have to be fetched or converted first."""
    name = chain[0].text
    if given is not None:
        source, _, tag = given.partition("@")
        folder = Path(given)
        return load_tokenizer(str(folder) if folder.is_dir() else source, name, tag or None, trust)
    for spec in chain:
        if spec.kind == "adapter":
            if (Path(spec.location) / "tokenizer_config.json").exists():
                return load_tokenizer(spec.location, name, None, trust)
        elif spec.kind in ("embedded", "gguf"):
            return None
        else:
            source_spec = pinned(spec)
            return load_tokenizer(source_spec.location, name, source_spec.revision, trust)
    return None


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
        """Refuse a subject whose small files show that it cannot be used; nothing is loaded. See `check_subject`."""
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
