"""The chapter of an assay that the report knows nothing of: its numbers as tables, its series as lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fireassay.records import Untyped
from fireassay.report.figures import Figure, Panel, Series
from fireassay.report.runs import Run, Source
from fireassay.report.sections.chapter import Chapter, missing_assay, paged
from fireassay.report.study import Study
from fireassay.report.tables import Column, Table

PANELS = 12  # drawn at most; the others are listed
LONGEST = 2000  # points of a line


def unknown_assays(runs: Sequence[Run]) -> list[str]:
    """The names of assays without a section of their own."""
    names = (name for run in runs for name, record in run.assays.items() if isinstance(record.result, Untyped))
    return list(dict.fromkeys(names))


def chapter(study: Study, assay: str) -> Chapter:
    """Numbers, texts and series of such an assay, with the units that its records give."""
    tested = [(run, run.assays[assay].result) for run in study.runs if assay in run.assays]
    title = assay.replace("_", " ").capitalize()
    sources = [run.sources[assay] for run, _ in tested]
    tables = [*_numbers(assay, tested, sources), *_arrays(assay, tested, sources)]
    figures = paged(tested, lambda page: _series(assay, page, sources))
    # Somebody's own assay has no command that is known here.
    missing = [(sentence, "") for sentence, _ in missing_assay(study.runs, assay)]
    lead = f"What the records of the assay {assay} hold; this fireassay has no chapter of its own for it."
    return Chapter(f"assay-{_slug(assay)}", title, lead, figures, tables, missing)


def _leaves(content: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted paths to what is no object: numbers with or without unit, texts, arrays."""
    if isinstance(content, Mapping) and set(content) not in ({"value", "unit"}, {"array", "shape", "unit"}):
        for name, item in content.items():
            yield from _leaves(item, f"{path}.{name}" if path else str(name))
    elif isinstance(content, list):
        for number, item in enumerate(content):
            yield from _leaves(item, f"{path}.{number}")
    else:
        yield path, content


def _numbers(assay: str, tested: Sequence[tuple[Run, Untyped]], sources: list[Source]) -> list[Table]:
    rows: list[list[Any]] = []
    marks = []
    for run, result in tested:
        for path, item in _leaves(result.values):
            if isinstance(item, Mapping) and "array" in item:
                continue
            value, unit = (item["value"], item["unit"]) if isinstance(item, Mapping) else (item, "")
            number = value if isinstance(value, int | float) and not isinstance(value, bool) else None
            words = "" if number is not None else "–" if value is None else str(value)
            rows.append([run.label, path, number, str(unit), words])
            marks.append(run.index)
    columns = [
        Column("potential", text=True),
        Column("name", text=True),
        Column("value", record="result", significant=5),
        Column("unit", text=True),
        Column("text", text=True),
    ]
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    id = f"table-{_slug(assay)}"
    return [Table(id, "Values", "As recorded.", columns, rows, sources, marks, True)] if rows else []


def _series(assay: str, tested: Sequence[tuple[Run, Untyped]], sources: list[Source]) -> list[Figure]:
    panels: dict[str, tuple[str, list[Series]]] = {}
    for run, result in tested:
        for path, item in _leaves(result.values):
            array = _array(item, result)
            if array is None or array.ndim != 1 or not array.size > 1 or not np.isfinite(array).any():
                continue
            step = -(-array.size // LONGEST)
            line = Series("line", np.arange(array.size)[::step], array[::step], run.index, run.label)
            panels.setdefault(path, (str(item["unit"]), []))[1].append(line)
    chosen = list(panels.items())[:PANELS]
    drawn = [Panel(name, "index", f"{name} ({unit})" if unit else name, lines) for name, (unit, lines) in chosen]
    if not drawn:
        return []
    caption = "Arrays of one dimension, in the order in which they were recorded."
    return [Figure(f"figure-{_slug(assay)}", "Series", caption, drawn, sources)]


def _array(item: Any, result: Untyped) -> NDArray[Any] | None:
    if not isinstance(item, Mapping) or "array" not in item:
        return None
    array = result.arrays[item["array"]]
    return array if array.dtype.kind in "iuf" else None


def _arrays(assay: str, tested: Sequence[tuple[Run, Untyped]], sources: list[Source]) -> list[Table]:
    rows: list[list[Any]] = []
    marks = []
    for run, result in tested:
        for path, item in _leaves(result.values):
            if isinstance(item, Mapping) and "array" in item:
                array = result.arrays[item["array"]]
                shape = " × ".join(map(str, array.shape)) or "one value"
                rows.append([run.label, path, shape, str(array.dtype), str(item["unit"])])
                marks.append(run.index)
    columns = [Column(name, text=True) for name in ("potential", "array", "shape", "type", "unit")]
    id = f"table-{_slug(assay)}-arrays"
    return [Table(id, "Arrays", "In the npz beside the record.", columns, rows, sources, marks, True)] if rows else []


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower())
