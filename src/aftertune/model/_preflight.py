"""What can be known of a subject without its weights: is it there, is it whole, can it be talked to?

`load` finds the same faults, but a run that measures one model before it loads the next would tell them hours later.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from aftertune.data import Message
from aftertune.errors import SubjectError
from aftertune.model._adapter_base import WEIGHTS, adapter_chain
from aftertune.model._chat import Chat, read_template
from aftertune.model._checkpoint import read_checkpoint, read_headers
from aftertune.model._device import Placement, resolve_device
from aftertune.model._explain import explain_reading
from aftertune.model._loading import explicit_weights, load_tokenizer, pinned, refuse_pickles
from aftertune.model._quantised import refuse_packed
from aftertune.model._spec import SubjectSpec, parse_spec
from aftertune.model._vocabulary import refuse_foreign_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
    """Refuse a subject that `load` would refuse, as far as its small files tell; no weights are read.

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
            read_headers(Path(patch))
    beneath = Path(chain[-2].location) if len(chain) > 1 else None
    config = _check_model(chain[-1], trust_remote_code, beneath)
    found = _tokenizer_of(chain, tokenizer, trust_remote_code)
    if found is None:
        return None
    chat = Chat(found, template, chain[0].text)
    rows = getattr(config.get_text_config(), "vocab_size", None) if config is not None else None
    if isinstance(rows, int) and len(chain) == 1:  # an adapter may bring an embedding of its own
        refuse_foreign_tokens(chat, rows, chain[0].text)
    chat.tree([Message("user", _QUESTION)], [_ANSWER])
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
