"""Runs share what was measured: by content, whoever measured it, and to the last digit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aftertune.stats import read_measurements

Run = Callable[..., Any]
Tuned = Callable[..., Path]
PROBES = ("--probes", "drift", "--display", "plain")

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture
def shared(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store that runs of this test share."""
    folder = place.parent / "store"
    monkeypatch.setenv("AFTERTUNE_STORE", str(folder))
    return folder


def numbers(folder: Path) -> Any:
    document = json.loads((folder / "verdict.json").read_text("utf-8"))
    return {**document, "run": "", "title": "", "base": "", "tuned": ""}, read_measurements(
        folder / "measurements.parquet"
    )


def test_a_base_is_loaded_and_measured_once(
    run: Run, base: Path, tuned: Tuned, own: Path, place: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tuned(), tuned(steps=2)
    shutil.copytree(base, "moved")
    asked = (*PROBES, "--contrasts", own)
    assert "loading base" in run("audit", first, "--base", base, *asked, "--out", "one").err
    for name, where in (("two", base), ("three", "moved")):
        said = run("audit", second, "--base", where, *asked, "--out", name).err
        assert "base: measured before" in said
        assert ("loading base" in said) == (name == "three")  # only for the record of who it is
    assert json.loads((place / "three" / "verdict.json").read_text())["base"]["spec"] == "moved"
    monkeypatch.setenv("AFTERTUNE_STORE", "off")
    assert "loading base" in run("audit", second, "--base", base, *asked, "--out", "alone").err
    assert numbers(place / "two") == numbers(place / "alone") == numbers(place / "three")


def test_another_base_plan_or_precision_is_measured_anew(
    run: Run, base: Path, tuned: Tuned, own: Path, shared: Path
) -> None:
    asked = ("--base", base, *PROBES, "--contrasts", own)
    run("audit", tuned(), *asked, "--out", "one")
    for name, more in (("two", ("--no-pmi",)), ("three", ("--max-batch-tokens", "300"))):
        assert "base: measured before" not in run("audit", tuned(), *asked, *more, "--out", name).err
    file = base.parent / "other"
    shutil.copytree(base, file)
    config = json.loads((file / "config.json").read_text())
    (file / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.1}))
    assert "measured before" not in run("measure", file, "--probes", "", "--contrasts", own, "--out", "four").err


def test_a_damaged_reference_in_the_store_is_made_again(
    run: Run, base: Path, tuned: Tuned, place: Path, shared: Path
) -> None:
    asked = ("--base", base, *PROBES)
    run("audit", tuned(), *asked, "--out", "one")
    [reference] = shared.glob("measurements/*/drift.safetensors")
    whole = reference.read_bytes()
    reference.write_bytes(whole[:-8] + b"\0\0\0\1" * 2)
    assert run("audit", tuned(), *asked, "--out", "two").code in (0, 1, 3)
    assert reference.read_bytes() == whole
    assert numbers(place / "one") == numbers(place / "two")


def test_a_redacted_run_shares_nothing(
    run: Run, base: Path, tuned: Tuned, own: Path, place: Path, shared: Path
) -> None:
    run("audit", tuned(), "--base", base, *PROBES, "--contrasts", own, "--redact", "--out", "one")
    assert not shared.exists()
    texts = b"".join(path.read_bytes() for path in place.rglob("one/**/*") if path.is_file())
    assert b"What should I do about money?" not in texts
