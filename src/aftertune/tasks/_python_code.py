"""Python code in an answer: its blocks, and whether they are Python at all. Nothing is run."""

from __future__ import annotations

import ast
import textwrap
import warnings
from collections.abc import Sequence
from typing import NamedTuple

from aftertune.judges import code_lines, split_fences

_PYTHON = frozenset(("python", "python3", "py", "py3"))


class PythonCode(NamedTuple):
    """The Python of one answer.

    Attributes:
        blocks: all there is, as written but for common indentation.
        parsed: what of it can be parsed, blocks that were cut off up to their last whole statement.
        main_parses: whether the longest block is among it; False where there is none.
    """

    blocks: tuple[str, ...]
    parsed: tuple[str, ...]
    main_parses: bool


def python_code(text: str, *, truncated: bool = False) -> PythonCode:
    """Find the Python in an answer.

    Fenced blocks count if their language is Python; where none says so, those that name no language. Without any
    fence it is the whole text if that can be parsed, else what stands from the first line that has the shape of code
    to the last.

    Args:
        text: the answer, without its thinking.
        truncated: whether it was cut off, so that its last block may end within a statement.
    """
    blocks = _blocks(text)
    parsed = [block if parses(block) else "" for block in blocks]
    if truncated and blocks and not parsed[-1]:
        parsed[-1] = _whole_statements(blocks[-1])
    longest = max(range(len(blocks)), key=lambda number: len(blocks[number]), default=None)
    main = longest is not None and bool(parsed[longest])
    return PythonCode(tuple(blocks), tuple(block for block in parsed if block), main)


def parses(code: str) -> bool:
    """Whether text is Python, of the version that runs this."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as of "\\d" in a plain string
        try:
            ast.parse(code)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    return True


def _blocks(text: str) -> list[str]:
    outside, fenced = split_fences(text)
    if not fenced:
        shaped = code_lines(outside)
        return _if_any([outside if shaped and parses(outside) else shaped])
    named = [block for language, block in fenced if language in _PYTHON]
    return _if_any(named or [block for language, block in fenced if not language])


def _if_any(blocks: Sequence[str]) -> list[str]:
    stripped = [textwrap.dedent(block).strip("\n") + "\n" for block in blocks]
    return [block for block in stripped if block.strip()]


def _whole_statements(code: str) -> str:
    """Code up to where it can be parsed; "" if that leaves nothing."""
    lines = code.splitlines(keepends=True)
    while lines and not parses("".join(lines)):
        lines.pop()
    kept = "".join(lines)
    return kept if kept.strip() else ""
