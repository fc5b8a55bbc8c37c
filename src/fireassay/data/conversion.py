"""From the numbers of a file to eV and Å, and from a frame with a key mapping to a structure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fireassay.data.advice import keys_option, units_option
from fireassay.data.electronic_state import check_parity, multiplicity, per_atom, spin_unit, stated
from fireassay.data.frame import Frame, describe, is_number, is_numeric, shape_of
from fireassay.data.keys import Mapped
from fireassay.data.structure import Provenance, Structure, check_together
from fireassay.errors import InputError, nearest
from fireassay.units import ENERGY, LENGTH, STRESS

ORDERS: Final = {"voigt": "Voigt", "vasp": "VASP", "lammps": "LAMMPS"}  # of six components
_PLACES: Final = {
    "voigt": np.array([[0, 5, 4], [5, 1, 3], [4, 3, 2]]),  # xx yy zz yz xz xy
    "vasp": np.array([[0, 3, 5], [3, 1, 4], [5, 4, 2]]),  # xx yy zz xy yz zx
    "lammps": np.array([[0, 3, 4], [3, 1, 5], [4, 5, 2]]),  # xx yy zz xy xz yz
}
_ROUNDING = 1e-6  # in the file's unit
_ASYMMETRY = 0.02  # of the largest component, up to which a tensor is made symmetric
_TEMPERATURE = re.compile(r"\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*(?:K|kelvin)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Units:
    """Factors from a file's units to eV, Å, eV/Å and eV/Å^3, and what its spin is: "2S+1", "2S" or "S".

    `stress_order` is the order of six components: "voigt" is xx yy zz yz xz xy, "vasp" xx yy zz xy yz zx,
    "lammps" xx yy zz xy xz yz.
    """

    energy: float = 1.0
    length: float = 1.0
    forces: float = 1.0
    stress: float = 1.0
    virial: float = 1.0
    spin: str = "2S+1"
    stress_order: str = "voigt"

    @classmethod
    def of(cls, names: Mapping[str, str] | None) -> Units:
        """From names such as {"energy": "kcal/mol", "length": "Angstrom", "forces": "Hartree/Bohr", "stress": "GPa"}.

        Forces not named are in energy per length, stress in energy per length cubed, the virial in energy. A minus
        before the unit of forces, stress or virial turns the sign: "-eV/Å" reads a gradient as forces, "-kbar" VASP's
        stress, which is positive in compression. The spin is "2S+1" unless it is said to be "2S", a number of unpaired
        electrons or a moment in µB, or "S". `stress_order` is "Voigt", "VASP" or "LAMMPS".

        Raises InputError for an unknown quantity or unit.
        """
        names = dict(names or {})
        quantities = ("energy", "length", "forces", "stress", "virial", "spin", "stress_order")
        for name, unit in names.items():
            if name not in quantities:
                raise InputError(f"units: {name!r} is no quantity{nearest(name, quantities)}; needs {list(quantities)}")
            if not isinstance(unit, str) or not unit:
                raise InputError(f"units: {name} is {unit!r}, needs the name of a unit")
        energy = _factor("energy", names.get("energy", "eV"), ENERGY)
        length = _factor("length", names.get("length", "Å"), LENGTH)
        forces = _signed("forces", names["forces"], None) if "forces" in names else energy / length
        stress = _signed("stress", names["stress"], STRESS) if "stress" in names else energy / length**3
        virial = _signed("virial", names["virial"], ENERGY) if "virial" in names else energy
        order = names.get("stress_order", "Voigt")
        if order.casefold() not in ORDERS:
            raise InputError(f"units: {order!r} is no stress_order; known are {list(ORDERS.values())}")
        return cls(energy, length, forces, stress, virial, spin_unit(names.get("spin", "2S+1")), order.casefold())


def _signed(quantity: str, name: str, known: Mapping[str, float] | None) -> float:
    """The factor of a unit that may have a sign before it; without `known` it is an energy per length."""
    plain = name.removeprefix("-").strip()
    if known is not None:
        factor = _factor(quantity, plain, known)
    else:
        above, slash, below = plain.rpartition("/")
        if not slash:
            raise InputError(f"units: {name!r} is no unit of forces; needs energy per length, such as eV/Å or -eV/Å")
        factor = _factor(quantity, above, ENERGY) / _factor(quantity, below, LENGTH)
    return -factor if name.startswith("-") else factor


def _factor(quantity: str, name: str, known: Mapping[str, float]) -> float:
    by_case = {unit.casefold(): value for unit, value in known.items()} | {"ang": 1.0, "a": 1.0, "hartree/mol": np.nan}
    value = known.get(name, by_case.get(name.casefold()) if isinstance(name, str) else None)
    if value is None or not np.isfinite(value):
        raise InputError(
            f"units: {name!r} is no unit of {quantity}{nearest(str(name), known)}; known are {list(known)}"
        )
    return value


def structure_of(frame: Frame, mapped: Mapped, units: Units) -> Structure:
    """The frame as a structure in eV and Å; a label that this frame lacks, or that is NaN, is None.

    Forces may be NaN for some atoms, which have none then. Stress may be (3, 3), 9 numbers or 6; a virial W becomes
    the stress -W / V. Without a periodic cell there is no stress, whatever the file says. Charges and moments per atom
    are summed; NaN for charge or spin is a missing one. A temperature may be written as "300K".

    Raises InputError for labels of the wrong shape or type, for values that are infinite, for a charge or spin that
    the frame contradicts, and for a multiplicity that a molecule with its electrons cannot have.
    """
    structure, spin = _converted(frame, mapped, units)
    structure.check()
    if spin is not None:
        check_parity(structure, spin[0], units.spin)
    return structure


def structures_of(frames: Sequence[Frame], mapped: Mapped, units: Units) -> list[Structure]:
    """As `structure_of` for each, but checked together."""
    converted = [_converted(frame, mapped, units) for frame in frames]
    structures = [structure for structure, _ in converted]
    check_together(structures)
    for structure, spin in converted:
        if spin is not None:
            check_parity(structure, spin[0], units.spin)
    return structures


def _converted(frame: Frame, mapped: Mapped, units: Units) -> tuple[Structure, tuple[str, float] | None]:
    """The structure, not yet checked, and the key and value of its spin."""
    forces = frame.first(mapped["forces"])
    charge = stated(frame.values, mapped["charge"], "charge", len(frame), frame.where) if mapped["charge"] else None
    spin = stated(frame.values, mapped["spin"], "spin", len(frame), frame.where) if mapped["spin"] else None
    cell = frame.cell * units.length if units.length != 1 else frame.cell
    temperature, group = _temperature(frame, mapped), frame.first(mapped["group"])
    if forces is not None and not (is_numeric(forces) and forces.shape == (len(frame), 3)):
        raise _wrong(frame, "forces", mapped["forces"], forces, f"({len(frame)}, 3) numbers")
    structure = Structure.unchecked(
        atomic_numbers=frame.atomic_numbers,
        positions=frame.positions * units.length if units.length != 1 else frame.positions,
        cell=cell,
        pbc=frame.pbc,
        energy=_energy(frame, mapped, units),
        forces=None if forces is None else _known_forces(forces, units),
        stress=_stress(frame, mapped, units, cell),
        provenance=Provenance(frame.file, frame.number, None if group in (None, "") else str(group), temperature),
        charge=None if charge is None else charge[1],
        spin=None if spin is None else _multiplicity(frame, *spin, units),
    )
    return structure, spin


def _energy(frame: Frame, mapped: Mapped, units: Units) -> float | None:
    energy = frame.first(mapped["energy"])
    if energy is None:
        return None
    if not is_number(energy):
        raise _wrong(frame, "energy", mapped["energy"], energy, "one number")
    value = energy if type(energy) is float else float(np.asarray(energy).reshape(()))
    return None if value != value else value * units.energy


def _known_forces(forces: NDArray, units: Units) -> NDArray[np.float64] | None:
    """Forces in eV/Å with NaN for every component of an atom that lacks one; None when all atoms do."""
    forces = forces.astype(np.float64, copy=False)
    if units.forces != 1:
        forces = forces * units.forces
    if not np.isnan(np.add.reduce(forces, axis=None)):
        return forces
    missing = np.isnan(forces).any(axis=1, keepdims=True)
    if not missing.any():
        return forces
    return None if missing.all() else np.where(missing, np.nan, forces)


def _temperature(frame: Frame, mapped: Mapped) -> float | None:
    value = frame.first(mapped["temperature"])
    if isinstance(value, str) and (match := _TEMPERATURE.fullmatch(value)):
        try:
            return float(match[1])
        except ValueError:
            pass
    if value is None:
        return None
    if not is_number(value):
        raise _wrong(frame, "temperature", mapped["temperature"], value, "one number, or text such as 300K")
    number = float(np.asarray(value).reshape(()))
    return number if np.isfinite(number) else None


def _multiplicity(frame: Frame, key: str, value: float, units: Units) -> float:
    if units.spin == "2S+1" and per_atom(frame.values[key], len(frame)):
        raise InputError(
            f"{frame.where}: spin under {key!r} has a value per atom; read moments in µB with "
            f"{units_option({'spin': '2S'})}, or leave them with {keys_option({'spin': None})}"
        )
    return multiplicity(value, units.spin)


def _stress(frame: Frame, mapped: Mapped, units: Units, cell: NDArray) -> NDArray | None:
    if not (mapped["stress"] or mapped["virial"]) or not frame.pbc.any():
        return None
    volume = volume_of(cell)
    if volume == 0:
        return None
    for label in ("stress", "virial"):
        value = frame.first(mapped[label])
        if value is None:
            continue
        tensor = tensor_of(frame, label, mapped[label], value, units.stress_order)
        if tensor is not None:
            return tensor * units.stress if label == "stress" else -tensor * units.virial / volume
    return None


def volume_of(cell: NDArray) -> float:
    """The volume that lattice vectors span, 0 where one is missing or not finite."""
    return abs(float(np.linalg.det(cell))) if np.isfinite(cell).all() else 0.0


def tensor_of(frame: Frame, label: str, keys: tuple[str, ...], value: Any, order: str) -> NDArray | None:
    """A symmetric (3, 3) of nine or six numbers; None when one of them is NaN.

    Raises InputError when there are not as many numbers, or the tensor is far from symmetric.
    """
    if not is_numeric(value) or value.size not in (6, 9):
        raise _wrong(frame, label, keys, value, "(3, 3), 9 or 6 numbers")
    flat = value.astype(np.float64).reshape(-1)
    tensor = flat[_PLACES[order]] if flat.size == 6 else flat.reshape(3, 3)
    if np.isnan(tensor).any():
        return None
    if asymmetry(tensor) > _ASYMMETRY:
        raise InputError(
            f"{frame.where}: {label} {tensor.tolist()} is not symmetric; is {keys[0]!r} a {label}? Leave it with "
            f"{keys_option({label: None})}"
        )
    return (tensor + tensor.T) / 2


def asymmetry(tensor: NDArray) -> float:
    """The largest difference of a tensor to its transpose, of the largest component; 0 where it is rounding."""
    difference = np.abs(tensor - tensor.T).max()
    return float(difference / np.abs(tensor).max()) if difference > _ROUNDING else 0.0


def _wrong(frame: Frame, label: str, keys: tuple[str, ...], value: Any, needed: str) -> InputError:
    kind = describe(value, len(frame))
    shape = f" {shape_of(value)}" if shape_of(value) else ""
    return InputError(
        f"{frame.where}: {label} under {keys[0]!r} is {kind}{shape if 'N' in kind else ''}, needs {needed}"
    )
