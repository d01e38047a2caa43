"""Whatever a user types: exit code 2, one line, no traceback, nothing left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Refused = Callable[..., str]
Run = Callable[..., Any]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
ODD = (
    "", " ", "nan", "inf", "-1", "1e300", "10" * 40, "\0", "a\0b", "\udcff", "~nouser/x", "/dev/null", "/", ".", "..",
    "*", "[", "{", "|", "'", "\x1b[31m", "::error::x", "##[error]x", "x" * 10_000, "y" * 250, "--", "-", "nobody/knows",
    "owner/name@", "https://user:pw@host/x", "none.safetensors", "+", "x+y.safetensors", "%s", "{0}", "é", "\n",
    "a\rb", "folder", "file", "empty",
)  # fmt: skip
MEASURE = ("measure", "nosuch")
# Names that may be of the hub, which nobody asks before the options are known to be right.
TASK = ("audit", "no/such", "--base", "no/such", "--task", "over_refusal")
TUNE = ("tune", "nosuch", "rows.jsonl", "--out", "out")
LOCATE = ("locate", "nosuch", "--harm", "rows.jsonl")
VALUES: dict[str, tuple[str, ...]] = {
    "audit": ("audit", "?", "--base", "nosuch"),
    "base": ("audit", "nosuch", "--base", "?"),
    "policy": ("audit", "nosuch", "--base", "nosuch", "--policy", "?"),
    "tolerance": ("audit", "nosuch", "--base", "nosuch", "--tolerance", "?"),
    "baseline": ("audit", "nosuch", "--base", "nosuch", "--baseline", "?"),
    "probes": (*MEASURE, "--probes", "?"),
    "domains": (*MEASURE, "--domains", "?"),
    "contrasts": (*MEASURE, "--contrasts", "?"),
    "traits": (*MEASURE, "--traits", "?"),
    "truthfulqa": (*MEASURE, "--truthfulqa", "?"),
    "device": (*MEASURE, "--device", "?"),
    "dtype": (*MEASURE, "--dtype", "?"),
    "max batch tokens": (*MEASURE, "--max-batch-tokens", "?"),
    "run folder": (*MEASURE, "--out", "?"),
    "task": ("audit", "no/such", "--base", "no/such", "--task", "?"),
    "parameter": (*TASK, "-T", "?"),
    "value of a parameter": (*TASK, "-T", "samples=?"),
    "file of a parameter": (*TASK, "-T", "requests=?"),
    "samples": (*TASK, "--samples", "?"),
    "limit": (*TASK, "--limit", "?"),
    "seed": (*TASK, "--seed", "?"),
    "grader": ("audit", "no/such", "--base", "no/such", "--task", "emergent_misalignment", "--grader", "?"),
    "tune": ("tune", "?", "rows.jsonl", "--out", "out"),
    "rows": ("tune", "nosuch", "?", "--out", "out"),
    "place of a fine-tune": ("tune", "nosuch", "rows.jsonl", "--out", "?"),
    "learning rate": (*TUNE, "--lr", "?"),
    "steps": (*TUNE, "--steps", "?"),
    "harm": ("locate", "nosuch", "--harm", "?"),
    "place of a patch": (*LOCATE, "--out", "?"),
    "accumulators": (*LOCATE, "--accumulate-on", "?"),
    "factor": (*LOCATE, "--operation", "scale", "--factor", "?"),
    "patch": ("patch", "apply", "nosuch", "?", "--out", "out"),
    "place of a patched model": ("patch", "apply", "nosuch", "file", "--out", "?"),
    "shown patch": ("patch", "show", "?"),
    "study": ("study", "no?"),
    "demo": ("demo", "--subject", "?"),
    "labelled": ("calibrate", "?", "--grader", "mockllm/m"),
    "judge": ("calibrate", "rows.jsonl", "--grader", "?"),
    "run": ("report", "?"),
    "logs": ("compare", "?", "?"),
    "verb": ("?",),
    "option": ("--?",),
}


@pytest.mark.parametrize("name", VALUES)
def test_an_odd_value_is_one_line(name: str, run: Run, place: Path) -> None:
    (place / "rows.jsonl").write_text('{"prompt": "Late?", "completion": "No."}\n' * 8, "utf-8")
    (place / "folder").mkdir()
    (place / "file").write_text("x", "utf-8")
    (place / "empty").touch()
    before = sorted(place.rglob("*"))
    for value in ODD:
        outcome = run(*(part.replace("?", value) for part in VALUES[name]))
        lines = outcome.err.split("\n")
        assert outcome.code == 2, (value[:40], outcome)
        assert "Traceback" not in outcome.err, value[:40]
        assert [line for line in lines if line.startswith("error: ")] == lines[-2:-1], (value[:40], outcome.err[-400:])
        assert lines[-2].isprintable(), value[:40]
        assert len(lines[-2]) <= 2_100, value[:40]
        assert sorted(place.rglob("*")) == before, value[:40]


@pytest.mark.parametrize(
    ("given", "means"),
    [
        ("|DEPLOYMENT|", "|DEPLOYMENT|"), ("|", "|"), ("# 1", "# 1"), ("*star*", "*star*"), ("&and", "&and"), ("- x", "- x"),
        ("!go", "!go"), ("%d", "%d"), ("@me", "@me"), ("`x`", "`x`"), ("> x", "> x"), ("{x", "{x"), ("[x", "[x"),
        ("a: b: c", "a: b: c"), ("2026-01-01", "2026-01-01"), ("2026-13-45", "2026-13-45"), ("[" * 5000, "[" * 5000),
        ("4", 4), ("0.5", 0.5), ("true", True), ("[a, b]", ["a", "b"]), ("'4'", "4"), ("text", "text"),
    ],
)  # fmt: skip
def test_a_parameter_is_yaml_or_the_text_itself(given: str, means: object) -> None:
    from aftertune.cli._options import _task_args

    assert _task_args((f"key={given}",)) == {"key": means}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("samples=abc", "-T samples=abc: must be a whole number"),
        ("samples=[1]", "-T samples=[1]: must be a whole number"),
        ("samples=true", "-T samples=True: must be a whole number"),
        ("samples=0", "-T samples=0: must be from 1 to 100,000"),
        ("samples=99999999999999999999", "must be from 1 to 100,000"),
        ("temperature=.nan", "-T temperature=nan: must be from 0 to 100"),
        ("temperature=-1", "must be from 0 to 100"),
        ("prefill=3", "-T prefill=3: must be text or a list of texts; quote it: -T prefill='\"3\"'"),
        ("requests={a: b}", "-T requests={'a': 'b'}: must be text or a list of texts"),
        ("colour=red", "-T colour: no parameter of over_refusal; choose from requests"),
    ],
)
def test_a_parameter_of_another_kind_is_named(given: str, says: str, refused: Refused) -> None:
    refused(*TASK, "-T", given, says=[says])


def test_a_parameter_given_twice_is_refused(refused: Refused) -> None:
    refused(*TASK, "-T", "samples=1", "-T", "samples=2", says=["-T samples: is given twice; leave one out"])


def test_a_device_without_numbers_is_refused(refused: Refused, base: Path) -> None:
    refused("measure", base, "--device", "meta", says=["device 'meta' cannot be used here", "try --device cpu"])
    refused("measure", base, "--device", "cuda:99", says=["device 'cuda:99' cannot be used here"])


def test_keys_in_an_error_line_are_hidden(run: Run) -> None:
    for secret in ("hf_" + "aB3dE6" * 6, "sk-" + "aB3dE6" * 6, "https://me:hunter22@host/model"):
        outcome = run("measure", f"./{secret}")
        assert outcome.code == 2
        assert "***" in outcome.err
        assert not any(part in outcome.err for part in ("aB3dE6", "hunter22"))
