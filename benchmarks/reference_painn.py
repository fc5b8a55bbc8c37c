"""The side of schnetpack 2.0.4 in benchmarks/architectures.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import record_painn
import reference_side
import torch
from ase import Atoms
from ase.neighborlist import neighbor_list
from schnetpack.atomistic import Forces, PairwiseDistances


def build(arguments: Mapping[str, Any]) -> tuple[torch.nn.Module, dict[str, np.ndarray]]:
    model = record_painn.build(arguments)
    mapped = record_painn.weights(model, arguments, arguments["species"])
    forces = Forces(energy_key="y", force_key="forces")
    whole = torch.nn.Sequential(PairwiseDistances(), *model, forces)
    return whole, {name: value.detach().numpy() for name, value in mapped.items()}


def prepare(frames: Sequence[Atoms], arguments: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    parts, start = [], 0
    for number, atoms in enumerate(frames):
        i, j, shift = neighbor_list("ijS", atoms, arguments["cutoff"])
        numbers, structure = atoms.numbers, np.full(len(atoms), number)
        parts.append((numbers, atoms.positions, i + start, j + start, shift @ atoms.cell.array, structure))
        start += len(atoms)
    names = ("_atomic_numbers", "_positions", "_idx_i", "_idx_j", "_offsets", "_idx_m")
    batch = {
        name: torch.tensor(np.concatenate(column)) for name, column in zip(names, zip(*parts, strict=True), strict=True)
    }
    return {name: value.to(torch.float32) if value.is_floating_point() else value for name, value in batch.items()}


def evaluate(
    model: torch.nn.Module, batch: Mapping[str, torch.Tensor], training: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    out = model.train(training)({**batch, "_positions": batch["_positions"].clone().requires_grad_()})
    return out["y"], out["forces"]


reference_side.run(build, prepare, evaluate)
