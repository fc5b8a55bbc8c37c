"""DeePMD's systems: folders of npy sets or raw text, or groups of an HDF5 file; a folder of systems is read as a whole.

A system has its atoms' types in type.raw and the elements of the types in type_map.raw. In the mixed format every frame
has types of its own, real_atom_types, of which negative ones are padding.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fireassay.data.frame import ATOMIC_NUMBERS, Content, Frame
from fireassay.errors import InputError

LABELS: Final = {
    "forces": ("force",),
    "group": ("config_type", "system"),
    "spin": ("multiplicity",),  # `spin` is a vector of every atom
}
_PER_ATOM: Final = {"coord": 3, "force": 3, "atom_pref": 1, "atom_ener": 1, "spin": 3, "force_mag": 3}
_TYPES: Final = "real_atom_types"


class _System(NamedTuple):
    """A system as it is stored: the name in messages, where it stands, types, elements of the types, sets."""

    where: str
    name: str
    types: NDArray[np.int64]
    elements: Sequence[str] | None
    periodic: bool
    sets: list[tuple[str, dict[str, NDArray]]]


def is_deepmd(path: Path) -> bool:
    """Whether the folder holds at least one DeePMD system."""
    return path.is_dir() and next(path.rglob("type.raw"), None) is not None


def read_deepmd(path: Path, elements: Sequence[str] | None = None) -> Content:
    """All frames of all systems below `path`, systems by name, sets by number.

    `elements` are those of the types 0, 1, ..., where type_map.raw is missing or has other names.

    Keys are the names of the npy or raw files: energy, force, virial, ...; `system` is the system's folder relative to
    `path`. A file `nopbc` in a system's folder makes it a molecule. The virial is -dE/dε (see `fireassay.units`).

    Raises InputError for missing type_map.raw, missing or ill-shaped arrays, and pickles.
    """
    frames: list[Frame] = []
    for raw in sorted(path.rglob("type.raw"), key=lambda raw: natural(str(raw))):
        system = raw.parent
        name = str(system.relative_to(path)) if system != path else path.name
        frames.extend(_frames(_folder(system, name, elements), str(path), len(frames)))
    if not frames:
        raise InputError(f"{path}: the folder has no DeePMD frames (type.raw, set.*/coord.npy)")
    return Content(str(path), "DeePMD", frames, LABELS)


def is_deepmd_group(group: Any) -> bool:
    """Whether a group of an HDF5 file is a DeePMD system."""
    return "type.raw" in group and any(name.startswith("set.") for name in group)


def read_deepmd_groups(groups: Mapping[str, Any], file: str, elements: Sequence[str] | None = None) -> Content:
    """The systems of an HDF5 file, name -> group, laid out as in folders."""
    frames: list[Frame] = []
    for name in sorted(groups, key=natural):
        frames.extend(_frames(_group(groups[name], name, file, elements), file, len(frames)))
    return Content(file, "DeePMD HDF5", frames, LABELS)


def natural(text: str) -> list[Any]:
    """A sort key that puts set.10 after set.2."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]


def _folder(system: Path, name: str, elements: Sequence[str] | None) -> _System:
    try:
        types = [int(word) for word in (system / "type.raw").read_text(encoding="utf-8").split()]
        if elements is None and (system / "type_map.raw").exists():
            elements = (system / "type_map.raw").read_text(encoding="utf-8").split()
    except UnicodeDecodeError as error:
        raise InputError(f"{system}: type.raw or type_map.raw is no text ({error})") from error
    except ValueError as error:
        raise InputError(f"{system}: type.raw or type_map.raw is no list of types ({error})") from error
    if elements is None:
        raise _unmapped(str(system))
    folders = sorted((p for p in system.glob("set.*") if p.is_dir()), key=lambda folder: natural(folder.name))
    sets = [(str(folder), {p.stem: _loaded(p) for p in sorted(folder.glob("*.npy"))}) for folder in folders]
    if not sets:
        raw = {p.stem: _text(p) for p in sorted(system.glob("*.raw")) if p.stem not in ("type", "type_map")}
        if "coord" not in raw:
            raise InputError(f"{system}: has type.raw but no set.* folder with coord.npy, and no coord.raw")
        sets = [(str(system), raw)]
    periodic = not (system / "nopbc").exists()
    return _System(str(system), name, np.array(types, dtype=np.int64), elements, periodic, sets)


def _group(group: Any, name: str, file: str, elements: Sequence[str] | None) -> _System:
    where = f"{file} {name}"

    def words(value: Any) -> list[Any]:
        return [w.decode() if isinstance(w, bytes) else w for w in np.asarray(value[()]).reshape(-1).tolist()]

    types = np.asarray(group["type.raw"][()]).reshape(-1).astype(np.int64)
    if elements is None and "type_map.raw" in group:
        elements = [str(word) for word in words(group["type_map.raw"])]
    sets = []
    for part in sorted((key for key in group if key.startswith("set.")), key=natural):
        arrays = {key.removesuffix(".npy"): np.asarray(value[()]) for key, value in group[part].items()}
        sets.append((f"{where}/{part}", arrays))
    return _System(where, name, types, elements, "nopbc" not in group, sets)


def _frames(system: _System, file: str, first: int) -> Iterator[Frame]:
    where = system.where
    if system.elements is None:
        raise _unmapped(where)
    unknown = [name for name in system.elements if name not in ATOMIC_NUMBERS]
    types = system.types
    mixed = any(_TYPES in arrays for _, arrays in system.sets)
    outside = not mixed and len(types) and int(types.max()) >= len(system.elements)
    if unknown or not len(types) or int(types.min()) < 0 or outside:
        way = "" if not unknown else f'; name them in order, as in "data.elements=[{_guessed(system.elements)}]"'
        if "X" in way:
            way = "; leave out systems with sites that are no atoms"
        raise InputError(
            f"{where}: type_map.raw has {list(system.elements)} for types {sorted(set(types.tolist()))}; needs one "
            f"element symbol per type{way}"
        )
    known = np.array([ATOMIC_NUMBERS[name] for name in system.elements], dtype=np.int64)
    for name, arrays in system.sets:
        for frame in _set(name, arrays, types, known, system, file, first):
            yield frame
            first = frame.number + 1


def _guessed(names: Sequence[str]) -> str:
    """Elements that names such as HW, Fe1 or OW may stand for."""
    return ", ".join(next((n for n in (name[:2], name[:1]) if n in ATOMIC_NUMBERS), "X") for name in names)


def _unmapped(where: str) -> InputError:
    return InputError(
        f"{where}: type_map.raw is missing; write one element symbol per type into it, or name them, as in "
        '"data.elements=[O, H]"'
    )


def _set(
    where: str,
    arrays: dict[str, NDArray],
    types: NDArray[np.int64],
    known: NDArray[np.int64],
    system: _System,
    file: str,
    first: int,
) -> Iterator[Frame]:
    if "coord" not in arrays or (system.periodic and "box" not in arrays):
        raise InputError(f"{where}: has {sorted(arrays)}, needs coord.npy and box.npy (or a file nopbc in the system)")
    n_frames, n = len(np.atleast_1d(arrays["coord"])), len(types)
    for name in _PER_ATOM.keys() & arrays.keys():
        if arrays[name].dtype.kind not in "fiu" or arrays[name].size != n_frames * n * _PER_ATOM[name]:
            needed = f"({n_frames}, {_PER_ATOM[name] * n})"
            raise InputError(f"{where}/{name}.npy: shape {arrays[name].shape}, needs {needed} numbers")
        arrays[name] = arrays[name].reshape((n_frames, n, 3) if _PER_ATOM[name] == 3 else (n_frames, n))
    box = arrays.pop("box", np.zeros((n_frames, 9)))
    if box.dtype.kind not in "fiu" or box.size != n_frames * 9:
        raise InputError(f"{where}/box.npy: shape {box.shape}, needs ({n_frames}, 9) numbers")
    short = {name: len(np.atleast_1d(a)) for name, a in arrays.items() if a.ndim == 0 or len(a) != n_frames}
    if short:
        raise InputError(f"{where}: coord.npy has {n_frames} frames but {short}; a file is cut short")
    kinds = _kinds(where, arrays.pop(_TYPES, None), types, n_frames, len(known))
    positions = arrays.pop("coord").astype(np.float64)
    box = box.reshape(n_frames, 3, 3).astype(np.float64)
    pbc = np.full(3, system.periodic)
    for k in range(n_frames):
        real = kinds[k] >= 0
        values: dict[str, Any] = {
            name: array[k][real] if name in _PER_ATOM else array[k] for name, array in arrays.items()
        }
        values["system"] = system.name
        yield Frame(file, first + k, known[kinds[k][real]], positions[k][real], box[k], pbc, values)


def _kinds(
    where: str, real: NDArray | None, types: NDArray[np.int64], n_frames: int, n_known: int
) -> NDArray[np.int64]:
    """The type of every atom of every frame (F, N), negative for padding."""
    if real is None:
        if int(types.max()) >= n_known:
            raise InputError(f"{where}: type.raw has the type {int(types.max())}, type_map.raw names {n_known}")
        return np.broadcast_to(types, (n_frames, len(types)))
    if real.dtype.kind not in "iuf" or real.size != n_frames * len(types):
        raise InputError(f"{where}/{_TYPES}.npy: shape {real.shape}, needs ({n_frames}, {len(types)}) whole numbers")
    kinds = real.reshape(n_frames, len(types)).astype(np.int64)
    if int(kinds.max(initial=-1)) >= n_known or not (kinds >= 0).any(axis=1).all():
        raise InputError(
            f"{where}/{_TYPES}.npy: has types up to {int(kinds.max(initial=-1))} and needs at least one atom a frame; "
            f"type_map.raw names {n_known}"
        )
    return kinds


def _loaded(path: Path) -> NDArray:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        reason = (
            "is a pickle, which is never loaded" if "pickle" in str(error) else f"is damaged or cut short ({error})"
        )
        raise InputError(f"{path}: {reason}; get it again") from error


def _text(path: Path) -> NDArray:
    """The numbers of a raw file: a row for each frame."""
    try:
        array = np.loadtxt(path, ndmin=2, encoding="utf-8")
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is no table of numbers ({error}); get it again") from error
    return array[:, 0] if array.shape[1] == 1 else array
