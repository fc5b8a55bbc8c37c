"""Extracts the reference data of the D3 method, and records what two public programs say with them.

    PYTHON_WITH_TORCH_DFTD_AND_DFTD3 tests/reference/record_d3.py src/fireassay/nn tests/reference

Writes dispersion_d3.npz: for the elements 0 to 94 how many reference systems each has (`sizes`), then of all 254
systems, element by element, the coordination numbers (`coordination`) and the upper triangle of the C6 coefficients
(`c6`), integers in 1e-4 (bohr^6 Hartree), and by element the covalent radii times 4/3 (`radii`) and sqrt of the ratios
of multipole expectation values (`expectation`) in bohr. They are the data of Grimme et al., J. Chem. Phys. 132, 154104
(2010), taken from torch-dftd (MIT), whose tables are byte by byte those of the public PhysNet repository.

Writes d3.npz: two molecules, and for the coefficients of Hartree-Fock and PBE their two-body D3(BJ) energies
in eV and forces in eV/Å by torch-dftd (without a switch at its cutoff) and by simple-dftd3, which has its own code in
Fortran and other digits of the radii and constants.
"""

from __future__ import annotations

import sys
from pathlib import Path

import dftd3.ase
import numpy as np
import torch
import torch_dftd
from ase import Atoms
from ase.build import molecule
from recording import structures
from torch_dftd.torch_dftd3_calculator import TorchDFTD3Calculator

METHODS = {
    "hf": {"s6": 1.0, "s8": 0.9171, "a1": 0.3385, "a2": 2.8830},
    "pbe": {"s6": 1.0, "s8": 0.7875, "a1": 0.4289, "a2": 4.4407},
}
CUTOFF = 1000.0  # Å: every pair


def tables() -> dict[str, np.ndarray]:
    with np.load(Path(torch_dftd.__file__).parent / "nn" / "params" / "dftd3_params.npz") as archive:
        c6ab, radii, expectation = (archive[name] for name in ("c6ab", "rcov", "r2r4"))
    n_elements = len(radii)
    sizes = np.array([(c6ab[z, 1, :, 0, 0] > 0).sum() if z else 0 for z in range(n_elements)])
    z, a = np.nonzero(np.arange(c6ab.shape[2]) < sizes[:, None])
    matrix = c6ab[z[:, None], z, a[:, None], a]  # (254, 254, 3): C6 and the two coordination numbers
    assert (matrix[..., 0] > 0).all()
    assert (matrix[..., 0] == matrix[..., 0].T).all()
    assert (matrix[..., 2] == matrix[..., 1].T).all()
    integers = np.rint(1e4 * matrix).astype(np.int32)
    assert np.abs(integers / 1e4 - matrix).max() < 1e-10
    return {
        "sizes": sizes.astype(np.int8),
        "coordination": integers[:, 0, 1],
        "c6": integers[..., 0][np.triu_indices(len(z))],
        "radii": radii.astype(np.float32),
        "expectation": expectation.astype(np.float32),
    }


def calculators(name: str) -> dict[str, object]:
    in_torch = TorchDFTD3Calculator(xc=name, damping="bj", cutoff=CUTOFF, cnthr=CUTOFF, dtype=torch.float64)
    in_fortran = dftd3.ase.DFTD3(damping="d3bj", params_tweaks={**METHODS[name], "s9": 0.0})
    return {"torch_dftd": in_torch, "dftd3": in_fortran}


def record(folder: Path) -> None:
    arrays: dict[str, np.ndarray] = {}
    given: dict[str, Atoms] = {"random": structures(["H", "C", "O", "Cu"])["molecule"], "benzene": molecule("C6H6")}
    for kind, atoms in given.items():
        arrays[f"{kind}/atomic_numbers"] = atoms.numbers.astype(np.int64)
        arrays[f"{kind}/positions"] = atoms.positions
        for method in METHODS:
            for program, calculator in calculators(method).items():
                atoms.calc = calculator
                arrays[f"{kind}/{method}/{program}/energy"] = np.array(atoms.get_potential_energy())
                arrays[f"{kind}/{method}/{program}/forces"] = atoms.get_forces()
                atoms.calc = None
    np.savez_compressed(folder / "d3.npz", **arrays)


if __name__ == "__main__":
    np.savez_compressed(Path(sys.argv[1]) / "dispersion_d3.npz", **tables())
    record(Path(sys.argv[2]))
