"""Records what the equivariant transformer of the public package torchmd-net 3.1.0 predicts, with its weights under our
names.

    PYTHON_WITH_TORCHMD_NET tests/reference/record_torchmd_et.py tests/reference

Writes torchmd_et_CASE.npz (weights, structures, energies in eV relative to isolated atoms, forces in eV/Å) and
torchmd_et_CASE.json (versions, seed, arguments). All weights are float32 values, so that both precisions share them.
torchmd-net is given our edges, because its own search takes no cell narrower than two cutoffs; and as it treats an atom
and its own image as one, a crystal is given as 2 x 2 x 2 cells.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from recording import SEED, edges, structures, write
from torchmdnet.models.output_modules import EquivariantScalar
from torchmdnet.models.torchmd_et import TorchMD_ET

SYMBOLS = {1: "H", 6: "C", 8: "O"}
COMMON: dict[str, Any] = {"channels": 16, "n_heads": 4, "n_basis": 10, "epsilon": 0.0}
CASES: dict[str, dict[str, Any]] = {
    "published": {"cutoff": 4.0, "n_layers": 3, **COMMON, "trainable_basis": False, "smooth": False},
    "vector_cutoff": {"cutoff": 4.7, "n_layers": 2, **COMMON, "trainable_basis": True, "smooth": True},
}


class Given(torch.nn.Module):
    """In place of torchmd-net's search for neighbours: edges that are already known, with its loops."""

    def forward(self, positions: torch.Tensor, batch: Any, box: Any = None) -> tuple[torch.Tensor, ...]:
        atoms = torch.arange(len(positions))
        source, target = (torch.cat([index, atoms]) for index in (self.j, self.i))
        vectors = positions[self.j] - positions[self.i] + self.offsets
        distances = torch.linalg.vector_norm(vectors, dim=1)
        zeros = positions.new_zeros(len(positions), 3)
        return torch.stack([source, target]), torch.cat([distances, zeros[:, 0]]), torch.cat([vectors, zeros])


class Model(torch.nn.Module):
    """The representation and its readout, as torchmd-net's TorchMD_Net chains them."""

    def __init__(self, case: Mapping[str, Any]) -> None:
        super().__init__()
        torch.manual_seed(SEED)
        self.representation = TorchMD_ET(
            hidden_channels=case["channels"],
            num_layers=case["n_layers"],
            num_rbf=case["n_basis"],
            trainable_rbf=case["trainable_basis"],
            num_heads=case["n_heads"],
            cutoff_upper=case["cutoff"],
            vector_cutoff=case["smooth"],
        )
        self.representation.distance = Given()
        self.readout = EquivariantScalar(case["channels"])

    def forward(self, numbers: torch.Tensor, positions: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
        """Atom energies (N, 1)."""
        x, v, z, positions, batch = self.representation(numbers, positions, batch)
        return self.readout.pre_reduce(x, v, z, positions, batch)


def weights(model: Model, case: Mapping[str, Any], species: list[int]) -> dict[str, torch.Tensor]:
    """Our parameters from torchmd-net's, less those that meet a vanishing vector or are not read."""
    theirs = model.representation
    around = theirs.neighbor_embedding
    out = {
        "basis.basis.means": theirs.distance_expansion.means,
        "basis.basis.widths": theirs.distance_expansion.betas,
        "embedding": theirs.embedding.weight[species],
        "neighbour_embedding": around.embedding.weight[species],
        "norm.weight": theirs.out_norm.weight,
        "norm.bias": theirs.out_norm.bias,
    }
    layers: dict[str, tuple[torch.nn.Module, Any]] = {
        "neighbour_filter.linear": (around.distance_proj, None),
        "combine": (around.combine, None),
    }
    heads, channels = case["n_heads"], case["channels"]
    rows = torch.arange(3 * channels).reshape(heads, 3, -1).transpose(0, 1).flatten(1)  # x, the passed, the directed
    for k, layer in enumerate(theirs.attention_layers):
        vectors = rows[2] if k == 0 else torch.cat([rows[2], rows[1]])
        first, second, third = torch.arange(3 * channels).chunk(3)
        layers |= {
            f"layers.{k}.norm": (layer.layernorm, None),
            f"layers.{k}.query": (layer.q_proj, None),
            f"layers.{k}.key": (layer.k_proj, None),
            f"layers.{k}.value": (layer.v_proj, rows[0]),
            f"layers.{k}.vector_value": (layer.v_proj, vectors),
            f"layers.{k}.key_filter.linear": (layer.dk_proj, None),
            f"layers.{k}.value_filter.linear": (layer.dv_proj, rows[0]),
            f"layers.{k}.vector_filter.linear": (layer.dv_proj, vectors),
            f"layers.{k}.out": (layer.o_proj, third if k == 0 else torch.cat([third, second, first])),
        }
        if k:
            layers[f"layers.{k}.mix"] = (layer.vec_proj, None)
    gate, readout = model.readout.output_network
    layers |= {
        "gate.measured": (gate.vec1_proj, None),
        "gate.gated": (gate.vec2_proj, None),
        "gate.context.0": (gate.update_net.layers[0], None),
        "gate.context.2": (gate.update_net.layers[2], None),
        "readout.measured": (readout.vec1_proj, None),
        "readout.context.0": (readout.update_net.layers[0], None),
    }
    for name, (layer, chosen) in layers.items():
        for key, value in layer.named_parameters():
            out[f"{name}.{key}"] = value if chosen is None else value[chosen]
    out["readout.context.2.weight"] = readout.update_net.layers[2].weight[:1]
    return out


def evaluate(model: Model, atoms: Atoms, cutoff: float, dtype: torch.dtype) -> tuple[float, np.ndarray]:
    """Energy and forces of all atoms."""
    found, given = edges(atoms, cutoff), model.representation.distance
    given.i, given.j = torch.tensor(found["i"]), torch.tensor(found["j"])
    given.offsets = torch.tensor(found["shift"] @ atoms.cell.array, dtype=dtype)
    positions = torch.tensor(atoms.positions, dtype=dtype, requires_grad=True)
    numbers, batch = torch.tensor(atoms.numbers), torch.zeros(len(atoms), dtype=torch.int64)
    energy = model(numbers, positions, batch).sum()
    (gradient,) = torch.autograd.grad(energy, positions)
    given.i, given.j, given.offsets = given.i[:0], given.j[:0], given.offsets[:0]
    isolated = model(numbers, positions.detach(), batch).sum()
    return (energy - isolated).item(), -gradient.numpy()


def predict(model: Model, cutoff: float, dtype: torch.dtype, atoms: Atoms) -> tuple[float, np.ndarray]:
    if not atoms.pbc.any():
        return evaluate(model, atoms, cutoff, dtype)
    energy, forces = evaluate(model, atoms.repeat(2), cutoff, dtype)
    return energy / 8, forces[: len(atoms)]


def record(name: str, case: dict[str, Any], folder: Path) -> None:
    model = Model(case)
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # biases are zero at first, centres and widths evenly spread
                parameter *= 1 + 0.1 * torch.randn(parameter.shape, generator=generator)
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    mapped = {key: value.detach().numpy() for key, value in weights(model, case, list(SYMBOLS)).items()}
    single = Model(case)
    single.load_state_dict(model.state_dict())
    both = {
        "float64": partial(predict, model.to(torch.float64), case["cutoff"], torch.float64),
        "float32": partial(predict, single, case["cutoff"], torch.float32),
    }
    versions = {package: version(package) for package in ("torchmd-net", "torch", "numpy")}
    arguments = {"species": list(SYMBOLS), **case}
    given = structures(list(SYMBOLS.values()))
    write(folder, f"torchmd_et_{name}", "torchmd_et", arguments, mapped, both, given, versions)


if __name__ == "__main__":
    for label, settings in CASES.items():
        record(label, settings, Path(sys.argv[1]))
