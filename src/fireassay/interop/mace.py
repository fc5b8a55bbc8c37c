"""mace-torch models as potentials of ours with the same predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.interop.imported import Imported, assign, coupling_signs, finished, same, whole
from fireassay.interop.mace_weights import copy_mace_torch
from fireassay.interop.worker import Export, run_export
from fireassay.models.mace import MACE
from fireassay.nn.distance_transform import AgnesiTransform, SoftTransform
from fireassay.nn.mlp import SILU_NORM
from fireassay.nn.screened_repulsion import MACE_TORCH
from fireassay.nn.so3 import Irreps
from fireassay.potential import Baseline

# Interaction blocks of mace-torch: (the species come by the self-connection, the density of neighbours normalises).
INTERACTIONS: Final[dict[str, tuple[bool, bool]]] = {
    "RealAgnosticInteractionBlock": (False, False),
    "RealAgnosticResidualInteractionBlock": (True, False),
    "RealAgnosticDensityInteractionBlock": (False, True),
    "RealAgnosticDensityResidualInteractionBlock": (True, True),
}
TRANSFORMS: Final = {None: None, "AgnesiTransform": "agnesi", "SoftTransform": "soft"}


def import_mace(file: Path, python: Path | str, frames: Sequence[Structure] = (), timeout: float = 900.0) -> Imported:
    """A mace-torch .model file, or a checkpoint beside it, by way of an interpreter that has mace-torch >= 0.3.

    Predictions are compared on structures of the model's elements and on `frames`. Raises InputError when the model
    cannot be read there, has a feature that is not supported, or does not agree.
    """
    export = run_export("export_mace.py", python, file, frames, timeout)
    return finished(mace_potential(export), export)


def mace_potential(export: Export) -> Baseline:
    """The potential of an export, in float64.

    The energies of isolated atoms, which mace-torch's networks have when the first layer has a residual, and the shift
    become part of E0; the scale is the baseline's. Raises InputError for a feature that is not supported.
    """
    _refuse(export)
    network = MACE(**_arguments(export)).to(torch.float64)
    state = {name: value.to(torch.float64) for name, value in export.under("state").items()}
    _set_blocks(network, state)
    copy_mace_torch(network, _complete(network, export, state), coupling_signs(export))
    scale, shift = (
        float(state.get(f"scale_shift.{name}", torch.tensor(x))) for name, x in (("scale", 1), ("shift", 0))
    )
    with torch.no_grad():
        isolated = network.isolated_energies() * scale + shift
    energies = state["atomic_energies_fn.atomic_energies"].flatten() + isolated
    return Baseline(network, dict(zip(export.need("atomic_numbers"), energies.tolist(), strict=True)), scale)


def _refuse(export: Export) -> None:
    need = export.need
    unsupported = {
        f"the model class {need('class')}": need("class") not in ("MACE", "ScaleShiftMACE"),
        "cuEquivariance weights (convert the file with mace_cueq_to_e3nn first)": need("cuequivariance"),
        f"the embeddings {need('embeddings')}": bool(need("embeddings")),
        f"the radial basis {need('radial_basis')}": need("radial_basis") != "BesselBasis",
        f"the distance transform {need('distance_transform')}": need("distance_transform") not in TRANSFORMS,
        f"the pair repulsion {need('pair_repulsion')}": need("pair_repulsion") not in (None, "ZBLBasis"),
        "apply_cutoff=False": not need("apply_cutoff"),
        f"the harmonics {need('harmonics')}": _natural(need("harmonics")) is None,
    }
    for block in need("interactions"):
        unsupported[f"the interaction {block}"] = block not in INTERACTIONS
    for block in need("readouts"):
        unsupported[f"the readout {block}"] = block not in ("LinearReadoutBlock", "NonLinearReadoutBlock")
    if len(need("heads")) > 1:
        heads = ", ".join(need("heads"))
        raise InputError(
            f"the model has several heads ({heads}); a potential has one: write it with "
            "mace_select_head --head_name NAME MODEL in the interpreter of mace-torch, and import that file"
        )
    for feature, present in unsupported.items():
        if present:
            raise InputError(f"{feature} of mace-torch is not supported by this import")
    points, values = (export.arrays.get(f"activation/{name}") for name in ("points", "values"))
    if values is not None and points is not None:
        expected = torch.nn.functional.silu(torch.from_numpy(points)).numpy() * SILU_NORM
        if np.abs(values - expected).max() > 1e-5:
            raise InputError("a gate other than silu in the last readout of mace-torch is not supported by this import")


def _natural(text: str) -> tuple[int, int] | None:
    """(channels, highest degree) of "128x0e+128x1o+...", the irreps of harmonics with one number of channels."""
    channels, irreps = zip(*((int(part.split("x")[0]), part.split("x")[1]) for part in text.split("+")), strict=True)
    degree = len(irreps) - 1
    return (channels[0], degree) if len(set(channels)) == 1 and Irreps(irreps) == Irreps.harmonics(degree) else None


def _sized(export: Export, name: str, layer: int) -> tuple[int, int]:
    text = export.need(name)[layer]
    sizes = _natural(text)
    if sizes is None:
        raise InputError(f"{name} {text} are not supported: a MACE has one number of channels of 0e, 1o, 2e, ...")
    return sizes


def _arguments(export: Export) -> dict[str, Any]:
    need = export.need
    kinds = [INTERACTIONS[name] for name in need("interactions")]
    if not all(residual for residual, _ in kinds[1:]):
        raise InputError(f"interactions {need('interactions')} without a residual after the first are not supported")
    hidden = [_sized(export, "products", layer) for layer in range(len(kinds))]
    channels = same([size for size, _ in hidden], "numbers of channels")
    between = same([degree for _, degree in hidden[:-1]] or [0], "hidden irreps")
    if hidden[-1][1] != 0:
        raise InputError(f"irreps {need('products')[-1]} after the last layer are not supported, only scalars are")
    for layer in range(len(kinds)):
        expected = (channels, between if layer else 0)
        if {_sized(export, name, layer) for name in ("node_irreps", "edge_irreps")} != {expected}:
            raise InputError(f"edge irreps {need('edge_irreps')[layer]} that are not the features' are not supported")
    harmonics = _natural(need("harmonics"))
    assert harmonics is not None
    messages = {_sized(export, "message_irreps", layer) for layer in range(len(kinds))}
    if messages != {(channels, harmonics[1])}:
        raise InputError(f"messages {need('message_irreps')} that are not the harmonics' are not supported")
    envelope_p = whole(need("envelope_p"), "the degree of the envelope")
    if need("pair_repulsion") and need("pair_repulsion_p") != envelope_p:
        raise InputError("a pair repulsion under another envelope than the edges' is not supported")
    widths = same([tuple(row[1:-1]) for row in need("radial_widths")], "radial networks")
    density = any(dense for _, dense in kinds)
    readout = need("readout_hidden")
    if readout and not readout.endswith("x0e"):
        raise InputError(f"the readout's hidden irreps {readout} are not supported, only scalars are")
    return {
        "species": need("atomic_numbers"),
        "cutoff": need("cutoff"),
        "n_layers": len(kinds),
        "l_max": harmonics[1],
        "channels": channels,
        "hidden_l_max": between,
        "correlation": same([order for row in need("correlations") for order in row], "correlation orders"),
        "n_basis": need("radial_widths")[0][0],
        "trainable_bessel": True,
        "envelope_p": envelope_p,
        "radial_hidden": list(widths),
        "readout_hidden": int(readout.split("x")[0]) if readout else 1,
        "average_neighbours": 1.0 if density else same(need("average_neighbours"), "average numbers of neighbours"),
        "residual_first": kinds[0][0],
        "density_normalised": density,
        "distance_transform": TRANSFORMS[need("distance_transform")],
        "pair_repulsion": need("pair_repulsion") is not None,
    }


def _set_blocks(network: MACE, state: dict[str, Tensor]) -> None:
    """The constants of the distance transform and of the pair repulsion, which mace-torch may have trained."""
    source = "radial_embedding.distance_transform"
    if isinstance(network.transform, AgnesiTransform):
        for name in ("a", "p", "q"):
            assign(getattr(network.transform, name), state[f"{source}.{name}"].reshape(()), f"{source}.{name}")
        assign(network.transform.radii, state[f"{source}.covalent_radii"], f"{source}.covalent_radii")
    elif isinstance(network.transform, SoftTransform):
        assign(network.transform.steepness, state[f"{source}.alpha"].reshape(()), f"{source}.alpha")
        assign(network.transform.radii, state[f"{source}.covalent_radii"], f"{source}.covalent_radii")
    if network.repulsion is not None:
        source, screened = "pair_repulsion_fn", network.repulsion.screened
        assign(network.repulsion.radii, state[f"{source}.covalent_radii"], f"{source}.covalent_radii")
        assign(screened.coefficients, state[f"{source}.c"], f"{source}.c")
        assign(screened.exponent, state[f"{source}.a_exp"].reshape(()), f"{source}.a_exp")
        assign(screened.length, 0.529 * state[f"{source}.a_prefactor"].reshape(()), f"{source}.a_prefactor")
        for name in ("coulomb", "decays"):  # in float64; the fresh buffers went through the default dtype
            getattr(screened, name).copy_(torch.tensor(getattr(MACE_TORCH, name), dtype=torch.float64))


def _complete(network: MACE, export: Export, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of an equal mace-torch model without options that ours does not have."""
    out, n_layers, n_species = dict(state), len(network.layers), len(network.index)
    if len(export.need("readouts")) < n_layers:  # the last readout only
        last = {name: value for name, value in state.items() if name.startswith("readouts.0.")}
        out |= {name.replace("readouts.0.", f"readouts.{n_layers - 1}."): value for name, value in last.items()}
        zeros = state["node_embedding.linear.weight"].new_zeros(network.embedding.shape[1])
        out |= {f"readouts.{layer}.linear.weight": zeros for layer in range(n_layers - 1)}
    if export.need("agnostic_product"):
        names = [name for name in state if name.endswith(("weights_max", *(f"weights.{k}" for k in range(9))))]
        out |= {name: state[name].expand(n_species, -1, -1) for name in names}
    if network.arguments["density_normalised"]:
        for layer, name in enumerate(export.need("interactions")):
            if not INTERACTIONS[name][1]:  # an average instead of a density: no density, and the average in the weights
                block = f"interactions.{layer}"
                out[f"{block}.density_fn.layer0.weight"] = state[f"{block}.linear.weight"].new_zeros(
                    network.arguments["n_basis"]
                )
                out[f"{block}.linear.weight"] = (
                    state[f"{block}.linear.weight"] / export.need("average_neighbours")[layer]
                )
    return out
