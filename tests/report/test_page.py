"""The page is whole, safe and traceable for any subset of records."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path

import pytest

from fireassay.errors import InputError
from fireassay.records import load_assay
from fireassay.records.accuracy import AccuracyResult
from fireassay.records.stability import StabilityResult
from fireassay.report import page, write_report
from report.synthetic import ASSAYS, MACE, NEQUIP, crystal, edit, write_run, write_study


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the figures for print, which take seconds."""
    monkeypatch.setattr(page.printed, "save", lambda *_: [])


class _Page(HTMLParser):
    """Elements, ids, links and the text of scripts of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.scripts: list[str] = []
        self.words = ""
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self._inside = tag
        if values.get("id"):
            self.ids.append(str(values["id"]))
        if tag == "a":
            self.links.append(str(values.get("href")))
        self.loads += [str(values[name]) for name in ("src", "srcset", "data", "poster") if name in values]
        if tag == "link":
            self.loads.append(str(values.get("href")))
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        else:
            self.words += data


def _written(folders: list[Path], output: Path, **options) -> tuple[str, _Page]:
    html = write_report(folders, output, **options).read_text(encoding="utf-8")
    return html, _Page(html)


WANTED = tuple(name for name in ASSAYS if name not in ("structure", "dynamics"))  # missed where they are not


@pytest.mark.parametrize(
    ("assays", "number"), [(("metrics", "stability"), 4), pytest.param(ASSAYS, 26, marks=pytest.mark.slow)]
)
def test_every_figure_is_printed_and_every_table_kept(tmp_path: Path, assays: tuple[str, ...], number: int) -> None:
    output = tmp_path / "out" / "report.html"
    html, parsed = _written(write_study(tmp_path, assays), output)
    assert len(html.encode()) < 10e6
    figures = {re.sub(r"^figure-", "", name) for name in parsed.ids if name.startswith("figure-")} - {"atoms", "film"}
    drawn = {name for name in figures if not name.endswith("-title")}
    assert len(drawn) == number
    files = {path.name: path.stat().st_size for path in (output.parent / "figures").iterdir()}
    assert set(files) == {f"{name}.{suffix}" for name in drawn for suffix in ("png", "pdf")}
    assert min(files.values()) > 5000
    tables = {name.removeprefix("table-") for name in parsed.ids if name.startswith("table-")}
    assert tables == {path.stem for path in (output.parent / "tables").iterdir()}


@pytest.mark.usefixtures("quick")
def test_nothing_is_loaded_and_links_stay_inside(tmp_path: Path) -> None:
    html, parsed = _written(write_study(tmp_path), tmp_path / "report.html")
    assert parsed.loads == ["data:,"]
    assert all(link.startswith("#") and link[1:] in parsed.ids for link in parsed.links)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert not re.search(r"url\(|@import", html[: html.index("</style>")])


@pytest.mark.usefixtures("quick")
def test_scripts_are_allowed_by_their_hash_alone(tmp_path: Path) -> None:
    html, parsed = _written(write_study(tmp_path, ("metrics",)), tmp_path / "report.html")
    policy = re.search(r"script-src ([^;]+);", unescape(html[:5000]))
    assert policy
    hashes = set(re.findall(r"'(sha256-[^']+)'", policy[1]))
    runnable = [s for s in parsed.scripts if not s.startswith("{")]
    assert len(runnable) == 3
    digests = {f"sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}" for s in runnable}
    assert digests == hashes
    assert "unsafe" not in policy[1]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("number", range(1, 6))
def test_any_subset_of_records_makes_a_page(tmp_path: Path, number: int) -> None:
    first, second = replace(NEQUIP, frames=6), replace(MACE, frames=6)
    for count, subset in enumerate(combinations(WANTED, number)):
        folders = [
            write_run(tmp_path / f"{count}a", first, subset),
            write_run(tmp_path / f"{count}b", second, ASSAYS[:1] + subset[:1]),
        ]
        _, parsed = _written(folders, tmp_path / "report.html")
        for assay in set(WANTED[1:]) - set(subset):
            assert f"fireassay assay {tmp_path / f'{count}a'} {assay}" in parsed.words
        assert all(link[1:] in parsed.ids for link in parsed.links)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("number", [10, 23])
def test_many_runs_and_one_run(tmp_path: Path, number: int) -> None:
    folders = [write_run(tmp_path / f"p{i}", replace(NEQUIP, seed=i, frames=12)) for i in range(number)]
    html, parsed = _written(folders, tmp_path / "ten.html")
    assert len(html) < 10e6
    assert all(link[1:] in parsed.ids for link in parsed.links)
    _, parsed = _written(folders[:1], tmp_path / "one.html")
    assert "table-differences" not in parsed.ids


@pytest.mark.usefixtures("quick")
def test_a_crystal_and_mixed_sizes(tmp_path: Path) -> None:
    splits = {"validation": 300.0, "unseen phase": 900.0}
    folder = write_run(tmp_path / "cu", replace(NEQUIP, splits=splits, frames=8), atoms=crystal())
    html, parsed = _written([folder], tmp_path / "report.html")
    assert "unseen phase" in parsed.words
    assert '"Au"' in html

    def smaller(result):  # the first frame has fewer atoms now
        names = ("atomic_numbers", "structure", "positions", "forces_reference", "forces_predicted")
        cut = {k: replace(d, **{n: getattr(d, n)[5:] for n in names}) for k, d in result.splits.items()}
        return replace(result, splits=cut)

    edit(folder, "accuracy", smaller)
    _, parsed = _written([folder], tmp_path / "report.html")
    viewer = json.loads(parsed.scripts[1])["viewer"]
    assert "Frames differ in their atoms" in viewer["splits"][0]["note"]
    assert len(viewer["splits"][0]["symbols"]) in (27, 32)


@pytest.mark.usefixtures("quick")
def test_hostile_names_stay_words(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    splits = {evil: 300.0, "'\"><svg onload=alert(3)>": 600.0, "$\\frac$ %{x} {{7*7}} \u2028": 900.0}
    folder = write_run(tmp_path / "<script>alert(4)<", replace(NEQUIP, splits=splits, frames=6))
    record = load_assay(folder / "assays" / "stability.json", StabilityResult)
    provenance = replace(record.provenance, command="<script>alert(5)</script>")
    replace(record, provenance=provenance, settings={**record.settings, "<script>": "<b>"}).save(folder / "assays")
    html, parsed = _written([folder], tmp_path / "report.html", title="<script>alert(6)</script>")
    assert len(parsed.scripts) == 4
    assert "img" not in parsed.tags
    assert "<script>alert" not in html
    assert not re.search(r"<(svg|img)[^>]*\son\w+=", html)
    assert "{{7*7}}" in parsed.words
    data = json.loads(parsed.scripts[1])
    titles = [plot["title"] for plot in data["figures"]["figure-parity-forces"]]
    assert evil in titles


def test_hostile_names_can_be_printed(tmp_path: Path) -> None:
    splits = {"$\\frac{$ \\begin": 300.0, "x_{^": 600.0}
    folder = write_run(tmp_path / "a$b$^_{", replace(NEQUIP, splits=splits, frames=6), ("accuracy",))
    write_report([folder], tmp_path / "report.html")
    assert (tmp_path / "figures" / "parity-forces.png").stat().st_size > 1000


@pytest.mark.usefixtures("quick")
def test_tables_hold_the_records_numbers_in_full(tmp_path: Path) -> None:
    folders = write_study(tmp_path)
    write_report(folders, tmp_path / "report.html")
    with open(tmp_path / "tables" / "accuracy.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    for row in rows:
        result = load_assay(tmp_path / row["potential"] / "assays" / "accuracy.json", AccuracyResult).result
        data = result.splits[row["split"]]
        assert float(row["forces RMSE [eV/Å]"]) == data.forces.rmse
        assert float(row["energy MAE [eV/atom]"]) == data.energy_per_atom.mae
        assert float(row["extrapolation slope of forces [eV/Å/K]"]) == result.extrapolation_slope


@pytest.mark.usefixtures("quick")
def test_the_page_shows_the_records_numbers_and_names_file_hash_and_command(tmp_path: Path) -> None:
    folders = write_study(tmp_path)
    _, parsed = _written(folders, tmp_path / "report.html")
    for folder in folders:
        for path in (folder / "assays").glob("*.json"):
            assert f"{folder.name}/assays/{path.name}" in parsed.words
            assert hashlib.sha256(path.read_bytes()).hexdigest() in parsed.words
            assert hashlib.sha256(path.with_suffix(".npz").read_bytes()).hexdigest() in parsed.words
            assert f"fireassay assay {folder.name} {path.stem}" in parsed.words
        rmse = load_assay(folder / "assays" / "accuracy.json", AccuracyResult).result.splits["600K"].forces.rmse
        assert f"{1000 * rmse:.1f}" in parsed.words


@pytest.mark.usefixtures("quick")
def test_an_old_report_survives_what_goes_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = write_study(tmp_path, ("metrics", "accuracy"))
    output = write_report(folders, tmp_path / "report.html")
    old = output.read_bytes()
    path = folders[0] / "assays" / "accuracy.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    with pytest.raises(InputError, match="accuracy"):
        write_report(folders, output)
    assert output.read_bytes() == old
    path.write_bytes(whole)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        write_report(folders, output, title="new")
    assert output.read_bytes() == old
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.usefixtures("quick")
def test_a_folder_gets_report_html(tmp_path: Path) -> None:
    folders = write_study(tmp_path, ("metrics",))
    assert write_report(folders, tmp_path / "new") == tmp_path / "new" / "report.html"
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        write_report(folders, tmp_path / "file" / "report.html")


@pytest.mark.usefixtures("quick")
def test_progress_counts_every_file(tmp_path: Path) -> None:
    class Counter:
        total = done = stopped = 0

        def start(self, description: str, total: int, done: int = 0) -> None:
            self.total = total

        def advance(self, steps: int = 1, note: str = "") -> None:
            self.done += steps

        def stop(self) -> None:
            self.stopped += 1

    counter = Counter()
    write_report(write_study(tmp_path, ("metrics", "landscape")), tmp_path / "r.html", progress=counter)
    assert counter.done == counter.total > 4
    assert counter.stopped == 1
