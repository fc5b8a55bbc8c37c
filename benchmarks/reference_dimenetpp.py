"""The side of torch-geometric 2.8.1 in benchmarks/architectures.py.

The forward pass of its DimeNetPlusPlus from edge vectors and a list of triplets that is made once: without its search
for neighbours and triplets, which do not know periodic cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import record_dimenetpp
import reference_side
import torch
from ase import Atoms
from recording import edges


class Batch(NamedTuple):
    numbers: torch.Tensor  # (N,)
    positions: torch.Tensor  # (N, 3)
    structure: torch.Tensor  # (N,)
    i: torch.Tensor  # (E,)
    j: torch.Tensor  # (E,)
    offsets: torch.Tensor  # (E, 3)
    kj: torch.Tensor  # (T,)
    ji: torch.Tensor  # (T,)


def build(arguments: Mapping[str, Any]) -> tuple[torch.nn.Module, dict[str, np.ndarray]]:
    model = record_dimenetpp.build(arguments, exact=False)
    mapped = record_dimenetpp.weights(model, list(arguments["species"]))
    return model, {name: value.detach().numpy() for name, value in mapped.items()}


def prepare(frames: Sequence[Atoms], arguments: Mapping[str, Any]) -> Batch:
    parts, atoms_before, edges_before = [], 0, 0
    for number, atoms in enumerate(frames):
        found = edges(atoms, arguments["cutoff"])
        kj, ji = record_dimenetpp.triplets(found)
        offsets = (found["shift"] @ atoms.cell.array).astype(np.float32)
        here = np.full(len(atoms), number), found["i"] + atoms_before, found["j"] + atoms_before
        positions = atoms.positions.astype(np.float32)
        parts.append((atoms.numbers, positions, *here, offsets, kj + edges_before, ji + edges_before))
        atoms_before, edges_before = atoms_before + len(atoms), edges_before + len(offsets)
    return Batch(*(torch.tensor(np.concatenate(column)) for column in zip(*parts, strict=True)))


def evaluate(model: Any, batch: Batch, training: bool) -> tuple[torch.Tensor, torch.Tensor]:
    positions = batch.positions.clone().requires_grad_()
    i, j, n_atoms = batch.i, batch.j, len(positions)
    r = positions[i] - positions[j] - batch.offsets
    distances = r.pow(2).sum(-1).sqrt()
    first, second = r[batch.ji], r[batch.kj]
    angle = torch.atan2(torch.cross(first, second, dim=1).norm(dim=-1), (first * second).sum(-1))
    radial, spherical = model.rbf(distances), model.sbf(distances, angle, batch.kj)
    x = model.emb(batch.numbers, radial, i, j)
    energies = model.output_blocks[0](x, radial, i, num_nodes=n_atoms)
    for interaction, output in zip(model.interaction_blocks, model.output_blocks[1:], strict=True):
        x = interaction(x, radial, spherical, batch.kj, batch.ji)
        energies = energies + output(x, radial, i, num_nodes=n_atoms)
    energy = energies.new_zeros(int(batch.structure[-1]) + 1).index_add(0, batch.structure, energies.squeeze(1))
    (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=training)
    return energy, -gradient


reference_side.run(build, prepare, evaluate)
