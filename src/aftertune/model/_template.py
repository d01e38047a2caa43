"""Chat templates of checkpoints: rendered in a sandbox, with bounds on time and size and a clock that stands still."""

from __future__ import annotations

import datetime
import functools
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

# What `strftime_now` gives, whatever the day: the date that Llama 3's own templates fall back to.
PINNED_DATE = datetime.date(2024, 7, 26)

SECONDS = 10.0
LARGEST = 2**20
_CHARACTERS = 2**24
_WIDTH = 10_000
_BITS = 4096

_clock = threading.local()


class TemplateRefused(jinja2.TemplateError):
    """The template asks for more time or memory than a chat template needs, or for chance."""


class ChatTemplate:
    """A Jinja template as `transformers` renders it, but bounded and the same on every day.

    Rendering stops after 10 seconds or 16 Mi characters. The bound holds in any thread, since every loop and every
    call of the template looks at the time. ``strftime_now`` gives `PINNED_DATE`.

    Args:
        text: the template.

    Raises:
        jinja2.TemplateError: it is no Jinja template.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        if len(text) > LARGEST:
            raise TemplateRefused(f"it has more than {LARGEST} characters")
        with _bounded_time():  # constant expressions are worked out here
            self._compiled = _environment().from_string(text)

    @property
    def dated(self) -> bool:
        """Whether the template asks for today's date."""
        return "strftime_now" in self.text

    def render(self, messages: Sequence[Mapping[str, Any]], *, generate: bool, tokens: Mapping[str, Any]) -> str:
        """The rendered text.

        Args:
            messages: role and content of each.
            generate: whether to end where the assistant is to speak.
            tokens: the tokenizer's special tokens by name.

        Raises:
            TemplateRefused: it takes too long, grows too large or draws at random.
            Exception: whatever else the template raises.
        """
        with _bounded_time():
            return self._compiled.render(
                {**tokens, "enable_thinking": False},
                messages=[dict(message) for message in messages],
                tools=None,
                documents=None,
                add_generation_prompt=generate,
            )


@contextmanager
def _bounded_time() -> Iterator[None]:
    _clock.end = time.monotonic() + SECONDS
    try:
        yield
    finally:
        _clock.end = None


def _check_clock() -> None:
    end = getattr(_clock, "end", None)
    if end is not None and time.monotonic() > end:
        raise TemplateRefused(f"it did not finish within {SECONDS:g} s")


def _check_size(size: int) -> None:
    if size > _CHARACTERS:
        raise TemplateRefused(f"it makes texts of more than {_CHARACTERS} characters")


def _join(parts: Any) -> str:
    texts, size = [], 0
    for count, part in enumerate(parts):
        size += len(part)
        _check_size(size)
        if count % 1024 == 0:
            _check_clock()
        texts.append(part)
    return "".join(texts)


def _check_call(function: Any, owner: Any, arguments: Sequence[Any]) -> None:
    """Refuse a single call that makes an enormous text, which no look at the clock could interrupt."""
    if any(isinstance(a, int) and abs(a) > _WIDTH for a in arguments) and isinstance(owner, str):
        raise TemplateRefused(f"it pads a text to more than {_WIDTH} characters")
    name = getattr(function, "__name__", "")
    if not isinstance(owner, str):
        return
    if name in ("format", "format_map", "do_format"):
        _check_widths(owner)
    if name in ("replace", "do_replace") and len(arguments) > 1:
        old, new = str(arguments[0]), str(arguments[1])
        _check_size(len(owner) + (owner.count(old) if old else len(owner) + 1) * len(new))
    if name == "join" and arguments:
        _join(owner + str(part) for part in _few(arguments[0]))


def _check_widths(pattern: str) -> None:
    if re.search(r"\d{5,}", pattern):
        raise TemplateRefused(f"it pads a text to more than {_WIDTH} characters")


def _few(values: Any) -> Any:
    """The values, where they can be gone through twice; else none of them."""
    return values if isinstance(values, str | list | tuple | dict) else ()


class _BoundedCode(CodeGenerator):
    """Code in which every round of a loop looks at the clock, and every joined text at its size."""

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        tick = nodes.ExprStmt(nodes.Call(nodes.EnvironmentAttribute("tick"), [], [], None, None))
        node.body = [tick.set_lineno(node.lineno), *node.body]
        super().visit_For(node, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.bounded(")
        super().visit_Concat(node, frame)
        self.write(")")


class _GenerationTag(Extension):
    """``{% generation %}`` marks what trainers supervise; it prints what stands in it."""

    tags = {"generation"}  # noqa: RUF012  (Jinja's own attribute)

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class _BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, bounded in time and size."""

    code_generator_class = _BoundedCode
    intercepted_binops = frozenset(["+", "*", "**", "%"])
    concat = staticmethod(_join)

    def tick(self) -> None:
        _check_clock()

    def bounded(self, text: Any) -> Any:
        _check_size(len(text))
        return text

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        _check_clock()
        _check_call(obj, getattr(obj, "__self__", None), (*args, *kwargs.values()))
        return super().call(context, obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            _check_widths(value.__self__)
        return wrapped

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        sized = (str, list, tuple)
        if operator == "*":
            for value, times in ((left, right), (right, left)):
                if isinstance(value, sized) and isinstance(times, int):
                    _check_size(len(value) * max(times, 0))
        if operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * abs(right) if operator == "**" else left.bit_length() + right.bit_length()
            if bits > _BITS:
                raise TemplateRefused("it works out enormous numbers")
        if operator == "+" and isinstance(left, sized) and isinstance(right, sized):
            _check_size(len(left) + len(right))
        if operator == "%" and isinstance(left, str):
            widths = right if isinstance(right, tuple) else (right,)
            _check_widths(left)
            if "*" in left and any(isinstance(w, int) and abs(w) > _WIDTH for w in widths):
                raise TemplateRefused(f"it pads a text to more than {_WIDTH} characters")
        return super().call_binop(context, operator, left, right)


def _bounded_filter(function: Callable[..., Any]) -> Callable[..., Any]:
    skip = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        _check_clock()
        rest = (*args[skip + 1 :], *kwargs.values())
        owner = args[skip] if len(args) > skip else None
        _check_call(function, owner, rest)
        if function.__name__ in ("do_join", "sync_do_join"):
            glue = str(rest[0]) if rest else ""
            _join(glue + str(part) for part in _few(owner))
        return function(*args, **kwargs)

    return bounded


def _by_chance(*args: Any, **kwargs: Any) -> Any:
    raise TemplateRefused("it draws at random, so no two prompts would be alike")


def _raise(message: Any) -> None:
    raise jinja2.TemplateError(str(message))


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class _PlainDict:
    """What templates call ``dict``: it makes one, and offers nothing else."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args, **kwargs)


def _namespace(*args: Any, **kwargs: Any) -> Namespace:
    found = Namespace(*args, **kwargs)
    if any(str(name).startswith("_") for name in dict(*args, **kwargs)):
        raise TemplateRefused("it keeps names that begin with an underscore")
    return found


@functools.cache
def _environment() -> _BoundedEnvironment:
    """What `transformers` offers a chat template (5.23, ``utils/chat_template_utils.py``), bounded."""
    made = _BoundedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols])
    made.filters["tojson"] = _to_json
    made.filters = {name: _bounded_filter(function) for name, function in made.filters.items()}
    made.filters["random"] = _by_chance
    made.globals["lipsum"] = _by_chance
    made.globals["raise_exception"] = _raise
    made.globals["strftime_now"] = PINNED_DATE.strftime
    made.globals["dict"] = _PlainDict()
    made.globals["namespace"] = _namespace
    return made
