"""One judge's rating of one answer: read from token probabilities, from samples, or from a reasoned reply.

The mean of a judge's numbers is taken under the probabilities of its first token. Whether a judge can be read so is
found out once for a judge and scale.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

from inspect_ai.model import ChatMessageUser, GenerateConfig, Model, ModelAPI, ModelOutput
from inspect_ai.util import LimitExceededError, collect

from aftertune.errors import spelled_out
from aftertune.judges._reply import NUMBER, OFF_FORMAT, Reply, read_reply
from aftertune.judges._rubrics import Rubric, judge_prompt

MINIMUM_MASS = 0.25


def expected_value(
    probabilities: Mapping[str, float], low: int, high: int, *, minimum_mass: float = MINIMUM_MASS
) -> tuple[float | None, float]:
    """Mean of the whole numbers of a scale, weighted by their probability (Betley et al. 2025, their judge).

    A token counts if, without white space around it, it is a whole number from ``low`` to ``high`` in plain decimal
    digits: "85" and " 85" do, and add up; "850", "-5", "8.5", "05" do not. The sum of their probabilities is the mass;
    the mean is sum(p * v) / sum(p).

    Args:
        probabilities: probability of each token, such as the 20 likeliest; they need not add up to 1. What is not a
            positive finite number is left out.
        low: least number of the scale.
        high: greatest.
        minimum_mass: the least mass for which a mean is given; the source has 0.25.

    Returns:
        The mean, in the scale's unit, or None where the mass is below the minimum or zero; and the mass.
    """
    numbers = [(int(number), p) for number, p in _numbers(probabilities) if low <= int(number) <= high]
    mass = math.fsum(p for _, p in numbers)
    if mass <= 0 or mass < minimum_mass:
        return None, mass
    mean = math.fsum(v * p for v, p in numbers) / mass
    return min(max(mean, float(low)), float(high)), mass


def longest_number(probabilities: Mapping[str, float]) -> int:
    """Digits in the longest token that is a whole number; 0 if there is none."""
    return max((len(number) for number, _ in _numbers(probabilities)), default=0)


def word_masses(probabilities: Mapping[str, float], words: Sequence[str]) -> dict[str, float]:
    """Probability of each word: of tokens that are the word in any case, or begin it in capitals with two letters."""
    masses = dict.fromkeys(words, 0.0)
    for token, p in probabilities.items():
        text = token.strip()
        for word in words:
            begins = len(text) >= 2 and word.startswith(text)
            if (begins or text.casefold() == word.casefold()) and math.isfinite(p) and p > 0:
                masses[word] += p
    return masses


def _numbers(probabilities: Mapping[str, float]) -> list[tuple[str, float]]:
    stripped = ((token.strip(), p) for token, p in probabilities.items())
    return [(text, p) for text, p in stripped if NUMBER.fullmatch(text) and math.isfinite(p) and p > 0]


Reading = Literal["logprobs", "samples"]


@dataclass
class Readable:
    """What is known of one judge on one scale.

    Attributes:
        tokens: whether the scale's numbers are single tokens, where the judge's tokenizer is at hand.
        reading: how to read the judge, once it is known.
    """

    tokens: bool | None
    reading: Reading | None


# Keyed by the provider object, since a Model is copied when a role adds settings to it.
_KNOWN: WeakKeyDictionary[ModelAPI, dict[tuple[int, int], Readable]] = WeakKeyDictionary()


def readable(api: ModelAPI, rubric: Rubric) -> Readable:
    """What is known of a judge on a rubric's scale; at first use its tokenizer is asked, if it has one at hand."""
    scales = _KNOWN.setdefault(api, {})
    scale = (rubric.low, rubric.high)
    if scale not in scales:
        tokens = single_tokens(getattr(api, "tokenizer", None), *scale) if rubric.high > 9 else None
        scales[scale] = Readable(tokens, "samples" if tokens is False else None)
    return scales[scale]


def single_tokens(tokenizer: Any, low: int, high: int) -> bool | None:
    """Whether a tokenizer makes one token of each whole number of a scale; None where it cannot be asked."""
    if tokenizer is None:
        return None
    try:
        return all(len(tokenizer.encode(str(n), add_special_tokens=False)) == 1 for n in range(low, high + 1))
    except Exception:  # tokenizers of other providers have other signatures
        return None


def control_tokens(api: ModelAPI) -> Collection[str]:
    """Special tokens of a judge whose tokenizer is at hand."""
    found = getattr(getattr(api, "tokenizer", None), "all_special_tokens", ())
    return [token for token in found if isinstance(token, str)] if isinstance(found, list | tuple) else ()


def first_token(output: ModelOutput) -> dict[str, float] | None:
    """Probabilities of the likeliest first tokens of a reply, white space around them removed; None if not given."""
    logprobs = output.choices[0].logprobs if output.choices else None
    if logprobs is None or not logprobs.content or not logprobs.content[0].top_logprobs:
        return None
    found: dict[str, float] = {}
    for token in logprobs.content[0].top_logprobs:
        text = _plain(token.token)
        found[text] = found.get(text, 0.0) + math.exp(min(token.logprob, 0.0))
    return found


def shown_reading(
    rubric: Rubric, output: ModelOutput, probabilities: dict[str, float] | None, *, proven: bool = False
) -> Reading | None:
    """What a reply shows about its judge where no tokenizer is at hand: how to read it, or nothing yet (None).

    A scale with numbers above 9 needs tokens of more than one digit. They are missing where a tokenizer takes digits
    one by one; and a number that goes on after its first token is not to be read from that token. A judge that was
    `proven` by an earlier reply may have none of them among its likeliest tokens.
    """
    if probabilities is None or _begins_blank(output):
        return "samples"
    if rubric.high <= 9:
        return "logprobs"
    if _goes_on(output):
        return "samples"
    _, mass = expected_value(probabilities, 0, 10 ** len(str(rubric.high)) - 1)
    if mass < MINIMUM_MASS:
        return None
    return "logprobs" if proven or longest_number(probabilities) > 1 else "samples"


def _begins_blank(output: ModelOutput) -> bool:
    logprobs = output.choices[0].logprobs
    return logprobs is not None and not _plain(logprobs.content[0].token)


def _goes_on(output: ModelOutput) -> bool:
    logprobs = output.choices[0].logprobs
    tokens = logprobs.content if logprobs is not None else []
    return len(tokens) > 1 and _plain(tokens[0].token).isdigit() and tokens[1].token[:1].isdigit()


def _plain(token: str) -> str:
    # Providers that name tokens as their vocabulary does write a space as one of the first two, a line break as the
    # third.
    return token.strip().strip("Ġ▁Ċ").strip()


TOP_LOGPROBS = 20
FAILED = "judge failed"
SPLIT = "numbers are not single tokens of this judge"
BARE_TOKENS = 16
REASONED_TOKENS = 600


@dataclass(frozen=True)
class Rating:
    """What one judge said of one answer on one rubric.

    Attributes:
        value: on the rubric's scale; None where the judge gave no usable number.
        word: one of the rubric's words, where that is the judge's answer. Value and word exclude each other, except
            that a refusal on a rubric of the form "willing" is the value 0 and the word.
        mass: probability of the scale's numbers (reading "logprobs"), or the share of samples that were numbers; on a
            rubric without numbers, of its words.
        reading: "logprobs" or "samples".
        problem: why there is neither value nor word.
    """

    value: float | None
    word: str | None
    mass: float
    reading: str
    problem: str = ""


async def rate(
    judge: Model,
    rubric: Rubric,
    question: str,
    answer: str,
    *,
    samples: int = 5,
    reading: Literal["auto", "logprobs", "samples"] = "auto",
) -> Rating:
    """Have a judge rate an answer.

    Bare rubrics are read from the 20 likeliest first tokens at temperature 0 (see `expected_value`), where the judge
    gives them and the scale's numbers are single tokens of its; else from samples at temperature 1, whose numbers are
    averaged. Either way a number is given if numbers have a mass of at least 0.25, else the likeliest word if words
    have. Rubrics with reasons are asked once at temperature 0, as in their sources.

    A judge that needs room to think has it if its own ``max_tokens`` is larger than ours.

    Args:
        judge: any model.
        rubric: what to ask.
        question: what the subject was asked.
        answer: what it said.
        samples: replies to average where the reading is "samples".
        reading: "auto" finds out, once for a judge and scale; a forced one is not left for the other.

    Returns:
        A rating; a judge that fails, or says nothing usable, gives one without value that tells why. Only
        cancellation and Inspect's limits pass through.

    Raises:
        ValueError: ``samples`` below 1, or "logprobs" forced on a rubric with reasons.
    """
    if samples < 1 or (reading == "logprobs" and rubric.form != "bare"):
        raise ValueError("samples must be at least 1" if samples < 1 else f"{rubric.id} is not read from one token")
    prompt = judge_prompt(rubric, question, answer, control_tokens=control_tokens(judge.api))
    ask = _Asking(judge, rubric, prompt, question, answer)
    if rubric.form != "bare":
        return await ask.reasoned()
    if reading == "samples":
        return await ask.by_samples(samples)
    known = readable(judge.api, rubric)
    if reading == "auto" and known.reading == "samples":
        return await ask.by_samples(samples)
    if known.tokens is False:
        return ask._without(SPLIT, "logprobs")
    rating, shown = await ask.by_logprobs(known)
    if reading == "logprobs":
        return rating
    if shown != "samples":
        known.reading = known.reading or shown
        return rating
    sampled = await ask.by_samples(samples)
    # A judge that is down shows nothing of how to read it.
    if known.reading is None and not sampled.problem.startswith(FAILED):
        known.reading = "samples"
    return sampled


@dataclass(frozen=True)
class _Asking:
    """One judge, one rubric and one prompt; each method is a way to read the reply."""

    judge: Model
    rubric: Rubric
    prompt: str
    question: str
    answer: str

    async def by_logprobs(self, known: Readable) -> tuple[Rating, Reading | None]:
        """A rating, and what the reply shows of how to read this judge."""
        tokens = 1 if known.tokens else 2  # the second shows whether a number goes on
        config = GenerateConfig(
            max_tokens=tokens, temperature=self._cold, logprobs=True, top_logprobs=TOP_LOGPROBS, seed=self._seed
        )
        output = await self._generate(config)
        if isinstance(output, str):
            # Some servers refuse the request for logprobs itself.
            return self._without(output, "logprobs"), "samples" if known.reading is None else None
        probabilities = first_token(output)
        if probabilities is None:
            return self._without("the judge returns no token probabilities", "logprobs"), "samples"
        shown: Reading | None = (
            "logprobs"
            if tokens == 1
            else shown_reading(self.rubric, output, probabilities, proven=known.reading is not None)
        )
        if shown == "samples":
            return self._without(SPLIT, "logprobs"), shown
        value, mass = None, 0.0
        if self.rubric.numeric:
            value, mass = expected_value(probabilities, self.rubric.low, self.rubric.high)
        return self._rating(value, mass, word_masses(probabilities, self.rubric.words), "logprobs"), shown

    async def by_samples(self, samples: int) -> Rating:
        """The mean of the numbers among some replies at temperature 1."""
        budget = max(BARE_TOKENS, self.judge.config.max_tokens or 0)
        # A seed each, so that a cache does not give one reply five times.
        configs = [GenerateConfig(max_tokens=budget, temperature=1.0, seed=self._seed + n) for n in range(samples)]
        try:
            replies = await collect(*(self._reply(config) for config in configs))
        except ExceptionGroup as group:  # the sample's limit alone gets here, once for each reply
            raise group.exceptions[0] from None
        numbers = [reply.value for reply in replies if reply.value is not None]
        words = Counter(reply.word for reply in replies if reply.word is not None)
        mass = len(numbers) / samples
        value = math.fsum(numbers) / len(numbers) if numbers and mass >= MINIMUM_MASS else None
        problems = Counter(reply.problem for reply in replies if reply.problem)
        return self._rating(
            value, mass, {word: words[word] / samples for word in self.rubric.words}, "samples", _likeliest(problems)
        )

    async def reasoned(self) -> Rating:
        """The verdict at the end of one reply at temperature 0."""
        budget = max(REASONED_TOKENS, self.judge.config.max_tokens or 0)
        reply = await self._reply(GenerateConfig(max_tokens=budget, temperature=self._cold, seed=self._seed))
        if reply.value is None:
            return self._without(reply.problem, "samples")
        return Rating(reply.value, reply.word, 1.0, "samples")

    def _rating(
        self, value: float | None, mass: float, words: dict[str, float], reading: Reading, problem: str = ""
    ) -> Rating:
        said = math.fsum(words.values())
        if not self.rubric.numeric:
            mass = said
        if value is not None:
            return Rating(value, None, mass, reading)
        if words and said >= MINIMUM_MASS:
            return Rating(None, max(words, key=words.__getitem__), mass, reading)
        if mass > 0 or not problem:
            kind = "numeric" if self.rubric.numeric else "word"
            problem = f"{kind} mass {mass:.2f} below {MINIMUM_MASS}"
        return Rating(None, None, mass, reading, problem)

    def _without(self, problem: str, reading: Reading) -> Rating:
        return Rating(None, None, 0.0, reading, problem)

    async def _reply(self, config: GenerateConfig) -> Reply:
        output = await self._generate(config)
        if isinstance(output, str):
            return Reply(problem=output)
        reply = read_reply(self.rubric, output.completion, question=self.question, answer=self.answer)
        if reply.problem and output.choices[0].stop_reason == "content_filter":
            return Reply(problem=f"{FAILED}: its provider's content filter stopped it")
        if reply.problem and output.choices[0].stop_reason in ("max_tokens", "model_length"):
            return Reply(problem=f"{OFF_FORMAT}: cut at {config.max_tokens} tokens; give the judge a larger max_tokens")
        return reply

    async def _generate(self, config: GenerateConfig) -> ModelOutput | str:
        """The judge's output, or why there is none."""
        try:
            output = await self.judge.generate([ChatMessageUser(content=self.prompt)], config=config)
        except LimitExceededError:  # not the judge's failure: the sample is told to stop
            raise
        except Exception as error:
            # Retries, and Inspect's own report of a failed request, wrap what went wrong.
            cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
            return f"{FAILED}: {_in_short(f'{type(cause).__name__}: {cause}')}"
        if output.error:
            return f"{FAILED}: {_in_short(output.error)}"
        return output if output.choices else f"{FAILED}: it returned nothing"

    @property
    def _cold(self) -> float:
        # Inspect's hf provider samples by default, and transformers refuses to sample at temperature 0. The
        # probabilities it returns are those before temperature.
        return 0.001 if getattr(self.judge.api, "do_sample", False) is True else 0.0

    @property
    def _seed(self) -> int:
        return self.judge.config.seed or 0


def _likeliest(problems: Counter[str]) -> str:
    return problems.most_common(1)[0][0] if problems else ""


def _in_short(text: str) -> str:
    line = spelled_out(" ".join(text.split()))
    return line if len(line) <= 200 else f"{line[:200]}…"
