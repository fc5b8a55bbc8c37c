"""Other interpreters: scripts that export a foreign model, and calculators that run there, both by plain arrays.

Pickled files and other people's pins stay in the process that can hold them. What comes back are npz archives, read
without pickle, and JSON. The scripts in `workers` need nothing of ours.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import struct
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from fireassay.data.graph import Graph
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.interop.workers.exchange import PROTOCOL, Frame, frame_arrays, read_frames
from fireassay.potential import Prediction

WORKERS: Final = Path(__file__).parent / "workers"
BEGIN: Final = b"\n<fireassay-calculator>\n"  # of workers/calculator.py
_GREETING: Final = 1 << 20  # bytes of a banner
ENDS: Final = 10  # of the calculator's process in a row, after which it is given up
_REFUSED = 3  # exit code of a script that says why in error.json


@dataclass(frozen=True)
class Export:
    """What a script says of a foreign model: JSON values, arrays, and structures with the model's energy and forces."""

    description: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]
    frames: Sequence[Structure]

    def need(self, name: str) -> Any:
        """A value of the description. Raises InputError when the script did not write it."""
        if name not in self.description:
            raise InputError(f"the export of a {self.description.get('package')} model lacks {name!r}; export it again")
        return self.description[name]

    def under(self, prefix: str) -> dict[str, torch.Tensor]:
        """The arrays whose names start with `prefix/`, without it."""
        start = len(prefix) + 1
        return {name[start:]: torch.from_numpy(a) for name, a in self.arrays.items() if name.startswith(f"{prefix}/")}


def run_export(
    script: str, python: Path | str, file: Path, frames: Sequence[Structure] = (), timeout: float = 900.0
) -> Export:
    """Runs `workers/SCRIPT FILE FOLDER` in the interpreter `python` and reads what it writes.

    The model's predictions for `frames` come back with those for a few structures that the script makes up. Raises
    InputError, in one line, when the interpreter cannot be started, the script refuses the file, dies or takes longer
    than `timeout` seconds, and when what it wrote cannot be read.
    """
    if not file.is_file():
        raise InputError(f"{file} is not a file; give the model file")
    with tempfile.TemporaryDirectory(prefix="fireassay-import-") as name:
        folder = Path(name)
        np.savez(folder / "frames.npz", **_arrays(frames))  # type: ignore[arg-type]
        _run([*_interpreter(python), str(WORKERS / script), str(file.resolve()), str(folder)], folder, timeout)
        return read_export(folder)


def read_export(folder: Path) -> Export:
    """The export that a script wrote into a folder. Raises InputError when it is damaged or of another protocol."""
    try:
        description = json.loads((folder / "export.json").read_text(encoding="utf-8"))
        with np.load(folder / "arrays.npz", allow_pickle=False) as archive:
            arrays = dict(archive)
        if description.get("protocol") != PROTOCOL:
            raise InputError(f"{folder}: protocol {description.get('protocol')}, this fireassay reads {PROTOCOL}")
        given = {key[7:]: arrays.pop(key) for key in list(arrays) if key.startswith("frames/")}
        forces = np.split(given["forces"], np.cumsum(given["counts"])[:-1])
        frames = [
            Structure(f.atomic_numbers, f.positions, f.cell, f.pbc, energy=float(energy), forces=force)
            for f, energy, force in zip(read_frames(given), given["energy"], forces, strict=True)
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder}: the export cannot be read: {type(error).__name__}: {error}") from error
    return Export(description, arrays, frames)


def _arrays(frames: Sequence[Structure]) -> dict[str, np.ndarray]:
    if not frames:
        shapes = {"atomic_numbers": (0,), "positions": (0, 3), "cell": (0, 3, 3), "pbc": (0, 3)}
        return {"counts": np.zeros(0, np.int64), **{name: np.zeros(shape) for name, shape in shapes.items()}}
    return frame_arrays([Frame(s.atomic_numbers, s.positions, s.cell, s.pbc, s.charge, s.spin) for s in frames])


def _interpreter(python: Path | str) -> list[str]:
    """The command of an interpreter: what is named with a folder, or lies in this one, is that file and no other.

    A link is not followed, since a virtual environment's interpreter is one. Nothing of our own environment, nor of the
    folder we are in, is seen by it.
    """
    text = os.path.expanduser(str(python))
    named = os.sep in text or Path(text).exists()
    return [os.path.abspath(text) if named else text, "-I"]


def _environment() -> dict[str, str]:
    # The file is trusted in that interpreter; torch >= 2.6 would refuse the loaders of older packages.
    return {**os.environ, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}


def _run(command: Sequence[str], folder: Path, timeout: float) -> None:
    log = folder / "log.txt"
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(),
                start_new_session=True,
            )
    except OSError as error:
        raise InputError(
            f"cannot start {command[0]}: {error.strerror}; give the path of a Python interpreter"
        ) from error
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{command[0]} {Path(command[2]).name} did not finish within {timeout:g} s") from error
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if code == _REFUSED and (folder / "error.json").is_file():
        raise InputError(json.loads((folder / "error.json").read_text(encoding="utf-8"))["error"])
    if code:
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise InputError(f"{command[0]} {Path(command[2]).name} ended with {how}: {_last_line(log)}")


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it printed nothing"


class _Ended(InputError):
    """The calculator's process is no more."""


def _singles(graph: Graph) -> Iterator[Graph]:
    """The structures of a graph without edges, each as a graph of its own."""
    for row in range(graph.n_structures):
        atoms = graph.structure == row
        yield graph._replace(
            atomic_numbers=graph.atomic_numbers[atoms],
            positions=graph.positions[atoms],
            cell=graph.cell[row : row + 1],
            pbc=graph.pbc[row : row + 1],
            structure=torch.zeros_like(graph.structure[atoms]),
            centre=graph.centre[:0],
            neighbour=graph.neighbour[:0],
            shift=graph.shift[:0],
            charge=None if graph.charge is None else graph.charge[row : row + 1],
            spin=None if graph.spin is None else graph.spin[row : row + 1],
        )


def _nothing(graph: Graph, forces: bool, stress: bool) -> Prediction:
    like = graph.positions
    return Prediction(
        energy=torch.full((graph.n_structures,), torch.nan, dtype=torch.float64, device=like.device),
        forces=torch.full_like(like, torch.nan) if forces else None,
        stress=like.new_full((graph.n_structures, 3, 3), torch.nan) if stress else None,
    )


def _given(values: torch.Tensor | None) -> torch.Tensor:
    assert values is not None
    return values


class WorkerPredictor:
    """An ASE calculator in another interpreter as a predictor; a process that lives until `close`.

    `calculator` is text such as "package.module:Class(key=value)" with literal values. Structures, with charge and spin
    where they have any, go there and energies (eV), forces (eV/Å) and stress (eV/Å^3) come back as arrays through
    pipes; what the calculator prints does not disturb them. Stress is NaN for structures that are not periodic in any
    direction. With `nan_on_failure` a failed calculation gives NaN for that structure, and `failures` says why; when
    the process itself ends, another one is started and the structures are asked for one by one, so that the one that
    ends it fails alone.

    Raises InputError, in one line, when the interpreter or the calculator cannot be started, has not answered within
    `timeout` seconds (it is ended then), has been closed, or when a calculation fails without `nan_on_failure`; with
    it, when the process ends `ENDS` times in a row.
    """

    cutoff: float = 0.0
    species: tuple[int, ...] | None = None
    dtype: torch.dtype = torch.float64

    def __init__(
        self, python: Path | str, calculator: str, *, nan_on_failure: bool = False, timeout: float = 3600.0
    ) -> None:
        self.nan_on_failure, self.timeout = nan_on_failure, timeout
        self.failures: dict[int, str] = {}
        self._log = tempfile.TemporaryDirectory(prefix="fireassay-worker-")
        self._output = Path(self._log.name) / "log.txt"
        self._closed = False
        self._ends = 0  # in a row
        self._command = [*_interpreter(python), str(WORKERS / "calculator.py"), calculator]
        try:
            self._process = self._started()
        except InputError:
            self._log.cleanup()
            raise
        self._greeted()

    def _started(self) -> subprocess.Popen[bytes]:
        try:
            with self._output.open("wb") as output:
                return subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=output,
                    env=_environment(),
                    bufsize=0,
                )
        except OSError as error:
            name = self._command[0]
            raise InputError(f"cannot start {name}: {error.strerror}; give the path of a Python interpreter") from error

    def _greeted(self) -> None:
        """Waits until the calculator is ready. Raises InputError when it says why not."""
        try:
            self._skip_greeting()
            self._receive()
        except BaseException:
            self.close()
            raise

    def predict(self, graph: Graph, forces: bool = True, stress: bool = False) -> Prediction:
        """Energy (S,) float64; forces (N, 3) and stress (S, 3, 3) in the dtype of the positions."""
        if self._closed:
            raise InputError("the calculator's process has been closed; make another WorkerPredictor")
        try:
            found = self._predicted(graph, forces, stress)
        except _Ended as ended:
            if not self.nan_on_failure:
                raise
            return self._after_an_end(graph, forces, stress, str(ended))
        self._ends = 0
        return found

    def _after_an_end(self, graph: Graph, forces: bool, stress: bool, why: str) -> Prediction:
        """A new process, and the structures one by one; one alone has failed."""
        self._ends += 1
        if self._ends >= ENDS:
            self.close()
            raise InputError(f"{why}; that happened {ENDS} times in a row")
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.wait()
        self._process = self._started()
        self._greeted()
        if graph.n_structures == 1:
            self.failures = {0: why}
            return _nothing(graph, forces, stress)
        parts: list[Prediction] = []
        failures: dict[int, str] = {}
        for row, single in enumerate(_singles(graph)):
            parts.append(self.predict(single, forces, stress))
            if self.failures:
                failures[row] = self.failures[0]
        self.failures = failures
        return Prediction(
            energy=torch.cat([part.energy for part in parts]),
            forces=torch.cat([_given(part.forces) for part in parts]) if forces else None,
            stress=torch.cat([_given(part.stress) for part in parts]) if stress else None,
        )

    def _predicted(self, graph: Graph, forces: bool, stress: bool) -> Prediction:
        host = graph.to("cpu", torch.float64)
        counts = torch.bincount(host.structure, minlength=host.n_structures)
        arrays = {
            "counts": counts.numpy(),
            "atomic_numbers": host.atomic_numbers.numpy(),
            "positions": host.positions.detach().numpy(),
            "cell": host.cell.detach().numpy(),
            "pbc": host.pbc.numpy(),
            "wanted": np.array([forces, stress]),
        }
        states = {"charge": host.charge, "spin": host.spin}
        arrays |= {name: values.numpy() for name, values in states.items() if values is not None}
        self._send(arrays)
        answer = self._receive()
        self.failures = {row: str(text) for row, text in enumerate(answer.pop("messages").tolist()) if text}
        if self.failures and not self.nan_on_failure:
            raise InputError(f"the calculator in {self._name} failed: {next(iter(self.failures.values()))}")
        found = {name: torch.from_numpy(array) for name, array in answer.items()}
        like = graph.positions
        return Prediction(
            energy=found["energy"].to(like.device),
            forces=found["forces"].to(like) if forces else None,
            stress=found["stress"].to(like) if stress else None,
        )

    def close(self) -> None:
        """Ends the process, by force when it does not end within five seconds."""
        if self._closed:
            return
        self._closed = True
        self._process.terminate()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.cleanup()

    def __enter__(self) -> WorkerPredictor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _name(self) -> str:
        return str(self._process.args[0])  # type: ignore[index]

    def _send(self, arrays: Mapping[str, np.ndarray]) -> None:
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        pipe = self._process.stdin
        assert pipe is not None
        try:
            pipe.write(struct.pack("<Q", buffer.tell()) + buffer.getvalue())
            pipe.flush()
        except (OSError, ValueError) as error:
            raise _Ended(f"the calculator's process has ended: {_last_line(self._output)}") from error

    def _receive(self) -> dict[str, np.ndarray]:
        (size,) = struct.unpack("<Q", self._exactly(8))
        try:
            with np.load(io.BytesIO(self._exactly(size)), allow_pickle=False) as archive:
                arrays = dict(archive)
        except (ValueError, zipfile.BadZipFile, EOFError) as error:
            raise InputError(f"the calculator in {self._name} answered what is no npz archive; end it") from error
        if "error" in arrays:
            raise InputError(f"the calculator in {self._name} failed: {arrays['error']}")
        return arrays

    def _skip_greeting(self) -> None:
        """Reads up to `BEGIN`: a login banner or a package may write to the standard output before."""
        seen = b""
        while not seen.endswith(BEGIN):
            if len(seen) > _GREETING:
                raise InputError(f"{self._name} writes too much to its standard output; run it without its banner")
            seen += self._exactly(1)

    def _exactly(self, size: int) -> bytes:
        """So many bytes of the answer; waits for `timeout` seconds at most."""
        pipe = self._process.stdout
        assert pipe is not None
        parts, left, until = [], size, time.monotonic() + self.timeout
        while left:
            ready, _, _ = select.select([pipe], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                self.close()
                raise InputError(
                    f"the calculator in {self._name} has not answered within {self.timeout:g} s and was ended; "
                    "give it more time, or smaller structures"
                )
            part = os.read(pipe.fileno(), min(left, 1 << 20))
            if not part:
                self._process.wait()
                text = _last_line(self._output)
                raise _Ended(f"the calculator's process ended with exit code {self._process.returncode}: {text}")
            parts.append(part)
            left -= len(part)
        return b"".join(parts)
