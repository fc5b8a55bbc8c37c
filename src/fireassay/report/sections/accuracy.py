"""Accuracy: parity, error distributions, error against temperature, and the tables with normalised errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fireassay.records.accuracy import AccuracyResult, Errors, SplitAccuracy
from fireassay.report.comparisons import Comparisons
from fireassay.report.figures import Figure, Panel, Series, padded, sources_of
from fireassay.report.runs import Run, split_names, with_result
from fireassay.report.sections.chapter import Chapter, Section, missing_assay, paged
from fireassay.report.study import Study
from fireassay.report.style import grouped, p_value
from fireassay.report.tables import Column, Table, of_field
from fireassay.report.thinning import thinned

Members = Sequence[tuple[Run, AccuracyResult]]
POINTS = 1600  # drawn per panel, shared by the potentials: what a phone can still scroll
TOTAL = 16000  # drawn per split in all panels together
BINS = 60


def chapter(study: Study) -> Chapter:
    """Everything that the accuracy assay says."""
    tested = with_result(study.runs, AccuracyResult)
    missing = missing_assay(study.runs, "accuracy")
    missing += [(f"{run.label} on {split}: {why}", "") for run, r in tested for split, why in r.refused.items()]
    if not tested:
        return Chapter("accuracy", "Accuracy", "", missing=missing)
    runs = [run for run, _ in tested]
    splits = split_names(runs, AccuracyResult)
    limit = min(POINTS, TOTAL // -(-len(tested) // 10))

    def figures(page: Members) -> list[Figure]:
        return [*_parity(page, splits, limit), *_histograms(page, splits), *_against_temperature(page, splits)]

    tables = [_summary(tested), *_molecules(tested), *_parts(tested, "element"), *_parts(tested, "group")]
    tables += _differences(study.comparisons)
    lead = (
        "Predictions against the reference on each split. Percentages put errors of different splits on one scale: "
        "RMSE as a share of the standard deviation of the reference, MAE as a share of its mean absolute value. Errors "
        "are over finite predictions; frames without one are counted beside them, and count against the potential."
        + _zero(tested)
    )
    return Chapter("accuracy", "Accuracy", lead, paged(tested, figures), tables, missing)


def methods(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """How errors were computed and compared."""
    if not with_result(runs, AccuracyResult):
        return []
    return [
        (
            "Errors are over all force components and over energies per atom. They are normalised by the mean absolute "
            "value (MAE) or by the standard deviation (RMSE) of the reference on the same split.",
            ["tea"],
        ),
        (
            "The extrapolation slope is that of the least-squares line of force RMSE against the splits' temperature.",
            ["vita"],
        ),
        (
            "Differences of RMSE between potentials on the same frames are judged by Student's test on the squared "
            "errors' difference over independent units: groups of frames where they are labelled, else blocks of "
            "frames longer than their correlation; of fewer than five units nothing is decided, and who alone gives no "
            "finite prediction on a frame has lost there.",
            ["flyvbjerg", "cameron"],
        ),
    ]


def _mark(data: SplitAccuracy) -> str:
    """What is put behind the name of a split on which a potential diverged."""
    return f", no finite prediction on {grouped(data.not_finite)} of {grouped(data.frames)}" if data.not_finite else ""


def _members(tested: Members, split: str) -> list[tuple[Run, SplitAccuracy]]:
    return [(run, result.splits[split]) for run, result in tested if split in result.splits]


def _energies(data: SplitAccuracy) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Reference and prediction per atom (S,) in eV/atom."""
    sizes = np.maximum(np.bincount(data.structure, minlength=data.frames), 1)
    return data.energy_reference / sizes, data.energy_predicted / sizes


def _parity(tested: Members, splits: Sequence[str], limit: int) -> list[Figure]:
    forces: list[Panel] = []
    energies: list[Panel] = []
    shown = total = 0
    for split in splits:
        members = _members(tested, split)
        if not members:
            continue
        each = max(limit // len(members), 1)
        clouds = [_cloud(run, d, d.forces_reference, d.forces_predicted, each) for run, d in members]
        cloud = [series for series in clouds if series]
        shown += sum(series.x.size for series in cloud)
        total += sum(int(np.isfinite(d.forces_reference).sum()) for _, d in members)
        forces += [_square(split, "forces (eV/Å)", cloud)] if cloud else []
        cloud = [s for run, d in members if (s := _energy_cloud(run, d, each))]
        energies += [_square(split, "energy (meV/atom)", cloud)] if cloud else []
    source = sources_of([run for run, _ in tested], AccuracyResult)
    figures = []
    if forces:
        caption = (
            "Predicted against reference force components; on the line the prediction is exact. "
            f"{grouped(shown)} of {grouped(total)} components are drawn: the largest errors of each potential and "
            "split, and others evenly at random."
        )
        figures.append(Figure("figure-parity-forces", "Parity of forces", caption, forces, source))
    if energies:
        caption = "Predicted against reference energy per atom, both minus the mean of the reference over the split."
        figures.append(Figure("figure-parity-energy", "Parity of energies", caption, energies, source))
    return figures


def _cloud(run: Run, data: SplitAccuracy, x: NDArray[np.float64], y: NDArray[np.float64], limit: int) -> Series | None:
    x, y = x.ravel(), y.ravel()
    known = np.flatnonzero(np.isfinite(x + y))
    pick = known[thinned(np.abs(y - x)[known], limit, run.index)]
    name = f"{run.label}{_mark(data)}"
    return Series("points", x[pick], y[pick], run.index, name, size=4, opacity=0.55) if len(pick) else None


def _energy_cloud(run: Run, data: SplitAccuracy, limit: int) -> Series | None:
    x, y = _energies(data)
    known = np.isfinite(x)
    if not known.any():
        return None
    return _cloud(run, data, 1000 * (x - x[known].mean()), 1000 * (y - x[known].mean()), limit)


def _scatter(series: Series) -> float:
    return float(np.sqrt(np.mean((series.y - series.x) ** 2)))


def _square(split: str, what: str, series: list[Series]) -> Panel:
    # The widest cloud first: what is drawn later would hide it otherwise.
    series = sorted(series, key=_scatter, reverse=True)
    span = padded([s.x for s in series] + [s.y for s in series])
    return Panel(
        split, f"reference {what}", f"predicted {what}", series, x_range=span, y_range=span, square=True, diagonal=True
    )


Errors1D = list[tuple[Run, SplitAccuracy, NDArray[np.float64]]]


def _histograms(tested: Members, splits: Sequence[str]) -> list[Figure]:
    forces: list[tuple[str, Errors1D]] = []
    energies: list[tuple[str, Errors1D]] = []
    for split in splits:
        members = _members(tested, split)
        if not members:
            continue
        lengths = [(r, d, np.linalg.norm(d.forces_predicted - d.forces_reference, axis=1)) for r, d in members]
        forces.append((split, [(r, d, 1000 * e) for r, d, e in lengths if len(e)]))
        gaps = [(r, d, np.abs(np.subtract(*_energies(d)))) for r, d in members]
        energies.append((split, [(r, d, 1000 * e) for r, d, e in gaps if len(e)]))
    source = sources_of([run for run, _ in tested], AccuracyResult)
    figures = []
    for kind, title, label, groups in (
        ("forces", "Distribution of force errors", "force error of an atom (meV/Å)", forces),
        ("energy", "Distribution of energy errors", "energy error (meV/atom)", energies),
    ):
        panels = _distribution(groups, label)
        if panels:
            what = "atoms by the length of their force error vector" if kind == "forces" else "frames by absolute error"
            caption = (
                f"Share of {what}, in bins of equal width on the logarithmic axis, which all splits share. "
                "A curve further to the right is worse; its right end holds the rare large errors. Shares are of all "
                "with a label: where no prediction was finite the curve lacks them."
            )
            figures.append(Figure(f"figure-errors-{kind}", title, caption, panels, source))
    return figures


def _distribution(groups: Sequence[tuple[str, Errors1D]], label: str) -> list[Panel]:
    values = [e[np.isfinite(e) & (e > 0)] for _, members in groups for _, _, e in members]
    values = [v for v in values if len(v)]
    if not values:
        return []
    low = min(np.quantile(v, 0.005) for v in values)
    high = max(v.max() for v in values)
    number = int(np.clip(np.sqrt(min(len(v) for v in values)), 12, BINS))
    edges = np.geomspace(low, max(high * 1.001, low * 2), number + 1)
    panels = []
    for split, members in groups:
        series = []
        for run, data, error in members:
            share = 100 * np.histogram(error[np.isfinite(error)], edges)[0] / max(len(error), 1)
            heights = np.concatenate([[0.0], share, [0.0]])
            name = f"{run.label}{_mark(data)}"
            series.append(Series("steps", np.append(edges[0], edges), heights, run.index, name, width=2))
        if series:
            panels.append(
                Panel(split, label, "share (%)", series, x_log=True, x_range=(float(edges[0]), float(edges[-1])))
            )
    top = max(float(s.y.max()) for panel in panels for s in panel.series)
    return [Panel(p.title, p.x, p.y, p.series, x_log=True, x_range=p.x_range, y_range=(0, 1.06 * top)) for p in panels]


def _against_temperature(tested: Members, splits: Sequence[str]) -> list[Figure]:
    panels = []
    for title, label, value in (
        ("Forces", "RMSE of forces (meV/Å)", lambda d: _scaled(d.forces, "rmse", 1000.0)),
        ("Energy", "RMSE of energy (meV/atom)", lambda d: _scaled(d.energy_per_atom, "rmse", 1000.0)),
        ("Forces, normalised", "RMSE / standard deviation (%)", lambda d: _scaled(d.forces, "rmse_percent", 1.0)),
    ):
        series = []
        for run, result in tested:
            names = [s for s in splits if s != "train" and s in result.splits]
            pairs = [(run.temperature(s), value(result.splits[s]), result.splits[s].not_finite) for s in names]
            rows = [(t, e, lost) for t, e, lost in pairs if t is not None and e is not None]
            points = np.array([row[:2] for row in rows])
            if len(np.unique(points[:, 0] if len(points) else points)) < 2:
                continue
            whole = np.array([not lost for *_, lost in rows])
            for chosen, hollow in ((whole, False), (~whole, True)):
                if chosen.any():
                    x, y = points[chosen].T
                    name = f"{run.label}, over what is finite" if hollow else run.label
                    series.append(Series("points", x, y, run.index, name, size=9, open=hollow))
            slope, offset = np.polyfit(points[:, 0], points[:, 1], 1)
            ends = np.array([points[:, 0].min(), points[:, 0].max()])
            series.append(
                Series("line", ends, slope * ends + offset, run.index, f"{run.label}, fit", dash="dot", width=1.4)
            )
        if series:
            x, y = padded([s.x for s in series], share=0.08), padded([s.y for s in series])
            assert y is not None
            panels.append(Panel(title, "temperature (K)", label, series, x_range=x, y_range=(0.0, y[1])))
    caption = (
        "Errors against the temperature of the split. The dotted line is the least-squares fit whose slope is the "
        "extrapolation slope of the table: the smaller, the better the potential holds beyond its training data. "
        "Hollow marks leave out frames without a finite prediction."
    )
    key = [("dot", "least-squares fit")]
    source = sources_of([run for run, _ in tested], AccuracyResult)
    return [Figure("figure-temperature", "Error against temperature", caption, panels, source, key)] if panels else []


def _scaled(errors: Errors | None, name: str, factor: float) -> float | None:
    value = None if errors is None else errors.rmse if name == "rmse" else errors.rmse_percent
    return None if value is None else factor * value


def _field(path: str, label: str) -> Column:
    return of_field(AccuracyResult, path, label)


def _summary(tested: Members) -> Table:
    columns = [
        Column("potential", text=True),
        Column("split", text=True),
        of_field(AccuracyResult, "splits.SPLIT.temperature", "temperature", trim=True),
        _field("splits.SPLIT.frames", "frames"),
        _field("splits.SPLIT.not_finite", "frames without a finite prediction"),
        _field("splits.SPLIT.forces.mae", "forces MAE"),
        _field("splits.SPLIT.forces.rmse", "forces RMSE"),
        _field("splits.SPLIT.forces.max", "forces MAX"),
        _field("splits.SPLIT.forces.mae_percent", "forces MAE / mean"),
        _field("splits.SPLIT.forces.rmse_percent", "forces RMSE / std"),
        _field("splits.SPLIT.energy_per_atom.mae", "energy MAE"),
        _field("splits.SPLIT.energy_per_atom.rmse", "energy RMSE"),
        _field("splits.SPLIT.energy_per_atom.max", "energy MAX"),
        _field("splits.SPLIT.relative_energy.rmse_percent", "relative energy RMSE / std"),
        _field("splits.SPLIT.stress.rmse", "stress RMSE"),
        _field("splits.SPLIT.molecule_force.rmse", "force on molecules F(mol) RMSE"),
        _field("splits.SPLIT.net_force.rmse", "net force RMSE"),
        _field("extrapolation_slope", "extrapolation slope of forces"),
    ]
    none = Errors(n=0)
    rows, marks = [], []
    for run, result in tested:
        for split in run.splits(AccuracyResult):
            data = result.splits[split]
            forces, energy = data.forces or none, data.energy_per_atom or none
            rows.append(
                [
                    run.label,
                    split,
                    run.temperature(split),
                    data.frames,
                    data.not_finite,
                    *(forces.mae, forces.rmse, forces.max, forces.mae_percent, forces.rmse_percent),
                    *(energy.mae, energy.rmse, energy.max),
                    (data.relative_energy or none).rmse_percent,
                    (data.stress or none).rmse,
                    (data.molecule_force or none).rmse,
                    (data.net_force or none).rmse,
                    result.extrapolation_slope,
                ]
            )
            marks.append(run.index)
    # A column without values, or of zeros where zero is as it should be, says nothing.
    keep = [j for j in range(len(columns)) if any(row[j] is not None for row in rows)]
    keep = [j for j in keep if j != 4 or any(row[4] for row in rows)]
    return Table(
        "table-accuracy",
        "Errors per split",
        "MAE, RMSE and largest error of force components and of the energy per atom, with their normalised forms, over "
        "finite predictions.",
        [columns[j] for j in keep],
        [[row[j] for j in keep] for row in rows],
        sources_of([run for run, _ in tested], AccuracyResult),
        marks,
    )


def _part_columns(stem: str, part: str) -> list[Column]:
    return [
        Column("potential", text=True),
        Column("split", text=True),
        Column(part, text=True),
        *(_field(f"{stem}.{kind}", f"forces {kind.upper()}") for kind in ("mae", "rmse", "max")),
        _field(f"{stem}.mae_percent", "MAE / mean"),
        _field(f"{stem}.rmse_percent", "RMSE / std"),
    ]


def _numbers(errors: Errors) -> list[float | None]:
    return [errors.mae, errors.rmse, errors.max, errors.mae_percent, errors.rmse_percent]


def _parts(tested: Members, part: str) -> list[Table]:
    """The table of errors per element or per group."""
    rows, marks = [], []
    for run, result in tested:
        for split in run.splits(AccuracyResult):
            data = result.splits[split]
            found: Mapping[str, Errors | None] = (
                data.elements if part == "element" else {name: g.forces for name, g in data.groups.items()}
            )
            for name, errors in found.items():
                if errors is not None:
                    rows.append([run.label, split, name, *_numbers(errors)])
                    marks.append(run.index)
    stem = "splits.SPLIT.elements.ELEMENT" if part == "element" else "splits.SPLIT.groups.GROUP.forces"
    what = "the atoms of one element" if part == "element" else "the frames of one group"
    caption = f"Errors of the force components on {what}."
    return _table(f"table-{part}s", f"Force errors per {part}", caption, _part_columns(stem, part), rows, marks, tested)


def _molecules(tested: Members) -> list[Table]:
    rows, marks = [], []
    for run, result in tested:
        for split in run.splits(AccuracyResult):
            for formula, errors in result.splits[split].molecules.items():
                rows.append([run.label, split, formula, *_numbers(errors)])
                marks.append(run.index)
    caption = "Errors of the total force on each molecule, F(mol), by its formula; a frame may hold many."
    columns = _part_columns("splits.SPLIT.molecules.FORMULA", "molecule")
    return _table("table-molecules", "Errors of the force on molecules", caption, columns, rows, marks, tested)


def _table(
    id: str, title: str, caption: str, columns: list[Column], rows: list[list[object]], marks: list[int], of: Members
) -> list[Table]:
    source = sources_of([run for run, _ in of], AccuracyResult)
    return [Table(id, title, caption, columns, rows, source, marks, True)] if rows else []


def _zero(tested: Members) -> str:
    """A sentence on the zero of energy, when one was fitted."""
    fitted = [run.label for run, result in tested if result.energy_zero == "fit"]
    if not fitted:
        return ""
    return f" The zeros of energy of {', '.join(fitted)} were fitted per element to the reference before comparing."


def _differences(comparisons: Comparisons) -> list[Table]:
    rows: list[list[object]] = []
    for c in comparisons.errors:
        words = "forces (per Å)" if c.quantity == "forces" else "energy (per atom)"
        lost = c.found.diverged
        reading = f"{c.better.label} is better" if c.better else "within noise"
        if any(lost):
            reading += f"; without a finite prediction: {lost[0]} and {lost[1]} frames"
        elif not c.found.units.enough:
            reading = f"not decided: {c.found.units}"
        p = None if np.isnan(c.p) else p_value(c.p)
        ends = [None if np.isnan(v) else float(v) for v in c.found.difference]
        rows.append([c.first.label, c.second.label, words, c.split, *ends, p, str(c.found.units), reading])
    level = f"{100 * (1 - comparisons.significance):g} %"
    columns = [
        Column("first", text=True),
        Column("second", text=True),
        Column("quantity", text=True),
        Column("split", text=True),
        Column("difference of RMSE", "eV", "meV", 1000.0, "splits.SPLIT.{forces,energy}_{reference,predicted}"),
        Column(f"from, {level}", "eV", "meV", 1000.0, "Student's interval over independent units"),
        Column(f"to, {level}", "eV", "meV", 1000.0, "Student's interval over independent units"),
        Column("corrected p", text=True, record="Holm"),
        Column("independent units", text=True),
        Column("reading", text=True),
    ]
    caption = (
        f"RMSE of the first minus that of the second on the same frames, with the {level} interval of this difference "
        "alone. The reading and the p value are corrected for all "
        f"{grouped(comparisons.family)} comparisons of this report, of forces, energies and survival."
    )
    source = sources_of(list({c.first.index: c.first for c in comparisons.errors}.values()), AccuracyResult)
    title = "Are the differences real?"
    return [Table("table-differences", title, caption, columns, rows, source, fold=True)] if rows else []


SECTION = Section(AccuracyResult, chapter, methods)
