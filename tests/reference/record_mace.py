"""Records energies and forces of mace-torch under random weights: python record_mace.py OUTPUT_FOLDER.

Run with an interpreter that has mace-torch 0.3.16 (e3nn 0.4.4). Each case is written to OUTPUT_FOLDER/mace_CASE.npz:
arguments as JSON, the state dict without buffers under "weights/NAME" (float32), positions, cells, and the energies
and forces of a float64 and a float32 model for a molecule and a triclinic crystal. Neighbour lists are mace-torch's
own. Nothing here touches fireassay: the mapping of the weights is `fireassay.interop.mace_weights`.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import mace  # noqa: F401  (before e3nn: it allows e3nn to load its constants)
import numpy as np
import torch
from ase import Atoms
from e3nn import o3
from mace import data, modules
from mace.tools import AtomicNumberTable, torch_geometric

CASES = {
    "scalar": {"hidden_l_max": 0, "l_max": 2, "correlation": 1},
    "vector": {"hidden_l_max": 1, "l_max": 2, "correlation": 2, "trainable_bessel": True},
    "tensor": {"hidden_l_max": 2, "l_max": 3, "correlation": 3},
    "residual": {"hidden_l_max": 1, "l_max": 3, "correlation": 3, "residual_first": True, "n_layers": 3},
}
COMMON = {
    "species": [1, 6, 8],
    "cutoff": 4.0,
    "n_layers": 2,
    "channels": 4,
    "n_basis": 5,
    "trainable_bessel": False,
    "envelope_p": 5,
    "radial_hidden": [6, 5],
    "readout_hidden": 3,
    "average_neighbours": 6.5,
    "residual_first": False,
    "seed": 0,
}


def model_of(arguments: dict, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    channels, parity = arguments["channels"], "eo"
    hidden = "+".join(f"{channels}x{degree}{parity[degree % 2]}" for degree in range(arguments["hidden_l_max"] + 1))
    first = "RealAgnosticResidualInteractionBlock" if arguments["residual_first"] else "RealAgnosticInteractionBlock"
    model = modules.MACE(
        r_max=arguments["cutoff"],
        num_bessel=arguments["n_basis"],
        num_polynomial_cutoff=arguments["envelope_p"],
        max_ell=arguments["l_max"],
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes[first],
        num_interactions=arguments["n_layers"],
        num_elements=len(arguments["species"]),
        hidden_irreps=o3.Irreps(hidden),
        MLP_irreps=o3.Irreps(f"{arguments['readout_hidden']}x0e"),
        atomic_energies=np.zeros(len(arguments["species"])),
        avg_num_neighbors=arguments["average_neighbours"],
        atomic_numbers=arguments["species"],
        correlation=arguments["correlation"],
        gate=torch.nn.functional.silu,
        radial_MLP=arguments["radial_hidden"],
        use_reduced_cg=False,
    )
    if arguments["trainable_bessel"]:
        factors = 1 + 0.1 * torch.rand(arguments["n_basis"])
        model.radial_embedding.bessel_fn.bessel_weights *= factors
    return model


def structures() -> list[Atoms]:
    rng = np.random.default_rng(1)
    molecule = Atoms(
        "OCHHHCOHH",
        [[0, 0, 0], [1.4, 0, 0.1], [1.8, 1, 0], [1.7, -0.6, 0.9], [1.8, -0.5, -0.9], [-0.9, 1.1, 0.3], [-0.6, 2.3, 0.2],
         [-1.9, 0.8, 0.5], [-0.8, -0.5, 2.7]],
    )  # fmt: skip
    cell = [[3.1, 0, 0], [0.9, 2.9, 0], [-0.4, 0.7, 3.6]]
    crystal = Atoms("COHH", rng.random((4, 3)) @ cell, cell=cell, pbc=True)
    crystal.positions = np.array([[0, 0, 0], [1.2, 0.8, 1.9], [1.9, 2.1, 0.9], [0.3, 1.5, 3.0]])
    return [molecule, crystal]


def evaluate(model: torch.nn.Module, atoms: Atoms, arguments: dict) -> tuple[float, np.ndarray]:
    table = AtomicNumberTable(arguments["species"])
    config = data.config_from_atoms(atoms)
    graph = data.AtomicData.from_config(config, z_table=table, cutoff=arguments["cutoff"])
    batch = next(iter(torch_geometric.dataloader.DataLoader([graph], batch_size=1)))
    out = model(batch.to_dict())
    return out["energy"].item(), out["forces"].detach().numpy()


def isolated(model: torch.nn.Module, arguments: dict) -> list[float]:
    atoms = [Atoms([z], [[0, 0, 0]]) for z in arguments["species"]]
    energies = []
    for atom in atoms:  # mace-torch needs an edge: a neighbour just beyond the cutoff, of the same element
        pair = Atoms([atom.numbers[0]] * 2, [[0, 0, 0], [0, 0, arguments["cutoff"] * (1 - 1e-9)]])
        energies.append(evaluate(model, pair, arguments)[0] / 2)
    return energies


def record(name: str, folder: Path) -> None:
    arguments = COMMON | CASES[name]
    torch.set_default_dtype(torch.float32)
    model = model_of(arguments, seed=len(name))
    weights = {key: value.detach().numpy() for key, value in model.named_parameters()}
    weights["radial_embedding.bessel_fn.bessel_weights"] = model.radial_embedding.bessel_fn.bessel_weights.numpy()
    out = {f"weights/{key}": value.astype(np.float32) for key, value in weights.items()}
    for dtype in (torch.float64, torch.float32):
        torch.set_default_dtype(dtype)
        twin = model_of(arguments, seed=0)
        twin.load_state_dict({k: torch.from_numpy(v).to(dtype) for k, v in weights.items()}, strict=False)
        suffix = str(dtype).removeprefix("torch.")
        out[f"isolated/{suffix}"] = np.array(isolated(twin, arguments))
        for k, atoms in enumerate(structures()):
            energy, forces = evaluate(twin, atoms, arguments)
            out |= {f"{k}/energy/{suffix}": np.array(energy), f"{k}/forces/{suffix}": forces}
    for k, atoms in enumerate(structures()):
        out |= {f"{k}/numbers": atoms.numbers, f"{k}/positions": atoms.positions, f"{k}/cell": atoms.cell.array}
    provenance = {package: version(package) for package in ("mace-torch", "e3nn", "torch", "numpy")}
    out["arguments"] = np.array(json.dumps(arguments))
    out["provenance"] = np.array(json.dumps({"versions": provenance, "script": Path(__file__).name, "seed": len(name)}))
    np.savez_compressed(folder / f"mace_{name}.npz", **out)


if __name__ == "__main__":
    for case in CASES:
        record(case, Path(sys.argv[1]))
