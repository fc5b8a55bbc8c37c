"""Copper data and a configuration that trains in a second, for everything that happens in a run folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from fireassay.config import Config, load_config
from fireassay.pipeline.assay import Request, run_assays
from fireassay.pipeline.train import run_training
from fireassay.progress import Silent


def crystals(n: int, seed: int, amplitude: float = 0.08) -> list[Atoms]:
    """Rattled, strained 4-atom copper cells with EMT labels."""
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(n):
        atoms = bulk("Cu", cubic=True)
        atoms.set_cell(atoms.cell @ (np.eye(3) + rng.uniform(-0.02, 0.02, (3, 3))), scale_atoms=True)
        atoms.positions += rng.normal(0, amplitude, atoms.positions.shape)
        atoms.calc = EMT()
        labels = {
            "energy": atoms.get_potential_energy(),
            "forces": atoms.get_forces(),
            "stress": atoms.get_stress(),
        }
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    return frames


class Project:
    """A folder with data, a configuration, and what the verbs do with them."""

    def __init__(self, root: Path) -> None:
        self.root, self.run = root, root / "run"
        self.config = root / "config.yaml"

    def load(self, *overrides: str) -> Config:
        return load_config(self.config, overrides)

    def train(self, *overrides: str, restart: bool = False, folder: Path | None = None) -> list[str]:
        """Trains; returns what was told, but for the number of threads."""
        told: list[str] = []
        run_training(self.load(*overrides), folder or self.run, Silent(), restart, told.append)
        return [line for line in told if " threads (" not in line]

    def assay(self, *names: str, folder: Path | None = None, **more) -> list[str]:
        """Assays; returns what was told."""
        told: list[str] = []
        chosen = [name for name in names if "=" not in name]
        overrides = [name for name in names if "=" in name]
        run_assays(Request(folder or self.run, chosen, overrides, tell=told.append, **more), Silent())
        return told


@pytest.fixture
def write_frames(tmp_path: Path) -> Callable[..., None]:
    def made(name: str, n: int, seed: int, amplitude: float = 0.08) -> None:
        write(tmp_path / name, crystals(n, seed, amplitude))

    return made


@pytest.fixture
def project(tmp_path: Path, write_frames: Callable[..., None]) -> Project:
    write_frames("train.xyz", 12, 0)
    write_frames("hot.xyz", 4, 1, 0.15)
    config = {
        "name": "tiny",
        "dtype": "float64",
        "data": {
            "train": str(tmp_path / "train.xyz"),
            "validation": {"count": 2},
            "test": {"hot": str(tmp_path / "hot.xyz")},
        },
        "model": {"type": "nequip", "cutoff": 3.5, "n_layers": 1, "l_max": 1, "channels": 4, "parity": False},
        "training": {"epochs": 2, "loss": {"stress": {"weight": 1.0}}},
        "assays": {
            "accuracy": {},
            "stability": {"replicas": 2, "duration": 20.0, "temperature": 300.0, "drift_duration": 0},
            "landscape": {"n_directions": 2, "points": 3},
            "uncertainty": {"k": 3, "intervals": False},
        },
    }
    (tmp_path / "config.yaml").write_text(json.dumps(config), encoding="utf-8")
    return Project(tmp_path)
