"""The report: one HTML file that needs nothing else, figures for print and tables for further work beside it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from fireassay.errors import InputError
from fireassay.progress import Progress, Silent
from fireassay.records import write_text
from fireassay.records.typed import encode
from fireassay.report import interactive, printed
from fireassay.report.criteria import Criteria
from fireassay.report.figures import Figure
from fireassay.report.methods import Methods, all_sources, methods
from fireassay.report.runs import Run, load_runs
from fireassay.report.sections import KINDS, SECTIONS, atoms, films, generic, of_study, training
from fireassay.report.sections.chapter import Chapter
from fireassay.report.study import Study
from fireassay.report.style import GRID, INK, LOOKS, MUTED
from fireassay.report.verdict import Verdict, verdict


def write_report(
    run_folders: Sequence[Path],
    output: Path,
    *,
    title: str | None = None,
    progress: Progress | None = None,
    criteria: Criteria | None = None,
    extra: Callable[[Study], Chapter] | None = None,
    judgement: Callable[[Study], Verdict] = verdict,
) -> Path:
    """Writes the report of any number of run folders; returns the path of the page.

    An `extra` chapter comes first; `judgement` makes the top of the page.

    `output` is the HTML file, or a folder that gets `report.html`. `figures/*.png`, `figures/*.pdf` and `tables/*.csv`
    are written beside it. The page is replaced last and atomically: whatever goes wrong, the old one stays.
    Raises InputError when a record is damaged or the folder cannot be written.
    """
    watch = progress or Silent()
    output = Path(output)
    output = output / "report.html" if output.is_dir() or not output.suffix else output
    study = Study.of(load_runs(run_folders, output, KINDS), criteria)
    chapters, viewer = _chapters(study)
    chapters = [*([] if extra is None else [extra(study)]), *chapters]
    figures = [figure for chapter in chapters for figure in chapter.figures]
    tables = [table for chapter in chapters for table in chapter.tables]
    page = render(study.runs, chapters, viewer, judgement(study), methods(study), title)
    watch.start("report", len(figures) + len(tables) + 1)
    try:
        for table in tables:
            write_text(_beside(output, "tables") / f"{table.id.removeprefix('table-')}.csv", table.csv())
            watch.advance()
        for figure in figures:
            printed.save(figure, [run.label for run in study.runs], _beside(output, "figures"))
            watch.advance(note=figure.title)
        write_text(output, page)
        watch.advance(note=output.name)
    finally:
        watch.stop()
    return output


def _beside(output: Path, name: str) -> Path:
    folder = output.parent / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror}; choose another folder") from error
    return folder


def _chapters(study: Study) -> tuple[list[Chapter], dict[str, Any]]:
    where, viewer = atoms.chapter(study)
    sections = of_study(study.runs, SECTIONS).values()
    chapters = [training.chapter(study), *(section.chapter(study) for section in sections)]
    chapters += [generic.chapter(study, name) for name in generic.unknown_assays(study.runs)]
    return [*chapters, where], viewer


def render(
    runs: Sequence[Run],
    chapters: Sequence[Chapter],
    viewer: dict[str, Any],
    weighed: Verdict,
    procedure: Methods,
    title: str | None,
) -> str:
    """The page as text. All words from records are escaped; scripts run only if their hash is in the page's policy."""
    return _rendered(
        "report.html.j2",
        [figure for chapter in chapters for figure in chapter.figures],
        viewer,
        films.films(runs),
        title=title or _title(runs),
        runs=runs,
        chapters=chapters,
        verdict=weighed,
        methods=procedure,
        beside=True,
        sources=all_sources(runs),
        records=[(run, _machine(run)) for run in runs],
    )


class Subject(NamedTuple):
    """What a page on data has in the place of a potential: a file under its name."""

    index: int
    label: str


def render_data(
    subjects: Sequence[str],
    chapters: Sequence[Chapter],
    title: str,
    headline: str,
    stops: Sequence[str],
    remarks: Sequence[str],
) -> str:
    """A page on data files in the look of the report: what stops training, what needs attention, then the chapters."""
    return _rendered(
        "data.html.j2",
        [figure for chapter in chapters for figure in chapter.figures],
        {},
        {},
        title=title,
        runs=[Subject(index, label) for index, label in enumerate(subjects)],
        chapters=chapters,
        beside=False,
        headline=headline,
        stops=stops,
        remarks=remarks,
    )


def _rendered(
    template: str, figures: Sequence[Figure], viewer: dict[str, Any], movies: dict[str, Any], **values: Any
) -> str:
    environment = Environment(loader=FunctionLoader(_part), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.filters["spaced"] = spaced
    scripts = [_part("theme.js"), get_plotlyjs(), _part("molecule.js") + _part("report.js")]
    scripts = [script.replace("\r\n", "\n").replace("\r", "\n") for script in scripts]
    data = {
        "figures": {figure.id: interactive.plots(figure) for figure in figures},
        "viewer": viewer,
        "films": movies,
        "looks": {theme: _palette(theme) for theme in ("light", "dark")},
    }
    return environment.get_template(template).render(
        looks=LOOKS,
        viewer=viewer,
        films=movies,
        alt=alternative_text,
        policy=" ".join(f"'sha256-{_digest(script)}'" for script in scripts),
        style=Markup(_part("style.css")),
        scripts=[Markup(script) for script in scripts],
        data=Markup(embedded(data)),
        written=time.strftime("%Y-%m-%d %H:%M %Z"),
        version=_version(),
        **values,
    )


def embedded(value: Any) -> str:
    """JSON that cannot end the script element it stands in, whatever the words inside it."""
    dense = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        dense = dense.replace(character, f"\\u{ord(character):04x}")
    return dense


def spaced(words: str) -> str:
    """The words with spaces that do not break between a number and its unit."""
    return re.sub(r"(?<=\d) (?=(?:K|ps|%|meV\S*|Å)(?:\W|$))", "\u00a0", words)


def alternative_text(panel: Any, runs: Sequence[Run]) -> str:
    """What a panel shows, for those who cannot see it."""
    shown = sorted({series.run for series in panel.series if series.run is not None})
    names = ", ".join(runs[index].label for index in shown)
    title = f"{panel.title}: " if panel.title else ""
    return f"{title}{panel.y or 'potential'} against {panel.x}{' for ' if names else ''}{names}."


def _palette(theme: str) -> dict[str, str]:
    colours = {f"c{i}": getattr(look, theme) for i, look in enumerate(LOOKS)}
    return {**colours, "ink": INK[theme], "muted": MUTED[theme], "grid": GRID[theme]}


def _title(runs: Sequence[Run]) -> str:
    names = [run.label for run in runs]
    if len(names) > 10:
        return f"{len(names)} potentials"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _machine(run: Run) -> list[tuple[str, str]]:
    """Run-level provenance, flattened to dotted names, without long values."""
    rows: list[tuple[str, str]] = []

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and set(value) == {"value", "unit"}:
            rows.append((prefix, f"{value['value']} {value['unit']}"))
        elif isinstance(value, dict):
            for key, item in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), item)
        elif value is not None:
            words = str(value)
            rows.append((prefix, words if len(words) <= 200 else f"{words[:197]}..."))

    walk("", encode(run.record)[0])
    return rows


def _part(name: str) -> str:
    return (files("fireassay.report") / "templates" / name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _version() -> str:
    try:
        return version("fireassay")
    except PackageNotFoundError:
        return "unknown"
