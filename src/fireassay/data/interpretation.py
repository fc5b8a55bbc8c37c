"""A file's content and how it is read: which key is which label, and in which units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fireassay.data.advice import units_option
from fireassay.data.conversion import Units
from fireassay.data.declared import declared_units
from fireassay.data.frame import Content, Frame
from fireassay.data.keys import Keys, Mapped, resolve
from fireassay.errors import InputError

_PLAIN = {"energy": "eV", "length": "Å", "forces": "eV/Å", "stress": "eV/Å^3", "virial": "eV"}
_RELATIVE = 1e-3  # by which a declared unit may differ from the one asked for: rounding of constants


@dataclass(frozen=True)
class Interpretation:
    """`keys` as the user gave them, `names` of the units that count (user's, declared, assumed), `units` as factors."""

    content: Content
    keys: Keys
    mapped: Mapped
    names: Mapping[str, str]
    units: Units

    @property
    def frames(self) -> list[Frame]:
        return self.content.frames


def interpret(
    content: Content, keys: Keys | None, units: Mapping[str, str] | None, strict: bool = True
) -> Interpretation:
    """How the content is read with the keys and units that the user gives.

    A piece of a file, `strict=False`, may lack keys that the user names.

    Units that the file declares are taken where the user names none; those that its format is known to have come last.

    Raises InputError for keys that the file does not have, unknown units, and units that contradict declared ones.
    """
    mapped = resolve(content, keys, strict)
    declared = {**_declared_in_frames(content), **content.units}
    given = dict(units or {})
    Units.of(given)
    _check_conflicts(content.file, declared, given)
    if set(given) & {"energy", "length"} and not set(declared):
        assumed = {name: unit for name, unit in content.assumed.items() if name not in ("energy", "length", "forces")}
    else:
        assumed = dict(content.assumed)
    names = {**assumed, **declared, **given}
    try:
        factors = Units.of(names)
    except InputError as error:
        wrong = next(name for name, unit in declared.items() if not _known(name, unit))
        raise InputError(
            f"{content.file}: declares {wrong} in {declared[wrong]!r}, which is no unit that is known; say which it "
            f"is, such as with {units_option({wrong: _PLAIN[wrong]})}"
        ) from error
    return Interpretation(content, dict(keys or {}), mapped, names, factors)


def _known(name: str, unit: str) -> bool:
    try:
        Units.of({name: unit})
    except InputError:
        return False
    return True


def _declared_in_frames(content: Content) -> dict[str, str]:
    """Units among the values of the frames, such as energy_unit=kcal/mol; those of the first frame that has any."""
    for frame in content.frames[:100]:
        found = declared_units(frame.values)
        if found:
            return found
    return {}


def _check_conflicts(file: str, declared: Mapping[str, str], given: Mapping[str, str]) -> None:
    for quantity in declared.keys() & given.keys():
        try:
            ours, theirs = (Units.of({quantity: names[quantity]}) for names in (given, declared))
        except InputError:  # what the file says is no unit: the user's counts
            continue
        a, b = (getattr(factors, quantity) for factors in (ours, theirs))
        if a != b and not (isinstance(a, float) and abs(a - b) <= _RELATIVE * abs(b)):
            raise InputError(
                f"{file}: declares {quantity} in {declared[quantity]}, but is to be read in {given[quantity]}; leave "
                "the unit to the file, or correct what it declares"
            )
