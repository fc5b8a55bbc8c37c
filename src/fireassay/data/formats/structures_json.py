"""JSON: ASE's database, pymatgen's structures with labels (MPtrj, MatPES, mlearn), and tables by column.

pymatgen is not needed: a structure is a lattice and sites. Nothing that the file names is imported or constructed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fireassay.data.formats.asedb import is_json_database, read_json_database
from fireassay.data.formats.compressed import open_text
from fireassay.data.formats.npz import CELLS, LABELS, NUMBERS, POSITIONS
from fireassay.data.frame import ATOMIC_NUMBERS, Content, Frame, shape_of
from fireassay.errors import InputError

_NUMBERS = (*NUMBERS, "species_list")
_DEPTH: Final = 8
GROUP: Final = "json_path"
_PYMATGEN_NAMES: Final = {
    "energy": ("uncorrected_total_energy", "energy"),
    "forces": ("forces", "force"),
    "stress": ("stress", "virial_stress"),  # the latter of mlearn: kbar in the order of LAMMPS
    "group": (GROUP,),
}


def read_json(path: Path) -> Content:
    """All frames of a JSON file (one document, or one a line), compressed or not.

    Read are ASE's JSON databases; pymatgen's Structure and Molecule, alone or beside labels, at any depth of lists and
    mappings; mappings that have positions and atomic numbers, one a frame; and tables by column, such as
    {"coords": {"0": [...], ...}, "energy": {...}}. For pymatgen's structures stress is taken to be VASP's: kbar,
    positive in compression, six components in the order xx yy zz xy yz zx.

    Raises InputError when it is no JSON or has none of these.
    """
    content = _parsed(path)
    if is_json_database(content):
        return read_json_database(path, content)
    table = _columns(content)
    if table is not None:
        frames = [_plain(str(path), k, row) for k, row in enumerate(table)]
        return Content(str(path), "JSON table", frames, LABELS)
    records = list(_records(content, ()))
    if not records:
        found = f"a mapping of {list(content)[:8]}" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise InputError(
            f"{path}: {found}, needs structures of pymatgen, an ASE database, or positions and atomic numbers"
        )
    pymatgen = any(structure is not None for _, structure, _ in records)
    frames = [_record(str(path), k, *record) for k, record in enumerate(records)]
    if not pymatgen:
        return Content(str(path), "JSON", frames, {**LABELS, "group": ("config_type", "group", "walker")})
    names = dict(_PYMATGEN_NAMES)
    of_mlearn = any("virial_stress" in frame.values for frame in frames)
    order = "xx yy zz xy xz yz" if of_mlearn else "xx yy zz xy yz zx"
    notes = [f"stress is taken as VASP's: kbar, positive in compression, {order}"]
    of_mptrj = any("uncorrected_total_energy" in frame.values for frame in frames)
    if of_mptrj:
        names["energy"] = ("uncorrected_total_energy",)
        notes.append("energy is uncorrected_total_energy, which the forces belong to")
    has_stress = any(key in frame.values for frame in frames for key in names["stress"])
    return Content(
        str(path),
        "pymatgen JSON",
        frames,
        names,
        assumed={"stress": "-kbar", "stress_order": "LAMMPS" if of_mlearn else "VASP"} if has_stress else {},
        notes=tuple(notes if has_stress else notes[1:]),
        settled=of_mptrj,
    )


def _parsed(path: Path) -> Any:
    with open_text(path) as file:
        text = file.read()
    try:
        return json.loads(text)
    except RecursionError as error:
        raise InputError(f"{path}: JSON nested too deeply") from error
    except ValueError as error:
        lines = [line for line in text.splitlines() if line.strip()]
        try:
            if len(lines) > 1:
                return [json.loads(line) for line in lines]
        except (ValueError, RecursionError):
            pass
        raise InputError(f"{path}: is no JSON ({error}); it may be cut short") from error


def _columns(content: Any) -> list[dict[str, Any]] | None:
    """The rows of a table by column, as pandas writes it; None when it is none."""
    if not (isinstance(content, dict) and any(name in content for name in POSITIONS)):
        return None
    if not any(name in content for name in NUMBERS):
        return None
    columns = {name: value for name, value in content.items() if isinstance(value, (dict, list)) and value}
    first = columns.get(next(name for name in POSITIONS if name in content))
    if isinstance(first, dict):
        keys = list(first)
        return [{name: v[key] for name, v in columns.items() if isinstance(v, dict) and key in v} for key in keys]
    if isinstance(first, list) and len(shape_of(_array(first[0]))) == 2:
        n = len(first)
        split = {name: value for name, value in columns.items() if isinstance(value, list) and len(value) == n}
        rest = {name: value for name, value in content.items() if name not in split}
        return [{**rest, **{name: value[k] for name, value in split.items()}} for k in range(n)]
    return None


_Record = tuple[tuple[str, ...], Mapping[str, Any] | None, Mapping[str, Any]]


def _records(value: Any, path: tuple[str, ...]) -> Iterator[_Record]:
    """Place, pymatgen structure and values beside it; the structure is None where positions are among the values."""
    if len(path) > _DEPTH:
        return
    if isinstance(value, list):
        for k, item in enumerate(value):
            yield from _records(item, (*path, str(k)))
    elif isinstance(value, dict):
        if _is_structure(value):
            yield path, value, {}
            return
        inside = [key for key, item in value.items() if _is_structure(item)]
        if len(inside) == 1:
            yield path, value[inside[0]], _flat({key: item for key, item in value.items() if key != inside[0]})
        elif any(name in value for name in POSITIONS) and any(name in value for name in _NUMBERS):
            yield path, None, value
        else:
            for key, item in value.items():
                yield from _records(item, (*path, str(key)))


def _is_structure(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("sites"), list) and bool(value["sites"])


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings among the values, such as `outputs`, laid beside them."""
    flat = {key: value for key, value in values.items() if not isinstance(value, dict)}
    for outer, inner in values.items():
        if isinstance(inner, dict) and inner.get("@module") == "numpy":
            flat[outer] = inner
        elif isinstance(inner, dict):
            flat |= {key if key not in flat else f"{outer}.{key}": value for key, value in inner.items()}
    return flat


def _record(file: str, number: int, path: tuple[str, ...], structure: Any, values: Mapping[str, Any]) -> Frame:
    if structure is None:
        return _plain(file, number, values)
    where = f"{file} frame {number}"
    try:
        frame = _structure(file, number, structure)
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise InputError(f"{where}: the structure is damaged ({type(error).__name__} {error})") from error
    own = {key: _array(value) for key, value in values.items() if not key.startswith("@") and value is not None}
    named = [part for part in path if not part.isdigit()]
    return Frame(
        file,
        number,
        frame.atomic_numbers,
        frame.positions,
        frame.cell,
        frame.pbc,
        {**frame.values, **own, **({GROUP: named[0]} if named else {})},
    )


def _structure(file: str, number: int, structure: Mapping[str, Any]) -> Frame:
    lattice = structure.get("lattice")
    cell = np.zeros((3, 3)) if lattice is None else np.array(lattice["matrix"], dtype=np.float64).reshape(3, 3)
    pbc = np.asarray((lattice or {}).get("pbc", [lattice is not None] * 3), dtype=bool).reshape(3)
    numbers, positions, values = [], [], {}
    for site in structure["sites"]:
        species = site["species"]
        if len(species) != 1 or abs(float(species[0].get("occu", 1)) - 1) > 1e-6:
            raise InputError(f"{file} frame {number}: has a site of several elements; needs an ordered structure")
        element = str(species[0]["element"]).rstrip("+-0123456789")
        if element not in ATOMIC_NUMBERS:
            raise InputError(f"{file} frame {number}: {element!r} is no chemical element")
        numbers.append(ATOMIC_NUMBERS[element])
        positions.append(site["xyz"] if "xyz" in site else np.array(site["abc"], dtype=np.float64) @ cell)
    for key in structure["sites"][0].get("properties") or {}:
        found = [(site.get("properties") or {}).get(key) for site in structure["sites"]]
        if None not in found:
            values[key] = _array(found)
    charge = structure.get("charge")
    if charge:
        values["charge"] = float(charge)
    return Frame(
        file, number, np.array(numbers, dtype=np.int64), np.array(positions, dtype=np.float64).reshape(-1, 3), cell,
        pbc, values,
    )  # fmt: skip


def _plain(file: str, number: int, values: Mapping[str, Any]) -> Frame:
    """A frame of a mapping that has positions and atomic numbers."""
    where = f"{file} frame {number}"
    rest = dict(values)
    try:
        positions = np.asarray(_take(rest, POSITIONS), dtype=np.float64)
        numbers = _atomic_numbers(_take(rest, _NUMBERS))
        cell = next(
            (np.asarray(rest.pop(name), dtype=np.float64) for name in CELLS if rest.get(name)), np.zeros((3, 3))
        )
        cell = np.diag(cell) if cell.shape == (3,) else cell.reshape(3, 3)
        pbc = rest.pop("pbc", None)
        periodic = np.broadcast_to(np.asarray(cell.any() if pbc is None else pbc, dtype=bool), (3,)).copy()
        if positions.ndim != 2 or positions.shape[1] != 3 or len(positions) != len(numbers):
            raise InputError(
                f"{where}: positions have shape {positions.shape} for {len(numbers)} atoms, need (atoms, 3)"
            )
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise InputError(f"{where}: positions, atomic numbers or cell are damaged ({error})") from error
    known = {key: _array(value) for key, value in rest.items() if value is not None}
    return Frame(file, number, numbers, positions, cell, periodic, known)


def _take(values: dict[str, Any], names: tuple[str, ...]) -> Any:
    name = next((name for name in names if name in values), None)
    if name is None:
        raise KeyError(f"none of {list(names)}")
    return values.pop(name)


def _atomic_numbers(values: Any) -> NDArray[np.int64]:
    if isinstance(values, list) and values and isinstance(values[0], str):
        unknown = [symbol for symbol in values if symbol not in ATOMIC_NUMBERS]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is no chemical element")
        return np.array([ATOMIC_NUMBERS[symbol] for symbol in values], dtype=np.int64)
    return np.array(values, dtype=np.int64).reshape(-1)


def _array(value: Any) -> Any:
    """A list of numbers, or numpy's array as monty writes it, as an array; anything else as it is."""
    if isinstance(value, dict) and value.get("@module") == "numpy" and "data" in value:
        value = value["data"]
    if not isinstance(value, list) or not value:
        return value
    try:
        array = np.array([[np.nan if x is None else x for x in value]][0] if None in value else value)
    except (ValueError, OverflowError):
        return value
    return array if array.dtype.kind in "fiub" else value
