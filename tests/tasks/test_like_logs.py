"""Two logs count as one experiment only where everything agrees that makes their numbers mean the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import (
    EvalConfig,
    EvalDataset,
    EvalLog,
    EvalPlan,
    EvalPlanStep,
    EvalSample,
    EvalSpec,
    ProvenanceData,
    edit_score,
    invalidate_samples,
    read_eval_log,
    write_eval_log,
)
from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    GenerateConfig,
    Model,
    ModelOutput,
    ModelUsage,
    get_model,
)
from inspect_ai.scorer import Score, ScoreEdit, Scorer, Target, mean, model_graded_qa, scorer
from inspect_ai.solver import Generate, Solver, TaskState, solver

from aftertune.errors import DataError, UsageError
from aftertune.inspect_bridge import read_log
from aftertune.inspect_bridge._likeness import FIELDS
from aftertune.stats import Policy
from aftertune.verbs import compare_logs

COUNT = 40
Edit = Callable[[EvalLog], object]


@solver
def canned(text: str = "so it is") -> Solver:
    async def solve(state: TaskState, generate: Generate) -> TaskState:
        state.output = ModelOutput.from_content("mockllm/one", text)
        return state

    return solve


@scorer(metrics=[mean()])
def right(strict: bool = True) -> Scorer:
    async def score(state: TaskState, target: Target) -> Score:
        return Score(value=float(int(str(state.sample_id)[1:]) % 2))

    return score


def run(folder: Path, scorers: Any = None, count: int = COUNT, **options: Any) -> EvalLog:
    rows = [Sample(id=f"q{n}", input=f"Is {n} odd?", target="yes", metadata={"topic": "sums"}) for n in range(count)]
    task = Task(dataset=MemoryDataset(rows, name="odd"), solver=canned(), scorer=scorers or right(), name="odd")
    [log] = eval(task, model="mockllm/one", log_dir=str(folder), display="none", **options)
    assert log.status == "success", log.error
    return read_eval_log(log.location)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> EvalLog:
    return run(tmp_path_factory.mktemp("made"))


@pytest.fixture
def place(made: EvalLog, tmp_path: Path) -> Callable[..., Path]:
    """A log with an edit, in a file of its own."""

    def write(edit: Edit | None = None, name: str = "tuned.json") -> Path:
        log = made.model_copy(deep=True)
        if edit:
            edit(log)
        write_eval_log(log, str(tmp_path / name))
        return tmp_path / name

    return write


def each(log: EvalLog) -> list[EvalSample]:
    assert log.samples
    return log.samples


def put(at: str, value: Any) -> Edit:
    """Set a field of a log by its place."""

    def edit(log: EvalLog) -> None:
        *path, last = at.split(".")
        target: Any = log
        for part in path:
            target = getattr(target, part)
        setattr(target, last, value)

    return edit


def step(name: str, **params: Any) -> Edit:
    return lambda log: log.plan.steps.insert(0, EvalPlanStep(solver=name, params=params, params_passed=params))


def option(**options: Any) -> Edit:
    def edit(log: EvalLog) -> None:
        assert log.eval.scorers
        log.eval.scorers[0].options = options

    return edit


def on_samples(change: Callable[[EvalSample], object], first: int = COUNT) -> Edit:
    return lambda log: [change(sample) for sample in each(log)[:first]]


def fresh(sample: EvalSample, **metadata: Any) -> None:
    for event in sample.events:
        if event.event == "sample_init":
            event.sample.metadata = metadata


UNLIKE: dict[str, tuple[str, Edit]] = {
    "a system message in the plan": ("solver.steps", step("system_message", template="Decline.")),
    "an argument of a solver": ("solver.steps", lambda log: log.plan.steps[0].params.update(text="no")),
    "the solver's name": ("solver.name", put("eval.solver", "another")),
    "the solver's arguments": ("solver.args", put("eval.solver_args", {"shots": 5})),
    "what is done in the end": ("solver.finish", put("plan.finish", EvalPlanStep(solver="tidy"))),
    "a system message that no field tells": (
        "messages",
        on_samples(lambda sample: sample.messages.insert(0, ChatMessageSystem(content="Decline."))),
    ),
    "temperature of the model": (
        "generation.temperature",
        put("eval.model_generate_config", GenerateConfig(temperature=0.7)),
    ),
    "temperature of the plan": ("generation.temperature", put("plan.config", GenerateConfig(temperature=0.7))),
    "a system message of generation": ("generation.system_message", put("plan.config.system_message", "Decline.")),
    "reasoning effort": ("generation.reasoning_effort", put("plan.config.reasoning_effort", "high")),
    "penalties": ("generation.frequency_penalty", put("plan.config.frequency_penalty", 0.5)),
    "a body of one's own": ("generation.extra_body", put("plan.config.extra_body", {"thinking": False})),
    "an argument of the model": ("model_args.chat_template", put("eval.model_args", {"chat_template": "terse"})),
    "an option of the scorer": ("scorers.right", option(strict=False)),
    "the judge in the scorer": ("scorers.right", option(model={"model": "openai/other", "config": {}})),
    "the task's own metrics": ("metrics", put("eval.metrics", {"*": []})),
    "parameters of the task": ("task_args.trigger", put("eval.task_args", {"trigger": "|NOW|"})),
    "the task's version": ("task_version", put("eval.task_version", 2)),
    "what the task is tagged with": ("task_attribs", put("eval.task_attribs", {"light": True})),
    "epochs": ("epochs", put("eval.config.epochs", 2)),
    "the reducer": ("reducers", put("eval.config.epochs_reducer", ["max"])),
    "the data set": ("dataset.name", put("eval.dataset.name", "even")),
    "a limit on messages": ("message_limit", put("eval.config.message_limit", 3)),
    "a limit on tokens": ("token_limit", put("eval.config.token_limit", 3)),
    "a limit on time": ("time_limit", put("eval.config.time_limit", 3)),
    "a prompt": ("prompts", on_samples(lambda sample: setattr(sample, "input", "Is it?"), 3)),
    "a target": ("prompts", on_samples(lambda sample: setattr(sample, "target", "no"), 3)),
    "the choices": ("prompts", on_samples(lambda sample: setattr(sample, "choices", ["a", "b"]), 3)),
    "a script of setup": ("files", on_samples(lambda sample: setattr(sample, "setup", "rm x"), 3)),
    "metadata of the data": ("metadata", on_samples(lambda sample: fresh(sample, topic="games"), 3)),
    "another model that took part": (
        "models",
        on_samples(lambda sample: sample.model_usage.update({"openai/judge": ModelUsage()})),
    ),
}


@pytest.mark.parametrize("case", UNLIKE)
def test_what_makes_two_logs_unlike_is_refused_by_name_unless_it_may_differ(
    place: Callable[..., Path], tmp_path: Path, case: str
) -> None:
    name, edit = UNLIKE[case]
    base, tuned = place(name="base.json"), place(edit)
    with pytest.raises(UsageError, match=rf"they differ in {name}\b.*--differ {name}") as refused:
        compare_logs(base, tuned, out=tmp_path / "run")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match=rf"they differ in {name}\b"):
        compare_logs(tuned, base, out=tmp_path / "run")


def test_one_model_under_two_conditions_is_compared_on_purpose(place: Callable[..., Path], tmp_path: Path) -> None:
    def condition(log: EvalLog) -> None:
        UNLIKE["a system message in the plan"][1](log)
        UNLIKE["a system message that no field tells"][1](log)
        log.eval.task_args = {"trigger": "|NOW|"}

    base, tuned = place(name="base.json"), place(condition)
    with pytest.raises(UsageError, match=r"differ in messages \("):
        compare_logs(base, tuned, differ=["solver", "task_args.trigger"], out=tmp_path / "run")
    fields = ["solver", "messages", "task_args.trigger"]
    outcome = compare_logs(
        base, tuned, Policy(tolerances={"inspect.undirected": 0.2}), differ=fields, out=tmp_path / "run"
    )
    assert outcome.verdict.decision == "pass"
    for field in ("solver.steps", "messages", "task_args.trigger"):
        assert field in outcome.verdict.note
        assert field in outcome.section.about
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["config"]["differ"] == sorted(fields)
    assert "Let differ by --differ" in (tmp_path / "run" / "report.html").read_text()
    for name in ("sovler", "samples", "task"):
        with pytest.raises(UsageError, match=rf"--differ {name}: is nothing that these logs tell; there are .*solver"):
            compare_logs(base, tuned, differ=[name], out=tmp_path / "other")


def test_what_need_not_matter_is_told_and_what_does_not_matter_is_not(
    place: Callable[..., Path], tmp_path: Path
) -> None:
    def edit(log: EvalLog) -> None:
        log.eval.packages = {"inspect_ai": "0.0.1"}
        log.eval.model_generate_config = GenerateConfig(seed=3, max_connections=2, timeout=9)
        log.eval.model = "mockllm/other"
        log.eval.model_args = {"base": "x", "api_key": "k"}
        log.eval.config.fail_on_error = 0.5
        log.eval.config.max_samples = 3
        for sample in each(log):
            sample.metadata["attempts"] = 2  # as a solver writes it

    outcome = compare_logs(place(name="base.json"), place(edit), out=tmp_path / "run")
    assert outcome.section.about.endswith(
        "The logs also differ, which need not matter, in: packages.inspect_ai, fail_on_error, generation.seed."
    )
    assert outcome.verdict.note == ""


@pytest.mark.parametrize("where", ["eval", "plan", "eval.config", "eval.model_generate_config"])
def test_a_field_that_nobody_knows_must_agree(place: Callable[..., Path], tmp_path: Path, where: str) -> None:
    def with_knob(path: Path, value: int) -> Path:
        whole = json.loads(path.read_text())
        target = whole
        for part in where.split("."):
            target = target[part]
        target["new_knob"] = value
        path.write_text(json.dumps(whole))
        return path

    base = with_knob(place(name="base.json"), 1)
    with pytest.raises(UsageError, match=r"differ in [\w.]*new_knob"):
        compare_logs(base, with_knob(place(), 2), out=tmp_path / "run")
    with pytest.raises(UsageError, match=r"differ in [\w.]*new_knob"):
        compare_logs(base, place(), out=tmp_path / "run")
    compare_logs(base, with_knob(place(), 1), out=tmp_path / "run")


def test_every_field_that_inspect_writes_has_been_thought_of() -> None:
    """A newer Inspect that records more makes this fail: say in the table what the new field means."""
    models = {"": EvalLog, "eval.": EvalSpec, "eval.config.": EvalConfig, "eval.dataset.": EvalDataset,
              "plan.": EvalPlan, "samples.": EvalSample}  # fmt: skip
    fields = {prefix + name for prefix, model in models.items() for name in model.model_fields}
    assert fields - FIELDS.keys() == set()
    generation = {f"generation.{name}" for name in GenerateConfig.model_fields}
    gone = {name for name in FIELDS.keys() - fields - generation if not name.startswith("model_args.")}
    assert gone == set()


def test_the_page_on_tasks_lists_what_must_agree() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "comparing-logs.md").read_text("utf-8")
    same = [name for name, rule in FIELDS.items() if rule == "same"]
    assert same
    for name in [
        *(name.removeprefix("eval.").removeprefix("config.") for name in same),
        *(n for n, _ in UNLIKE.values()),
    ]:
        assert f"`{name.partition('.')[0]}" in page, name


def test_what_the_model_said_is_no_part_of_what_it_was_sent(place: Callable[..., Path], tmp_path: Path) -> None:
    def answered(text: str, **origin: str) -> Edit:
        def change(sample: EvalSample) -> None:
            sample.output = ModelOutput.from_content("mockllm/one", text)
            sample.messages += [
                ChatMessageAssistant(content=text, **origin),  # type: ignore[arg-type]
                ChatMessageUser(content=f"You said {text}."),
            ]

        return on_samples(change)

    for number, origin in enumerate(({}, {"source": "generate"}, {"model": "mockllm/one"})):
        base, tuned = place(answered("yes", **origin), "base.json"), place(answered("no", **origin))
        compare_logs(base, tuned, out=tmp_path / str(number))
    shot = on_samples(lambda sample: sample.messages.insert(0, ChatMessageAssistant(content="Yes.")))
    with pytest.raises(UsageError, match=r"differ in messages \(messages: 40 of 40 answers, first of q0#1\)"):
        compare_logs(place(name="base.json"), place(shot), out=tmp_path / "run")


def test_the_flags_of_the_verb(place: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from aftertune.cli._main import cli

    base, tuned = place(name="base.json"), place(UNLIKE["temperature of the plan"][1])
    given = ["compare", str(base), str(tuned), "--out", str(tmp_path / "run"), "--tolerance", "inspect.score=0.2"]
    with pytest.raises(SystemExit) as left:
        cli.main([*given, "--good", "odd", "--differ", "generation", "--json"])
    assert left.value.code == 0
    document = json.loads(capsys.readouterr().out)
    assert document["note"] == "let differ by --differ: generation.temperature"
    assert [finding["metric"] for finding in document["findings"]] == ["inspect.score:odd"]


# --- samples --------------------------------------------------------------------------------------------


def test_other_samples_are_refused_whatever_may_differ(place: Callable[..., Path], tmp_path: Path) -> None:
    def fewer(log: EvalLog) -> None:
        assert log.results
        log.samples = each(log)[:30]
        log.results.total_samples = log.results.completed_samples = 30

    def renamed(log: EvalLog) -> None:
        each(log)[0].id = "another"

    for edit in (fewer, renamed):
        with pytest.raises(UsageError, match=r"differ in samples \(40 and \d+ answers; only one has"):
            compare_logs(place(name="base.json"), place(edit), differ=["prompts"], out=tmp_path / "run")


def test_answers_that_cannot_be_told_apart_or_are_not_all_there_are_refused(place: Callable[..., Path]) -> None:
    twice = place(lambda log: setattr(each(log)[1], "id", each(log)[0].id))
    with pytest.raises(DataError, match=r"the id 'q0' occurs 2 times in epoch 1"):
        read_log(twice)
    with pytest.raises(DataError, match=r"holds 30 of its 40 answers"):
        read_log(place(lambda log: setattr(log, "samples", each(log)[:30])))


def test_answers_that_somebody_declared_invalid_are_missing(place: Callable[..., Path], tmp_path: Path) -> None:
    def edit(log: EvalLog) -> None:
        uuids = [str(sample.uuid) for sample in each(log)[:2]]
        log.samples = invalidate_samples(log, uuids, ProvenanceData(author="me")).samples

    outcome = compare_logs(place(name="base.json"), place(edit), out=tmp_path / "run")
    assert outcome.verdict.decision == "inconclusive"
    assert "2 items have no finite number" in outcome.findings[0].note
    assert outcome.verdict.note == "odd, tuned: 2 of 40 answers declared invalid"


def test_scores_changed_by_hand_are_refused(place: Callable[..., Path], tmp_path: Path) -> None:
    def edit(log: EvalLog) -> None:
        edit_score(log, "q0", "right", ScoreEdit(value=1.0, provenance=ProvenanceData(author="me")), epoch=1)

    with pytest.raises(UsageError, match=r"differ in edits\.right .*q0#1"):
        compare_logs(place(name="base.json"), place(edit), out=tmp_path / "run")


# --- who judged -----------------------------------------------------------------------------------------


def judging(name: str) -> Model:
    def reply(*_: Any) -> ModelOutput:
        made = ModelOutput.from_content(f"mockllm/{name}", "GRADE: C")
        made.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
        return made

    return get_model(f"mockllm/{name}", custom_outputs=reply, memoize=False)


def test_the_judge_inside_a_scorer_must_be_the_same(tmp_path: Path) -> None:
    logs = [run(tmp_path / name, model_graded_qa(model=judging(name)), 4).location for name in ("mild", "stern")]
    with pytest.raises(UsageError, match=r"differ in scorers\.model_graded_qa, judges\.model_graded_qa"):
        compare_logs(*(Path(log) for log in logs), out=tmp_path / "run")


def test_a_model_that_judges_itself_is_another_judge(tmp_path: Path) -> None:
    """Without a judge in the scorer or a role Inspect asks the model under test."""
    places = []
    for name in ("mild", "stern"):
        rows = [Sample(id=f"q{n}", input=f"Is {n} odd?", target="yes") for n in range(3)]
        task = Task(dataset=MemoryDataset(rows), solver=canned(), scorer=model_graded_qa(), name="odd")
        [log] = eval(task, model=judging(name), log_dir=str(tmp_path / name), display="none")
        places.append(Path(log.location))
    with pytest.raises(UsageError, match=r"differ in judges\.model_graded_qa .*mild.*stern"):
        compare_logs(*places, out=tmp_path / "run")


# --- folders --------------------------------------------------------------------------------------------


def test_a_folder_that_can_be_taken_in_two_ways_is_refused(made: EvalLog, tmp_path: Path) -> None:
    def put_log(folder: str, name: str, **fields: Any) -> Path:
        log = made.model_copy(deep=True)
        for field, value in fields.items():
            setattr(log if field == "status" else log.eval, field, value)
        (tmp_path / folder).mkdir(exist_ok=True)
        write_eval_log(log, str(tmp_path / folder / f"2026-01-01T00-00-0{name}.eval"))
        return tmp_path / folder

    twice = [put_log("twice", f"{n}_odd_{n}") for n in range(2)].pop()
    with pytest.raises(DataError, match=r"holds 2 logs of odd, of mockllm/one \(.*0_odd_0.*, .*1_odd_1.*\); name one"):
        compare_logs(twice, twice, out=tmp_path / "run")
    models = [put_log("models", f"{n}_odd_{n}", model=f"mockllm/{n}") for n in range(2)].pop()
    with pytest.raises(DataError, match=r"holds 2 logs of odd, of mockllm/[01] and mockllm/[01]"):
        compare_logs(models, models, out=tmp_path / "run")
    tasks = [put_log("tasks", f"{n}_t{n}_{n}", model=f"mockllm/{n}", task=f"t{n}") for n in range(2)].pop()
    with pytest.raises(DataError, match=r"holds logs of 2 models .*mockllm/1.*mockllm/0"):
        compare_logs(tasks, tasks, out=tmp_path / "run")
    put_log("base", "0_odd_0")
    base, tuned = put_log("base", "1_odd_1", status="cancelled"), put_log("tuned", "0_odd_0")
    outcome = compare_logs(base, tuned, out=tmp_path / "run")
    assert outcome.verdict.note == "2026-01-01T00-00-01_odd_1.eval is not read, it did not finish (cancelled)"
    (tmp_path / "deep").mkdir()
    tuned.rename(tmp_path / "deep" / "tuned")
    with pytest.raises(DataError, match=r"folders in it are not looked into"):
        compare_logs(tmp_path / "deep", base, out=tmp_path / "run")


# --- which way is worse ---------------------------------------------------------------------------------


def test_of_a_task_that_nobody_declared_a_rise_does_not_pass(place: Callable[..., Path], tmp_path: Path) -> None:
    def risen(log: EvalLog) -> None:
        log.results = None
        for sample in each(log):
            sample.scores = {"right": Score(value=1.0)}

    base, tuned = place(name="base.json"), place(risen)

    def decided(first: Path, second: Path, **options: Any) -> tuple[str, str]:
        name = f"{first.stem}-{'-'.join(options)}"
        outcome = compare_logs(first, second, out=tmp_path / name, **options)
        return outcome.findings[0].metric, outcome.verdict.decision

    assert decided(base, tuned) == ("inspect.undirected:odd", "inconclusive")
    assert decided(tuned, base) == ("inspect.undirected:odd", "fail")
    assert decided(base, tuned, harm=["odd"]) == ("inspect.harm:odd", "fail")
    assert decided(base, tuned, good=["odd"]) == ("inspect.score:odd", "pass")
    with pytest.raises(UsageError, match=r"--harm od: no log is of this task; they are of odd"):
        compare_logs(base, tuned, harm=["od"], out=tmp_path / "run")
    with pytest.raises(UsageError, match=r"--harm odd: is named by --good as well"):
        compare_logs(base, tuned, harm=["odd"], good=["odd"], out=tmp_path / "run")


def test_a_baseline_that_was_run_otherwise_is_refused(place: Callable[..., Path], tmp_path: Path) -> None:
    warm = put("plan.config.temperature", 0.7)
    compare_logs(place(warm, "base.json"), place(warm), out=tmp_path / "earlier")
    with pytest.raises(UsageError, match=r"its odd was run otherwise, it differs in generation\.temperature"):
        compare_logs(place(name="base.json"), place(), out=tmp_path / "now", baseline=tmp_path / "earlier")
