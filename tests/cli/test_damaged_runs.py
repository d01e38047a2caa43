"""Damaged run folders: refused in one line that names the folder, or measured anew; never a traceback or a wrong number."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
Refused = Callable[..., str]
Damage = Callable[[Path], None]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
DEEP = "[" * 100_000


def text(name: str, content: str | bytes) -> Damage:
    return lambda run: (run / name).write_bytes(content if isinstance(content, bytes) else content.encode()) and None


def keys(name: str, **changed: Any) -> Damage:
    def damage(run: Path) -> None:
        path = run / name
        path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changed}), "utf-8")

    return damage


def without(name: str, key: str) -> Damage:
    def damage(run: Path) -> None:
        path = run / name
        document = json.loads(path.read_text("utf-8"))
        del document[key]
        path.write_text(json.dumps(document), "utf-8")

    return damage


def first(name: str, **changed: Any) -> Damage:
    """The first finding, or the first row of a list, changed."""

    def damage(run: Path) -> None:
        path = run / name
        document = json.loads(path.read_text("utf-8"))
        (document["findings"] if isinstance(document, dict) else document)[0].update(changed)
        path.write_text(json.dumps(document), "utf-8")

    return damage


def folder(name: str) -> Damage:
    def damage(run: Path) -> None:
        (run / name).unlink()
        (run / name).mkdir()

    return damage


def gone(name: str) -> Damage:
    return lambda run: (run / name).unlink()


V, E, M = "verdict.json", "examples.json", "manifest.json"
DAMAGES: dict[str, Damage] = {
    "manifest gone": gone(M),
    "manifest a folder": folder(M),
    "manifest empty": text(M, ""),
    "manifest cut short": text(M, '{"verb": "audit", "config": {'),
    "manifest a list": text(M, "[]"),
    "manifest nested deep": text(M, DEEP),
    "manifest of null bytes": text(M, b"\0" * 100),
    "config a list": keys(M, config=[]),
    "config null": keys(M, config=None),
    "verb a number": keys(M, verb=3),
    "verb of another tool": keys(M, verb="cook"),
    "study that is none": keys(M, verb="study cooking"),
    "status a list": keys(M, status=[]),
    "status unknown": keys(M, status="great"),
    "versions a list": keys(M, versions=[1]),
    "command a list": keys(M, command=["rm"]),
    "asked a word": keys(M, asked="abc"),
    "asked numbers": keys(M, asked=[3]),
    "asked odd": keys(M, asked=[{"graders": 3}]),
    "asked without graders": keys(M, asked=[{}]),
    "verdict gone": gone(V),
    "verdict a folder": folder(V),
    "verdict empty": text(V, ""),
    "verdict cut short": text(V, '{"title": "x", '),
    "verdict a list": text(V, "[]"),
    "verdict null": text(V, "null"),
    "verdict nested deep": text(V, DEEP),
    "verdict not UTF-8": text(V, b'{"title": "\xff"}'),
    "verdict with NaN": keys(V, title=float("nan")),
    "verdict word unknown": keys(V, verdict="great"),
    "verdict word a list": keys(V, verdict=["pass"]),
    "title a number": keys(V, title=3),
    "reasons a word": keys(V, reasons="abc"),
    "reasons numbers": keys(V, reasons=[3]),
    "note null": keys(V, note=None),
    "base a list": keys(V, base=[]),
    "base without name": keys(V, base={}),
    "base named by a number": keys(V, base={"spec": 3, "weights_sha256": ""}),
    "tuned null": keys(V, tuned=None),
    "findings an object": keys(V, findings={"a": 1}),
    "findings numbers": keys(V, findings=[1]),
    "no findings": without(V, "findings"),
    "no breakdowns": without(V, "breakdowns"),
    "margin a word": first(V, margin="x"),
    "metric null": first(V, metric=None),
    "decision unknown": first(V, decision="evil"),
    "interval of one": first(V, interval=[1]),
    "interval of words": first(V, interval=["a", "b"]),
    "difference huge": first(V, difference=10**400),
    "difference NaN": first(V, difference=float("nan")),
    "items half": first(V, items=1.5),
    "decides a word": first(V, decides="yes"),
    "finding with another field": first(V, colour="red"),
    "baseline a word": keys(V, baseline="abc"),
    "judges numbers": keys(V, judges=[3]),
    "examples gone": gone(E),
    "examples a folder": folder(E),
    "examples nested deep": text(E, DEEP),
    "examples an object": text(E, '{"a": 1}'),
    "examples numbers": text(E, "[1]"),
    "example's texts a list": first(E, texts=[1]),
    "example's value null": first(E, base=None),
    "example's value a word": first(E, tuned="x"),
    "answers broken": text("answers.json", "{"),
    "answers a list": text("answers.json", "[3]"),
    "answers of another form": text("answers.json", '{"shown": [{"task": 1}], "sampled": "x"}'),
}


@pytest.fixture(scope="module")
def command(base: Path, tuned: Callable[..., Path], own: Path) -> tuple[object, ...]:
    return ("audit", tuned(), "--base", base, "--probes", "", "--contrasts", own, "--no-pmi", "--display", "none")


@pytest.fixture(scope="module")
def audited(command: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished audit; not to be written to."""
    import contextlib
    import io
    import sys

    from aftertune.cli import main

    out = tmp_path_factory.mktemp("audited") / "run"
    before, sys.argv = sys.argv, ["aftertune", *map(str, command), "--out", str(out)]
    try:
        with contextlib.redirect_stdout(io.StringIO()), pytest.raises(SystemExit):
            main()
    finally:
        sys.argv = before
    assert (out / V).exists()
    return out


@pytest.mark.parametrize("label", DAMAGES)
def test_a_damaged_audit_is_one_line_to_report_and_to_go_on_with(
    label: str, audited: Path, command: tuple[object, ...], refused: Refused, run: Run, place: Path
) -> None:
    shutil.copytree(audited, place / "run")
    DAMAGES[label](place / "run")
    for form in ("html", "markdown"):
        if form == "markdown" and label.startswith(("asked", "command")):
            continue  # the summary shows nothing of it
        line = refused("report", "run", "--format", form, says=["run"])
        assert len(line) < 400
    if label not in ("verb a number", "asked odd", "asked without graders"):
        outcome = run(*command, "--out", "run")
        assert outcome.code == 2, outcome
        assert "Traceback" not in outcome.err
        assert len(outcome.errors) == 1


def test_a_sound_audit_is_reported_and_gone_on_with(
    audited: Path, command: tuple[object, ...], run: Run, place: Path
) -> None:
    shutil.copytree(audited, place / "run")
    assert run("report", "run").code == 0
    assert run("report", "run", "--format", "markdown").code == 0
    assert run(*command, "--out", "run").code in (0, 1, 3)


# --- measurements and journals --------------------------------------------------------------------------


@pytest.fixture
def measured(run: Run, base: Path, own: Path) -> Callable[[], Any]:
    def measure() -> Any:
        return run("measure", base, "--probes", "", "--contrasts", own, "--display", "none", "--json", "--out", "run")

    return measure


def halt(run: Path) -> Path:
    """Take a finished measurement back to where its journal alone is left; the journal."""
    keys(M, status="running")(run)
    (run / "measurements.parquet").unlink()
    (run / "measure.json").unlink()
    return next(run.glob("measurements/*/journal.jsonl"))


JOURNALS: dict[str, Callable[[list[Any]], object]] = {
    "a likelihood gone": lambda rows: rows[0][1].pop(),
    "rows of two": lambda rows: rows[0].__setitem__(1, [[1, 2]]),
    "total a word": lambda rows: rows[0][1][0].__setitem__(2, "x"),
    "total another number": lambda rows: rows[0][1][0].__setitem__(2, -1.0),
    "total NaN": lambda rows: rows[0][1][0].__setitem__(2, float("nan")),
    "total huge": lambda rows: rows[0][1][0].__setitem__(2, 10**400),
    "no tokens": lambda rows: rows[0][1][0].__setitem__(3, 0),
    "an object": lambda rows: rows[0].__setitem__(1, {"a": 1}),
    "null": lambda rows: rows[0].__setitem__(1, None),
    "another key": lambda rows: rows[0].__setitem__(0, "preference/1/9"),
    "a row twice": lambda rows: rows.append(rows[0]),
    "one entry in another's place": lambda rows: rows[0].__setitem__(1, rows[-1][1]),
    "rows turned round": lambda rows: rows.reverse(),
}


@pytest.mark.parametrize("label", JOURNALS)
def test_a_changed_journal_gives_the_right_number_or_none(label: str, measured: Callable[[], Any], place: Path) -> None:
    want = measured().document["metrics"]
    journal = halt(place / "run")
    rows = [json.loads(line) for line in journal.read_text("utf-8").splitlines()]
    JOURNALS[label](rows)
    journal.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    again = measured()
    assert again.code == 0, again
    assert again.document["metrics"] == want


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 64, b"PAR1", b"not parquet at all", None],
    ids=["empty", "null bytes", "head", "text", "rows"],
)
def test_a_damaged_table_of_measurements_is_one_line(
    content: bytes | None, measured: Callable[[], Any], place: Path
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    measured()
    table = place / "run" / "measurements.parquet"
    if content is None:
        held = pq.read_table(table)
        words = pa.array(["x"] * len(held))
        pq.write_table(held.set_column(held.column_names.index("value"), "value", words), table)
    else:
        table.write_bytes(content)
    outcome = measured()
    assert outcome.code == 2, outcome
    assert outcome.errors == [outcome.err.strip()]
    assert "measurements.parquet: no table of measurements" in outcome.err


def test_a_manifest_that_names_no_subject_is_one_line(measured: Callable[[], Any], place: Path) -> None:
    measured()
    for subject in (None, 3, "x"):
        keys(M, subject=subject)(place / "run")
        outcome = measured()
        assert (outcome.code, len(outcome.errors)) == (2, 1), outcome


def test_a_changed_drift_reference_is_made_anew(base: Path, tuned: Callable[..., Path], run: Run, place: Path) -> None:
    command = ("audit", tuned(), "--base", base, "--probes", "drift", "--display", "none", "--json", "--out", "run")
    want = run(*command).document["findings"]
    for content in (b"", b"garbage" * 100, None):
        keys(M, status="running")(place / "run")
        reference = next((place / "run").glob("measurements/*/drift.safetensors"))
        whole = reference.read_bytes()
        for journal in (place / "run").glob("measurements/*/journal.jsonl"):
            if journal.parent != reference.parent:
                journal.unlink()
        # The last: a sound file with other numbers.
        reference.write_bytes(whole[:-8] + b"\0\0\0\1" * 2 if content is None else content)
        again = run(*command)
        assert again.code in (0, 1, 3), again
        assert again.document["findings"] == want
