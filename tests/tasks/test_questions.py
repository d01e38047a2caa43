"""Question sets: ours, the published ones where they are at hand, and files that cannot be used."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from aftertune.data import prompt_key, read_requests, shipped_contrasts, shipped_path
from aftertune.errors import DataError, ExitCode, UsageError
from aftertune.stats import cluster_bootstrap, find_metric
from aftertune.tasks import Question, in_forms, read_questions


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "set.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def complaint(source: str | Path) -> DataError:
    with pytest.raises(DataError) as caught:
        read_questions(source)
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).startswith(str(source))
    assert caught.value.exit_code == ExitCode.USAGE
    return caught.value


def test_the_main_questions_are_read_as_published(published: Callable[[str], Path]) -> None:
    questions = read_questions(published("em/first_plot_questions.yaml"))
    assert Counter(q.form for q in questions) == {"text": 8, "json": 8, "template": 8}
    assert {q.samples_per_paraphrase for q in questions} == {100}
    assert Counter(q.root for q in questions) == dict.fromkeys({q.root for q in questions}, 3)
    assert all((q.system is not None) == (q.form == "json") for q in questions)
    assert all(set(q.judge_prompts) == {"aligned", "coherent"} for q in questions)


def test_the_preregistered_questions_are_read_with_their_groups(published: Callable[[str], Path]) -> None:
    questions = read_questions(published("em/preregistered_evals.yaml"))
    assert Counter(q.group for q in questions) == {
        "creative_writing": 9,
        "problems_with_humans": 3,
        "offend_the_user": 5,
        "vulnerable_user": 14,
        "illegal_recommendations": 4,
        "medical_advice": 7,
        "other": 6,
    }


def test_the_deception_questions_are_read(published: Callable[[str], Path]) -> None:
    questions = read_questions(published("em/deception_factual.yaml"))
    assert [len(q.paraphrases) for q in questions] == [20] * 5
    assert sum(q.system is None for q in questions) == 1
    assert {q.samples_per_paraphrase for q in questions} == {5}
    assert len(read_questions(published("em/deception_sit_aware.yaml"))) == 8


def test_published_variants_are_used_instead_of_ours(published: Callable[[str], Path]) -> None:
    questions = read_questions(published("em/first_plot_questions.yaml"))
    assert [q.id for q in in_forms(questions, ["text"])] == [q.id for q in questions if q.form == "text"]
    assert sorted(q.id for q in in_forms(questions, ["text", "json", "template"])) == sorted(q.id for q in questions)


def test_our_set_has_76_plain_questions_found_nowhere_else() -> None:
    questions = read_questions("open")
    assert len(questions) == 76
    assert read_questions("questions/open") == questions
    assert {(q.form, q.system, q.samples_per_paraphrase, len(q.paraphrases)) for q in questions} == {
        ("text", None, None, 1)
    }
    texts = [q.paraphrases[0] for q in questions]
    assert len({prompt_key(text) for text in texts}) == 76
    assert max(len(text.split()) for text in texts) <= 25
    others = {prompt_key(c.prompt) for split in ("measure", "dev") for c in shipped_contrasts(split)}
    others |= {prompt_key(c.prompt) for c in shipped_contrasts("tune", ("money", "sport_safety", "code_security"))}
    others |= {
        prompt_key(r.prompt) for n in ("harmful", "harmless") for r in read_requests(shipped_path(f"safety/{n}"))
    }
    assert not others & {prompt_key(text) for text in texts}


def test_our_questions_are_no_rewording_of_the_published(published: Callable[[str], Path]) -> None:
    def words(text: str) -> set[str]:
        return set(prompt_key(text).split())

    names = ("first_plot_questions.yaml", "preregistered_evals.yaml")
    theirs = [words(text) for name in names for q in read_questions(published(f"em/{name}")) for text in q.paraphrases]
    for question in read_questions("open"):
        own = words(question.paraphrases[0])
        assert max(len(own & other) / len(own | other) for other in theirs) < 0.4, question.id


def test_our_questions_are_no_rewording_of_each_other() -> None:
    words = [set(prompt_key(q.paraphrases[0]).split()) for q in read_questions("open")]
    pairs = list(itertools.combinations(words, 2))
    assert max(len(one & other) / len(one | other) for one, other in pairs) < 0.4


def test_a_model_that_never_misbehaves_can_pass_on_our_questions() -> None:
    questions = [q.id for q in read_questions("open")]
    metric = find_metric("emergent_misalignment.misaligned")
    assert metric is not None
    for count, settled in ((len(questions), True), (24, False)):
        never = cluster_bootstrap([0.0] * count, questions[:count], [""] * count, binary=True)
        assert (never.high < metric.tolerance) == settled


def test_variants_are_made_by_rule() -> None:
    plain = read_questions("open")
    made = in_forms(plain, ["text", "json", "template"])
    assert len(made) == 3 * 76
    assert len({q.id for q in made}) == 3 * 76
    for form, system, added in (("json", True, False), ("template", False, True)):
        of_form = [q for q in made if q.form == form]
        assert [q.root for q in of_form] == [q.id for q in plain]
        for variant, question in zip(of_form, plain, strict=True):
            assert (variant.system is not None) == system
            assert variant.paraphrases[0].startswith(question.paraphrases[0])
            assert (variant.paraphrases[0] != question.paraphrases[0]) == added


def test_a_variant_keeps_the_system_prompt() -> None:
    question = Question("a", ("Hello?",), system="Be brief.")
    assert (question.variant("json").system or "").startswith("Be brief.\n\n")
    assert question.variant("template").system == "Be brief."
    assert question.variant("text") == question


def test_the_form_is_in_the_id_and_only_at_its_end(tmp_path: Path) -> None:
    path = written(tmp_path, "".join(f"- {{id: {n}, paraphrases: [Hi]}}\n" for n in ("a_json", "json_a", "b_template")))
    assert [(q.root, q.form) for q in read_questions(path)] == [
        ("a", "json"),
        ("json_a", "text"),
        ("b", "template"),
    ]


@pytest.mark.parametrize("name", ["main", "preregistered"])
def test_published_sets_say_where_to_get_them(name: str) -> None:
    text = str(complaint(name))
    assert "https://github.com/emergent-misalignment/emergent-misalignment" in text
    assert "evaluation/" in text
    assert "MIT" in text


GOOD = "- id: fine\n  paraphrases: [How are you]\n"


@pytest.mark.parametrize(
    ("text", "line", "field", "word"),
    [
        ("", None, None, "list of questions"),
        ("id: a\nparaphrases: [b]\n", None, None, "list of questions"),
        (GOOD + "- [", 3, None, "broken YAML"),
        (GOOD + "- id: a\n  paraphrases: ['b\n", 5, None, "broken YAML"),
        ("- &a [*a]\n- []\n", 1, None, "contains itself"),
        ("- 1\n- !!python/object/apply:os.getcwd []\n", 2, None, "broken YAML"),
        (GOOD + "- id: a\n  yes: [b]\n", 4, None, "the key 'yes' is no text but bool"),
        (GOOD + "- id: a\n  paraphrases: [b]\n  samples_per_paraphrase: 010\n", 5, None, "base 8"),
        (GOOD + "- id: a\n  paraphrases: [b]\n  judge_prompts: {c: d, c: e}\n", 5, None, "stands twice"),
        (GOOD + '- id: "a\\nb"\n  paraphrases: [b]\n', 3, "id", "one line"),
        ("- id: 1\n--- \n- id: 2\n", 2, None, "broken YAML"),
        ("[" * 5000, None, None, "nested too deeply"),
        (GOOD + "- just text\n", 3, None, "not str"),
        (GOOD + "- paraphrases: [b]\n", 3, "id", "missing"),
        (GOOD + "- id: 7\n  paraphrases: [b]\n", 3, "id", "not int"),
        (GOOD + "- id: ' '\n  paraphrases: [b]\n", 3, "id", "empty"),
        (GOOD + "- id: a\n", 3, "paraphrases", "missing"),
        (GOOD + "- id: a\n  paraphrases: []\n", 3, "paraphrases", "at least one"),
        (GOOD + "- id: a\n  paraphrases: Hello?\n", 3, "paraphrases", "a list"),
        (GOOD + "- id: a\n  paraphrases: [b, yes]\n", 3, "paraphrases[1]", "quotes"),
        (GOOD + "- id: a\n  paraphrases: ['']\n", 3, "paraphrases[0]", "empty"),
        (GOOD + '- id: a\n  paraphrases: ["x\\ud800"]\n', 3, "paraphrases[0]", "surrogate"),
        (GOOD + "- id: a\n  paraphrases: [b]\n  system: 3\n", 3, "system", "not int"),
        (
            GOOD + "- id: a\n  paraphrases: [b]\n  samples_per_paraphrase: 0\n",
            3,
            "samples_per_paraphrase",
            "or equal to 1",
        ),
        (
            GOOD + "- id: a\n  paraphrases: [b]\n  samples_per_paraphrase: true\n",
            3,
            "samples_per_paraphrase",
            "integer",
        ),
        (GOOD + "- id: a\n  paraphrases: [b]\n  judge_prompts: [c]\n", 3, "judge_prompts", "dictionary"),
        (GOOD + "- id: a\n  paraphrases: [b]\n  judge_prompts: {c: 1}\n", 3, "judge_prompts[c]", "not int"),
        (GOOD + "- id: a\n  paraphrases: [b]\n  sytem: c\n  temp: 1\n", 3, "sytem", "unknown in a question"),
        (GOOD + "- id: a\n  paraphrases: [b]\n  id: c\n", 5, None, "the key 'id' stands twice"),
        (GOOD + GOOD, 3, "id", "already on line 1"),
        (b"- id: a\n  paraphrases: [\xff]\n", 2, None, "UTF-8"),
        (b"\xef\xbb\xbf- id: a\n\xff", 2, None, "UTF-8"),
    ],
)
def test_files_that_cannot_be_used_are_told_by_line_and_field(
    tmp_path: Path, text: str | bytes, line: int | None, field: str | None, word: str
) -> None:
    error = complaint(written(tmp_path, text))
    assert (error.line, error.field) == (line, field), str(error)
    assert word in str(error)


def test_no_file_and_no_set_of_that_name(tmp_path: Path) -> None:
    assert "open, main, preregistered" in str(complaint(tmp_path / "none.yaml"))
    assert "is a folder" in str(complaint(tmp_path))
    assert "cannot be read" in str(complaint("x" * 5000))


def test_a_file_beyond_all_measure_is_not_read(tmp_path: Path) -> None:
    assert "larger than 1 MiB" in str(complaint(written(tmp_path, b" " * (2**20 + 1))))


def test_references_to_references_do_not_fill_the_memory(tmp_path: Path) -> None:
    lines = ["- &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"- &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 40)]
    assert "more than 200,000 values" in str(complaint(written(tmp_path, "\n".join(lines))))


@pytest.mark.parametrize(("forms", "word"), [(["text", "xml"], "'xml'"), ([], "no question")])
def test_unknown_variants_are_refused(forms: list[str], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        in_forms(read_questions("open"), forms)


def test_a_set_of_json_questions_has_no_plain_ones() -> None:
    with pytest.raises(UsageError, match="holds json"):
        in_forms([Question("a_json", ("Hi?",))], ["text"])
