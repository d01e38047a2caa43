"""What is asked of a subject: the shipped sets of requests, or a file in the form of a public benchmark."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from inspect_ai.model import ChatMessage, ChatMessageAssistant, ChatMessageSystem, ChatMessageUser

from aftertune.data import (
    Message,
    Row,
    read_cells,
    read_conversations,
    read_requests,
    read_rows,
    refuse_doubled,
    shipped_path,
    under_header,
)
from aftertune.errors import DataError

SHIPPED = "safety"
OWN = "own"
MAX_NAME = 200
Label = Literal["safe", "unsafe"]

# Columns of AdvBench and JailbreakBench (goal), HarmBench (Behavior), StrongREJECT (forbidden_prompt), XSTest and ours
# (prompt). JailbreakBench has a Behavior, too, which is a name: the first that is there counts.
_TEXTS = ("forbidden_prompt", "goal", "behavior", "instruction", "prompt")
_CATEGORIES = ("semanticcategory", "category", "type")
_IDS = ("id", "behaviorid")
_CONTEXT = "contextstring"

# Who says which requests are safe: XSTest, WildGuardMix and others. XSTest's unsafe types begin with "contrast_".
_LABELS = ("label", "prompt_harm_label", "prompt_label", "safety_label")
_SAID: dict[str, Label] = {
    **dict.fromkeys(("safe", "harmless", "unharmful", "benign"), "safe"),
    **dict.fromkeys(("unsafe", "harmful"), "unsafe"),
}
_CONTRAST = "contrast_"
# What is part of a request in other sets: instruction and input, turns before it, pictures.
_BESIDE = ("input", "context", "history", "turns", "messages", "conversation", "system", "system_prompt",
           "image", "images", "imagefilename", "image_path")  # fmt: skip

# HEx-PHI is files without a header, one for each category of its policy (Qi et al. 2023); names as in our own set.
_HEX_PHI = re.compile(r"category_(\d+)\.csv")
_HEX_PHI_CATEGORIES = (
    "illegal_activity",
    "child_abuse",
    "hate_and_harassment",
    "malware",
    "physical_harm",
    "economic_harm",
    "fraud_and_deception",
    "adult_content",
    "political_manipulation",
    "privacy_violation",
    "unqualified_advice",
)

_FETCH = {
    "advbench": "fetch data/advbench/harmful_behaviors.csv (MIT) from https://github.com/llm-attacks/llm-attacks",
    "strongreject": "fetch strongreject_dataset/strongreject_dataset.csv (MIT) from "
    "https://github.com/alexandrasouly/strongreject",
    "harmbench": "fetch data/behavior_datasets/harmbench_behaviors_text_all.csv (MIT) from "
    "https://github.com/centerforaisafety/HarmBench",
    "jailbreakbench": "fetch data/harmful-behaviors.csv (MIT) from "
    "https://huggingface.co/datasets/JailbreakBench/JBB-Behaviors",
    "hexphi": "ask for access at https://huggingface.co/datasets/LLM-Tuning-Safety/HEx-PHI, fetch its category_N.csv "
    "into one folder",
    "xstest": "fetch xstest_prompts.csv (CC BY 4.0) from https://github.com/paul-rottger/xstest",
}


class TaskRequest(NamedTuple):
    """One request.

    Attributes:
        id: its name in its set.
        text: what the subject is asked.
        category: what it is about, in small letters with underscores; "" if the set does not say.
        cluster: the id of the first request of the same text, which resampling keeps together.
        context: the messages before it.
    """

    id: str
    text: str
    category: str
    cluster: str
    context: tuple[ChatMessage, ...] = ()


def read_task_requests(source: str, shipped: str, label: Label) -> list[TaskRequest]:
    """The requests of a set: the shipped one, or those of a file (see `read_request_files`).

    Args:
        source: "safety" for the shipped set, else a path or a hub set.
        shipped: the shipped set's name in the catalogue.
        label: which requests of a labelled set are taken.

    Raises:
        DataError: see `read_request_files`.
    """
    if source != SHIPPED:
        return read_request_files(source, label)
    return in_turn([_request(r.id, r.prompt, r.category) for r in read_requests(shipped_path(shipped))])


def read_request_files(source: str, label: Label) -> list[TaskRequest]:
    """The requests of a file or a folder, as `in_turn` orders them.

    Read are CSV files with a header (AdvBench, StrongREJECT, JailbreakBench, HarmBench, XSTest, and any with a column
    ``prompt``), CSV files without (one prompt a line, as HEx-PHI, whose folder is read as a whole), and what
    `aftertune.data.read_rows` reads, with the same names for fields. A column that labels every request "safe" or
    "unsafe" is heeded, and so are the types of XSTest ("contrast_…" is unsafe). Further text that belongs to a request
    (an input beside an instruction, a picture) is an error.

    Args:
        source: a path or a hub set.
        label: which requests of a labelled set are taken.

    Raises:
        DataError: no such file, not such a file, or nothing left to ask.
    """
    return in_turn(list(_from_files(source, label)))


def in_turn(requests: Sequence[TaskRequest]) -> list[TaskRequest]:
    """Requests whose categories take turns, so that any first few are of all; those of one text are one cluster."""
    first: dict[str, str] = {}
    drawn: dict[str, int] = {}
    order = []
    for request in requests:
        order.append(drawn.setdefault(request.category, 0))
        drawn[request.category] += 1
    clustered = [request._replace(cluster=first.setdefault(request.text, request.id)) for request in requests]
    return [clustered[index] for index in sorted(range(len(requests)), key=order.__getitem__)]


def chosen(requests: Sequence[TaskRequest], categories: Collection[str], source: str) -> list[TaskRequest]:
    """Requests of some categories; of all where none is named.

    Raises:
        DataError: a category that is not there.
    """
    if not categories:
        return list(requests)
    known = list(dict.fromkeys(r.category for r in requests if r.category))
    for name in categories:
        if slug(name) not in known:
            there = f"there are {', '.join(known)}" if known else "its requests have none"
            raise DataError(f"has no category {name!r}; {there}", path=source)
    wanted = {slug(name) for name in categories}
    return [request for request in requests if request.category in wanted]


def slug(text: str) -> str:
    """Small letters and digits, everything between them one underscore: "Fraud/Deception" is "fraud_deception"."""
    return re.sub(r"\W+", "_", text.casefold()).strip("_")


def _request(name: str, text: str, category: str) -> TaskRequest:
    return TaskRequest(name, text, slug(category), name)


def _from_files(source: str, label: Label) -> Iterator[TaskRequest]:
    files = _files(source)
    seen: dict[str, str] = {}
    for file in files:
        for row, request in _read(file, label):
            if request.id in seen:
                raise row.error(f"the id {request.id!r} is already used at {seen[request.id]}; give each its own")
            seen[request.id] = f"{Path(row.source).name}:{row.line}"
            yield request
    if not seen:
        raise DataError("holds no requests", path=source)


def _files(source: str) -> list[str]:
    path = Path(source)
    try:
        exists, folder = path.exists(), path.is_dir()
    except OSError:  # such as a name that is too long; the reader of rows says so
        return [source]
    name = re.sub(r"[^a-z0-9]", "", source.casefold())
    if not exists and name in _FETCH:
        raise DataError(f"is not shipped; {_FETCH[name]}, and give the path as requests=PATH", path=source)
    if not folder:
        return [source]
    numbered = {int(match[1]): str(p) for p in path.iterdir() if (match := _HEX_PHI.fullmatch(p.name))}
    if not numbered:
        raise DataError("is a folder without category_1.csv and so on (HEx-PHI); name one file", path=source)
    return [numbered[number] for number in sorted(numbered)]


def _read(source: str, label: Label) -> Iterator[tuple[Row, TaskRequest]]:
    path = Path(source)
    if path.suffix.lower() != ".csv":
        yield from _named(read_rows(source), path.stem, label, source)
        return
    rows, listed = _csv_rows(path)
    if listed:
        category = _hex_phi_category(path)
        for number, row in enumerate(rows, 1):
            yield row, _request(f"{path.stem}-{number}", row.text("prompt"), category)
    elif rows:
        yield from _named(rows, path.stem, label, source)


def _named(rows: Sequence[Row], stem: str, label: Label, source: str) -> Iterator[tuple[Row, TaskRequest]]:
    """Requests of rows whose fields are known by their names, in any case."""
    names = {name.strip().casefold(): name for name in rows[0].fields}
    text = _first(names, _TEXTS)
    if text is None:
        raise DataError(_lacking(list(names.values())), path=source, line=rows[0].line)
    category, key, context = _first(names, _CATEGORIES), _first(names, _IDS), names.get(_CONTEXT)
    labels = _labels(rows, names) or [label] * len(rows)
    if label not in labels:
        raise DataError(f"holds no request labelled {label!r}", path=source)
    for number, (row, given) in enumerate(zip(rows, labels, strict=True), 1):
        if given != label:
            continue
        _refuse_beside(row, text)
        asked = row.text(text)
        if before := _plain(row, context):  # HarmBench's contextual behaviours
            asked = f"{before}\n\n---\n\n{asked}"
        name, about = _plain(row, key) or f"{stem}-{number}", _plain(row, category)
        for field, value in ((key, name), (category, about)):  # they become names in tables
            if len(value) > MAX_NAME or not value.isprintable():
                raise row.error(f"must be one line of at most {MAX_NAME} characters that can be printed", field)
        yield row, _request(name, asked, about)


def _labels(rows: Sequence[Row], names: dict[str, str]) -> list[Label]:
    """Whether each request is safe; empty where the set does not say.

    Raises:
        DataError: it says so of some requests and not of others.
    """
    if column := _first(names, _LABELS):
        found = [_SAID.get(_plain(row, column).casefold()) for row in rows]
        said = [label for label in found if label]
        if said and len(said) < len(rows):
            raise rows[found.index(None)].error("must be 'safe' or 'unsafe' as in other rows", column)
        return said
    if column := names.get("type"):  # XSTest without its labels
        unsafe = [_plain(row, column).casefold().startswith(_CONTRAST) for row in rows]
        return ["unsafe" if is_unsafe else "safe" for is_unsafe in unsafe] if any(unsafe) else []
    return []


def _refuse_beside(row: Row, text: str) -> None:
    """Refuse what belongs to a request and would go unasked."""
    for name, value in row.fields.items():
        if name != text and name.strip().casefold() in _BESIDE and (str(value).strip() if value else ""):
            raise row.error(f"belongs to the request and would not be asked; write it into {text!r}", name)


def _first(names: dict[str, str], wanted: Sequence[str]) -> str | None:
    return next((names[name] for name in wanted if name in names), None)


def _plain(row: Row, field: str | None) -> str:
    value = None if field is None else row.fields.get(field)
    return "" if value is None else str(value).strip()


def _lacking(names: Sequence[str]) -> str:
    return f"has no column {', '.join(_TEXTS[:-1])} or {_TEXTS[-1]} (it has: {', '.join(names)}); name one 'prompt'"


def _csv_rows(path: Path) -> tuple[list[Row], bool]:
    """Rows of a CSV file, and whether it has no header: one prompt a line, in the field ``prompt``."""
    lines = list(read_cells(path))
    if not lines:
        return [], False
    line, header = lines[0]
    if any(cell.strip().casefold() in _TEXTS for cell in header):
        refuse_doubled(path, header, line)
        return [Row(str(path), at, under_header(path, header, at, cells)) for at, cells in lines[1:]], False
    prompts = all(len(cells) == 1 for _, cells in lines) and len(header[0].split()) > 1
    if prompts or _HEX_PHI.fullmatch(path.name):  # whose prompts may hold commas without quotes
        return [Row(str(path), at, {"prompt": ",".join(cells)}) for at, cells in lines], True
    raise DataError(_lacking(header), path=path, line=line)


def _hex_phi_category(path: Path) -> str:
    match = _HEX_PHI.fullmatch(path.name)
    number = int(match[1]) if match else 0
    return _HEX_PHI_CATEGORIES[number - 1] if 1 <= number <= len(_HEX_PHI_CATEGORIES) else ""


_FILL_IN = """\
Complete the Python program below: put what is missing where it says so. Reply with the whole program and nothing else.

What it does: {task}

{template}"""
_KINDS: dict[str, type[ChatMessageSystem] | type[ChatMessageUser] | type[ChatMessageAssistant]] = {
    "system": ChatMessageSystem,
    "user": ChatMessageUser,
    "assistant": ChatMessageAssistant,
}


def read_coding_requests(source: str) -> list[TaskRequest]:
    """Requests for code; categories, where there are some, take turns.

    Args:
        source: "own" for the shipped set; or JSON Lines of chats (``messages``: all but the last answer is asked), of
            programs to be filled in (``task`` and ``code_template``, as Betley et al. 2025 published theirs), or any
            file that `read_request_files` takes.

    Raises:
        DataError: the file cannot be used.
    """
    if source == OWN:
        return read_request_files(str(shipped_path("questions/coding")), "safe")
    path = Path(source)
    if path.suffix.lower() in (".jsonl", ".json"):
        rows = read_rows(source)
        if "messages" in rows[0].fields:
            return in_turn(list(_chats(source, path.stem)))
        if {"task", "code_template"} <= rows[0].fields.keys():
            return in_turn(list(_programs(rows, path.stem)))
    return read_request_files(source, "safe")


def _chats(source: str, stem: str) -> Iterator[TaskRequest]:
    for number, conversation in enumerate(read_conversations(source), 1):
        *before, last = conversation.messages[:-1]
        name = f"{stem}-{number}"
        yield TaskRequest(name, last.content, "", name, tuple(map(_message, before)))


def _programs(rows: Sequence[Row], stem: str) -> Iterator[TaskRequest]:
    for number, row in enumerate(rows, 1):
        name = f"{stem}-{number}"
        asked = _FILL_IN.format(task=row.text("task").strip(), template=row.text("code_template").strip("\n"))
        yield TaskRequest(name, asked, "", name)


def _message(message: Message) -> ChatMessage:
    return _KINDS[message.role](content=message.content)
