"""Tables: what the page shows with rounded numbers in readable units, and a CSV holds in full in the record's units."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fireassay.records.typed import unit_of
from fireassay.report.runs import Source
from fireassay.report.style import brief, digits, grouped


@dataclass(frozen=True)
class Column:
    """A heading, the unit in the record, the unit on the page, the factor between them, and the record's field."""

    label: str
    unit: str = ""
    shown: str = ""
    factor: float = 1.0
    record: str = ""
    significant: int = 3
    text: bool = False
    trim: bool = False  # no zeros at the end, for what was set and not measured

    @property
    def heading(self) -> str:
        """The heading of the CSV column, with the unit."""
        return f"{self.label} [{self.unit}]" if self.unit else self.label

    def show(self, value: Any) -> str:
        """The value as the page prints it."""
        if value is None:
            return "–"
        if isinstance(value, str):
            return value
        if isinstance(value, int) and self.factor == 1:
            return grouped(value)
        return (brief if self.trim else digits)(float(value) * self.factor, 4 if self.trim else self.significant)


@dataclass(frozen=True)
class Table:
    """Rows of raw values under columns; `runs` gives the potential of each row for its colour mark, or None."""

    id: str
    title: str
    caption: str
    columns: list[Column]
    rows: list[list[Any]]
    sources: list[Source]
    runs: Sequence[int | None] = ()
    fold: bool = False

    def cells(self) -> list[dict[str, Any]]:
        """The rows for the page: per row the potential's index and per cell its text and its sort key."""
        marks = list(self.runs) or [None] * len(self.rows)
        return [
            {
                "run": mark,
                "cells": [
                    {"text": column.show(value), "key": _sort_key(value), "words": column.text}
                    for column, value in zip(self.columns, row, strict=True)
                ],
            }
            for mark, row in zip(marks, self.rows, strict=True)
        ]

    def csv(self) -> str:
        """The table in full precision; an empty field where there is no value."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow([column.heading for column in self.columns])
        writer.writerows([[_csv_field(value) for value in row] for row in self.rows])
        return buffer.getvalue()


_SHOWN = {"eV": ("meV", 1000.0), "fs": ("ps", 1e-3), "s": ("µs", 1e6)}


def of_field(
    kind: type, path: str, label: str, *, shown: str = "", factor: float = 1.0, significant: int = 3, trim: bool = False
) -> Column:
    """The column of a record's field, in its declared unit; on the page energies are in meV and times in ps.

    `path` is dotted as in `unit_of`; SPLIT, ELEMENT and the like stand for any name. `shown` is another unit for the
    page, and `factor` leads to it. Raises KeyError when the record has no such field.
    """
    unit = unit_of(kind, path)
    head, slash, rest = unit.partition("/")
    if not shown:
        other, factor = _SHOWN.get(head, (head, 1.0))
        shown = f"{other}{slash}{rest}"
    return Column(label, unit, shown, factor, path, significant, trim=trim)


def _sort_key(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return value.casefold() if isinstance(value, str) else repr(float(value))


def _csv_field(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        # A spreadsheet runs a text that begins like a formula; an apostrophe keeps it a text.
        return f"'{value}" if value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
    return repr(value)
