"""Accuracy: parity, error distributions, error against temperature, and the tables with normalised errors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fireassay.errors import InputError
from fireassay.report.figures import Figure, Panel, Series, padded, sources_of
from fireassay.report.runs import Run, split_names
from fireassay.report.sections.chapter import Chapter, missing_assay
from fireassay.report.statistics import Difference, frame_sums, rmse_difference, thinned
from fireassay.report.style import grouped
from fireassay.report.tables import Column, Table, meV

POINTS = 1600  # drawn per panel, shared by the potentials: what a phone can still scroll
BINS = 60


class Frames(NamedTuple):
    """Labels and predictions of one split: energies (S,) eV, forces (N, 3) eV/Å, structure index and atoms (N,)."""

    energy: NDArray[np.float64] | None
    predicted_energy: NDArray[np.float64] | None
    forces: NDArray[np.float64] | None
    predicted_forces: NDArray[np.float64] | None
    structure: NDArray[np.int64] | None

    @property
    def sizes(self) -> NDArray[np.int64] | None:
        """Atoms per frame (S,)."""
        return None if self.structure is None else np.bincount(self.structure)

    @property
    def force_error(self) -> NDArray[np.float64] | None:
        """Prediction minus reference (N, 3), NaN where there is no label."""
        if self.forces is None or self.predicted_forces is None:
            return None
        return self.predicted_forces - self.forces

    @property
    def energy_error(self) -> NDArray[np.float64] | None:
        """Prediction minus reference per atom (S,) eV/atom."""
        if self.energy is None or self.predicted_energy is None or self.sizes is None:
            return None
        return (self.predicted_energy - self.energy) / self.sizes


def frames(run: Run, split: str) -> Frames:
    """The arrays of a split, checked against each other.

    Raises InputError when the arrays are of different lengths.
    """
    structure = run.array("accuracy", f"{split}.structure", (None,))
    n = None if structure is None else len(structure)
    s = None if structure is None or not len(structure) else int(structure.max()) + 1
    if structure is not None and (structure.dtype.kind not in "iu" or (len(structure) and structure.min() < 0)):
        raise InputError(
            f"{run.folder}/assays/accuracy.npz: {split}.structure is no list of frame indices; assay again"
        )
    return Frames(
        run.array("accuracy", f"{split}.energy.reference", (s,)),
        run.array("accuracy", f"{split}.energy.predicted", (s,)),
        run.array("accuracy", f"{split}.forces.reference", (n, 3)),
        run.array("accuracy", f"{split}.forces.predicted", (n, 3)),
        structure,
    )


def compare(a: Run, b: Run, split: str, confidence: float = 0.95, quantity: str = "forces") -> Difference | None:
    """RMSE of a minus that of b on a split; None when they were not tested on the same labels.

    `quantity` is "forces" (eV/Å, per component) or "energy" (eV/atom, per frame).
    """
    first, second = frames(a, split), frames(b, split)
    if first.structure is None or second.structure is None or not np.array_equal(first.structure, second.structure):
        return None
    truth = (first.forces, second.forces) if quantity == "forces" else (first.energy, second.energy)
    if truth[0] is None or truth[1] is None:
        return None
    if not np.allclose(truth[0], truth[1], rtol=1e-6, atol=1e-4, equal_nan=True):
        return None
    x, y = (f.force_error if quantity == "forces" else f.energy_error for f in (first, second))
    if x is None or y is None:
        return None
    x, y = x.reshape(len(x), -1), y.reshape(len(y), -1)
    known = np.isfinite(x + y).all(1)
    if not known.any():
        return None
    frame = first.structure if quantity == "forces" else np.arange(len(x))
    frame = np.unique(frame[known], return_inverse=True)[1]
    (first_sum, count), (second_sum, _) = frame_sums(x[known], frame), frame_sums(y[known], frame)
    return rmse_difference(first_sum, second_sum, count, confidence) if len(count) > 1 else None


def chapter(runs: Sequence[Run]) -> Chapter:
    """Everything that the accuracy assay says."""
    tested = [run for run in runs if "accuracy" in run.assays]
    missing = missing_assay(runs, "accuracy", "accuracy assay")
    if not tested:
        return Chapter("accuracy", "Accuracy", "", missing=missing)
    splits = split_names(tested, "accuracy")
    figures = [
        *_parity(tested, splits),
        *_histograms(tested, splits),
        *_against_temperature(tested, splits),
    ]
    tables = [_summary(tested), *_parts(tested, "element"), *_parts(tested, "group"), *_differences(tested, splits)]
    lead = (
        "Predictions against the reference on each split. Percentages put errors of different splits on one scale: "
        "RMSE as a share of the standard deviation of the reference, MAE as a share of its mean absolute value."
        + _zero(tested)
    )
    return Chapter("accuracy", "Accuracy", lead, figures, tables, missing)


def _loaded(runs: Sequence[Run], splits: Sequence[str]) -> Iterator[tuple[str, list[tuple[Run, Frames]]]]:
    for split in splits:
        yield split, [(run, frames(run, split)) for run in runs if split in run.splits("accuracy")]


def _parity(runs: Sequence[Run], splits: Sequence[str]) -> list[Figure]:
    forces: list[Panel] = []
    energies: list[Panel] = []
    shown = total = 0
    for split, members in _loaded(runs, splits):
        limit = POINTS // len(members)
        pairs = [(run, data.forces, data.predicted_forces) for run, data in members]
        cloud = [s for run, x, y in pairs if x is not None and y is not None and (s := _cloud(run, x, y, limit))]
        shown += sum(series.x.size for series in cloud)
        total += sum(x.size for _, x, y in pairs if x is not None and y is not None)
        forces += [_square(split, "forces (eV/Å)", cloud)] if cloud else []
        cloud = [s for run, data in members if (s := _energy_cloud(run, data, limit))]
        energies += [_square(split, "energy (meV/atom)", cloud)] if cloud else []
    source = sources_of(runs, "accuracy")
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


def _cloud(run: Run, x: NDArray[np.float64], y: NDArray[np.float64], limit: int) -> Series | None:
    x, y = x.ravel(), y.ravel()
    known = np.flatnonzero(np.isfinite(x + y))
    pick = known[thinned(np.abs(y - x)[known], limit, run.index)]
    return Series("points", x[pick], y[pick], run.index, run.label, size=4, opacity=0.55) if len(pick) else None


def _energy_cloud(run: Run, data: Frames, limit: int) -> Series | None:
    if data.energy is None or data.predicted_energy is None or data.sizes is None:
        return None
    x, y = data.energy / data.sizes, data.predicted_energy / data.sizes
    known = np.isfinite(x)
    return _cloud(run, 1000 * (x - x[known].mean()), 1000 * (y - x[known].mean()), limit) if known.any() else None


def _scatter(series: Series) -> float:
    return float(np.sqrt(np.mean((series.y - series.x) ** 2)))


def _square(split: str, what: str, series: list[Series]) -> Panel:
    # The widest cloud first: what is drawn later would hide it otherwise.
    series = sorted(series, key=_scatter, reverse=True)
    span = padded([s.x for s in series] + [s.y for s in series])
    return Panel(
        split, f"reference {what}", f"predicted {what}", series, x_range=span, y_range=span, square=True, diagonal=True
    )


def _histograms(runs: Sequence[Run], splits: Sequence[str]) -> list[Figure]:
    forces: list[tuple[str, list[tuple[Run, NDArray[np.float64]]]]] = []
    energies: list[tuple[str, list[tuple[Run, NDArray[np.float64]]]]] = []
    for split, members in _loaded(runs, splits):
        errors = [(run, data.force_error, data.energy_error) for run, data in members]
        forces.append((split, [(r, 1000 * np.linalg.norm(f, axis=1)) for r, f, _ in errors if f is not None]))
        energies.append((split, [(r, 1000 * np.abs(e)) for r, _, e in errors if e is not None]))
    source = sources_of(runs, "accuracy")
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
                "A curve further to the right is worse; its right end holds the rare large errors."
            )
            figures.append(Figure(f"figure-errors-{kind}", title, caption, panels, source))
    return figures


def _distribution(groups: Sequence[tuple[str, list[tuple[Run, NDArray[np.float64]]]]], label: str) -> list[Panel]:
    values = [e[np.isfinite(e) & (e > 0)] for _, members in groups for _, e in members]
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
        for run, error in members:
            share = 100 * np.histogram(error, edges)[0] / max(len(error), 1)
            heights = np.concatenate([[0.0], share, [0.0]])
            series.append(Series("steps", np.append(edges[0], edges), heights, run.index, run.label, width=2))
        if series:
            panels.append(
                Panel(split, label, "share (%)", series, x_log=True, x_range=(float(edges[0]), float(edges[-1])))
            )
    top = max(float(s.y.max()) for panel in panels for s in panel.series)
    return [Panel(p.title, p.x, p.y, p.series, x_log=True, x_range=p.x_range, y_range=(0, 1.06 * top)) for p in panels]


def _against_temperature(runs: Sequence[Run], splits: Sequence[str]) -> list[Figure]:
    panels = []
    for title, name, label, factor in (
        ("Forces", "forces.rmse", "RMSE of forces (meV/Å)", 1000.0),
        ("Energy", "energy_per_atom.rmse", "RMSE of energy (meV/atom)", 1000.0),
        ("Forces, normalised", "forces.rmse_percent", "RMSE / standard deviation (%)", 1.0),
    ):
        series = []
        for run in runs:
            pairs = [(run.temperature(s), run.number("accuracy", f"{s}.{name}")) for s in splits if s != "train"]
            points = np.array([(t, factor * e) for t, e in pairs if t is not None and e is not None])
            if len(np.unique(points[:, 0] if len(points) else points)) < 2:
                continue
            slope, offset = np.polyfit(points[:, 0], points[:, 1], 1)
            ends = np.array([points[:, 0].min(), points[:, 0].max()])
            series.append(Series("points", points[:, 0], points[:, 1], run.index, run.label, size=9))
            series.append(
                Series("line", ends, slope * ends + offset, run.index, f"{run.label}, fit", dash="dot", width=1.4)
            )
        if series:
            x, y = padded([s.x for s in series], share=0.08), padded([s.y for s in series])
            assert y is not None
            panels.append(Panel(title, "temperature (K)", label, series, x_range=x, y_range=(0.0, y[1])))
    caption = (
        "Errors against the temperature of the split. The dotted line is the least-squares fit whose slope is the "
        "extrapolation slope of the table: the smaller, the better the potential holds beyond its training data."
    )
    key = [("dot", "least-squares fit")]
    source = sources_of(runs, "accuracy")
    return [Figure("figure-temperature", "Error against temperature", caption, panels, source, key)] if panels else []


def _summary(runs: Sequence[Run]) -> Table:
    fields = [
        meV("forces MAE", "SPLIT.forces.mae", "/Å"),
        meV("forces RMSE", "SPLIT.forces.rmse", "/Å"),
        meV("forces MAX", "SPLIT.forces.max", "/Å"),
        Column("forces MAE / mean", "%", "%", record="SPLIT.forces.mae_percent"),
        Column("forces RMSE / std", "%", "%", record="SPLIT.forces.rmse_percent"),
        meV("energy MAE", "SPLIT.energy_per_atom.mae", "/atom"),
        meV("energy RMSE", "SPLIT.energy_per_atom.rmse", "/atom"),
        meV("energy MAX", "SPLIT.energy_per_atom.max", "/atom"),
        Column("relative energy RMSE / std", "%", "%", record="SPLIT.relative_energy.rmse_percent"),
        meV("stress RMSE", "SPLIT.stress.rmse", "/Å^3"),
        meV("net force RMSE", "SPLIT.net_force.rmse", "/Å"),
        meV("extrapolation slope of forces", "extrapolation_slope", "/Å/K"),
        Column("frames without a finite prediction", record="SPLIT.not_finite", trim=True),
    ]
    rows, marks = [], []
    for run in runs:
        for split in run.splits("accuracy"):
            count = run.number("accuracy", f"{split}.frames")
            numbers = [run.number("accuracy", column.record.replace("SPLIT", split)) for column in fields]
            rows.append([run.label, split, run.temperature(split), None if count is None else int(count), *numbers])
            marks.append(run.index)
    head = [
        Column("potential", text=True),
        Column("split", text=True),
        Column("temperature", "K", "K", record="SPLIT.temperature", trim=True),
        Column("frames", record="SPLIT.frames"),
    ]
    # A column without values, or of zeros where zero is as it should be, says nothing.
    keep = [j for j in range(len(fields)) if any(row[4 + j] is not None for row in rows)]
    keep = [j for j in keep if fields[j].record != "SPLIT.not_finite" or any(row[4 + j] for row in rows)]
    return Table(
        "table-accuracy",
        "Errors per split",
        "MAE, RMSE and largest error of force components and of the energy per atom, with their normalised forms.",
        head + [fields[j] for j in keep],
        [row[:4] + [row[4 + j] for j in keep] for row in rows],
        sources_of(runs, "accuracy"),
        marks,
    )


def _parts(runs: Sequence[Run], part: str) -> list[Table]:
    """The table of errors per element or per group."""
    kinds = ("mae", "rmse", "max", "mae_percent", "rmse_percent")
    rows, marks = [], []
    for run in runs:
        for split in run.splits("accuracy"):
            found = r"\.forces\.(?P<name>[A-Z][a-z]?)" if part == "element" else r"\.group\.(?P<name>.+)\.forces"
            pattern = re.compile(f"(?P<stem>{re.escape(split)}{found})\\.rmse")
            for match in filter(None, map(pattern.fullmatch, run.assays["accuracy"].values)):
                numbers = [run.number("accuracy", f"{match['stem']}.{kind}") for kind in kinds]
                rows.append([run.label, split, match["name"], *numbers])
                marks.append(run.index)
    stem = "SPLIT.forces.ELEMENT" if part == "element" else "SPLIT.group.GROUP.forces"
    columns = [
        Column("potential", text=True),
        Column("split", text=True),
        Column(part, text=True),
        *(meV(f"forces {kind.upper()}", f"{stem}.{kind}", "/Å") for kind in kinds[:3]),
        Column("MAE / mean", "%", "%", record=f"{stem}.mae_percent"),
        Column("RMSE / std", "%", "%", record=f"{stem}.rmse_percent"),
    ]
    what = "the atoms of one element" if part == "element" else "the frames of one group"
    caption = f"Errors of the force components on {what}."
    source = sources_of(runs, "accuracy")
    title = f"Force errors per {part}"
    return [Table(f"table-{part}s", title, caption, columns, rows, source, marks, True)] if rows else []


def _zero(runs: Sequence[Run]) -> str:
    """A sentence on the zero of energy, when one was fitted."""
    zeros = [run.assays["accuracy"].values.get("energy_zero") for run in runs]
    fitted = [run.label for run, zero in zip(runs, zeros, strict=True) if zero is not None and zero.value == "fit"]
    if not fitted:
        return ""
    return f" The zeros of energy of {', '.join(fitted)} were fitted per element to the reference before comparing."


def _differences(runs: Sequence[Run], splits: Sequence[str]) -> list[Table]:
    rows: list[list[object]] = []
    for a, b in combinations(runs, 2):
        for quantity, words in (("forces", "forces (per Å)"), ("energy", "energy (per atom)")):
            for split in splits:
                difference = compare(a, b, split, quantity=quantity)
                if difference is not None:
                    better = (b if difference.value > 0 else a).label
                    decision = f"{better} is better" if difference.decided else "within noise"
                    rows.append([a.label, b.label, words, split, *difference, decision])
    columns = [
        Column("first", text=True),
        Column("second", text=True),
        Column("quantity", text=True),
        Column("split", text=True),
        Column("difference of RMSE", "eV", "meV", 1000.0, "SPLIT.{forces,energy}.{reference,predicted}"),
        Column("from, 95 %", "eV", "meV", 1000.0, "paired bootstrap over frames"),
        Column("to, 95 %", "eV", "meV", 1000.0, "paired bootstrap over frames"),
        Column("reading", text=True),
    ]
    caption = (
        "RMSE of the first minus that of the second on the same frames, with the 95 % interval of a paired bootstrap "
        "over frames (2000 resamples). An interval that holds zero decides nothing."
    )
    source = sources_of(runs, "accuracy")
    return [Table("table-differences", "Are the differences real?", caption, columns, rows, source)] if rows else []
