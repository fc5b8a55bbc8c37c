"""Total charge and spin of a structure: how they are read, and frames whose labels they set apart.

The charge is in e and need not be an integer. The spin is the multiplicity 2S + 1, as it is under `spin` in OMol25 and
the packages that go with it, under `total_spin` in MACE and under `spin_multiplicity` in SchNetPack.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from fireassay.data.advice import keys_option, units_option
from fireassay.data.frame import SYMBOLS
from fireassay.data.structure import Structure
from fireassay.errors import InputError

STATES: Final[dict[str, tuple[str, ...]]] = {
    "charge": ("charge", "total_charge"),
    "spin": ("spin", "total_spin", "multiplicity", "spin_multiplicity"),
}  # quantity -> the names under which it is looked for
SPIN_UNITS: Final = ("2S+1", "2S", "S")
ROUNDING: Final = 1e-3  # e; how far a sum of printed partial charges may be from an integer that it stands for
_SHOWN: Final = 6


def multiplicity(value: float, unit: str) -> float:
    """2S + 1 from "2S+1", "2S" (unpaired electrons, or the magnetic moment in µB, of either sign) or "S"."""
    return value if unit == "2S+1" else abs(value) * (1 if unit == "2S" else 2) + 1


def spin_unit(name: str) -> str:
    """One of `SPIN_UNITS` by its name, in either case. Raises InputError for another."""
    if not isinstance(name, str) or name.upper() not in SPIN_UNITS:
        raise InputError(f"units: {name!r} is no unit of spin; known are {list(SPIN_UNITS)}")
    return name.upper()


def per_atom(value: Any, n_atoms: int) -> bool:
    """Whether a value of a frame of several atoms is one number for each of them."""
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiu" and value.size == n_atoms > 1


def stated(
    values: Mapping[str, Any], names: Sequence[str], quantity: str, n_atoms: int, where: str
) -> tuple[str, float] | None:
    """The name and value of charge or spin among `values`; None when no name has one, or it is NaN.

    Values per atom count by their sum, which is the integer that it is within `ROUNDING` of.

    Raises InputError for a value that is no number, and for two names that disagree.
    """
    found: dict[str, float] = {}
    for name in names:
        value = values.get(name)
        if value is None:
            continue
        number = np.asarray(value)
        if number.dtype.kind not in "fiu" or number.size not in (1, n_atoms):
            what = f"an array of shape {number.shape}" if number.ndim else repr(value)
            raise InputError(f"{where}: {quantity} under {name!r} is {what}, needs one number; {_leave(quantity)}")
        total = float(number.sum(dtype=np.float64))
        if per_atom(value, n_atoms) and abs(total - round(total)) <= ROUNDING:
            total = float(round(total))
        if not np.isnan(total):
            found[name] = total
    if found and max(found.values()) - min(found.values()) > ROUNDING:
        listed = " and ".join(f"{name} is {value:g}" for name, value in found.items())
        raise InputError(
            f"{where}: {listed}, which contradict each other; read one of them with "
            f"{keys_option({quantity: next(iter(found))})}"
        )
    return next(iter(found.items()), None)


def _leave(quantity: str) -> str:
    return f"leave it with {keys_option({quantity: None})}"


def check_parity(structure: Structure, name: str, unit: str) -> None:
    """Raises InputError when a molecule's electrons cannot have its multiplicity, in the file under `name` in `unit`.

    An even number of electrons has an odd multiplicity and an odd number an even one, which tells 2S + 1 from 2S.
    Periodic structures and fractional numbers are left alone.
    """
    if structure.charge is None or structure.spin is None or structure.pbc.any():
        return
    electrons = float(structure.atomic_numbers.sum()) - structure.charge
    if electrons % 1 or structure.spin % 1 or (electrons + structure.spin) % 2 == 1:
        return
    electrons_as = f"read a number of unpaired electrons with {units_option({'spin': '2S'})}, or "
    unpaired = electrons_as if unit == "2S+1" else ""
    raise InputError(
        f"{structure.where}: {electrons:.0f} electrons cannot have the multiplicity 2S + 1 = {structure.spin:.0f} of "
        f"{name!r}; {unpaired}{_leave('spin')}"
    )


class Ambiguity(NamedTuple):
    """Labels that charge or spin set apart, and a potential that does not use them cannot.

    `refusal` is a line when frames of one composition differ, so that no function of the atoms has their labels;
    `warning` a line when only frames of different compositions do. None where there is nothing to say.
    """

    refusal: str | None
    warning: str | None


def ambiguity(structures: Sequence[Structure], uses: Collection[str] = ()) -> Ambiguity:
    """What the labelled frames have in charge and spin that a potential which `uses` some of the two cannot fit.

    Frames are told apart by what is used: a spin that follows from composition and charge is no contradiction where the
    charge is used. A frame without a value contradicts none.
    """
    labelled = [s for s in structures if s.energy is not None or s.forces is not None]
    pairs = {q: pair for q in STATES if q not in uses and (pair := _contradiction(labelled, q, uses)) is not None}
    warnings = [line for q in STATES.keys() - pairs.keys() for line in _warned(labelled, q, q in uses)]
    return Ambiguity(_refused(pairs) if pairs else None, "; ".join(sorted(warnings)) or None)


def unseen(training: Sequence[Structure], others: Sequence[Structure]) -> str | None:
    """A line when `others` have a charge or spin that no training frame has, None otherwise.

    Whatever a potential makes of charge and spin, it has not learnt what it has not seen. Where the training frames
    state nothing, nothing is compared.
    """
    lines = []
    for quantity in STATES:
        known, met = counted(training, quantity), counted(others, quantity)
        new = sorted(met.keys() - known.keys())
        if new and known:
            lines.append(
                f"{sum(met[value] for value in new)} of {len(others)} frames have a {quantity} of {_listed(new)}, "
                f"training frames have {_listed(sorted(known))}: their errors are those of extrapolation"
            )
    return "; ".join(lines) or None


def counted(structures: Sequence[Structure], quantity: str) -> dict[float, int]:
    """Value of the charge or spin -> number of frames with it, ascending; frames without are not counted."""
    given = [value for s in structures if (value := getattr(s, quantity)) is not None]
    values, counts = np.unique(np.array(given, dtype=np.float64), return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def as_ase(charge: float | None, spin: float | None, n_atoms: int) -> dict[str, Any]:
    """Keywords of `ase.Atoms` that say charge and multiplicity in both ways in which calculators look for them.

    `info` has them as numbers; initial charges and magnetic moments, spread evenly, sum to the charge and to 2S.
    """
    keywords: dict[str, Any] = {"info": {}}
    if charge is not None:
        keywords["info"]["charge"] = _plain(charge)
        keywords["charges"] = np.full(n_atoms, charge / n_atoms)
    if spin is not None:
        keywords["info"]["spin"] = _plain(spin)
        keywords["magmoms"] = np.full(n_atoms, (spin - 1) / n_atoms)
    return keywords


def _plain(value: float) -> int | float:
    return int(value) if float(value).is_integer() else float(value)


def _contradiction(
    structures: Sequence[Structure], quantity: str, uses: Collection[str]
) -> tuple[Structure, Structure] | None:
    """Two frames of one composition that agree in what is used and differ in the quantity."""
    first: dict[tuple[Any, ...], Structure] = {}
    for structure in structures:
        if getattr(structure, quantity) is None:
            continue
        alike = (np.sort(structure.atomic_numbers).tobytes(), *(getattr(structure, name) for name in sorted(uses)))
        earlier = first.setdefault(alike, structure)
        if getattr(earlier, quantity) != getattr(structure, quantity):
            return earlier, structure
    return None


def _refused(pairs: Mapping[str, tuple[Structure, Structure]]) -> str:
    one, other = next(iter(pairs.values()))
    numbers, counts = np.unique(one.atomic_numbers, return_counts=True)
    formula = "".join(f"{SYMBOLS[int(z)]}{n if n > 1 else ''}" for z, n in zip(numbers, counts, strict=True))
    differ = [q for q in pairs if None not in (getattr(one, q), getattr(other, q))]
    values = " and ".join(f"a {q} of {getattr(one, q):g} and {getattr(other, q):g}" for q in differ)
    unused, left = " and ".join(pairs), keys_option(dict.fromkeys(pairs))
    other_way = (
        "take one that does, such as PhysNet with charge_conservation: total, " if set(pairs) == {"charge"} else ""
    )
    return (
        f"{one.where} and {other.where} are {formula} with {values}: a potential that does not use {unused} cannot fit "
        f"both; train on frames of one {unused}, {other_way}or ignore the difference with {left}"
    )


def _warned(structures: Sequence[Structure], quantity: str, used: bool) -> list[str]:
    values = counted(structures, quantity)
    missing = len(structures) - sum(values.values())
    if used:
        default = f"{missing} of {len(structures)} frames have no {quantity}: the potential takes its own default there"
        return [default] if values and missing else []
    unusual = values.keys() - {0.0 if quantity == "charge" else 1.0}
    if len(values) < 2 and not (missing and unusual):
        return []
    without = f", and {missing} without" if missing else ""
    shares = _listed([f"{value:g} in {count}" for value, count in values.items()])
    return [
        f"the {quantity} differs between frames ({shares} frames{without}) and the potential does not use it: by their "
        "composition alone it tells them apart"
    ]


def _listed(values: Sequence[float | str]) -> str:
    shown = ", ".join(value if isinstance(value, str) else f"{value:g}" for value in values[:_SHOWN])
    return shown if len(values) <= _SHOWN else f"{shown} and {len(values) - _SHOWN} more"
