"""Loss landscapes along random directions and the entropy that sums them up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fireassay.records.landscape import Entropies, LandscapeResult
from fireassay.report.figures import Figure, Panel, Rule, Series, padded, sources_of
from fireassay.report.runs import Run, with_result
from fireassay.report.sections.chapter import PAGE, Chapter, Section, missing_assay, paged
from fireassay.report.study import Study
from fireassay.report.style import brief
from fireassay.report.tables import Column, Table, of_field

Members = Sequence[tuple[Run, LandscapeResult]]
_NOTES = {
    "filter": "each filter of a direction has the norm of the filter of the weights",
    "layer": "each layer of a direction has the norm of the layer of the weights",
    "model": "a direction has the norm of all weights",
    "published": "as in the authors' code, which for flat weight vectors makes the directions nearly parallel",
}


def normalisations(tested: Members) -> list[str]:
    """The normalisations that were recorded, the sound default first."""
    names = dict.fromkeys(name for _, result in tested for name in result.lines)
    return sorted(names, key=lambda name: (name != "filter", name))


def temperature(result: LandscapeResult, kind: str) -> float:
    """T_E in eV/atom or T_F in eV/Å."""
    return result.setting.temperature_energy if kind == "energy" else result.setting.temperature_forces


def chapter(study: Study) -> Chapter:
    """Everything that the landscape assay says."""
    tested = with_result(study.runs, LandscapeResult)
    missing = missing_assay(study.runs, "landscape", weights=True)
    if not tested:
        return Chapter("landscape", "Loss landscape", "", missing=missing)
    lead = (
        "The training loss on lines through the trained weights. A wide, flat valley has a high loss entropy. "
        "Entropies rank potentials of one architecture and one setting only: with another number of weights per "
        "filter, the normalised directions are not comparable."
    )

    def figures(page: Members) -> list[Figure]:
        norms = normalisations(page)
        drawn = [_lines(page, norm, each=len(tested) <= PAGE) for norm in norms] + [
            _sensitivity(page, norm) for norm in norms[:1]
        ]
        return [figure for figure in drawn if figure.panels]

    return Chapter("landscape", "Loss landscape", lead, paged(tested, figures), [_table(tested)], missing)


def methods(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """How the loss was sampled."""
    tested = with_result(runs, LandscapeResult)
    if not tested:
        return []
    sizes = dict.fromkeys((r.setting.n_directions, r.setting.points) for _, r in tested)
    words = " or ".join(f"{directions} random directions, {points} points each" for directions, points in sizes)
    return [
        (
            f"The loss was evaluated on lines along {words}, normalised by filter and, for comparison, as published "
            "where recorded; its entropy follows the cited definition.",
            ["vita", "li"],
        )
    ]


def _lines(tested: Members, norm: str, each: bool) -> Figure:
    """Mean losses, and those of each direction where there is room for them."""
    panels = []
    for kind, title, unit in (("energy", "Energy", "meV/atom"), ("forces", "Forces", "meV/Å")):
        lines_of_each, mean, scales = [], [], []
        for run, result in tested:
            lines = result.lines.get(norm)
            if lines is None:
                continue
            loss = lines.energy if kind == "energy" else lines.forces
            if not np.isfinite(loss).any():
                continue
            t = result.t
            gaps = np.concatenate([loss, np.full((len(loss), 1), np.nan)], axis=1)
            x = np.tile(np.append(t, np.nan), len(loss))
            if each:
                lines_of_each.append(
                    Series(
                        "line", x, 1000 * gaps.ravel(), run.index, f"{run.label}, a direction", width=0.7, opacity=0.28
                    )
                )
            mean.append(Series("line", t, 1000 * loss.mean(0), run.index, run.label, width=2.6))
            scales.append(1000 * temperature(result, kind))
        if mean:
            letter = "E" if kind == "energy" else "F"
            rules = [Rule("y", scale, f"T_{letter} = {brief(scale)} {unit}") for scale in dict.fromkeys(scales)]
            span = padded([s.y for s in lines_of_each + mean] + [np.array(scales)], log=True)
            label = f"RMSE of {title.lower()} ({unit})"
            panels.append(
                Panel(title, "t, in norms of the weights", label, lines_of_each + mean, rules, y_log=True, y_range=span)
            )
    note = _NOTES.get(norm, "")
    thin = "; thin: each of them" if each else ""
    caption = (
        f"Loss along random directions, normalisation ‘{norm}’{f' ({note})' if note else ''}. Thick: mean over the "
        f"directions{thin}. The dashed line is the temperature of the entropy: what lies below it counts."
    )
    source = sources_of([run for run, _ in tested], LandscapeResult)
    key = [("solid", "mean"), *([("thin", "one direction")] if each else [])]
    return Figure(f"figure-landscape-{_slug(norm)}", f"Landscapes, {norm} normalisation", caption, panels, source, key)


def _sensitivity(tested: Members, norm: str) -> Figure:
    panels = []
    for kind, title, letter in (("energy", "Energy", "E"), ("forces", "Forces", "F")):
        series, scales = [], []
        for run, result in tested:
            lines = result.lines.get(norm)
            if lines is None:
                continue
            entropy = lines.energy_of_temperature if kind == "energy" else lines.forces_of_temperature
            if entropy is not None:
                factor = lines.temperature_factor
                near = (factor > 0.0999) & (factor < 10.01)
                x = 1000 * temperature(result, kind) * factor[near]
                series.append(Series("line", x, entropy[near], run.index, run.label, width=2.2))
                scales.append(1000 * temperature(result, kind))
        if series:
            unit = "meV/atom" if kind == "energy" else "meV/Å"
            rules = [Rule("x", s, f"T_{letter} = {brief(s)} {unit}", low=True) for s in dict.fromkeys(scales)]
            span = padded([s.x for s in series], log=True, share=0.0)
            label = f"temperature of the entropy ({unit})"
            panels.append(Panel(title, label, "loss entropy", series, rules, x_log=True, x_range=span))
    caption = (
        "Loss entropy against its temperature. Curves that cross mean that the ranking depends on the choice of "
        "temperature, which is marked."
    )
    source = sources_of([run for run, _ in tested], LandscapeResult)
    return Figure("figure-entropy-temperature", "Does the entropy depend on its temperature?", caption, panels, source)


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower())


def _values(entropies: Entropies) -> list[float | None]:
    return [e.value if e is not None else None for e in (entropies.energy, entropies.forces, entropies.total)]


def _table(tested: Members) -> Table:
    stem = "lines.NORM"

    def entropy(path: str, label: str) -> Column:
        return of_field(LandscapeResult, path, label, significant=4)

    columns = [
        Column("potential", text=True),
        Column("normalisation", text=True),
        *(entropy(f"{stem}.entropy.{k}.value", f"entropy, {k}") for k in ("energy", "forces", "total")),
        entropy(f"{stem}.entropy.total.low", "total, 95 % from"),
        entropy(f"{stem}.entropy.total.high", "to"),
        *(entropy(f"{stem}.entropy_integral.{k}.value", f"grid-free, {k}") for k in ("energy", "forces", "total")),
        entropy("flat_entropy", "entropy of a flat loss"),
        of_field(LandscapeResult, f"{stem}.cosine_max", "largest cosine of two directions"),
        of_field(LandscapeResult, "minimum_energy", "loss at the minimum, energy"),
        of_field(LandscapeResult, "minimum_forces", "loss at the minimum, forces"),
        of_field(LandscapeResult, "n_weights", "weights moved"),
        of_field(LandscapeResult, "n_frames", "training frames"),
    ]
    rows, marks = [], []
    for run, result in tested:
        for norm in normalisations([(run, result)]):
            lines = result.lines[norm]
            total = lines.entropy.total
            rows.append(
                [
                    run.label,
                    norm,
                    *_values(lines.entropy),
                    *((total.low, total.high) if total is not None else (None, None)),
                    *_values(lines.entropy_integral),
                    result.flat_entropy,
                    lines.cosine_max,
                    result.minimum_energy,
                    result.minimum_forces,
                    result.n_weights,
                    result.n_frames,
                ]
            )
            marks.append(run.index)
    caption = (
        "S = ln Σ exp(−ℓ/T) over the points of the mean line; total = α S(energy) + (1 − α) S(forces). The grid-free "
        "form integrates over t instead. A cosine near 1 means that the directions were not independent."
    )
    source = sources_of([run for run, _ in tested], LandscapeResult)
    return Table("table-entropy", "Loss entropy", caption, columns, rows, source, marks)


SECTION = Section(LandscapeResult, chapter, methods, weights=True)
