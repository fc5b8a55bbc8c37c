"""Records what the PaiNN of the public package schnetpack 2.0.4 predicts, with its weights under our names.

    PYTHON_WITH_SCHNETPACK tests/reference/record_painn.py tests/reference

Writes painn_CASE.npz (weights, structures, energies in eV relative to isolated atoms, forces in eV/Å) and
painn_CASE.json (versions, seed, arguments). All weights are float32 values, so that both precisions share them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.utils.data.dataloader
from ase import Atoms
from recording import SEED, edges, structures, write

# schnetpack 2.0.4 imports a name that torch has removed; it is only an annotation there.
torch.utils.data.dataloader.T_co = TypeVar("T_co", covariant=True)
from schnetpack.atomistic import Atomwise  # noqa: E402
from schnetpack.nn import BesselRBF, CosineCutoff, GaussianRBF  # noqa: E402
from schnetpack.representation import PaiNN  # noqa: E402

SYMBOLS = {1: "H", 6: "C", 8: "O"}
CASES: dict[str, dict[str, Any]] = {
    "sine": {
        "cutoff": 4.0,
        "n_layers": 3,
        "channels": 16,
        "n_basis": 20,
        "basis": "sine",
        "readout_hidden": [8],
        "epsilon": 1e-8,
    },
    "gaussian": {
        "cutoff": 4.75,  # of few bits: schnetpack keeps its cutoff as a float32
        "n_layers": 2,
        "channels": 12,
        "n_basis": 9,
        "basis": "gaussian",
        "readout_hidden": [10, 6],
        "epsilon": 1e-6,
    },
}


def build(case: Mapping[str, Any]) -> torch.nn.Module:
    """PaiNN and its readout, as schnetpack's NeuralNetworkPotential chains them."""
    basis = BesselRBF if case["basis"] == "sine" else GaussianRBF
    torch.manual_seed(SEED)
    representation = PaiNN(
        n_atom_basis=case["channels"],
        n_interactions=case["n_layers"],
        radial_basis=basis(n_rbf=case["n_basis"], cutoff=case["cutoff"]),
        cutoff_fn=CosineCutoff(case["cutoff"]),
        epsilon=case["epsilon"],
    )
    hidden = case["readout_hidden"]
    readout = Atomwise(
        n_in=case["channels"], n_hidden=list(hidden), n_layers=len(hidden) + 1, per_atom_output_key="energies"
    )
    return torch.nn.Sequential(representation, readout)


def weights(model: torch.nn.Module, case: Mapping[str, Any], species: list[int]) -> dict[str, torch.Tensor]:
    """Our parameters from schnetpack's, less those that meet a vanishing vector or are not read."""
    painn, readout = model[0], model[1].outnet
    channels, last = case["channels"], case["n_layers"] - 1
    out = {"embedding": painn.embedding.weight[species]}
    own = {"sine": {"frequencies": "freqs"}, "gaussian": {"means": "offsets", "widths": "widths"}}[case["basis"]]
    out |= {f"basis.basis.{name}": getattr(painn.radial_basis, theirs) for name, theirs in own.items()}
    filters = torch.cat([painn.filter_net.weight, painn.filter_net.bias.unsqueeze(1)], 1)  # (L 3C, B+1)
    for k, (interaction, mixing) in enumerate(zip(painn.interactions, painn.mixing, strict=True)):
        n_out = (3 if k else 2) * channels
        first, second = interaction.interatomic_context_net
        out[f"messages.{k}.context.0.weight"], out[f"messages.{k}.context.0.bias"] = first.weight, first.bias
        out[f"messages.{k}.context.2.weight"] = second.weight[:n_out]
        out[f"messages.{k}.context.2.bias"] = second.bias[:n_out]
        out[f"messages.{k}.filter.weight"] = filters[3 * channels * k :][:n_out].T
        first, second = mixing.intraatomic_context_net
        out[f"updates.{k}.mix.weight"] = mixing.mu_channel_mix.weight
        out[f"updates.{k}.context.0.weight"], out[f"updates.{k}.context.0.bias"] = first.weight, first.bias
        order = (0, 2) if k == last else (0, 2, 1)  # schnetpack has the vectors' part in the middle
        for name in ("weight", "bias"):
            parts = getattr(second, name).split(channels)
            out[f"updates.{k}.context.2.{name}"] = torch.cat([parts[n] for n in order])
    for k, layer in enumerate(readout):
        out[f"readout.{2 * k}.weight"] = layer.weight
        if k < len(readout) - 1:
            out[f"readout.{2 * k}.bias"] = layer.bias
    return out


def energies(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Atom energies (N,) of schnetpack's dictionary of inputs."""
    return model(dict(inputs))["energies"].squeeze(1)


def graph(numbers: np.ndarray, found: Mapping[str, np.ndarray], r: torch.Tensor) -> dict[str, torch.Tensor]:
    """schnetpack's inputs for the edges `found`, of vectors r (E, 3)."""
    return {
        "_atomic_numbers": torch.tensor(numbers),
        "_idx_i": torch.tensor(found["i"]),
        "_idx_j": torch.tensor(found["j"]),
        "_Rij": r,
        "_idx_m": torch.zeros(len(numbers), dtype=torch.int64),
    }


def predict(model: torch.nn.Module, cutoff: float, dtype: torch.dtype, atoms: Atoms) -> tuple[float, np.ndarray]:
    found = edges(atoms, cutoff)
    positions = torch.tensor(atoms.positions, dtype=dtype, requires_grad=True)
    offsets = torch.tensor(found["shift"] @ atoms.cell.array, dtype=dtype)
    r = positions[torch.tensor(found["j"])] - positions[torch.tensor(found["i"])] + offsets
    energy = energies(model, graph(atoms.numbers, found, r)).sum()
    (gradient,) = torch.autograd.grad(energy, positions)
    none = {key: value[:0] for key, value in found.items()}
    isolated = energies(model, graph(atoms.numbers, none, r[:0].detach())).sum()
    return (energy - isolated).item(), -gradient.numpy()


def record(name: str, case: dict[str, Any], folder: Path) -> None:
    model = build(case)
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # biases are zero at first
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    mapped = {key: value.detach().numpy() for key, value in weights(model, case, list(SYMBOLS)).items()}
    single, double = build(case), model.to(torch.float64)
    single.load_state_dict(model.state_dict())
    evaluate = {
        "float64": partial(predict, double, case["cutoff"], torch.float64),
        "float32": partial(predict, single, case["cutoff"], torch.float32),
    }
    versions = {package: version(package) for package in ("schnetpack", "torch", "numpy")}
    arguments = {"species": list(SYMBOLS), **case}
    given = structures(list(SYMBOLS.values()))
    write(folder, f"painn_{name}", "painn", arguments, mapped, evaluate, given, versions)


if __name__ == "__main__":
    for label, settings in CASES.items():
        record(label, settings, Path(sys.argv[1]))
