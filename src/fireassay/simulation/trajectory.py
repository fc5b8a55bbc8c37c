"""Trajectories streamed to disk, one file for each replica: extended XYZ, ASE's .traj, and H5MD.

What is in memory does not grow with the run. A checkpoint of the run remembers how far each file was written; when the
run goes on from it, what came later is cut off, so that an interrupted and a whole run leave equal frames.

Positions are unwrapped, so that displacements can be read off them. ASE's momenta are in amu Å / ASE's unit of time.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import numba
import numpy as np
import torch
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import chemical_symbols
from ase.io.trajectory import Trajectory
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray
from torch import Tensor

from fireassay.errors import InputError
from fireassay.kernel_cache import cached
from fireassay.simulation.state import State, kinetic_energy, pressure, temperature, volume
from fireassay.units import GIGAPASCAL, KJ_PER_MOL

Array = NDArray[Any]
_BLOCK: Final = 32  # frames of a chunk of an HDF5 file
_WAITING: Final = 1 << 20  # bytes of positions that wait until they are written to one: opening it takes milliseconds
_BUFFER, _LATEST = 1 << 18, 5.0  # bytes of text that wait to be written, and seconds after which they do not wait
_LARGEST: Final = 1e9  # of numbers whose eight decimals are written as one integer
_SYMBOLS: Final = np.array([[ord(c) for c in f"{s:2s}"] for s in chemical_symbols], dtype=np.uint8)
_H5MD_UNITS: Final = {"position": "Angstrom", "velocity": "Angstrom fs-1", "force": "kJ mol-1 Angstrom-1"}


class Snapshot(NamedTuple):
    """One replica at one step, on the host: time fs, energy eV, velocities Å/fs, stress eV/Å^3 or None."""

    step: int
    time: float
    atomic_numbers: Array
    masses: Array
    positions: Array
    velocities: Array
    forces: Array
    cell: Array
    pbc: Array
    energy: float
    stress: Array | None


class _File(Protocol):
    """A file that grows by snapshots, and can be cut back to what it was."""

    def create(self) -> None:
        """Begins anew."""
        ...

    def add(self, frame: Snapshot) -> None:
        """Appends a frame."""
        ...

    def mark(self) -> list[int]:
        """Brings everything to disk; what `cut` needs to come back here."""
        ...

    def cut(self, mark: Sequence[int]) -> None:
        """Forgets what was written after `mark`."""
        ...

    def close(self) -> None:
        """Brings everything to disk."""
        ...


class TrajectoryWriter:
    """An observer that writes every `stride` steps, step 0 included, one file for each replica.

    `paths` are one for each replica, with a suffix of `FORMATS`. The frame at which a replica fails is written when it
    is due. Raises InputError for another suffix, too few paths, or a file that has changed since the checkpoint.
    """

    def __init__(self, paths: Sequence[Path], stride: int) -> None:
        if stride < 1:
            raise InputError(f"stride {stride}; needs at least 1 step")
        self.paths, self.stride = list(paths), stride
        self._files = [_file(path) for path in self.paths]
        self._timestep = 0.0

    def begin(self, state: State, n_steps: int, timestep: float) -> None:
        """Checks that there is one file for each replica; none is touched before the first frame."""
        if len(self.paths) != state.n_replicas:
            raise InputError(f"{len(self.paths)} trajectory files for {state.n_replicas} replicas; give one for each")
        self._timestep = timestep

    def see(self, state: State, step: int, failed: Sequence[int] = ()) -> None:
        """Writes the frames of a step that is due."""
        if step % self.stride:
            return
        host = State(*(None if value is None else value.detach().cpu() for value in state))  # type: ignore[arg-type]
        ends = torch.bincount(host.structure, minlength=host.n_replicas).cumsum(0).tolist()
        for row, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            file = self._files[int(host.replica[row])]
            if step == 0:
                file.create()
            file.add(_snapshot(host, row, start, end, step, step * self._timestep))

    def arrays(self) -> dict[str, Array]:
        """Nothing: what was seen is in the files, and all of it on disk after this."""
        for file in self._files:
            file.close()
        return {}

    def checkpoint(self) -> dict[str, Tensor]:
        """How far each file is."""
        return {str(number): torch.tensor(file.mark()) for number, file in enumerate(self._files)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Cuts the files back."""
        for number, (path, file) in enumerate(zip(self.paths, self._files, strict=True)):
            mark = tensors[str(number)].tolist()
            if not path.exists() or path.stat().st_size < mark[0]:
                raise InputError(
                    f"{path} is shorter than when the run was saved; put it back, or start anew in another folder"
                )
            file.cut(mark)


def _snapshot(host: State, row: int, start: int, end: int, step: int, time: float) -> Snapshot:
    return Snapshot(
        step=step,
        time=time,
        atomic_numbers=host.atomic_numbers[start:end].numpy(),
        masses=host.masses[start:end].double().numpy(),
        positions=host.positions[start:end].double().numpy(),
        velocities=host.velocities[start:end].double().numpy(),
        forces=host.forces[start:end].double().numpy(),
        cell=host.cell[row].double().numpy(),
        pbc=host.pbc[row].numpy(),
        energy=float(host.energy[row]),
        stress=None if host.stress is None else host.stress[row].double().numpy(),
    )


def _momenta(frame: Snapshot) -> Array:
    return frame.velocities * (frame.masses / units.fs)[:, None]


class ExtendedXYZ:
    """Text, a frame after the other; with momenta, forces, energy, stress, step and time_fs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting: list[bytes] = []
        self._size, self._written = 0, 0.0

    def create(self) -> None:
        """An empty file."""
        self._waiting, self._size = [], 0
        self.path.write_bytes(b"")

    def add(self, frame: Snapshot) -> None:
        """Appends a frame, to the file once there is enough of it or a while has passed."""
        text = _text(frame)
        self._waiting.append(text)
        self._size += len(text)
        if self._size > _BUFFER or time.monotonic() - self._written > _LATEST:
            self.close()

    def mark(self) -> list[int]:
        """The length in bytes."""
        self.close()
        return [self.path.stat().st_size]

    def cut(self, mark: Sequence[int]) -> None:
        """Truncates."""
        self._waiting, self._size = [], 0
        os.truncate(self.path, mark[0])

    def close(self) -> None:
        """Writes what is waiting."""
        if self._waiting:
            with open(self.path, "ab") as file:
                file.writelines(self._waiting)
            self._waiting, self._size = [], 0
        self._written = time.monotonic()


def _text(frame: Snapshot) -> bytes:
    words = ["Properties=species:S:1:pos:R:3:momenta:R:3:forces:R:3"]
    if frame.cell.any():
        words.insert(0, f'Lattice="{" ".join(f"{v:.10g}" for v in frame.cell.ravel())}"')
    words += [f'pbc="{" ".join("T" if flag else "F" for flag in frame.pbc)}"', f"energy={frame.energy:.10f}"]
    if frame.stress is not None and np.isfinite(frame.stress).all():
        words.append(f'stress="{" ".join(f"{v:.8g}" for v in frame.stress.ravel())}"')
    words += [f"step={frame.step}", f"time_fs={frame.time:.10g}"]
    rows = np.concatenate([frame.positions, _momenta(frame), frame.forces], axis=1)
    return f"{len(rows)}\n{' '.join(words)}\n".encode() + _rows(frame.atomic_numbers, rows)


def _rows(atomic_numbers: Array, rows: Array) -> bytes:
    """Lines of a symbol and numbers with eight decimals."""
    if np.abs(rows).max() < _LARGEST:  # False for NaN
        out = np.empty(len(rows) * (4 + rows.shape[1] * 22), dtype=np.uint8)
        return out[: _fixed_point(atomic_numbers, rows, _SYMBOLS, out)].tobytes()
    line = " ".join(["%.8f"] * rows.shape[1])
    lines = [f"{chemical_symbols[z]} {line}\n" for z in atomic_numbers.tolist()]
    return ("".join(lines) % tuple(rows.ravel().tolist())).encode()


@cached(numba.njit, nogil=True)
def _fixed_point(
    atomic_numbers: NDArray[np.int64], rows: NDArray[np.float64], symbols: NDArray[np.uint8], out: NDArray[np.uint8]
) -> int:  # pragma: no cover (compiled)
    """Writes the lines into `out`, whose length has to suffice, and returns how many bytes they take."""
    at = 0
    digits = np.empty(20, np.uint8)
    for i in range(len(rows)):
        for k in range(2):
            letter = symbols[atomic_numbers[i], k]
            if letter != 32:
                out[at] = letter
                at += 1
        for k in range(rows.shape[1]):
            out[at] = 32
            at += 1
            value = np.int64(np.rint(rows[i, k] * 1e8))
            if value < 0:
                out[at] = 45
                at += 1
                value = -value
            count = 0
            while value > 0 or count < 9:
                digits[count] = 48 + value % 10
                value //= 10
                count += 1
            for place in range(count - 1, -1, -1):
                out[at] = digits[place]
                at += 1
                if place == 8:
                    out[at] = 46
                    at += 1
        out[at] = 10
        at += 1
    return at


class AseTrajectory:
    """ASE's binary format, read by `ase gui` and `ase.io.read`."""

    _HEADER: Final = 32  # of the number of frames, and of the place of their table, 8 bytes each, in ASE's ulm format

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer: Any = None

    def create(self) -> None:
        """An empty file."""
        self.close()
        self._writer = Trajectory(self.path, "w")

    def add(self, frame: Snapshot) -> None:
        """Appends a frame."""
        if self._writer is None:
            self._writer = Trajectory(self.path, "a")
        atoms = Atoms(frame.atomic_numbers, frame.positions, cell=frame.cell, pbc=frame.pbc, momenta=_momenta(frame))
        atoms.set_masses(frame.masses.tolist())
        atoms.info |= {"step": frame.step, "time_fs": frame.time}
        labels: dict[str, Any] = {"energy": frame.energy, "forces": frame.forces}
        if frame.stress is not None and np.isfinite(frame.stress).all():
            labels["stress"] = full_3x3_to_voigt_6_stress(frame.stress)
        atoms.calc = SinglePointCalculator(atoms, **labels)
        self._writer.write(atoms)

    def mark(self) -> list[int]:
        """The length in bytes, the number of frames, and where the table of them lies."""
        self.close()
        with open(self.path, "rb") as file:
            file.seek(self._HEADER)
            return [self.path.stat().st_size, *struct.unpack("<2q", file.read(16))]

    def cut(self, mark: Sequence[int]) -> None:
        """Truncates, with the header of then."""
        size, frames, table = mark
        with open(self.path, "r+b") as file:
            file.seek(self._HEADER)
            file.write(struct.pack("<2q", frames, table))
            file.truncate(size)

    def close(self) -> None:
        """Closes the file; the next frame opens it again."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class H5MD:
    """The H5MD layout of HDF5 (de Buyl, Colberg, Höfling, Comput. Phys. Commun. 185, 1546, 2014), in single precision.

    Read by MDAnalysis and by whatever reads HDF5. Groups particles/all (species, mass, position, velocity, force, box)
    and observables (potential_energy in eV); forces are in kJ/mol/Å, since readers of H5MD do not know eV/Å.
    """

    def __init__(self, path: Path) -> None:
        try:
            import h5py
        except ImportError as error:
            raise InputError(f"{path} needs h5py; install it with pip install 'fireassay[formats]'") from error
        self._h5py = h5py
        self.path = path
        self._waiting: list[Snapshot] = []
        self._frames = 0

    def create(self) -> None:
        """A file without content; the first frame brings the atoms."""
        self._waiting, self._frames = [], 0
        self.path.unlink(missing_ok=True)

    def add(self, frame: Snapshot) -> None:
        """Keeps a frame, and writes when there is a block of them."""
        self._waiting.append(frame)
        if len(self._waiting) >= min(max(_WAITING // frame.positions.nbytes, 8), 8 * _BLOCK):
            self._write()

    def mark(self) -> list[int]:
        """The length in bytes at most, and the number of frames."""
        self._write()
        return [0, self._frames]

    def cut(self, mark: Sequence[int]) -> None:
        """Shortens every dataset that grows."""
        self._waiting, self._frames = [], mark[1]
        with self._h5py.File(self.path, "r+") as file:
            for name, dataset in _growing(file):
                if len(dataset) < self._frames:
                    raise InputError(f"{self.path}: {name} is shorter than when the run was saved; start anew")
                dataset.resize(self._frames, axis=0)

    def close(self) -> None:
        """Writes what is waiting."""
        self._write()

    def _write(self) -> None:
        if not self._waiting:
            return
        with self._h5py.File(self.path, "a") as file:
            if "h5md" not in file:
                _lay_out(file, self._waiting[0])
            values = _columns(self._waiting)
            first, self._frames = self._frames, self._frames + len(self._waiting)
            for name, dataset in _growing(file):
                dataset.resize(self._frames, axis=0)
                dataset[first:] = values[name]
        self._waiting = []


_ELEMENTS: Final = (
    "particles/all/position", "particles/all/velocity", "particles/all/force", "particles/all/box/edges",
    "observables/potential_energy",
)  # fmt: skip


def _growing(file: Any) -> list[tuple[str, Any]]:
    names = [f"{element}/{part}" for element in _ELEMENTS for part in ("value", "step", "time")]
    return [(name, file[name]) for name in names]


def _columns(frames: Sequence[Snapshot]) -> dict[str, Array]:
    values: dict[str, Array] = {
        "particles/all/position": np.stack([f.positions for f in frames]),
        "particles/all/velocity": np.stack([f.velocities for f in frames]),
        "particles/all/force": np.stack([f.forces for f in frames]) / KJ_PER_MOL,
        "particles/all/box/edges": np.stack([f.cell for f in frames]),
        "observables/potential_energy": np.array([f.energy for f in frames]),
    }
    steps = {"step": np.array([f.step for f in frames]), "time": np.array([f.time for f in frames])}
    found = {f"{element}/value": array for element, array in values.items()}
    return found | {f"{element}/{part}": array for element in values for part, array in steps.items()}


def _lay_out(file: Any, frame: Snapshot) -> None:
    from fireassay import __version__

    file.create_group("h5md").attrs["version"] = [1, 1]
    file["h5md"].create_group("author").attrs["name"] = "unknown"
    file["h5md"].create_group("creator").attrs.update({"name": "fireassay", "version": __version__})
    particles = file.create_group("particles/all")
    particles["species"] = frame.atomic_numbers.astype(np.int32)
    particles["mass"] = frame.masses
    particles["mass"].attrs["unit"] = "u"
    box = particles.create_group("box")
    box.attrs["dimension"] = 3
    box.attrs["boundary"] = ["periodic" if flag else "none" for flag in frame.pbc]
    n = len(frame.atomic_numbers)
    shapes = {"position": (n, 3), "velocity": (n, 3), "force": (n, 3)}
    for name, shape in shapes.items():
        _element(particles, name, shape, "f4", _H5MD_UNITS[name])
    _element(box, "edges", (3, 3), "f8", "Angstrom")
    _element(file.create_group("observables"), "potential_energy", (), "f8", "eV")


def _element(group: Any, name: str, shape: tuple[int, ...], dtype: str, unit: str) -> None:
    made = group.create_group(name)
    rows = max(1, min(_BLOCK, 2**20 // (8 * max(1, int(np.prod(shape))))))
    options = {"maxshape": (None, *shape), "chunks": (rows, *shape)}
    made.create_dataset("value", (0, *shape), dtype, **options).attrs["unit"] = unit
    made.create_dataset("step", (0,), "i8", maxshape=(None,), chunks=(1024,))
    made.create_dataset("time", (0,), "f8", maxshape=(None,), chunks=(1024,)).attrs["unit"] = "fs"


class Thermodynamics:
    """An observer that writes temperature, energies, pressure and volume every `stride` steps to a CSV file.

    One row for each replica that is alive: step, time fs, replica, temperature K, potential_energy eV, total_energy eV,
    pressure GPa (empty without stress) and volume Å^3 (empty without a cell).
    """

    HEADER: Final = "step,time_fs,replica,temperature_K,potential_energy_eV,total_energy_eV,pressure_GPa,volume_A3\n"

    def __init__(self, path: Path, stride: int) -> None:
        self.path, self.stride = path, stride
        self._timestep = 0.0

    def begin(self, state: State, n_steps: int, timestep: float) -> None:
        """Remembers the time step."""
        self._timestep = timestep

    def see(self, state: State, step: int, failed: Sequence[int] = ()) -> None:
        """Writes the rows of a step that is due."""
        if step % self.stride:
            return
        kinetic = kinetic_energy(state)
        columns = [
            temperature(state),
            state.energy,
            state.energy + kinetic,
            pressure(state) / GIGAPASCAL,
            volume(state),
        ]
        rows = torch.stack([column.double() for column in columns], 1).tolist()
        lines = [] if step else [self.HEADER]
        for replica, values in zip(state.replica.tolist(), rows, strict=True):
            words = [f"{v:.10g}" if np.isfinite(v) and (v or n < 4) else "" for n, v in enumerate(values)]
            lines.append(f"{step},{step * self._timestep:.10g},{replica},{','.join(words)}\n")
        with open(self.path, "a" if step else "w", encoding="utf-8") as file:
            file.writelines(lines)

    def arrays(self) -> dict[str, Array]:
        """Nothing: what was seen is in the file."""
        return {}

    def checkpoint(self) -> dict[str, Tensor]:
        """How long the file is."""
        return {"size": torch.tensor(self.path.stat().st_size)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Cuts the file back. Raises InputError when it is shorter."""
        if not self.path.exists() or self.path.stat().st_size < int(tensors["size"]):
            raise InputError(f"{self.path} is shorter than when the run was saved; start anew in another folder")
        os.truncate(self.path, int(tensors["size"]))


FORMATS: Final[Mapping[str, Callable[[Path], _File]]] = {
    ".xyz": ExtendedXYZ, ".extxyz": ExtendedXYZ, ".traj": AseTrajectory, ".h5": H5MD, ".h5md": H5MD,
}  # fmt: skip


def _file(path: Path) -> _File:
    if path.suffix not in FORMATS:
        raise InputError(f"{path}: trajectories are written as {', '.join(FORMATS)}; give one of these suffixes")
    return FORMATS[path.suffix](path)
