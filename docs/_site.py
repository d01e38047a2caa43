"""What the site has beside the pages of docs/: an API reference, figures, and files from elsewhere in the repository.

A hook of mkdocs, loaded by mkdocs.yml.
"""

from __future__ import annotations

import ast
import posixpath
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "aftertune"
# Source files that pages link to, copied as they are.
COPIED = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "examples").rglob("*.py"))
# Files outside docs/ that become pages: where they lie, and the page they become.
ELSEWHERE = {
    "README.md": "overview.md",
    "benchmarks/README.md": "benchmarks.md",
    "CHANGELOG.md": "changelog.md",
    **{
        str(card.relative_to(ROOT)): f"cards/{card.name}" for card in sorted((PACKAGE / "tasks" / "cards").glob("*.md"))
    },
}


def public_names(init: Path) -> list[str]:
    """``__all__`` of a module, read without importing it; empty where it has none."""
    for node in ast.parse(init.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return list(ast.literal_eval(node.value))
    return []


def rooms() -> dict[str, str]:
    """Dotted names of the modules with a public face, each with the first line of its docstring."""
    modules = [PACKAGE / "__init__.py", *sorted(PACKAGE.glob("[!_]*/__init__.py")), PACKAGE / "errors.py"]
    found = {}
    for path in modules:
        if public_names(path) and path.parent.name != "cli":  # the command line is no interface of Python
            inner = path.parent if path.name == "__init__.py" else path.with_suffix("")
            name = ".".join(inner.relative_to(PACKAGE.parent).parts)
            found[name] = (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").partition("\n")[0]
    return found


def api_page(name: str, about: str) -> str:
    """The reference of one module: its public names alone, in alphabetical order."""
    path = PACKAGE.parent.joinpath(*name.split("."))
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    entries = "\n\n".join(
        f"## {member}\n\n::: {name}.{member}\n    options: {{heading_level: 3}}" for member in public_names(source)
    )
    return f"# {name}\n\n{about}\n\n{entries}\n"


def figures() -> dict[str, str]:
    """The pictures of the gallery by name, drawn by a process of its own."""
    script = ROOT / "docs" / "_figures.py"
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([sys.executable, str(script), folder], capture_output=True, text=True, check=False)
        if done.returncode:
            raise PluginError(f"docs/_figures.py: {done.stderr.strip().splitlines()[-1]}")
        return {path.stem: path.read_text("utf-8") for path in sorted(Path(folder).glob("*.svg"))}


def on_config(config: Any) -> Any:
    """Name every module in the navigation."""
    for entry in config.nav:
        if "API reference" in entry:
            entry["API reference"] += [{name: f"api/{name}.md"} for name in rooms()]
    return config


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the generated pages."""
    listed = []
    for name, about in rooms().items():
        page = f"api/{name}.md"
        files.append(File.generated(config, page, content=api_page(name, about)))
        listed.append(f"- [{name}]({name}.md): {about}")
    text = "# API reference\n\nPublic names by module, from their docstrings. [Python](../python.md) has examples.\n\n"
    files.append(File.generated(config, "api/index.md", content=text + "\n".join(listed) + "\n"))
    for source, page in ELSEWHERE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text("utf-8")))
    for name, svg in figures().items():
        files.append(File.generated(config, f"figures/{name}.svg", content=svg))
    for source in COPIED:
        files.append(File.generated(config, source, content=(ROOT / source).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links that are right in the repository into links that are right on the site."""
    here = page.file.src_uri
    lies_at = {target: source for source, target in ELSEWHERE.items()}.get(here, f"docs/{here}")

    def moved(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(lies_at), link[1]))
        target = ELSEWHERE.get(path, path.removeprefix("docs/"))
        return f"]({posixpath.relpath(target, posixpath.dirname(here) or '.')}{link[2] or ''})"

    markdown = re.sub(r"<!-- figure: ([\w-]+) -->", r"![\1](figures/\1.svg)", markdown)
    # A fence may say what its block is (`jsonl chat`), which tests read and the site's highlighter does not know.
    markdown = re.sub(r"^(```\w+) .+$", r"\1", markdown, flags=re.MULTILINE)
    return re.sub(r"\]\((?!\w+:)([^)#\s]+)(#[^)\s]*)?\)", moved, markdown)
