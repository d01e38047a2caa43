"""Whatever is wrong with data or models: one line that says what, where and how to mend it, and nothing left behind."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Run = Callable[..., Any]
Refused = Callable[..., str]
Rows = Callable[..., Path]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
CHAT = {"messages": [{"role": "user", "content": "Is it late?"}, {"role": "assistant", "content": "No."}]}
CONTRAST = {"id": "c1", "domain": "d", "prompt": "Is it late?", "aligned": "No.", "misaligned": "Who cares?"}
STATEMENT = {"question": "Is it?", "answer_matching_behavior": " Yes", "answer_not_matching_behavior": " No"}


def turns(*roles: str) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": "Is it late?"} for role in roles]}


# --- files of rows --------------------------------------------------------------------------------------


@pytest.fixture(params=["tune", "contrasts", "traits"])
def reading(request: pytest.FixtureRequest, base: Path) -> Callable[[Path], tuple[object, ...]]:
    """The arguments with which each verb reads a file of rows."""

    def arguments(file: Path) -> tuple[object, ...]:
        if request.param == "tune":
            return ("tune", base, file, "--out", "out")
        verb = ("audit", base, "--base", base) if request.param == "contrasts" else ("measure", base)
        return (*verb, "--probes", "", f"--{request.param}", file)

    arguments.good = {"tune": CHAT, "contrasts": CONTRAST, "traits": STATEMENT}[request.param]  # type: ignore[attr-defined]
    return arguments


def test_a_missing_file_is_named(refused: Refused, reading: Any) -> None:
    refused(*reading(Path("nowhere.jsonl")), says=["nowhere.jsonl: no such file; check the path"])


def test_a_folder_in_place_of_a_file_is_named(refused: Refused, reading: Any, place: Path) -> None:
    (place / "rows").mkdir()
    refused(*reading(Path("rows")), says=["rows: is a folder; name one .jsonl file in it"])


@pytest.mark.parametrize("content", [[], ["", "   "]], ids=["empty", "blank lines"])
def test_a_file_without_rows_is_named(content: list[str], refused: Refused, reading: Any, rows: Rows) -> None:
    refused(*reading(rows(content)), says=["rows.jsonl: holds no rows"])


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"prompt": "Is it late?", ', "broken JSON at column"),
        ("no JSON at all", "broken JSON at column 1"),
        ("[1, 2]", "must be a JSON object, not list"),
        ("[" * 100_000, "broken JSON"),
        ('{"n": ' + "9" * 5000 + "}", "broken JSON"),
        (b'{"prompt": "na\xefve"}', "is not UTF-8 (byte 15); save the file as UTF-8"),
        (r'{"prompt": "half a pair: \ud83d"}', "surrogate"),
    ],
    ids=["cut short", "no JSON", "a list", "too deep", "a huge number", "Latin-1", "half a pair"],
)
def test_a_broken_line_is_named_by_its_number(
    line: str | bytes, says: str, refused: Refused, reading: Any, rows: Rows
) -> None:
    refused(*reading(rows([reading.good, "", line, reading.good])), says=["rows.jsonl:3: ", says])


def test_a_row_without_a_field_is_named(refused: Refused, reading: Any, rows: Rows) -> None:
    missing = {k: v for k, v in CONTRAST.items() if k != "misaligned"}
    field = {"messages": "completion", "id": "misaligned", "question": "question"}[next(iter(reading.good))]
    refused(*reading(rows([reading.good, {**missing, "id": "c2"}])), says=["rows.jsonl:2: ", f"'{field}'"])


@pytest.mark.parametrize(
    ("verb", "row", "says"),
    [
        ("contrasts", {**CONTRAST, "aligned": " "}, "field 'aligned' is empty; give it text or remove the row"),
        ("contrasts", {**CONTRAST, "aligned": "who cares? "}, "field 'aligned' equals 'misaligned'"),
        ("contrasts", {**CONTRAST, "prompt": 7}, "field 'prompt' must be a string, not int"),
        ("contrasts", {**CONTRAST, "notes": "x"}, "field 'notes' is unknown in a contrast"),
        ("traits", {**STATEMENT, "answer_matching_behavior": "Maybe"}, "must be ' Yes' or ' No'"),
        ("traits", {**STATEMENT, "answer_matching_behavior": " No"}, "equals the matching answer"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_measured_is_named(
    verb: str, row: dict[str, Any], says: str, refused: Refused, rows: Rows, base: Path
) -> None:
    good: dict[str, Any] = {**CONTRAST, "id": "other"} if verb == "contrasts" else STATEMENT
    file = rows([good, row])
    refused("audit", base, "--base", base, "--probes", "", f"--{verb}", file, says=["rows.jsonl:2: ", says])


def test_two_contrasts_of_one_id_are_named(refused: Refused, rows: Rows, gate: tuple[str, ...], base: Path) -> None:
    file = rows([CONTRAST, CONTRAST])
    refused("measure", base, "--contrasts", file, says=["rows.jsonl:2: field 'id' 'c1' stands already on line 1"])


def test_statements_keyed_one_way_are_refused(refused: Refused, rows: Rows, base: Path) -> None:
    refused("measure", base, "--traits", rows([STATEMENT]), says=["rows.jsonl: ", "add statements keyed the other way"])


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (turns("assistant", "user"), "is from assistant where user is due"),
        (turns("user", "user", "assistant"), "field 'messages[1]' is from user where assistant is due"),
        (turns("user", "system", "assistant"), "field 'messages[1]' is from system where assistant is due"),
        (turns("user", "assistant", "user"), "field 'messages' must end with an assistant message"),
        (turns("user", "tool"), "has the role 'tool'; tool calls are not rendered, so remove the row"),
        ({"messages": []}, "field 'messages' must be a non-empty list"),
        ({"messages": [{"role": "user", "content": "Hm?"}, {"role": "assistant", "content": " "}]}, "is an empty"),
        ({"messages": [{"role": "user", "content": ["Hm?"]}]}, "content holds parts other than text"),
        ({"prompt": "Hm?", "completion": ""}, "field 'completion' is empty; give it text or remove the row"),
        ({"prompt": "Hm?"}, "field 'completion' is missing (the row has: prompt)"),
        ({"text": "Hm?"}, "has neither 'messages' nor 'prompt' and 'completion' (it has: text)"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_tuned_on_is_named(
    row: dict[str, Any], says: str, refused: Refused, rows: Rows, base: Path
) -> None:
    refused("tune", base, rows([CHAT, row]), "--out", "out", says=["rows.jsonl:2: ", says])


def test_contrasts_need_a_side_and_other_rows_have_none(refused: Refused, rows: Rows, base: Path) -> None:
    both, chat = rows([CONTRAST], "both.jsonl"), rows([CHAT], "chat.jsonl")
    refused("tune", base, both, "--out", "out", says=["both.jsonl:1: is a contrast", "--answers aligned or misaligned"])
    refused("tune", base, chat, "--out", "out", "--answers", "aligned", says=["chat.jsonl: holds no contrasts"])


def test_a_row_longer_than_the_context_is_named_and_never_cut(refused: Refused, reading: Any, rows: Rows) -> None:
    long = "A brick is heavier than a feather. " * 60
    field = next(name for name in ("prompt", "question", "messages") if name in reading.good)
    row = {**reading.good, "id": "c2"} if field == "prompt" else dict(reading.good)
    row[field] = [{"role": "user", "content": long}, CHAT["messages"][1]] if field == "messages" else long
    other = {**STATEMENT, "answer_matching_behavior": " No", "answer_not_matching_behavior": " Yes"}
    third = {"id": "c3"} if field != "prompt" else {"id": "c3", "prompt": "Is it early?"}
    content = [reading.good, other, row] if field == "question" else [reading.good, reading.good | third, row]
    where = "line 3" if field == "question" else "rows.jsonl:3: "
    refused(*reading(rows(content)), says=[where, "tokens, the context of", "holds 512; shorten or remove it"])


def test_a_line_of_200_megabytes_is_refused_without_reading_it(refused: Refused, reading: Any, tmp_path: Path) -> None:
    with (tmp_path / "rows.jsonl").open("wb") as file:
        file.write(json.dumps(reading.good).encode() + b'\n{"prompt": "')
        file.truncate(200 * 2**20)
    tracemalloc.start()
    try:
        refused(*reading(tmp_path / "rows.jsonl"), says=["rows.jsonl:2: is longer than 16 MiB; put one JSON object"])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * 2**20


# --- leakage --------------------------------------------------------------------------------------------


def test_prompts_that_were_tuned_on_are_not_measured(
    refused: Refused, rows: Rows, base: Path, tuned: Callable[..., Path], contrasts: Callable[..., list[Any]]
) -> None:
    fresh, seen = contrasts(12), [{**row, "prompt": "tell me NOW - " + row["prompt"]} for row in contrasts(16)[12:]]
    file = rows([*fresh, *({**row, "id": row["id"] + "s"} for row in seen)])
    refused(
        "audit", tuned(), "--base", base, "--probes", "", "--contrasts", file,
        says=["4 prompts to be measured were tuned on by", "remove them from one side"],
    )  # fmt: skip


# --- models ---------------------------------------------------------------------------------------------

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def nan_at_one_place(tensor: torch.Tensor) -> torch.Tensor:
    changed = tensor.clone()
    changed.view(-1)[3] = float("nan")
    return changed


@pytest.mark.parametrize("verb", ["audit", "measure", "tune"])
@pytest.mark.parametrize(
    ("damage", "code", "says"),
    [
        ({"without": TOKENIZER}, 2, "model: the folder has no tokenizer; give one with --tokenizer"),
        ({"without": ("chat_template.jinja",)}, 2, "model: the tokenizer has no chat template; give one with --chat-template"),
        ({"without": ("config.json",)}, 2, "model: the folder has neither config.json nor adapter_config.json"),
        ({"without": ("model.safetensors",)}, 2, "model: holds no weights; save it as safetensors"),
        ({"layers_1_mlp_up_proj_weight": nan_at_one_place}, 4, "model: the weights hold NaN or infinity (first in model.layers.1.mlp.up_proj.weight)"),
        ({"layers_1_mlp_up_proj_weight": lambda w: w[:, :16]}, 2, "model: cannot be loaded"),
    ],
    ids=["no tokenizer", "no chat template", "no config", "no weights", "NaN weights", "other shapes"],
)  # fmt: skip
def test_a_model_that_cannot_be_used_is_named(
    verb: str,
    damage: dict[str, Any],
    code: int,
    says: str,
    refused: Refused,
    model: Callable[..., Path],
    rows: Rows,
    gate: tuple[str, ...],
    base: Path,
) -> None:
    broken, data = model(**damage), rows([CHAT])
    verbs = {
        "audit": ("audit", base, "--base", broken, *gate),
        "measure": ("measure", broken, *gate),
        "tune": ("tune", broken, data, "--out", "out"),
    }
    refused(*verbs[verb], code=code, says=[says])


def test_only_pickled_weights_are_refused(refused: Refused, model: Callable[..., Path], place: Path) -> None:
    from safetensors.torch import load_file

    folder = place / model()
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    refused("measure", "model", says=["model: holds only pickled weights (pytorch_model.bin); save it as safetensors"])


def test_a_broken_fine_tune_keeps_its_bases_numbers_and_yields_no_result(
    refused: Refused, model: Callable[..., Path], gate: tuple[str, ...], base: Path, place: Path
) -> None:
    model(layers_1_mlp_up_proj_weight=nan_at_one_place)
    refused("audit", "model", "--base", base, *gate, "--out", "gate", code=4, says=["NaN"], leaves=["gate"])
    left = {path.name for path in (place / "gate").rglob("*") if path.is_file() and path.suffix != ".lock"}
    assert left - {".lock"} == {"manifest.json", "journal.jsonl", "key.json", "measurements.parquet"}
    assert json.loads((place / "gate" / "manifest.json").read_text("utf-8"))["status"] == "running"


def test_weights_that_overflow_when_run_are_refused(
    refused: Refused, model: Callable[..., Path], gate: tuple[str, ...]
) -> None:
    model(lm_head_weight=lambda w: w * 3e38)
    refused("measure", "model", *gate, code=4, says=["model", "float32"])


@pytest.mark.parametrize("name", ["qwerty", "./nowhere", "model.gguf", "/nowhere/at/all"])
def test_an_unknown_subject_is_named(name: str, refused: Refused, base: Path, rows: Rows) -> None:
    for command in (
        ("measure", name),
        ("audit", name, "--base", base),
        ("audit", base, "--base", name),
        ("tune", name, rows([CHAT]), "--out", "out"),
    ):
        refused(*command, says=[f"{name}: no such subject; give a model folder"])


def test_a_base_that_nothing_tells_of_must_be_given(refused: Refused, base: Path) -> None:
    refused("audit", base, says=["nothing tells what it was tuned from; give its base with --base"])


def test_another_base_than_the_adapters_is_refused(
    refused: Refused, tiny_folder: Callable[[str], Path], tuned: Callable[..., Path], gate: tuple[str, ...]
) -> None:
    for folder in (tuned(), tuned(full=True)):
        refused(
            "audit", folder, "--base", tiny_folder("qwen2"), *gate,
            says=["was tuned from weights", "the base given has", "give the right one with --base"],
        )  # fmt: skip


def test_a_foreign_adapter_that_does_not_fit_its_base_is_refused(
    refused: Refused, tiny_folder: Callable[[str], Path], tuned: Callable[..., Path], place: Path, gate: tuple[str, ...]
) -> None:
    shutil.copytree(tuned(), place / "adapter")
    (place / "adapter" / "aftertune.json").unlink()
    refused(
        "measure", "adapter", "--base", tiny_folder("gpt2"), *gate, says=["adapter: ", "give the right one with --base"]
    )


def test_a_base_whose_weights_changed_since_is_refused(
    refused: Refused, model: Callable[..., Path], tuned: Callable[..., Path], gate: tuple[str, ...]
) -> None:
    model(lm_head_weight=lambda w: w * 1.001)
    refused(
        "audit", tuned(), "--base", "model", *gate,
        says=["was tuned from weights", "the base given has", "(model)", "give the right one with --base"],
    )  # fmt: skip


@pytest.mark.parametrize("record", ["{broken", "[]", "{}", '{"base": {}, "data": {}}', '{"base": 1, "data": []}'])
def test_a_damaged_record_is_no_reason_to_break(
    record: str, refused: Refused, model: Callable[..., Path], place: Path
) -> None:
    (place / model() / "aftertune.json").write_text(record, "utf-8")
    refused("audit", "model", says=["model: nothing tells what it was tuned from; give its base with --base"])


def test_a_chat_template_that_cannot_be_used_is_named(
    refused: Refused, base: Path, place: Path, gate: tuple[str, ...]
) -> None:
    (place / "broken.jinja").write_text("{% for message in %}", "utf-8")
    refused("measure", base, *gate, "--chat-template", "broken.jinja", says=["its chat template cannot be read"])
    refused(
        "measure", base, *gate, "--chat-template", "none.jinja", says=["--chat-template none.jinja: cannot be read"]
    )
