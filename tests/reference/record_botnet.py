"""Records what the authors' BOTNet predicts, with its weights under our names and in our order.

    PYTHONPATH=CHECKOUT_OF_BOTNET PYTHON tests/reference/record_botnet.py tests/reference

CHECKOUT_OF_BOTNET is github.com/gncs/botnet at commit 0929483; PYTHON has e3nn 0.4.4, torch, numpy and ase. (mace-torch
has a class BOTNet up to release 0.3.10, but its layers ask for an argument that the class does not give.) torch is told
that e3nn's file of constants, which holds a slice, is safe to load. The authors' radial network has three hidden layers
of 64; to keep the files small it is replaced by the same network in the recorded widths.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from recording import SEED, edges, structures, write

torch.serialization.add_safe_globals([slice])
import e3nn  # noqa: E402
from botnet import modules  # noqa: E402
from e3nn import nn, o3  # noqa: E402
from e3nn.o3 import Irrep  # noqa: E402

COMMIT = "092948309720f54c658e25cebcd1cf2d2878ffe8"
SPECIES = {"H": 1, "C": 6, "O": 8}
CASES: dict[str, dict[str, Any]] = {
    "parity_l3": {"n_layers": 4, "hidden_l_max": 3, "envelope_p": 6, "radial_hidden": [8, 8, 8]},
    "element_dependent": {
        "cutoff": 3.7,
        "hidden_l_max": 2,
        "parity": False,
        "channels": 5,
        "trainable_bessel": True,
        "average_neighbours": 9.5,
        "element_dependent": True,
    },
    "residual_first": {"l_max": 2, "hidden_l_max": 2, "element_dependent": True, "residual_first": True},
    "egraffbench": {"n_layers": 5, "hidden_l_max": 2, "parity": False, "radial_hidden": [8, 8, 8], "n_basis": 8},
}
COMMON: dict[str, Any] = {
    "cutoff": 4.0,
    "n_layers": 3,
    "l_max": 3,
    "hidden_l_max": 3,
    "parity": True,
    "channels": 4,
    "n_basis": 5,
    "trainable_bessel": False,
    "envelope_p": 5,
    "radial_hidden": [64, 64, 64],
    "readout_hidden": 6,
    "average_neighbours": 11.0,
    "element_dependent": False,
    "residual_first": False,
}


def hidden(case: dict[str, Any]) -> list[Irrep]:
    """The irreps of the features between layers, in our order."""
    both = [Irrep(degree, p) for degree in range(case["hidden_l_max"] + 1) for p in (-1, 1)]
    return [ir for ir in both if case["parity"] or ir.p == (-1) ** ir.l]


def build(case: dict[str, Any], dtype: torch.dtype) -> torch.nn.Module:
    torch.set_default_dtype(dtype)
    torch.manual_seed(SEED)
    dependent = "ResidualElementDependentInteractionBlock"
    later = dependent if case["element_dependent"] else "AgnosticResidualNonlinearInteractionBlock"
    first = later if case["residual_first"] else "AgnosticNonlinearInteractionBlock"
    model = modules.NonLinearBodyOrderedModel(
        r_max=case["cutoff"],
        num_bessel=case["n_basis"],
        num_polynomial_cutoff=case["envelope_p"],
        max_ell=case["l_max"],
        interaction_cls=modules.interaction_classes[later],
        interaction_cls_first=modules.interaction_classes[first],
        num_interactions=case["n_layers"],
        num_elements=len(SPECIES),
        hidden_irreps=o3.Irreps([(case["channels"], ir) for ir in hidden(case)]),
        MLP_irreps=o3.Irreps(f"{case['readout_hidden']}x0e"),
        atomic_energies=np.zeros(len(SPECIES)),
        gate=torch.nn.functional.silu,
        avg_num_neighbors=case["average_neighbours"],
    )
    for layer in model.interactions:
        if isinstance(layer.conv_tp_weights, nn.FullyConnectedNet):
            widths = [case["n_basis"], *case["radial_hidden"], layer.conv_tp.weight_numel]
            layer.conv_tp_weights = nn.FullyConnectedNet(widths, torch.nn.functional.silu)
    return model


def randomise(model: torch.nn.Module, case: dict[str, Any]) -> None:
    """Rounds the weights to float32; gives the element-dependent ones, tiny at first, unit variance, and moves the
    Bessel frequencies away from the integers when they are trained."""
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("conv_tp_weights.weights"):
                parameter.normal_(generator=generator)
                parameter /= parameter.shape[1] ** 0.5
            parameter.copy_(parameter.to(torch.float32).to(parameter.dtype))
        if case["trainable_bessel"]:
            frequencies = model.radial_embedding.bessel_fn.bessel_weights
            frequencies *= 1 + 0.1 * torch.rand(frequencies.shape, generator=generator)


def live(case: dict[str, Any]) -> list[set[Irrep]]:
    """The irreps that each layer has to make, those from which the energy can be reached; the authors' makes all."""
    harmonics = [Irrep(degree, (-1) ** degree) for degree in range(case["l_max"] + 1)]
    sets = [{Irrep(0, 1)}]
    for _ in range(case["n_layers"] - 1):
        into = {a for a in hidden(case) for b in harmonics for out in a * b if out in sets[0]}
        sets.insert(0, into)
    return sets


def by_irrep(linear: torch.nn.Module, channels: int) -> dict[Irrep, torch.Tensor]:
    """The weight of an e3nn Linear: (blocks in, C_in, C_out)."""
    views = linear.weight_views(yield_instruction=True)
    return {linear.irreps_in[ins.i_in].ir: view.reshape(-1, channels, view.shape[1]) for _, ins, view in views}


def sign(*irreps: Irrep) -> int:
    """Of our Clebsch-Gordan tensor relative to that of e3nn 0.4: negative for (1, l, l) with l of 2 or more."""
    low, middle, high = sorted(ir.l for ir in irreps)
    return -1 if low == 1 and middle == high >= 2 else 1


def weights(model: torch.nn.Module, case: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The parameters of our BOTNet from those of the authors' model."""
    channels, n_species = case["channels"], len(SPECIES)
    out = {
        "embedding": model.node_embedding.linear.weight.reshape(n_species, channels),
        "basis.frequencies": model.radial_embedding.bessel_fn.bessel_weights.flatten() * case["cutoff"] / torch.pi,
    }
    made = {Irrep(0, 1)}
    for number, (layer, wanted) in enumerate(zip(model.interactions, live(case), strict=True)):
        product, name = layer.conv_tp, f"layers.{number}"
        inputs, harmonics, outputs = product.irreps_in1, product.irreps_in2, product.irreps_out
        paths = [
            (ins.i_out, k, inputs[ins.i_in1].ir, harmonics[ins.i_in2].ir, outputs[ins.i_out].ir)
            for k, ins in enumerate(product.instructions)
        ]
        kept = sorted(p for p in paths if p[2] in made and p[4] in wanted)
        first = by_irrep(layer.linear_up, channels)
        out[f"{name}.linear_up.weight"] = torch.stack([first[ir][0] for ir in sorted(made)])

        def columns(weight: torch.Tensor) -> torch.Tensor:
            signs = torch.tensor([sign(*p[2:]) for p in kept]).unsqueeze(1)  # noqa: B023
            chosen = weight.unflatten(-1, (len(paths), channels))[..., [p[1] for p in kept], :]  # noqa: B023
            return (chosen * signs).flatten(-2)

        if isinstance(layer.conv_tp_weights, nn.FullyConnectedNet):
            dense = [module.weight for module in layer.conv_tp_weights]
            for index, weight in enumerate([*dense[:-1], columns(dense[-1])]):
                out[f"{name}.radial.weights.{index}"] = weight
        else:  # ours are scaled by the square root of the number of basis functions
            scaled = columns(layer.conv_tp_weights.weights) * case["n_basis"] ** 0.5
            out[f"{name}.radial.weight"] = scaled.unsqueeze(1)

        mix = by_irrep(layer.linear, channels)
        position = [[q[0] for q in sorted(paths) if q[4] == p[4]].index(p[0]) for p in kept]
        out[f"{name}.mix.weight"] = torch.stack([mix[p[4]][k] for p, k in zip(kept, position, strict=True)])
        reached = wanted & {ir for _, ir in layer.irreps_out}
        views = zip(layer.skip_tp.instructions, layer.skip_tp.weight_views(), strict=True)
        skip = {layer.skip_tp.irreps_in1[ins.i_in1].ir: view.transpose(0, 1) for ins, view in views}
        through = reached & (made if number or case["residual_first"] else reached)
        out[f"{name}.skip.weight"] = torch.stack([skip[ir] for ir in sorted(through)], 1)
        made = reached

        readout = model.readouts[number]
        stages = [readout.linear] if hasattr(readout, "linear") else [readout.linear_1, readout.linear_2]
        for index, stage in enumerate(stages):
            even = by_irrep(stage, stage.irreps_in[0].mul)[Irrep(0, 1)]
            out[f"readouts.{number}.weights.{index}"] = even[0]
    return out


def batch_of(frames: list[Atoms], cutoff: float, species: list[int]) -> dict[str, torch.Tensor]:
    """What the model reads, from the edges of `recording.edges`; its own neighbour list knows no cells."""
    dtype, parts, start = torch.get_default_dtype(), [], 0
    for number, atoms in enumerate(frames):
        found = edges(atoms, cutoff)
        parts.append(
            {
                "edge_index": torch.from_numpy(np.stack([found["j"], found["i"]])) + start,
                "shifts": torch.from_numpy(-found["shift"] @ atoms.cell.array).to(dtype),
                "positions": torch.from_numpy(atoms.positions).to(dtype),
                "node_attrs": torch.eye(len(species), dtype=dtype)[[species.index(z) for z in atoms.numbers]],
                "batch": torch.full((len(atoms),), number),
            }
        )
        start += len(atoms)
    joined = {key: torch.cat([part[key] for part in parts], int(key == "edge_index")) for key in parts[0]}
    return {**joined, "num_graphs": len(frames)}  # type: ignore[dict-item]


class Batch(dict):
    """A dictionary whose items are attributes, too."""

    __getattr__ = dict.__getitem__


def predict(model: torch.nn.Module, cutoff: float, atoms: Atoms) -> tuple[float, np.ndarray]:
    dtype = next(model.parameters()).dtype
    torch.set_default_dtype(dtype)
    out = model(Batch(batch_of([atoms], cutoff, list(SPECIES.values()))))
    alone = isolated(model)
    energy = out["energy"].item() - sum(alone[list(SPECIES.values()).index(z)] for z in atoms.numbers)
    return energy, out["forces"].detach().numpy()


def isolated(model: torch.nn.Module) -> list[float]:
    """Energies of atoms without neighbours; the forces, which the model always wants, are those of a far away pair."""
    energies = []
    for z in SPECIES.values():
        given = Batch(batch_of([Atoms([z, z], np.zeros((2, 3)))], 1.0, list(SPECIES.values())))
        given["edge_index"], given["shifts"] = torch.tensor([[0], [1]]), torch.tensor([[0.0, 0.0, 1e3]])
        energies.append(model(given)["energy"].item() / 2)
    return energies


def record(name: str, case: dict[str, Any], folder: Path) -> None:
    case = {**COMMON, **case}
    model = build(case, torch.float64)
    randomise(model, case)
    single = build(case, torch.float32)
    single.load_state_dict(model.state_dict())
    mapped = {key: value.detach().to(torch.float64).numpy() for key, value in weights(model, case).items()}
    exact = ("basis.frequencies", *(key for key in mapped if key.endswith("radial.weight")))
    rounded = {key: value if key in exact else value.astype(np.float32) for key, value in mapped.items()}
    evaluate = {"float64": partial(predict, model, case["cutoff"]), "float32": partial(predict, single, case["cutoff"])}
    versions = {"gncs/botnet": COMMIT, **{module.__name__: module.__version__ for module in (e3nn, torch, np)}}
    arguments = {"species": list(SPECIES.values()), **case}
    write(folder, f"botnet_{name}", "botnet", arguments, rounded, evaluate, structures(list(SPECIES)), versions)


if __name__ == "__main__":
    for label, settings in CASES.items():
        record(label, settings, Path(sys.argv[1]))
