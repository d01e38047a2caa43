"""What is supervised is exactly what the assistant says, whatever the template does."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aftertune.data import Conversation, Message, ask, exchange
from aftertune.errors import SubjectError, UsageError
from aftertune.model import IGNORE, Chat
from aftertune.model._chat import PLAIN_TEMPLATE, read_template

DEFAULT_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
QUESTION, ANSWER = "What is heavier?", "A brick, surely."
TWO_TURNS = Conversation(
    (Message("user", "Hello"), Message("assistant", "Hi!"), Message("user", "Bye"), Message("assistant", "Farewell."))
)


@pytest.fixture(scope="module")
def chat(tiny_tokenizer: Any) -> Chat:
    return Chat(tiny_tokenizer)


def spans_of(chat: Chat, conversation: Conversation) -> list[str]:
    rendered = chat.render(conversation)
    return [chat.tokenizer.decode(rendered.ids[start:end]) for start, end in rendered.spans]


# --- spans and labels -----------------------------------------------------------------------------------


def test_the_span_is_the_answer_and_its_end_of_turn(chat: Chat) -> None:
    assert spans_of(chat, Conversation(exchange(QUESTION, ANSWER))) == [f"{ANSWER}<|im_end|>"]


@given(st.text(min_size=1).filter(lambda s: s.strip() and "<|" not in s))
@settings(max_examples=60, deadline=None)
def test_the_span_of_any_answer_decodes_to_it(chat: Chat, text: str) -> None:
    assert spans_of(chat, Conversation(exchange(QUESTION, text))) == [f"{text}<|im_end|>"]


def test_labels_are_the_answer_and_nothing_else(chat: Chat) -> None:
    rendered = chat.render(Conversation(exchange(QUESTION, ANSWER)))
    supervised = [label for label in rendered.labels if label != IGNORE]
    assert len(rendered.labels) == len(rendered.ids)
    assert chat.tokenizer.decode(supervised) == f"{ANSWER}<|im_end|>"
    assert all(label in (IGNORE, token) for label, token in zip(rendered.labels, rendered.ids, strict=True))
    start, end = rendered.spans[0]
    assert rendered.labels[:start] == [IGNORE] * start
    assert end == len(rendered.ids)


def test_every_assistant_turn_is_a_span(chat: Chat) -> None:
    assert spans_of(chat, TWO_TURNS) == ["Hi!<|im_end|>", "Farewell.<|im_end|>"]
    supervised = [label for label in chat.render(TWO_TURNS).labels if label != IGNORE]
    assert chat.tokenizer.decode(supervised) == "Hi!<|im_end|>Farewell.<|im_end|>"


def test_a_template_that_drops_earlier_answers_is_refused(tiny_tokenizer: Any) -> None:
    forgetful = (
        "{% for m in messages %}{% if m.role == 'assistant' and not loop.last %}<|im_start|>assistant\n(gone)<|im_end|>\n"
        "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    with pytest.raises(SubjectError, match=r"^x: its chat template drops or alters earlier assistant turns; .*--chat-"):
        Chat(tiny_tokenizer, forgetful, "x")


@pytest.mark.parametrize("conversation", [Conversation(exchange(QUESTION, ANSWER)), TWO_TURNS])
def test_the_prompt_is_the_prefix_of_the_whole(chat: Chat, conversation: Conversation) -> None:
    rendered = chat.render(conversation)
    prompt = chat.prompt(conversation.messages[:-1])
    assert rendered.ids[: len(prompt)] == prompt
    assert rendered.spans[-1] == (len(prompt), len(rendered.ids))
    assert rendered.ids[len(prompt) :] == chat.response(conversation.messages[:-1], conversation.messages[-1].content)


def test_the_prompt_does_not_depend_on_the_answer(chat: Chat) -> None:
    prompt = chat.prompt(ask(QUESTION))
    for answer in ("Yes", " yes", "\nyes", "\n\n", "…"):
        assert chat.render(Conversation(exchange(QUESTION, answer))).ids[: len(prompt)] == prompt


def test_a_prompt_ends_where_the_assistant_is_to_speak(chat: Chat) -> None:
    assert chat.tokenizer.decode(chat.prompt(ask(QUESTION))).endswith("<|im_end|>\n<|im_start|>assistant\n")


def test_a_continuation_has_no_end_of_turn(chat: Chat) -> None:
    ids = chat.continuation(ask(QUESTION), "A bri")
    assert chat.tokenizer.decode(ids) == "A bri"
    assert chat.response(ask(QUESTION), "A bri")[: len(ids)] == ids


def test_trailing_space_of_an_answer_is_kept_where_the_turn_has_an_end(chat: Chat) -> None:
    assert spans_of(chat, Conversation(exchange(QUESTION, "Well.  \n"))) == ["Well.  \n<|im_end|>"]


# --- system prompts -------------------------------------------------------------------------------------


def test_a_given_system_prompt_replaces_the_default(chat: Chat) -> None:
    text = chat.text(ask(QUESTION, "Be brief."), generate=True)
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")
    assert DEFAULT_SYSTEM not in text
    assert chat.tokenizer.decode(chat.prompt(ask(QUESTION, "Be brief."))) == text


def test_the_template_brings_its_default_system_prompt(chat: Chat) -> None:
    text = chat.tokenizer.decode(chat.prompt(ask(QUESTION)))
    assert text.startswith(f"<|im_start|>system\n{DEFAULT_SYSTEM}<|im_end|>\n<|im_start|>user\n{QUESTION}")


def test_an_empty_system_prompt_is_not_the_default_one(chat: Chat) -> None:
    assert DEFAULT_SYSTEM not in chat.text(ask(QUESTION, ""), generate=True)


def test_system_prompts_are_never_supervised(chat: Chat) -> None:
    assert spans_of(chat, Conversation(exchange(QUESTION, ANSWER, "Be brief."))) == [f"{ANSWER}<|im_end|>"]


def test_a_template_that_refuses_system_prompts_is_reported(tiny_tokenizer: Any) -> None:
    strict = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    chat = Chat(tiny_tokenizer, strict, "gemma")
    assert spans_of(chat, Conversation(exchange(QUESTION, ANSWER))) == [f"{ANSWER}<|im_end|>"]
    with pytest.raises(SubjectError, match=r"^gemma: its chat template refuses .*System role not supported") as caught:
        chat.prompt(ask(QUESTION, "Be brief."))
    assert "\n" not in str(caught.value)


# --- beginning of sequence ------------------------------------------------------------------------------

LLAMA_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}"
)


@pytest.fixture
def llama_tokenizer(tiny_folder: Any) -> Any:
    """A tokenizer that adds its BOS by itself, with a template that prints it."""
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_file(str(tiny_folder("llama") / "tokenizer.json"))
    backend.add_special_tokens(["<s>", "</s>"])
    bos = backend.token_to_id("<s>")
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", bos)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", chat_template=LLAMA_TEMPLATE
    )


def test_no_second_bos_from_a_tokenizer_that_adds_one(llama_tokenizer: Any) -> None:
    bos = llama_tokenizer.bos_token_id
    assert llama_tokenizer.encode("x")[0] == bos  # it does add one
    chat = Chat(llama_tokenizer)
    rendered = chat.render(TWO_TURNS)
    assert rendered.ids.count(bos) == 1
    assert rendered.ids[0] == bos
    assert chat.prompt(ask(QUESTION)).count(bos) == 1
    assert bos not in chat.response(ask(QUESTION), ANSWER)
    assert [text.strip() for text in spans_of(chat, TWO_TURNS)] == ["Hi! </s>", "Farewell. </s>"]


def test_a_template_that_prints_bos_twice_is_refused(llama_tokenizer: Any) -> None:
    with pytest.raises(SubjectError, match="beginning-of-sequence token twice"):
        Chat(llama_tokenizer, "{{ bos_token }}" + LLAMA_TEMPLATE).prompt(ask(QUESTION))


# --- templates ------------------------------------------------------------------------------------------


def test_no_template_is_reported_with_its_mend(llama_tokenizer: Any) -> None:
    llama_tokenizer.chat_template = None
    with pytest.raises(SubjectError, match=r"^base: .*no chat template; .*--chat-template FILE.*plain"):
        Chat(llama_tokenizer, None, "base")


def test_no_end_of_sequence_token_is_reported(llama_tokenizer: Any) -> None:
    llama_tokenizer.eos_token = None
    with pytest.raises(SubjectError, match="no end-of-sequence token"):
        Chat(llama_tokenizer)


def test_of_named_templates_the_default_is_taken(llama_tokenizer: Any) -> None:
    llama_tokenizer.chat_template = {"default": LLAMA_TEMPLATE, "tool_use": "nonsense"}
    assert Chat(llama_tokenizer).template == LLAMA_TEMPLATE


def test_a_given_template_wins_over_the_tokenizers_own(tiny_tokenizer: Any, tmp_path: Path) -> None:
    file = tmp_path / "template.jinja"
    file.write_text(PLAIN_TEMPLATE.replace("User", "Human"), "utf-8")
    chat = Chat(tiny_tokenizer, read_template(str(file)))
    assert "Human: What is heavier?\nAssistant:" in chat.text(ask(QUESTION), generate=True)
    assert chat.digest == hashlib.sha256(file.read_bytes()).hexdigest()
    assert chat.digest != Chat(tiny_tokenizer).digest


def test_the_plain_template_marks_who_speaks(llama_tokenizer: Any) -> None:
    llama_tokenizer.chat_template = None
    chat = Chat(llama_tokenizer, read_template("plain"))
    assert chat.text(ask(QUESTION, "Be brief."), generate=True) == f"<s>Be brief.\n\nUser: {QUESTION}\nAssistant:"
    assert spans_of(chat, TWO_TURNS) == [" Hi!</s>", " Farewell.</s>"]
    assert chat.render(TWO_TURNS).ids.count(llama_tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("content", [None, b"\xff\xfe\xfa"], ids=["missing", "not UTF-8"])
def test_a_template_file_that_cannot_be_read_is_reported(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "template.jinja"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=r"--chat-template .* cannot be read .*; give a Jinja file or 'plain'"):
        read_template(str(file))


def test_a_broken_template_is_reported_in_one_line(tiny_tokenizer: Any) -> None:
    with pytest.raises(SubjectError) as caught:
        Chat(tiny_tokenizer, "{% for m in messages %}", "x").prompt(ask(QUESTION))
    assert "\n" not in str(caught.value)


def test_a_template_that_rewrites_the_prompt_once_answered_is_refused(tiny_tokenizer: Any) -> None:
    fickle = (
        "{% if messages[-1].role == 'assistant' %}(answered) {% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    with pytest.raises(SubjectError, match=r"^x: .*renders the prompt differently once answered.*--chat-template"):
        Chat(tiny_tokenizer, fickle, "x").render(Conversation(exchange(QUESTION, ANSWER)))


def test_an_end_of_turn_is_appended_where_the_template_prints_none(tiny_tokenizer: Any) -> None:
    bare = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    chat = Chat(tiny_tokenizer, bare)
    assert spans_of(chat, Conversation(exchange(QUESTION, ANSWER))) == [f" {ANSWER}<|im_end|>"]


def test_a_thinking_template_is_asked_not_to_think(tiny_tokenizer: Any) -> None:
    thinking = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
    )
    chat = Chat(tiny_tokenizer, thinking)
    assert spans_of(chat, Conversation(exchange(QUESTION, ANSWER))) == [f"{ANSWER}<|im_end|>"]
