"""What the scripts for other interpreters share: folders of plain arrays and JSON. Needs numpy only.

    PYTHON -I SCRIPT FILE FOLDER

FOLDER/frames.npz holds structures one after the other: `counts` (S,), `atomic_numbers` (N,), `positions` (N, 3),
`cell` (S, 3, 3), `pbc` (S, 3), and where any structure states them `charge` (S,) in e and `spin` (S,), the
multiplicity, with NaN for the others. The script writes FOLDER/arrays.npz and, last, FOLDER/export.json; or
FOLDER/error.json with one line, and exit code 3. What it prints goes to the standard error, and nobody reads it
unless it dies.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

PROTOCOL = 1
_STATES = ("charge", "spin")
Arrays = dict[str, np.ndarray]


class Refusal(Exception):
    """The file cannot be exported; one line that says why and what to do."""


class Frame:
    """One structure: atomic_numbers (N,), positions (N, 3) in Å, cell (3, 3), pbc (3,), charge, spin or None."""

    def __init__(
        self,
        atomic_numbers: np.ndarray,
        positions: np.ndarray,
        cell: np.ndarray,
        pbc: np.ndarray,
        charge: float | None = None,
        spin: float | None = None,
    ) -> None:
        self.atomic_numbers, self.positions, self.cell, self.pbc = atomic_numbers, positions, cell, pbc
        self.charge, self.spin = charge, spin


def read_frames(arrays: Any) -> Iterator[Frame]:
    """The structures of the arrays above."""
    ends = np.cumsum(arrays["counts"])
    for k, (start, end) in enumerate(zip([0, *ends[:-1]], ends)):  # noqa: B905 - old interpreters
        rows = slice(int(start), int(end))
        geometry = (arrays["atomic_numbers"][rows], arrays["positions"][rows], arrays["cell"][k], arrays["pbc"][k])
        yield Frame(*geometry, *(_stated(arrays[name][k]) if name in arrays else None for name in _STATES))


def _stated(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def frame_arrays(frames: list[Frame]) -> Arrays:
    """The structures as the arrays above."""
    arrays = {
        "counts": np.array([len(frame.atomic_numbers) for frame in frames], np.int64),
        "atomic_numbers": np.concatenate([frame.atomic_numbers for frame in frames]).astype(np.int64),
        "positions": np.concatenate([frame.positions for frame in frames]).astype(np.float64),
        "cell": np.stack([frame.cell for frame in frames]).astype(np.float64),
        "pbc": np.stack([frame.pbc for frame in frames]).astype(bool),
    }
    for name in _STATES:
        values = [getattr(frame, name) for frame in frames]
        if any(value is not None for value in values):
            arrays[name] = np.array([np.nan if value is None else value for value in values], np.float64)
    return arrays


def probes(species: list[int]) -> list[Frame]:
    """Random structures of the species, to compare predictions on: two clusters and two narrow triclinic crystals."""
    rng = np.random.default_rng(0)
    apart = 1.1 if max(species) <= 10 else 1.9
    frames = []
    for _ in range(2):
        points: list[np.ndarray] = []
        while len(points) < 9:
            point = rng.uniform(-2.2 * apart, 2.2 * apart, 3)
            if all(np.linalg.norm(point - other) > apart for other in points):
                points.append(point)
        frames.append(Frame(rng.choice(species, 9), np.array(points), np.zeros((3, 3)), np.zeros(3, bool)))
        cell = apart / 1.1 * np.array([[3.4, 0.0, 0.0], [0.9, 3.1, 0.0], [-0.6, 0.8, 3.7]])
        grid = np.array([[0.05, 0.1, 0.0], [0.5, 0.55, 0.1], [0.1, 0.5, 0.55], [0.6, 0.05, 0.5]])
        crystal = (grid + rng.uniform(-0.05, 0.05, grid.shape)) @ cell
        frames.append(Frame(rng.choice(species, 4), crystal, cell, np.ones(3, bool)))
    return frames


Predict = Callable[[Frame], "tuple[float, np.ndarray]"]
Export = Callable[[Path], "tuple[dict[str, Any], Arrays, list[int], Predict]"]


def run(export: Export) -> None:
    """Exports the file of the command line: a description as JSON values, arrays, species, and a way to predict.

    The energy (eV) and forces (N, 3) (eV/Å) of the given frames, and of `probes`, are added to the arrays.
    """
    os.dup2(2, 1)  # what a package prints is no part of the protocol
    file, folder = Path(sys.argv[1]), Path(sys.argv[2])
    try:
        description, arrays, species, predict = export(file)
        frames = probes(species)
        with np.load(folder / "frames.npz", allow_pickle=False) as given:
            frames += list(read_frames(given))
        unknown = sorted({int(z) for frame in frames for z in frame.atomic_numbers} - {int(z) for z in species})
        if unknown:
            raise Refusal(
                f"the frames to check hold atomic numbers {unknown}, the model knows {sorted(map(int, species))}; "
                "check on frames without them"
            )
        results = [predict(frame) for frame in frames]
    except Refusal as refusal:
        (folder / "error.json").write_text(json.dumps({"error": " ".join(str(refusal).split())}), encoding="utf-8")
        raise SystemExit(3) from None
    arrays.update({f"frames/{name}": array for name, array in frame_arrays(frames).items()})
    arrays["frames/energy"] = np.array([energy for energy, _ in results], np.float64)
    arrays["frames/forces"] = np.concatenate([forces for _, forces in results]).astype(np.float64)
    np.savez(folder / "arrays.npz", **arrays)  # type: ignore[arg-type]
    written = folder / "export.json.part"
    written.write_text(json.dumps({"protocol": PROTOCOL, **description}), encoding="utf-8")
    written.rename(folder / "export.json")


def required(module: str, package: str, version: str) -> Any:
    """The module, or a refusal when it is missing or older than `version`."""
    from importlib import import_module, metadata

    try:
        found = metadata.version(package)
        imported = import_module(module)
    except Exception as error:
        raise Refusal(
            f"{sys.executable} cannot import {package} ({type(error).__name__}: {error}); "
            "name the interpreter of the environment in which the model was trained"
        ) from error
    parts = [int(part) for part in found.split(".")[:2] if part.isdigit()]
    if parts < [int(part) for part in version.split(".")[:2]]:
        raise Refusal(f"{sys.executable} has {package} {found}, this import needs {version} or later; update it there")
    return imported


def coupling_tensors(degree: int) -> Arrays:
    """Clebsch-Gordan tensors and harmonics of e3nn up to a degree, from which its sign conventions can be read."""
    import torch
    from e3nn import o3

    out = {}
    for a in range(degree + 1):
        for b in range(degree + 1):
            for c in range(abs(a - b), min(a + b, degree) + 1):
                out[f"wigner/{a}/{b}/{c}"] = o3.wigner_3j(a, b, c, dtype=torch.float64).numpy()
    points = torch.randn(12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    out["harmonics/points"] = points.numpy()
    irreps = o3.Irreps.spherical_harmonics(degree)
    out["harmonics/values"] = o3.spherical_harmonics(irreps, points, True, normalization="component").numpy()
    return out


def versions(*packages: str) -> dict[str, str]:
    """Installed versions by package."""
    from importlib import metadata

    return {package: metadata.version(package) for package in packages}
