"""From the numbers of a file to eV and Å, and from a frame with a key mapping to a structure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fireassay.data.advice import keys_option, units_option
from fireassay.data.electronic_state import check_parity, multiplicity, per_atom, spin_unit, stated
from fireassay.data.frame import Frame, describe, is_number, is_numeric
from fireassay.data.keys import Mapped
from fireassay.data.structure import Provenance, Structure
from fireassay.errors import InputError, nearest
from fireassay.units import ENERGY, LENGTH, STRESS

_VOIGT = np.array([[0, 5, 4], [5, 1, 3], [4, 3, 2]])  # xx yy zz yz xz xy


@dataclass(frozen=True)
class Units:
    """Factors from a file's units to eV, Å, eV/Å and eV/Å^3, and what its spin is: "2S+1", "2S" or "S"."""

    energy: float = 1.0
    length: float = 1.0
    forces: float = 1.0
    stress: float = 1.0
    virial: float = 1.0
    spin: str = "2S+1"

    @classmethod
    def of(cls, names: Mapping[str, str] | None) -> Units:
        """From names such as {"energy": "kcal/mol", "length": "Angstrom", "forces": "Hartree/Bohr", "stress": "GPa"}.

        Forces not named are in energy per length, stress in energy per length cubed, the virial in energy. A minus
        before the unit of stress or virial, such as "-kbar", turns the sign: VASP's stress is positive in compression.
        The spin is "2S+1" unless it is said to be "2S", a number of unpaired electrons or a moment in µB, or "S".

        Raises InputError for an unknown quantity or unit.
        """
        names = dict(names or {})
        quantities = ("energy", "length", "forces", "stress", "virial", "spin")
        for name in names:
            if name not in quantities:
                raise InputError(f"units: {name!r} is no quantity{nearest(name, quantities)}; needs {list(quantities)}")
        energy = _factor("energy", names.get("energy", "eV"), ENERGY)
        length = _factor("length", names.get("length", "Å"), LENGTH)
        forces = energy / length
        if "forces" in names:
            above, _, below = names["forces"].rpartition("/")
            forces = _factor("forces", above, ENERGY) / _factor("forces", below, LENGTH)
        stress = _signed("stress", names["stress"], STRESS) if "stress" in names else energy / length**3
        virial = _signed("virial", names["virial"], ENERGY) if "virial" in names else energy
        return cls(energy, length, forces, stress, virial, spin_unit(names.get("spin", "2S+1")))


def _signed(quantity: str, name: str, known: Mapping[str, float]) -> float:
    return -_factor(quantity, name[1:], known) if name.startswith("-") else _factor(quantity, name, known)


def _factor(quantity: str, name: str, known: Mapping[str, float]) -> float:
    by_case = {unit.casefold(): value for unit, value in known.items()} | {"ang": 1.0, "a": 1.0, "hartree/mol": np.nan}
    value = known.get(name, by_case.get(name.casefold()) if isinstance(name, str) else None)
    if value is None or not np.isfinite(value):
        raise InputError(
            f"units: {name!r} is no unit of {quantity}{nearest(str(name), known)}; known are {list(known)}"
        )
    return value


def structure_of(frame: Frame, mapped: Mapped, units: Units) -> Structure:
    """The frame as a structure in eV and Å; a label that this frame lacks is None.

    Stress may be (3, 3), 9 numbers or 6 in the order xx yy zz yz xz xy; a virial W becomes the stress -W / V. Charges
    and moments per atom are summed; NaN for charge or spin is a missing one.

    Raises InputError for labels of the wrong shape or type, for values that are not finite, for a charge or spin that
    the frame contradicts, and for a multiplicity that a molecule with its electrons cannot have.
    """
    energy, forces = _value(frame, mapped["energy"]), _value(frame, mapped["forces"])
    charge = stated(frame.values, mapped["charge"], "charge", len(frame), frame.where)
    spin = stated(frame.values, mapped["spin"], "spin", len(frame), frame.where)
    cell = frame.cell * units.length
    temperature, group = _value(frame, mapped["temperature"]), _value(frame, mapped["group"])
    if energy is not None and not is_number(energy):
        raise _wrong(frame, "energy", mapped["energy"], energy, "one number")
    if forces is not None and not (is_numeric(forces) and forces.shape == (len(frame), 3)):
        raise _wrong(frame, "forces", mapped["forces"], forces, f"({len(frame)}, 3) numbers")
    if temperature is not None and not is_number(temperature):
        raise _wrong(frame, "temperature", mapped["temperature"], temperature, "one number")
    structure = Structure(
        atomic_numbers=frame.atomic_numbers,
        positions=frame.positions * units.length,
        cell=cell,
        pbc=frame.pbc,
        energy=None if energy is None else float(np.asarray(energy).reshape(())) * units.energy,
        forces=None if forces is None else forces.astype(np.float64) * units.forces,
        stress=_stress(frame, mapped, units, cell),
        provenance=Provenance(
            frame.file,
            frame.number,
            None if group is None else str(group),
            None if temperature is None else float(np.asarray(temperature).reshape(())),
        ),
        charge=None if charge is None else charge[1],
        spin=None if spin is None else _multiplicity(frame, *spin, units),
    )
    if spin is not None:
        check_parity(structure, spin[0], units.spin)
    return structure


def _multiplicity(frame: Frame, key: str, value: float, units: Units) -> float:
    if units.spin == "2S+1" and per_atom(frame.values[key], len(frame)):
        raise InputError(
            f"{frame.where}: spin under {key!r} has a value per atom; read moments in µB with "
            f"{units_option({'spin': '2S'})}, or leave them with {keys_option({'spin': None})}"
        )
    return multiplicity(value, units.spin)


def _value(frame: Frame, keys: tuple[str, ...]) -> Any:
    return frame.values.get(keys[0]) if keys else None


def _stress(frame: Frame, mapped: Mapped, units: Units, cell: NDArray) -> NDArray | None:
    for label in ("stress", "virial"):
        value = _value(frame, mapped[label])
        if value is None:
            continue
        if not is_numeric(value) or value.size not in (6, 9):
            raise _wrong(frame, label, mapped[label], value, "(3, 3), 9 or 6 numbers")
        flat = value.astype(np.float64).reshape(-1)
        tensor = flat[_VOIGT] if flat.size == 6 else flat.reshape(3, 3)
        if np.abs(tensor - tensor.T).max() > 1e-3 * np.abs(tensor).max() + 1e-6:
            raise InputError(
                f"{frame.where}: {label} {tensor.tolist()} is not symmetric; is {mapped[label][0]!r} a {label}?"
            )
        tensor = (tensor + tensor.T) / 2
        if label == "stress":
            return tensor * units.stress
        volume = abs(np.linalg.det(cell))
        if volume == 0:
            without = keys_option({"virial": None})
            raise InputError(f"{frame.where}: has a virial but no cell to divide it by; leave it with {without}")
        return -tensor * units.virial / volume
    return None


def _wrong(frame: Frame, label: str, keys: tuple[str, ...], value: Any, needed: str) -> InputError:
    kind = describe(value, len(frame))
    shape = f" {np.shape(value)}" if np.ndim(value) else ""
    return InputError(
        f"{frame.where}: {label} under {keys[0]!r} is {kind}{shape if 'N' in kind else ''}, needs {needed}"
    )
