"""The side of the public Equiformer in benchmarks/architectures.py.

The interpreter has its repository on the path, by a .pth file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import record_equiformer
import reference_side
import torch
from ase import Atoms
from ase.neighborlist import neighbor_list


class Batch(NamedTuple):
    """Positions (N, 3) of all atoms, and the edges source -> target with their shifts (E, 3) in Å."""

    numbers: torch.Tensor
    positions: torch.Tensor
    source: torch.Tensor
    target: torch.Tensor
    shifts: torch.Tensor
    structure: torch.Tensor


def build(arguments: Mapping[str, Any]) -> tuple[torch.nn.Module, dict[str, np.ndarray]]:
    model = record_equiformer.build(arguments, torch.float32)
    mapped = record_equiformer.weights(model, arguments, arguments["species"])
    return model, {name: value.numpy() for name, value in mapped.items()}


def prepare(frames: Sequence[Atoms], arguments: Mapping[str, Any]) -> Batch:
    numbers, positions, source, target, shifts, structure, first = [], [], [], [], [], [], 0
    for index, atoms in enumerate(frames):
        i, j, shift = neighbor_list("ijS", atoms, arguments["cutoff"])
        numbers.append(atoms.numbers)
        positions.append(atoms.positions)
        source.append(j + first)
        target.append(i + first)
        shifts.append(shift @ atoms.cell.array)
        structure.append(np.full(len(atoms), index))
        first += len(atoms)
    parts = (numbers, positions, source, target, shifts, structure)
    tensors = [torch.from_numpy(np.concatenate(part)) for part in parts]
    return Batch(*(t.to(torch.float32) if t.is_floating_point() else t.to(torch.int64) for t in tensors))


def evaluate(model: torch.nn.Module, batch: Batch, training: bool) -> tuple[torch.Tensor, torch.Tensor]:
    positions = batch.positions.clone().requires_grad_()
    vectors = positions[batch.source] + batch.shifts - positions[batch.target]
    energy = record_equiformer.energy(model, batch.numbers, batch.source, batch.target, vectors, batch.structure)
    (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=training)
    return energy, -gradient


reference_side.run(build, prepare, evaluate)
