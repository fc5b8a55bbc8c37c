"""Units that a file declares, in whatever words, as the mapping that `Units.of` takes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

_QUANTITIES: Final = {
    "energy": re.compile(r"energy|energies|e|u0|total_energy", re.IGNORECASE),
    "length": re.compile(r"length|distance|distances|positions?|coordinates?|coords|r|pos", re.IGNORECASE),
    "forces": re.compile(r"forces?|f|gradients?", re.IGNORECASE),
    "stress": re.compile(r"stress", re.IGNORECASE),
    "virial": re.compile(r"virials?", re.IGNORECASE),
}
_KEY: Final = re.compile(r"_?([a-z]\w*?)[_\-. ]?units?", re.IGNORECASE)
_ENERGY: Final = {
    "ev": "eV",
    "electronvolt": "eV",
    "mev": "meV",
    "hartree": "Hartree",
    "hartrees": "Hartree",
    "ha": "Hartree",
    "eh": "Hartree",
    "au": "Hartree",
    "ry": "Ry",
    "rydberg": "Ry",
    "kcal": "kcal/mol",
    "kcal/mol": "kcal/mol",
    "kj": "kJ/mol",
    "kj/mol": "kJ/mol",
}
_LENGTH: Final = {
    "å": "Å",
    "ang": "Å",
    "angstrom": "Å",
    "angstroms": "Å",
    "a": "Å",
    "bohr": "Bohr",
    "bohrs": "Bohr",
    "a0": "Bohr",
    "au": "Bohr",
    "nm": "nm",
    "nanometer": "nm",
    "nanometre": "nm",
}
_STRESS: Final = {
    "gpa": "GPa",
    "kbar": "kbar",
    "kb": "kbar",
    "bar": "bar",
    "ev/å^3": "eV/Å^3",
    "ev/ang^3": "eV/Å^3",
    "ev/angstrom^3": "eV/Å^3",
    "ev/a^3": "eV/Å^3",
    "au/bohr^3": "Hartree/Bohr^3",
    "hartree/bohr^3": "Hartree/Bohr^3",
    "ha/bohr^3": "Hartree/Bohr^3",
    "au": "Hartree/Bohr^3",
}


def declared_units(values: Mapping[str, Any]) -> dict[str, str]:
    """Units among a file's values or metadata, such as e_unit, energy_units or SchNetPack's _property_unit_dict.

    A unit that is in none of the usual words stays as it is, so that it is refused where it is used.
    """
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and re.search("unit", key, re.IGNORECASE):
            pairs = [(_named(str(what)), _text(text)) for what, text in value.items()]
        elif match := _KEY.fullmatch(key):
            pairs = [(_named(match[1]), _text(value))]
        else:
            continue
        found |= {name: unit_of(name, text) for name, text in pairs if name and text}
    return found


def _named(what: str) -> str | None:
    """The quantity of `Units.of` that a name stands for."""
    return next((name for name, pattern in _QUANTITIES.items() if pattern.fullmatch(what)), None)


def _text(value: Any) -> str | None:
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return str(value).strip() or None if isinstance(value, str) else None


def unit_of(quantity: str, text: str) -> str:
    """A unit as `Units.of` knows it from the words that files use for it, such as "kcal mol^-1 Ang^-1"."""
    word = re.sub(r"[\s*·]*\b([^\W\d]+)\s*(?:\*\*|\^)?\s*\(?-1\)?", r"/\1", text.strip())  # mol^-1, Ang-1
    word = re.sub(r"\s+per\s+", "/", word)
    word = re.sub(r"[\s*·]+", "/", word).replace("(", "").replace(")", "").replace(".", "").casefold()
    known = {"energy": _ENERGY, "length": _LENGTH, "virial": _ENERGY, "stress": _STRESS}.get(quantity)
    if known is not None:
        return known.get(word, text)
    above, _, below = word.rpartition("/")
    if above in _ENERGY and below in _LENGTH:
        return f"{_ENERGY[above]}/{_LENGTH[below]}"
    return "Hartree/Bohr" if word == "au" else text
