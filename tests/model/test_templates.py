"""Chat templates of checkpoints: the same text as transformers makes, but finite, dated alike and true to what is said."""

from __future__ import annotations

import datetime
import hashlib
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from aftertune.data import Conversation, Message, ask, exchange
from aftertune.errors import DataError, SubjectError, UsageError
from aftertune.model import Chat, as_subject, load, score
from aftertune.model import _template as templates
from aftertune.model._chat import PLAIN_TEMPLATE, read_template
from aftertune.model._template import PINNED_DATE, ChatTemplate
from aftertune.runs import Silent

START = "{% for m in messages %}<|im_start|>{{ m.role }}\n"
END = "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
CHATML = START + "{{ m.content }}" + END
TURNS = (
    {"role": "system", "content": "Be <b>brief</b>."},
    {"role": "user", "content": "One  &\ntwo?"},
    {"role": "assistant", "content": "first 'one'"},
    {"role": "user", "content": "b"},
    {"role": "assistant", "content": "second two"},
)
PUBLISHED = sorted(p.name for p in (resources.files("trl") / "chat_templates").iterdir() if p.name.endswith(".jinja"))


def published(name: str) -> str:
    return (resources.files("trl") / "chat_templates" / name).read_text("utf-8")


# --- the same text as transformers makes ----------------------------------------------------------------


class Clock(datetime.datetime):
    """A clock that stands at the pinned date."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime.datetime:  # type: ignore[override]
        return datetime.datetime(PINNED_DATE.year, PINNED_DATE.month, PINNED_DATE.day, 12)  # noqa: DTZ001


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_templates_print_what_transformers_prints(
    name: str, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.utils import chat_template_utils

    monkeypatch.setattr(chat_template_utils, "datetime", Clock)
    text = published(name)
    ours, printed = ChatTemplate(text), 0
    for turns in (TURNS, TURNS[1:], TURNS[1:2], TURNS[:4]):
        for generate in (True, False):
            try:
                theirs = tiny_tokenizer.apply_chat_template(
                    list(turns),
                    chat_template=text,
                    tokenize=False,
                    add_generation_prompt=generate,
                    enable_thinking=False,
                )
            except Exception as error:
                with pytest.raises(type(error)):
                    ours.render(turns, generate=generate, tokens=tiny_tokenizer.special_tokens_map)
            else:
                assert ours.render(turns, generate=generate, tokens=tiny_tokenizer.special_tokens_map) == theirs
                printed += 1
    assert printed or "llava" in name


# --- what is said is printed as it is -------------------------------------------------------------------

ALTERED = {
    "no answers": ("{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}", "answer"),
    "nothing at all": ("hi", "user message"),
    "no question": ("{% for m in messages if m.role == 'assistant' %}{{ m.content }}<|im_end|>{% endfor %}", "user"),
    "capitals": (START + "{{ m.content | upper }}" + END, "user message"),
    "lower case": (START + "{{ m.content.lower() }}" + END, "user message"),
    "escaped": (START + "{{ m.content | e }}" + END, "user message"),
    "cut": (START + "{{ m.content[:64] }}" + END, "user message"),
    "one line": (START + "{{ m.content.split('\\n')[0] }}" + END, "user message"),
    "spaces folded": (START + "{{ m.content.split() | join(' ') }}" + END, "user message"),
    "json": (START + "{{ m.content | tojson }}" + END, "user message"),
    "answers cut": (START + "{{ m.content[:64] if m.role == 'assistant' else m.content }}" + END, "answer"),
    "answers in capitals": (START + "{{ m.content | upper if m.role == 'assistant' else m.content }}" + END, "answer"),
    "answers twice": (
        START + "{{ m.content }}{% if m.role == 'assistant' %} {{ m.content }}{% endif %}" + END,
        "answer twice",
    ),
    "earlier answers gone": (
        START + "{% if loop.last or m.role == 'user' %}{{ m.content }}{% endif %}" + END,
        "earlier assistant turns",
    ),
    "last message alone": (
        "<|im_start|>{{ messages[-1].content }}<|im_end|>",
        "user message once it is answered",
    ),
}


@pytest.mark.parametrize("case", ALTERED)
def test_a_template_that_drops_or_alters_what_is_said_is_refused_at_once(case: str, tiny_tokenizer: Any) -> None:
    text, names = ALTERED[case]
    with pytest.raises(SubjectError, match=rf"^x: its chat template .*{names}.*--chat-template") as caught:
        Chat(tiny_tokenizer, text, "x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [CHATML.replace("m.content", "m.content | trim"), CHATML, PLAIN_TEMPLATE])
def test_a_template_may_take_white_space_off_the_ends(text: str, tiny_tokenizer: Any) -> None:
    chat = Chat(tiny_tokenizer, text)
    ids = chat.response(ask(" What?\n"), " Well.  ")
    assert chat.tokenizer.decode(ids).strip().startswith("Well.")


def test_both_ways_to_a_subject_try_the_template_out(
    tiny_model: Callable[..., Any], tiny_tokenizer: Any, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    import copy

    drops = ALTERED["no answers"][0]
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = drops
    with pytest.raises(SubjectError, match=r"^live: its chat template drops or alters the assistant's answer"):
        as_subject(tiny_model("llama"), tokenizer)
    file = tmp_path / "drops.jinja"
    file.write_text(drops, "utf-8")
    with pytest.raises(SubjectError, match="its chat template drops or alters the assistant's answer"):
        load(tiny_folder("llama"), chat_template=str(file))


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_an_empty_template_is_refused_wherever_it_comes_from(text: str, tiny_tokenizer: Any, tmp_path: Path) -> None:
    file = tmp_path / "empty.jinja"
    file.write_text(text, "utf-8")
    with pytest.raises(UsageError, match=r"--chat-template .*empty\.jinja: the file is empty; give a Jinja file"):
        read_template(str(file))
    with pytest.raises(SubjectError, match=r"^x: its chat template is empty; give another with --chat-template"):
        Chat(tiny_tokenizer, text, "x")


def test_a_folder_is_no_template(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no regular file; give a Jinja file or 'plain'"):
        read_template(str(tmp_path))


@pytest.mark.parametrize("text", ["{% for m in messages %}", "{{ m.content", "{% nonsense %}", "{{ 1 | nofilter }}"])
def test_a_template_that_is_no_jinja_is_refused_in_one_line(text: str, tiny_tokenizer: Any) -> None:
    with pytest.raises(SubjectError, match=r"^x: its chat template cannot be read \(.*--chat-template") as caught:
        Chat(tiny_tokenizer, text, "x")
    assert "\n" not in str(caught.value)


def test_a_template_of_a_megabyte_is_none(tiny_tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(SubjectError, match="it has more than 1048576 characters"):
        Chat(tiny_tokenizer, CHATML + "{# #}" * 2**18, "x")
    file = tmp_path / "large.jinja"
    file.write_text(" " * (2**20 + 1), "utf-8")
    with pytest.raises(UsageError, match="is larger than 1048576 bytes"):
        read_template(str(file))


def test_a_row_that_a_template_refuses_is_named(tiny_tokenizer: Any) -> None:
    cut = CHATML.replace("m.content", "m.content[:5000]")
    row = Conversation(exchange("What?", "Well. " * 1000), "rows.jsonl", 7)
    with pytest.raises(DataError, match=r"^rows\.jsonl:7: x: its chat template drops or alters the assistant's answer"):
        Chat(tiny_tokenizer, cut, "x").render(row)


def test_a_template_without_system_prompts_says_so_when_there_is_one(tiny_tokenizer: Any) -> None:
    silent = CHATML.replace("messages %}", "messages if m.role != 'system' %}", 1)
    chat = Chat(tiny_tokenizer, silent, "x")
    assert chat.prompt(ask("What?"))
    with pytest.raises(SubjectError, match=r"^x: its chat template drops or alters the system message 'Be brief.'"):
        chat.prompt(ask("What?", "Be brief."))


def test_a_system_prompt_may_stand_in_the_question(tiny_tokenizer: Any) -> None:
    merged = (
        "{% if messages[0].role == 'system' %}{% set s = messages[0].content + '\n\n' %}{% else %}{% set s = '' %}{% endif %}"
        "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'user' and loop.last %}{{ s }}{% endif %}{{ m.content }}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    chat = Chat(tiny_tokenizer, merged)
    text = chat.tokenizer.decode(chat.prompt(ask("What?", "Be brief.")))
    assert text == "<|im_start|>user\nBe brief.\n\nWhat?<|im_end|>\n<|im_start|>assistant\n"


# --- finite ---------------------------------------------------------------------------------------------

ENDLESS = {
    "nested loops": "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "loops that print": "{% for i in range(99999) %}{% for j in range(99999) %}{{ j }}{% endfor %}{% endfor %}",
    "loops over texts": "{% for i in 'a' * 99999 %}{% for j in 'a' * 99999 %}{% set k = 1 %}{% endfor %}{% endfor %}",
    "two calls a call": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a kept loop": "{% set x %}{% for i in range(99999) %}{{ 'a' * 99999 }}{% endfor %}{% endset %}{{ x }}",
    "filters": "{{ range(99999) | map('string') | map('replace', '1', 'x' * 99999) | join }}",
    "when asked twice": "{% if messages | length > 1 %}{% for i in range(99999) %}{% for j in range(99999) %}"
    "{% endfor %}{% endfor %}{% endif %}" + CHATML,
}
ENORMOUS = {
    "a long range": "{% for i in range(10 ** 12) %}x{% endfor %}",
    "a repeated text": "{{ 'a' * 10 ** 10 }}",
    "a repeated list": "{{ (['a' * 999999] * 99999) | join }}",
    "a joined list": "{{ ','.join(['a' * 999999] * 99999) }}",
    "doubling": "{% set n = namespace(s='ab') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "adding": "{% set n = namespace(s='ab') %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "replacing": "{% set n = namespace(s='a') %}{% for i in range(99) %}{% set n.s = n.s.replace('a', 'aaaa') %}{% endfor %}",
    "padding": "{{ 'a'.center(10 ** 10) }}",
    "padding by a filter": "{{ 'a' | center(10 ** 10) }}",
    "padding by a format": "{{ '%10000000000d' % 1 }}",
    "padding by format()": "{{ '{:10000000000}'.format(1) }}",
    "a huge number": "{{ 10 ** (10 ** 9) }}",
}


@pytest.mark.parametrize("case", ENDLESS)
def test_an_endless_template_is_stopped(case: str, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "SECONDS", 0.2)
    begun = time.monotonic()
    with pytest.raises(SubjectError, match=r"did not finish within 0\.2 s|recursion") as caught:
        Chat(tiny_tokenizer, ENDLESS[case], "x")
    assert time.monotonic() - begun < 30  # minutes or for ever, else
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", ENORMOUS)
def test_an_enormous_text_is_never_made(case: str, tiny_tokenizer: Any) -> None:
    begun = time.monotonic()
    with pytest.raises(SubjectError, match=r"characters|enormous|Range too big|not finish") as caught:
        Chat(tiny_tokenizer, ENORMOUS[case], "x")
    assert time.monotonic() - begun < 30
    assert "\n" not in str(caught.value)


def test_the_bound_holds_in_a_thread_of_its_own(tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import ThreadPoolExecutor

    monkeypatch.setattr(templates, "SECONDS", 0.2)
    with ThreadPoolExecutor(2) as pool:
        bad = pool.submit(Chat, tiny_tokenizer, ENDLESS["nested loops"], "x")
        good = pool.submit(Chat, tiny_tokenizer, CHATML, "y")
        with pytest.raises(SubjectError, match="did not finish"):
            bad.result()
        assert good.result().prompt(ask("What?"))


@pytest.mark.parametrize("pattern", [r"(a+)+b", r"(\w+\s?)+$"])
def test_a_tokenizer_whose_expression_never_ends_is_refused(pattern: str, capfd: pytest.CaptureFixture[str]) -> None:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(["a b"], trainer)
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, backend.pre_tokenizer])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", chat_template=CHATML)
    with pytest.raises(SubjectError, match=r"^x: (its tokenizer did not finish|the tokenizer breaks on)") as caught:
        Chat(tokenizer, name="x")
    assert "\n" not in str(caught.value)
    assert "panicked" not in capfd.readouterr().err


# --- dates and chance -----------------------------------------------------------------------------------

DATED = "<|im_start|>system\nToday Date: {{ strftime_now('%d %b %Y') }}<|im_end|>\n" + CHATML


def test_todays_date_is_the_same_on_every_day(
    tiny_model: Callable[..., Any], tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import copy

    from transformers.utils import chat_template_utils

    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = DATED
    model, seen = tiny_model("llama"), []
    for day in (datetime.datetime(2026, 11, 30, 23, 59), datetime.datetime(2026, 12, 1, 0, 1)):  # noqa: DTZ001
        monkeypatch.setattr(Clock, "now", classmethod(lambda cls, tz=None, day=day: day))
        monkeypatch.setattr(chat_template_utils, "datetime", Clock)
        theirs = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
        assert day.strftime("%d %b %Y") in theirs
        subject = as_subject(model, tokenizer)
        [[likelihood]] = score(subject, [subject.chat.case(ask("What?"), ["Well."])])
        seen.append((likelihood.total, subject.chat.text(ask("What?"), generate=True), subject.chat.digest))
        assert subject.chat.notes == (
            "live: its chat template prints today's date; here that is 2024-07-26 on every day",
        )
    assert seen[0] == seen[1]
    assert "Today Date: 26 Jul 2024" in seen[0][1]
    assert seen[0][2] != hashlib.sha256(DATED.encode()).hexdigest()


@pytest.mark.parametrize("text", ["{{ ['a', 'b'] | random }}", "{{ lipsum() }}", "{{ [1, 2] | shuffle }}"])
def test_a_template_that_draws_at_random_is_refused(text: str, tiny_tokenizer: Any) -> None:
    with pytest.raises(SubjectError, match=r"^x: its chat template .*(at random|No filter named)"):
        Chat(tiny_tokenizer, text + CHATML, "x")


def test_the_digest_of_an_ordinary_template_is_that_of_its_text(tiny_tokenizer: Any) -> None:
    for text in (CHATML, PLAIN_TEMPLATE, CHATML.replace("m.content", "m.content | trim")):
        chat = Chat(tiny_tokenizer, text)
        assert chat.digest == hashlib.sha256(text.encode()).hexdigest()
        assert chat.notes == ()


def test_a_conversation_needs_no_date(tiny_tokenizer: Any) -> None:
    rendered = Chat(tiny_tokenizer, DATED).render(Conversation(exchange("What?", "Well.")))
    start, end = rendered.spans[0]
    assert tiny_tokenizer.decode(rendered.ids[start:end]) == "Well.<|im_end|>"


def test_messages_with_no_words_are_no_drop(tiny_tokenizer: Any) -> None:
    assert Chat(tiny_tokenizer, CHATML).prompt([Message("system", ""), Message("user", "")])


def test_loading_tells_of_a_pinned_date(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    told: list[str] = []

    class Told(Silent):
        def say(self, text: str) -> None:
            told.append(text)

    file = tmp_path / "dated.jinja"
    file.write_text(DATED, "utf-8")
    load(tiny_folder("llama"), chat_template=str(file), progress=Told())
    assert [text for text in told if "2024-07-26 on every day" in text]
