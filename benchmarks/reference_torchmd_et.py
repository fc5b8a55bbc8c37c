"""The side of torchmd-net 3.1.0 in benchmarks/architectures.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import record_torchmd_et
import reference_side
import torch
from ase import Atoms
from ase.neighborlist import neighbor_list

Batch = dict[str, torch.Tensor]


def build(arguments: Mapping[str, Any]) -> tuple[torch.nn.Module, dict[str, np.ndarray]]:
    model = record_torchmd_et.Model(arguments)
    mapped = record_torchmd_et.weights(model, arguments, arguments["species"])
    return model, {name: value.detach().numpy() for name, value in mapped.items()}


def prepare(frames: Sequence[Atoms], arguments: Mapping[str, Any]) -> Batch:
    parts, start = [], 0
    for number, atoms in enumerate(frames):
        i, j, shift = neighbor_list("ijS", atoms, arguments["cutoff"])
        offsets = (shift @ atoms.cell.array).astype(np.float32)
        positions, structure = atoms.positions.astype(np.float32), np.full(len(atoms), number)
        parts.append((atoms.numbers, positions, i + start, j + start, offsets, structure))
        start += len(atoms)
    names = ("numbers", "positions", "i", "j", "offsets", "structure")
    columns = (torch.tensor(np.concatenate(column)) for column in zip(*parts, strict=True))
    return dict(zip(names, columns, strict=True))


def evaluate(model: torch.nn.Module, batch: Batch, training: bool) -> tuple[torch.Tensor, torch.Tensor]:
    assert isinstance(model, record_torchmd_et.Model)
    given = model.representation.distance
    given.i, given.j, given.offsets = batch["i"], batch["j"], batch["offsets"]
    positions = batch["positions"].clone().requires_grad_()
    atoms = model(batch["numbers"], positions, batch["structure"]).squeeze(1)
    energy = atoms.new_zeros(int(batch["structure"].max()) + 1).index_add(0, batch["structure"], atoms)
    (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=training)
    return energy, -gradient


reference_side.run(build, prepare, evaluate)
