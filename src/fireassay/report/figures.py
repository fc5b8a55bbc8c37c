"""What a figure shows, said once: the page draws it with plotly, the files beside it with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fireassay.report.runs import Run, Source

Array = NDArray[Any]


@dataclass(frozen=True)
class Series:
    """One thing drawn in a panel; `run` is the index of its potential, None for what belongs to all.

    A band lies between y and `upper`; a density is `z` (len(y) - 1, len(x) - 1), counts between the edges x and y.
    """

    kind: Literal["line", "steps", "points", "band", "density"]
    x: Array
    y: Array
    run: int | None = None
    name: str = ""
    upper: Array | None = None
    z: Array | None = None
    dash: Literal["solid", "dash", "dot"] = "solid"
    width: float = 2.0
    opacity: float = 1.0
    size: float = 6.0
    open: bool = False
    markers: bool = False
    smooth: bool = False  # a band between lines, not between steps


@dataclass(frozen=True)
class Rule:
    """A labelled straight line across a panel at one value of an axis."""

    axis: Literal["x", "y"]
    value: float
    label: str
    low: bool = False  # whether the label of an upright line stands at its foot


@dataclass(frozen=True)
class Panel:
    """One pair of axes. A range is in data units; `ticks` puts words at values of the y axis."""

    title: str
    x: str
    y: str
    series: list[Series]
    rules: list[Rule] = field(default_factory=list)
    x_log: bool = False
    y_log: bool = False
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    square: bool = False
    ticks: dict[float, str] = field(default_factory=dict)
    diagonal: bool = False
    words: Sequence[tuple[float, float, str]] = ()  # texts at places in data units
    bare: bool = False  # without axes


@dataclass(frozen=True)
class Figure:
    """Panels under one title and caption; `key` explains line styles, `sources` are the files behind it."""

    id: str
    title: str
    caption: str
    panels: list[Panel]
    sources: list[Source]
    key: Sequence[tuple[str, str]] = ()  # solid, dash, dot, thin, open or band, and what it means

    def runs(self) -> list[int]:
        """The potentials that are drawn, by index."""
        return sorted({s.run for panel in self.panels for s in panel.series if s.run is not None})


def sources_of(runs: Sequence[Run], *kinds: str | type) -> list[Source]:
    """The files of these kinds, run by run; an assay's by the type of its result."""
    return [run.sources[name] for run in runs for kind in kinds for name in _names(run, kind) if name in run.sources]


def _names(run: Run, kind: str | type) -> list[str]:
    if isinstance(kind, str):
        return [kind]
    return [name for name, record in run.assays.items() if isinstance(record.result, kind)]


def padded(values: Sequence[Array], log: bool = False, share: float = 0.04) -> tuple[float, float] | None:
    """A range that holds all finite values (positive ones on a logarithmic axis) with a margin; None without any."""
    flat = np.concatenate([np.asarray(v, dtype=float).ravel() for v in values]) if values else np.empty(0)
    flat = flat[np.isfinite(flat) & (flat > 0 if log else True)]
    if not len(flat):
        return None
    low, high = (np.log10(flat.min()), np.log10(flat.max())) if log else (flat.min(), flat.max())
    margin = share * (high - low) or (0.1 if log else 0.05 * (abs(high) or 1.0))
    low, high = low - margin, high + margin
    return (float(10**low), float(10**high)) if log else (float(low), float(high))
