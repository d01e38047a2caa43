"""Keys and passwords are hidden; what only looks a little like one is kept, as commands must stay usable."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aftertune.runs import RunFolder, without_secrets
from aftertune.runs._secrets import command_without_secrets, values_without_secrets

RANDOM = "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7"
SECRETS = (
    f"hf_{RANDOM}aBcDeFg",
    f"sk-{RANDOM}",
    f"sk-proj-{RANDOM}_{RANDOM}",
    f"sk-ant-api03-{RANDOM}",
    f"ghp_{RANDOM}",
    f"github_pat_{RANDOM}",
    f"glpat-{RANDOM}",
    f"xoxb-123456-{RANDOM}",
    "AKIAIOSFODNN7EXAMPLE",
    f"AIzaSy{RANDOM}{RANDOM}",
    f"gsk_{RANDOM}",
    f"eyJhbGciOiJIUzI1NiJ9.{RANDOM}.{RANDOM}",
)
KEPT = (
    "smollm2", "owner/model@main", "runs/audit-1a2b3c4d", "task-model", "sk-learn", "hf_models/base", "risk-adapter", "stop_token=x",
    "max_tokens=5", "tokenizer=here", "keyword=one", "user@host", "a:b@c", "monkey=banana", "https://host/path?page=2",
    "preference.margin=0.1", "passwordless", "C:\\models", "/data/task-sk-tuned", "file.safetensors",
)  # fmt: skip


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("form", ["{}", "-T key={}", "the server said: {} is wrong", "https://host/{}/x", '"{}"'])
def test_a_key_of_a_known_form_is_hidden_wherever_it_stands(secret: str, form: str) -> None:
    shown = without_secrets(form.format(secret))
    assert RANDOM[:8] not in shown
    assert "EXAMPLE" not in shown
    assert "***" in shown


@pytest.mark.parametrize("text", KEPT)
def test_ordinary_text_is_kept(text: str) -> None:
    assert without_secrets(text) == text
    assert command_without_secrets([text]) == [text]
    assert values_without_secrets({"value": [text]}) == {"value": [text]}


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["-M", "api_key=two words"], ["-M", "api_key=***"]),
        (["--api-key", "open", "--out", "x"], ["--api-key", "***", "--out", "x"]),
        (["--api-key=open"], ["--api-key=***"]),
        (["--password", "--out"], ["--password", "***"]),
        (["OPENAI_API_KEY=open"], ["OPENAI_API_KEY=***"]),
        (["AWS_SECRET_ACCESS_KEY=open"], ["AWS_SECRET_ACCESS_KEY=***"]),
        (["-T", "HF_TOKEN=open"], ["-T", "HF_TOKEN=***"]),
        (["https://me:open@host/a"], ["https://***@host/a"]),
        (["https://open@host/a"], ["https://***@host/a"]),
        (["https://host/a?token=open&b=1"], ["https://host/a?token=***&b=1"]),
        (["{'api_key': 'open', 'n': 1}"], ["{'api_key': ***, 'n': 1}"]),
        (["Authorization: Bearer opensesame"], ["Authorization: *** ***"]),
    ],
)  # fmt: skip
def test_a_value_under_a_telling_name_is_hidden(arguments: list[str], shown: list[str]) -> None:
    found = command_without_secrets(arguments)
    assert "open" not in " ".join(found)
    if "Bearer" not in arguments[0]:
        assert found == shown


def test_a_manifest_holds_no_key_and_different_names_stay_different(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = SECRETS[1]
    monkeypatch.setattr("sys.argv", ["aftertune", "audit", "x", "-T", f"api_key={key}", "--grader", f"p/{key}"])
    run = RunFolder(tmp_path / "run", "audit", {"tasks": {"args": {"api_key": key}, "graders": [f"p/{key}"]}})
    with run.locked():
        pass
    text = (tmp_path / "run" / "manifest.json").read_text("utf-8")
    assert RANDOM[:8] not in text
    assert json.loads(text)["command"] == "aftertune audit x -T 'api_key=***' --grader 'p/***'"
    # The same again is the same run, though its manifest does not say what the key was.
    again = RunFolder(tmp_path / "run", "audit", {"tasks": {"args": {"api_key": "new"}, "graders": [f"p/{key}"]}})
    with again.locked():
        pass
    folders = [RunFolder(tmp_path, "audit", {"spec": f"sk-{RANDOM}-{n}"}).config for n in range(20)]
    assert len({json.dumps(config) for config in folders}) == 20
