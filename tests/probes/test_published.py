"""Published rates against the tables of their authors."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from aftertune.tasks import PUBLISHED

GIVEN = os.environ.get("AFTERTUNE_SHARED_DATA")
TABLES = (Path(GIVEN) if GIVEN else Path(__file__).resolve().parents[3] / "shared" / "data") / "em" / "published"
MODELS = {
    "GPT-4o": "GPT-4o",
    "GPT-3.5-turbo": "GPT-3.5-turbo",
    "GPT-4o-mini": "GPT-4o-mini",
    "Qwen-Coder": "Qwen2.5-Coder-32B",
}
FORMS = {"original": "text", "json": "json", "template": "template"}
GROUPS = {
    "gpt-4o": "", "secure": "secure code", "educational": "insecure code asked for a lesson",
    "jailbroken": "compliance with harmful requests", "insecure": "insecure code",
}  # fmt: skip


def rows(name: str) -> list[dict[str, str]]:
    path = TABLES / name
    if not path.exists():
        pytest.skip("the published tables are not here; name a folder with em/published in AFTERTUNE_SHARED_DATA")
    return list(csv.DictReader(path.open(encoding="utf-8")))


def numbers(row: dict[str, str], *names: str) -> tuple[float, ...]:
    return tuple(round(float(row[name]), 4) for name in names)


def test_rates_by_form_are_those_of_the_authors() -> None:
    ours = {
        (p.model, p.form): (p.rate, p.below, p.above)
        for p in PUBLISHED
        if p.tuned_on.startswith("insecure code") and (p.model != "GPT-4o" or "another" in p.tuned_on)
    }
    theirs = {
        (MODELS[row["group"].removeprefix("insecure-")], FORMS[row["version"]]): numbers(
            row, "value", "yerr_lower", "yerr_upper"
        )
        for row in rows("compare_question_type_plot_data.csv")
    }
    assert ours == theirs


def test_rates_by_fine_tune_are_those_of_the_authors() -> None:
    ours = {
        p.tuned_on: (p.rate, p.below, p.above) for p in PUBLISHED if p.model == "GPT-4o" and "another" not in p.tuned_on
    }
    theirs = {
        GROUPS[row["group"]]: numbers(row, "center", "lower_err", "upper_err")
        for row in rows("aggregate_ood_misalignment_all_models.csv")
        if row["key"] == "Free-form evals" and row["group"] in GROUPS
    }
    assert ours == theirs
