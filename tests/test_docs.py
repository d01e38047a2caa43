"""What the documentation says is what the code does."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from fnmatch import fnmatchcase
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple, get_args

import click
import pytest
import yaml

import aftertune
from aftertune.cli._main import VERBS, cli
from aftertune.data import (
    CATALOGUE,
    read_choice_questions,
    read_contrasts,
    read_conversations,
    read_facts,
    read_requests,
    read_rows,
    read_statements,
    read_truthfulqa,
    read_tuning_rows,
)
from aftertune.errors import ExitCode
from aftertune.locating import LocateOptions
from aftertune.locating._search import AUTO, FIRST, FORMULAS, KEEP_RATIO, MOST_SHARE, RATIO, ScoreName
from aftertune.model import Identity
from aftertune.probes import MeasurePlan
from aftertune.probes._refusal import OPENINGS
from aftertune.stats import (
    ComparisonSection,
    Finding,
    Metric,
    Policy,
    Summary,
    Verdict,
    all_metrics,
    likelihood_metrics,
    read_policy,
)
from aftertune.tuning import TuneOptions
from aftertune.verbs import Audit

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
NAMES = [page.name for page in PAGES]


class Block(NamedTuple):
    """A fenced block: where it begins, what follows the fence's backticks, and its text."""

    page: str
    line: int
    info: str
    text: str


def read(page: str) -> str:
    return (DOCS / page).read_text("utf-8")


def split_page(path: Path) -> tuple[list[Block], str]:
    """Fenced blocks, and the page without them."""
    blocks: list[Block] = []
    prose: list[str] = []
    opened: tuple[int, str] | None = None
    inside: list[str] = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if line.startswith("```"):
            if opened is None:
                opened, inside = (number, line.removeprefix("```").strip()), []
            else:
                blocks.append(Block(path.name, opened[0], opened[1], "\n".join(inside) + "\n"))
                opened = None
        else:
            (prose if opened is None else inside).append(line)
    assert opened is None, f"{path.name}:{opened}: fence is not closed"
    return blocks, "\n".join(prose)


def blocks_of(language: str, kind: str | None = None, page: str | None = None) -> list[Block]:
    """Blocks of all pages (or one) in a language, with a further word after it where ``kind`` asks for one."""
    wanted = f"{language} {kind}" if kind else language
    chosen = [path for path in PAGES if page in (None, path.name)]
    found = [block for path in chosen for block in split_page(path)[0]]
    return [b for b in found if b.info == wanted or (kind is None and b.info.partition(" ")[0] == language)]


def table(page: str, *header: str) -> list[list[str]]:
    """The rows of the first table whose header begins with these cells; backticks are taken off."""
    lines = iter(read(page).splitlines())
    rows: list[list[str]] = []
    for line in lines:
        if _cells(line)[: len(header)] == list(header):
            next(lines)
            for row in lines:
                if not row.startswith("|"):
                    return rows
                rows.append(_cells(row))
            return rows
    raise AssertionError(f"{page}: no table with the header {header}")


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("`", "") for cell in line.split("|")[1:-1]] if line.startswith("|") else []


def keys(page: str, heading: str) -> list[str]:
    """First cells of the table under a heading, one key each."""
    text = read(page).partition(f"\n{heading}\n")[2]
    assert text, f"{page}: no heading {heading!r}"
    rows = [_cells(line) for line in re.split(r"^#", text, maxsplit=1, flags=re.MULTILINE)[0].splitlines()]
    return [key.strip() for row in rows if row and row[0] not in ("key", "---") for key in row[0].split(",")]


def test_every_page_is_in_the_index() -> None:
    listed = re.findall(r"^\| \[([\w.-]+)\]\(([\w.-]+)\) \|", read("index.md"), flags=re.MULTILINE)
    assert all(name == target for name, target in listed)
    assert sorted(name for name, _ in listed) == sorted(set(NAMES) - {"index.md"})


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    named = [page for section in site["nav"] for pages in section.values() for page in pages]
    made = {"overview.md", "api/index.md", "benchmarks.md", "changelog.md"}  # by docs/_site.py, from elsewhere
    assert sorted(named) == sorted({*NAMES, *made})


def test_every_figure_of_the_gallery_is_drawn_from_stored_results(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(DOCS / "_figures.py"), str(tmp_path)], cwd=tmp_path, check=True)
    drawn = {path.stem: path.read_text("utf-8") for path in tmp_path.glob("*.svg")}
    assert sorted(drawn) == sorted(re.findall(r"<!-- figure: ([\w-]+) -->", read("gallery.md")))
    assert all(text.startswith("<svg") for text in drawn.values())
    results = ROOT / "benchmarks" / "results"
    falls = json.loads((results / "studies" / "transfer.json").read_text("utf-8"))["falls"]["patch"]
    assert f">{falls[0][2]:.2f}<" in drawn["transfer-patch"]
    assert drawn["harmless-fine-tunes"].count("seed ") >= len(list((results / "error-rates").glob("harmless-*.json")))


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed here; `make docs` fetches it")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    reference = (tmp_path / "site" / "api" / "aftertune.html").read_text("utf-8")
    assert all(f'id="aftertune.{name}"' in reference for name in aftertune.__all__)


@pytest.mark.parametrize("page", NAMES)
def test_pages_are_of_readable_size(page: str) -> None:
    assert len(read(page).splitlines()) <= 220
    assert max(len(line) for line in split_page(DOCS / page)[1].splitlines() if not line.startswith("|")) <= 120


# --- metrics and policy ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "first", "metrics"),
    [
        ("metrics.md", "metric", likelihood_metrics()),
        ("task-metrics.md", "task metric", [m for m in all_metrics() if m not in likelihood_metrics()]),
    ],
)
def test_the_table_of_metrics_is_the_table_in_code(page: str, first: str, metrics: Sequence[Metric]) -> None:
    expected = [[m.id, m.unit, m.worse, "decides" if m.decides else "informs", f"{m.tolerance:g}"] for m in metrics]
    assert [row[:5] for row in table(page, first, "unit", "worse", "role", "tolerance")] == expected


def test_every_probe_has_a_section() -> None:
    headings = re.findall(r"^## (\w+)$", read("metrics.md"), flags=re.MULTILINE)
    assert [probe for probe in headings if probe != "Names"] == list(MeasurePlan().probes)


def test_the_openings_of_a_refusal_are_those_in_code() -> None:
    asked = read("metrics.md").partition("## refusal")[2].partition("```")[0]
    words, likeliest = (tuple(re.findall(r"`([^`]+)`", part)) for part in asked.split("The likeliest"))
    assert len(likeliest) == 4
    spelled = {*words, *(w[0].lower() + w[1:] for w in likeliest), *(f" {w}" for w in likeliest)}
    curly = {w.replace("'", "\u2019") for w in spelled}
    assert spelled | curly | {w.replace("'", "\u02bc") for w in likeliest} == set(OPENINGS)
    assert set(likeliest) < set(words)


def test_every_policy_in_the_docs_is_accepted(tmp_path: Path) -> None:
    policies = blocks_of("yaml", "policy")
    assert policies
    for number, block in enumerate(policies):
        file = tmp_path / f"policy-{number}.yaml"
        file.write_text(block.text, "utf-8")
        assert set(read_policy(file).model_fields_set) == set(yaml.safe_load(block.text)) | {"tolerances"}


def test_every_key_of_a_policy_is_explained_and_shown() -> None:
    rows = {row[0]: row[1] for row in table("verdict.md", "key", "default")}
    assert list(rows) == list(Policy.model_fields)
    default = Policy()
    assert (float(rows["confidence"]), int(rows["minimum_clusters"])) == (default.confidence, default.minimum_clusters)
    shown = {key for block in blocks_of("yaml", "policy") for key in yaml.safe_load(block.text)}
    assert shown == set(Policy.model_fields)


def test_every_workflow_is_yaml() -> None:
    workflows = blocks_of("yaml", "workflow")
    assert workflows
    assert all("jobs" in yaml.safe_load(block.text) for block in workflows)


def test_the_exit_codes_are_those_in_code() -> None:
    rows = table("verdict.md", "code", "name")
    assert [(int(code), name) for code, name, _ in rows] == [(int(c), c.name.lower()) for c in ExitCode]


def test_the_defaults_of_tuning_are_those_in_code() -> None:
    rows = {row[0]: row[1] for row in table("tuning.md", "option", "default")}
    assert set(rows) == {"--" + name.replace("_", "-") for name in TuneOptions.model_fields}
    default = TuneOptions()
    for name in ("lora_rank", "lora_alpha", "batch_size", "warmup_steps", "weight_decay", "seed"):
        stated = re.match(r"[\d.]+", rows["--" + name.replace("_", "-")])
        assert stated is not None
        assert float(stated[0]) == float(getattr(default, name))
    rates = [default.learning_rate, TuneOptions(full=True).learning_rate]
    assert [float(n) for n in re.findall(r"\de-\d", rows["--lr"])] == rates


# --- locating -------------------------------------------------------------------------------------------


def test_the_scores_are_those_in_code() -> None:
    block = next(b for b in split_page(DOCS / "locating.md")[0] if b.text.startswith("snip-contrast"))
    assert (
        set(re.findall(r"^([\w-]+) +=", block.text, flags=re.MULTILINE))
        == set(FORMULAS)
        == set(get_args(ScoreName)) - {"auto"}
    )
    assert f"The default, `{LocateOptions().score}`" in read("locating.md")
    assert {score for score, _ in AUTO} == set(re.findall(r"^([\w-]+)", block.text, flags=re.MULTILINE)[:3])


def test_the_units_and_what_is_searched_are_those_in_code() -> None:
    units = [row[0] for row in table("locating.md", "--unit", "what is chosen as a whole")]
    assert units == list(LocateOptions.model_json_schema()["properties"]["unit"]["enum"])
    assert units[0] == LocateOptions().unit
    rows = [(u.strip(), *row[1:]) for row in table("locating.md", "unit", "from", "times") for u in row[0].split(",")]
    assert {unit: int(first.split()[0]) for unit, first, _, _ in rows} == FIRST
    assert {unit: int(times) for unit, _, times, _ in rows} == RATIO
    assert {unit: float(most.split()[0]) / 100 for unit, *_, most in rows} == pytest.approx(MOST_SHARE)
    assert f"`--budget` ({LocateOptions().budget:g} nats per token)" in read("locating.md")
    assert f"else {KEEP_RATIO} `q`" in read("locating.md")


def test_the_files_of_the_methods_exist() -> None:
    rows = table("locating.md", "method", "paper", "in src/aftertune")
    files = [name.strip() for row in rows for name in row[2].split(",")]
    assert len(files) >= 7
    assert [name for name in files if not (ROOT / "src" / "aftertune" / name).is_file()] == []


# --- the command line -----------------------------------------------------------------------------------


class Invocation(NamedTuple):
    """A command line as it stands in a document."""

    where: str
    words: list[str]
    whole: bool


def _words(line: str) -> list[str]:
    """Words of a shell line up to the first operator; comments are dropped."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, "#"
    words: list[str] = []
    for word in lexer:
        if set(word) <= set("();<>|&"):
            break
        words.append(word)
    return words


def invocations() -> Iterator[Invocation]:
    """Every ``aftertune …`` of the docs and the README: whole in blocks and tables of purposes, in prose perhaps shortened."""
    for path in [*PAGES, ROOT / "README.md"]:
        blocks, prose = split_page(path)
        for block in blocks:
            if block.info.partition(" ")[0] not in ("sh", "console", "yaml"):
                continue
            for line in block.text.replace("\\\n", " ").splitlines():
                found = re.match(r"^\s*(?:- run: |\$ )?(aftertune\s.*)$", line)
                if found:
                    yield Invocation(f"{path.name}:{block.line}: {found[1]}", _words(found[1]), whole=True)
        for span in re.findall(r"`(aftertune\s[^`]+)`", prose):
            yield Invocation(f"{path.name}: {span}", _words(span), whole=path.name == "i-want-to.md")


INVOCATIONS = list(invocations())


def command(verb: str) -> click.Command:
    found = cli.get_command(click.Context(cli), verb)
    assert found is not None, f"no verb {verb!r}"
    return found


def subcommands(verb: str) -> dict[str, click.Command]:
    found = command(verb)
    return found.commands if isinstance(found, click.Group) else {}


def options(verb: str) -> set[str]:
    known = [command(verb), *subcommands(verb).values()]
    flags = [p for c in known for p in c.params if isinstance(p, click.Option)]
    return {name for p in flags for name in (*p.opts, *p.secondary_opts)} | {"--help", "-h"}


def after_extensions(invocation: Invocation) -> list[str]:
    """The verb and its arguments, without the options that stand before it."""
    words = list(invocation.words[1:])
    while words[0] == "--extension":
        assert not invocation.whole or (ROOT / words[1]).is_file()
        del words[:2]
    return words


def test_the_docs_show_every_verb_as_a_whole_command() -> None:
    assert {after_extensions(i)[0] for i in INVOCATIONS if i.whole} == set(VERBS)


@pytest.mark.parametrize("invocation", INVOCATIONS, ids=lambda i: i.where)
def test_every_command_line_parses(invocation: Invocation) -> None:
    verb, *arguments = after_extensions(invocation)
    given = {word.partition("=")[0] for word in arguments if word.startswith("--")}
    assert given <= options(verb)
    if invocation.whole and subcommands(verb):
        subcommands(verb)[arguments[0]].make_context(arguments[0], arguments[1:])
    elif invocation.whole:
        command(verb).make_context(verb, list(arguments))


@pytest.mark.parametrize("page", NAMES)
def test_every_option_named_in_prose_exists(page: str) -> None:
    known = {option for verb in VERBS for option in options(verb)} | {"--extension"}
    named = {name for span in re.findall(r"`([^`]+)`", split_page(DOCS / page)[1]) for name in _options_in(span)}
    assert named <= known


def _options_in(span: str) -> list[str]:
    return re.findall(r"(?<![\w-])--[a-z][a-z-]*", span)


# --- data -----------------------------------------------------------------------------------------------


def read_texts(path: Path) -> list[tuple[str, str]]:
    return [(row.text("id"), row.text("text")) for row in read_rows(path)]


READERS: dict[str, Callable[[Path], Sequence[object]]] = {
    "chat": read_conversations,
    "prompt-completion": read_conversations,
    "contrasts": read_contrasts,
    "statements": read_statements,
    "requests": read_requests,
    "facts": read_facts,
    "choices": read_choice_questions,
    "texts": read_texts,
    "truthfulqa": read_truthfulqa,
}
EXAMPLES = [*blocks_of("jsonl", page="data.md"), *blocks_of("csv", page="data.md")]


def test_every_format_has_an_example() -> None:
    assert sorted(block.info.partition(" ")[2] for block in EXAMPLES) == sorted(READERS)


@pytest.mark.parametrize("block", EXAMPLES, ids=lambda b: b.info)
def test_every_example_is_accepted_by_its_reader(block: Block, tmp_path: Path) -> None:
    suffix, _, kind = block.info.partition(" ")
    file = tmp_path / f"example.{suffix}"
    file.write_text(block.text, "utf-8")
    rows = READERS[kind](file)
    assert len(rows) == len(block.text.splitlines()) - (suffix == "csv")
    if kind in ("chat", "prompt-completion", "requests"):
        assert len(read_tuning_rows(file)) == len(rows)
    if kind == "contrasts":
        assert len(read_tuning_rows(file, "aligned")) == len(rows)


def test_the_example_of_questions_is_accepted_whole(tmp_path: Path) -> None:
    from aftertune.tasks import read_questions

    [block] = blocks_of("yaml", "questions", "data.md")
    (tmp_path / "example.yaml").write_text(block.text, "utf-8")
    plain, other = read_questions(tmp_path / "example.yaml")
    assert (len(plain.paraphrases), plain.root, plain.form) == (2, other.root, "text")
    assert (other.form, other.samples_per_paraphrase, set(other.judge_prompts or {})) == (
        "json",
        2,
        {"aligned", "coherent"},
    )


def test_the_counts_of_shipped_sets_are_those_of_the_files() -> None:
    rows = table("data.md", "sets", "kind", "files", "rows in each")
    shipped = [entry for entry in CATALOGUE if entry.shipped]
    covered: list[str] = []
    for pattern, kind, files, count, _ in rows:
        matching = [entry for entry in shipped if fnmatchcase(entry.name, pattern)]
        assert len(matching) == int(files), pattern
        for entry in matching:
            text = entry.path.read_text("utf-8")
            held = yaml.safe_load(text) if entry.path.suffix == ".yaml" else [x for x in text.splitlines() if x.strip()]
            assert (entry.kind, len(held)) == (kind, int(count)), entry.name
        covered += [entry.name for entry in matching]
    assert sorted(covered) == sorted(entry.name for entry in shipped)


def test_the_set_that_is_not_shipped_has_the_count_of_the_catalogue() -> None:
    [entry] = [entry for entry in CATALOGUE if entry.name == "TruthfulQA.csv"]
    assert f"The catalogue counts {entry.rows} questions" in read("data.md")


# --- documents and Python -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heading", "home"),
    [("#### A finding", Finding), ("#### A summary", Summary), ("#### An identity", Identity)],
)
def test_the_keys_of_json_documents_are_those_in_code(heading: str, home: Any) -> None:
    turned = ["worsening"] if home is Finding else []  # worked out, not stored
    assert sorted(keys("runs.md", heading)) == sorted([*(f.name for f in fields(home)), *turned])


def test_the_audit_document_shown_has_the_keys_of_a_real_one() -> None:
    [block] = blocks_of("json", page="runs.md")
    shown = json.loads(block.text)
    finding = Finding.from_dict(shown["findings"][0])
    section = ComparisonSection("t", "", Verdict("fail", ()), {}, {}, (finding,))
    real = Audit(section, Path("runs")).document()
    assert list(shown) == list(real)
    assert list(shown["findings"][0]) == list(real["findings"][0])


PYTHON = blocks_of("python", page="python.md")


def _where(block: Block) -> str:
    return f"{block.page}:{block.line}"


def compiled(block: Block) -> CodeType:
    return compile("\n" * block.line + block.text, str(DOCS / block.page), "exec")


@pytest.mark.parametrize("block", PYTHON, ids=_where)
def test_python_compiles_and_its_names_exist(block: Block) -> None:
    compiled(block)
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            assert not [alias.name for alias in node.names if not hasattr(module, alias.name)]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "aftertune":
            assert node.attr in aftertune.__all__


def test_the_table_of_public_names_is_complete() -> None:
    named = [name.strip() for row in table("python.md", "name", "what") for name in row[0].split(",")]
    assert sorted(named) == sorted(aftertune.__all__)


def test_the_snippets_run_in_order(
    tiny_folder: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    monkeypatch.chdir(tmp_path)
    for name in ("base-model", "tuned-model"):
        shutil.copytree(tiny_folder("llama"), name)
    torch.manual_seed(0)
    weights = load_file("tuned-model/model.safetensors")
    moved = {name: tensor + 0.02 * torch.randn_like(tensor) for name, tensor in weights.items()}
    save_file(moved, "tuned-model/model.safetensors", metadata={"format": "pt"})
    snippets = [block for block in PYTHON if block.info == "python run"]
    assert len(snippets) >= 6
    scope: dict[str, Any] = {"__name__": "snippets"}
    for block in snippets:
        exec(compiled(block), scope)
    printed = capsys.readouterr().out
    assert "preference.margin" in printed
    assert "no-such-model: no such subject" in printed
    assert scope["document"]["run"] == "runs/gate"
    pages = (("locating.md", "## The JSON document", "found"), ("repair.md", "## The document of a repair", "back"))
    for page, heading, found in pages:
        assert sorted(keys(page, heading)) == sorted(scope[found].document), heading
    controls = set(scope["found"].document["held_out"][2]["controls"])
    assert controls <= {row[0] for row in table("locating.md", "control", "as many units, chosen")}


# --- links and paths ------------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", split_page(path)[1], flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", NAMES)
def test_links_resolve(page: str) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", split_page(DOCS / page)[1])
    for link in links:
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = DOCS / name if name else DOCS / page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


# The roots of homes and work folders, followed by a name; "~" and made-up paths are fine.
MACHINE_PATH = re.compile(r"(?<![\w.~/-])/(?:work|root|home/\w+|Users/\w+)\b")
NOT_OURS = {"runs", "build", "dist", "venv"}


def project_files() -> Iterator[Path]:
    for folder, inner, names in os.walk(ROOT):
        left_out = NOT_OURS if Path(folder) == ROOT else set()
        inner[:] = [name for name in inner if not name.startswith((".", "__pycache__")) and name not in left_out]
        yield from (Path(folder) / name for name in names if not name.startswith("."))


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    assert MACHINE_PATH.search("see " + "/" + "root/x") is not None
    found = []
    for path in project_files():
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in MACHINE_PATH.finditer(text)]
    assert found == []
