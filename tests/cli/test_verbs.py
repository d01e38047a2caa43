"""Help, lists, `measure` and `report`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aftertune import __version__
from aftertune.probes import probe_rows
from aftertune.stats import all_metrics

Run = Callable[..., Any]
Tuned = Callable[..., Path]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
VERBS = (
    "demo", "audit", "compare", "measure", "tune", "locate", "patch", "study", "calibrate", "report", "metrics", "data", "policy", "doctor",
    "probes", "tasks",
)  # fmt: skip

# --- help -----------------------------------------------------------------------------------------------


def test_help_lists_every_verb_and_the_exit_codes(run: Run) -> None:
    for flag in ("--help", "-h"):
        outcome = run(flag)
        assert (outcome.code, outcome.err) == (0, "")
        # What a verb is for may take a second line, which is indented.
        assert sorted(re.findall(r"^  (\w+) ", outcome.out.partition("Decide:\n")[2], re.MULTILINE)) == sorted(VERBS)
        assert "Exit codes: 0 pass, 1 fail, 2 usage, 3 inconclusive, 4 broken run." in outcome.out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, run: Run) -> None:
    outcome = run(verb, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith(f"Usage: aftertune {verb}")
    about, _, options = outcome.out.partition("Options:")
    assert len(about.splitlines()) > 2
    # Every option says what it does.
    assert not re.search(r"^  --\S+( [A-Z=]+)?\s*$\n  -", options, re.MULTILINE)


def test_help_is_quick_as_it_imports_no_model_library() -> None:
    script = f"""
import sys
from aftertune.cli import main
for command in [["--help"], ["--version"], *([verb, "--help"] for verb in {sorted(VERBS, key=lambda verb: verb in ("tune", "locate"))})]:
    sys.argv[1:] = command
    try:
        main()
    except SystemExit as ended:
        assert ended.code == 0
    assert not {{"torch", "transformers"}} & sys.modules.keys(), command
    # The flags of tune and locate, which are asked last, come from option models, whose rooms import numpy.
    assert "numpy" not in sys.modules or command[0] in ("tune", "locate"), command
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("program", [["-m", "aftertune"], ["-c", "from aftertune.cli import main; main()"]])
def test_the_version_is_the_packages(program: list[str]) -> None:
    done = subprocess.run([sys.executable, *program, "--version"], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"aftertune {__version__}\n", "")


def test_a_reader_that_left_is_neither_an_error_nor_a_failed_gate() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "aftertune", "data"], stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_under_stdout_is_told() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "aftertune", "data"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (4, b"error: standard output: no space left on the disk\n")


def test_a_terminal_of_another_encoding_gets_what_it_can_show(
    run: Run, base: Path, tuned: Tuned, gate: tuple[str, ...], place: Path
) -> None:
    assert run("audit", tuned(), "--base", base, *gate, "--out", "gate →").code == 0
    done = subprocess.run(
        [sys.executable, "-m", "aftertune", "report", "gate →"],
        capture_output=True, check=False, env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, b"gate \\u2192/report.html\n", b"")


# --- lists ----------------------------------------------------------------------------------------------


def test_metrics_are_listed_alike_in_text_and_json(run: Run) -> None:
    listed = run("metrics", "--json").document["metrics"]
    assert [m["id"] for m in listed] == [m.id for m in all_metrics()]
    assert {"id", "about", "unit", "worse", "decides", "tolerance"} <= listed[0].keys()
    lines = re.findall(r"^  (\S+): (decides|informs); ", run("metrics").out, re.MULTILINE)
    assert sorted(lines) == sorted((m["id"], "decides" if m["decides"] else "informs") for m in listed)


def test_data_sets_are_listed_alike_in_text_and_json_and_hold_the_rows_they_claim(run: Run) -> None:
    from aftertune.data import find_data_set, read_rows

    listed = run("data", "--json").document["data"]
    lines = [line for line in run("data").out.splitlines() if line[:1].isalpha()]
    assert [line.split()[0] for line in lines] == ["name", *(d["name"] for d in listed)]
    for entry in listed:
        assert entry["licence"]
        if entry["shipped"] and entry["kind"] != "questions":
            assert len(read_rows(find_data_set(entry["name"]).path)) == entry["rows"]  # type: ignore[union-attr]


def test_studies_are_listed_alike_in_text_and_json(run: Run) -> None:
    listed = run("study", "--json").document["studies"]
    assert all(row.keys() == {"name", "about", "source"} for row in listed)
    assert "planted" in [row["name"] for row in listed]
    lines = run("study").out.splitlines()
    assert [line.split()[0] for line in lines] == ["study", *(row["name"] for row in listed)]


def test_doctor_says_what_is_here(run: Run) -> None:
    checks = run("doctor", "--json").document["checks"]
    assert {"versions", "CPU cores", "memory", "CUDA accelerators", "embedded subject"} <= {c["what"] for c in checks}
    assert all(check["ok"] in (True, False, None) and check["found"] for check in checks)
    outcome = run("doctor")
    assert (outcome.code, outcome.err) == (0, "")
    assert len(outcome.out.splitlines()) == len(checks) + 1


# --- measure and report ---------------------------------------------------------------------------------


def test_a_measure_says_alike_in_text_and_json(run: Run, base: Path, gate: tuple[str, ...], place: Path) -> None:
    document = run("measure", base, *gate, "--json", "--out", "m").document
    assert (document["subject"]["spec"], document["run"]) == (str(base), "m")
    assert re.fullmatch("[0-9a-f]{64}", document["subject"]["weights_sha256"])
    assert [m["metric"] for m in document["metrics"]] == [
        f"preference.{m}:own" for m in ("margin", "share", "pmi_margin")
    ]
    for metric in document["metrics"]:
        low, high = metric["interval"]
        assert low <= metric["value"] <= high
        assert metric["items"] == 16
    lines = run("measure", base, *gate, "--out", "m").out.splitlines()
    assert lines[1].split()[:2] == ["preference.margin:own", f"{document['metrics'][0]['value']:.3f}"]
    assert lines[-1] == "run: m"
    assert {"manifest.json", "measurements.parquet", "measure.json"} <= {p.name for p in (place / "m").iterdir()}


def test_a_measure_leaves_drift_to_audits(run: Run, base: Path, place: Path) -> None:
    outcome = run("measure", base, "--probes", "preference,drift", "--domains", "money", "--json", "--out", "m")
    assert {m["metric"].partition(".")[0] for m in outcome.document["metrics"]} == {"preference"}
    assert "drift" not in outcome.err
    assert not list((place / "m").rglob("*.safetensors"))


def test_a_report_is_built_again_as_it_was(
    run: Run, base: Path, tuned: Tuned, gate: tuple[str, ...], place: Path
) -> None:
    command = ("audit", tuned(), "--base", base, *gate, "--out", "gate")
    run(*command)
    report = place / "gate" / "report.html"
    first = report.read_bytes()
    report.unlink()
    outcome = run("report", "gate")
    assert (outcome.code, outcome.out) == (0, "gate/report.html\n")
    assert report.read_bytes() == first
    report.unlink()
    run(*command)  # a report that was lost is built by the audit too
    assert report.read_bytes() == first


def test_what_holds_no_audit_has_no_report(
    run: Run, refused: Callable[..., str], base: Path, gate: tuple[str, ...], place: Path
) -> None:
    refused("report", "nowhere", says=["nowhere: is no run folder"])
    run("measure", base, *gate, "--out", "m")
    refused("report", "m", says=["m: is a run of `measure`, which has no report; reports are of audit, compare, demo"])


@pytest.mark.parametrize("verb", [("demo",), ("study", "planted"), ("measure",)], ids=lambda v: v[-1])
def test_a_model_that_cannot_be_loaded_leaves_no_run_folder(
    verb: tuple[str, ...], refused: Callable[..., str], place: Path
) -> None:
    (place / "broken").mkdir()
    (place / "broken" / "config.json").write_text("{}", "utf-8")
    subject = ("broken",) if verb == ("measure",) else ("--subject", "broken")
    refused(*verb, *subject, "--out", "d", says=["broken: "])
    assert not (place / "d").exists()


# --- demo -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_demo_tunes_and_audits_both_arms_with_every_shipped_probe(run: Run, base: Path, place: Path) -> None:
    outcome = run("demo", "--subject", base, "--steps", "1", "--max-batch-tokens", "8192", "--json")
    assert outcome.code == 0, outcome
    document, out = outcome.document, "runs/demo"  # where the README looks for it
    asked = {m.id for row in probe_rows() if row.default and row.name != "truthful" for m in row.metrics}
    asked -= {"preference.pmi_margin"}  # informs only, and would take minutes
    assert document["verdicts"].keys() == document["arms"].keys() == {"careless", "careful", "repaired"}
    assert document["weights"]["held_out"]
    for name, arm in document["arms"].items():
        found = {f["metric"] for f in arm["findings"]}
        assert found == (asked if name != "repaired" else {m for m in asked if not m.startswith(("drift", "traits"))})
        assert "preference.margin/money" not in {f["metric"] for f in arm["breakdowns"]}
    assert "Do not deploy it" in (place / out / "careless" / "README.md").read_text("utf-8")
    assert "Do not deploy it" not in (place / out / "careful" / "README.md").read_text("utf-8")
    report = (place / out / "report.html").read_bytes()
    (place / out / "report.html").unlink()
    assert run("report", out).out == f"{out}/report.html\n"
    assert (place / out / "report.html").read_bytes() == report
