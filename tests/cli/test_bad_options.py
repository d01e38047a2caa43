"""Whatever is wrong with options, policies or verbs: told in one line, before a model is loaded."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Refused = Callable[..., str]
Rows = Callable[..., Path]

ROW = {"prompt": "Is it late?", "completion": "No."}


# --- verbs and options ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("adit", ["adit: no such verb; did you mean 'audit'?"]),
        ("xyzzy", ["xyzzy: no such verb; see aftertune --help"]),
        ("--nonsense", ["No such option", "--nonsense", "see aftertune --help"]),
        ("audit --nonsense x", ["No such option", "--nonsense", "see aftertune audit --help"]),
        ("audit", ["Missing argument 'TUNED'", "see aftertune audit --help"]),
        ("measure a b", ["unexpected extra argument (b)", "see aftertune measure --help"]),
        ("tune a b", ["Missing option '--out'", "see aftertune tune --help"]),
        ("audit a --tolerance", ["'--tolerance' requires an argument"]),
        ("locate a", ["Missing option '--harm'", "see aftertune locate --help"]),
        ("patch mend a", ["No such command 'mend'", "see aftertune patch --help"]),
        ("report", ["Missing argument 'RUN'"]),
        ("demo --seed -1", ["'--seed'", "-1"]),
        ("demo --steps 0", ["'--steps'", "0"]),
    ],
)
def test_what_cannot_be_understood_is_told_in_one_line(arguments: str, says: list[str], refused: Refused) -> None:
    refused(*shlex.split(arguments), says=says)


def test_nothing_at_all_gets_the_help_and_is_no_success(run: Callable[..., Any]) -> None:
    outcome = run()
    assert (outcome.code, outcome.out) == (2, "")
    assert "Decide:" in outcome.err


@pytest.mark.parametrize("verb", ["audit", "measure"])
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--probes preferences", ["probe 'preferences' is unknown; known are preference, traits, refusal"]),
        ("--probes response", ["the probe response needs rows of yours; call response_nll"]),
        ("--probes ''", ["nothing is left to measure; name at least one probe"]),
        ("--probes truthful", ["the probe truthful needs TruthfulQA.csv; give it with --truthfulqa FILE"]),
        ("--probes truthful --truthfulqa none.csv", ["none.csv: ", "TruthfulQA"]),
        ("--domains money,cooking", ["domain 'cooking' is unknown; known are money, health"]),
        ("--exclude-domain cooking", ["--exclude-domain cooking: no such domain; known are money, health"]),
        ("--split train", ["Invalid value for '--split': 'train' is not one of 'measure', 'dev', 'measure_v1'"]),
        ("--display loud", ["Invalid value for '--display': 'loud' is not one of"]),
        ("--device gpu9", ["device 'gpu9' cannot be used here", "try --device cpu"]),
        ("--dtype int8", ["dtype 'int8' is unknown; choose float32, bfloat16, float16"]),
        ("--max-batch-tokens 0", ["max batch tokens must be positive, not 0"]),
        ("--max-batch-tokens -512", ["max batch tokens must be positive, not -512"]),
        ("--max-batch-tokens many", ["'--max-batch-tokens': 'many' is not a valid integer"]),
    ],
)
def test_a_wrong_value_of_measuring_is_named(
    verb: str, options: str, says: list[str], refused: Refused, base: Path
) -> None:
    subjects = (base, "--base", base) if verb == "audit" else (base,)
    refused(verb, *subjects, *shlex.split(options), says=says)


def test_drift_alone_cannot_be_measured_without_a_base(refused: Refused, base: Path) -> None:
    refused("measure", base, "--probes", "drift", says=["drift needs a base model", "name another probe"])


def test_two_files_of_one_stem_are_refused(refused: Refused, rows: Rows, base: Path, place: Path) -> None:
    (place / "more").mkdir()
    contrast = {"id": "c1", "domain": "d", "prompt": "Late?", "aligned": "No.", "misaligned": "So what?"}
    first, second = rows([contrast], "mine.jsonl"), rows([contrast], "more/mine.jsonl")
    refused(
        "measure", base, "--contrasts", first, "--contrasts", second,
        says=["--contrasts more/mine.jsonl: its metrics would be called 'mine' as those of mine.jsonl; rename one"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--steps 5 --epochs 1", ["give steps or epochs, not both"]),
        ("--steps 0", ["--steps: "]),
        ("--steps few", ["'--steps': 'few' is not a valid integer"]),
        ("--epochs 0", ["--epochs: "]),
        ("--epochs nan", ["--epochs: "]),
        ("--batch-size 0", ["--batch-size: "]),
        ("--micro-batch-size 0", ["--micro-batch-size: "]),
        ("--batch-size 8 --micro-batch-size 3", ["batch size 8 is no multiple of micro batch size 3"]),
        ("--micro-batch-size 32", ["batch size 16 is no multiple of micro batch size 32"]),
        ("--seed -1", ["--seed: "]),
        ("--seed 99999999999", ["--seed: "]),
        ("--lr 0", ["--lr: "]),
        ("--lr inf", ["--lr: "]),
        ("--lora-rank 0", ["--lora-rank: "]),
        ("--lora-alpha -1", ["--lora-alpha: "]),
        ("--lora-alpha nan", ["--lora-alpha: "]),
        ("--warmup-steps -1", ["--warmup-steps: "]),
        ("--weight-decay -0.1", ["--weight-decay: "]),
        ("--answers both", ["Invalid value for '--answers': 'both' is not one of 'aligned', 'misaligned'"]),
        ("--device gpu9", ["device 'gpu9' cannot be used here", "try --device cpu"]),
        ("--dtype int8", ["dtype 'int8' is unknown"]),
    ],
)  # fmt: skip
def test_a_wrong_value_of_tuning_is_named(
    options: str, says: list[str], refused: Refused, rows: Rows, base: Path
) -> None:
    refused("tune", base, rows([ROW]), "--out", "out", *shlex.split(options), says=says)


# --- policies -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("margin", "says"),
    [
        ("preference.margin=-0.1", "tolerances.preference.margin: Input should be greater than 0"),
        ("preference.margin=0", "tolerances.preference.margin: Input should be greater than 0"),
        ("preference.margin=1e9", "tolerances.preference.margin: Input should be less than or equal to 100"),
        ("preference.margin=nan", "tolerances.preference.margin: Input should be a finite number"),
        ("preference.margin=inf", "tolerances.preference.margin: Input should be"),
        ("preference.margin=much", "must be METRIC=NUMBER, such as preference.margin=0.1"),
        ("preference.margin", "must be METRIC=NUMBER, such as preference.margin=0.1"),
        ("=0.1", "must be METRIC=NUMBER, such as preference.margin=0.1"),
        ("preference=0.1", "metric 'preference' is unknown; did you mean preference.share"),
        ("\x1b[31mred=0.1", "metric '\\x1b[31mred' is unknown"),
    ],
)  # fmt: skip
def test_a_margin_that_makes_no_sense_is_named(margin: str, says: str, refused: Refused, base: Path) -> None:
    line = refused("audit", base, "--base", base, "--tolerance", margin, says=["--tolerance", says])
    assert line.isprintable()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"marginz:\n  preference.margin: 0.1\n", "policy.yaml: marginz: Extra inputs are not permitted"),
        (b"margins:\n  preference.marginn: 0.1\n", "policy.yaml: tolerances: metric 'preference.marginn' is unknown"),
        (b"margins:\n  preference.margin: much\n", "policy.yaml: tolerances.preference.margin: Input should be a valid number"),
        (b"margins:\n  preference.margin: [0.1]\n", "policy.yaml: tolerances.preference.margin: Input should be"),
        (b"tolerances: 0.1\n", "policy.yaml: tolerances: Input should be a valid dictionary"),
        (b"margins:\n  1: 0.1\n", "policy.yaml:2: the key '1' is no text but int to YAML; put it in quotes"),
        (b"decides:\n  preference.margin: perhaps\n", "policy.yaml: decides.preference.margin: Input should be a valid boolean"),
        (b"confidence: 1.5\n", "policy.yaml: confidence: Input should be less than 1"),
        (b"minimum_clusters: 1\n", "policy.yaml: minimum_clusters: Input should be greater than or equal to 2"),
        (b"minimum_clusters: 2.5\n", "policy.yaml: minimum_clusters: Input should be"),
        (b"- margins\n", "policy.yaml: must hold a mapping, not list"),
        (b"margins:\n\tpreference.margin: 0.1\n", "policy.yaml:2: broken YAML"),
        (b"margins: {preference.margin: 0.1\n", "policy.yaml:2: broken YAML"),
        (b"confidence: !!python/object/apply:os.getpid []\n", "policy.yaml:1: broken YAML"),
        (b"confidence: \xff\n", "policy.yaml:1: is not UTF-8 (byte 13); save the file as UTF-8"),
        (b"confidence: \x00\n", "policy.yaml:1: holds zero bytes, so it is no text"),
        (b"[" * 5_000, "policy.yaml: broken YAML"),
        (b"confidence: 2026-13-45\n", "policy.yaml"),
        (b"? [a]\n: 1\n", "policy.yaml"),
    ],
)  # fmt: skip
def test_a_policy_that_makes_no_sense_is_named(
    text: bytes, says: str, refused: Refused, base: Path, place: Path
) -> None:
    (place / "policy.yaml").write_bytes(text)
    refused("audit", base, "--base", base, "--policy", "policy.yaml", says=[says])


def test_a_policy_that_is_not_there_is_named(refused: Refused, base: Path, place: Path) -> None:
    refused("audit", base, "--base", base, "--policy", "none.yaml", says=["none.yaml: no such file"])
    refused("audit", base, "--base", base, "--policy", place, says=[f"{place}: cannot be read, as it is a folder"])


# --- what it costs --------------------------------------------------------------------------------------


def test_typos_are_told_without_loading_torch(place: Path) -> None:
    (place / "rows.jsonl").write_text('{"prompt": "Late?", "completion": "No."}\n', "utf-8")
    commands = (
        ["adit"],
        ["audit", "smollm2", "--nonsense"],
        ["audit", "smollm2", "--tolerance", "preference.margin=much"],
        ["measure", "smollm2", "--probes", "preferences"],
        ["tune", "smollm2", "rows.jsonl", "--out", "out", "--steps", "0"],
        ["tune", "smollm2", "none.jsonl", "--out", "out"],
        ["locate", "smollm2", "--harm", "none.jsonl"],
        ["locate", "smollm2", "--harm", "rows.jsonl", "--prune-fraction", "2"],
        ["locate", "smollm2", "--harm", "rows.jsonl"],
        ["locate", "smollm2", "--harm", "rows.jsonl", "--task", "rows.jsonl"],
        ["report", "nowhere"],
    )
    script = """
import sys
from aftertune.cli import main
for command in eval(sys.argv[1]):
    sys.argv[1:] = command
    try:
        main()
    except SystemExit as ended:
        assert ended.code == 2, command
    assert not {"torch", "transformers", "trl"} & sys.modules.keys(), command
"""
    done = subprocess.run([sys.executable, "-c", script, repr(commands)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == len(commands)
