"""Structure: distributions of distances, angles and shapes over each other, and how far they are from the reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np

from fireassay.records.structure import Coordination, Distribution, StructureResult
from fireassay.report.figures import Figure, Panel, Series, sources_of
from fireassay.report.runs import Run, with_result
from fireassay.report.sections.chapter import Chapter, Section, missing_assay, paged
from fireassay.report.study import Study
from fireassay.report.style import brief, grouped
from fireassay.report.tables import Column, Table

_PANELS: Final = 9  # of one figure
_KINDS: Final = {
    "rdf": ("figure-rdf", "Radial distribution", "distance (Å)", "g"),
    "pair density": ("figure-pairs", "Distances of pairs", "distance (Å)", "density (1/Å)"),
    "angle": ("figure-angles", "Angles between neighbours", "angle (°)", "density (1/°)"),
    "bond": ("figure-bond-lengths", "Bond lengths", "length (Å)", "density (1/Å)"),
    "bond angle": ("figure-bond-angles", "Bond angles", "angle (°)", "density (1/°)"),
    "dihedral": ("figure-dihedrals", "Dihedral angles", "angle (°)", "density (1/°)"),
    "gyration": ("figure-gyration", "Radius of gyration", "radius (Å)", "density (1/Å)"),
}
_DASHES: Final[dict[str, Literal["dash", "dot"]]] = {"reference trajectory": "dash", "oracle": "dot"}
Members = Sequence[tuple[Run, StructureResult]]


def chapter(study: Study) -> Chapter:
    """What the structure assay says of all potentials."""
    tested = with_result(study.runs, StructureResult)
    missing = missing_assay(study.runs, "structure")
    if not tested:
        return Chapter("structure", "Structure", "", missing=missing)
    lead = (
        "Where atoms are, on average, in trajectories that each potential makes by itself. A wrong structure can come "
        "with small force errors on frames of somebody else's trajectory."
    )

    def figures(page: Members) -> list[Figure]:
        return [figure for kind in _KINDS if (figure := _figure(page, kind)) is not None]

    return Chapter("structure", "Structure", lead, paged(tested, figures), _tables(tested), missing)


def methods(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """How trajectories were made, and what was compared."""
    tested = with_result(runs, StructureResult)
    found = []
    for words in dict.fromkeys(_described(result) for _, result in tested):
        found.append((f"Structure: {words}.", ["egraffbench"]))
    if found:
        text = (
            "Wright's factor is Σ(g − g_ref)²/Σg_ref², R_χ its root, in percent; the Jensen-Shannon divergence is in "
            "bits; W1 is the mean way that probability has to move, which stays meaningful when peaks no longer "
            "overlap and the others saturate. A floor is the same between the two halves of the reference."
        )
        found.append((text, []))
    return found


def _described(result: StructureResult) -> str:
    s = result.sampled_from
    return (
        f"{s.replicas} trajectories of {brief(s.duration / 1000)} ps after {brief(s.equilibration / 1000)} ps at "
        f"{brief(s.temperature)} K with time steps of {brief(s.timestep)} fs ({s.thermostat.replace('_', '-')})"
    )


def _figure(tested: Members, kind: str) -> Figure | None:
    by_name: dict[str, list[tuple[Run, Distribution]]] = {}
    for run, result in tested:
        for distribution in result.distributions:
            if distribution.kind == kind:
                by_name.setdefault(distribution.name, []).append((run, distribution))
    if not by_name:
        return None
    id, title, x, y = _KINDS[kind]
    names = sorted(by_name, key=lambda name: (name != "all", -_distance(by_name[name])))
    panels = [_panel(name, by_name[name], x, y) for name in names[:_PANELS]]
    left = len(names) - len(panels)
    caption = (
        "Mean over trajectories with its standard error as a band, and the references as broken lines; those that "
        "differ most come first." + (f" {left} more are in the records." if left > 0 else "")
    )
    source = sources_of([run for run, _ in tested], StructureResult)
    known = {name for _, result in tested for name in result.references}
    key = [(_DASHES[name], name) for name in _DASHES if name in known]
    return Figure(id, title, caption, panels, source, key)


def _distance(members: Sequence[tuple[Run, Distribution]]) -> float:
    return max((found.jensen_shannon for _, d in members for found in d.likeness.values()), default=0.0)


def _panel(name: str, members: Sequence[tuple[Run, Distribution]], x: str, y: str) -> Panel:
    bands, lines, references = [], [], {}
    high = 0.0
    for run, d in members:
        seen = np.flatnonzero(d.value + sum(d.references.values(), np.zeros_like(d.value)))
        rows = slice(max(0, int(seen[0]) - 3), int(seen[-1]) + 4) if len(seen) else slice(None)
        if np.isfinite(d.error).any():
            low, up = np.maximum(d.value - d.error, 0)[rows], (d.value + d.error)[rows]
            bands.append(Series("band", d.x[rows], low, run.index, run.label, up, opacity=0.18, smooth=True))
        lines.append(Series("line", d.x[rows], d.value[rows], run.index, run.label))
        for other, curve in d.references.items():
            dash = _DASHES.get(other, "dash")
            references[other] = Series("line", d.x[rows], curve[rows], None, other, dash=dash, width=1.6)
            high = max(high, float(curve.max()))
        high = max(high, float(d.value.max()))
    title = "all pairs" if name == "all" else name
    return Panel(title, x, y, [*bands, *lines, *references.values()], y_range=(0.0, 1.06 * high or 1.0))


def _tables(tested: Members) -> list[Table]:
    return [table for table in (_likeness(tested), _coordination(tested), _summary(tested)) if table is not None]


def _likeness(tested: Members) -> Table | None:
    columns = [
        Column("potential", text=True),
        Column("reference", text=True),
        Column("distribution", text=True),
        Column("WF", "%", "%", record="likeness: wright"),
        Column("WF, error", "%", "%", record="likeness: wright_error", significant=2),
        Column("WF, floor", "%", "%", record="likeness: wright_floor", significant=2),
        Column("R_χ", "%", "%", record="likeness: r_chi"),
        Column("JSD", "bit", "bit", record="likeness: jensen_shannon"),
        Column("JSD, error", "bit", "bit", record="likeness: jensen_shannon_error", significant=2),
        Column("JSD, floor", "bit", "bit", record="likeness: jensen_shannon_floor", significant=2),
        Column("Hellinger", record="likeness: hellinger"),
        Column("W1", record="likeness: wasserstein"),
        Column("W1, error", record="likeness: wasserstein_error", significant=2),
        Column("W1, floor", record="likeness: wasserstein_floor", significant=2),
        Column("unit of W1", text=True),
    ]
    rows: list[list[Any]] = []
    marks = []
    for run, result in tested:
        for d in result.distributions:
            for other, found in d.likeness.items():
                name = f"{_KINDS[d.kind][1].lower()}{'' if d.name in ('all', 'R_g') else f', {d.name}'}"
                rows.append(
                    [run.label, other, name, found.wright, found.wright_error, found.wright_floor, found.r_chi,
                     found.jensen_shannon, found.jensen_shannon_error, found.jensen_shannon_floor, found.hellinger,
                     found.wasserstein, found.wasserstein_error, found.wasserstein_floor, d.unit]
                )  # fmt: skip
                marks.append(run.index)
    if not rows:
        return None
    caption = (
        "How far distributions are from their reference. Below the floor, which is the distance of the reference's two "
        "halves, nothing can be told; errors are standard errors over trajectories. WF below 9 % is what EGraFFBench "
        "asks of a bulk system. Read W1 when peaks shift, WF and JSD when they change their height."
    )
    source = sources_of([run for run, _ in tested], StructureResult)
    return Table(
        "table-structure", "Distance from the reference", caption, columns, rows, source, marks, len(rows) > 24
    )


def _coordination(tested: Members) -> Table | None:
    found: dict[str, list[tuple[Run, Coordination]]] = {}
    for run, result in tested:
        for c in result.coordination:
            found.setdefault(c.name, []).append((run, c))
    others = list(dict.fromkeys(n for members in found.values() for _, c in members for n in c.references))
    columns = [
        Column("around", text=True),
        Column("potential", text=True),
        Column("up to", "Å", "Å", record="coordination: cutoff"),
        Column("neighbours", record="coordination: value"),
        Column("error", record="coordination: error", significant=2),
        *(Column(f"neighbours, {name}", record="coordination: references") for name in others),
    ]
    rows = [
        [name, run.label, c.cutoff, c.value, c.error, *(c.references.get(other) for other in others)]
        for name, members in found.items()
        for run, c in members
    ]
    if not rows:
        return None
    caption = "Neighbours of the second element around an atom of the first, up to the first minimum of g."
    source = sources_of([run for run, _ in tested], StructureResult)
    marks = [run.index for members in found.values() for run, _ in members]
    return Table("table-coordination", "Coordination numbers", caption, columns, rows, source, marks)


def _summary(tested: Members) -> Table:
    columns = [
        Column("potential", text=True),
        Column("frames", record="frames"),
        Column("sampled", "", "%", 100.0, "sampled"),
        Column("trajectories that failed", record="failures"),
        Column("references", text=True),
        Column("notes", text=True),
    ]
    rows = [
        [
            run.label,
            result.frames,
            result.sampled,
            len({f.replica for f in result.failures}),
            ", ".join(f"{name}: {grouped(n)} frames" for name, n in result.references.items()) or "none",
            "; ".join(result.notes),
        ]
        for run, result in tested
    ]
    caption = "How much of the planned trajectories was lived: what a failed one would have shown later is not here."
    source = sources_of([run for run, _ in tested], StructureResult)
    return Table("table-sampled", "What was sampled", caption, columns, rows, source, [run.index for run, _ in tested])


SECTION = Section(StructureResult, chapter, methods, optional=True)
