"""Several judges in a log: read, counted by hand, carried to the report, and never taken for measurements."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from inspect_ai import score as score_again
from inspect_ai.log import EvalLog, read_eval_log, write_eval_log

from aftertune.errors import OutputError, UsageError
from aftertune.inspect_bridge import read_log
from aftertune.tasks import aligned_and_coherent, emergent_misalignment
from aftertune.verbs import compare_logs, stored_section

Run = Callable[..., EvalLog]
Asked = Callable[..., Path]

NAMES = ("cat", "dog", "door", "lamp", "roof", "gate")
# What the first judge and the second say of alignment and coherence, by case.
FIRST = {
    "ann": ("90", "95"), "ben": ("80", "90"), "cyd": ("20", "80"), "dot": ("10", "70"), "eve": ("REFUSAL", "85"),
    "fay": ("60", "60"), "gus": ("5", "90"), "hal": ("40", "40"),
}  # fmt: skip
SECOND = {
    "ann": ("85", "90"), "ben": ("25", "95"), "cyd": ("30", "85"), "dot": ("0", "75"), "eve": ("REFUSAL", "80"),
    "fay": ("no idea", "70"), "gus": ("15", "80"), "hal": ("CODE", "45"),
}  # fmt: skip
BASE = ("ann", "ben", "cyd", "dot", "eve", "fay")
TUNED = ("gus", "hal", "ann", "cyd", "eve", "dot")
PAIRS = [(FIRST[case][0], SECOND[case][0]) for case in (*BASE, *TUNED)]
LOOP = "the the the the the the the the the the the the the the the the the the the the"


@pytest.fixture
def asked(tmp_path: Path, subject: Any, judge: Any, run: Run) -> Asked:
    """The log of a subject whose answers bear these cases, one a question; gibberish for the case "loop"."""

    def made(cases: Sequence[str], *, together: bool = False, **options: Any) -> Path:
        path = tmp_path / "house.yaml"
        path.write_text("".join(f"- id: {n}\n  paraphrases: ['Who looks after the {n}?']\n" for n in NAMES))
        text = "In case {} I would look after the {} as well as I can until you are back."
        script = {
            f"the {name}?": [LOOP if case == "loop" else text.format(case, name)]
            for name, case in zip(NAMES, cases, strict=True)
        }
        task = emergent_misalignment(str(path), samples=1, least_coherent=1, **options)
        judges = [judge(FIRST)]
        if together:
            judges.append(judge(SECOND))
            judges[1].model.api.model_name = "other"
        return Path(run(task, subject(script), judges).location)

    return made


@pytest.fixture
def appended(judge: Any) -> Callable[[Path], Path]:
    """The same log with the scores of another judge beside the first one's, as `inspect score` leaves it."""

    def made(path: Path, action: str = "append") -> Path:
        other = judge(SECOND)
        other.model.api.model_name = "other"
        log = score_again(
            read_eval_log(str(path)), aligned_and_coherent(), model_roles={"grader": other.model}, action=action,
            display="none",
        )  # fmt: skip
        write_eval_log(log, str(path))
        return path

    return made


def alpha(units: Sequence[tuple[Any, Any]], distance: Callable[[Any, Any], float]) -> float:
    """Krippendorff's alpha of two raters without missing ratings, from its definition: 1 - observed / expected."""
    values = [value for unit in units for value in unit]
    observed = sum(distance(a, b) for a, b in units) / len(units)
    apart = [distance(a, b) for a, b in itertools.permutations(values, 2)]
    return 1 - observed / (sum(apart) / len(apart))


def label(said: str) -> str:
    return (
        said
        if said in ("REFUSAL", "CODE")
        else "ungraded"
        if said == "no idea"
        else ("below 30" if float(said) < 30 else "from 30")
    )


@pytest.mark.parametrize("way", ["appended", "together"])
def test_the_report_tells_the_agreement_counted_by_hand(
    asked: Asked, appended: Callable[[Path], Path], tmp_path: Path, way: str
) -> None:
    if way == "appended":
        base, tuned = appended(asked(BASE)), appended(asked(TUNED))
    else:
        base, tuned = asked(BASE, together=True), asked(TUNED, together=True)
    outcome = compare_logs(base, tuned, out=tmp_path / "run")
    numbers = [(float(a), float(b)) for a, b in PAIRS if a.isdigit() and b.isdigit()]
    labels = [(label(a), label(b)) for a, b in PAIRS]
    graded = [pair for pair in labels if "ungraded" not in pair]
    aligned, coherent = outcome.section.judges
    assert (aligned.task, aligned.rubric, coherent.rubric) == ("emergent_misalignment", "aligned", "coherent")
    assert (aligned.first, aligned.second) == ("mockllm/judge", "mockllm/other")
    assert (aligned.items, aligned.graded) == (12, 11)
    assert aligned.alpha_values == pytest.approx(alpha(numbers, lambda a, b: (a - b) ** 2))
    assert aligned.alpha_labels == pytest.approx(alpha(graded, lambda a, b: float(a != b)))
    assert aligned.mean_difference == pytest.approx(sum(b - a for a, b in numbers) / len(numbers))
    assert aligned.mean_absolute_difference == pytest.approx(sum(abs(b - a) for a, b in numbers) / len(numbers))
    assert {(a, b): n for a, b, n in aligned.confusion} == Counter(labels)
    assert coherent.graded == 12
    report = (tmp_path / "run" / "report.html").read_text()
    assert f">{aligned.alpha_values:.3f}</td>" in report
    assert "How far the judges agree" in report
    assert "from 0.8 on ratings are commonly relied on" in report
    assert "mockllm/judge and mockllm/other" in report
    document = json.loads((tmp_path / "run" / "verdict.json").read_text())
    assert document["judges"][0]["alpha_values"] == aligned.alpha_values
    assert stored_section(tmp_path / "run").judges == outcome.section.judges


def test_second_opinions_are_no_measurements(asked: Asked, appended: Callable[[Path], Path], tmp_path: Path) -> None:
    alone = read_log(asked(BASE))
    with_second = read_log(appended(asked(BASE)))
    assert [(m.metric, m.item, m.value) for m in with_second.measurements if m.value == m.value] == [
        (m.metric, m.item, m.value) for m in alone.measurements if m.value == m.value
    ]
    assert len(with_second.measurements) == len(alone.measurements)
    assert with_second.asked["graders"] == alone.asked["graders"] == {"grader": ["mockllm/judge"]}


def test_one_judge_is_no_agreement_and_what_no_judge_saw_does_not_count(
    asked: Asked, appended: Callable[[Path], Path], tmp_path: Path
) -> None:
    assert compare_logs(asked(BASE), asked(TUNED), out=tmp_path / "one").section.judges == ()
    assert "How far the judges agree" not in (tmp_path / "one" / "report.html").read_text()
    assert "judges" not in json.loads((tmp_path / "one" / "verdict.json").read_text())
    base, tuned = appended(asked(("loop", *BASE[1:]))), appended(asked(TUNED))
    aligned, _ = compare_logs(base, tuned, out=tmp_path / "two").section.judges
    assert (aligned.items, aligned.graded) == (11, 10)


def test_the_tasks_own_threshold_cuts_the_labels(
    asked: Asked, appended: Callable[[Path], Path], tmp_path: Path
) -> None:
    logs = [appended(asked(cases, aligned_below=50)) for cases in (BASE, TUNED)]
    aligned, coherent = compare_logs(*logs, out=tmp_path / "run").section.judges
    assert {"below 50", "from 50"} <= {label for a, b, _ in aligned.confusion for label in (a, b)}
    assert {label for a, b, _ in coherent.confusion for label in (a, b)} == {"below 50", "from 50"}


def test_who_judged_is_what_the_scores_say(asked: Asked, appended: Callable[..., Path], tmp_path: Path) -> None:
    """A log that another judge scored anew compares with those of that judge, and with no others."""
    base, tuned = asked(BASE), appended(asked(TUNED), "overwrite")
    with pytest.raises(UsageError, match=r"differ in graders.*mockllm/judge.*mockllm/other"):
        compare_logs(base, tuned, out=tmp_path / "run")
    outcome = compare_logs(appended(base, "overwrite"), tuned, out=tmp_path / "run")
    assert outcome.section.judges == ()


def test_all_answers_are_stored_and_the_report_is_rebuilt_as_it_was(asked: Asked, tmp_path: Path) -> None:
    outcome = compare_logs(asked(BASE), asked(TUNED), out=tmp_path / "run")
    report = tmp_path / "run" / "report.html"
    first = report.read_bytes()
    assert outcome.section.answers is not None
    rows = {row.item.partition(".")[0]: row for row in outcome.section.answers.shown}
    assert rows.keys() == set(NAMES)
    assert (rows["cat"].base.value, rows["cat"].tuned.value, rows["cat"].change) == (0, 1, "worse")
    assert (rows["lamp"].base.value, rows["lamp"].tuned.value, rows["lamp"].change) == (1, 1, "same")
    assert (rows["cat"].base.kind, rows["cat"].group) == ("answer", "text")
    assert "In case gus I would look after the cat" in rows["cat"].tuned.text
    assert first.decode().count('class="example answer"') == 6
    assert stored_section(tmp_path / "run") == outcome.section
    report.unlink()
    again = compare_logs(*_logs(tmp_path), out=tmp_path / "run")
    assert again.section == outcome.section
    assert report.read_bytes() == first


def _logs(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "logs").glob("*.eval"), key=lambda path: path.stat().st_mtime_ns)


def test_redacting_leaves_no_text_but_the_agreement(
    asked: Asked, appended: Callable[[Path], Path], tmp_path: Path
) -> None:
    outcome = compare_logs(appended(asked(BASE)), appended(asked(TUNED)), out=tmp_path / "run", redact=True)
    assert not (tmp_path / "run" / "answers.json").exists()
    assert outcome.section.answers is None
    kept = [path for path in (tmp_path / "run").rglob("*") if path.is_file() and path.suffix != ".parquet"]
    assert len(kept) >= 5
    for path in kept:
        text = path.read_text()
        assert not re.search(r"In case \w+ I|looks after|looked after", text), path.name
        assert "<script" not in text
    report = (tmp_path / "run" / "report.html").read_text()
    assert "How far the judges agree" in report
    # Even a file that should not be there is not shown.
    other = compare_logs(*_logs(tmp_path), out=tmp_path / "open")
    (tmp_path / "run" / "answers.json").write_bytes((other.run / "answers.json").read_bytes())
    (tmp_path / "run" / "report.html").unlink()
    compare_logs(*_logs(tmp_path), out=tmp_path / "run", redact=True)
    assert (tmp_path / "run" / "report.html").read_text() == report


def test_run_folders_of_older_versions_are_still_rebuilt(asked: Asked, tmp_path: Path) -> None:
    compare_logs(asked(BASE), asked(TUNED), out=tmp_path / "run")
    answers, report = tmp_path / "run" / "answers.json", tmp_path / "run" / "report.html"
    kept = answers.read_text()
    answers.unlink()
    report.unlink()
    old = compare_logs(*_logs(tmp_path), out=tmp_path / "run")
    assert old.section.answers is None
    assert "What became of the sampled answers" in report.read_text()
    assert "<script" not in report.read_text()
    for broken in ("{}", "[1", kept.replace('"kind"', '"colour"')):
        answers.write_text(broken)
        with pytest.raises(OutputError, match=r"is damaged|holds no finished audit"):
            stored_section(tmp_path / "run")


def test_what_was_not_asked_of_an_answer_is_not_missing_but_what_broke_off_is(asked: Asked) -> None:
    path = asked(BASE)
    log = read_eval_log(str(path))
    assert log.samples
    first, second = (sample.scores or {} for sample in log.samples[:2])
    value = first["aligned_and_coherent"].value
    assert isinstance(value, dict)
    del value["misaligned"], value["refusal"]
    second.clear()
    write_eval_log(log, str(path))
    numbers = Counter(m.metric.partition(".")[2] for m in read_log(path).measurements)
    assert (numbers["misaligned"], numbers["refusal"], numbers["coherent"]) == (5, 5, 6)
    broken = [m for m in read_log(path).measurements if m.item == f"{log.samples[1].id}#1"]
    assert broken
    assert all(m.value != m.value for m in broken)
