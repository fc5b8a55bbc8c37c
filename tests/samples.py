"""Small data files and frames for tests, and the way to the real ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

SHARED = Path(__file__).parents[2] / "shared" / "data"


def shared(name: str) -> Path:
    """A real data file beside the checkout; the test is skipped where it is absent."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"real data {name} is not beside the checkout (../shared/data)")
    return path


def water(k: int = 0, periodic: bool = False) -> Atoms:
    rng = np.random.default_rng(k)
    atoms = Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]] + 0.02 * rng.normal(size=(3, 3)))
    if periodic:
        atoms.set_cell([[5, 0, 0], [1, 6, 0], [0.5, 0.2, 7]])
        atoms.pbc = True
    results: dict[str, Any] = {"energy": -10.0 - k, "forces": rng.normal(size=(3, 3))}
    if periodic:
        results["stress"] = rng.normal(size=6)
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


ROWS = ["O 0 0 0 0.1 0 0", "H 0.96 0 0 -0.1 0 0"]


def text(
    rows: list[str], comment: str = "Properties=species:S:1:pos:R:3:forces:R:3 energy=-1.0", n: int | None = None
) -> str:
    return "\n".join([str(len(rows) if n is None else n), comment, *rows]) + "\n"


def arrays(dialect: str, s: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    x = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]) + 0.02 * rng.normal(size=(s, 3, 3))
    names = {
        "rmd17": ("coords", "nuclear_charges", "energies", "forces"),
        "sgdml": ("R", "z", "E", "F"),
        "egraff": ("pos", "atomic_numbers", "energy", "forces"),
    }[dialect]
    energy = rng.normal(size=s if dialect == "rmd17" else (s, 1))
    return dict(zip(names, (x, np.array([8, 1, 1], dtype=np.uint8), energy, rng.normal(size=(s, 3, 3))), strict=True))


def deepmd(folder: Path, sets: int = 2, virial: bool = True) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    folder.mkdir(parents=True)
    (folder / "type.raw").write_text("0\n1\n1\n")
    (folder / "type_map.raw").write_text("O\nH\n")
    box = np.array([[5, 0, 0], [1, 6, 0], [0.5, 0.2, 7]])
    for k in range(sets):
        (folder / f"set.{k:03d}").mkdir()
        x = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]) + 0.02 * rng.normal(size=(3, 3, 3))
        w = rng.normal(size=(3, 3, 3))
        content = {
            "coord": x.reshape(3, 9),
            "box": np.tile(box.reshape(9), (3, 1)),
            "energy": np.arange(3.0) + 10 * k,
            "force": rng.normal(size=(3, 9)),
            "virial": (w + w.swapaxes(1, 2)).reshape(3, 9),
        }
        for name, array in content.items():
            if name != "virial" or virial:
                np.save(folder / f"set.{k:03d}" / f"{name}.npy", array)
    return content


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)
