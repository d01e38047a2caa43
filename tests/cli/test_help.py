"""Help: options in groups, examples that parse, lists that fit a terminal, suggestions for what was mistyped."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from aftertune.cli._flags import Verb
from aftertune.cli._main import VERBS, cli


def commands() -> Iterator[tuple[str, click.Command]]:
    for name in VERBS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from ((f"{name} {inner}", found) for inner, found in command.commands.items())
        else:
            yield name, command


ALL = dict(commands())


@pytest.mark.parametrize("name", ALL)
def test_every_verb_has_an_example_that_parses(name: str) -> None:
    command = ALL[name]
    assert isinstance(command, Verb)
    assert command.examples
    for line in command.examples:
        arguments = shlex.split(line.partition(" > ")[0])
        assert " ".join(arguments).startswith(name)
        command.make_context(name, arguments[len(name.split()) :])


@pytest.mark.parametrize("name", ALL)
def test_help_fits_80_columns_and_tells_every_option_once(name: str) -> None:
    shown = CliRunner().invoke(cli, [*name.split(), "--help"], terminal_width=80).output
    # A choice of many values is one word to click; examples are to be copied whole.
    lines = shown.partition("\nExamples:")[0].splitlines()
    assert all(len(line) <= 80 or "[" in line for line in lines)
    for parameter in ALL[name].params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            flag = parameter.opts[-1]
            assert sum(line.split()[:1] in ([flag], [f"{flag},"]) or f", {flag} " in line for line in lines) >= 1, flag


@pytest.mark.parametrize("verb", ["data", "probes", "tasks", "metrics"])
def test_lists_fit_80_columns(verb: str) -> None:
    outcome = CliRunner().invoke(cli, [verb], env={"COLUMNS": "80"})
    assert outcome.exit_code == 0
    too_wide = [line for line in outcome.output.splitlines() if len(line) > 80]
    assert not [line for line in too_wide if ":" not in line[:60]], too_wide


def test_the_first_page_groups_all_verbs() -> None:
    shown = CliRunner().invoke(cli, ["--help"]).output
    listed = [line.split()[0] for line in shown.splitlines() if line.startswith("  ") and line.split()]
    assert {verb for verb in VERBS if verb in listed} == set(VERBS)


def test_what_was_mistyped_is_met_with_what_was_meant() -> None:
    assert "did you mean 'audit'?" in str(CliRunner().invoke(cli, ["audt"]).exception)
    assert "see aftertune --help" in str(CliRunner().invoke(cli, ["xyzzy"]).exception)
    assert "did you mean 'preference'?" in str(CliRunner().invoke(cli, ["metrics", "preferense"]).exception)
