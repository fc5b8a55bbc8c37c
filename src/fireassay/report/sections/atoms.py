"""Where in the structure the errors sit: what the 3D view shows, and the worst atoms as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from ase.data import covalent_radii
from ase.data.colors import jmol_colors
from numpy.typing import NDArray
from scipy.spatial import KDTree

from fireassay.records import renewal
from fireassay.records.accuracy import AccuracyResult, SplitAccuracy
from fireassay.records.uncertainty import SplitUncertainty, UncertaintyResult
from fireassay.report.figures import sources_of
from fireassay.report.runs import Run, split_names
from fireassay.report.sections.chapter import Chapter
from fireassay.report.study import Study
from fireassay.report.style import VIRIDIS, rounded, symbol
from fireassay.report.tables import Column, Table, of_field

ATOMS = 5000  # in one view: beyond it a phone cannot turn the structure
WORST = 3
QUANTITIES = (("error", "force error"), ("uncertainty", "predicted error"))


class View(NamedTuple):
    """One split's structure with per-atom values (n,) in eV/Å for each quantity and potential."""

    split: str
    note: str
    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    values: dict[str, dict[int, NDArray[np.float64]]]


class _Atoms(NamedTuple):
    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    structure: NDArray[np.int64]
    energy: NDArray[np.float64] | None
    fingerprint: str

    @property
    def fixed(self) -> bool:
        """Whether all frames hold the same atoms in the same order."""
        sizes = np.bincount(self.structure)
        if len(np.unique(sizes)) > 1 or (np.diff(self.structure) < 0).any():
            return False
        rows = self.numbers.reshape(len(sizes), -1)
        return bool((rows == rows[0]).all())


def chapter(study: Study) -> tuple[Chapter, dict[str, Any]]:
    """The chapter, and the data of the 3D view (empty when no record has atoms)."""
    runs = study.runs
    kinds = (AccuracyResult, UncertaintyResult)
    tested = [run for run in runs if any(run.result(kind) is not None for kind in kinds)]
    names = list(dict.fromkeys(name for kind in kinds for name in split_names(tested, kind)))
    views = [view for split in names if (view := _view(tested, split)) is not None]
    chapter = Chapter("atoms", "Where the errors sit", "")
    if not views:
        lines = [("No record holds per-atom errors.", renewal(runs[0].folder, "accuracy"))]
        return Chapter("atoms", "Where the errors sit", "", missing=lines), {}
    lead = (
        "The structure of each split, its atoms coloured by their error. All potentials and both quantities of a split "
        "share one colour scale, so that an honest uncertainty looks like the error beside it."
    )
    chapter = Chapter("atoms", "Where the errors sit", lead, tables=[_worst(tested, views)])
    return chapter, _viewer(tested, views)


def _view(runs: Sequence[Run], split: str) -> View | None:
    owner = next(((run, found) for run in runs if (found := _atoms(run, split)) is not None), None)
    if owner is None:
        return None
    atoms = owner[1]
    raw = {quantity: _values(runs, split, quantity, atoms) for quantity, _ in QUANTITIES}
    if not raw["error"] and not raw["uncertainty"]:
        return None
    if atoms.fixed:
        sizes = np.bincount(atoms.structure)
        energy = atoms.energy if atoms.energy is not None else np.empty(0)
        known = bool(np.isfinite(energy).any())
        chosen = atoms.structure == (int(np.nanargmin(energy)) if known else 0)
        values = {q: {i: _mean(v, len(sizes)) for i, v in parts.items()} for q, parts in raw.items()}
        shown = "the frame of lowest energy" if known else "the first frame"
        note = f"Per-atom mean over the {len(sizes)} frames; the geometry is {shown}."
    else:
        parts = raw["error"] or raw["uncertainty"]
        worst = np.nan_to_num(np.stack(list(parts.values())), nan=-1.0, posinf=np.inf).max(axis=0)
        frame = atoms.structure[int(np.argmax(worst))]
        chosen = atoms.structure == frame
        values = {q: {i: v[chosen] for i, v in parts.items()} for q, parts in raw.items()}
        note = f"Frames differ in their atoms: frame {frame}, which holds the largest error of any atom."
    if chosen.sum() > ATOMS:
        return None
    return View(split, note, atoms.numbers[chosen], atoms.positions[chosen].astype(float), values)


def _mean(values: NDArray[np.float64], frames: int) -> NDArray[np.float64]:
    rows = values.reshape(frames, -1)
    known = np.isfinite(rows)
    return np.where(known.any(0), np.where(known, rows, 0).sum(0) / np.maximum(known.sum(0), 1), np.nan)


def _atoms(run: Run, split: str) -> _Atoms | None:
    accuracy, uncertainty = _split(run, split)
    if accuracy is not None and len(accuracy.structure):
        a = accuracy
        return _Atoms(a.atomic_numbers, a.positions, a.structure, a.energy_reference, a.fingerprint)
    if uncertainty is not None and len(uncertainty.structure):
        u = uncertainty
        return _Atoms(u.atomic_numbers, u.positions, u.structure, None, u.fingerprint)
    return None


def _split(run: Run, split: str) -> tuple[SplitAccuracy | None, SplitUncertainty | None]:
    """What the two assays say of a split; uncertainties of other frames than the errors are left out."""
    accuracy, uncertainty = run.result(AccuracyResult), run.result(UncertaintyResult)
    one = accuracy.splits.get(split) if accuracy else None
    two = uncertainty.splits.get(split) if uncertainty else None
    if one is not None and two is not None:
        same = one.fingerprint == two.fingerprint and np.array_equal(one.structure, two.structure)
        two = two if same else None
    return one, two


def _values(runs: Sequence[Run], split: str, quantity: str, atoms: _Atoms) -> dict[int, NDArray[np.float64]]:
    """Per potential the quantity of every atom (N,), where its record is about the same frames."""
    values = {}
    for run in runs:
        accuracy, uncertainty = _split(run, split)
        value = None
        if quantity == "uncertainty" and uncertainty is not None and uncertainty.fingerprint == atoms.fingerprint:
            found = uncertainty.estimators.get(run.result(UncertaintyResult).estimator)  # type: ignore[union-attr]
            value = found.uncertainty if found is not None else None
        elif quantity == "error" and accuracy is not None and accuracy.fingerprint == atoms.fingerprint:
            value = np.linalg.norm(accuracy.forces_predicted - accuracy.forces_reference, axis=1)
        elif quantity == "error" and uncertainty is not None and uncertainty.fingerprint == atoms.fingerprint:
            value = uncertainty.error
        if value is not None and np.isfinite(value).any():
            values[run.index] = value
    return values


def bonds(numbers: NDArray[np.int64], positions: NDArray[np.float64]) -> NDArray[np.int64]:
    """Pairs (B, 2) of atoms closer than 1.2 times the sum of their covalent radii (Cordero et al. 2008)."""
    radii = covalent_radii[np.clip(numbers, 0, len(covalent_radii) - 1)]
    pairs = KDTree(positions).query_pairs(2.4 * float(radii.max()), output_type="ndarray")
    length = np.linalg.norm(positions[pairs[:, 0]] - positions[pairs[:, 1]], axis=1)
    return pairs[length < 1.2 * (radii[pairs[:, 0]] + radii[pairs[:, 1]])]


def _viewer(runs: Sequence[Run], views: Sequence[View]) -> dict[str, Any]:
    """What the script of the page needs: geometry, radii, element colours and values in meV/Å."""
    splits = []
    for view in views:
        centred = view.positions - view.positions.mean(0)
        axes = np.linalg.svd(centred, full_matrices=False)[2] if len(centred) > 2 else np.eye(3)
        axes = axes * np.sign(np.linalg.det(axes)) if len(axes) == 3 else np.eye(3)
        finite = np.concatenate([v[np.isfinite(v)] for parts in view.values.values() for v in parts.values()])
        splits.append(
            {
                "split": view.split,
                "note": view.note,
                "symbols": [symbol(int(z)) for z in view.numbers],
                "radii": rounded(covalent_radii[np.clip(view.numbers, 0, len(covalent_radii) - 1)], 3),
                "colours": [element_colour(int(z)) for z in view.numbers],
                "positions": [rounded(row, 5) for row in centred @ axes.T],
                "bonds": bonds(view.numbers, view.positions).tolist(),
                "values": {q: {str(i): rounded(1000 * v, 4) for i, v in p.items()} for q, p in view.values.items()},
                "range": rounded([1000 * finite.min(initial=np.inf), 1000 * finite.max(initial=0.0)], 4),
            }
        )
    return {
        "splits": splits,
        "runs": [{"index": run.index, "label": run.label} for run in runs],
        "quantities": [{"name": name, "label": label} for name, label in QUANTITIES],
        "unit": "meV/Å",
        "scale": list(VIRIDIS),
        "sources": [source.id for source in sources_of(runs, AccuracyResult, UncertaintyResult)],
    }


def element_colour(number: int) -> str:
    """The colour of an element as #rrggbb, that of Jmol."""
    red, green, blue = (round(255 * float(c)) for c in jmol_colors[min(max(number, 0), len(jmol_colors) - 1)])
    return f"#{red:02x}{green:02x}{blue:02x}"


def _worst(runs: Sequence[Run], views: Sequence[View]) -> Table:
    rows, marks = [], []
    for run in runs:
        for view in views:
            error, guess = (view.values[name].get(run.index) for name, _ in QUANTITIES)
            leading = error if error is not None else guess
            if leading is None:
                continue
            for atom in np.argsort(-np.nan_to_num(leading, nan=-1.0))[:WORST]:
                pair = [None if v is None else float(v[atom]) for v in (error, guess)]
                rows.append([run.label, view.split, f"{symbol(int(view.numbers[atom]))}{atom}", *pair])
                marks.append(run.index)
    columns = [
        Column("potential", text=True),
        Column("split", text=True),
        Column("atom", text=True),
        Column("force error", "eV/Å", "meV/Å", 1000.0, "splits.SPLIT.forces_{reference,predicted}"),
        of_field(UncertaintyResult, "splits.SPLIT.estimators.ESTIMATOR.uncertainty", "predicted error"),
    ]
    caption = f"The {WORST} atoms with the largest error of each potential and split, by symbol and index from 0."
    source = sources_of(runs, AccuracyResult, UncertaintyResult)
    return Table("table-worst-atoms", "The worst atoms", caption, columns, rows, source, marks, True)
