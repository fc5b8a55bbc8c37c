"""Writes a nequip model as plain arrays and JSON; runs in the interpreter that has nequip (see exchange.py).

Weights are written as what multiplies, with every normalisation of nequip and e3nn in them: blocks of linear maps
between irreps (C_in, C_out), by layer.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parent))
from exchange import Arrays, Frame, Predict, Refusal, coupling_tensors, required, run, versions

POINTS = [-1.5, -0.3, 0.4, 1.0, 2.5]  # where activations are sampled
# The modules of the networks that can be exported, by the last part of their names.
MODULES = {
    *("one_hot", "spharm_edges", "radial_basis", "chemical_embedding"),
    *("conv_to_output_hidden", "output_hidden_to_scalar", "per_species_rescale"),
    *("type_embed", "spharm", "edge_norm", "bessel_encode", "factor"),
    *("per_atom_energy_readout", "per_type_energy_scale_shift", "pair_potential", "total_energy_sum"),
}


def load_recent(path: Path) -> tuple[Any, dict[str, Any]]:
    """The model of a checkpoint or package of nequip >= 0.7."""
    import inspect

    try:
        from nequip.utils.global_state import set_global_state

        set_global_state()
    except ImportError:
        pass
    from nequip.model import ModelFromCheckpoint, ModelFromPackage

    load = ModelFromPackage if path.name.endswith(".nequip.zip") else ModelFromCheckpoint
    options = {"compile_mode": "eager"} if "compile_mode" in inspect.signature(load).parameters else {}
    try:
        model = load(str(path), **options)
    except Exception as error:
        raise Refusal(f"nequip cannot load {path} ({type(error).__name__}: {error})") from error
    if hasattr(model, "keys"):
        names = list(model.keys())
        if len(names) != 1:
            raise Refusal(f"{path} holds the models {names}; a potential is one model")
        model = model[names[0]]
    metadata = model.metadata if hasattr(model, "metadata") else {}
    names = list(getattr(model, "type_names", None) or str(metadata.get("type_names", "")).split())
    dtype = str(getattr(model, "model_dtype", next(model.parameters()).dtype)).replace("torch.", "")
    return model, {"type_names": names, "dtype": dtype, "cutoff": float(metadata.get("r_max", 0.0)) or None}


def load_old(path: Path) -> tuple[Any, dict[str, Any]]:
    """The model of nequip 0.6: a deployed one, or weights beside their config.yaml."""
    import torch
    import yaml
    from nequip.model import model_from_config
    from nequip.utils import Config
    from nequip.utils._global_options import _set_global_options

    try:
        if any("/code/" in name for name in zipfile.ZipFile(path).namelist()):
            from nequip.scripts.deploy import load_deployed_model

            deployed, metadata = load_deployed_model(path, device="cpu", freeze=False)
            config = Config.from_dict(yaml.load(metadata["config"], yaml.Loader))  # it has Python objects
            state = deployed.state_dict()
        else:
            if not (path.parent / "config.yaml").is_file():
                raise Refusal(f"{path} holds weights only; keep it beside the config.yaml of its training")
            config = Config.from_file(str(path.parent / "config.yaml"))
            state = torch.load(path, map_location="cpu")
        dtype = str(config.get("model_dtype", config.get("default_dtype", "float32"))).replace("torch.", "")
        config["default_dtype"] = config["model_dtype"] = "float64"  # its own rounding is no part of the model
        _set_global_options(config)
        model = model_from_config(config, initialize=False)
        model.load_state_dict(state)
    except (Refusal, KeyboardInterrupt):
        raise
    except Exception as error:
        raise Refusal(f"nequip cannot load {path} ({type(error).__name__}: {error})") from error
    symbols = config.get("type_to_chemical_symbol")
    names = [symbols[k] for k in range(len(symbols))] if symbols else list(config["type_names"])
    return model, {"type_names": names, "dtype": dtype, "cutoff": float(config["r_max"])}


def parts_of(model: Any, path: Path) -> dict[str, Any]:
    """The modules of the sequence by name. Raises Refusal when it is not the sequence of a NequIP."""
    sequences = [m for m in model.modules() if type(m).__name__ == "SequentialGraphNetwork"]
    if not sequences:
        raise Refusal(f"{path} holds a {type(model).__name__} without the sequence of a NequIP; not supported")
    parts = dict(sequences[0].named_children())
    unknown = [name for name in parts if name not in MODULES and not name.endswith("_convnet")]
    if unknown or not any(name.endswith("_convnet") for name in parts):
        raise Refusal(f"{path} is not a NequIP that can be imported: it has the modules {', '.join(unknown or parts)}")
    return parts


def irreps_of(irreps: Any) -> list[list[int]]:
    """[channels, degree, parity] of each block."""
    return [[int(mul), int(ir.l), int(ir.p)] for mul, ir in irreps]


def linear(module: Any, name: str, arrays: Arrays) -> dict[str, Any]:
    """The blocks of an e3nn Linear, in `arrays` as NAME/IN/OUT."""
    for _, ins, view in module.weight_views(yield_instruction=True):
        arrays[f"{name}/{ins.i_in}/{ins.i_out}"] = (view * ins.path_weight).detach().numpy()
    return {"in": irreps_of(module.irreps_in), "out": irreps_of(module.irreps_out)}


def self_connection(module: Any, name: str, arrays: Arrays) -> dict[str, Any]:
    """The blocks (C_in, attributes, C_out) of an e3nn FullyConnectedTensorProduct with scalars."""
    import torch
    from e3nn import o3

    for view, ins in zip(module.weight_views(), module.instructions):  # noqa: B905 - old interpreters
        degree = module.irreps_in1[ins.i_in1].ir.l
        if module.irreps_in2[ins.i_in2].ir.l or len(module.irreps_in2) > 1:
            raise Refusal("self-connections with attributes other than scalars are not supported")
        factor = float(o3.wigner_3j(degree, 0, degree, dtype=torch.float64)[0, 0, 0])
        arrays[f"{name}/{ins.i_in1}/{ins.i_out}"] = (view * ins.path_weight * factor).detach().numpy()
    return {"in": irreps_of(module.irreps_in1), "out": irreps_of(module.irreps_out)}


def mlp(module: Any, name: str, arrays: Arrays) -> str | None:
    """Weights (in, out) of a network of scalars, in `arrays` as NAME/LAYER; the name of its activation."""
    if hasattr(module, "hs"):  # e3nn's FullyConnectedNet, whose activations are normalised
        constant, act = 1.0, None
        for k, layer in enumerate(module):
            weight = layer.weight * constant / float(layer.h_in * layer.var_in) ** 0.5 * float(layer.var_out) ** 0.5
            arrays[f"{name}/{k}"] = weight.detach().numpy()
            constant = float(getattr(layer.act, "cst", 1.0)) if layer.act is not None else 1.0
            act = layer.act if layer.act is not None else act
        return None if act is None else str(getattr(getattr(act, "f", act), "__name__", act))
    inner = module.mlp if hasattr(module, "mlp") else module
    if hasattr(inner, "weights"):  # a deep linear one
        for k, weight in enumerate(inner.weights):
            arrays[f"{name}/{k}"] = (weight * (inner.alpha if k == 0 else 1.0)).detach().numpy()
        return None
    layers = [layer for layer in inner if hasattr(layer, "weight")]
    for k, layer in enumerate(layers):
        if layer.bias is not None:
            raise Refusal("networks with biases are not supported")
        arrays[f"{name}/{k}"] = (layer.weight * layer.alpha).detach().numpy()
    others = [type(layer).__name__.lower() for layer in inner if not hasattr(layer, "weight")]
    return others[0] if others else None


def convnet(layer: Any, name: str, arrays: Arrays) -> dict[str, Any]:
    """One layer: its tensor product's paths in the order of their weights, linear maps, gate, normalisation."""
    import torch

    block, gate = layer.conv, layer.equivariant_nonlin
    product = block.tp_scatter.tp if hasattr(block, "tp_scatter") else block.tp
    out: dict[str, Any] = {
        "paths": [
            {
                "in": int(ins.i_in1),
                "sh": int(ins.i_in2),
                "position": int(ins.i_out),
                "out": irreps_of(product.irreps_out)[ins.i_out],
                "factor": float(ins.path_weight),
            }
            for ins in product.instructions
        ],
        "harmonics": irreps_of(product.irreps_in2),
        "linear_1": linear(block.linear_1, f"{name}/linear_1", arrays),
        "linear_2": linear(block.linear_2, f"{name}/linear_2", arrays),
        "self_connection": None if block.sc is None else self_connection(block.sc, f"{name}/self_connection", arrays),
        "radial_activation": mlp(block.edge_mlp if hasattr(block, "edge_mlp") else block.fc, f"{name}/radial", arrays),
        "residual": bool(layer.resnet),
        "gate": type(gate).__name__,
    }
    average = getattr(block, "avg_num_neighbors", None)
    if hasattr(block, "avg_num_neighbors_norm"):
        arrays[f"{name}/norm"] = block.avg_num_neighbors_norm.norm_const.detach().flatten().numpy()
    else:
        arrays[f"{name}/norm"] = np.array([1.0 if average is None else float(average) ** -0.5])
    if type(gate).__name__ == "Gate":
        out["scalars"] = irreps_of(gate.irreps_scalars)
        out["gates"], out["gated"] = irreps_of(gate.irreps_gates), irreps_of(gate.irreps_gated)
        points = torch.tensor(POINTS, dtype=next(layer.parameters()).dtype)
        for kind, module in (("scalars", gate.act_scalars), ("gates", gate.act_gates)):
            for k, act in enumerate(module.acts):
                arrays[f"{name}/{kind}/{k}"] = (points if act is None else act(points)).detach().numpy()
    return out


def describe(parts: dict[str, Any], model: Any, arrays: Arrays) -> dict[str, Any]:
    """The description; the arrays go into `arrays`."""
    import torch

    layers = [parts[f"layer{k}_convnet"] for k in range(sum(name.endswith("_convnet") for name in parts))]
    out: dict[str, Any] = {"layers": [convnet(layer, f"layers/{k}", arrays) for k, layer in enumerate(layers)]}
    arrays["activation/points"] = np.array(POINTS)
    if "type_embed" in parts:  # 0.7 and later
        embed, basis = parts["type_embed"], parts["bessel_encode"]
        if getattr(embed, "do_categorical_graph_field_embed", False):
            raise Refusal("embeddings of graph fields (categorical_graph_field_embed) are not supported")
        table = embed.embed_module.weight if hasattr(embed, "embed_module") else embed.weight
        arrays["embedding"] = arrays["attributes"] = table.detach().numpy()
        arrays["frequencies"] = basis.bessel_weights.detach().flatten().numpy()
        arrays["pair_cutoffs"] = parts["edge_norm"]._rmax_recip.reciprocal().detach().flatten().numpy()
        out["envelope_p"] = float(basis.cutoff.p)
        out["readout_activation"] = mlp(parts["per_atom_energy_readout"].mlp_module, "readout", arrays)
        rescale = parts.get("per_type_energy_scale_shift")
    else:
        linear(parts["chemical_embedding"].linear, "embedding_blocks", arrays)
        arrays["embedding"] = arrays.pop("embedding_blocks/0/0")
        arrays["attributes"] = np.eye(len(arrays["embedding"]))
        radial = parts["radial_basis"]
        if type(radial.basis).__name__ != "BesselBasis" or type(radial.cutoff).__name__ != "PolynomialCutoff":
            raise Refusal(f"the radial basis {type(radial.basis).__name__} is not supported")
        arrays["frequencies"] = radial.basis.bessel_weights.detach().flatten().numpy() / np.pi
        arrays["pair_cutoffs"] = np.array([float(radial.basis.r_max)])
        out["envelope_p"] = float(radial.cutoff.p)
        for k, name in enumerate(("conv_to_output_hidden", "output_hidden_to_scalar")):
            module = parts[name].linear
            blocks = {ins.i_in: view * ins.path_weight for _, ins, view in module.weight_views(yield_instruction=True)}
            even = [i for i, (_, ir) in enumerate(module.irreps_in) if ir.l == 0 and ir.p == 1]
            if list(blocks) != even or len(even) != 1 or len(module.irreps_out) != 1:
                raise Refusal(f"{name} of irreps {module.irreps_in} to {module.irreps_out} is not supported")
            arrays[f"readout/{k}"] = blocks[even[0]].detach().numpy()
        out["readout_activation"] = None
        rescale = parts.get("per_species_rescale")
    n_types = len(arrays["embedding"])
    for name, neutral in (("scales", 1.0), ("shifts", 0.0)):
        value = getattr(rescale, name, torch.zeros(0)).detach().to(torch.float64).flatten().numpy()
        arrays[name] = np.broadcast_to(value if value.size else np.array([neutral]), (n_types,)).copy()
    out["global_scale"] = 1.0
    for module in model.modules():
        if type(module).__name__ == "RescaleOutput":
            if module.has_shift and float(module.shift_by):
                raise Refusal("a global shift of the total energy is not extensive and not supported")
            if module.has_scale and "total_energy" in module.scale_keys:
                out["global_scale"] *= float(module.scale_by)
    pair = parts.get("pair_potential")
    out["pair_potential"] = None
    if pair is not None:
        if type(pair).__name__ != "ZBL":
            raise Refusal(f"the pair potential {type(pair).__name__} is not supported, only ZBL is")
        out["pair_potential"] = {
            "coulomb": 2 * float(pair._qqr2exesquare),
            "envelope_p": float(getattr(pair.cutoff, "p", 6.0)) if hasattr(pair, "cutoff") else out["envelope_p"],
            "atomic_numbers": [int(z) for z in pair.atomic_numbers],
        }
    return out


def predictor(model: Any, names: list[str], cutoff: float, recent: bool) -> Predict:
    """Energy and forces of one frame by the model's own forward pass."""
    import torch
    from ase import Atoms
    from ase.data import chemical_symbols

    def predict(frame: Frame) -> tuple[float, np.ndarray]:
        from nequip.data import AtomicDataDict

        symbols = [chemical_symbols[z] for z in frame.atomic_numbers]
        unknown = sorted(set(symbols) - set(names))
        if unknown:
            raise Refusal(f"a frame to check has {', '.join(unknown)}; the model knows {', '.join(names)}")
        types = torch.tensor([names.index(symbol) for symbol in symbols])
        atoms = Atoms(symbols, frame.positions, cell=frame.cell, pbc=frame.pbc)
        if recent:
            from nequip.data import compute_neighborlist_, from_ase

            data = from_ase(atoms)
            data[AtomicDataDict.ATOM_TYPE_KEY] = types
            data = compute_neighborlist_(data, r_max=cutoff)
        else:
            from nequip.data import AtomicData

            data = AtomicData.to_AtomicDataDict(AtomicData.from_ase(atoms, r_max=cutoff))
            data.pop("atomic_numbers", None)
            data[AtomicDataDict.ATOM_TYPE_KEY] = types.view(-1, 1)
        out = model(data)
        return out[AtomicDataDict.TOTAL_ENERGY_KEY].item(), out[AtomicDataDict.FORCE_KEY].detach().numpy()

    return predict


def export(path: Path) -> tuple[dict[str, Any], Arrays, list[int], Predict]:
    """See `exchange.run`. Predictions are in float64 for 0.6, in the model's own precision since 0.7, where all but the
    network is in float64 anyway."""
    nequip = required("nequip", "nequip", "0.6")
    import torch

    if path.name.endswith((".nequip.pt2", ".nequip.pth")):
        raise Refusal(
            f"{path} is compiled, without its architecture; give the .ckpt or the .nequip.zip it was made from"
        )
    recent = [int(part) for part in nequip.__version__.split(".")[:2]] >= [0, 7]
    old_file = path.suffix == ".pth"
    if recent == old_file:
        wanted = "0.6" if old_file else "0.7 or later"
        raise Refusal(f"{path} is of nequip {wanted}, and {sys.executable} has nequip {nequip.__version__}")
    torch.set_default_dtype(torch.float64)
    model, values = (load_recent if recent else load_old)(path)
    model = model.to("cpu").eval()
    arrays: Arrays = {}
    with torch.no_grad():
        values.update(describe(parts_of(model, path), model, arrays))
    values["cutoff"] = values["cutoff"] or float(arrays["pair_cutoffs"].max())
    degree = max((degree for layer in values["layers"] for _, degree, _ in layer["harmonics"]), default=1)
    arrays.update(coupling_tensors(max(degree, 1)))
    from ase.data import atomic_numbers

    names = values["type_names"]
    wrong = [name for name in names if name not in atomic_numbers]
    if wrong:
        raise Refusal(f"the model's types are {', '.join(names)}, of which {', '.join(wrong)} are no chemical symbols")
    description = {"package": "nequip", **values, "versions": versions("nequip", "e3nn", "torch")}
    species = [int(atomic_numbers[name]) for name in names]
    return description, arrays, species, predictor(model, names, values["cutoff"], recent)


if __name__ == "__main__":
    run(export)
