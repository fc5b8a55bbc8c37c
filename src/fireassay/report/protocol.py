"""The chapter of a protocol: one row for each potential and task, trade-offs, a radar, and curves against density."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fireassay.records.accuracy import AccuracyResult
from fireassay.records.dynamics import DynamicsResult
from fireassay.records.protocol import ProtocolRecord, Trial
from fireassay.records.stability import StabilityResult
from fireassay.records.structure import StructureResult
from fireassay.report.figures import Figure, Panel, Series, sources_of
from fireassay.report.runs import Run
from fireassay.report.sections.chapter import Chapter
from fireassay.report.study import Study
from fireassay.report.style import digits
from fireassay.report.tables import Column, Table
from fireassay.report.verdict import Cell, Finding, Verdict
from fireassay.report.verdict.finding import joined

Row = dict[str, float | None]
_COLUMNS = (
    Column("energy MAE", "eV", "meV", 1000.0, "accuracy: energy.mae"),
    Column("force MAE", "eV/Å", "meV/Å", 1000.0, "accuracy: forces.mae"),
    Column("force RMSE", "", "%", 1.0, "accuracy: forces.rmse_percent"),
    Column("WF", "%", "%", record="structure: wright"),
    Column("JSD", "bit", "bit", record="structure: jensen_shannon"),
    Column("W1", "Å", "Å", record="structure: wasserstein"),
    Column("EV", record="dynamics: energy_mean"),
    Column("FV", record="dynamics: force_mean"),
    Column("RMSD at the end", "Å", "Å", record="dynamics: deviation"),
    Column("D", "cm^2/s", "10⁻⁵ cm²/s", 1e5, "dynamics: diffusivities"),
    Column("pressure", "GPa", "GPa", record="dynamics: pressure"),
    Column("stable molecules", "", "%", 100.0, "dynamics: molecular_fraction"),
    Column("survived", "", "%", 100.0, "stability: failed"),
    Column("mean time to failure", "fs", "ps", 1e-3, "stability: times.mean"),
    Column("trajectories that failed", record="failures"),
    Column("time per atom and step", "s", "µs", 1e6, "dynamics: seconds_per_atom_step"),
    Column("training, per epoch", "s", "s", record="run: training"),
)


def chapter(record: ProtocolRecord, trials: Sequence[Trial], study: Study) -> Chapter:
    """What a protocol found; `trials` are those of the study's runs, in their order."""
    pairs = list(zip(trials, study.runs, strict=True))
    rows = [(trial, run, _row(record, trial, run)) for trial, run in pairs]
    figures = [f for f in (_radar(rows), _trade_offs(rows), _densities(rows)) if f is not None]
    lead = f"{len(rows)} trials of {len({t.potential for t in trials})} potentials at the tasks of {record.protocol}."
    missing = [(note, "") for note in record.notes]
    return Chapter("protocol", "Protocol", lead, figures, [_table(rows)], missing)


def _row(record: ProtocolRecord, trial: Trial, run: Run) -> Row:
    row: Row = {"training, per epoch": record.epoch_seconds.get(trial.potential)}
    failed: set[int] | None = None
    accuracy = run.result(AccuracyResult)
    split = next(iter(accuracy.splits.values()), None) if accuracy is not None else None
    if split is not None:
        row["energy MAE"] = split.energy.mae if split.energy is not None else None
        if split.forces is not None:
            row |= {"force MAE": split.forces.mae, "force RMSE": split.forces.rmse_percent}
    structure = run.result(StructureResult)
    if structure is not None:
        whole = next((d for d in structure.distributions if d.name == "all" and d.likeness), None)
        found = next(iter(whole.likeness.values())) if whole is not None else None
        if found is not None:
            row |= {"WF": found.wright, "JSD": found.jensen_shannon, "W1": found.wasserstein}
        failed = {f.replica for f in structure.failures}
    dynamics = run.result(DynamicsResult)
    if dynamics is not None:
        readings = {v.reading: v for v in dynamics.violations}
        violation = readings.get("relabelled") or readings.get("published") or readings.get("paired")
        if violation is not None:
            row |= {"EV": violation.energy_mean, "FV": violation.force_mean}
        last = dynamics.deviation[np.isfinite(dynamics.deviation)]
        row["RMSD at the end"] = float(last[-1]) if len(last) else None
        light = next(iter(dynamics.diffusivities), None)
        row["D"] = light.value if light is not None else None
        row["pressure"] = dynamics.pressure.value if dynamics.pressure is not None else None
        row["stable molecules"] = dynamics.molecular_fraction
        row["time per atom and step"] = dynamics.seconds_per_atom_step
        failed = (failed or set()) | {f.replica for f in dynamics.failures}
    stability = run.result(StabilityResult)
    if stability is not None:
        row["survived"] = float(1 - stability.failed.mean())
        row["mean time to failure"] = stability.times.mean
        failed = (failed or set()) | {f.replica for f in stability.failures}
    row["trajectories that failed"] = None if failed is None else float(len(failed))
    return row


Rows = Sequence[tuple[Trial, Run, Row]]


def _table(rows: Rows) -> Table:
    known = [column for column in _COLUMNS if any(row.get(column.label) is not None for _, _, row in rows)]
    columns = [
        Column("potential", text=True),
        Column("task", text=True),
        Column("system", text=True),
        Column("temperature", "K", "K", trim=True),
        Column("time step", "fs", "fs", trim=True),
        *known,
    ]
    body: list[list[Any]] = [
        [trial.potential, trial.task, trial.formula, trial.temperature, trial.timestep,
         *(row.get(column.label) for column in known)]
        for trial, _, row in rows
    ]  # fmt: skip
    caption = (
        "EV and FV are relabelled by the oracle where there is one, else frame by frame against the reference as "
        "published. WF, JSD and W1 are of all pairs."
    )
    runs = [run for _, run, _ in rows]
    sources = sources_of(runs, AccuracyResult, StructureResult, DynamicsResult, StabilityResult)
    return Table("table-protocol", "Every trial", caption, columns, body, sources, [run.index for run in runs])


def judgement(record: ProtocolRecord, trials: Sequence[Trial], study: Study) -> Verdict:
    """The top of a protocol's report: at how many tasks each potential's trajectories last, and a cell for each task.

    Tasks of one potential are not compared with each other.
    """
    rows = [(trial, run, _row(record, trial, run)) for trial, run in zip(trials, study.runs, strict=True)]
    potentials = _potentials(rows)
    tasks = list(dict.fromkeys(trial.task for trial, _, _ in rows))
    lasted = [
        f"{sum(_lasts(record, t, row) for t, _, row in rows if t.potential == name)} of "
        f"{sum(t.potential == name for t, _, _ in rows)} tasks with {name}"
        for name in potentials
    ]
    table = []
    for name in potentials:
        own = {trial.task: (trial, run, row) for trial, run, row in rows if trial.potential == name}
        first = next(iter(own.values()))[1]
        cells = [_cell(record, *own[task]) if task in own else Cell("–", "not run", "none") for task in tasks]
        table.append((replace(first, label=name), cells))
    cautions = [Finding(f"{note}.", [("table-protocol", "every trial")], []) for note in record.notes]
    if len(potentials) > 1:
        text = (
            "Each potential is one training from one seed, and a difference of two numbers has not been tested for "
            "chance here; the table of distances has their errors and floors."
        )
        cautions.append(Finding(text, [("table-structure", "distances")], []))
    return Verdict(
        headline=f"{record.protocol}: every trajectory lasts at {joined(lasted)}.",
        advice=[], reasons=[], cautions=cautions, columns=tasks, overview=table,
    )  # fmt: skip


def _lasts(record: ProtocolRecord, trial: Trial, row: Row) -> bool:
    """Whether every trajectory of a trial reached its end, and every assay could be run."""
    name = trial.folder.rpartition("/")[2]
    broken = any(note.startswith(f"{name}:") for note in record.notes)
    return not broken and not row.get("trajectories that failed")


def _cell(record: ProtocolRecord, trial: Trial, run: Run, row: Row) -> Cell:
    """What a task shows in short: structure, survival or the force error."""
    lasts = _lasts(record, trial, row)
    error = row.get("force MAE")
    note = f"forces {digits(1000 * error)} meV/Å" if error is not None else run.label
    shown = (("WF", "WF {} %", 1.0), ("JSD", "JSD {} bit", 1.0), ("survived", "{} % alive", 100.0))
    found = next((words.format(digits(float(row[name] or 0.0) * scale, 2)) for name, words, scale in shown
                  if row.get(name) is not None), "no result")  # fmt: skip
    return Cell(found if lasts else f"{found}, failures", note, "none" if lasts else "poor", "table-protocol")


_SPOKES = ("force MAE", "WF", "JSD", "W1", "FV", "time per atom and step")


def _potentials(rows: Rows) -> list[str]:
    return list(dict.fromkeys(trial.potential for trial, _, _ in rows))


def _means(rows: Rows, name: str) -> dict[str, float]:
    """The geometric mean over tasks of a number above zero, of each potential that has it at every task."""
    found = {}
    for potential in _potentials(rows):
        values = [row.get(name) for trial, _, row in rows if trial.potential == potential]
        if values and all(v is not None and np.isfinite(v) and v > 0 for v in values):
            found[potential] = float(np.exp(np.mean(np.log(np.array(values, dtype=float)))))
    return found


def _radar(rows: Rows) -> Figure | None:
    """Each spoke is a number relative to the best potential: the rim is the best, half way in is twice as large."""
    potentials = _potentials(rows)
    means = {name: _means(rows, name) for name in _SPOKES}
    spokes = [name for name in _SPOKES if len(means[name]) == len(potentials)]
    if len(potentials) < 2 or len(spokes) < 3:
        return None
    angles = np.pi / 2 - 2 * np.pi * np.arange(len(spokes) + 1) / len(spokes)
    series = []
    for radius in (0.25, 0.5, 0.75, 1.0):
        series.append(Series("line", radius * np.cos(angles), radius * np.sin(angles), None, "", width=0.6, dash="dot"))
    for angle in angles[:-1]:
        series.append(Series("line", np.array([0, np.cos(angle)]), np.array([0, np.sin(angle)]), None, "", width=0.6))
    for potential in potentials:
        index = next(run.index for trial, run, _ in rows if trial.potential == potential)
        share = [1 / (1 + np.log2(means[name][potential] / min(means[name].values()))) for name in spokes]
        radius = np.array([*share, share[0]])
        series.append(
            Series("line", radius * np.cos(angles), radius * np.sin(angles), index, potential, markers=True, width=2.2)
        )
    words = [
        (1.16 * float(np.cos(a)), 1.16 * float(np.sin(a)), name) for a, name in zip(angles[:-1], spokes, strict=True)
    ]
    panel = Panel("", "", "", series, square=True, x_range=(-2.0, 2.0), y_range=(-1.4, 1.4), words=words, bare=True)
    caption = (
        "Geometric means over all tasks, each relative to the best potential: the rim is the best, and a number twice "
        "as large lies half way in. The larger the area, the better all round; whose trajectories failed stands in the "
        "table, and their last moments are not in here."
    )
    source = sources_of([run for _, run, _ in rows], AccuracyResult, StructureResult, DynamicsResult)
    return Figure("figure-radar", "All round", caption, [panel], source)


def _trade_offs(rows: Rows) -> Figure | None:
    """Force errors against what simulations show, a point for each trial."""
    panels = []
    for x, y, label in (
        ("force MAE", "WF", "Wright factor (%)"),
        ("force MAE", "FV", "force violation"),
        ("time per atom and step", "JSD", "JSD (bit)"),
    ):
        series = []
        for trial, run, row in rows:
            a, b = row.get(x), row.get(y)
            if a is not None and b is not None and a > 0 and b > 0:
                scale = 1e6 if x.startswith("time") else 1000.0
                name = f"{trial.potential}, {trial.task}"
                series.append(Series("points", np.array([a * scale]), np.array([b]), run.index, name, size=9))
        if len(series) > 1:
            unit = "time per atom and step (µs)" if x.startswith("time") else "force MAE (meV/Å)"
            panels.append(Panel("", unit, label, series, x_log=True, y_log=True))
    if not panels:
        return None
    caption = "Do small errors on test frames mean good simulations? A point for each trial; down and left is better."
    source = sources_of([run for _, run, _ in rows], AccuracyResult, StructureResult, DynamicsResult)
    return Figure("figure-trade-offs", "Errors and simulations", caption, panels, source)


def _densities(rows: Rows) -> Figure | None:
    panels = []
    for name, label, scale in (
        ("pressure", "pressure (GPa)", 1.0),
        ("D", "D (10⁻⁵ cm²/s)", 1e5),
        ("stable molecules", "stable molecules (%)", 100.0),
    ):
        series = []
        for potential in _potentials(rows):
            points = sorted(
                (trial.density, float(row[name] or 0.0) * scale, run.index)
                for trial, run, row in rows
                if trial.potential == potential and trial.density is not None and row.get(name) is not None
            )
            if len(points) > 1:
                x, y = np.array([p[0] for p in points]), np.array([p[1] for p in points])
                series.append(Series("line", x, y, points[0][2], potential, markers=True))
        if series:
            panels.append(Panel("", "density (g/cm³)", label, series))
    if not panels:
        return None
    source = sources_of([run for _, run, _ in rows], DynamicsResult)
    caption = "Where molecules give way to atoms, diffusion and pressure show it."
    return Figure("figure-densities", "Against density", caption, panels, source)
