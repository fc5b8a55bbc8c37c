"""Records what the public package nequip 0.19.1 predicts, with its weights under our names and in our order.

    PYTHON_WITH_NEQUIP tests/reference/record_nequip.py tests/reference

Writes nequip_CASE.npz (weights, structures, energies in eV, forces in eV/Å) and nequip_CASE.json (versions, seed, the
arguments of both sides). Weights are float32 values, so that both precisions share them; only those of the
self-connections, which contract nequip's with its embedding of the species, need float64.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import e3nn
import nequip
import numpy as np
import torch
from ase import Atoms
from e3nn.o3 import Irrep, Irreps
from nequip.data import AtomicDataDict, compute_neighborlist_, from_ase
from nequip.model import NequIPGNNModel
from nequip.utils.global_state import set_global_state
from recording import SEED, structures, write

SPECIES = {"H": 1, "C": 6, "O": 8}
CASES: dict[str, dict[str, Any]] = {
    "parity_l2": {
        "cutoff": 4.0,
        "n_layers": 4,
        "l_max": 2,
        "parity": True,
        "channels": 8,
        "n_basis": 8,
        "trainable_bessel": True,
        "envelope_p": 6,
        "radial_hidden": [16, 16],
        "readout_hidden": [6],
        "readout_activation": None,
        "average_neighbours": 11.0,
    },
    "no_parity_l1": {
        "cutoff": 3.7,
        "n_layers": 2,
        "l_max": 1,
        "parity": False,
        "channels": 12,
        "n_basis": 6,
        "trainable_bessel": False,
        "envelope_p": 5,
        "radial_hidden": [16],
        "readout_hidden": [],
        "readout_activation": None,
        "average_neighbours": 9.5,
    },
    "parity_l3": {
        "cutoff": 4.2,
        "n_layers": 3,
        "l_max": 3,
        "parity": True,
        "channels": 4,
        "n_basis": 8,
        "trainable_bessel": True,
        "envelope_p": 6,
        "radial_hidden": [8, 8, 8],
        "readout_hidden": [5],
        "readout_activation": "silu",
        "average_neighbours": 20.0,
    },
}


def build(case: dict[str, Any], dtype: str) -> torch.nn.Module:
    hidden = case["readout_hidden"]
    return NequIPGNNModel(
        seed=SEED,
        model_dtype=dtype,
        r_max=case["cutoff"],
        type_names=list(SPECIES),
        num_layers=case["n_layers"],
        l_max=case["l_max"],
        parity=case["parity"],
        num_features=case["channels"],
        radial_mlp_depth=len(case["radial_hidden"]),
        radial_mlp_width=case["radial_hidden"][0],
        readout_mlp_hidden_layers_depth=len(hidden),
        readout_mlp_hidden_layers_width=hidden[0] if hidden else None,
        readout_mlp_nonlinearity=case["readout_activation"],
        num_bessels=case["n_basis"],
        bessel_trainable=case["trainable_bessel"],
        polynomial_cutoff_p=case["envelope_p"],
        avg_num_neighbors=case["average_neighbours"],
        per_type_energy_scales=1.0,
        per_type_energy_shifts=0.0,
    )


def parts(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The modules of nequip's sequence by name: type_embed, bessel_encode, layer0_convnet, ..."""
    found = {}
    for name, module in model.named_modules():
        leaf = name.rsplit(".", 1)[-1]
        if leaf.endswith("_convnet") or leaf in ("type_embed", "bessel_encode", "per_atom_energy_readout"):
            found[leaf] = module
    return found


def live(case: dict[str, Any]) -> list[set[Irrep]]:
    """The irreps that each layer has to make, those from which the energy can be reached; nequip makes them all."""
    harmonics = [Irrep(degree, (-1) ** degree) for degree in range(case["l_max"] + 1)]
    sets = [{Irrep(0, 1)}]
    for _ in range(case["n_layers"] - 1):
        both = [Irrep(degree, p) for degree in range(case["l_max"] + 1) for p in (1, -1)]
        into = {a for a in both for b in harmonics for out in a * b if out in sets[0]}
        sets.insert(0, into | sets[0])
    return sets


def blocks(linear: torch.nn.Module, channels: int) -> dict[Irrep, torch.Tensor]:
    """The weight of an e3nn Linear by irrep: (n_in, C_in, n_out, C_out)."""
    out = {}
    for _, instruction, view in linear.weight_views(yield_instruction=True):
        n_in, n_out = (size // channels for size in view.shape)
        out[linear.irreps_in[instruction.i_in].ir] = view.reshape(n_in, channels, n_out, channels)
    return out


def weights(model: torch.nn.Module, case: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The parameters of our NequIP from those of nequip's."""
    found, channels = parts(model), case["channels"]
    table = found["type_embed"].embed_module.weight
    out = {"embedding": table, "basis.frequencies": found["bessel_encode"].bessel_weights.flatten()}
    made, makes = {Irrep(0, 1)}, live(case)
    for layer, wanted in enumerate(makes):
        block = found[f"layer{layer}_convnet"].conv
        hidden = [ir for _, ir in Irreps(block.irreps_in["node_features"])]
        product, name = block.tp_scatter.tp, f"layers.{layer}"
        # Paths that start from and lead to live irreps, in the order of the product's outputs.
        paths = [
            (ins.i_out, k, product.irreps_in1[ins.i_in1].ir, product.irreps_out[ins.i_out].ir)
            for k, ins in enumerate(product.instructions)
        ]
        kept = sorted(p for p in paths if p[2] in made and p[3] in wanted)
        used = [ir for ir in hidden if any(p[2] == ir for p in kept)]
        first = blocks(block.linear_1, channels)
        out[f"{name}.linear.weight"] = torch.stack([first[ir][0, :, 0] for ir in used])

        dense = [m.weight for m in block.edge_mlp.mlp if hasattr(m, "weight")]
        columns = dense[-1].unflatten(1, (len(paths), channels))[:, [p[1] for p in kept]]
        for index, weight in enumerate([*dense[:-1], columns.flatten(1)]):
            out[f"{name}.radial.weights.{index}"] = weight

        # Even scalars of the output: the scalars themselves, then one gate for each higher irrep in hidden order.
        outputs = [ir for _, ir in found[f"layer{layer}_convnet"].equivariant_nonlin.irreps_gated]
        gates = [0, *[1 + k for k, ir in enumerate(outputs) if ir in wanted]]
        second, mix = blocks(block.linear_2, channels), []
        for p in kept:
            position = [q[0] for q in sorted(paths) if q[3] == p[3]].index(p[0])
            targets = gates if p[3] == Irrep(0, 1) else [0]
            mix += [second[p[3]][position, :, t] for t in targets]
        out[f"{name}.mix.weight"] = torch.stack(mix)

        if block.sc is not None:
            connection = []
            for ir in hidden:
                for view, ins in zip(block.sc.weight_views(), block.sc.instructions, strict=True):
                    if block.sc.irreps_in1[ins.i_in1].ir == ir and ir in made and ir in wanted:
                        contracted = torch.einsum("uvw,zv->zuw", view, table) / channels**0.5
                        split = contracted.unflatten(2, (-1, channels))
                        connection += [split[:, :, t] for t in (gates if ir == Irrep(0, 1) else [0])]
            out[f"{name}.self_connection.weight"] = torch.stack(connection, 1)
        reachable = {ir for _, ir in found[f"layer{layer}_convnet"].irreps_out["node_features"]}
        made = wanted & reachable
    readout = found["per_atom_energy_readout"].mlp_module.mlp
    dense = (
        list(readout.weights) if hasattr(readout, "weights") else [m.weight for m in readout if hasattr(m, "weight")]
    )
    return {**out, **{f"readout.weights.{index}": weight for index, weight in enumerate(dense)}}


def predict(model: torch.nn.Module, cutoff: float, atoms: Atoms) -> tuple[float, np.ndarray]:
    data = from_ase(atoms)
    data[AtomicDataDict.ATOM_TYPE_KEY] = torch.tensor([list(SPECIES).index(s) for s in atoms.get_chemical_symbols()])
    data = compute_neighborlist_(data, r_max=cutoff)
    out = model(data)
    return out[AtomicDataDict.TOTAL_ENERGY_KEY].item(), out[AtomicDataDict.FORCE_KEY].detach().numpy()


def randomise(model: torch.nn.Module) -> None:
    """Rounds the weights to float32, and moves the Bessel frequencies away from the integers when they are trained."""
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bessel_weights"):
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(parameter.to(torch.float32).to(parameter.dtype))


def record(name: str, case: dict[str, Any], folder: Path) -> None:
    model = build(case, "float64")
    randomise(model)
    single = build(case, "float32")
    single.load_state_dict(model.state_dict())
    mapped = {key: value.detach().to(torch.float64).numpy() for key, value in weights(model, case).items()}
    rounded = {key: dense if "self_connection" in key else dense.astype(np.float32) for key, dense in mapped.items()}
    evaluate = {"float64": partial(predict, model, case["cutoff"]), "float32": partial(predict, single, case["cutoff"])}
    versions = {module.__name__: module.__version__ for module in (nequip, e3nn, torch, np)}
    arguments = {"species": list(SPECIES.values()), **case}
    write(folder, f"nequip_{name}", "nequip", arguments, rounded, evaluate, structures(list(SPECIES)), versions)


if __name__ == "__main__":
    set_global_state()
    for label, settings in CASES.items():
        record(label, settings, Path(sys.argv[1]))
