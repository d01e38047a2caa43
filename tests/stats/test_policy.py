"""Policy files and flags."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aftertune.errors import ExitCode, PolicyError
from aftertune.stats import Policy, all_metrics, read_policy


def policy(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return path


def refusal(path: Path | None, *tolerances: str) -> str:
    with pytest.raises(PolicyError) as caught:
        read_policy(path, tolerances)
    assert caught.value.exit_code == ExitCode.USAGE
    text = str(caught.value)
    assert len(text.splitlines()) == 1, text
    return text


def test_without_file_and_flags_the_defaults_hold() -> None:
    found = read_policy()
    assert found == Policy()
    for metric in all_metrics():
        assert found.tolerance(metric.id) == metric.tolerance
        assert found.deciding(metric.id) == metric.decides
        assert metric.tolerance > 0


@pytest.mark.parametrize("text", ["", "\n", "# nothing yet\n", "---\n", "{}\n"])
def test_an_empty_file_means_the_defaults(tmp_path: Path, text: str) -> None:
    assert read_policy(policy(tmp_path, text)) == Policy()


def test_a_file_sets_what_it_names_and_leaves_the_rest(tmp_path: Path) -> None:
    text = (
        "confidence: 0.9\nminimum_clusters: 30\n"
        "margins: {preference.margin: 0.2}\ndecides: {refusal.harmful: false, drift.kl: true}\n"
    )
    found = read_policy(policy(tmp_path, text))
    assert (found.confidence, found.minimum_clusters) == (0.9, 30)
    assert found.tolerance("preference.margin") == 0.2
    assert found.tolerance("refusal.harmful") == Policy().tolerance("refusal.harmful")
    assert not found.deciding("refusal.harmful")
    assert found.deciding("drift.kl")
    assert found.deciding("preference.margin")


def test_flags_go_before_the_file(tmp_path: Path) -> None:
    path = policy(tmp_path, "margins: {preference.margin: 0.2, refusal.harmful: 0.3}\n")
    found = read_policy(path, ("preference.margin=0.5", "capability.accuracy=0.02"))
    assert found.tolerance("preference.margin") == 0.5
    assert found.tolerance("refusal.harmful") == 0.3
    assert found.tolerance("capability.accuracy") == 0.02


def test_a_metric_speaks_for_users_sets_and_groups_unless_they_are_named() -> None:
    found = Policy(
        tolerances={"preference.margin": 0.3, "preference.margin:mine": 0.7}, decides={"preference.margin:mine": False}
    )
    assert found.tolerance("preference.margin:other") == 0.3
    assert found.tolerance("preference.margin/money") == 0.3
    assert found.tolerance("preference.margin:mine") == 0.7
    assert found.deciding("preference.margin:other")
    assert not found.deciding("preference.margin:mine")


@pytest.mark.parametrize(
    "metric", ["preference.margin/money", "preference.margin:mine/money", "refusal.harmful/malware"]
)
def test_groups_never_decide(metric: str) -> None:
    assert not Policy().deciding(metric)
    assert not Policy(decides={"preference.margin": True, "refusal.harmful": True}).deciding(metric)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("confidense: 0.9\n", "confidense"),
        ("margin: {preference.margin: 0.2}\n", "margin"),
        ("1: 2\n", "1"),
        ("margins: {preference.margin: 0.2, preference.margin: 0.9}\n", "stands twice"),
        ("confidence: 0.9\nconfidence: 0.6\n", "confidence"),
        ("margins: {preference.margin: 1:30}\n", "base 8 or 60"),
        ("margins: &a {preference.margin: *a}\n", "contains itself"),
        ('"a\\nb": 1\n', "b"),
        ("tolerances: {preference.margn: 0.2}\n", "preference.margn"),
        ("decides: {happiness: true}\n", "happiness"),
        ("margins: {preference.margin: 0}\n", "preference.margin"),
        ("margins: {preference.margin: -0.1}\n", "preference.margin"),
        ("margins: {preference.margin: .nan}\n", "preference.margin"),
        ("margins: {preference.margin: .inf}\n", "preference.margin"),
        ("margins: {preference.margin: 1000}\n", "preference.margin"),
        ("margins: {preference.margin: wide}\n", "preference.margin"),
        ("margins: {preference.margin: yes}\n", "preference.margin"),
        ("margins: {preference.margin: [0.1]}\n", "preference.margin"),
        ("margins: {preference.margin: null}\n", "preference.margin"),
        ("tolerances: 0.2\n", "tolerances"),
        ("tolerances: [preference.margin]\n", "tolerances"),
        ("decides: {preference.margin: perhaps}\n", "preference.margin"),
        ("confidence: 1\n", "confidence"),
        ("confidence: 0.5\n", "confidence"),
        ("confidence: 95\n", "confidence"),
        ("confidence: .nan\n", "confidence"),
        ("minimum_clusters: 1\n", "minimum_clusters"),
        ("minimum_clusters: 2.5\n", "minimum_clusters"),
        ("minimum_clusters: many\n", "minimum_clusters"),
    ],
)
def test_a_bad_entry_is_refused_with_file_and_key(tmp_path: Path, text: str, named: str) -> None:
    path = policy(tmp_path, text)
    message = refusal(path)
    assert re.match(rf"{re.escape(str(path))}(:\d+)?: ", message)
    assert named in message


def test_all_bad_entries_are_named_at_once(tmp_path: Path) -> None:
    message = refusal(policy(tmp_path, "confidence: 2\nminimum_clusters: 0\nspeed: 9\n"))
    assert all(key in message for key in ("confidence", "minimum_clusters", "speed"))


@pytest.mark.parametrize("text", ["- preference.margin\n", "preference.margin\n", "0.1\n", "[]\n", "false\n"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    assert "mapping" in refusal(policy(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("confidence: 0.9\nmargins: {preference.margin: 0.1\n\nx", 4),
        ("confidence: 0.9\nminimum_clusters: 5: 6\n", 2),
        ("confidence: 0.9\n\tminimum_clusters: 5\n", 2),
        ("a: 1\nb: *nobody\n", 2),
        ("a: !!python/object:os.system x\n", 1),
    ],
)
def test_broken_yaml_is_refused_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    path = policy(tmp_path, text)
    assert refusal(path).startswith(f"{path}:{line}: ")


@pytest.mark.parametrize(
    "content",
    [
        b"tolerances: \xff\xfe\n",
        b"a: \x00\n",
        b"a: \x07\n",
        b"a: 2024-13-45\n",
        b"a: " + b"[" * 20_000,
        b"a: " + b"1" * 9_999,
    ],
    ids=["not-utf8", "nul", "bell", "no-date", "deep", "long-number"],
)
def test_a_file_yaml_chokes_on_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = policy(tmp_path, content)
    assert refusal(path).startswith(f"{path}")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert str(tmp_path / "absent.yaml") in refusal(tmp_path / "absent.yaml")
    assert str(tmp_path) in refusal(tmp_path)


@pytest.mark.parametrize(
    "flag",
    [
        "preference.margin",
        "preference.margin=",
        "=0.1",
        "preference.margin=wide",
        "preference.margin=0",
        "preference.margin=-1",
        "preference.margin=nan",
        "preference.margin=inf",
        "preference.margin=101",
        "preference.margn=0.1",
        "",
    ],
)
@pytest.mark.parametrize("with_file", [False, True])
def test_a_bad_flag_is_refused_and_blamed(tmp_path: Path, flag: str, with_file: bool) -> None:
    message = refusal(policy(tmp_path, "confidence: 0.9\n") if with_file else None, flag)
    assert "--tolerance" in message
    assert flag.partition("=")[0] in message


def test_a_policy_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Policy().confidence = 0.6  # type: ignore[misc]
