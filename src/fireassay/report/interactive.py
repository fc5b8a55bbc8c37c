"""Figures as plotly traces. Colours are tokens ("$c0", "$ink", "$c0@0.2") that the page resolves for its theme."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from fireassay.report.figures import Figure, Panel, Series
from fireassay.report.style import LOOKS, look, rounded


def plots(figure: Figure) -> list[dict[str, Any]]:
    """One plot per panel: traces and axis options in the form that the page's script expects."""
    return [_plot(panel) for panel in figure.panels]


def text(words: str) -> str:
    """Words that plotly shows as they are: it reads tags, entities and %{...} otherwise."""
    plain = words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return plain.replace("%{", "% {")


def _plot(panel: Panel) -> dict[str, Any]:
    traces = [trace for series in panel.series for trace in _traces(series, panel)]
    if panel.diagonal and panel.x_range:
        ends = rounded(panel.x_range)
        traces.insert(0, _plain_line(ends, ends))
    layout: dict[str, Any] = {
        "x": _axis(panel.x, panel.x_log, panel.x_range),
        "y": _axis(panel.y, panel.y_log, panel.y_range),
        "square": panel.square,
        "rules": [
            {"axis": r.axis, "value": r.value, "label": _subscript(text(r.label)), "low": r.low} for r in panel.rules
        ],
    }
    if panel.words:
        layout["words"] = [{"x": x, "y": y, "text": text(label)} for x, y, label in panel.words]
    if panel.bare:
        layout["bare"] = True
    if panel.ticks:
        layout["y"] |= {"tickvals": list(panel.ticks), "ticktext": [text(label) for label in panel.ticks.values()]}
    return {"title": panel.title, "traces": traces, "layout": layout, "count": len(panel.series)}


def _subscript(words: str) -> str:
    return re.sub(r"\bT_([EF])\b", r"<i>T</i><sub>\1</sub>", words)


def _axis(label: str, log: bool, span: tuple[float, float] | None) -> dict[str, Any]:
    axis: dict[str, Any] = {"title": text(label), "type": "log" if log else "linear"}
    if span is not None:
        axis["range"] = rounded(np.log10(span) if log else span, 6)
    return axis


def _plain_line(x: list[float | None], y: list[float | None]) -> dict[str, Any]:
    line = {"color": "$muted", "width": 1, "dash": "dot"}
    return {"x": x, "y": y, "mode": "lines", "line": line, "hoverinfo": "skip", "type": "scatter"}


def _traces(series: Series, panel: Panel) -> list[dict[str, Any]]:
    colour = "$muted" if series.run is None else f"$c{series.run % len(LOOKS)}"
    hover = f"{text(series.name)}<br>{_hover(panel, 4)}<extra></extra>"
    trace: dict[str, Any] = {"type": "scatter", "run": series.run, "x": rounded(series.x), "y": rounded(series.y)}
    trace["hovertemplate"] = hover
    dash = {"solid": "solid", "dash": "dash", "dot": "dot"}[series.dash]
    if series.kind in ("line", "steps"):
        line = {"color": f"{colour}@{series.opacity:g}", "width": series.width, "dash": dash}
        line |= {"shape": "hv"} if series.kind == "steps" else {}
        trace |= {"mode": "lines+markers" if series.markers else "lines", "line": line}
        trace |= {"marker": _marker(series, colour)} if series.markers else {}
        if series.width < 0.9:
            trace |= {"hoverinfo": "skip", "hovertemplate": None}
        return [trace]
    if series.kind == "points":
        return [trace | {"mode": "markers", "marker": _marker(series, colour)}]
    if series.kind == "density":
        return [_density(series, colour, panel)]
    shape = "linear" if series.smooth else "hv"
    edge = {"mode": "lines", "line": {"width": 0, "shape": shape}, "hoverinfo": "skip", "hovertemplate": None}
    fill = {"fill": "tonexty", "fillcolor": f"{colour}@{series.opacity:g}"}
    return [trace | edge, trace | edge | fill | {"y": rounded(series.upper)}]


def _hover(panel: Panel, significant: int) -> str:
    form = f".{significant}~g"
    return f"{text(panel.x)}: %{{x:{form}}}<br>{text(panel.y or 'row')}: %{{y:{form}}}"


def _marker(series: Series, colour: str) -> dict[str, Any]:
    shape = "circle" if series.run is None else look(series.run).marker
    if series.open:
        return {
            "symbol": f"{shape}-open",
            "size": series.size,
            "color": colour,
            "line": {"width": 1.6, "color": colour},
        }
    edge = {"width": 0.6 if series.size >= 7 else 0, "color": "$paper"}
    return {"symbol": shape, "size": series.size, "color": colour, "opacity": series.opacity, "line": edge}


def _density(series: Series, colour: str, panel: Panel) -> dict[str, Any]:
    """Counts as a heat map on logarithmic colours, its edges given in data units."""
    counts = np.asarray(series.z, dtype=float)
    shade = np.log10(np.where(counts > 0, counts, np.nan))
    rows = [rounded(row, 3) for row in shade]
    words = [[f"{int(c)}" if c else "" for c in row] for row in counts]
    return {
        "type": "heatmap",
        "run": series.run,
        "x": rounded(series.x),
        "y": rounded(series.y),
        "z": rows,
        "text": words,
        "zmin": -0.6 * float(np.nanmax(shade, initial=0.5) if np.isfinite(shade).any() else 1.0),
        "colorscale": [[0, f"{colour}@0.05"], [0.4, f"{colour}@0.3"], [1, colour]],
        "showscale": False,
        "hoverongaps": False,
        "hovertemplate": f"{_hover(panel, 3)}<br>atoms: %{{text}}<extra></extra>",
    }
