"""Records what DimeNetPlusPlus of the public package torch-geometric 2.8.1 predicts, with its weights under our names.

    PYTHON_WITH_TORCH_GEOMETRIC tests/reference/record_dimenetpp.py tests/reference

Writes dimenetpp_CASE.npz (weights, structures, energies in eV relative to isolated atoms, forces in eV/Å) and
dimenetpp_CASE.json (versions, seed, arguments). All weights are float32 values, so that both precisions share them.

The package's forward pass runs as it is, on index arrays made here: its search for neighbours and its list of triplets
need compiled extensions (torch-cluster, torch-sparse) and know no periodic cells. Images of atoms are further nodes,
and a triplet's edges are those of the atoms that they are images of. In float64 the roots of the spherical Bessel
functions, which the package rounds to float32, are refined.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms
from recording import SEED, edges, structures, write
from scipy.optimize import brentq
from torch_geometric.nn.models import dimenet, dimenet_utils

SPECIES = {"H": 1, "C": 6, "O": 8}
CASES: dict[str, dict[str, Any]] = {
    "paper": {
        "cutoff": 4.0,
        "n_layers": 3,
        "channels": 16,
        "interaction_channels": 8,
        "basis_channels": 4,
        "l_max": 6,
        "n_basis": 6,
        "envelope_p": 6,
        "n_before_skip": 1,
        "n_after_skip": 2,
        "readout_hidden": [24, 24, 24],
    },
    "deep": {
        "cutoff": 3.7,
        "n_layers": 2,
        "channels": 20,
        "interaction_channels": 10,
        "basis_channels": 5,
        "l_max": 3,
        "n_basis": 8,
        "envelope_p": 5,
        "n_before_skip": 2,
        "n_after_skip": 1,
        "readout_hidden": [12, 12],
    },
}
_zeros = dimenet_utils.Jn_zeros


def exact_zeros(n: int, k: int) -> np.ndarray:
    """The package's roots of the spherical Bessel functions, refined to float64."""
    rough = _zeros(n, k).astype(np.float64)
    for order in range(n):
        for index, root in enumerate(rough[order]):
            rough[order, index] = brentq(dimenet_utils.Jn, root - 1e-3, root + 1e-3, (order,), xtol=1e-15)
    return rough


def build(case: Mapping[str, Any], exact: bool) -> Any:
    """The public model, float32, its biases and frequencies moved from their first values."""
    dimenet_utils.Jn_zeros = exact_zeros if exact else _zeros
    torch.manual_seed(SEED)
    model = dimenet.DimeNetPlusPlus(
        hidden_channels=case["channels"],
        out_channels=1,
        num_blocks=case["n_layers"],
        int_emb_size=case["interaction_channels"],
        basis_emb_size=case["basis_channels"],
        out_emb_channels=case["readout_hidden"][0],
        num_spherical=case["l_max"] + 1,
        num_radial=case["n_basis"],
        cutoff=case["cutoff"],
        envelope_exponent=case["envelope_p"] - 1,
        num_before_skip=case["n_before_skip"],
        num_after_skip=case["n_after_skip"],
        num_output_layers=len(case["readout_hidden"]),
        output_initializer="glorot_orthogonal",
    )
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def weights(model: Any, species: list[int]) -> dict[str, torch.Tensor]:
    """Our parameters from the package's."""
    out = {"basis.frequencies": (model.rbf.freq.to(torch.float64) / np.pi)}
    out["embedding.embedding"] = model.emb.emb.weight[species]
    linear = {"embedding.radial": model.emb.lin_rbf, "embedding.linear": model.emb.lin}
    names = {"spherical_1": "lin_sbf1", "spherical_2": "lin_sbf2", "incoming": "lin_kj", "own": "lin_ji"}
    names |= {"down": "lin_down", "up": "lin_up", "skip": "lin", "radial.0": "lin_rbf1", "radial.1": "lin_rbf2"}
    for k, block in enumerate(model.interaction_blocks):
        linear |= {f"interactions.{k}.{ours}": getattr(block, theirs) for ours, theirs in names.items()}
        for part, layers in (("before_skip", block.layers_before_skip), ("after_skip", block.layers_after_skip)):
            for n, layer in enumerate(layers):
                linear |= {f"interactions.{k}.{part}.{n}.first": layer.lin1}
                linear |= {f"interactions.{k}.{part}.{n}.second": layer.lin2}
    for k, block in enumerate(model.output_blocks):
        linear |= {
            f"outputs.{k}.radial": block.lin_rbf,
            f"outputs.{k}.up": block.lin_up,
            f"outputs.{k}.last": block.lin,
        }
        linear |= {f"outputs.{k}.layers.{n}": layer for n, layer in enumerate(block.lins)}
    for name, layer in linear.items():
        out[f"{name}.weight"] = layer.weight
        if layer.bias is not None:
            out[f"{name}.bias"] = layer.bias
    return out


def triplets(found: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Edges k -> j and j -> i of all triplets, k another image than i; an edge of `found` runs from j to i."""
    i, j, shift = found["i"], found["j"], found["shift"]
    starts = np.searchsorted(i, np.arange(max(i.max(initial=0), j.max(initial=0)) + 2))
    counts = starts[j + 1] - starts[j]
    ji = np.repeat(np.arange(len(i)), counts)
    kj = np.arange(counts.sum()) + np.repeat(starts[j] - np.cumsum(counts) + counts, counts)
    kept = (j[kj] != i[ji]) | (shift[kj] + shift[ji]).any(1)
    return kj[kept], ji[kept]


class Nodes(NamedTuple):
    """Atoms and those of their images that edges and triplets reach, and what the package asks for of them."""

    atom: np.ndarray  # of each node
    shift: np.ndarray
    edge_index: torch.Tensor
    lists: tuple[torch.Tensor, ...]  # i, j, idx_i, idx_j, idx_k, idx_kj, idx_ji


def nodes(n_atoms: int, found: Mapping[str, np.ndarray]) -> Nodes:
    kj, ji = triplets(found)
    i, j, shift = found["i"], found["j"], found["shift"]
    places = [np.column_stack([np.arange(n_atoms), np.zeros((n_atoms, 3), dtype=np.int64)])]
    places += [np.column_stack([j, shift]), np.column_stack([j[kj], shift[ji] + shift[kj]])]
    every, number = np.unique(np.concatenate(places), axis=0, return_inverse=True)
    # Atoms themselves first, in their order, so that sums over nodes begin with them.
    first = np.lexsort((every[:, 0], (every[:, 1:] != 0).any(1)))
    number = np.argsort(first)[number.ravel()]
    _, at_j, at_k = np.split(number, np.cumsum([n_atoms, len(j)]))
    lists = tuple(torch.tensor(a) for a in (i, at_j, i[ji], at_j[ji], at_k, kj, ji))
    return Nodes(every[first, 0], every[first, 1:], torch.stack([lists[1], lists[0]]), lists)


def predict(model: torch.nn.Module, cutoff: float, dtype: torch.dtype, atoms: Atoms) -> tuple[float, np.ndarray]:
    def energy(found: Mapping[str, np.ndarray], positions: torch.Tensor) -> torch.Tensor:
        given = nodes(len(atoms), found)
        offsets = torch.tensor(given.shift @ atoms.cell.array, dtype=dtype)
        dimenet.radius_graph = lambda *_, **__: given.edge_index
        dimenet.triplets = lambda *_, **__: given.lists
        out = model(torch.tensor(atoms.numbers[given.atom]), positions[torch.tensor(given.atom)] + offsets)
        return out.sum() - (len(given.atom) - len(atoms)) * alone

    none = {key: value[:0] for key, value in edges(atoms, cutoff).items()}
    positions = torch.tensor(atoms.positions, dtype=dtype, requires_grad=True)
    alone = torch.zeros((), dtype=dtype)
    alone = energy(none, positions).detach() / len(atoms)
    bound = energy(edges(atoms, cutoff), positions)
    (gradient,) = torch.autograd.grad(bound, positions)
    return (bound - len(atoms) * alone).item(), -gradient.numpy()


def record(name: str, case: dict[str, Any], folder: Path) -> None:
    single, double = build(case, False), build(case, True).to(torch.float64)
    mapped = {key: value.detach().numpy() for key, value in weights(single, list(SPECIES.values())).items()}
    evaluate = {
        "float64": partial(predict, double, case["cutoff"], torch.float64),
        "float32": partial(predict, single, case["cutoff"], torch.float32),
    }
    versions = {package: version(package) for package in ("torch-geometric", "torch", "numpy", "sympy", "scipy", "ase")}
    arguments = {"species": list(SPECIES.values()), **case, "trainable_bessel": True}
    write(folder, f"dimenetpp_{name}", "dimenetpp", arguments, mapped, evaluate, structures(list(SPECIES)), versions)


if __name__ == "__main__":
    for name, case in CASES.items():
        record(name, case, Path(sys.argv[1]))
