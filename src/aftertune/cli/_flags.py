"""How verbs are declared: options in groups, an example or two, and flags that come from a model's fields."""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin

import click

if TYPE_CHECKING:
    from pydantic import BaseModel

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S")

_GROUP = "aftertune_group"


class Verb(click.Command):
    """A command whose help shows its options in groups, and examples.

    Args:
        examples: command lines as a user types them, without the ``aftertune`` in front.
    """

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Options group by group, in the order in which the groups were declared."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record and isinstance(parameter, click.Option):
                groups.setdefault(getattr(parameter, _GROUP, "Options"), []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples."""
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}aftertune {line}\n")


def grouped(title: str, *decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Options that stand under one title in help."""

    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            known = len(_parameters(function))
            function = decorator(function)
            for parameter in _parameters(function)[known:]:
                setattr(parameter, _GROUP, title)
        return function

    return apply


def _parameters(function: Callable[..., Any]) -> list[click.Parameter]:
    found: list[click.Parameter] = getattr(function, "__click_params__", [])
    return found


class Renamed(click.Choice[str]):
    """A choice that still takes former names, and names the new one on stderr.

    Args:
        choices: the names of today.
        former: former name → name of today.
        gone: names that are no choice any more → what to say of them.
    """

    def __init__(self, choices: Sequence[str], former: Mapping[str, str], gone: Mapping[str, str]) -> None:
        super().__init__(choices)
        self.former, self.gone = former, gone

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name of today."""
        if value in self.former:
            click.echo(f"note: '{value}' is now called '{self.former[value]}'", err=True)
            value = self.former[value]
        if value in self.gone:
            self.fail(self.gone[value], param, ctx)
        return super().convert(value, param, ctx)


def model_options(
    model: type[BaseModel], but: Collection[str] = (), types: Mapping[str, click.Choice[str]] | None = None
) -> Callable[[F], F]:
    """A flag for every field: its name, type, default and description; the model checks the bounds.

    Args:
        model: a pydantic model whose fields have descriptions.
        but: fields without a flag.
        types: what click reads for a field, where that is more than the field's own type.
    """
    names, types = [name for name in model.model_fields if name not in but], types or {}

    def apply(function: F) -> F:
        for name in reversed(names):
            field = model.model_fields[name]
            flag, about = "--" + name.replace("_", "-"), _sentence(field.description or "")
            kind = types.get(name) or _plain_type(field.annotation)
            if kind is bool:
                option = click.option(flag, is_flag=True, default=bool(field.default), help=about)
            else:
                shown = field.default is not None
                option = click.option(flag, type=kind, default=field.default, show_default=shown, help=about)
            function = option(function)
        return function

    return apply


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", ")")) or not text else f"{text}."


def _plain_type(annotation: Any) -> Any:
    """What click reads: the type of an optional field, the values of a literal one."""
    if get_origin(annotation) in (Union, types.UnionType):
        [annotation] = [part for part in get_args(annotation) if part is not type(None)]
    if get_origin(annotation) is Literal:
        return click.Choice([str(value) for value in get_args(annotation)])
    return annotation


def make_settings(kind: type[S], options: Mapping[str, Any]) -> S:
    """Settings from options of the same names; a value that does not fit is an error that names its flag."""
    from pydantic import ValidationError

    from aftertune.errors import UsageError

    try:
        return kind(**options)
    except ValidationError as error:
        first = error.errors()[0]
        flag = "--" + str(first["loc"][0]).replace("_", "-") + ": " if first["loc"] else ""
        raise UsageError(f"{flag}{first['msg'].removeprefix('Value error, ')}") from None
