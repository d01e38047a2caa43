"""A study as one HTML file that loads nothing and runs nothing."""

from __future__ import annotations

from aftertune.report._drawing import draw_claims, draw_sections
from aftertune.report._manifest import manifest_parts
from aftertune.report._page import StudyPage
from aftertune.report._template import fill


def render_study(page: StudyPage) -> str:
    """The study as HTML: its claims, what they rest on, and how it was measured.

    Args:
        page: what to show; its texts may hold anything and are shown as text.
    """
    return fill(
        "study.html.j2",
        page=page,
        claims=draw_claims(page.claims),
        sections=draw_sections(page.sections, "section"),
        **manifest_parts(page.manifest, page.commands),
    )
