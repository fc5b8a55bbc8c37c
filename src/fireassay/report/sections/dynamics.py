"""Dynamics: displacements, diffusion, vibrations, violations of the oracle's energies and forces, and cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from fireassay.records.dynamics import DynamicsResult
from fireassay.report.figures import Figure, Panel, Series, sources_of
from fireassay.report.runs import Run, with_result
from fireassay.report.sections.chapter import Chapter, Section, missing_assay, paged
from fireassay.report.study import Study
from fireassay.report.style import brief
from fireassay.report.tables import Column, Table, of_field

_POINTS: Final = 400  # of a line
_DASHES: Final = {"reference trajectory": "dash", "oracle": "dot"}
Members = Sequence[tuple[Run, DynamicsResult]]


def chapter(study: Study) -> Chapter:
    """What the dynamics assay says of all potentials."""
    tested = with_result(study.runs, DynamicsResult)
    missing = missing_assay(study.runs, "dynamics")
    if not tested:
        return Chapter("dynamics", "Dynamics", "", missing=missing)
    lead = "How atoms move: how far, how fast, at which frequencies, and how far from the truth they get on their way."

    def figures(page: Members) -> list[Figure]:
        drawn = [_displacements(page), _vibrations(page), _violations(page), _deviations(page)]
        return [figure for figure in drawn if figure is not None]

    tables = [table for table in (_diffusion(tested), _violated(tested), _summary(tested)) if table is not None]
    return Chapter("dynamics", "Dynamics", lead, paged(tested, figures), tables, missing)


def methods(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """How trajectories were made."""
    tested = with_result(runs, DynamicsResult)
    found = []
    for words in dict.fromkeys(_described(result) for _, result in tested):
        found.append((f"Dynamics: {words}.", ["egraffbench", "nequip"]))
    if any(result.violations for _, result in tested):
        text = (
            "Relabelled violations compare with the oracle's energies and forces of the frames that the potential "
            "visited; paired ones with the oracle's own trajectory at the same time, and reach 1/√2 = 0.71 by chaos "
            "alone once the two have decorrelated, however good the potential."
        )
        found.append((text, ["egraffbench"]))
    return found


def _described(result: DynamicsResult) -> str:
    s = result.sampled_from
    ensemble = "constant energy" if result.production == "none" else result.production.replace("_", "-")
    return (
        f"{s.replicas} trajectories of {brief(s.duration / 1000)} ps ({ensemble}) after "
        f"{brief(s.equilibration / 1000)} ps at {brief(s.temperature)} K with time steps of {brief(s.timestep)} fs"
    )


def _thinned(x: np.ndarray, *curves: np.ndarray) -> list[np.ndarray]:
    step = max(1, len(x) // _POINTS)
    return [values[::step] for values in (x, *curves)]


def _displacements(tested: Members) -> Figure:
    names = list(dict.fromkeys(d.name for _, result in tested for d in result.displacements))
    panels = []
    for name in names:
        bands, lines, references = [], [], {}
        for run, result in tested:
            for d in result.displacements:
                if d.name != name:
                    continue
                time, value, error = _thinned(d.time / 1000, d.value, d.error)
                if np.isfinite(error).any():
                    low, up = np.maximum(value - error, 0.0), value + error
                    bands.append(Series("band", time, low, run.index, run.label, up, opacity=0.18, smooth=True))
                lines.append(Series("line", time, value, run.index, run.label))
                for other, curve in d.references.items():
                    _, theirs = _thinned(d.time, curve)
                    references[other] = Series("line", time, theirs, None, other, dash="dash", width=1.6)
        title = "all atoms" if name == "all" else name
        panels.append(Panel(title, "time (ps)", "MSD (Å²)", [*bands, *lines, *references.values()]))
    caption = (
        "Mean squared displacement over all origins of time, the centre of mass at rest; band: standard error over "
        "trajectories. A straight line is diffusion, a plateau a solid or a molecule."
    )
    source = sources_of([run for run, _ in tested], DynamicsResult)
    return Figure("figure-displacement", "How far atoms get", caption, panels, source, _key(tested))


def _key(tested: Members) -> list[tuple[str, str]]:
    known = {name for _, result in tested for name in result.references}
    return [(_DASHES[name], name) for name in _DASHES if name in known]


def _vibrations(tested: Members) -> Figure | None:
    lines, references = [], {}
    top = 1.0
    for run, result in tested:
        v = result.vibrations
        if v is None:
            continue
        weight = np.cumsum(v.density) / max(float(v.density.sum()), 1e-300)
        top = max(top, 1.1 * float(v.frequency[min(int(np.searchsorted(weight, 0.999)), len(weight) - 1)]))
        lines.append(Series("line", v.frequency, v.density, run.index, run.label))
        for other, curve in v.references.items():
            references[other] = Series("line", v.frequency, curve, None, other, dash="dash", width=1.6)
    if not lines:
        return None
    panel = Panel(
        "", "frequency (THz)", "density of states (1/THz)", [*lines, *references.values()], x_range=(0.0, top)
    )
    caption = "Spectrum of the mass-weighted velocity autocorrelation, normalised to 1; 1 THz is 33.4 cm⁻¹."
    source = sources_of([run for run, _ in tested], DynamicsResult)
    return Figure("figure-vibrations", "Vibrations", caption, [panel], source, _key(tested))


def _violations(tested: Members) -> Figure | None:
    panels = []
    for reading in ("relabelled", "paired", "published"):
        for what, label in (("force", "force violation"), ("energy", "energy violation")):
            lines = []
            for run, result in tested:
                for v in result.violations:
                    if v.reading == reading:
                        values = v.force if what == "force" else np.maximum(v.energy, 1e-16)
                        time, curve = _thinned(v.time / 1000, values)
                        lines.append(Series("line", time, curve, run.index, run.label))
            if lines:
                high = (0.0, 1.0) if what == "force" and reading != "relabelled" else None
                panels.append(Panel(reading, "time (ps)", label, lines, y_log=what == "energy", y_range=high))
    if not panels:
        return None
    caption = (
        "Mean over trajectories. Relabelled: the potential's error where it went. Paired: the distance of two "
        "trajectories from one start; at 0.71 they have nothing in common any more. Published: frame by frame against "
        "the reference trajectory, which need not begin at the same place."
    )
    source = sources_of([run for run, _ in tested], DynamicsResult)
    return Figure("figure-violations", "Violations of the oracle", caption, panels, source)


def _deviations(tested: Members) -> Figure:
    lines, references = [], {}
    for run, result in tested:
        time, value = _thinned(result.deviation_time / 1000, result.deviation)
        lines.append(Series("line", time, value, run.index, run.label))
        for other, curve in result.deviation_references.items():
            _, theirs = _thinned(result.deviation_time, curve)
            references[other] = Series("line", time, theirs, None, other, dash="dash", width=1.6)
    panel = Panel("", "time (ps)", "RMSD (Å)", [*lines, *references.values()])
    caption = "Root mean square distance of all atoms from where the trajectory began, without superposition."
    source = sources_of([run for run, _ in tested], DynamicsResult)
    return Figure("figure-deviation", "Away from the start", caption, [panel], source, _key(tested))


def _diffusion(tested: Members) -> Table | None:
    others = list(dict.fromkeys(n for _, r in tested for d in r.diffusivities for n in d.references))
    columns = [
        Column("potential", text=True),
        Column("element", text=True),
        Column("D", "cm^2/s", "10⁻⁵ cm²/s", 1e5, "diffusivities: value"),
        Column("error", "cm^2/s", "10⁻⁵ cm²/s", 1e5, "diffusivities: error", significant=2),
        *(Column(f"D, {name}", "cm^2/s", "10⁻⁵ cm²/s", 1e5, "diffusivities: references") for name in others),
        *(
            Column(f"error, {name}", "cm^2/s", "10⁻⁵ cm²/s", 1e5, "diffusivities: reference_errors", 2)
            for name in others
        ),
        Column("fit from", "fs", "ps", 1e-3, "diffusivities: window_from", trim=True),
        Column("to", "fs", "ps", 1e-3, "diffusivities: window_to", trim=True),
    ]
    rows, marks = [], []
    for run, result in tested:
        for d in result.diffusivities:
            rows.append(
                [run.label, d.name, d.value, d.error, *(d.references.get(n) for n in others),
                 *(d.reference_errors.get(n) for n in others), d.window_from, d.window_to]
            )  # fmt: skip
            marks.append(run.index)
    if not rows:
        return None
    caption = (
        "Slope of the mean squared displacement over twice the number of periodic directions; errors over "
        "trajectories, of a single one over its blocks. A value within two errors of zero is no diffusion."
    )
    source = sources_of([run for run, _ in tested], DynamicsResult)
    return Table("table-diffusion", "Diffusion", caption, columns, rows, source, marks)


def _violated(tested: Members) -> Table | None:
    columns = [
        Column("potential", text=True),
        Column("reading", text=True),
        Column("EV", record="violations: energy_mean"),
        Column("EV, cohesive", record="violations: cohesive_mean"),
        Column("FV", record="violations: force_mean"),
        Column("decorrelated after", "fs", "ps", 1e-3, "violations: decorrelation_time"),
        Column("frames", record="violations: frames"),
        Column("oracle failed", record="violations: failed"),
    ]
    rows, marks = [], []
    for run, result in tested:
        for v in result.violations:
            rows.append(
                [
                    run.label,
                    v.reading,
                    v.energy_mean,
                    v.cohesive_mean,
                    v.force_mean,
                    v.decorrelation_time,
                    v.frames,
                    v.failed,
                ]
            )
            marks.append(run.index)
    if not rows:
        return None
    caption = (
        "Geometric means over all frames. EV depends on the zero of energy: cohesive is less the oracle's isolated "
        "atoms. A paired FV near 0.71 says that trajectories decorrelate and nothing about the potential."
    )
    source = sources_of([run for run, _ in tested], DynamicsResult)
    return Table("table-violations", "Energy and force violation", caption, columns, rows, source, marks)


def _summary(tested: Members) -> Table:
    columns = [
        Column("potential", text=True),
        Column("sampled", "", "%", 100.0, "sampled"),
        Column("trajectories that failed", record="failures"),
        Column("temperature", "K", "K", record="temperature.value"),
        Column("pressure", "GPa", "GPa", record="pressure.value"),
        Column("pressure, error", "GPa", "GPa", record="pressure.error", significant=2),
        of_field(DynamicsResult, "drift", "drift"),
        of_field(DynamicsResult, "fluctuation", "fluctuation"),
        Column("W1 of the spectrum", "THz", "THz", record="vibrations.likeness: wasserstein"),
        Column("stable molecules", "", "%", 100.0, "molecular_fraction"),
        Column("replica-steps per second", "1/s", "1/s", record="replica_steps_per_second"),
        Column("time per atom and step", "s", "µs", 1e6, "seconds_per_atom_step"),
        Column("peak memory", "MB", "MB", record="peak_memory"),
        Column("notes", text=True),
    ]
    rows: list[list[Any]] = []
    for run, r in tested:
        likeness = list(r.vibrations.likeness.values()) if r.vibrations is not None else []
        rows.append(
            [run.label, r.sampled, len({f.replica for f in r.failures}), r.temperature.value,
             r.pressure.value if r.pressure is not None else None, r.pressure.error if r.pressure is not None else None,
             r.drift, r.fluctuation, likeness[0].wasserstein if likeness else None, r.molecular_fraction,
             r.replica_steps_per_second, r.seconds_per_atom_step, r.peak_memory, "; ".join(r.notes)]
        )  # fmt: skip
    kept = [k for k, column in enumerate(columns) if column.text or any(row[k] is not None for row in rows)]
    columns, rows = [columns[k] for k in kept], [[row[k] for k in kept] for row in rows]
    caption = (
        "Trajectories that ended early are left out of averages, and counted here. Times are of the machine named "
        "under provenance."
    )
    source = sources_of([run for run, _ in tested], DynamicsResult)
    marks = [run.index for run, _ in tested]
    return Table("table-dynamics", "What was measured, at which cost", caption, columns, rows, source, marks)


SECTION = Section(DynamicsResult, chapter, methods, optional=True)
