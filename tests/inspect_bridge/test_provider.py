"""The Inspect provider: what it samples, counts and refuses, and that no two subjects are ever one object."""

from __future__ import annotations

import copy
import gc
import os
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import torch
from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    GenerateConfig,
    Model,
    ModelOutput,
    get_model,
)
from inspect_ai.solver import generate
from inspect_ai.tool import ToolInfo

from aftertune.data import Message
from aftertune.errors import UsageError
from aftertune.inspect_bridge import inspect_model
from aftertune.model import GenerationRequest, Sampling, Subject, as_subject, batch_rows
from aftertune.model import generate as sample

TinySubject = Callable[[str], Subject]

QUESTIONS = ("Hi.", "What should I do with the money?", "Water? " * 20, "Who are you?")
GREEDY = GenerateConfig(temperature=0.0, max_tokens=12)


@pytest.fixture(autouse=True)
def quiet_inspect(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("INSPECT_DISPLAY", "none")
    monkeypatch.setenv("INSPECT_LOG_DIR", str(tmp_path / "logs"))
    monkeypatch.chdir(tmp_path)
    yield
    os.environ.pop("INSPECT_EVAL_MODEL", None)


def ask(model: Model, *inputs: Any, config: GenerateConfig = GREEDY) -> list[ModelOutput]:
    """All at once, as an eval does."""

    async def run() -> list[ModelOutput]:
        outputs: dict[int, ModelOutput] = {}

        async def one(index: int) -> None:
            outputs[index] = await model.generate(inputs[index], config=config)

        async with anyio.create_task_group() as group:
            for index in range(len(inputs)):
                group.start_soon(one, index)
        return [outputs[index] for index in range(len(inputs))]

    return anyio.run(run)


def expected(subject: Subject, messages: list[Message], tokens: int = 12) -> str:
    request = GenerationRequest(subject.chat.prompt(messages), Sampling(max_tokens=tokens, temperature=0.0))
    return sample(subject, [request])[0].text


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2", "mixtral"])
def test_what_it_answers_is_what_the_subject_generates(tiny_subject: TinySubject, architecture: str) -> None:
    subject = tiny_subject(architecture)
    outputs = ask(inspect_model(subject), *QUESTIONS)
    for question, output in zip(QUESTIONS, outputs, strict=True):
        assert output.completion == expected(subject, [Message("user", question)])
        digests = {name: found for name, found in subject.identity.content.items() if name.endswith("_sha256")}
        assert output.metadata == digests
        assert len(digests) == 4
        assert output.usage is not None
        assert output.usage.input_tokens == len(subject.chat.prompt([Message("user", question)]))
        assert 1 <= output.usage.output_tokens <= 12
        assert output.stop_reason in ("stop", "max_tokens")


def test_those_who_wait_together_are_sampled_together(
    tiny_subject: TinySubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = tiny_subject("llama")
    model = inspect_model(subject)
    sizes: list[int] = []
    subject.model.model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(kwargs["input_ids"].shape[0]), with_kwargs=True
    )
    ask(model, *QUESTIONS)
    assert sizes[:2] == [1, len(QUESTIONS)]  # what all begin with, and the rest of each


def test_many_at_once_are_answered_batch_by_batch(tiny_subject: TinySubject) -> None:
    subject = tiny_subject("llama")
    model, rows = inspect_model(subject), batch_rows(subject)
    sizes: list[int] = []
    subject.model.model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(kwargs["input_ids"].shape[0]), with_kwargs=True
    )
    read_when_answered: list[int] = []

    async def one(number: int) -> None:
        await model.generate(f"Who is number {number % 50}?", config=GREEDY)
        read_when_answered.append(len(sizes))

    async def run() -> None:
        async with anyio.create_task_group() as group:
            for number in range(3 * rows):
                group.start_soon(one, number)

    anyio.run(run)
    assert len(read_when_answered) == 3 * rows
    assert rows / 2 < max(sizes) <= rows
    first = read_when_answered[rows // 2]
    assert first < len(sizes)  # handed over while the model went on with the others


@pytest.mark.parametrize("delay", [0.0, 0.001, 0.003, 0.005, 0.01, 0.05])
def test_one_that_is_called_off_takes_none_of_the_others_along(tiny_subject: TinySubject, delay: float) -> None:
    model = inspect_model(tiny_subject("llama"))
    answered: list[str] = []

    async def impatient() -> None:
        with anyio.move_on_after(delay):
            await model.generate("Hi.", config=GREEDY)

    async def patient(question: str) -> None:
        answered.append((await model.generate(question, config=GREEDY)).completion)

    async def run() -> None:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(impatient)
                for question in QUESTIONS:
                    group.start_soon(patient, question)

    anyio.run(run)
    assert len(answered) == len(QUESTIONS)


def test_the_system_prompt_and_a_prefill_are_honoured(tiny_subject: TinySubject) -> None:
    subject = tiny_subject("llama")
    model = inspect_model(subject)
    told = [ChatMessageSystem(content="Be brief."), ChatMessageUser(content="Hi.")]
    begun = [ChatMessageUser(content="Hi."), ChatMessageAssistant(content="The doctor said that")]
    first, second = ask(model, told, begun)
    assert first.completion == expected(subject, [Message("system", "Be brief."), Message("user", "Hi.")])
    prompt = subject.chat.text([Message("user", "Hi.")], generate=True) + "The doctor said that"
    ids = tuple(subject.chat.encode(prompt))
    assert second.completion == sample(subject, [GenerationRequest(ids, Sampling(12, 0.0))])[0].text
    assert second.usage is not None
    assert second.usage.input_tokens == len(ids)


def test_a_prefill_goes_on_after_the_header_of_an_answer(tiny_model: Callable[..., Any], tiny_tokenizer: Any) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}{{ ' final:' if m.role == 'assistant' }}{{ m.content }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
    )
    subject = as_subject(tiny_model("llama"), tokenizer)
    [begun] = ask(inspect_model(subject), [ChatMessageUser(content="Hi."), ChatMessageAssistant(content="The doctor")])
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Hi."}], tokenize=False)
    ids = tuple(tokenizer.encode(f"{text}<|im_start|>assistant final:The doctor", add_special_tokens=False))
    assert begun.completion == sample(subject, [GenerationRequest(ids, Sampling(12, 0.0))])[0].text
    assert begun.usage is not None
    assert begun.usage.input_tokens == len(ids)


def test_one_seed_gives_different_samples_of_a_prompt_and_the_same_ones_again(tiny_subject: TinySubject) -> None:
    subject = tiny_subject("qwen2")
    config = GenerateConfig(temperature=1.0, max_tokens=8, seed=7)
    first = [o.completion for o in ask(inspect_model(subject), *["Hi."] * 4, config=config)]
    again = [o.completion for o in ask(inspect_model(subject), *["Hi."] * 4, config=config)]
    assert sorted(first) == sorted(again)
    assert len(set(first)) == 4
    other = [
        o.completion for o in ask(inspect_model(subject), *["Hi."] * 4, config=config.merge(GenerateConfig(seed=8)))
    ]
    assert set(first).isdisjoint(other)


def test_several_choices_and_logprobs(tiny_subject: TinySubject) -> None:
    subject = tiny_subject("llama")
    config = GenerateConfig(max_tokens=5, num_choices=3, logprobs=True, top_logprobs=2, seed=1)
    output = ask(inspect_model(subject), "Hi.", config=config)[0]
    assert len({c.message.text for c in output.choices}) == 3
    prompt = subject.chat.prompt([Message("user", "Hi.")])
    with torch.no_grad():
        logp = subject.model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
    for choice in output.choices:
        assert choice.logprobs is not None
        tops = choice.logprobs.content[0].top_logprobs
        assert tops is not None
        assert [t.logprob for t in tops] == pytest.approx(logp.topk(2).values.tolist(), abs=1e-4)


def test_two_subjects_are_never_one_object(tiny_subject: TinySubject, tiny_folder: Callable[[str], Path]) -> None:
    whole, pruned = tiny_subject("llama"), tiny_subject("llama")
    with torch.no_grad():
        pruned.model.model.layers[0].mlp.down_proj.weight.zero_()
        pruned.model.model.layers[1].self_attn.o_proj.weight.zero_()
    first, second = inspect_model(whole), inspect_model(pruned)
    assert str(first) != str(second)
    assert get_model(str(first)).api.subject is whole  # type: ignore[attr-defined]
    assert get_model(str(second)).api.subject is pruned  # type: ignore[attr-defined]
    assert ask(first, "Hi.")[0].completion != ask(second, "Hi.")[0].completion
    assert str(inspect_model(whole)) == str(first)
    named = get_model(f"aftertune/{tiny_folder('llama')}", device="cpu")
    assert ask(named, "Hi.")[0].completion == ask(first, "Hi.")[0].completion


def test_a_closed_subject_is_let_go_of_whoever_keeps_the_model(tiny_subject: TinySubject) -> None:
    subject = tiny_subject("llama")
    ours = inspect_model(subject)
    kept = get_model(str(ours))  # as Inspect does, and remembers it
    alive = weakref.ref(subject)
    ours.api.close()
    del subject
    gc.collect()
    assert alive() is None
    for gone in (kept, get_model(str(ours), memoize=False)):
        with pytest.raises(BaseExceptionGroup) as caught:
            ask(gone, "Hi.")
        assert caught.group_contains(UsageError, match="no such subject in memory")
    with pytest.raises(UsageError, match="no such subject in memory"):
        get_model("aftertune/live:nonsense", memoize=False)
    again = inspect_model(tiny_subject("llama"))
    assert str(again) == str(ours)


def test_an_overlong_prompt_is_that_samples_matter_alone(tiny_subject: TinySubject) -> None:
    subject = tiny_subject("llama")
    long, short = ask(inspect_model(subject), "water " * 600, "Hi.")
    assert long.stop_reason == "model_length"
    assert long.completion == ""
    assert long.error is not None
    assert short.completion == expected(subject, [Message("user", "Hi.")])


@pytest.mark.parametrize(
    ("config", "match"),
    [
        (GenerateConfig(frequency_penalty=1.0), "frequency_penalty is not supported"),
        (GenerateConfig(temperature=-1.0), "temperature must be"),
        (GenerateConfig(top_p=0.0), "top_p must be"),
    ],
)
def test_settings_it_has_not_are_refused(tiny_subject: TinySubject, config: GenerateConfig, match: str) -> None:
    with pytest.raises(BaseExceptionGroup) as caught:
        ask(inspect_model(tiny_subject("llama")), "Hi.", config=config)
    assert caught.group_contains(UsageError, match=match)


def test_unknown_flags_and_tools_are_refused(tiny_subject: TinySubject, tiny_folder: Callable[[str], Path]) -> None:
    with pytest.raises(UsageError, match="-M colour is unknown"):
        get_model(f"aftertune/{tiny_folder('llama')}", memoize=False, colour="red")

    async def with_tools() -> None:
        await inspect_model(tiny_subject("llama")).generate("Hi.", tools=[ToolInfo(name="x", description="y")])

    with pytest.raises(UsageError, match="it cannot call tools"):
        anyio.run(with_tools)


def test_an_eval_through_it_logs_true_counts(tiny_subject: TinySubject) -> None:
    subject = tiny_subject("llama")
    task = Task(
        dataset=MemoryDataset([Sample(input=q, id=str(i)) for i, q in enumerate(QUESTIONS)]),
        solver=generate(),
        epochs=2,
        config=GenerateConfig(temperature=1.0, max_tokens=10, seed=3),
    )
    log = eval(task, model=inspect_model(subject))[0]
    assert log.status == "success"
    assert log.samples is not None
    for one in log.samples:
        assert one.output.usage is not None
        prompt = subject.chat.prompt([Message("user", str(one.input))])
        assert one.output.usage.input_tokens == len(prompt)
        assert 1 <= one.output.usage.output_tokens <= 10
        assert (one.output.usage.output_tokens < 10) <= (one.output.stop_reason == "stop")
    by_question = {q: {s.output.completion for s in log.samples if s.input == q} for q in QUESTIONS}
    assert all(len(answers) == 2 for answers in by_question.values())


def test_what_a_live_model_said_can_be_judged_again_without_it(tiny_subject: TinySubject, tmp_path: Path) -> None:
    """Audits sample live models; whoever judges their logs later has another process."""
    from inspect_ai import Task, eval, score
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.scorer import includes

    ours = inspect_model(tiny_subject("llama"))
    task = Task(dataset=MemoryDataset([Sample("Hi.", target="e")]), scorer=includes())
    [log] = eval(task, model=ours, log_dir=str(tmp_path), display="none", score=False, max_tokens=8)
    name = ours.api.canonical_name()
    ours.api.close()
    again = score(log, includes(), display="none")
    assert again.status == "success"
    assert again.results is not None
    [sample] = again.samples or []
    assert sample.scores is not None
    assert sample.scores["includes"].value == ("C" if "e" in sample.output.completion.lower() else "I")
    assert get_model(str(ours), memoize=False).api.canonical_name() == name
