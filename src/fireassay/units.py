"""Units and sign conventions, stated once.

Energy is in eV, length in Å, mass in amu, time in fs, temperature in K, velocity in Å/fs.

Forces are F = -dE/dx in eV/Å. Stress is (1/V) dE/dε in eV/Å^3 for a strain ε that maps x to (1 + ε) x: positive
when the crystal is under tension and wants to contract, the sign of ASE. Hence pressure = -trace(stress) / 3 and
the virial of a data set that stores it as -dE/dε is -V * stress. Cell rows are lattice vectors.

Constants: CODATA 2018 (Tiesinga et al., Rev. Mod. Phys. 93, 025010).
"""

from __future__ import annotations

from typing import Final

BOLTZMANN: Final = 8.617333262e-5  # eV / K
ACCELERATION: Final = 9.648533212e-3  # (eV / Å / amu) in Å / fs^2; also (eV / amu) in (Å / fs)^2

EV: Final = 1.0
MEV: Final = 1e-3
HARTREE: Final = 27.211386245988
RYDBERG: Final = HARTREE / 2
KCAL_PER_MOL: Final = 0.0433641042418009
KJ_PER_MOL: Final = KCAL_PER_MOL / 4.184
ANGSTROM: Final = 1.0
BOHR: Final = 0.529177210903
NANOMETRE: Final = 10.0
GIGAPASCAL: Final = 1 / 160.2176634  # eV / Å^3
KILOBAR: Final = GIGAPASCAL / 10

ENERGY: Final = {
    "eV": EV,
    "meV": MEV,
    "Hartree": HARTREE,
    "Ha": HARTREE,
    "Ry": RYDBERG,
    "kcal/mol": KCAL_PER_MOL,
    "kJ/mol": KJ_PER_MOL,
}
LENGTH: Final = {"Å": ANGSTROM, "Angstrom": ANGSTROM, "Bohr": BOHR, "nm": NANOMETRE}
STRESS: Final = {"eV/Å^3": 1.0, "eV/A^3": 1.0, "GPa": GIGAPASCAL, "kbar": KILOBAR, "bar": KILOBAR / 1000,
    "Hartree/Bohr^3": HARTREE / BOHR**3, "Ry/Bohr^3": RYDBERG / BOHR**3}  # fmt: skip
