"""What the recording scripts of the models share: the two structures and the files that tests/test_reference.py reads.

A recording `<model>_<case>` is a JSON file with the model's name in MODELS, the constructor's arguments, the seed and
the versions of the public packages, and an npz archive: `weights/<name in our state dict>`, and for the structures
"molecule" and "crystal" `<kind>/atomic_numbers`, `positions` in Å, `cell`, `pbc`, `<kind>/<dtype>/energy` in eV
relative to isolated atoms, `<kind>/<dtype>/forces` in eV/Å. Needs numpy and ase only, so that it runs beside any
public package.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

SEED = 7
Evaluate = Callable[[Atoms], tuple[float, np.ndarray]]  # energy and forces (N, 3) of one structure


def structures(species: Sequence[str]) -> dict[str, Atoms]:
    """A molecule of nine atoms within 5 Å, and a triclinic crystal of four atoms narrower than a cutoff of 4 Å."""
    rng = np.random.default_rng(SEED)
    points: list[np.ndarray] = []
    while len(points) < 9:
        point = rng.uniform(-2.6, 2.6, 3)
        if all(np.linalg.norm(point - other) > 1.0 for other in points):
            points.append(point)
    molecule = Atoms(rng.choice(list(species), 9), np.array(points))
    cell = np.array([[3.4, 0.0, 0.0], [0.9, 3.1, 0.0], [-0.6, 0.8, 3.7]])
    grid = np.array([[0.05, 0.1, 0.0], [0.5, 0.55, 0.1], [0.1, 0.5, 0.55], [0.6, 0.05, 0.5]])
    positions = (grid + rng.uniform(-0.05, 0.05, grid.shape)) @ cell
    return {"molecule": molecule, "crystal": Atoms(rng.choice(list(species), 4), positions, cell=cell, pbc=True)}


def edges(atoms: Atoms, cutoff: float) -> dict[str, np.ndarray]:
    """Every directed edge i -> j with r_ij = x_j + shift @ cell - x_i within the cutoff: i, j, shift, r."""
    reach = np.ceil(cutoff / np.abs(np.linalg.det(atoms.cell)) * _faces(atoms.cell.array)) if atoms.pbc.any() else None
    ranges = [range(1)] * 3 if reach is None else [range(-int(n) - 1, int(n) + 2) for n in reach]
    shifts = np.stack(np.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, 3)
    x = atoms.positions
    vectors = x[None, :, None] + (shifts @ atoms.cell.array)[None, None] - x[:, None, None]
    distances = np.linalg.norm(vectors, axis=-1)
    i, j, s = np.nonzero((distances < cutoff) & (distances > 1e-9))
    return {"i": i, "j": j, "shift": shifts[s], "r": vectors[i, j, s]}


def _faces(cell: np.ndarray) -> np.ndarray:
    return np.linalg.norm(np.cross(cell[[1, 2, 0]], cell[[2, 0, 1]]), axis=1)


def write(
    folder: Path,
    name: str,
    model: str,
    arguments: Mapping[str, Any],
    weights: Mapping[str, np.ndarray],
    evaluate: Mapping[str, Evaluate],
    given: Mapping[str, Atoms],
    versions: Mapping[str, str],
    **notes: Any,
) -> None:
    """Writes one recording; `evaluate` has one entry per dtype ("float64", "float32"), `notes` go into the JSON."""
    arrays = {f"weights/{key}": np.asarray(value) for key, value in weights.items()}
    for kind, atoms in given.items():
        arrays[f"{kind}/atomic_numbers"] = atoms.numbers.astype(np.int64)
        arrays[f"{kind}/positions"], arrays[f"{kind}/cell"] = atoms.positions, atoms.cell.array
        arrays[f"{kind}/pbc"] = atoms.pbc
        for dtype, function in evaluate.items():
            energy, forces = function(atoms)
            arrays[f"{kind}/{dtype}/energy"], arrays[f"{kind}/{dtype}/forces"] = np.array(energy), forces
    np.savez_compressed(folder / f"{name}.npz", **arrays)
    content = {"model": model, "arguments": dict(arguments), "seed": SEED, "versions": dict(versions), **notes}
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
