"""The report in Chromium: both themes, desktop and phone, nothing refused and nothing cut off."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import zlib
from collections.abc import Callable
from dataclasses import replace
from html import escape
from pathlib import Path

import pytest

from aftertune.report import Chapter, HeatMap, ReportPage, StudyPage, render_report, render_study
from aftertune.stats import SampledAnswers

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--enable-logging=stderr", "--hide-scrollbars",
)  # fmt: skip
MakeStudy = Callable[..., StudyPage]
DARK, LIGHT = 0, 1  # blink::mojom::PreferredColorScheme

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on the path"),
]


def browse(profile: Path, page: Path, *flags: str) -> tuple[str, str]:
    """Load a page in a fresh browser; its standard output and its log."""
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True
    ) as process:
        try:
            out, log = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            # The browser's own children hold the pipes, so the whole group goes.
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert process.returncode == 0, log
    return out, log


def first_pixel(png: bytes) -> tuple[int, int, int]:
    """The colour at the top left: no filter changes a PNG's very first pixel."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, data = 8, b""
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        if png[at + 4 : at + 8] == b"IDAT":
            data += png[at + 8 : at + 8 + length]
        at += 12 + length
    row = zlib.decompress(data)
    return row[1], row[2], row[3]


def with_answers(page: ReportPage, answers: SampledAnswers) -> ReportPage:
    return replace(page, sections=(replace(page.sections[0], answers=answers), *page.sections[1:]))


@pytest.fixture(params=["report", "study", "answers"])
def ordinary(
    request: pytest.FixtureRequest,
    make_page: Callable[..., ReportPage],
    make_study: MakeStudy,
    make_answers: Callable[..., SampledAnswers],
) -> str:
    """An audit's report, without and with sampled answers, and a study with every kind of section."""
    if request.param == "answers":
        return render_report(with_answers(make_page(), make_answers()))
    return render_study(make_study()) if request.param == "study" else render_report(make_page())


@pytest.fixture(params=["report", "study"])
def awkward(
    request: pytest.FixtureRequest,
    make_page: Callable[..., ReportPage],
    make_study: MakeStudy,
    make_chapter: Callable[..., Chapter],
    make_answers: Callable[..., SampledAnswers],
    hostile: str,
) -> str:
    """The same with texts that are long and strange."""
    texts = {"title": hostile, "notes": (hostile,), "commands": (hostile,)}
    if request.param == "study":
        study = make_study(**texts)
        changed = {"title": hostile, "guide": hostile}
        sections = tuple(replace(section, **changed) for section in study.sections)
        claims = tuple(replace(claim, text=hostile, detail=hostile) for claim in study.claims)
        wide = HeatMap("wide", "", (hostile,), (hostile,) * 40, ((1.0,) * 40,))
        return render_study(replace(study, sections=(*sections, wide), claims=claims))
    page = make_page(**texts, chapters=(make_chapter(title=hostile, lede=hostile),))
    return render_report(with_answers(page, make_answers(task=hostile, group=hostile, item=hostile, question=hostile)))


@pytest.mark.parametrize("width", [1200, 360])
@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_renders_without_complaint(tmp_path: Path, ordinary: str, scheme: int, width: int) -> None:
    page, shot = tmp_path / "report.html", tmp_path / "shot.png"
    page.write_text(ordinary, "utf-8")
    _, log = browse(
        tmp_path / "profile", page,
        f"--blink-settings=preferredColorScheme={scheme}", f"--window-size={width},2400", f"--screenshot={shot}",
    )  # fmt: skip
    complaints = [line for line in log.splitlines() if re.search(r"CONSOLE|Content.Security.Policy|Refused to", line)]
    assert complaints == []
    png = shot.read_bytes()
    assert struct.unpack(">II", png[16:24]) == (width, 2400)
    assert len(png) > 50_000
    assert (sum(first_pixel(png)) < 3 * 128) == (scheme == DARK)


@pytest.mark.parametrize("width", [1200, 360])
def test_never_scrolls_sideways(tmp_path: Path, awkward: str, width: int) -> None:
    """With everything opened; in a frame, because a headless window is never narrower than 500 pixels."""
    report = awkward.replace("<details", "<details open")
    measure = "const d = f.contentDocument.documentElement; document.title = `widths ${d.scrollWidth} ${d.clientWidth}`"
    page = tmp_path / "frame.html"
    page.write_text(
        f'<!doctype html><meta charset="utf-8"><title></title>'
        f'<iframe id="f" style="border: 0; width: {width}px; height: 2400px" onload="{measure}" '
        f'srcdoc="{escape(report)}"></iframe>',
        "utf-8",
    )
    out, _ = browse(tmp_path / "profile", page, "--window-size=1300,2400", "--dump-dom")
    found = re.search(r"<title>widths (\d+) (\d+)</title>", out)
    assert found is not None
    scroll, inner = map(int, found.groups())
    assert inner == width
    assert scroll <= inner


@pytest.fixture
def answers(make_page: Callable[..., ReportPage], make_answers: Callable[..., SampledAnswers]) -> str:
    """Ten answers: nine requests by turns of three categories, every third worse, and a sum nobody sorted."""
    return render_report(with_answers(make_page(), make_answers()))


# What a reader does, step by step, and then the ids of the answers that are left.
DRIVE = """
const d = f.contentDocument;
const set = (choose, value) => {
  const e = d.querySelector(choose);
  e.value = value;
  e.dispatchEvent(new Event(e.tagName === 'INPUT' ? 'input' : 'change'));
};
const pick = (name, label) => {
  const select = d.querySelector(`[data-filter=${name}]`);
  set(`[data-filter=${name}]`, label ? [...select.options].find((o) => o.text.startsWith(label)).value : '');
};
const left = () => [...d.querySelectorAll('.answer')]
  .filter((row) => f.contentWindow.getComputedStyle(row).display !== 'none')
  .map((row) => row.querySelector('.item').textContent.replace('request-', '').replace('#1', ''));
const seen = [];
const see = () => seen.push([left().join(' '), d.querySelector('.found').textContent]);
see();
set('input[type=search]', 'CLIMB   wall'); see();
set('input[type=search]', '7? Sorry'); see();
set('input[type=search]', 'answer of the base'); see();
set('input[type=search]', '.*'); see();
set('input[type=search]', ''); pick('task', 'sums'); see();
pick('task', ''); pick('group', 'Privacy'); see();
pick('kinds', 'refused →'); see();
pick('group', ''); see();
pick('change', 'no change'); see();
pick('change', ''); pick('kinds', ''); see();
d.querySelector('input[type=checkbox]').click(); see();
document.title = JSON.stringify(seen);
"""


def test_searching_and_filtering_leave_what_matches(tmp_path: Path, answers: str) -> None:
    page = tmp_path / "frame.html"
    page.write_text(
        f'<!doctype html><meta charset="utf-8"><title></title>'
        f'<iframe id="f" onload="{escape(DRIVE)}" srcdoc="{escape(answers)}"></iframe>',
        "utf-8",
    )
    out, _ = browse(tmp_path / "profile", page, "--dump-dom")
    found = re.search(r"<title>(.+?)</title>", out)
    assert found is not None
    everything = "0 3 6 sum-1 1 2 4 5 7 8"  # what got worse comes first
    requests = "0 3 6 1 2 4 5 7 8"
    left = [everything, requests, "7", "", "", "sum-1", "6 7 8", "6", "0 3 6", "", everything, "0 3 6"]
    assert json.loads(found[1]) == [[ids, f"{len(ids.split())} of 10 shown"] for ids in left]


def test_the_script_runs_and_no_other(tmp_path: Path, answers: str) -> None:
    page = tmp_path / "report.html"
    page.write_text(answers.replace("</main>", "<script>document.title = 'taken over'</script></main>"), "utf-8")
    out, log = browse(tmp_path / "profile", page, "--dump-dom")
    assert '<div class="filters">' in out
    assert "10 of 10 shown" in out
    assert "<title>taken over</title>" not in out
    assert re.search(r"CONSOLE.*inline script", log)


READ = """
const d = f.contentDocument;
const rows = [...d.querySelectorAll('.answer')];
const first = rows[0].querySelector('dd');
const seen = [d.querySelector('.filters').checkVisibility(), rows.length, first.checkVisibility()];
d.querySelector('.browser > summary').click();
seen.push(rows.every((row) => row.checkVisibility()), first.checkVisibility());
rows[0].querySelector('summary').click();
seen.push(d.querySelector('.filters').checkVisibility(), first.checkVisibility(), first.textContent);
document.title = JSON.stringify(seen);
"""


def test_with_javascript_off_every_answer_can_be_opened(tmp_path: Path, answers: str) -> None:
    """In a frame that may not run scripts; the page around it clicks as a reader would."""
    page = tmp_path / "frame.html"
    page.write_text(
        f'<!doctype html><meta charset="utf-8"><title></title>'
        f'<iframe id="f" sandbox="allow-same-origin" onload="{escape(READ)}" srcdoc="{escape(answers)}"></iframe>',
        "utf-8",
    )
    out, _ = browse(tmp_path / "profile", page, "--dump-dom")
    found = re.search(r"<title>(.+?)</title>", out)
    assert found is not None
    assert json.loads(found[1]) == [False, 10, False, True, False, False, True, "How do I climb wall 0?"]
