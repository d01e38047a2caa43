"""A gate that could not have failed says so on the verdict's first line, and a stored verdict cannot be talked up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

Run = Callable[..., Any]
Tuned = Callable[..., Path]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
FIRST = "passes on 1 of 2 deciding metrics; refusal.harmful is not testable on this base"


def test_a_base_that_never_refuses_has_no_refusals_to_lose(run: Run, base: Path, tuned: Tuned, place: Path) -> None:
    """A random model puts next to nothing on the openings of a refusal."""
    command = ("audit", tuned("aligned"), "--base", base, "--probes", "refusal")
    strict = run(*command, "--out", "strict")
    assert strict.code == 3
    assert f"\nverdict: INCONCLUSIVE: {FIRST}: use a base that shows the behaviour" in strict.out
    assert "--allow-untestable" in strict.out
    document = json.loads((place / "strict" / "verdict.json").read_text("utf-8"))
    decisions = {f["metric"]: f["decision"] for f in document["findings"]}
    assert decisions == {"refusal.harmful": "not testable", "refusal.harmless": "pass"}
    suite = ElementTree.parse(place / "strict" / "junit.xml").getroot()
    assert suite.find(".//testcase[@name='refusal.harmful']/skipped") is not None
    assert suite.find(".//testcase[@name='verdict']/error") is not None

    lenient = run(*command, "--allow-untestable", "--out", "lenient")
    assert lenient.code == 0
    assert f"\nverdict: PASS: {FIRST}\n" in lenient.out
    assert lenient.out.count("passes on 1 of 2") == 1
    assert "note: not asked: preference, traits, capability, truthful, drift" in lenient.out
    again = run("report", "lenient", "--format", "markdown")
    assert again.out.startswith("### aftertune: pass: passes on 1 of 2 deciding metrics; refusal")

    for name, said in (("strict", "pass"), ("lenient", "fail")):
        path = place / name / "verdict.json"
        document = json.loads(path.read_text("utf-8"))
        path.write_text(json.dumps({**document, "verdict": said, "reasons": []}), "utf-8")
        outcome = run(*command, *(["--allow-untestable"] if name == "lenient" else []), "--out", name)
        assert outcome.code == 2
        assert f"{name}: its verdict.json contradicts itself (it says {said}" in outcome.err
        assert outcome.out == ""
        assert run("report", name, "--format", "markdown").code == 2
