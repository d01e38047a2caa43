"""What kind of response a text is, before any judge reads it."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal, get_args

from aftertune.judges._form import holds_code, holds_json, strings
from aftertune.judges._gibberish import is_gibberish
from aftertune.judges._language import is_foreign
from aftertune.judges._refusing import opens_with_refusal

ResponseKind = Literal["answer", "refusal", "gibberish", "empty", "truncated", "off_format", "unsorted"]
ResponseForm = Literal["text", "json", "code", "template"]

RESPONSE_KINDS: tuple[ResponseKind, ...] = get_args(ResponseKind)

# As many signs without a letter or digit are still nothing: "...", "**", '""'. More are gibberish.
_BARE = 5

_SPECIAL = re.compile(
    r"""<\|im_start\|>(?:assistant|user|system)? | <\|start_header_id\|>\w{0,20}<\|end_header_id\|>
    | <start_of_turn>(?:model|user)? | <end_of_turn> | <[|｜][^<>|｜\s]{1,40}[|｜]> | </?s> | <</?SYS>> | \[/?INST\]
    | <(?:pad|eos|bos|unk|mask|cls|sep|eod|eot)> | \[(?:PAD|EOS|BOS|UNK|MASK|CLS|SEP)\]
    | <(?:extra_id_|unused)\d{1,4}>""",
    re.VERBOSE,
)
_FENCE_LINE = re.compile(r"^[ \t]*```+[\w+#.-]*[ \t]*$", re.MULTILINE)
# Names that makers of models give to the block in which theirs think.
_BLOCK = r"(?:think|thinking|thought|thoughts|reasoning|reflection|scratchpad|seed:think)"
_THINKING = re.compile(rf"<{_BLOCK}>|\[THINK\]|◁think▷|<\|(?:begin_of_thought|START_THINKING)\|>")
_THOUGHT = re.compile(rf"</{_BLOCK}>|\[/THINK\]|◁/think▷|<\|(?:end_of_thought|END_THINKING)\|>")
# Answers in channels, as gpt-oss gives them: what is not in the last final one was not said to the user.
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)[^<]*<\|message\|>")
_TURN_ENDS = re.compile(r"<\|(?:end|return|call)\|>")


def response_kind(text: str, *, truncated: bool = False, form: ResponseForm = "text") -> ResponseKind:
    """Sort one generated response, without a model.

    The first that holds decides:

    - *empty*: no letter and no digit beside white space, special tokens, a block of thinking, and a few signs;
    - *gibberish*: half of it or more is a loop, a soup of signs, or words without grammar;
    - *refusal*: it opens by declining (English only), cut off or not; in JSON, one of its first strings does;
    - *unsorted*: prose in another language, which these rules cannot read; whether it declines stays open;
    - *truncated*: generation stopped at its limit;
    - *off_format*: JSON or code was asked for, and there is none;
    - *answer*: everything else, good or bad, right or wrong.

    The same text gives the same kind; time grows linearly with its length. Agreement with our own labels: 97 of 100
    rows on which no rule was made (Cohen's kappa 0.96), labelled by those who wrote the rules.

    Args:
        text: what the subject generated, prompt excluded. Thinking that ends with `</think>` (or another tag of the
            sort), and channels other than the final one, are not part of the answer; thinking that never ends leaves
            the answer truncated or empty.
        truncated: whether generation stopped at its limit of tokens.
        form: what was asked for; "template" is a form to fill in, for which no check is made.

    Returns:
        One of `RESPONSE_KINDS`.
    """
    body, thinking = _said(text)
    body = body.strip()
    if not truncated and thinking:
        return "empty"
    signs = [ch for ch in _FENCE_LINE.sub("", body) if not ch.isspace() and unicodedata.category(ch) != "Cf"]
    if len(signs) <= _BARE and not any(map(str.isalnum, signs)):
        return "empty"
    if is_gibberish(body, prose=form in ("text", "template")):
        return "gibberish"
    openings = [body, *strings(body)] if form == "json" else [body]
    if not thinking and any(map(opens_with_refusal, openings)):
        return "refusal"
    if form in ("text", "template") and not thinking and is_foreign(body):
        return "unsorted"
    if truncated:
        return "truncated"
    if (form == "json" and not holds_json(body)) or (form == "code" and not holds_code(body)):
        return "off_format"
    return "answer"


def answer_text(text: str) -> str:
    """What a response answers: without special tokens and thinking, "" where it never came to an end of that."""
    body, thinking = _said(text)
    return "" if thinking else body


def _said(text: str) -> tuple[str, bool]:
    """What was said to the user, or the thinking itself where nothing was; and whether it is the latter."""
    channels = list(_CHANNEL.finditer(text))
    if channels:
        final = next((c for c in reversed(channels) if c[1] == "final"), None)
        shown = _TURN_ENDS.split(text[(final or channels[-1]).end() :], maxsplit=1)[0]
        return _SPECIAL.sub(" ", shown), final is None
    body, thinking = _without_thinking(text)
    return _SPECIAL.sub(" ", body), thinking


def _without_thinking(text: str) -> tuple[str, bool]:
    """What follows the thinking, or the thinking itself where nothing does; and whether it is the latter."""
    start = _THINKING.match(text.lstrip())
    # Templates may open the block in the prompt, so that only its end is generated.
    if end := _THOUGHT.search(text):
        return text[end.end() :] if start or not _THINKING.search(text, 0, end.start()) else text, False
    return (text.lstrip()[start.end() :], True) if start else (text, False)
