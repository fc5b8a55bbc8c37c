"""The page in a real browser: drawn, quiet, and inside the screen of a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fireassay.report import page, write_report
from report.browser import Browser, executable
from report.synthetic import write_study

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(executable() is None, reason="needs headless Chromium on the path (apt-get install chromium)"),
]

EMPTY = """
[...document.querySelectorAll('figure .plot')].filter(plot => {
  const marks = plot.querySelectorAll('.scatterlayer path, .heatmaplayer image');
  const box = plot.querySelector('.main-svg')?.getBoundingClientRect();
  return marks.length === 0 || !box || box.width < 100 || box.height < 100;
}).map(plot => plot.closest('figure').id + ' ' + plot.dataset.panel)
"""
BLANK = """
[...document.querySelectorAll('.pane canvas')].map(canvas => {
  const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  let inked = 0;
  for (let i = 3; i < pixels.length; i += 4) inked += pixels[i] > 0;
  return inked / (pixels.length / 4);
})
"""
OVERFLOWING = """
[...document.querySelectorAll('body *')].filter(e => {
  const box = e.getBoundingClientRect();
  if (!box.width || e.closest('.scroll, nav, svg, .sr, .skip') && !e.matches('.scroll, nav')) return false;
  return box.right > innerWidth + 0.5 || box.left < -0.5;
}).map(e => e.tagName + '.' + e.className + ' ' + e.textContent.slice(0, 40))
"""
OVERLAPPING = """
[...document.querySelectorAll('main')].flatMap(main => {
  const all = [...main.querySelectorAll('h1, h2, h3, h4, figcaption, .plot, .legend, .note, .lead, .scroll, canvas')]
    .filter(e => e.getBoundingClientRect().height > 0 && !e.closest('details:not([open])'));
  const out = [];
  for (let i = 0; i < all.length; i++) for (let j = i + 1; j < all.length; j++) {
    if (all[i].contains(all[j]) || all[j].contains(all[i])) continue;
    const a = all[i].getBoundingClientRect(), b = all[j].getBoundingClientRect();
    const x = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const y = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (x > 1 && y > 1) out.push(all[i].className + all[i].tagName + ' / ' + all[j].className + all[j].tagName);
  }
  return out;
})
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page.printed, "save", lambda *_: [])
        return write_report(write_study(folder), folder / "report.html")


@pytest.fixture(scope="module", params=[(1400, False), (390, True)], ids=["desktop-light", "phone-dark"])
def browser(request: pytest.FixtureRequest, report: Path) -> Iterator[Browser]:
    width, dark = request.param
    with Browser(width, 844, dark=dark, touch=width < 500) as opened:
        opened.open(report)
        yield opened


def test_the_console_is_quiet_and_nothing_is_fetched(browser: Browser, report: Path) -> None:
    assert browser.complaints() == []
    assert browser.requests() == [report.resolve().as_uri()]


def test_every_figure_is_drawn(browser: Browser) -> None:
    assert browser.run("document.querySelectorAll('figure .plot').length") >= 30
    assert browser.run(EMPTY) == []
    inked = browser.run(BLANK)
    assert len(inked) == 3  # the film, and two views of the errors
    assert min(inked) > 0.02


def test_nothing_overflows_or_overlaps(browser: Browser) -> None:
    assert browser.run("document.documentElement.scrollWidth - innerWidth") == 0
    assert browser.run(OVERFLOWING) == []
    assert browser.run(OVERLAPPING) == []


def test_the_theme_follows_the_system_and_the_button(browser: Browser) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    tick = "getComputedStyle(document.querySelector('#figure-training .xtick text')).fill"
    before = browser.run(f"{background} + {tick}")
    browser.run("document.getElementById('theme').click()")
    assert browser.run(f"{background} + {tick}") != before
    browser.run("document.getElementById('theme').click()")
    assert browser.run(f"{background} + {tick}") == before
    assert browser.complaints() == []


def test_tables_sort_by_number_both_ways(browser: Browser) -> None:
    column = "[...document.querySelectorAll('#table-accuracy tbody tr')].map(r => Number(r.cells[5].dataset.key))"
    press = "document.querySelectorAll('#table-accuracy thead button')[5].click()"
    for sign, state in ((1, "ascending"), (-1, "descending")):
        browser.run(press)
        values = browser.run(column)
        assert values == sorted(values, key=lambda v, s=sign: s * v)
        assert browser.run("document.querySelectorAll('#table-accuracy th[aria-sort]')[5].ariaSort") == state


def test_the_legend_hides_a_potential(browser: Browser) -> None:
    lines = "[...document.querySelectorAll('#figure-survival .scatterlayer .trace')].length"
    before = browser.run(lines)
    browser.run("document.querySelector('#figure-survival .legend button').click()")
    assert browser.run(lines) < before
    browser.run("document.querySelector('#figure-survival .legend button').click()")
    assert browser.run(lines) == before


def test_the_structure_turns_and_takes_other_colours(browser: Browser) -> None:
    picture = "document.querySelector('#panes canvas').toDataURL()"
    first = browser.run(picture)
    browser.run(
        "document.querySelector('#panes canvas').dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowLeft'}))"
    )
    turned = browser.run(picture)
    assert turned != first
    browser.run("document.querySelector('input[name=quantity][value=uncertainty]').click()")
    assert browser.run(picture) != turned
    assert "predicted error" in browser.run("document.querySelector('#panes h4').textContent")
    browser.run("document.querySelector('input[name=split]').click()")
    assert browser.run("document.getElementById('colourbar').textContent").endswith("meV/Å, predicted error")
    assert browser.complaints() == []


def test_a_failure_is_played_and_scrubbed(browser: Browser) -> None:
    picture = "document.getElementById('film').toDataURL()"
    last = browser.run(picture)
    assert browser.run("document.getElementById('film-time').textContent").endswith("0 fs before the end")
    place = "const place = document.getElementById('film-place'); place.value = 0;"
    browser.run(f"(() => {{ {place} place.dispatchEvent(new Event('input')); }})()")
    assert browser.run(picture) != last
    assert not browser.run("document.getElementById('film-time').textContent").startswith("0 fs")
    browser.run("document.getElementById('film-play').click()")
    assert browser.run("document.getElementById('film-play').textContent") == "Pause"
    browser.run("document.getElementById('film-play').click()")
    assert browser.run("document.getElementById('film-play').textContent") == "Play"
    note = "document.getElementById('film-note').textContent"
    before = browser.run(note)
    browser.run("document.querySelectorAll('input[name=film]')[1].click()")
    assert browser.run(note) != before
    assert browser.complaints() == []


def test_a_link_opens_the_folded_table_it_points_to(browser: Browser) -> None:
    browser.run("location.hash = '#table-failures'")
    browser.run("new Promise(done => setTimeout(done, 50))")
    assert browser.run("document.querySelector('#table-failures details.fold').open") is True
