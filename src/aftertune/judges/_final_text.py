"""What a judge says in the end: its reply without thinking aloud, without other channels, without a turn's tokens."""

from __future__ import annotations

import re

# How models that think aloud open and close it. Templates may write the opening into the prompt, so that only the
# closing is generated.
_NAME = r"(?:seed:)?(?:think|thinking|thought|thoughts|reason|reasoning|reflection|scratchpad|analysis)"
_OPENS = re.compile(
    rf"<{_NAME}>|\[THINK\]|◁think▷|<\|(?:begin_of_thought|START_THINKING)\|>|<unused94>(?:thought)?", re.IGNORECASE
)
_CLOSES = re.compile(rf"</{_NAME}>|\[/THINK\]|◁/think▷|<\|(?:end_of_thought|END_THINKING)\|>|<unused95>", re.IGNORECASE)
# gpt-oss and its kin speak in channels; the last one that is "final" is said, all others are thought. A decoder that
# drops special tokens leaves their names.
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)[^<]*<\|message\|>")
_BARE_CHANNELS = re.compile(r"\s*(?:analysis|commentary).*assistantfinal(?P<said>.*)", re.DOTALL)
# Tokens of a chat template that are left in the text: around a reply, and where a model went on with another turn.
_TOKEN = r"(?:<[|｜][^<>\n]{1,60}[|｜]>|</?s>|</?(?:start|end)_of_turn>|<(?:bos|eos|pad)>|\[/?(?:INST|EOS)\])"
_HEADER = re.compile(rf"\s*(?:{_TOKEN}\s*)+(?:(?:assistant|model)\b\s*(?:{_TOKEN}\s*)*)?")
_ENDS = re.compile(_TOKEN)


def final_text(text: str, question: str = "", answer: str = "") -> str | None:
    """What is said after all thinking, up to the end of the turn; "" if nothing is, or the thinking has no end.

    Args:
        text: the reply.
        question: what the subject was asked.
        answer: what it said.

    Returns:
        None where the end of the thinking and what follows stand so in the texts judged: the judge may quote them.
    """
    markers = list(_CHANNEL.finditer(text))
    if markers:
        finals = [marker for marker in markers if marker[1] == "final"]
        if not finals or finals[-1] is not markers[-1]:
            return ""
        text = text[finals[-1].end() :]
    elif bare := _BARE_CHANNELS.fullmatch(text):
        text = bare["said"]
    closings = list(_CLOSES.finditer(text))
    said = text[closings[-1].end() :] if closings else text
    said = _turn(said)
    if closings and said and any(_quotes(closings[-1][0], said, judged) for judged in (question, answer)):
        return None
    opening = _OPENS.match(said) if not closings else _OPENS.search(said)
    return "" if opening else said


def _turn(text: str) -> str:
    header = _HEADER.match(text)
    text = text[header.end() :] if header else text
    end = _ENDS.search(text)
    return (text[: end.start()] if end else text).strip()


def _quotes(closing: str, said: str, judged: str) -> bool:
    wanted = "".join(f"{closing}{said}".split())
    given = "".join(judged.split())
    return wanted.casefold() in given.casefold()
