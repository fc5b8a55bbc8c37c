"""Radial distributions by ASE and MDAnalysis, displacements by tidynamics, angles and dihedrals by ASE.

Run in an environment of its own, with ase, MDAnalysis and tidynamics:

    python tests/reference/record_observables.py

All of one trajectory, which is random and lies in the file, so that nothing depends on a generator.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import MDAnalysis
import numpy as np
import tidynamics
from ase import Atoms
from ase.geometry.rdf import get_rdf
from ase.neighborlist import neighbor_list
from MDAnalysis.analysis.rdf import InterRDF

HERE = Path(__file__).parent
T, N, BINS, REACH = 12, 36, 40, 4.0

rng = np.random.default_rng(7)
numbers = np.repeat([3, 15, 16], [12, 8, 16])
cell = np.array([[9.0, 0.0, 0.0], [1.5, 8.6, 0.0], [-1.0, 1.2, 9.4]])
start = rng.uniform(0, 1, (N, 3)) @ cell
positions = start + np.cumsum(rng.normal(size=(T, N, 3)) * 0.25, axis=0)
velocities = rng.normal(size=(T, N, 3))

found: dict[str, np.ndarray] = {"numbers": numbers, "cell": cell, "positions": positions, "velocities": velocities}
frames = [Atoms(numbers, x, cell=cell, pbc=True) for x in positions]
found["ase_rdf"] = np.mean([get_rdf(a, REACH, BINS)[0] for a in frames], axis=0)
for first, second in ((3, 15), (16, 16)):
    partial = [get_rdf(a, REACH, BINS, elements=(first, second))[0] for a in frames]
    found[f"ase_rdf_{first}_{second}"] = np.mean(partial, axis=0)

universe = MDAnalysis.Universe.empty(N, trajectory=True)
universe.load_new(positions.astype(np.float32), dimensions=Atoms(cell=cell).cell.cellpar())
groups = {z: universe.atoms[np.flatnonzero(numbers == z)] for z in (3, 15, 16)}
# MDAnalysis knows a cell by lengths and angles, in its own orientation: distances are those of the rotated positions.
standard = Atoms(cell=Atoms(cell=cell).cell.cellpar()).cell.array
rotated = positions @ np.linalg.inv(cell) @ standard
universe.load_new(rotated.astype(np.float32), dimensions=Atoms(cell=cell).cell.cellpar())
rdf = InterRDF(groups[3], groups[15], nbins=BINS, range=(0.0, REACH), exclusion_block=None).run()
found["mdanalysis_rdf_3_15"] = rdf.results.rdf

found["tidynamics_msd"] = np.array([tidynamics.msd(positions[:, i]) for i in range(N)]).T
found["tidynamics_acf"] = np.array([tidynamics.acf(velocities[:, i]) for i in range(N)]).T

angles: dict[str, list[float]] = {}
symbols = {3: "Li", 15: "P", 16: "S"}
for atoms in frames:
    i, d = neighbor_list("iD", atoms, 2.5)
    j = neighbor_list("j", atoms, 2.5)
    for centre in range(N):
        rows = np.flatnonzero(i == centre)
        for p, a in enumerate(rows):
            for b in rows[p + 1 :]:
                ends = sorted((int(numbers[j[a]]), int(numbers[j[b]])))
                name = f"{symbols[ends[0]]}-{symbols[int(numbers[centre])]}-{symbols[ends[1]]}"
                u, v = d[a], d[b]
                cosine = u @ v / np.linalg.norm(u) / np.linalg.norm(v)
                angles.setdefault(name, []).append(float(np.degrees(np.arccos(np.clip(cosine, -1, 1)))))
for name, values in angles.items():
    found[f"angles_{name}"] = np.array(values)

chain = Atoms("CCOH", [[0.1, 0.0, 0.0], [1.5, 0.2, 0.0], [2.1, 1.5, 0.3], [2.0, 1.7, 1.25]])
found["chain"] = np.array([chain.positions + rng.normal(size=(4, 3)) * 0.1 for _ in range(6)])
shaken = [Atoms(chain.numbers, x) for x in found["chain"]]
found["chain_dihedral"] = np.array([a.get_dihedral(0, 1, 2, 3) for a in shaken])
found["chain_angle"] = np.array([a.get_angle(0, 1, 2) for a in shaken])

versions = {name: version(name) for name in ("ase", "MDAnalysis", "tidynamics", "numpy")}
np.savez_compressed(HERE / "observables.npz", versions=np.array(json.dumps(versions)), **found)
