"""Probes: a table of lights, and the curves behind them with their faults marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from fireassay.records.probes import Curve, ProbesResult
from fireassay.report.figures import Figure, Panel, Series, sources_of
from fireassay.report.runs import Run, with_result
from fireassay.report.sections.chapter import Chapter, Section, missing_assay, paged
from fireassay.report.study import Study
from fireassay.report.tables import Column, Table

LIGHTS: Final = {"sound": "● sound", "doubtful": "▲ doubtful", "broken": "■ broken", "not asked": "–"}
_PANELS: Final = 12  # of one figure
_SHOWN: Final = (-10.0, 20.0)  # eV, of a curve
_TITLES: Final = {
    "dimer": ("figure-dimers", "Two atoms alone", "distance (Å)"),
    "bond": ("figure-bonds", "Bonds pressed and pulled", "length (Å)"),
    "pulled atom": ("figure-pulled", "An atom carried away", "way (Å)"),
}

Members = Sequence[tuple[Run, ProbesResult]]


def chapter(study: Study) -> Chapter:
    """The lights of all potentials, what was found, and the curves."""
    tested = with_result(study.runs, ProbesResult)
    missing = missing_assay(study.runs, "probes")
    if not tested:
        return Chapter("probes", "Probes", "", missing=missing)
    lead = (
        "Laws that every potential energy surface obeys, asked without labels at one start. Sound: within the limit; "
        "doubtful: look before you rely on it; broken: results that depend on it are wrong."
    )

    def figures(page: Members) -> list[Figure]:
        drawn = [_curves(page, kind) for kind in _TITLES]
        return [figure for figure in [*drawn, *_volume(page), *_steps(page)] if figure is not None]

    return Chapter("probes", "Probes", lead, paged(tested, figures), [_lights(tested), _found(tested)], missing)


def methods(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """What was asked."""
    tested = with_result(runs, ProbesResult)
    if not tested:
        return []
    most = max(result.evaluations for _, result in tested)
    text = (
        "Probes compare forces and stresses with five-point differences of the energy at several steps, the Hessian "
        "with its transpose, answers to one question put in several ways, and follow dimers, bonds, crystals and "
        f"trajectories at constant energy ({most} calculations at most)."
    )
    return [(text, [])]


def _lights(tested: Members) -> Table:
    names = list(dict.fromkeys(probe.name for _, result in tested for probe in result.probes))
    columns = [Column("probe", text=True), *(Column(run.label, text=True) for run, _ in tested)]
    given = [{probe.name: LIGHTS[probe.verdict] for probe in result.probes} for _, result in tested]
    rows = [[name, *(lights.get(name, "–") for lights in given)] for name in names]
    caption = "One row for each probe; a dash where it could not be asked."
    source = sources_of([run for run, _ in tested], ProbesResult)
    return Table("table-probes", "Lights", caption, columns, rows, source)


def _found(tested: Members) -> Table:
    columns = [Column(name, text=True) for name in ("potential", "probe", "light", "what was found", "what it means")]
    order = ("broken", "doubtful", "sound", "not asked")
    rows, marks = [], []
    for verdict in order:
        for run, result in tested:
            for probe in result.probes:
                if probe.verdict == verdict:
                    rows.append([run.label, probe.name, LIGHTS[verdict], probe.sentence, probe.meaning])
                    marks.append(run.index)
    source = sources_of([run for run, _ in tested], ProbesResult)
    caption = "Every probe with its number, the worst first."
    return Table("table-probes-found", "What the probes found", caption, columns, rows, source, marks, True)


def _curves(tested: Members, kind: str) -> Figure | None:
    panels: dict[str, list[Series]] = {}
    faulty: set[str] = set()
    for run, result in tested:
        for curve in result.curves:
            if curve.kind == kind:
                panels.setdefault(curve.name, []).extend(_drawn(run, curve))
                faulty |= {curve.name} if curve.faults or curve.flips else set()
    if not panels:
        return None
    names = sorted(panels, key=lambda name: name not in faulty)[:_PANELS]
    id, title, x = _TITLES[kind]
    drawn = [
        Panel(name, x, "energy (eV)", panels[name], y_range=_range(panels[name], 2.0 if kind == "dimer" else 8.0))
        for name in names
    ]
    left = len(panels) - len(names)
    caption = (
        f"Energies {'less that of the far end' if kind == 'dimer' else 'less that of the start'}; marks show faults: "
        "holes and jumps." + (f" {left} more are in the records." if left else "")
    )
    return Figure(id, title, caption, drawn, sources_of([run for run, _ in tested], ProbesResult))


def _drawn(run: Run, curve: Curve) -> list[Series]:
    series = [Series("line", curve.distance, curve.energy, run.index, run.label)]
    if curve.oracle is not None:
        series.append(Series("line", curve.distance, curve.oracle, None, "oracle", dash="dash", width=1.5))
    if len(curve.fault_at):
        at = np.interp(curve.fault_at, curve.distance, curve.energy)
        text = f"{run.label}: {'; '.join(curve.faults)}"
        series.append(Series("points", curve.fault_at, at, run.index, text, size=10))
    return series


def _range(series: Sequence[Series], foot: float) -> tuple[float, float]:
    """What of the energies is worth seeing: the well and the foot of the wall."""
    values = np.concatenate([s.y for s in series])
    values = values[np.isfinite(values)]
    low = max(float(values.min(initial=0.0)), _SHOWN[0])
    high = min(float(values.max(initial=0.0)), max(3 * abs(low), foot), _SHOWN[1])
    margin = 0.05 * (high - low)
    return low - margin, high + margin


def _volume(tested: Members) -> list[Figure]:
    series = []
    for run, result in tested:
        if result.bulk is not None and np.isfinite(result.bulk.energy).any():
            energy = 1000 * (result.bulk.energy - np.nanmin(result.bulk.energy)) / result.n_atoms
            series.append(Series("line", result.bulk.volume, energy, run.index, run.label, markers=True))
    if not series:
        return []
    panel = Panel("", "volume (Å³)", "energy (meV/atom)", series)
    caption = "Energy of the cell against its volume, atoms relaxed, less the lowest."
    source = sources_of([run for run, _ in tested], ProbesResult)
    return [Figure("figure-volume", "Energy against volume", caption, [panel], source)]


def _steps(tested: Members) -> list[Figure]:
    panels: dict[str, list[Series]] = {}
    for run, result in tested:
        for scan in result.scans:
            if np.isfinite(scan.error).any():
                line = Series("line", scan.step, np.maximum(scan.error, 1e-16), run.index, run.label, markers=True)
                panels.setdefault(scan.name, []).append(line)
    if not panels:
        return []
    drawn = [
        Panel(name, "strain" if "stress" in name else "step (Å)", "relative error", lines, x_log=True, y_log=True)
        for name, lines in panels.items()
    ]
    caption = (
        "Errors of differences by their step. A line that falls with the step is the difference's own error, one that "
        "rises towards small steps is rounding or noise, and one that stays is a fault."
    )
    source = sources_of([run for run, _ in tested], ProbesResult)
    return [Figure("figure-steps", "Fault, rounding or step", caption, drawn, source)]


SECTION = Section(ProbesResult, chapter, methods)
