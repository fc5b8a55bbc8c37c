"""What a run leaves on disk: JSON for people, npz and safetensors for arrays, every file replaced atomically.

A run directory holds one potential's whole story; the report is made from run directories alone:

    config.yaml          the resolved configuration
    run.json             versions, machine, command, data provenance, seed, status
    metrics.jsonl, .csv  one row per epoch
    checkpoint/          EPOCH-BATCH.safetensors, the newest two: everything that an exact resume needs
    potential.safetensors  the trained potential: weights, and its architecture as JSON in the header
    errors.npz           per-atom error trajectories as histograms (`ErrorTrajectory`)
    assays/NAME.json     one assay's settings, values with units, provenance (`AssayResult`)
    assays/NAME.npz      its arrays
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fireassay.errors import InputError


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A binary file that replaces `path` only when it is complete and on disk; an error leaves the old file alone.

    Raises InputError when the folder cannot be written or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; free space or choose another folder"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes text atomically."""
    with atomic(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically; numbers that are not finite become null."""
    write_text(path, json.dumps(_plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads JSON. Raises InputError when the file is missing or is not JSON."""
    try:
        return json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}; it is missing, cut short or not JSON") from error


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Writes a compressed npz atomically."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    with atomic(path) as file:
        file.write(buffer.getvalue())


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Reads an npz without ever unpickling. Raises InputError when that is impossible."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:
        raise InputError(f"cannot read {path}: {error}; it is missing, cut short or holds objects") from error


def environment(command: str | None = None) -> dict[str, Any]:
    """Versions, machine, threads and the command line, for the provenance of a record."""
    versions = {}
    for name in ("fireassay", "torch", "numpy", "ase", "vesin", "numba", "faiss-cpu"):
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "command": command or " ".join(["fireassay", *sys.argv[1:]]),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


@dataclass(frozen=True)
class Quantity:
    """A value with its unit; the unit of a pure number or a text is an empty string."""

    value: Any
    unit: str = ""


@dataclass(frozen=True)
class AssayResult:
    """One assay's answer. `values` maps dotted names to quantities; `arrays` holds what is too large for JSON."""

    assay: str
    potential: str
    settings: dict[str, Any]
    values: dict[str, Quantity]
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)  # of the arrays
    provenance: dict[str, Any] = field(default_factory=dict)
    version: int = 1

    def save(self, folder: Path) -> Path:
        """Writes `folder/ASSAY.npz`, then `folder/ASSAY.json`; returns the JSON's path."""
        path = folder / f"{self.assay}.json"
        write_arrays(path.with_suffix(".npz"), self.arrays)
        content = {
            "assay": self.assay,
            "version": self.version,
            "potential": self.potential,
            "settings": self.settings,
            "values": {name: {"value": q.value, "unit": q.unit} for name, q in self.values.items()},
            "arrays": {
                name: {"shape": list(np.shape(a)), "unit": self.units.get(name, "")} for name, a in self.arrays.items()
            },
            "provenance": self.provenance or environment(),
        }
        write_json(path, content)
        return path

    @classmethod
    def load(cls, path: Path) -> AssayResult:
        """Reads `ASSAY.json` and the npz beside it. Raises InputError when either is damaged or of another version."""
        content = read_json(path)
        if not isinstance(content, dict) or content.get("version") != 1 or "values" not in content:
            raise InputError(f"{path} is not an assay result of version 1; run the assay again")
        arrays = read_arrays(path.with_suffix(".npz"))
        return cls(
            assay=content["assay"],
            potential=content["potential"],
            settings=content["settings"],
            values={name: Quantity(q["value"], q["unit"]) for name, q in content["values"].items()},
            arrays=arrays,
            units={name: entry["unit"] for name, entry in content["arrays"].items()},
            provenance=content["provenance"],
        )


@dataclass
class ErrorTrajectory:
    """Per-atom errors over the epochs of a training, as one histogram per atom (LTAU-FF, section 2).

    edges (B + 1,), ascending, in `unit`; counts (A, B + 2) with column 0 the underflow and column B + 1 the overflow.
    Atoms are numbered by the training set's order: structure by structure, atom by atom; `structure_sizes` (S,) tells
    them apart. An atom without a force label has no counts.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    structure_sizes: NDArray[np.int64]
    metric: str = "force_error_norm"
    unit: str = "eV/Å"

    @classmethod
    def empty(
        cls, structure_sizes: NDArray[np.int64], lowest: float = 1e-8, highest: float = 1e3, bins: int = 100
    ) -> ErrorTrajectory:
        """No errors yet; `bins` logarithmic bins from `lowest` to `highest`."""
        edges = np.logspace(np.log10(lowest), np.log10(highest), bins + 1)
        return cls(edges, np.zeros((int(structure_sizes.sum()), bins + 2), dtype=np.int64), structure_sizes)

    def add(self, atoms: NDArray[np.int64], errors: NDArray[np.float64]) -> None:
        """Counts one error for each of the distinct `atoms` (n,)."""
        self.counts[atoms, np.searchsorted(self.edges, errors, side="right")] += 1

    def save(self, path: Path) -> None:
        """Writes an npz atomically."""
        write_arrays(path, {**self.state(), "metric": self.metric, "unit": self.unit})

    def state(self) -> dict[str, NDArray[Any]]:
        """The arrays, for a checkpoint."""
        return {"edges": self.edges, "counts": self.counts, "structure_sizes": self.structure_sizes}

    @classmethod
    def load(cls, path: Path) -> ErrorTrajectory:
        """Reads what `save` wrote."""
        data = read_arrays(path)
        try:
            sizes = data["structure_sizes"]
            return cls(data["edges"], data["counts"], sizes, str(data["metric"]), str(data["unit"]))
        except KeyError as error:
            raise InputError(f"{path} is not an error trajectory: {error} is missing; train again") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value
