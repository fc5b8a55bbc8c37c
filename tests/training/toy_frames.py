"""Frames with labels from a closed form, and a network that learns them in a second."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from fireassay.data.graph import from_structures
from fireassay.data.structure import Provenance, Structure
from fireassay.potential import Baseline
from toys import Network, Pair

CUTOFF = 4.0


def labelled_frames(count: int, seed: int = 0, crystal: bool = False) -> list[Structure]:
    """Frames of five or six H, C and O atoms with energies, forces (and stress) of a pair potential."""
    generator = np.random.default_rng(seed)
    oracle = Pair(cutoff=CUTOFF)
    corners = np.array([[i, j, k] for i in range(2) for j in range(2) for k in range(2)], dtype=float)
    frames = []
    for number in range(count):
        n = 5 + number % 2
        frame = Structure(
            atomic_numbers=np.array([1, 6, 8, 1, 6, 1])[:n],
            positions=1.4 * corners[:n] + generator.normal(scale=0.12, size=(n, 3)),
            cell=4.5 * np.eye(3) if crystal else np.zeros((3, 3)),
            pbc=np.full(3, crystal),
            provenance=Provenance(file="toy.xyz", frame=number),
        )
        prediction = oracle.predict(from_structures([frame], CUTOFF), forces=True, stress=crystal)
        assert prediction.forces is not None
        stress = prediction.stress[0].numpy() if prediction.stress is not None else None
        frames.append(
            replace(frame, energy=float(prediction.energy[0]), forces=prediction.forces.numpy(), stress=stress)
        )
    return frames


def network(seed: int = 0, dtype: torch.dtype = torch.float64) -> Baseline:
    """A trainable potential on top of isolated atoms."""
    inner = Network([1, 6, 8], cutoff=CUTOFF, seed=seed).to(dtype)
    return Baseline(inner, {1: -1.0, 6: -2.0, 8: -3.0}, trainable_scale=True)
