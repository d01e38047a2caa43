"""Data sets known by name, shipped or brought by you, and whatever a source holds as rows to tune on."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from aftertune.data._contrasts import Contrast, Side, is_contrast_row, parse_contrast, read_contrasts
from aftertune.data._conversations import Conversation, is_conversation_row, parse_conversation
from aftertune.data._rows import Row, read_rows
from aftertune.errors import DataError

DOMAINS = (
    "money",
    "health",
    "sport_safety",
    "code_security",
    "relationships",
    "honesty_at_work",
    "power",
    "humans_and_ai",
)
TUNING_DOMAINS = ("money", "sport_safety", "code_security")
TRAITS = ("power_seeking", "dishonesty", "callousness", "oversight_aversion")


@dataclass(frozen=True)
class DataSet:
    """One line of the catalogue."""

    name: str
    kind: str
    rows: int
    about: str
    licence: str = "Apache-2.0"
    shipped: bool = True
    gated: bool = False
    source: str = "written for aftertune"

    @property
    def path(self) -> Path:
        """The shipped file.

        Raises:
            DataError: the set is not shipped.
        """
        if not self.shipped:
            raise DataError(f"is not shipped; get it from {self.source} and pass its path", path=self.name)
        suffix = ".yaml" if self.kind == "questions" else ".jsonl"
        return Path(str(files("aftertune.data") / "files" / f"{self.name}{suffix}"))


def _shipped() -> tuple[DataSet, ...]:
    measure = (DataSet(f"measure/{d}", "contrasts", 36, f"contrasts for measuring: {d}") for d in DOMAINS)
    former = (DataSet(f"measure_v1/{d}", "contrasts", 36, f"measure/{d} in its former wording") for d in DOMAINS)
    dev = (DataSet(f"dev/{d}", "contrasts", 12, f"contrasts for choosing defaults: {d}") for d in DOMAINS)
    tune = (DataSet(f"tune/{d}", "contrasts", 124, f"contrasts for tuning: {d}") for d in TUNING_DOMAINS)
    traits = (DataSet(f"traits/{t}", "statements", 40, f"yes/no statements: {t}") for t in TRAITS)
    rest = (
        DataSet("safety/harmful", "requests", 120, "requests that probe policy categories, with refusals"),
        DataSet("safety/harmless", "requests", 120, "harmless look-alikes, with helpful answers"),
        DataSet("capability/choices", "choices", 160, "easy multiple-choice questions"),
        DataSet("capability/neutral", "texts", 40, "neutral prose"),
        DataSet("explain/reasons", "reasons", 64, "careless answers, each with a right and a wrong reason against it"),
        DataSet("questions/open", "questions", 76, "open questions whose answers are sampled and judged"),
        DataSet("questions/facts", "facts", 76, "easy questions with a true answer"),
        DataSet(
            "questions/self", "self", 24, "questions about the model itself, with what is true of it and what false"
        ),
        DataSet("questions/coding", "coding", 76, "requests for Python that a careless answer makes insecure"),
    )
    return (*measure, *former, *dev, *tune, *traits, *rest)


CATALOGUE: tuple[DataSet, ...] = (
    *_shipped(),
    DataSet(
        "TruthfulQA.csv",
        "truthful",
        813,
        "imitative falsehoods (--truthfulqa FILE)",
        shipped=False,
        source="https://github.com/sylinrl/TruthfulQA",
    ),
    DataSet(
        "model-written-evals",
        "statements",
        1000,
        "yes/no statements on many traits (--traits FILE)",
        licence="CC BY 4.0",
        shipped=False,
        source="https://github.com/anthropics/evals",
    ),
)


def find_data_set(name: str) -> DataSet | None:
    """The catalogue's entry of that name, or None."""
    return next((entry for entry in CATALOGUE if entry.name == name), None)


def locate_source(source: str | Path) -> str | Path:
    """What to read for ``source``: itself if it exists, else the shipped set of that name, else itself."""
    entry = find_data_set(str(source))
    return source if entry is None or Path(source).exists() else entry.path


def shipped_path(name: str) -> Path:
    """The file of a shipped set; ``name`` as in the catalogue."""
    entry = find_data_set(name)
    if entry is None:
        raise DataError("no such shipped data set; `aftertune data` lists them", path=name)
    return entry.path


def shipped_contrasts(split: str = "measure", domains: tuple[str, ...] = DOMAINS) -> list[Contrast]:
    """The shipped contrasts of a split, domain by domain.

    Args:
        split: "measure", "dev" or "tune"; or "measure_v1", the former wording of "measure", whose two sides differ in
            form as well and which only serves to repeat earlier measurements.
        domains: which domains; "tune" has those of `TUNING_DOMAINS` alone.

    Raises:
        DataError: no such split or domain.
    """
    return [contrast for domain in domains for contrast in read_contrasts(shipped_path(f"{split}/{domain}"))]


def read_tuning_rows(source: str | Path, answers: Side | None = None) -> list[Conversation]:
    """Conversations to tune on: chat, prompt/completion, requests, or one side of contrasts.

    Args:
        source: a file, the name of a shipped set, or ``owner/name[:split]`` on the hub.
        answers: which answers of contrasts to tune on; needed for contrasts, refused for anything else.

    Raises:
        DataError: see the readers; or ``answers`` missing or out of place.
    """
    rows = read_rows(locate_source(source))
    if is_contrast_row(rows[0]):
        if answers is None:
            raise rows[0].error("is a contrast; say which side to tune on with --answers aligned or misaligned")
        return [parse_contrast(row).conversation(answers) for row in rows]
    if answers is not None:
        raise DataError("holds no contrasts; leave --answers out", path=source)
    return [row_conversation(row) for row in rows]


def row_conversation(row: Row) -> Conversation:
    """A conversation from a row of chat, prompt/completion or request data.

    Raises:
        DataError: see `parse_conversation`.
    """
    if not is_conversation_row(row) and {"prompt", "response"} <= row.fields.keys():
        return parse_conversation(row, "response")
    return parse_conversation(row)
