"""Structures on disk: flat files that are mapped into memory, for sets larger than memory.

An item is made when it is asked for. What has been read is given back to the system every now and then, so that a walk
through a set of any size takes little memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, overload

import numpy as np
from numpy.typing import NDArray

from fireassay.data.structure import Provenance, Structure
from fireassay.errors import InputError
from fireassay.records.files import write_text

_ATOMS: Final = {"numbers": ("u1", 1), "positions": ("f8", 3), "forces": ("f8", 3)}  # name -> type, values an atom
_FRAMES: Final = {
    "size": ("i4", 1), "forced": ("u1", 1), "energy": ("f8", 1), "stress": ("f8", 9), "cell": ("f8", 9),
    "pbc": ("u1", 3), "charge": ("f8", 1), "spin": ("f8", 1), "temperature": ("f8", 1), "group": ("i4", 1),
    "file": ("i4", 1), "frame": ("i8", 1),
}  # fmt: skip
META: Final = "store.json"
_BLOCK: Final = 1 << 14  # structures that are looked at together
_KEPT: Final = 1 << 28  # bytes that may stay mapped after they were read


class Store:
    """The mapped files of a folder; arrays are read-only views of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.meta: dict[str, Any] = json.loads((folder / META).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{folder}: is no store of frames ({error}); delete it, it is made anew") from error
        self._maps: list[mmap.mmap] = []
        self._touched = 0
        self.arrays = {name: self._mapped(name, *kind) for name, kind in {**_ATOMS, **_FRAMES}.items()}
        size = self.arrays["size"].astype(np.int64)
        self.first = np.cumsum(size) - size  # (S,) the place of each frame's first atom

    def _mapped(self, name: str, kind: str, width: int) -> NDArray:
        path = self.folder / f"{name}.{kind}"
        if not path.stat().st_size:
            return np.zeros((0, width) if width > 1 else 0, dtype=kind)
        with path.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._maps.append(content)
        array = np.frombuffer(content, dtype=kind)
        return array.reshape(-1, width) if width > 1 else array

    def __len__(self) -> int:
        return len(self.first)

    def touch(self, size: int) -> None:
        """Notes that so many bytes were read; beyond `_KEPT` the pages go back to the system."""
        self._touched += size
        if self._touched > _KEPT:
            self._touched = 0
            for content in self._maps:
                if hasattr(content, "madvise"):
                    content.madvise(mmap.MADV_DONTNEED)

    def structure(self, number: int) -> Structure:
        """Frame `number` as a structure of its own memory."""
        a, first = self.arrays, int(self.first[number])
        last = first + int(a["size"][number])
        forces, stress = a["forces"][first:last], a["stress"][number]
        self.touch(64 * (last - first))
        group = int(a["group"][number])
        return Structure.unchecked(
            atomic_numbers=a["numbers"][first:last].astype(np.int64),
            positions=a["positions"][first:last].copy(),
            cell=a["cell"][number].reshape(3, 3).copy(),
            pbc=a["pbc"][number].astype(bool),
            energy=_known(a["energy"][number]),
            forces=None if np.isnan(forces[:, 0]).all() else forces.copy(),
            stress=None if np.isnan(stress[0]) else stress.reshape(3, 3).copy(),
            provenance=Provenance(
                self.meta["files"][int(a["file"][number])],
                int(a["frame"][number]),
                None if group < 0 else self.meta["groups"][group],
                _known(a["temperature"][number]),
            ),
            charge=_known(a["charge"][number]),
            spin=_known(a["spin"][number]),
        )


def _known(value: np.floating) -> float | None:
    return None if np.isnan(value) else float(value)


class StoredFrames(Sequence[Structure]):
    """Frames of a store in an order of their own, as a sequence of structures."""

    def __init__(self, store: Store, indices: NDArray[np.integer] | None = None) -> None:
        self.store = store
        self.indices = np.arange(len(store)) if indices is None else np.asarray(indices, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, key: int) -> Structure: ...
    @overload
    def __getitem__(self, key: slice) -> StoredFrames: ...
    def __getitem__(self, key: int | slice) -> Structure | StoredFrames:
        if isinstance(key, slice):
            return StoredFrames(self.store, self.indices[key])
        return self.store.structure(int(self.indices[key]))

    def remembered(self, name: str, made: Callable[[], str]) -> str:
        """A text about these frames that is kept beside the store once it was made."""
        digest = hashlib.sha256(self.indices.tobytes()).hexdigest()[:24]
        path = self.store.folder / f"{name}-{digest}.txt"
        if path.exists():
            return path.read_text(encoding="utf-8")
        text = made()
        write_text(path, text)
        return text

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Numbers of atoms (S,)."""
        return self.store.arrays["size"][self.indices].astype(np.int64)

    def column(self, name: str) -> NDArray:
        """A quantity of every frame, such as "energy" (S,) or "stress" (S, 9), NaN where there is none."""
        return self.store.arrays[name][self.indices]


def numbered(structures: Sequence[Structure], name: str) -> list[int]:
    """Numbers of the structures that have a quantity: energy, forces, stress, charge or spin."""
    if isinstance(structures, StoredFrames):
        if name == "forces":
            return np.flatnonzero(structures.column("forced")).tolist()
        values = structures.column(name)
        return np.flatnonzero(~np.isnan(values if values.ndim == 1 else values[:, 0])).tolist()
    return [k for k, s in enumerate(structures) if getattr(s, name) is not None]


def number_blocks(items: Sequence[Any]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Atomic numbers (N,) and sizes (S,) of structures or frames, in groups, without making those of a store."""
    for first in range(0, len(items), _BLOCK):
        if not isinstance(items, StoredFrames):
            part = [items[k].atomic_numbers for k in range(first, min(first + _BLOCK, len(items)))]
            yield np.concatenate(part).astype(np.int64), np.array([len(numbers) for numbers in part])
            continue
        store, part = items.store, items.indices[first : first + _BLOCK]
        size = store.arrays["size"][part].astype(np.int64)
        places = np.arange(int(size.sum())) + np.repeat(store.first[part] - (np.cumsum(size) - size), size)
        yield store.arrays["numbers"][places].astype(np.int64), size


def species_of(structures: Sequence[Structure]) -> list[int]:
    """Atomic numbers that occur, ascending."""
    found = np.zeros(256, dtype=bool)
    for numbers, _ in number_blocks(structures):
        found[numbers] = True
    return np.flatnonzero(found).tolist()


def sizes_of(structures: Sequence[Structure]) -> NDArray[np.int64]:
    """Numbers of atoms (S,)."""
    if isinstance(structures, StoredFrames):
        return structures.sizes
    return np.array([len(s) for s in structures], dtype=np.int64)


def single(structures: Sequence[Structure]) -> list[Structure]:
    """The structures of a single atom."""
    if isinstance(structures, StoredFrames):
        return [structures[k] for k in np.flatnonzero(structures.sizes == 1).tolist()]
    return [s for s in structures if len(s) == 1]


def chosen(structures: Sequence[Structure], indices: Iterable[int]) -> Sequence[Structure]:
    """The structures with these numbers, in that order: a list, or a view where they are on disk."""
    if isinstance(structures, StoredFrames):
        return StoredFrames(structures.store, structures.indices[np.fromiter(indices, dtype=np.int64)])
    return [structures[k] for k in indices]


def sample(structures: Sequence[Structure], count: int, run: int = 50) -> list[Structure]:
    """At most about `count` structures in runs of neighbours that are spread evenly; all where there are no more."""
    if len(structures) <= count:
        return list(structures)
    run = min(run, count)
    starts = np.linspace(0, len(structures) - run, max(count // run, 1)).astype(int)
    return [structures[int(start) + k] for start in starts for k in range(run)]


class StoreWriter:
    """Writes structures into a new store; it exists only once `close` is through."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
        self._part.mkdir(parents=True, exist_ok=True)
        self._files = {
            name: (self._part / f"{name}.{kind}").open("wb") for name, (kind, _) in {**_ATOMS, **_FRAMES}.items()
        }
        self._places: dict[str, dict[str, int]] = {"files": {}, "groups": {}}
        self.frames = 0

    def add(self, structures: Sequence[Structure]) -> None:
        """Appends structures. Raises InputError when the disk is full."""
        columns = {
            "numbers": np.concatenate([s.atomic_numbers for s in structures]),
            "positions": np.concatenate([s.positions for s in structures]),
            "forces": np.concatenate(
                [np.full((len(s), 3), np.nan) if s.forces is None else s.forces for s in structures]
            ),
            "size": [len(s) for s in structures],
            "forced": [bool(s.forced.any()) for s in structures],
            "energy": _filled([s.energy for s in structures]),
            "stress": [np.full((3, 3), np.nan) if s.stress is None else s.stress for s in structures],
            "cell": [s.cell for s in structures],
            "pbc": [s.pbc for s in structures],
            "charge": _filled([s.charge for s in structures]),
            "spin": _filled([s.spin for s in structures]),
            "temperature": _filled([s.provenance.temperature for s in structures]),
            "group": [self._place("groups", s.provenance.group) for s in structures],
            "file": [self._place("files", s.provenance.file or "") for s in structures],
            "frame": [s.provenance.frame or 0 for s in structures],
        }
        try:
            for name, (kind, _) in {**_ATOMS, **_FRAMES}.items():
                np.asarray(columns[name], dtype=kind).tofile(self._files[name])
        except OSError as error:
            raise InputError(
                f"{self._part}: cannot be written ({error.strerror or error}); free space, or name another folder with "
                "the environment variable FIREASSAY_CACHE"
            ) from error
        self.frames += len(structures)

    def _place(self, kind: str, name: str | None) -> int:
        places = self._places[kind]
        return -1 if name is None else places.setdefault(name, len(places))

    def close(self, meta: dict[str, Any]) -> Store:
        """Finishes the store, with what else is to be known of it."""
        for file in self._files.values():
            file.close()
        content = {**meta, **{kind: list(places) for kind, places in self._places.items()}}
        (self._part / META).write_text(json.dumps(content), encoding="utf-8")
        try:
            self._part.replace(self.folder)
        except OSError:  # another process was first with the same frames
            if not (self.folder / META).exists():
                raise
            shutil.rmtree(self._part, ignore_errors=True)
        return Store(self.folder)

    def discard(self) -> None:
        """Removes what was written so far."""
        for file in self._files.values():
            with contextlib.suppress(OSError):  # what is left to write to a full disk
                file.close()
        shutil.rmtree(self._part, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Removes stores beside `folder` that a killed process of this machine left half-written."""
    for part in folder.glob("*.part"):
        owner = part.name.split(".")[-2]
        if owner.isdigit() and not _alive(int(owner)):
            shutil.rmtree(part, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _filled(values: Sequence[float | None]) -> list[float]:
    return [np.nan if value is None else value for value in values]


def cache_folder() -> Path:
    """Where stores are kept: $FIREASSAY_CACHE, else fireassay in the user's cache folder."""
    given = os.environ.get("FIREASSAY_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fireassay"
