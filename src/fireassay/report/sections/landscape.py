"""Loss landscapes along random directions and the entropy that sums them up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fireassay.report.figures import Figure, Panel, Rule, Series, padded, sources_of
from fireassay.report.runs import Run
from fireassay.report.sections.chapter import Chapter, missing_assay
from fireassay.report.style import brief
from fireassay.report.tables import Column, Table

_NOTES = {
    "filter": "each filter of a direction has the norm of the filter of the weights",
    "layer": "each layer of a direction has the norm of the layer of the weights",
    "model": "a direction has the norm of all weights",
    "published": "as in the authors' code, which for flat weight vectors makes the directions nearly parallel",
}


def normalisations(runs: Sequence[Run]) -> list[str]:
    """The normalisations that were recorded, the sound default first."""
    keys = [key for run in runs for key in run.assays["landscape"].arrays if key.count(".") == 1]
    names = [key.rpartition(".")[0] for kind in (".energy", ".forces") for key in keys if key.endswith(kind)]
    return sorted(dict.fromkeys(names), key=lambda name: (name != "filter", name))


def temperature(runs: Sequence[Run], kind: str) -> float:
    """T_E in eV/atom or T_F in eV/Å as recorded in the settings, else the published 4 meV/atom and 40 meV/Å."""
    for run in runs:
        settings = run.assays["landscape"].settings
        for key in (f"{kind}_temperature", f"temperature_{kind}", "T_E" if kind == "energy" else "T_F"):
            if isinstance(settings.get(key), int | float):
                return float(settings[key])
    return 0.004 if kind == "energy" else 0.040


def chapter(runs: Sequence[Run]) -> Chapter:
    """Everything that the landscape assay says."""
    tested = [run for run in runs if "landscape" in run.assays]
    missing = missing_assay(runs, "landscape", "landscape assay")
    if not tested:
        return Chapter("landscape", "Loss landscape", "", missing=missing)
    lead = (
        "The training loss on lines through the trained weights. A wide, flat valley has a high loss entropy. "
        "Entropies rank potentials of one architecture only: with another number of weights per filter, the "
        "normalised directions are not comparable."
    )
    figures = [_lines(tested, norm) for norm in normalisations(tested)]
    figures += [_sensitivity(tested, norm) for norm in normalisations(tested)[:1]]
    return Chapter("landscape", "Loss landscape", lead, [f for f in figures if f.panels], [_table(tested)], missing)


def _lines(runs: Sequence[Run], norm: str) -> Figure:
    panels = []
    for kind, title, unit in (("energy", "Energy", "meV/atom"), ("forces", "Forces", "meV/Å")):
        thin, mean = [], []
        for run in runs:
            t = run.array("landscape", "t", (None,))
            loss = run.array("landscape", f"{norm}.{kind}", (None, None if t is None else len(t)))
            if t is None or loss is None or not np.isfinite(loss).any():
                continue
            gaps = np.concatenate([loss, np.full((len(loss), 1), np.nan)], axis=1)
            x = np.tile(np.append(t, np.nan), len(loss))
            thin.append(
                Series("line", x, 1000 * gaps.ravel(), run.index, f"{run.label}, a direction", width=0.7, opacity=0.28)
            )
            mean.append(Series("line", t, 1000 * loss.mean(0), run.index, run.label, width=2.6))
        if mean:
            scale = 1000 * temperature(runs, kind)
            rule = Rule("y", scale, f"T_{'E' if kind == 'energy' else 'F'} = {brief(scale)} {unit}")
            span = padded([s.y for s in thin + mean] + [np.array([scale])], log=True)
            label = f"RMSE of {title.lower()} ({unit})"
            panels.append(
                Panel(title, "t, in norms of the weights", label, thin + mean, [rule], y_log=True, y_range=span)
            )
    note = _NOTES.get(norm, "")
    caption = (
        f"Loss along random directions, normalisation ‘{norm}’{f' ({note})' if note else ''}. Thick: mean over the "
        "directions; thin: each of them. The dashed line is the temperature of the entropy: what lies below it counts."
    )
    source = sources_of(runs, "landscape")
    key = [("solid", "mean"), ("thin", "one direction")]
    return Figure(f"figure-landscape-{_slug(norm)}", f"Landscapes, {norm} normalisation", caption, panels, source, key)


def _sensitivity(runs: Sequence[Run], norm: str) -> Figure:
    panels = []
    for kind, title, letter in (("energy", "Energy", "E"), ("forces", "Forces", "F")):
        series = []
        for run in runs:
            factor = run.array("landscape", "temperature_factor", (None,))
            k = None if factor is None else len(factor)
            entropy = run.array("landscape", f"{norm}.entropy_of_temperature.{kind}", (k,))
            if factor is not None and entropy is not None:
                near = (factor > 0.0999) & (factor < 10.01)
                x = 1000 * temperature([run], kind) * factor[near]
                series.append(Series("line", x, entropy[near], run.index, run.label, width=2.2))
        if series:
            unit = "meV/atom" if kind == "energy" else "meV/Å"
            scale = 1000 * temperature(runs, kind)
            rule = Rule("x", scale, f"T_{letter} = {brief(scale)} {unit}", low=True)
            span = padded([s.x for s in series], log=True, share=0.0)
            label = f"temperature of the entropy ({unit})"
            panels.append(Panel(title, label, "loss entropy", series, [rule], x_log=True, x_range=span))
    caption = (
        "Loss entropy against its temperature. Curves that cross mean that the ranking depends on the choice of "
        "temperature, which is marked."
    )
    source = sources_of(runs, "landscape")
    return Figure("figure-entropy-temperature", "Does the entropy depend on its temperature?", caption, panels, source)


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower())


def _table(runs: Sequence[Run]) -> Table:
    kinds = ("energy", "forces", "total")
    columns = [
        Column("potential", text=True),
        Column("normalisation", text=True),
        *(Column(f"entropy, {k}", record=f"NORM.entropy.{k}", significant=4) for k in kinds),
        *(Column(f"grid-free entropy, {k}", record=f"NORM.entropy_integral.{k}", significant=4) for k in kinds),
        Column("entropy of a flat loss", record="flat_entropy", significant=4),
        Column("largest cosine of two directions", record="NORM.cosine_max"),
        Column("loss at the minimum, energy", "eV/atom", "meV/atom", 1000.0, "minimum.energy"),
        Column("loss at the minimum, forces", "eV/Å", "meV/Å", 1000.0, "minimum.forces"),
    ]
    rows, marks = [], []
    for run in runs:
        for norm in normalisations([run]):
            number = [run.number("landscape", c.record.replace("NORM", norm)) for c in columns[2:]]
            rows.append([run.label, norm, *number])
            marks.append(run.index)
    caption = (
        "S = ln Σ exp(−ℓ/T) over the points of the mean line; total = α S(energy) + (1 − α) S(forces). The grid-free "
        "form integrates over t instead. A cosine near 1 means that the directions were not independent."
    )
    return Table("table-entropy", "Loss entropy", caption, columns, rows, sources_of(runs, "landscape"), marks)
