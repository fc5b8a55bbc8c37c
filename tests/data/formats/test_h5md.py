"""H5MD: what simulations write is read, and so is what others write; what is not understood is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

from fireassay.data.readers import read
from fireassay.errors import InputError
from fireassay.interop.ase import structure_of
from fireassay.simulation.integrators import VelocityVerlet
from fireassay.simulation.observers import Recorder
from fireassay.simulation.run import simulate
from fireassay.simulation.state import generators, maxwell_boltzmann, replicate
from fireassay.simulation.trajectory import TrajectoryWriter
from toys import Pair

h5py = pytest.importorskip("h5py")


def test_a_trajectory_of_ours(tmp_path: Path):
    start = structure_of(bulk("Ar", "fcc", a=5.3, cubic=True))
    state = maxwell_boltzmann(replicate(start, 1), 60.0, generators(0, 1))
    recorder = Recorder(2, ("positions", "forces", "potential_energy"))
    writer = TrajectoryWriter([tmp_path / "t.h5"], 2)
    simulate(Pair(cutoff=6.0), state, VelocityVerlet(2.0), 20, observers=[recorder, writer])
    seen, frames = recorder.arrays(), read(tmp_path / "t.h5")
    assert len(frames) == 11
    np.testing.assert_allclose([s.positions for s in frames], seen["positions"], atol=1e-6)
    np.testing.assert_allclose([s.forces for s in frames], seen["forces"], atol=1e-6)
    np.testing.assert_allclose([s.energy for s in frames], seen["potential_energy"][:, 0])
    np.testing.assert_allclose(frames[3].cell, np.eye(3) * 5.3)
    assert frames[3].pbc.all()


def foreign(path: Path, **changes) -> Path:
    """A water in nm, with a box that does not change, as other programs write it."""
    with h5py.File(path, "w") as file:
        file.create_group("h5md").attrs["version"] = [1, 1]
        group = file.create_group("particles/solute")
        group["species"] = np.array(changes.get("species", [8, 1, 1]))
        x = np.array([[[0, 0, 0], [0.096, 0, 0], [-0.024, 0.093, 0]]] * 2)
        group["position/value"] = changes.get("positions", x)
        group["position/value"].attrs["unit"] = changes.get("unit", "nm")
        box = group.create_group("box")
        box.attrs["boundary"] = [b"periodic"] * 3
        box["edges"] = changes.get("edges", [1.0, 1.2, 1.4])
        box["edges"].attrs["unit"] = "nm"
    return path


def test_a_trajectory_of_others(tmp_path: Path):
    first, second = read(foreign(tmp_path / "w.h5"), labels=False)
    assert first.atomic_numbers.tolist() == [8, 1, 1]
    np.testing.assert_allclose(second.positions[1], [0.96, 0, 0])
    np.testing.assert_allclose(first.cell, np.diag([10.0, 12, 14]))
    assert first.energy is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"unit": "furlong"}, "is in furlong; known are"),
        ({"species": [8, 1]}, "species has shape"),
        ({"positions": np.zeros((2, 3))}, "positions have shape"),
        ({"edges": [1.0, 2.0]}, "box edges have shape"),
        ({"species": [8, 0, 1]}, "are no elements"),
    ],
)
def test_what_is_not_understood_is_said(changes, said: str, tmp_path: Path):
    with pytest.raises(InputError, match=said):
        read(foreign(tmp_path / "w.h5", **changes), labels=False)


def test_links_into_other_files_are_not_followed(tmp_path: Path):
    foreign(tmp_path / "secret.h5")
    path = foreign(tmp_path / "w.h5")
    with h5py.File(path, "a") as file:
        del file["particles/solute/position"]
        file["particles/solute/position"] = h5py.ExternalLink("secret.h5", "/particles/solute/position")
    with pytest.raises(InputError, match="leads into another file"):
        read(path, labels=False)


def test_sizes_that_cannot_be_are_refused(tmp_path: Path):
    path = foreign(tmp_path / "w.h5")
    with h5py.File(path, "a") as file:
        del file["particles/solute/position/value"]
        made = file.create_dataset("particles/solute/position/value", (10**9, 3, 3), "f8", chunks=(1, 3, 3))
        made.attrs["unit"] = "nm"
    with pytest.raises(InputError, match="claims 72 GB, far more than the file"):
        read(path, labels=False)
