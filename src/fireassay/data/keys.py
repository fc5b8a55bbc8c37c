"""Which of a file's keys is which label: standard names, the user's mapping, and names that look like a label."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from fireassay.data.advice import keys_option, units_option
from fireassay.data.electronic_state import ROUNDING, STATES, per_atom
from fireassay.data.frame import Content, Frame, is_number, is_numeric, key_shapes, shape_of
from fireassay.errors import InputError, nearest

LABELS: Final = ("energy", "forces", "stress", "virial", "temperature", "group", "charge", "spin")

STANDARD: Final[dict[str, tuple[str, ...]]] = {
    "energy": ("energy",),
    "forces": ("forces", "force"),
    "stress": ("stress",),
    "virial": ("virial", "virials"),
    "temperature": ("temperature",),
    "group": ("config_type", "group", "walker"),
    **STATES,
}  # label -> the keys under which it is looked for, in any case, unless the format has names of its own

_GRADIENT: Final = re.compile(r"grad", re.IGNORECASE)
_FORCE: Final = re.compile(r"forc|(^|_)(neg|minus)", re.IGNORECASE)

Keys = Mapping[str, str | Sequence[str] | None]

_OPTIONAL: Final = ("temperature", "group")
_NAMES = {
    "energy": re.compile(r"energy|energies|(^|_)(e|u0|etot)($|_)", re.IGNORECASE),
    "forces": re.compile(r"force|frc|grad|^columns_5|(^|_)f($|_)", re.IGNORECASE),
    "stress": re.compile(r"stress|pressure_tensor", re.IGNORECASE),
    "virial": re.compile(r"virial", re.IGNORECASE),
}
_STATE_NAMES = {
    "charge": re.compile(r"charge|(^|_)q(tot)?($|_)", re.IGNORECASE),
    "spin": re.compile(r"spin|multiplicity|(^|_)mult($|_)|unpaired|(^|_)uhf($|_)", re.IGNORECASE),
}
_NO_FORCE = re.compile(r"mag|pref|weight|std|var|uncert|err|constraint|const", re.IGNORECASE)
_NO_STATE = re.compile(r"nuclear|core|valence|tol|cut|density|transfer|gap|orbit|contam|polari", re.IGNORECASE)
_NO_ENERGY = re.compile(r"tol|cut|free|kinetic|per_atom|fermi|zero_point|zpe|gap", re.IGNORECASE)

Mapped = dict[str, tuple[str, ...]]  # the keys that hold a label, none when it is not read


def resolve(content: Content, keys: Keys | None, strict: bool = True) -> Mapped:
    """For each of `LABELS` the keys that hold it, none when it is not read.

    `keys` goes before the standard names of the format; a label mapped to None is left unread, one mapped to several
    keys is read from the first that a frame has. One mapping serves several files, so a temperature or group that a
    file lacks is not read there. Charge and spin are read under all of their standard names, which have to agree, but
    not where these hold a number per atom. With `strict=False` a mapped key may be lacking.

    Raises InputError for an unknown label, a mapped label key that the file lacks, and standard names that compete.
    """
    keys = dict(keys or {})
    frames, where = content.frames, content.file
    for label in keys:
        if label not in LABELS:
            raise InputError(f"keys: {label!r} is no label{nearest(label, LABELS)}; labels are {list(LABELS)}")
    found = key_shapes(list(frames))
    taken = {key for given in keys.values() for key in _listed(given)}
    mapped: Mapped = {}
    for label in LABELS:
        if label in keys:
            mapped[label] = _given(label, _listed(keys[label]), found, where, strict)
            continue
        present = [name for name in _standard(content, label, found) if name not in taken]
        if label in STATES:
            partial = {name for frame in frames for name in present if _of_atoms(frame.values.get(name), len(frame))}
            mapped[label] = tuple(name for name in present if name not in partial)
            continue
        if len(present) > 1 and label not in _OPTIONAL:
            together = any(sum(name in frame.values for name in present) > 1 for frame in frames)
            way = present[0] if together else present
            raise InputError(
                f"{where}: {label} could be any of {present}; say which, such as {keys_option({label: way})}"
            )
        mapped[label] = tuple(present[:1])
    if mapped["stress"] and "virial" not in keys:
        mapped["virial"] = ()
    return mapped


def _of_atoms(value: Any, n_atoms: int) -> bool:
    """Whether a charge or spin is one number, or a vector, for each atom."""
    return per_atom(value, n_atoms) or (is_numeric(value) and value.ndim == 2 and len(value) == n_atoms)


def _listed(keys: str | Sequence[str] | None) -> tuple[str, ...]:
    return () if keys is None else (keys,) if isinstance(keys, str) else tuple(keys)


def _given(label: str, keys: tuple[str, ...], found: Mapping[str, Any], where: str, strict: bool) -> tuple[str, ...]:
    present = tuple(key for key in keys if key in found)
    if strict and keys and not present and label not in _OPTIONAL:
        wanted = " or ".join(map(repr, keys))
        raise InputError(f"{where}: has no key {wanted} for {label}{nearest(keys[0], found)}; found {sorted(found)}")
    return present


def _standard(content: Content, label: str, found: Mapping[str, Any]) -> list[str]:
    """The standard names of a label that occur, as they are written; in another case only where none is exact."""
    names = content.names.get(label, STANDARD[label])
    exact = [name for name in names if name in found]
    if exact:
        return exact
    longer = {name.casefold() for name in names if len(name) > 1}
    return [key for key in found if key.casefold() in longer]


def lookalikes(frames: Sequence[Frame], mapped: Mapped) -> dict[str, list[str]]:
    """Label -> keys that are not read but by name and shape could be that label; labels without any are left out."""
    taken = {key for keys in mapped.values() for key in keys}
    candidates: dict[str, dict[str, None]] = {label: {} for label in _NAMES}
    seen: set[tuple[str, tuple[int, ...]]] = set()
    for frame in frames:
        for key, value in frame.values.items():
            signature = (key, shape_of(value))
            if key in taken or signature in seen:
                continue
            seen.add(signature)
            for label in _NAMES:
                if _could_be(label, key, value, len(frame)):
                    candidates[label][key] = None
    return {label: list(names) for label, names in candidates.items() if names}


def _could_be(label: str, key: str, value: Any, n_atoms: int) -> bool:
    if not _NAMES[label].search(key):
        return False
    if label == "energy":
        return is_number(value) and not _NO_ENERGY.search(key)
    if label == "forces":
        return not _NO_FORCE.search(key) and is_numeric(value) and value.shape == (n_atoms, 3)
    return is_numeric(value) and value.size in (6, 9) and value.shape[0] != n_atoms


def is_gradient(key: str) -> bool:
    """Whether a key is named like the gradient of the energy, which is the force with the sign turned."""
    return bool(_GRADIENT.search(key)) and not _FORCE.search(key)


def unread_labels(content: Content, mapped: Mapped, keys: Keys | None, force_unit: str = "eV/Å") -> dict[str, str]:
    """For each label that the file seems to hold under a key that is not read, a line with the mapping to write.

    Charge and spin are among them only where they would tell frames apart or a molecule from a neutral one. A gradient
    is to be read in `force_unit` with the sign turned.

    Labels that `keys` mentions are left out: the user has decided about them.
    """
    frames, where = content.frames, content.file
    lines: dict[str, str] = {}
    similar = lookalikes(frames, mapped)
    decided = set(keys or ())
    for label, names in similar.items():
        other = {"stress": "virial", "virial": "stress"}.get(label)
        if label in decided or mapped[label]:
            continue
        if other is not None and (other in decided or mapped[other]):
            continue
        plural = "looks" if len(names) == 1 else "look"
        first = next((name for name in names if not is_gradient(name)), names[0])
        how = keys_option({label: first})
        if label == "forces" and is_gradient(first):
            how += f" {units_option({'forces': f'-{force_unit}'})}, as a gradient has the opposite sign,"
        lines[label] = (
            f"{where}: no {label} read, but {', '.join(map(repr, names))} {plural} like it; "
            f"read it with {how} or leave it with {keys_option({label: None})}"
        )
    for quantity in STATES.keys() - decided:
        key = None if mapped[quantity] else _unread_state(frames, quantity)
        if key is not None:
            lines[quantity] = (
                f"{where}: no {quantity} read, but {key!r} looks like it; read it with {keys_option({quantity: key})}, "
                f"or leave it with {keys_option({quantity: None})}"
            )
    return lines


def _unread_state(frames: Sequence[Frame], quantity: str) -> str | None:
    """A key that by name and values could be the charge or the spin, and matters: not neutral, or not always the same.

    Values per atom are summed, for the charge only.
    """
    for key in key_shapes(list(frames)):
        if not _STATE_NAMES[quantity].search(key) or _NO_STATE.search(key):
            continue
        totals: set[float] = set()
        for frame in frames:
            value = frame.values.get(key)
            if value is None:
                continue
            summed = quantity == "charge" and per_atom(value, len(frame))
            if is_number(value) or (summed and not np.array_equal(value, frame.atomic_numbers)):
                totals.add(float(np.sum(value, dtype=np.float64)))
        whole = bool(totals) and all(abs(total - np.round(total)) <= ROUNDING for total in totals)
        if whole and len({0, *map(round, totals)} if quantity == "charge" else totals) > 1:
            return key
    return None


def require_labels(content: Content, mapped: Mapped) -> None:
    """Raises InputError when neither energies nor forces are recognised, with the keys found and what to write."""
    if mapped["energy"] or mapped["forces"]:
        return
    frames = content.frames
    found = ", ".join(f"{key}: {kind}" for key, (kind, _) in sorted(key_shapes(list(frames)).items())) or "none"
    similar = lookalikes(frames, mapped)
    guess = {label: similar[label][0] for label in ("energy", "forces") if label in similar}
    turned = ""
    if is_gradient(guess.get("forces", "")):
        turned = f" and {units_option({'forces': '-eV/Å'})}, as a gradient has the opposite sign"
    way = f"say which they are with {keys_option(guess)}{turned}" if guess else "a file with labels is needed to train"
    raise InputError(f"{content.file}: no energies and no forces recognised; keys found: {found}; {way}")
