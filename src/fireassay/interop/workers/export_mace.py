"""Writes a mace-torch model as plain arrays and JSON; runs in the interpreter that has mace-torch (see exchange.py)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parent))
from exchange import Arrays, Frame, Predict, Refusal, coupling_tensors, required, run, versions

POINTS = [-1.5, -0.3, 0.4, 1.0, 2.5]  # where the readout's activation is sampled


def load(path: Path) -> Any:
    """The module of a .model file, or of a training checkpoint beside the .model file of the same run."""
    import torch

    content = _unpickled(path)
    if isinstance(content, torch.nn.Module):
        return content
    state = content.get("model") if isinstance(content, dict) else None
    if isinstance(state, torch.nn.Module):
        return state
    if not isinstance(state, dict):
        raise Refusal(
            f"{path} holds a {type(content).__name__}, not a mace-torch model; give the .model file of the run"
        )
    tag = path.name.split("_epoch-")[0]
    name = tag.rsplit("_run-", 1)[0]
    folders = [path.parent, *list(path.parents)[1:3]]
    candidates = [folder / f"{stem}{end}" for folder in folders for stem in (tag, name) for end in _ENDINGS]
    tried = []
    for candidate in candidates:
        if candidate.is_file():
            model = _unpickled(candidate)
            if isinstance(model, torch.nn.Module):
                try:
                    model.load_state_dict(state)
                    return model
                except RuntimeError as error:
                    tried.append(f"{candidate.name}: {str(error).splitlines()[0]}")
    raise Refusal(
        f"{path} is a checkpoint: weights without the architecture, which the .model file of the run has; put "
        f"{tag}.model or {name}.model beside it or in the folder above"
        + (f" (found, but of another architecture: {'; '.join(tried)})" if tried else "")
    )


_ENDINGS = (".model", "_stagetwo.model")


def _unpickled(path: Path) -> Any:
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:
        raise Refusal(
            f"{path} cannot be read by torch ({type(error).__name__}: {error}); is it a mace-torch file?"
        ) from None
    if isinstance(content, torch.jit.ScriptModule):
        raise Refusal(
            f"{path} is a compiled model without its architecture; give the .model file that it was made from"
        )
    return content


def _name(module: Any) -> str:
    return type(module).__name__


def _irreps(linear: Any) -> str:
    return str(getattr(linear, "irreps_out", None))


def describe(model: Any) -> dict[str, Any]:
    """Everything about the architecture that the state dict does not say, as JSON values."""
    radial, last = model.radial_embedding, model.readouts[-1]
    config = getattr(model.interactions[0], "cueq_config", None)
    transform = getattr(radial, "distance_transform", None)
    return {
        "class": _name(model),
        "dtype": str(next(model.parameters()).dtype).replace("torch.", ""),
        "atomic_numbers": [int(z) for z in model.atomic_numbers],
        "cutoff": float(model.r_max),
        "heads": [str(head) for head in getattr(model, "heads", None) or ["Default"]],
        "interactions": [_name(block) for block in model.interactions],
        "average_neighbours": [float(block.avg_num_neighbors) for block in model.interactions],
        "node_irreps": [str(block.node_feats_irreps) for block in model.interactions],
        "edge_irreps": [
            str(getattr(block, "edge_irreps", None) or block.node_feats_irreps) for block in model.interactions
        ],
        "message_irreps": [str(block.target_irreps) for block in model.interactions],
        "radial_widths": [[int(n) for n in getattr(block.conv_tp_weights, "hs", [])] for block in model.interactions],
        "harmonics": str(model.spherical_harmonics.irreps_out),
        "products": [_irreps(product.linear) for product in model.products],
        "residual": [bool(product.use_sc) for product in model.products],
        "agnostic_product": bool(getattr(model.products[0], "use_agnostic_product", False)),
        "correlations": [
            [len(block.weights) + 1 for block in getattr(product.symmetric_contractions, "contractions", [])]
            for product in model.products
        ],
        "radial_basis": _name(radial.bessel_fn),
        "envelope_p": float(radial.cutoff_fn.p),
        "apply_cutoff": bool(getattr(radial, "apply_cutoff", True)),
        "distance_transform": None if transform is None else _name(transform),
        "pair_repulsion": _name(model.pair_repulsion_fn) if hasattr(model, "pair_repulsion_fn") else None,
        "pair_repulsion_p": float(model.pair_repulsion_fn.p) if hasattr(model, "pair_repulsion_fn") else None,
        "readouts": [_name(block) for block in model.readouts],
        "readout_hidden": str(getattr(last, "hidden_irreps", "")),
        "embeddings": sorted(getattr(model, "embedding_specs", None) or {}),
        "cuequivariance": bool(getattr(config, "enabled", False)),
        "versions": versions("mace-torch", "e3nn", "torch"),
    }


def arrays_of(model: Any) -> Arrays:
    """The state dict without compiled constants, e3nn's conventions, and samples of the readout's activation."""
    import torch

    state = {
        f"state/{name}": value.detach().cpu().numpy()
        for name, value in model.state_dict().items()
        if not any(
            part in name for part in ("_compiled", "graph_opt", "contractions_weighting", "contractions_features")
        )
    }
    degree = max(int(model.spherical_harmonics.irreps_out.lmax), 1)
    out = {**state, **coupling_tensors(degree), "activation/points": np.array(POINTS)}
    activation = getattr(model.readouts[-1], "non_linearity", None)
    if activation is not None:
        width = activation.irreps_in.dim
        points = torch.tensor(POINTS, dtype=torch.float64).unsqueeze(1).expand(-1, width)
        out["activation/values"] = activation(points)[:, 0].detach().numpy()
    return out


def predictor(model: Any) -> Predict:
    """Energy and forces of one frame by the model's own forward pass."""
    import torch
    from mace.data import get_neighborhood

    numbers = [int(z) for z in model.atomic_numbers]

    def predict(frame: Frame) -> tuple[float, np.ndarray]:
        periodic = tuple(bool(flag) for flag in frame.pbc)
        edges, shifts, unit_shifts, cell = get_neighborhood(
            positions=frame.positions, cutoff=float(model.r_max), pbc=periodic, cell=np.array(frame.cell)
        )
        types = torch.tensor([numbers.index(int(z)) for z in frame.atomic_numbers])
        batch = {
            "positions": torch.tensor(frame.positions, dtype=torch.float64, requires_grad=True),
            "node_attrs": torch.nn.functional.one_hot(types, len(numbers)).to(torch.float64),
            "edge_index": torch.tensor(edges, dtype=torch.int64),
            "shifts": torch.tensor(shifts, dtype=torch.float64),
            "unit_shifts": torch.tensor(unit_shifts, dtype=torch.float64),
            "cell": torch.tensor(cell, dtype=torch.float64),
            "batch": torch.zeros(len(types), dtype=torch.int64),
            "ptr": torch.tensor([0, len(types)]),
            "head": torch.zeros(1, dtype=torch.int64),
        }
        out = model(batch, compute_force=True)
        return out["energy"].item(), out["forces"].detach().numpy()

    return predict


def export(path: Path) -> tuple[dict[str, Any], Arrays, list[int], Predict]:
    """See `exchange.run`. Predictions are those of the model in float64."""
    required("mace", "mace-torch", "0.3")
    import torch

    model = load(path).to("cpu").eval()
    if not hasattr(model, "interactions") or not hasattr(model, "products"):
        raise Refusal(f"{path} holds a {_name(model)} of {type(model).__module__}, which is not a MACE")
    try:
        description = {"package": "mace-torch", **describe(model)}
    except AttributeError as error:
        raise Refusal(f"{path} holds a {_name(model)} whose {error}; this kind of MACE cannot be imported") from error
    torch.set_default_dtype(torch.float64)  # mace-torch's own calculator does; powers of integers depend on it
    double = model.double()
    species = description["atomic_numbers"]
    return description, arrays_of(double), species, predictor(double)


if __name__ == "__main__":
    run(export)
