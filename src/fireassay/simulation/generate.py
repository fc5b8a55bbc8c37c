"""Generate the embedded data sets from their oracles, deterministically, from nothing but this file.

`3bpa-xtb`: 3-(benzyloxy)pyridin-2-amine (27 atoms), Langevin dynamics on the GFN2-xTB surface
(Bannwarth, Ehlert, Grimme, J. Chem. Theory Comput. 2019, 15, 1652) through tblite, sampled at 300,
600 and 1200 K after the protocol of the 3BPA benchmark (Kovács et al., J. Chem. Theory Comput. 2021,
17, 7696), which used DFT.

`cuau-emt`: a 32-atom periodic Cu-Au solid solution in the effective medium theory of Jacobsen,
Stoltze and Nørskov (Surf. Sci. 1996, 366, 394) as shipped with ASE, with random strains, so that the
stress labels span compression, tension and shear.

Frames are independent walkers' samples, `stride` femtoseconds apart. Positions are rounded to 1e-6 Å
before they are labelled, so that the labels belong exactly to the positions in the file.
"""

from __future__ import annotations

import json
import lzma
import platform
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixCom
from ase.io import write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary, ZeroRotation
from ase.optimize import BFGS

# A coarse conformer to start the relaxation from; the relaxed one is what ships.
_START_3BPA = """
N 1.89 0.04 2.23; C 2.52 0.11 0.99; N 3.81 0.47 1.00; C 4.44 0.55 -0.19; C 3.84 0.28 -1.41
C 2.50 -0.07 -1.41; C 1.82 -0.13 -0.20; O 0.50 -0.52 -0.21; C -0.34 0.63 -0.06; C -1.78 0.16 -0.11
C -2.37 -0.17 -1.34; C -3.69 -0.62 -1.39; C -4.43 -0.74 -0.21; C -3.85 -0.41 1.01; C -2.53 0.03 1.06
H 2.61 0.16 2.93; H 1.40 -0.85 2.32; H 5.49 0.84 -0.14; H 4.40 0.35 -2.34; H 1.98 -0.30 -2.34
H -0.16 1.15 0.89; H -0.17 1.35 -0.87; H -1.79 -0.10 -2.26; H -4.14 -0.88 -2.34; H -5.46 -1.08 -0.25
H -4.43 -0.51 1.93; H -2.09 0.27 2.03
"""


@dataclass(frozen=True)
class Walk:
    """One Langevin walker: where its frames go, how hot, how long (fs), which seed, which start."""

    split: str
    temperature: float
    frames: int
    seed: int
    timestep: float = 1.0
    equilibration: float = 3000.0
    stride: float = 80.0
    friction: float = 0.01


def xtb() -> Any:
    """The GFN2-xTB calculator of tblite, silent.

    Raises ImportError with the command that installs it when tblite is absent.
    """
    try:
        from tblite.ase import TBLite
    except ImportError as error:
        raise ImportError(
            "tblite is not installed: it labels 3bpa-xtb; install it with pip install 'fireassay[oracles]'"
        ) from error
    return TBLite(method="GFN2-xTB", accuracy=0.1, verbosity=0)


def start_3bpa() -> Atoms:
    """The coarse conformer of 3-(benzyloxy)pyridin-2-amine that relaxation starts from."""
    rows = [row.split() for row in _START_3BPA.replace("\n", ";").split(";") if row.strip()]
    return Atoms([row[0] for row in rows], [[float(value) for value in row[1:]] for row in rows])


def label(atoms: Atoms, calculator: Any, stress: bool = False) -> Atoms:
    """A copy at positions rounded to 1e-6 Å with energy (eV), forces (eV/Å) and, on request, stress (eV/Å^3)."""
    frame = Atoms(atoms.numbers, np.round(atoms.positions, 6), cell=np.round(atoms.cell.array, 6), pbc=atoms.pbc)
    frame.calc = calculator
    results = {"energy": frame.get_potential_energy(), "forces": frame.get_forces(apply_constraint=False)}
    if stress:
        results["stress"] = frame.get_stress(apply_constraint=False)
    frame.calc = SinglePointCalculator(frame, **results)
    return frame


def walk_3bpa(walk: Walk) -> list[Atoms]:
    """Frames of one walker on the GFN2-xTB surface, in the order of time."""
    atoms = start_3bpa()
    atoms.calc = xtb()
    BFGS(atoms, logfile=None).run(fmax=0.02, steps=500)
    return _sample(atoms, walk, stress=False)


def walk_cuau(walk: Walk) -> list[Atoms]:
    """Frames of one walker in a randomly strained, randomly decorated 32-atom fcc cell, in the order of time."""
    rng = np.random.default_rng(walk.seed)
    share = rng.uniform(0.1, 0.9)
    atoms = bulk("Cu", "fcc", a=3.61 + share * (4.06 - 3.61), cubic=True) * (2, 2, 2)
    atoms.symbols[rng.permutation(len(atoms))[: round(share * len(atoms))]] = "Au"
    strain = np.eye(3) + rng.uniform(-0.03, 0.03, (3, 3))
    atoms.set_cell(atoms.cell @ strain, scale_atoms=True)
    atoms.calc = EMT()
    return _sample(atoms, walk, stress=True)


def _sample(atoms: Atoms, walk: Walk, stress: bool) -> list[Atoms]:
    rng = np.random.default_rng(walk.seed)
    MaxwellBoltzmannDistribution(atoms, temperature_K=walk.temperature, rng=rng)
    Stationary(atoms)
    if not atoms.pbc.any():
        ZeroRotation(atoms)
    # A constraint keeps the centre of mass; Langevin's own fixcm does not sample the canonical distribution.
    atoms.set_constraint(FixCom())
    dynamics = Langevin(
        atoms,
        walk.timestep * units.fs,
        temperature_K=walk.temperature,
        friction=walk.friction / units.fs,
        fixcm=False,
        rng=rng,
    )
    dynamics.run(round(walk.equilibration / walk.timestep))
    frames = []
    for number in range(walk.frames):
        dynamics.run(round(walk.stride / walk.timestep))
        frame = label(atoms, atoms.calc, stress)
        frame.info |= {"temperature": walk.temperature, "walker": walk.seed, "time_fs": (number + 1) * walk.stride}
        frames.append(frame)
    return frames


PLANS: dict[str, tuple[Any, list[Walk]]] = {
    "3bpa-xtb": (
        walk_3bpa,
        [Walk("train_300K", 300.0, 50, seed=100 + k) for k in range(10)]
        + [Walk("test_300K", 300.0, 60, seed=200 + k) for k in range(5)]
        + [Walk("test_600K", 600.0, 60, seed=300 + k) for k in range(5)]
        + [Walk("test_1200K", 1200.0, 60, seed=400 + k, timestep=0.5) for k in range(5)],
    ),
    "cuau-emt": (
        walk_cuau,
        [Walk("train_300K", 300.0, 10, seed=1100 + k, stride=200.0, timestep=2.0) for k in range(10)]
        + [Walk("test_300K", 300.0, 10, seed=1200 + k, stride=200.0, timestep=2.0) for k in range(5)]
        + [Walk("test_900K", 900.0, 10, seed=1300 + k, stride=200.0, timestep=2.0) for k in range(5)],
    ),
}


def _write(frames: list[Atoms], path: Path) -> None:
    text = StringIO()
    write(text, frames, format="extxyz")
    path.write_bytes(lzma.compress(text.getvalue().encode(), preset=9 | lzma.PRESET_EXTREME))


def generate(name: str, folder: Path, workers: int = 1) -> list[Path]:
    """Generate the embedded data set `name` into `folder`; about one core-hour for 3bpa-xtb, a minute for cuau-emt.

    Writes one `SPLIT.xyz.xz` per split, the isolated atoms and the relaxed ground state (3bpa-xtb), and
    `provenance.json` with the versions, settings and the command. Returns the paths written. The files depend
    on the versions of the oracle and of the linear algebra library in the last digits only until chaos in
    the trajectories amplifies them: another machine samples other, equally valid frames.

    Raises KeyError for an unknown name, ImportError when the oracle is not installed.
    """
    walker, plan = PLANS[name]
    folder.mkdir(parents=True, exist_ok=True)
    splits: dict[str, list[Atoms]] = {}
    with ProcessPoolExecutor(workers) as pool:
        for walk, frames in zip(plan, pool.map(walker, plan), strict=True):
            splits.setdefault(walk.split, []).extend(frames)
    if name == "3bpa-xtb":
        ground = start_3bpa()
        ground.calc = xtb()
        BFGS(ground, logfile=None).run(fmax=1e-3, steps=2000)
        splits["ground_state"] = [label(ground, ground.calc)]
        splits["isolated_atoms"] = [label(Atoms(symbol), xtb()) for symbol in "HCNO"]
    else:
        splits["isolated_atoms"] = [label(Atoms(symbol), EMT()) for symbol in ("Cu", "Au")]
    paths = []
    for split, frames in splits.items():
        paths.append(folder / f"{split}.xyz.xz")
        _write(frames, paths[-1])
    oracle = {"3bpa-xtb": "tblite", "cuau-emt": "ase"}[name]
    provenance = {
        "name": name,
        "command": f"fireassay data make {name}",
        "oracle": f"{oracle} {version(oracle)}",
        "method": {"3bpa-xtb": "GFN2-xTB", "cuau-emt": "EMT"}[name],
        "ase": version("ase"),
        "python": platform.python_version(),
        "units": {"energy": "eV", "forces": "eV/Å", "stress": "eV/Å^3", "positions": "Å"},
        "centre_of_mass": "kept by ASE's FixCom constraint",
        "walks": [vars(walk) for walk in plan],
        "licence": "MIT",
    }
    paths.append(folder / "provenance.json")
    paths[-1].write_text(json.dumps(provenance, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return paths
