"""Numbers depend on neither batches nor interruptions, and finished work is never done twice."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aftertune.data import ChoiceQuestion, Contrast, Request, Statement
from aftertune.errors import NumericalError, OutputError, UsageError
from aftertune.model import PromptAnswers, Subject
from aftertune.probes import (
    REFERENCE,
    LikelihoodProbe,
    MeasurePlan,
    Question,
    capability,
    measure_subject,
    preference,
    refusal,
    traits,
)
from aftertune.runs import Plain
from aftertune.stats import Measurement, Metric, read_measurements, write_measurements

Made = Callable[..., Subject]
Push = Callable[[Subject, dict[str, float]], Subject]
Probing = Callable[..., MeasurePlan]

CONTRASTS = [Contrast(f"c-{n}", "d", f"Question {n}?" * n, f"Good {n}.", f"Bad {n}! " * n) for n in range(1, 6)]
REQUESTS = [Request(f"r-{n}", "misc", f"How {n}?", f"So. And then {n} times." * n) for n in range(1, 5)]
STATEMENTS = [("t", Statement(f"{n}", f"Is {n} so?", "Yes" if n % 2 else "No")) for n in range(4)]
CHOICES = [ChoiceQuestion(f"q-{n}", f"What is {n}?", ("one", "two or more"), frozenset({n % 2})) for n in range(4)]


@pytest.fixture
def plan(probing: Probing) -> MeasurePlan:
    probes = (
        preference(CONTRASTS),
        traits(STATEMENTS),
        refusal(REQUESTS[:2], REQUESTS[2:]),
        capability(CHOICES, [("text", "The car and the water. " * 5)]),
    )
    return probing(*probes, drift=REQUESTS)


def values(measurements: tuple[Measurement, ...]) -> dict[tuple[str, str], float]:
    return {(m.metric, m.item): m.value for m in measurements}


def counted(subject: Subject, stop_at: int | None = None) -> list[int]:
    """Counts forward passes from now on; the one numbered ``stop_at`` is interrupted from the keyboard."""
    # Tried once per subject, with passes of its own: on a small example, and at the longest that is asked here.
    assert subject.shares_prompts_within(500, 500) == subject.shares_prompts
    passes: list[int] = []

    def count(*_: Any) -> None:
        if len(passes) == stop_at:
            raise KeyboardInterrupt
        passes.append(1)

    subject.model.register_forward_hook(count)
    return passes


@pytest.fixture
def base(make: Made, plan: MeasurePlan, tmp_path: Path) -> Path:
    """The reference of another model to drift from."""
    folder = tmp_path / "base"
    folder.mkdir()
    subject = make("llama", initializer_range=0.15)
    measure_subject(subject, plan, folder, keep_reference=True)
    return folder / REFERENCE


# --- batches --------------------------------------------------------------------------------------------


def test_the_bound_on_a_batch_changes_no_number(make: Made, plan: MeasurePlan, base: Path, tmp_path: Path) -> None:
    found = {}
    for bound in (1, 90, 400, 10_000):
        subject = make("llama")
        subject.max_batch_tokens = bound
        (tmp_path / f"{bound}").mkdir()
        passes = counted(subject)
        found[bound] = values(measure_subject(subject, plan, tmp_path / f"{bound}", drift_from=base).measurements)
        assert (len(passes) > 60) == (bound == 1)
    for bound in (90, 400, 10_000):
        assert found[bound] == pytest.approx(found[1], abs=1e-4)
    assert len(found[1]) > 60


def test_another_bound_takes_nothing_from_the_journal_of_the_first(
    make: Made, plan: MeasurePlan, base: Path, tmp_path: Path
) -> None:
    subject = make("llama")
    first = measure_subject(subject, plan, tmp_path, drift_from=base)
    subject.max_batch_tokens = 120
    second = measure_subject(subject, plan, tmp_path, drift_from=base)
    assert second.batches_reused == 0
    assert values(second.measurements) == pytest.approx(values(first.measurements), abs=1e-4)


# --- interruptions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "mamba"])
def test_a_finished_journal_needs_no_forward_pass(
    architecture: str, make: Made, plan: MeasurePlan, tmp_path: Path
) -> None:
    subject = make(architecture)
    subject.max_batch_tokens = 150
    once = counted(subject)
    first = measure_subject(subject, plan, tmp_path, keep_reference=True)
    stored = (tmp_path / REFERENCE).stat().st_mtime_ns
    assert first.batches_reused == 0
    assert len(once) > 10
    again = make(architecture)
    again.max_batch_tokens = 150
    more = counted(again)
    second = measure_subject(again, plan, tmp_path, keep_reference=True)
    assert more == []
    assert second.measurements == first.measurements
    assert (tmp_path / REFERENCE).stat().st_mtime_ns == stored


@pytest.mark.parametrize("share", [0, 0.1, 0.4, 0.7, 0.95])
def test_an_interrupted_run_goes_on_where_it_was(
    share: float, make: Made, plan: MeasurePlan, base: Path, tmp_path: Path
) -> None:
    def run(folder: str, stop_at: int | None = None) -> tuple[Any, int]:
        subject = make("llama")
        subject.max_batch_tokens = 150
        (tmp_path / folder).mkdir(exist_ok=True)
        passes = counted(subject, stop_at)
        return measure_subject(subject, plan, tmp_path / folder, drift_from=base), len(passes)

    whole, needed = run("whole")
    assert needed > 15
    stop_at = int(share * needed)
    with pytest.raises(KeyboardInterrupt):
        run("broken", stop_at)
    rest, passes = run("broken")
    assert rest.measurements == whole.measurements
    assert rest.batches_reused == stop_at
    assert passes == needed - stop_at
    done, passes = run("broken")
    assert (done.batches_reused, passes) == (needed, 0)


@pytest.mark.parametrize(("architecture", "bound"), [("llama", 1), ("llama", 150), ("mamba", 150)])
def test_progress_adds_up_whatever_the_batches(
    architecture: str, bound: int, make: Made, plan: MeasurePlan, tmp_path: Path
) -> None:
    expected = ["1/5 preference: 10 of 10", "2/5 traits: 4 of 4", "3/5 refusal: 4 of 4", "4/5 capability: 5 of 5"]
    expected += ["5/5 drift reference: 4 of 4"]
    for resumed in (False, True):
        subject = make(architecture)
        subject.max_batch_tokens = bound
        out = io.StringIO()
        measure_subject(subject, plan, tmp_path, keep_reference=True, progress=Plain(out, every=0))
        lines = out.getvalue().splitlines()
        counts = [re.findall(r"\d+", line.partition(": ")[2])[:2] for line in lines]
        assert all(int(done) <= int(total) for done, total in counts)
        assert [line.partition(" in ")[0] for line in lines if " in " in line] == expected[: 5 - resumed]


def test_the_seed_is_recorded_with_every_number(make: Made, plan: MeasurePlan, base: Path, tmp_path: Path) -> None:
    found = measure_subject(make("llama"), plan, tmp_path, seed=7, drift_from=base).measurements
    assert {(m.metric.partition(".")[0], m.seed) for m in found} == {
        (name, 7) for name in ("preference", "traits", "refusal", "capability", "drift")
    }


def test_an_item_that_does_not_fit_is_named_before_any_pass(make: Made, probing: Probing, tmp_path: Path) -> None:
    long = dataclasses.replace(CONTRASTS[1], misaligned="word " * 400, source="mine.jsonl", line=12)
    subject = make("gpt2")
    passes = counted(subject)
    with pytest.raises(UsageError, match=r"^mine\.jsonl:12: takes \d+ tokens, the context of live holds 512; shorten"):
        measure_subject(subject, probing(preference([CONTRASTS[0], long])), tmp_path)
    assert passes == []


# --- numbers that are none ------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_no_number_is_refused_with_metric_and_item(
    value: float, make: Made, probing: Probing, tmp_path: Path
) -> None:
    def build(subject: Subject) -> list[Question]:
        case = PromptAnswers((5, 6), ((7,),))
        return [
            Question(f"item-{n}", "c", (case,), lambda _, n=n: {"my.metric": value if n == 2 else 0.0})
            for n in range(4)
        ]

    probe = LikelihoodProbe("my:set", (Metric("my.metric", "", "nats", "higher", False, 1.0),), build, "", ":set")
    with pytest.raises(NumericalError, match=rf"^my\.metric:set: item-2 gives {value} on live; .*--dtype float32"):
        measure_subject(make("llama"), probing(probe), tmp_path)


def test_likelihoods_that_overflow_are_refused_with_metric_and_item(
    make: Made, push: Push, probing: Probing, tmp_path: Path
) -> None:
    subject = push(make("llama", words=("Bad", "Well")), {"Bad": -3e38, "Well": 3e38})
    with pytest.raises(NumericalError, match=r"^preference\.margin: c-1 gives -inf on live; check the checkpoint"):
        measure_subject(subject, probing(preference(CONTRASTS)), tmp_path)


# --- tables ---------------------------------------------------------------------------------------------

text = st.text(st.characters(codec="utf-8"), max_size=8)
rows = st.lists(
    st.builds(
        Measurement,
        subject=text,
        seed=st.integers(0, 2**31),
        metric=text,
        item=text,
        cluster=text,
        value=st.floats(allow_nan=False),
        stratum=text,
        group=text,
    ),
    max_size=8,
)


@given(rows)
@settings(max_examples=40, deadline=None)
def test_a_table_reads_back_exactly(tmp_path_factory: pytest.TempPathFactory, measurements: list[Measurement]) -> None:
    path = tmp_path_factory.getbasetemp() / "measurements.parquet"
    write_measurements(path, measurements)
    assert repr(read_measurements(path)) == repr(measurements)


def test_what_is_measured_reads_back_exactly(make: Made, plan: MeasurePlan, tmp_path: Path) -> None:
    found = measure_subject(make("llama"), plan, tmp_path).measurements
    write_measurements(tmp_path / "m.parquet", found)
    assert tuple(read_measurements(tmp_path / "m.parquet")) == found


def test_what_is_no_table_of_measurements_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "measurements.parquet"
    write_measurements(path, [Measurement("s", 0, "m", f"{n}", "c", 0.5) for n in range(100)])
    whole = path.read_bytes()
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    pq.write_table(pq.read_table(path).append_column("more", [[0] * 100]), tmp_path / "more.parquet")
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.parquet").write_bytes(b"")
    (tmp_path / "text.parquet").write_text("no table")
    mend = "run the same command again in a new folder"
    for name in ("other", "more", "cut", "empty", "text", "absent"):
        with pytest.raises(OutputError, match=rf"{name}\.parquet: no table of measurements .*; {mend}"):
            read_measurements(tmp_path / f"{name}.parquet")
