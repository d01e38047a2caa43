"""Where answers stand: after headers and thoughts, up to their own end of turn, in every turn of a conversation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from importlib import resources
from typing import Any

import pytest
import torch

from aftertune.data import Conversation, Message, ask
from aftertune.errors import DataError, SubjectError
from aftertune.model import Chat, PromptAnswers, as_subject, score

TokenizerOf = Callable[..., Any]

TWO_TURNS = Conversation(
    (
        Message("user", "a?"),
        Message("assistant", "first one"),
        Message("user", "b?"),
        Message("assistant", "second two"),
    ),
    "rows.jsonl",
    7,
)
HARMONY = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}"
    "{{ '<|return|>' if loop.last else '<|end|>' }}{% else %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}PROMPT{% endif %}"
)
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}PROMPT{% endif %}"
)
RECIPIENT = (
    "{% for m in messages %}<|start|>{{ m.role }}{{ ' to=user' if m.role == 'assistant' }}<|message|> {{ m.content }}"
    "<|end|>{% endfor %}{% if add_generation_prompt %}PROMPT{% endif %}"
)
# Template, its generation prompt, and what it prints before an answer.
HEADERS = {
    "a channel": (HARMONY, "<|start|>assistant", "<|channel|>final<|message|>"),
    "the end of a thought": (THINKING, "<|im_start|>assistant\n<think>\n", "\n</think>\n\n"),
    "an empty thought": (THINKING, "<|im_start|>assistant\n", "<think>\n\n</think>\n\n"),
    "a recipient": (RECIPIENT, "<|start|>assistant", " to=user<|message|>"),
}


@pytest.fixture(scope="session")
def tokenizer_of(tiny_tokenizer: Any) -> TokenizerOf:
    """The tiny tokenizer with more special tokens, and a template."""

    def made(template: str, eos: str = "<|im_end|>") -> Any:
        tokenizer = copy.deepcopy(tiny_tokenizer)
        extra = ["<|start|>", "<|message|>", "<|channel|>", "<|return|>", "<|end|>", "<|user|>", "<|assistant|>"]
        tokenizer.add_tokens(extra, special_tokens=True)
        tokenizer.add_tokens(["<think>", "</think>"])
        tokenizer.chat_template, tokenizer.eos_token = template, eos
        return tokenizer

    return made


def spans_of(chat: Chat, conversation: Conversation) -> list[str]:
    rendered = chat.render(conversation)
    return [chat.tokenizer.decode(rendered.ids[start:end]) for start, end in rendered.spans]


# --- openings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", HEADERS)
def test_openings_are_read_after_the_header(case: str, tokenizer_of: TokenizerOf, tiny_model: Any) -> None:
    template, prompt, header = HEADERS[case]
    chat = Chat(tokenizer_of(template.replace("PROMPT", prompt)))
    tokenizer, messages = chat.tokenizer, ask("May I?")
    text = tokenizer.apply_chat_template([{"role": "user", "content": "May I?"}], tokenize=False)
    for opening in ("I'm sorry", "Yes", "No"):
        # By hand: the text of the prompt, the header, then the opening.
        before = tokenizer.encode(text + prompt + header, add_special_tokens=False)
        space = " " if template == RECIPIENT else ""
        whole = tokenizer.encode(text + prompt + header + space + opening, add_special_tokens=False)
        assert list(chat.answer_prompt(messages)) == before
        assert list(chat.continuation(messages, opening)) == whole[len(before) :]
    assert list(chat.prompt(messages)) == tokenizer.encode(text + prompt, add_special_tokens=False)


@pytest.mark.parametrize("case", HEADERS)
def test_whole_answers_are_read_after_the_header_by_a_plain_pass(
    case: str, tokenizer_of: TokenizerOf, tiny_model: Callable[..., Any]
) -> None:
    template, prompt, _ = HEADERS[case]
    tokenizer = tokenizer_of(template.replace("PROMPT", prompt), "<|return|>" if template == HARMONY else "<|im_end|>")
    subject = as_subject(tiny_model("llama", vocab_size=len(tokenizer)), tokenizer)
    [[found]] = score(subject, [subject.chat.case(ask("May I?"), ["You may."])])
    turns = [{"role": "user", "content": "May I?"}, {"role": "assistant", "content": "You may."}]
    whole = tokenizer.apply_chat_template(turns, tokenize=False).rstrip()
    start = len(tokenizer.encode(whole[: whole.index("You may.")].rstrip(" "), add_special_tokens=False))
    ids = tokenizer.encode(whole, add_special_tokens=False)
    with torch.no_grad():
        logp = subject.model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    expected = sum(float(logp[at - 1, ids[at]]) for at in range(start, len(ids)))
    assert found.total == pytest.approx(expected, abs=1e-4)
    assert found.tokens == len(ids) - start


def test_a_header_is_part_of_who_the_subject_is(tokenizer_of: TokenizerOf) -> None:
    chats = {name: Chat(tokenizer_of(t.replace("PROMPT", prompt))) for name, (t, prompt, _) in HEADERS.items()}
    assert len({chat.digest for chat in chats.values()}) == len(chats)
    for name, chat in chats.items():
        assert any("before each answer" in note for note in chat.notes), name
    # The same template, read as if there were no header, has the digest of its text alone.
    import hashlib

    for chat in chats.values():
        assert chat.digest != hashlib.sha256(chat.template.encode()).hexdigest()


@pytest.mark.parametrize("thought", ["<think>\n", "<|channel|>analysis<|message|>"])
def test_a_thought_that_a_given_answer_lacks_is_refused(thought: str, tokenizer_of: TokenizerOf) -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n" + thought + "{% endif %}"
    )
    with pytest.raises(
        SubjectError, match=r"^x: .*begins an answer with a header or thought .*--chat-template"
    ) as caught:
        Chat(tokenizer_of(template), None, "x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("thought", ["<think>\n\n</think>\n\n", "<think></think>", "[THINK][/THINK]"])
def test_an_empty_thought_that_a_given_answer_lacks_is_where_answers_begin(
    thought: str, tokenizer_of: TokenizerOf
) -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n" + thought + "{% endif %}"
    )
    chat = Chat(tokenizer_of(template))
    tokenizer, messages = chat.tokenizer, ask("May I?")
    text = "<|im_start|>user\nMay I?<|im_end|>\n<|im_start|>assistant\n" + thought
    before = tokenizer.encode(text, add_special_tokens=False)
    assert list(chat.prompt(messages)) == list(chat.answer_prompt(messages)) == before
    whole = tokenizer.encode(text + "Yes.<|im_end|>", add_special_tokens=False)
    assert [*before, *chat.response(messages, "Yes.")] == whole
    assert spans_of(chat, TWO_TURNS) == ["first one<|im_end|>", "second two<|im_end|>"]


def test_an_answer_may_hold_a_thought_of_its_own(tokenizer_of: TokenizerOf) -> None:
    chatml = THINKING.replace("{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}", "")
    tokenizer = tokenizer_of(chatml.replace("PROMPT", "<|im_start|>assistant\n"))
    ids = Chat(tokenizer).response(ask("May I?"), "<think>\nHm.\n</think>\n\nYes.")
    assert tokenizer.convert_tokens_to_ids("<think>") == ids[0]
    assert tokenizer.decode(ids) == "<think>\nHm.\n</think>\n\nYes.<|im_end|>"


def test_a_question_holds_no_thought(tokenizer_of: TokenizerOf) -> None:
    chat = Chat(tokenizer_of(THINKING.replace("PROMPT", "<|im_start|>assistant\n")))
    ids = chat.prompt(ask("</think> So <think> what?"))
    assert not {chat.tokenizer.convert_tokens_to_ids(t) for t in ("<think>", "</think>")} & set(ids)
    assert "</think> So <think> what?" in chat.tokenizer.decode(ids)


# --- ends -----------------------------------------------------------------------------------------------

ENDS = {
    "eos after the last turn": (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}",
        ["first one<|end|>", "second two<|end|>"],
    ),
    "eos right after it": (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}",
        ["first one<|end|>", "second two<|end|>"],
    ),
    "two tokens that always end a turn": (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|return|><|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        ["first one<|return|><|end|>", "second two<|return|><|end|>"],
    ),
    "ends that differ by place": (
        HARMONY.replace("PROMPT", "<|start|>assistant"),
        ["first one<|end|>", "second two<|return|>"],
    ),
    "headers that differ by place": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>"
        "\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}",
        ["first one<|im_end|>", "second two<|im_end|>"],
    ),
    "no end between turns": (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        ["first one", "second two<|im_end|>"],
    ),
    "words that end a turn": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }} ###\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}",
        [" first one", " second two ###<|im_end|>"],
    ),
}


@pytest.mark.parametrize("case", ENDS)
def test_answers_end_with_their_own_end_of_turn_in_every_turn(case: str, tokenizer_of: TokenizerOf) -> None:
    template, expected = ENDS[case]
    assert spans_of(Chat(tokenizer_of(template)), TWO_TURNS) == expected


@pytest.mark.parametrize(
    "family",
    ["qwen3_training", "qwen2_5_training", "llama3_training", "gemma_training", "phi3_training", "gptoss_training"],
)
def test_spans_agree_with_trls_training_templates(family: str, tokenizer_of: TokenizerOf) -> None:
    # TRL marks with {% generation %} what its trainer supervises: for some families with a header before the answer,
    # or with what follows its end. Each answer of ours, to its end of turn, lies in one such stretch.
    template = (resources.files("trl") / "chat_templates" / f"{family}.jinja").read_text("utf-8")
    tokenizer = tokenizer_of(template)
    tokenizer.add_tokens(["<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"], special_tokens=True)
    tokenizer.add_tokens(["<start_of_turn>", "<end_of_turn>"], special_tokens=True)
    tokenizer.bos_token = "<|endoftext|>"
    rendered = Chat(tokenizer, template).render(TWO_TURNS)
    theirs = tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in TWO_TURNS.messages],
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
        enable_thinking=False,
    )
    if family == "gptoss_training":  # dated, so the prompts differ by the date
        ours = tokenizer.decode(rendered.ids)
        assert ours[ours.index("<|start|>user") :] in tokenizer.decode(theirs["input_ids"])
        return
    assert list(rendered.ids) == theirs["input_ids"][: len(rendered.ids)]
    assert [tokenizer.decode(rendered.ids[a:b])[:5] for a, b in rendered.spans] == ["first", "secon"]
    mask = theirs["assistant_masks"]
    for start, end in rendered.spans:
        assert all(mask[start : end - 1])


def test_an_earlier_answer_that_is_altered_is_refused_by_file_and_line(tokenizer_of: TokenizerOf) -> None:
    forgetful = (  # what a thinking template does to earlier turns
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{{ m.content if loop.last or m.role == 'user' else m.content.split('</think>')[-1].strip() }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    chat = Chat(tokenizer_of(forgetful), None, "x")
    thought = Message("assistant", "<think>\nHm.\n</think>\n\nfirst one")
    row = Conversation((TWO_TURNS.messages[0], thought, *TWO_TURNS.messages[2:]), "rows.jsonl", 7)
    with pytest.raises(
        DataError, match=r"rows\.jsonl:7: x: its chat template drops or alters an earlier assistant turn"
    ):
        chat.render(row)
    assert spans_of(chat, TWO_TURNS) == ["first one<|im_end|>", "second two<|im_end|>"]
    # A prompt may do so: that is how such a model speaks.
    assert "Hm." not in chat.tokenizer.decode(chat.prompt(row.messages[:-1]))


def test_an_earlier_answer_that_begins_with_a_line_break_has_its_loss(tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of(
        THINKING.replace("PROMPT", "<|im_start|>assistant\n").replace("<think>\n\n</think>\n\n", "")
    )
    tokenizer.add_tokens(["\n\n"])  # so that the edge of the answer lies inside a token
    rows = Conversation((TWO_TURNS.messages[0], Message("assistant", "\nfirst one"), *TWO_TURNS.messages[2:]))
    rendered = Chat(tokenizer).render(rows)
    spans = [tokenizer.decode(rendered.ids[start:end]) for start, end in rendered.spans]
    assert spans == ["\nfirst one<|im_end|>", "second two<|im_end|>"]
    turns = [{"role": m.role, "content": m.content} for m in rows.messages]
    assert tokenizer.decode(rendered.ids) == tokenizer.apply_chat_template(turns, tokenize=False).rstrip()


def test_cases_of_a_header_template_share_one_prompt(tokenizer_of: TokenizerOf) -> None:
    chat = Chat(tokenizer_of(HARMONY.replace("PROMPT", "<|start|>assistant")))
    case = chat.case(ask("May I?"), ["Yes.", "No."])
    assert case == PromptAnswers(
        chat.answer_prompt(ask("May I?")), tuple(chat.response(ask("May I?"), a) for a in ("Yes.", "No."))
    )
    assert [chat.tokenizer.decode(r) for r in case.responses] == ["Yes.<|return|>", "No.<|return|>"]
