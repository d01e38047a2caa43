"""Entry point: verbs loaded when called, errors as one line, exit codes as the gate promises."""

from __future__ import annotations

import difflib
import errno
import importlib
import io
import os
import sys
import traceback
from typing import NoReturn

import click

from aftertune._registered import EXTENSIONS
from aftertune.errors import AftertuneError, ExitCode, UsageError, spelled_out

_WIDEST, _LONGEST = 100, 2_000
# What the system says of a path that a user named, wherever it is opened.
_OF_PATHS = {
    errno.EACCES, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR, errno.EPERM, errno.EROFS,
    errno.ENXIO,
}  # fmt: skip

# Verb → (module, one line for --help). Modules are imported only when their verb is called.
VERBS: dict[str, tuple[str, str]] = {
    "demo": ("_demo", "See the whole story on a small real model."),
    "audit": ("_audit", "Compare a fine-tuned model to its base: pass, fail or inconclusive."),
    "compare": ("_compare", "Compare two runs of Inspect: the same gate for sampled answers."),
    "measure": ("_measure", "Measure one model alone."),
    "tune": ("_tune", "Fine-tune a model, loss on responses only."),
    "locate": ("_locate", "Find the weights that carry a behaviour, or repair a fine-tune."),
    "patch": ("_patch", "Apply, undo, verify or show a patch."),
    "study": ("_study", "Test a claim of the papers on a model."),
    "calibrate": ("_calibrate", "Compare a judge with answers that people labelled."),
    "report": ("_report", "Rebuild the report of a finished run."),
    "probes": ("_lists", "List probes: what each asks, what it needs."),
    "tasks": ("_lists", "List tasks: what is asked, whether a judge is needed."),
    "metrics": ("_lists", "List metrics: what they mean, whether they decide, default tolerances."),
    "data": ("_lists", "List data sets: what, how many rows, licence."),
    "policy": ("_lists", "Print the default policy as YAML."),
    "doctor": ("_doctor", "Say what this machine can and cannot do."),
}


_SECTIONS = {
    "Decide": ("audit", "compare", "measure", "report"),
    "Tune and repair": ("tune", "locate", "patch"),
    "Experiments": ("demo", "study"),
}


class Verbs(click.Group):
    """A group whose commands are imported late."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Verbs in the order a newcomer needs them."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the verb's module and take its command."""
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"aftertune.cli.{VERBS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb that the arguments begin with; a mistyped one is met with a similar one."""
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], VERBS, n=1)
            mend = f"did you mean '{close[0]}'?" if close else "see aftertune --help"
            raise UsageError(f"{args[0][:_WIDEST]}: no such verb; {mend}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of verbs by what they are for, without importing any."""
        rest = dict(VERBS)
        for title, verbs in _SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(verb, rest.pop(verb)[1]) for verb in verbs])
        with formatter.section("Look up"):
            formatter.write_dl([(verb, about) for verb, (_, about) in rest.items()])


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="aftertune", message="%(prog)s %(version)s")
@click.option("--extension", "extensions", multiple=True, metavar="FILE",
              help="Run this Python file and use the rows (a probe, …) that it exports. Repeatable.")  # fmt: skip
def cli(extensions: tuple[str, ...]) -> None:
    """Did fine-tuning break my model?

    Exit codes: 0 pass, 1 fail, 2 usage, 3 inconclusive, 4 broken run.
    """
    if extensions:
        before = filter(None, [os.environ.get(EXTENSIONS)])
        os.environ[EXTENSIONS] = os.pathsep.join([*before, *map(os.path.abspath, extensions)])


def _quiet_libraries() -> None:
    """Keep libraries' chatter off stderr: what matters we say ourselves."""
    import warnings

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    warnings.simplefilter("ignore", FutureWarning)
    warnings.simplefilter("ignore", UserWarning)


def _forgiving_streams() -> None:
    """Spell out what a terminal's encoding cannot hold, rather than break after the work is done."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def main() -> None:
    """Run the command line and exit."""
    _quiet_libraries()
    _forgiving_streams()
    try:
        _refuse_null_bytes(sys.argv[1:])
        code = cli.main(prog_name="aftertune", standalone_mode=False)
    except SystemExit as ended:
        # Click ends with 1 when nobody reads stdout any more (`| head`); here, 1 would mean that the gate failed.
        sys.exit(141 if ended.code == 1 else ended.code)
    except click.exceptions.Abort as error:
        if isinstance(error.__cause__, EOFError):  # click takes it for an interrupt; here it is a file cut short
            _bug()
        _interrupted()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(ExitCode.USAGE)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f"; see {context.command_path} --help" if context else ""
        _fail(error.format_message().rstrip(".") + hint, ExitCode.USAGE)
    except AftertuneError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _interrupted()
    except MemoryError:
        _fail("out of memory; use a smaller model, a smaller --dtype or --max-batch-tokens", ExitCode.BROKEN)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            _fail(f"{error.filename or 'standard output'}: no space left on the disk", ExitCode.BROKEN)
        if error.filename is None or error.errno not in _OF_PATHS:
            _bug()
        _fail(f"{error.filename}: cannot be used ({(error.strerror or 'refused').lower()}); check the path", 2)
    except Exception:
        _bug()
    sys.exit(code if isinstance(code, int) else ExitCode.PASS)


def _refuse_null_bytes(arguments: list[str]) -> None:
    """A null byte ends every path and name that the system takes, so no argument may hold one."""
    for argument in arguments:
        if "\0" in argument:
            raise UsageError(f"{argument[:_WIDEST]}: holds a null byte; leave it out")


def _bug() -> NoReturn:
    traceback.print_exc()  # show where
    _fail("this is a bug in aftertune; please report it with the lines above", ExitCode.BROKEN)


def _interrupted() -> NoReturn:
    print("Interrupted. Run the same command again to continue.", file=sys.stderr)
    sys.exit(130)


def _fail(message: str, code: int) -> NoReturn:
    """One line, spelled out, keys and passwords in it hidden, the middle of an endless one left out."""
    from aftertune.runs import without_secrets

    line = spelled_out(without_secrets(" ".join(message.splitlines())))
    if len(line) > _LONGEST:
        line = f"{line[: _LONGEST // 2]} […] {line[-_LONGEST // 2 :]}"
    print(f"error: {line}", file=sys.stderr)
    sys.exit(code)
