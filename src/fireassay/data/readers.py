"""Files to structures: one `read` for every format, with labels by explicit keys and units on request."""

from __future__ import annotations

import tarfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from scipy.spatial import KDTree

from fireassay.data.advice import units_option
from fireassay.data.asedb import read_asedb
from fireassay.data.conversion import Units, structure_of
from fireassay.data.deepmd import is_deepmd, read_deepmd
from fireassay.data.embedded import find as find_embedded
from fireassay.data.extxyz import read_extxyz
from fireassay.data.frame import Frame
from fireassay.data.keys import require_labels, resolve, unread_labels
from fireassay.data.neighbours import completed_cell
from fireassay.data.npz import read_npz
from fireassay.data.structure import Structure
from fireassay.data.unit_check import foreign_unit
from fireassay.errors import InputError

CLOSEST: Final = 0.1  # Å; two atoms nearer than this are one atom written twice
_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".lmdb", ".mdb", ".joblib")
_READERS: Final[dict[str, Callable[[Path], list[Frame]]]] = {
    "extended XYZ": read_extxyz,
    "ASE database": read_asedb,
    "npz": read_npz,
    "DeePMD": read_deepmd,
}

Index = int | str | slice | Sequence[int] | None


def read(
    path: str | Path,
    keys: Mapping[str, str | None] | None = None,
    units: Mapping[str, str] | None = None,
    index: Index = None,
    labels: bool = True,
) -> list[Structure]:
    """The structures of a file, a DeePMD folder, or an embedded data set such as "3bpa-xtb/train_300K".

    `keys` maps labels (energy, forces, stress, virial, temperature, group, charge, spin) to the file's own names, None
    to leave a label out; labels not mapped are looked for under the standard names of the format. `units` names the
    file's units, such as {"energy": "kcal/mol", "length": "Angstrom"}; where it names neither, eV and Å are assumed and
    checked for plausibility. `index` is a number, a slice such as ":100" or "::10", or a list of numbers. Frames read
    for training need energies or forces; `labels=False` takes a file without them as well. Forces are those of the
    file: constraints are not applied.

    Raises InputError, in one line, for everything that cannot be read as meant; nothing in a file is executed.
    """
    frames, file_format = load(path)
    where = str(path)
    mapped = resolve(frames, file_format, keys, where)
    if labels:
        require_labels(frames, mapped, where)
        _refuse_unread(unread_labels(frames, mapped, keys, where))
    factors = Units.of(units)
    structures = [structure_of(frame, mapped, factors) for frame in _chosen(frames, index, where)]
    for structure in structures:
        check_distances(structure)
    if labels and not {"energy", "forces", "length"} & set(units or ()):
        evidence = foreign_unit(structures)
        if evidence is not None:
            raise InputError(
                f"{where}: {evidence.sentence}; read it with {units_option(evidence.mapping)}, "
                f"or with {units_option({'energy': 'eV'})} if it is in eV after all"
            )
    return structures


def load(path: str | Path) -> tuple[list[Frame], str]:
    """The uninterpreted frames of a file or folder and the name of its format.

    Raises InputError when there is no such file, the format is unknown or unsafe, or the content is damaged.
    """
    place = find_embedded(str(path)) if not Path(path).exists() else Path(path)
    if place is None:
        raise InputError(f"{path}: no such file, folder or embedded data set")
    file_format = format_of(place)
    try:
        return _READERS[file_format](place), file_format
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # whatever the decoder of a damaged file comes upon
        text = " ".join(f"{type(error).__name__} {error}".split())
        raise InputError(f"{path}: cannot be read as {file_format} ({text}); it may be damaged") from error


def format_of(path: Path) -> str:
    """One of the formats that `read` knows, by content first and suffix second.

    Raises InputError for a folder without DeePMD systems, an empty file, and formats that are not read.
    """
    if path.is_dir():
        if is_deepmd(path):
            return "DeePMD"
        raise InputError(f"{path}: a folder without DeePMD systems (type.raw, set.*); name a file in it")
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not head:
        raise InputError(f"{path}: the file is empty")
    if head.startswith(b"SQLite format 3\x00"):
        return "ASE database"
    if head.startswith(b"PK\x03\x04") and path.suffix != ".pt":
        return "npz"
    if path.suffix in _PICKLES or head.startswith(b"\x80"):
        raise InputError(
            f"{path}: looks like pickled objects, which can run code and are never loaded; export it as XYZ"
        )
    if any(suffix in (".tar", ".tgz", ".txz") for suffix in path.suffixes) and tarfile.is_tarfile(path):
        raise InputError(f"{path}: a tar archive; unpack it and name the file or DeePMD folder in it")
    by_suffix = {".npz": "npz", ".npy": "npz", ".db": "ASE database"}
    if path.suffix in by_suffix:
        return by_suffix[path.suffix]
    compressed = path.suffix in (".gz", ".xz", ".bz2")
    if not compressed and not any("xyz" in suffix for suffix in path.suffixes) and not head.lstrip()[:1].isdigit():
        raise InputError(
            f"{path}: the format is not known; read are extended XYZ, ASE .db, npz and DeePMD folders: "
            f"try ase convert {path.name} {path.stem}.xyz"
        )
    return "extended XYZ"


def check_distances(structure: Structure) -> None:
    """Raises InputError when two atoms, or an atom and a periodic image, are closer than `CLOSEST` Å."""
    points, origin = _with_images(structure)
    pairs = KDTree(points).query_pairs(CLOSEST, output_type="ndarray")
    if len(pairs):
        first, second = pairs[0]
        distance = np.linalg.norm(points[first] - points[second])
        raise InputError(
            f"{structure.where}: atoms {origin[first]} and {origin[second]} are {distance:.3f} Å apart, "
            f"nearer than {CLOSEST} Å; remove the frame or the atom, and check the unit of length"
        )


def _with_images(structure: Structure) -> tuple[np.ndarray, np.ndarray]:
    """Positions wrapped into the cell, with copies of the atoms near a periodic face beyond the opposite one."""
    points, origin = structure.positions, np.arange(len(structure))
    if not structure.pbc.any():
        return points, origin
    cell = completed_cell(structure.cell, structure.pbc)
    inverse = np.linalg.inv(cell)
    heights = 1 / np.linalg.norm(inverse, axis=0)
    fractional = points @ inverse
    fractional[:, structure.pbc] %= 1.0
    for axis in np.flatnonzero(structure.pbc):
        near = fractional[:, axis] * heights[axis] <= CLOSEST
        copies = fractional[near]
        copies[:, axis] += 1.0
        fractional, origin = np.concatenate([fractional, copies]), np.concatenate([origin, origin[near]])
    return fractional @ cell, origin


def _refuse_unread(unread: Mapping[str, str]) -> None:
    for label, line in unread.items():
        if label in ("energy", "forces"):
            raise InputError(line)
        warnings.warn(line, stacklevel=3)


def _chosen(frames: list[Frame], index: Index, where: str) -> list[Frame]:
    try:
        if index is None:
            return frames
        if isinstance(index, str):
            parts = [int(part) if part.strip() else None for part in index.split(":")]
            index = slice(*parts) if len(parts) > 1 else parts[0]
        if isinstance(index, slice):
            chosen = frames[index]
        elif isinstance(index, (int, np.integer)):
            chosen = [frames[index]]
        else:
            chosen = [frames[k] for k in index or []]
    except (ValueError, TypeError, IndexError) as error:
        raise InputError(f"{where}: index {index!r} does not choose from {len(frames)} frames ({error})") from error
    if not chosen:
        raise InputError(f"{where}: index {index!r} chooses none of {len(frames)} frames")
    return chosen
