"""DeePMD's npy folders: a system is a folder with type.raw and set.*; a folder of systems is read as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fireassay.data.frame import ATOMIC_NUMBERS, Frame
from fireassay.errors import InputError

_SHAPES = {"coord": 3, "force": 3}


def is_deepmd(path: Path) -> bool:
    """Whether the folder holds at least one DeePMD system."""
    return path.is_dir() and next(path.rglob("type.raw"), None) is not None


def read_deepmd(path: Path) -> list[Frame]:
    """All frames of all systems below `path`, systems and sets in the order of their names.

    Keys are the names of the npy files: energy, force, virial, ...; `system` is the system's folder relative to `path`.
    A file `nopbc` in a system's folder makes it a molecule. The virial is -dE/dε (see `fireassay.units`).

    Raises InputError for missing type_map.raw, missing or ill-shaped arrays, and pickles.
    """
    frames: list[Frame] = []
    for raw in sorted(path.rglob("type.raw")):
        system = raw.parent
        name = str(system.relative_to(path)) if system != path else path.name
        numbers = _atomic_numbers(system)
        periodic = not (system / "nopbc").exists()
        sets = sorted(system.glob("set.*"))
        if not sets:
            raise InputError(f"{system}: has type.raw but no set.* folder with coord.npy")
        for folder in sets:
            frames.extend(_set(folder, numbers, periodic, str(path), name, len(frames)))
    if not frames:
        raise InputError(f"{path}: the folder has no DeePMD frames (type.raw, set.*/coord.npy)")
    return frames


def _atomic_numbers(system: Path) -> NDArray[np.int64]:
    try:
        types = [int(word) for word in (system / "type.raw").read_text(encoding="utf-8").split()]
        names = (system / "type_map.raw").read_text(encoding="utf-8").split()
    except FileNotFoundError as error:
        raise InputError(
            f"{system}: {Path(error.filename).name} is missing; write one element symbol per type into it"
        ) from error
    except ValueError as error:
        raise InputError(f"{system}: type.raw or type_map.raw is no list of types ({error})") from error
    unknown = [name for name in names if name not in ATOMIC_NUMBERS]
    if unknown or not types or min(types) < 0 or max(types) >= len(names):
        raise InputError(
            f"{system}: type_map.raw has {names} for types {sorted(set(types))}; needs one element symbol per type"
        )
    return np.array([ATOMIC_NUMBERS[names[kind]] for kind in types], dtype=np.int64)


def _set(folder: Path, numbers: NDArray, periodic: bool, file: str, system: str, first: int) -> list[Frame]:
    arrays = {path.stem: _loaded(path) for path in sorted(folder.glob("*.npy"))}
    if "coord" not in arrays or (periodic and "box" not in arrays):
        raise InputError(f"{folder}: has {sorted(arrays)}, needs coord.npy and box.npy (or a file nopbc in the system)")
    n_frames, n = len(arrays["coord"]), len(numbers)
    for name in _SHAPES.keys() & arrays.keys():
        if arrays[name].size != n_frames * n * 3:
            raise InputError(f"{folder / name}.npy: shape {arrays[name].shape}, needs ({n_frames}, {3 * n})")
    box = arrays.pop("box", np.zeros((n_frames, 9)))
    if box.size != n_frames * 9:
        raise InputError(f"{folder}/box.npy: shape {box.shape}, needs ({n_frames}, 9)")
    short = {name: len(a) for name, a in arrays.items() if a.ndim == 0 or len(a) != n_frames}
    if short:
        raise InputError(f"{folder}: coord.npy has {n_frames} frames but {short}; a file is cut short")
    positions = arrays.pop("coord").reshape(n_frames, n, 3).astype(np.float64)
    if "force" in arrays:
        arrays["force"] = arrays["force"].reshape(n_frames, n, 3)
    box = box.reshape(n_frames, 3, 3).astype(np.float64)
    pbc = np.full(3, periodic)
    frames = []
    for k in range(n_frames):
        values: dict[str, Any] = {name: array[k] for name, array in arrays.items()}
        frames.append(Frame(file, first + k, numbers, positions[k], box[k], pbc, {**values, "system": system}))
    return frames


def _loaded(path: Path) -> NDArray:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        reason = (
            "is a pickle, which is never loaded" if "pickle" in str(error) else f"is damaged or cut short ({error})"
        )
        raise InputError(f"{path}: {reason}; get it again") from error
