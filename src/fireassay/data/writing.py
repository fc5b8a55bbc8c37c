"""Structures to files, with every label to the last digit: extended XYZ, ASE database, npz, DeePMD folder.

What is written is what `fireassay.data.readers.read` gives back: geometry, energy, forces, stress, charge, spin,
temperature and group, in eV and Å. A label that a frame lacks stays missing.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fireassay.data.formats.extxyz_comment import parse_comment
from fireassay.data.frame import SYMBOLS
from fireassay.data.structure import Structure
from fireassay.errors import InputError

_PACKERS: Final[dict[str, Callable[..., Any]]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
_PER_FRAME: Final = ("charge", "spin")


def write(structures: Sequence[Structure], path: Path) -> list[str]:
    """Writes a file or folder in the format that its name says; returns what the user should know of it.

    `.xyz` and `.extxyz` (also .gz, .xz, .bz2) are extended XYZ, `.db` is an ASE database, `.npz` numpy's, a name
    without a suffix a folder of DeePMD systems.

    Raises InputError for another suffix, a path that exists, and what the format cannot hold.
    """
    if path.exists():
        raise InputError(f"{path} exists; name another target")
    if not structures:
        raise InputError(f"{path}: there is no frame to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    return writer_of(path)(structures, path)


def writer_of(path: Path) -> Callable[[Sequence[Structure], Path], list[str]]:
    """The writer for a name. Raises InputError when its suffix names no format that is written."""
    suffixes = [suffix for suffix in path.suffixes if suffix not in _PACKERS]
    writers = {".xyz": _write_extxyz, ".extxyz": _write_extxyz, ".db": _write_asedb, ".npz": _write_npz}
    if suffixes and suffixes[-1] in writers:
        return writers[suffixes[-1]]
    if not path.suffix:
        return _write_deepmd
    raise InputError(
        f"{path}: the suffix {path.suffix!r} names no format that is written; known are .xyz, .extxyz (also .gz, .xz, "
        ".bz2), .db, .npz, and a name without a suffix for a DeePMD folder"
    )


def _write_extxyz(structures: Sequence[Structure], path: Path) -> list[str]:
    opener = _PACKERS.get(path.suffix, open)
    with ExitStack() as stack:
        file = stack.enter_context(opener(path, "wt", encoding="utf-8"))
        for structure in structures:
            file.write(extxyz_text(structure))
    return []


def extxyz_text(s: Structure) -> str:
    """One frame in extended XYZ, numbers to the last digit."""
    columns = "species:S:1:pos:R:3" + (":forces:R:3" if s.forces is not None else "")
    words = [f"Properties={columns}"]
    if s.cell.any():
        words.insert(0, f'Lattice="{_numbers(s.cell)}"')
    words.append(f'pbc="{" ".join("T" if flag else "F" for flag in s.pbc)}"')
    values = {"energy": s.energy, "charge": s.charge, "spin": s.spin, "temperature": s.provenance.temperature}
    words += [f"{name}={value!r}" for name, value in values.items() if value is not None]
    if s.stress is not None:
        words.append(f'stress="{_numbers(s.stress)}"')
    if s.provenance.group is not None:
        words.append(f"config_type={_quoted(s.provenance.group)}")
    rows = s.positions if s.forces is None else np.concatenate([s.positions, s.forces], axis=1)
    symbols = [SYMBOLS[z] for z in s.atomic_numbers.tolist()]
    lines = [f"{symbol} {' '.join(map(repr, row))}" for symbol, row in zip(symbols, rows.tolist(), strict=True)]
    return "\n".join([str(len(s)), " ".join(words), *lines]) + "\n"


def _numbers(array: NDArray) -> str:
    return " ".join(map(repr, array.ravel().tolist()))


def _quoted(text: str) -> str:
    """A text so that it is read as this text and not as a number, a list or a truth value."""
    plain = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    read = None if "\n" in text else parse_comment(f"a={plain}", "").get("a")
    if isinstance(read, str) and read == text:
        return plain
    return '"_JSON ' + json.dumps(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _write_asedb(structures: Sequence[Structure], path: Path) -> list[str]:
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.db import connect

    connection: Any = connect(path, use_lock_file=False)
    with connection as database:
        for s in structures:
            atoms = Atoms(s.atomic_numbers, s.positions, cell=s.cell, pbc=s.pbc)
            results: dict[str, Any] = {"energy": s.energy, "forces": s.forces}
            if s.stress is not None:
                results["stress"] = s.stress.ravel()[[0, 4, 8, 5, 2, 1]]
            known = {name: value for name, value in results.items() if value is not None}
            if known:
                atoms.calc = SinglePointCalculator(atoms, **known)
            source = s.provenance
            data = {"charge": s.charge, "spin": s.spin, "temperature": source.temperature, "group": source.group}
            database.write(atoms, data={name: value for name, value in data.items() if value is not None})
    return []


def _write_npz(structures: Sequence[Structure], path: Path) -> list[str]:
    sizes = np.array([len(s) for s in structures])
    equal = len(set(sizes.tolist())) == 1
    shape = (len(structures), int(sizes[0])) if equal else (int(sizes.sum()),)
    arrays: dict[str, NDArray] = {
        "z": np.concatenate([s.atomic_numbers for s in structures]).reshape(shape),
        "R": np.concatenate([s.positions for s in structures]).reshape(*shape, 3),
    }
    if not equal:
        arrays["N"] = sizes
    if any(s.cell.any() or s.pbc.any() for s in structures):
        arrays["cell"] = np.stack([s.cell for s in structures])
        arrays["pbc"] = np.stack([s.pbc for s in structures])
    if any(s.energy is not None for s in structures):
        arrays["E"] = _column([s.energy for s in structures])
    if any(s.forces is not None for s in structures):
        forces = [s.forces if s.forces is not None else np.full((len(s), 3), np.nan) for s in structures]
        arrays["F"] = np.concatenate(forces).reshape(*shape, 3)
    if any(s.stress is not None for s in structures):
        arrays["stress"] = np.stack([np.full((3, 3), np.nan) if s.stress is None else s.stress for s in structures])
    arrays |= _extras(structures)
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    return []


def _column(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _extras(structures: Sequence[Structure], spin: str = "spin") -> dict[str, NDArray]:
    """Charge, spin, temperature and group of every frame, each only where some frame has it."""
    columns = {
        "charge": [s.charge for s in structures],
        spin: [s.spin for s in structures],
        "temperature": [s.provenance.temperature for s in structures],
    }
    arrays = {name: _column(values) for name, values in columns.items() if any(v is not None for v in values)}
    groups = [s.provenance.group for s in structures]
    if any(group is not None for group in groups):
        arrays["config_type"] = np.array([group or "" for group in groups])
    return arrays


def _write_deepmd(structures: Sequence[Structure], path: Path) -> list[str]:
    groups: dict[tuple[Any, ...], list[Structure]] = {}
    for s in structures:
        if s.pbc.any() and not s.pbc.all():
            raise InputError(f"{s.where}: is periodic in some directions only, which DeePMD cannot hold; write .xyz")
        labels = (s.energy is None, s.forces is None, s.stress is None)
        groups.setdefault((s.atomic_numbers.tobytes(), bool(s.pbc.all()), labels), []).append(s)
    elements = sorted({int(z) for s in structures for z in s.atomic_numbers})
    digits = len(str(len(groups) - 1))
    for number, members in enumerate(groups.values()):
        _write_system(members, elements, path / f"system.{number:0{digits}d}" if len(groups) > 1 else path)
    if len(groups) == 1:
        return []
    return [f"{len(groups)} systems of equal atoms and labels: the frames are in their order within a system only"]


def _write_system(structures: Sequence[Structure], elements: Sequence[int], folder: Path) -> None:
    first = structures[0]
    n, periodic = len(structures), bool(first.pbc.all())
    part = folder / "set.000"
    part.mkdir(parents=True)
    types = [elements.index(int(z)) for z in first.atomic_numbers]
    (folder / "type.raw").write_text("".join(f"{kind}\n" for kind in types), encoding="utf-8")
    (folder / "type_map.raw").write_text("".join(f"{SYMBOLS[z]}\n" for z in elements), encoding="utf-8")
    arrays: dict[str, NDArray] = {"coord": np.stack([s.positions for s in structures]).reshape(n, -1)}
    if periodic or any(s.cell.any() for s in structures):
        arrays["box"] = np.stack([s.cell for s in structures]).reshape(n, 9)
    if not periodic:
        (folder / "nopbc").touch()
    if first.energy is not None:
        arrays["energy"] = np.array([s.energy for s in structures], dtype=np.float64)
    if first.forces is not None:
        arrays["force"] = np.stack([s.forces for s in structures if s.forces is not None]).reshape(n, -1)
    if first.stress is not None:
        virials = [-abs(np.linalg.det(s.cell)) * s.stress for s in structures if s.stress is not None]
        arrays["virial"] = np.stack(virials).reshape(n, 9)
    # Without a group of their own the frames would be read with the folder's name for one.
    arrays["config_type"] = np.array(["" for _ in structures])
    for name, array in (arrays | _extras(structures, spin="multiplicity")).items():
        np.save(part / f"{name}.npy", array)
