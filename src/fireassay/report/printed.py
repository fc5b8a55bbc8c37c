"""The same figures on paper: PNG and PDF by matplotlib, with the page's colours and markers."""

from __future__ import annotations

import io
import re
import warnings
from math import ceil
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from fireassay.records import atomic
from fireassay.report.figures import Figure, Panel, Series
from fireassay.report.style import GRID, INK, MUTED, look

_DASHES: dict[str, Literal["-", "--", ":"]] = {"solid": "-", "dash": "--", "dot": ":"}
_STYLE: Any = {
    "font.size": 8.0,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.0,
    "axes.linewidth": 0.6,
    "axes.edgecolor": MUTED["light"],
    "axes.labelcolor": INK["light"],
    "text.color": INK["light"],
    "xtick.color": MUTED["light"],
    "ytick.color": MUTED["light"],
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "axes.grid": True,
    "grid.color": GRID["light"],
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,
    "font.family": "DejaVu Sans",
}


def save(figure: Figure, labels: list[str], folder: Path) -> list[Path]:
    """Writes `folder/NAME.png` (200 dpi) and `folder/NAME.pdf`, where NAME is the figure's id without its prefix."""
    name = figure.id.removeprefix("figure-")
    paths = []
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        canvas = _draw(figure, labels)
        for suffix, metadata in (("png", {}), ("pdf", {"CreationDate": None})):
            buffer = io.BytesIO()
            canvas.savefig(buffer, format=suffix, dpi=200, metadata=metadata)
            canvas.set_layout_engine("none")  # laid out once, for the PNG
            paths.append(folder / f"{name}.{suffix}")
            with atomic(paths[-1]) as file:
                file.write(buffer.getvalue())
    return paths


def _plain(words: str) -> str:
    """Words without mathematics: matplotlib reads what stands between dollar signs as TeX."""
    return words.replace("$", r"\$")


def _draw(figure: Figure, labels: list[str]) -> Canvas:
    number = len(figure.panels)
    columns = min(number, 3)
    rows = ceil(number / columns)
    square = all(panel.square for panel in figure.panels)
    width = {1: 4.2, 2: 6.0, 3: 7.6}[columns]
    canvas = Canvas(figsize=(width, rows * (width / columns) * (1.02 if square else 0.82) + 0.45), layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.subplots(rows, columns, squeeze=False).ravel()
    for panel, ax in zip(figure.panels, axes, strict=False):
        _panel(panel, ax)
    for ax in axes[number:]:
        ax.remove()
    handles = [_handle(run, labels[run], figure) for run in figure.runs()] + [_key(*entry) for entry in figure.key]
    if handles:
        canvas.legend(handles=handles, loc="outside upper left", ncols=4, frameon=False, fontsize=7.5)
    return canvas


def _panel(panel: Panel, ax: Axes) -> None:
    ax.set_xscale("log" if panel.x_log else "linear")
    ax.set_yscale("log" if panel.y_log else "linear")
    if panel.diagonal and panel.x_range:
        ax.plot(panel.x_range, panel.x_range, ":", color=MUTED["light"], linewidth=0.8, zorder=1)
    for series in panel.series:
        _series(series, ax)
    for rule in panel.rules:
        draw = ax.axhline if rule.axis == "y" else ax.axvline
        draw(rule.value, color=MUTED["light"], linewidth=0.9, linestyle="--", zorder=1)
        where = (0.98, rule.value) if rule.axis == "y" else (rule.value, 0.02 if rule.low else 0.98)
        transform = ax.get_yaxis_transform() if rule.axis == "y" else ax.get_xaxis_transform()
        turn = 0 if rule.axis == "y" else 90
        words = re.sub(r"\bT_([EF])\b", r"$T_\\mathrm{\1}$", _plain(rule.label))
        va = "bottom" if rule.axis == "y" or rule.low else "top"
        ax.text(
            *where, words, transform=transform, ha="right", va=va, rotation=turn, fontsize=6.5, color=MUTED["light"]
        )
    for axis, span, log in ((ax.xaxis, panel.x_range, panel.x_log), (ax.yaxis, panel.y_range, panel.y_log)):
        if log and span:
            decades = np.log10(span[1] / span[0])
            steps = (
                (1, 1.5, 2, 3, 4, 5, 7)
                if decades < 0.7
                else (1, 2, 5)
                if decades < 1.5
                else (1, 3)
                if decades < 2.6
                else (1,)
            )
            axis.set_major_locator(LogLocator(subs=steps, numticks=12))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_locator(NullLocator())
    ax.set_xlabel(_plain(panel.x))
    ax.set_ylabel(_plain(panel.y))
    if panel.title:
        ax.set_title(_plain(panel.title), loc="left")
    if panel.x_range:
        ax.set_xlim(*panel.x_range)
    if panel.y_range:
        ax.set_ylim(*panel.y_range)
    if panel.ticks:
        ax.set_yticks(list(panel.ticks), [_plain(label) for label in panel.ticks.values()])
    for x, y, words in panel.words:
        ax.text(x, y, _plain(words), ha="center", va="center", fontsize=7, color=MUTED["light"])
    if panel.bare:
        ax.set_axis_off()
    if panel.square:
        ax.set_box_aspect(1)


def _series(series: Series, ax: Axes) -> None:
    colour = MUTED["light"] if series.run is None else look(series.run).light
    marker = "o" if series.run is None else look(series.run).mpl_marker
    if series.kind == "points":
        style = {"facecolors": "none"} if series.open else {"facecolors": colour}
        edge = {"edgecolors": colour if series.open else "none", "linewidths": 1.0 if series.open else 0.0}
        size = (0.62 * series.size) ** 2
        if marker in "xX+" and not series.open:
            edge = {"edgecolors": colour, "linewidths": 0.4}
        many = series.x.size > 300
        ax.scatter(
            series.x, series.y, size, marker=marker, alpha=series.opacity, rasterized=many, zorder=3, **style, **edge
        )
    elif series.kind == "density":
        ramp = LinearSegmentedColormap.from_list("ramp", ["#ffffff", colour, "#101010"])
        counts = np.ma.masked_equal(np.asarray(series.z, dtype=float), 0)
        norm = LogNorm(0.5, max(float(counts.max()) * 1.5, 1.0)) if counts.count() else None
        ax.pcolormesh(series.x, series.y, counts, cmap=ramp, norm=norm, rasterized=True)
    elif series.upper is not None:
        steps = None if series.smooth else "post"
        ax.fill_between(series.x, series.y, series.upper, color=colour, alpha=series.opacity, step=steps, linewidth=0)
    else:
        drawstyle = "steps-post" if series.kind == "steps" else "default"
        ax.plot(
            series.x,
            series.y,
            color=colour,
            alpha=series.opacity,
            linewidth=0.7 * series.width,
            linestyle=_DASHES[series.dash],
            drawstyle=drawstyle,
            marker=marker if series.markers else None,
            markersize=0.6 * series.size,
            solid_capstyle="butt",
        )


def _handle(run: int, label: str, figure: Figure) -> Line2D:
    kinds = {s.kind for panel in figure.panels for s in panel.series if s.run == run}
    lines = bool(kinds & {"line", "steps"})
    colours = look(run)
    return Line2D(
        [],
        [],
        color=colours.light,
        marker=colours.mpl_marker,
        markersize=4,
        linestyle="-" if lines else "",
        label=_plain(label),
    )


def _key(kind: str, label: str) -> Line2D | Patch:
    grey = MUTED["light"]
    if kind == "band":
        return Patch(facecolor=grey, alpha=0.25, label=label)
    if kind == "open":
        return Line2D([], [], color=grey, marker="o", markerfacecolor="none", markersize=4, linestyle="", label=label)
    if kind == "thin":
        return Line2D([], [], color=grey, linewidth=0.6, label=label)
    return Line2D([], [], color=grey, linewidth=1.5, linestyle=_DASHES[kind], label=label)
