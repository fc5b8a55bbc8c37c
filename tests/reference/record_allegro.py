"""Records what the public code of Allegro predicts, with its weights under our names and in our order.

    PYTHONPATH=ALLEGRO_0.2.0 PYTHON_WITH_NEQUIP_0.6.2 tests/reference/record_allegro.py tests/reference
    PYTHON_WITH_NEQUIP_ALLEGRO_0.3.0 tests/reference/record_allegro.py tests/reference

Version 0.2.0, that of the paper, is the authors' repository mir-group/allegro at commit 22f673c (it is not on PyPI);
0.3.0 is the PyPI package nequip-allegro. Both run with nequip 0.6.2, e3nn 0.5 and torch 2.13 as they are. Each run
writes the cases of the version that it finds: allegro_CASE.npz (weights, structures, energies in eV, forces in eV/Å)
and allegro_CASE.json (versions, seed, arguments). Weights are float32 values, so that both precisions share them.
"""

from __future__ import annotations

import sys
import warnings
from functools import partial
from math import pi
from pathlib import Path
from typing import Any

import allegro
import allegro.nn._allegro as public
import e3nn
import nequip
import numpy as np
import torch
from ase import Atoms
from e3nn.o3 import Irreps
from nequip.model import model_from_config
from recording import SEED, edges, structures, write

SPECIES = {"H": 1, "C": 6, "O": 8}
PAPER = allegro.__version__.startswith("0.2")
CASES: dict[str, dict[str, Any]] = {
    "paper_l2": {
        "cutoff": 4.2,
        "n_layers": 2,
        "l_max": 2,
        "parity": True,
        "channels": 4,
        "n_basis": 8,
        "trainable_bessel": True,
        "envelope_p": 6,
        "two_body_widths": [8, 12, 16],
        "latent_widths": [12, 16],
        "readout_hidden": [6],
        "readout_activation": None,
        "average_neighbours": 11.0,
    },
    "paper_l3": {
        "cutoff": 4.3,
        "n_layers": 3,
        "l_max": 3,
        "parity": True,
        "channels": 3,
        "n_basis": 6,
        "trainable_bessel": False,
        "envelope_p": 4,
        "two_body_widths": [10],
        "latent_widths": [10],
        "readout_hidden": [],
        "readout_activation": None,
        "average_neighbours": 9.5,
    },
    "product_l2": {
        "cutoff": 3.9,
        "n_layers": 3,
        "l_max": 2,
        "parity": False,
        "channels": 4,
        "n_basis": 7,
        "trainable_bessel": True,
        "envelope_p": 6,
        "two_body_widths": [8, 12],
        "latent_widths": [14, 12],
        "readout_hidden": [6],
        "readout_activation": "silu",
        "average_neighbours": 11.0,
        "two_body": "product",
        "own_edge": False,
        "update_ratio": [1.0, 2**-0.5, 3**-0.5],
    },
}


def build(case: dict[str, Any], dtype: str) -> torch.nn.Module:
    """The public model; its tensor products note what they couple (`Products`)."""
    given = {
        "model_builders": ["allegro.model.Allegro"],
        "model_dtype": dtype,
        "num_types": len(SPECIES),
        "type_names": list(SPECIES),
        "r_max": case["cutoff"],
        "num_layers": case["n_layers"],
        "l_max": case["l_max"],
        "parity": "o3_full" if case["parity"] else "o3_restricted",
        "avg_num_neighbors": case["average_neighbours"],
        "PolynomialCutoff_p": case["envelope_p"],
        "two_body_latent_mlp_latent_dimensions": case["two_body_widths"],
        "two_body_latent_mlp_nonlinearity": "silu",
        "latent_mlp_latent_dimensions": case["latent_widths"],
        "latent_mlp_nonlinearity": "silu",
        "latent_resnet": True,
        "env_embed_mlp_latent_dimensions": [],
        "env_embed_mlp_nonlinearity": None,
        "edge_eng_mlp_latent_dimensions": case["readout_hidden"],
        "edge_eng_mlp_nonlinearity": case["readout_activation"],
    }
    if PAPER:
        given |= {"env_embed_multiplicity": case["channels"], "embed_initial_edge": True}
        given |= {"num_basis": case["n_basis"], "BesselBasis_trainable": case["trainable_bessel"]}
    else:
        given |= {"num_tensor_features": case["channels"], "num_bessels_per_basis": case["n_basis"]}
        given |= {"radial_basis_trainable": case["trainable_bessel"]}
        given |= {"self_edge_tensor_product": case["own_edge"]}
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # nequip wants its own to be the wider
    torch.manual_seed(SEED)
    PRODUCTS.clear()
    model = model_from_config(given, initialize=False)
    torch.set_default_dtype(previous)
    return model.model if hasattr(model, "model") else model


PRODUCTS: list[tuple[Irreps, Irreps, Irreps, list[tuple[int, int, int]]]] = []
_contracter = public.Contracter


def _noted(irreps_in1: Irreps, irreps_in2: Irreps, irreps_out: Irreps, instructions: Any, **others: Any) -> Any:
    """The package's tensor product, whose compiled form does not say what it couples."""
    PRODUCTS.append((irreps_in1, irreps_in2, irreps_out, list(instructions)))
    return _contracter(
        irreps_in1=irreps_in1, irreps_in2=irreps_in2, irreps_out=irreps_out, instructions=instructions, **others
    )


public.Contracter = _noted


def order(layer: int) -> list[int]:
    """Our paths of a layer as places among the package's: by output irrep, then those of the features and harmonics."""
    one, two, out, instructions = PRODUCTS[layer]
    keys = [(out[k].ir.l, out[k].ir.p, one[i].ir.l, one[i].ir.p, two[j].ir.l) for i, j, k in instructions]
    return sorted(range(len(keys)), key=keys.__getitem__)


def dense(network: torch.nn.Module) -> list[torch.Tensor]:
    """The weights of a network, layer by layer."""
    found = dict(network._forward.named_parameters())
    return [found[f"_weight_{index}"] for index in range(len(found))]


def mixing(layer: int, packed: torch.Tensor, channels: int) -> list[torch.Tensor]:
    """The weights (P C_in, C_out) of the linear layer after a tensor product, one for each irrep that it makes."""
    out = [block.ir for block in PRODUCTS[layer][2]]
    blocks, start = {}, 0
    for irrep in dict.fromkeys(out):
        places = [k for k, other in enumerate(out) if other == irrep]
        size = channels * channels * len(places)
        view = packed[start : start + size].reshape(channels, channels, len(places))  # v, u, n
        blocks |= {place: view[:, :, n].T for n, place in enumerate(places)}
        start += size
    made = sorted(set(out), key=lambda irrep: (irrep.l > 0 or irrep.p < 0, irrep.l, irrep.p))
    return [torch.cat([blocks[k] for k in order(layer) if out[k] == irrep]) for irrep in made]


def weights(model: torch.nn.Module, case: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The parameters of our Allegro from those of the package's."""
    core, channels, n_irreps = model.allegro, case["channels"], case["l_max"] + 1
    out: dict[str, torch.Tensor] = {}
    if PAPER:
        normalised = model.radial_basis.basis
        out["two_body.basis.frequencies"] = normalised.basis.bessel_weights / pi
        out["two_body.mean"], out["two_body.inverse"] = normalised._mean, normalised._inv_std
    else:
        out["two_body.basis.frequencies"] = model.radial_basis.bessel_weights * case["cutoff"] / pi
        out["two_body.embedding"] = model.typeembed.type_embeddings
        out["two_body.linear.weights.0"] = dense(model.typeembed.basis_mlp)[0]
    out |= {f"two_body.latent.weights.{k}": weight for k, weight in enumerate(dense(core.latents[0]))}
    later = [*core.latents[1:], core.final_latent]
    for layer, network in enumerate(later):
        name = f"layers.{layer}"
        embed = dense(core.env_embed_mlps[layer])[0]  # columns: environment after edge, each by channel and irrep
        *initial, columns = embed.reshape(len(embed), -1, channels, n_irreps).transpose(2, 3).unbind(1)
        out |= {f"{name}.initial.weights.0": weight.flatten(1) for weight in initial}
        out[f"{name}.embed.weights.0"] = columns.flatten(1)
        if layer < case["n_layers"] - 1:
            mixed = mixing(layer, core.linears[layer].w, channels)  # even scalars come first
            out |= {f"{name}.mix.{k}.weights.0": weight for k, weight in enumerate(mixed)}
        first, *rest = dense(network)
        width = len(embed)
        scalars = [k for k in order(layer) if str(PRODUCTS[layer][2][k].ir) == "0e"]
        rows = first[width:].unflatten(0, (channels, len(scalars)))[:, scalars].transpose(0, 1).flatten(0, 1)
        out |= {f"{name}.latent.weights.{k}": w for k, w in enumerate([torch.cat([first[:width], rows]), *rest])}
    out |= {f"readout.weights.{k}": weight for k, weight in enumerate(dense(model.edge_eng._module))}
    return out


def evaluate(
    model: torch.nn.Module, data: dict[str, torch.Tensor], training: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Energies (S,) and forces (N, 3), differentiable when training."""
    data = {key: value.clone() for key, value in data.items()}
    data["pos"].requires_grad_()
    energy = model(data)["total_energy"].squeeze(-1)
    (gradient,) = torch.autograd.grad(energy.sum(), data["pos"], create_graph=training)
    return energy, -gradient


def prepare(frames: list[Atoms], cutoff: float, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The package's batch, with our edges; frames of a batch are all periodic or none is."""
    found = [edges(atoms, cutoff) for atoms in frames]
    starts = np.cumsum([0, *[len(atoms) for atoms in frames]])
    types = [list(SPECIES).index(symbol) for atoms in frames for symbol in atoms.get_chemical_symbols()]
    index = [np.stack([f["i"], f["j"]])[:, np.argsort(f["i"], kind="stable")] for f in found]
    index = [pair + start for pair, start in zip(index, starts[:-1], strict=True)]
    data = {
        "pos": torch.tensor(np.concatenate([atoms.positions for atoms in frames]), dtype=dtype),
        "atom_types": torch.tensor(types),
        "edge_index": torch.tensor(np.concatenate(index, 1)),
        "batch": torch.repeat_interleave(torch.arange(len(frames)), torch.tensor(np.diff(starts))),
        "ptr": torch.tensor(starts),
    }
    if frames[0].pbc.any():
        shifts = [f["shift"][np.argsort(f["i"], kind="stable")] for f in found]
        data["edge_cell_shift"] = torch.tensor(np.concatenate(shifts), dtype=dtype)
        data["cell"] = torch.tensor(np.stack([atoms.cell.array for atoms in frames]), dtype=dtype)
    return data


def predict(model: torch.nn.Module, cutoff: float, dtype: torch.dtype, atoms: Atoms) -> tuple[float, np.ndarray]:
    energy, forces = evaluate(model, prepare([atoms], cutoff, dtype), False)
    return energy.item(), forces.detach().numpy()


def record(name: str, case: dict[str, Any], folder: Path) -> None:
    model, single = build(case, "float64"), build(case, "float32")
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("bessel_weights"):
                parameter *= 1 + 0.05 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(parameter.to(torch.float32).to(torch.float64))
    single.load_state_dict(model.state_dict())
    mapped = {key: value.detach().to(torch.float64).numpy() for key, value in weights(model, case).items()}
    double = {"two_body.mean", "two_body.inverse", "two_body.basis.frequencies"}  # constants, and those in other units
    rounded = {key: value if key in double else value.astype(np.float32) for key, value in mapped.items()}
    functions = {
        str(dtype).split(".")[1]: partial(predict, network, case["cutoff"], dtype)
        for dtype, network in ((torch.float64, model), (torch.float32, single))
    }
    versions = {module.__name__: module.__version__ for module in (allegro, nequip, e3nn, torch, np)}
    if PAPER:
        versions["commit of mir-group/allegro"] = "22f673c"
    arguments = {"species": list(SPECIES.values()), **case}
    write(folder, f"allegro_{name}", "allegro", arguments, rounded, functions, structures(list(SPECIES)), versions)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for label, settings in CASES.items():
        if label.startswith("paper") == PAPER:
            record(label, settings, Path(sys.argv[1]))
