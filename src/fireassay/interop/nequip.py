"""nequip models as potentials of ours with the same predictions.

nequip allows a number of channels for each irrep and leaves out irreps at will; ours has one number and all irreps that
can reach the energy. What is missing there is zero here: the same functions, at the cost of the larger network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.interop.imported import Imported, assign, coupling_signs, elements, finished, same, whole
from fireassay.interop.worker import Export, run_export
from fireassay.kernels.zbl import ZBL
from fireassay.models.nequip import InteractionBlock, NequIP
from fireassay.nn.equivariant import EquivariantLinear
from fireassay.nn.mlp import SILU_NORM, TANH_NORM, ScalarMLP
from fireassay.nn.screened_repulsion import LAMMPS
from fireassay.nn.so3 import Irrep
from fireassay.potential import Baseline, LocalPotential, Sum

EVEN: Final = Irrep(0, 1)


def import_nequip(file: Path, python: Path | str, frames: Sequence[Structure] = (), timeout: float = 900.0) -> Imported:
    """A nequip checkpoint or package, by way of an interpreter that has the nequip (>= 0.6) it was made with.

    Of 0.7 and later a .ckpt or .nequip.zip; of 0.6 a .pth of a training beside its config.yaml, or a deployed one.
    Predictions are compared on structures of the model's elements and on `frames`. Raises InputError when the model
    cannot be read there, has a feature that is not supported, or does not agree.
    """
    export = run_export("export_nequip.py", python, file, frames, timeout)
    return finished(nequip_potential(export), export)


def nequip_potential(export: Export) -> LocalPotential:
    """The potential of an export, in float64: the species' scales are the baseline's, shifts its E0, ZBL is beside it.

    Energies of isolated atoms, which the networks of nequip 0.6 have, become part of E0. Raises InputError for a
    feature that is not supported.
    """
    _refuse(export)
    network = NequIP(**_arguments(export)).to(torch.float64)
    _copy(network, export)
    scale = export.need("global_scale")
    scales, shifts = (torch.from_numpy(export.arrays[name]).to(torch.float64) * scale for name in ("scales", "shifts"))
    with torch.no_grad():
        if network.first_self_connection:
            shifts = shifts + scales * network.isolated_energies()
    species = network.index.species
    energies, factors = (dict(zip(species, values.tolist(), strict=True)) for values in (shifts, scales))
    potential = Baseline(network, energies, factors)
    assign(potential.scale.data, scales[np.argsort(species)], "scales")
    pair = export.need("pair_potential")
    return potential if pair is None else Sum([potential, _repulsion(network, export, pair)])


def _repulsion(network: NequIP, export: Export, pair: dict[str, Any]) -> ZBL:
    if list(pair["atomic_numbers"]) != list(network.index.species):
        raise InputError(f"a ZBL of the atomic numbers {pair['atomic_numbers']} beside other types is not supported")
    cutoffs = network.arguments["pair_cutoffs"]
    envelope_p = whole(pair["envelope_p"], "the degree of the ZBL's envelope")
    core = ZBL(list(network.index.species), network.cutoff, envelope_p, cutoffs).to(torch.float64)
    for name, value in LAMMPS._asdict().items():  # in float64; the fresh buffers went through the default dtype
        getattr(core.screened, name).copy_(torch.tensor(value, dtype=torch.float64))
    core.screened.coulomb.fill_(pair["coulomb"] * export.need("global_scale"))
    core.cutoffs.copy_(torch.tensor(cutoffs or network.cutoff, dtype=torch.float64))
    return core


def _refuse(export: Export) -> None:
    layers = export.need("layers")
    points = torch.from_numpy(export.arrays["activation/points"])
    known = {1: torch.nn.functional.silu(points) * SILU_NORM, -1: torch.tanh(points) * TANH_NORM}
    for number, layer in enumerate(layers):
        if layer["residual"]:
            raise InputError("residual layers (resnet) of nequip are not supported by this import")
        if layer["gate"] != "Gate":
            raise InputError(
                f"the nonlinearity {layer['gate']} of nequip is not supported by this import, only gates are"
            )
        if not str(layer["radial_activation"]).lower().startswith("silu"):
            raise InputError(f"{layer['radial_activation']} in the radial networks is not supported by this import")
        for kind in ("scalars", "gates"):
            for k, (_, _, parity) in enumerate(layer[kind]):
                values = export.arrays.get(f"layers/{number}/{kind}/{k}")
                if values is None or parity not in known or np.abs(values - known[parity].numpy()).max() > 1e-5:
                    raise InputError("gates of nequip other than silu (even) and tanh (odd) are not supported")
        degrees = range(len(layer["harmonics"]))
        if layer["harmonics"] not in ([[1, k, (-1) ** k] for k in degrees], [[1, k, 1] for k in degrees]):
            raise InputError(f"the harmonics {layer['harmonics']} are not supported: parities must be those of vectors")
        if any(parity != 1 for _, _, parity in layer["gates"]):
            raise InputError("odd gates of nequip are not supported by this import")
    if export.need("readout_activation") not in (None, "silu"):
        raise InputError(f"a readout with {export.need('readout_activation')} is not supported by this import")


def _arguments(export: Export) -> dict[str, Any]:
    layers, arrays = export.need("layers"), export.arrays
    species = elements(export.need("type_names"), "the types of the model")
    made = [(mul, degree, parity) for layer in layers for mul, degree, parity in (*layer["scalars"], *layer["gated"])]
    harmonics = same([layer["harmonics"] for layer in layers], "harmonics")
    reflections = len(harmonics) == 1 or harmonics[1][2] == -1
    if not reflections and any(parity == -1 for _, _, parity in made):
        raise InputError("odd features from even harmonics are not supported by this import")
    cutoff, cutoffs = float(export.need("cutoff")), arrays["pair_cutoffs"].astype(np.float64)
    norms = [arrays[f"layers/{k}/norm"].astype(np.float64) for k in range(len(layers))]
    averages = [
        1.0 / (row * row) for row in same([tuple(row.tolist()) for row in norms], "average numbers of neighbours")
    ]
    radial = same([_widths(export, f"layers/{k}/radial") for k in range(len(layers))], "radial networks")
    return {
        "species": species,
        "cutoff": cutoff,
        "n_layers": len(layers),
        "l_max": max(len(harmonics) - 1, max(degree for _, degree, _ in made)),
        "parity": any(parity != (-1) ** degree for _, degree, parity in made),
        "reflections": reflections,
        "channels": max(arrays["embedding"].shape[1], *(mul for mul, _, _ in made)),
        "n_basis": len(arrays["frequencies"]),
        "trainable_bessel": True,
        "envelope_p": whole(export.need("envelope_p"), "the degree of the envelope"),
        "radial_hidden": list(radial),
        "readout_hidden": list(_widths(export, "readout")),
        "readout_activation": export.need("readout_activation"),
        "average_neighbours": averages if len(averages) > 1 else averages[0],
        "pair_cutoffs": cutoffs.reshape(len(species), -1).tolist() if np.ptp(cutoffs) > 0 else None,
        "first_self_connection": layers[0]["self_connection"] is not None,
    }


def _widths(export: Export, name: str) -> tuple[int, ...]:
    weights = export.under(name)
    return tuple(weights[str(k)].shape[1] for k in range(len(weights) - 1))


class _Path(NamedTuple):
    """A path of nequip's tensor product: which columns of the radial network and rows of linear_2 are its own."""

    columns: slice
    rows: slice
    block: int  # of linear_2's input
    factor: float


@torch.no_grad()
def _copy(network: NequIP, export: Export) -> None:
    arrays = {name: torch.from_numpy(array).to(torch.float64) for name, array in export.arrays.items()}
    channels = network.embedding.shape[1]
    assign(network.embedding, _padded(arrays["embedding"], len(network.index), channels), "the embedding")
    assign(network.basis.frequencies, arrays["frequencies"], "the Bessel frequencies")
    if network.stretch is not None:
        cutoffs = torch.tensor(network.arguments["pair_cutoffs"], dtype=torch.float64)
        assign(network.stretch.factors, network.cutoff / cutoffs, "the cutoffs of pairs")
    signs = coupling_signs(export)
    for number, (layer, theirs) in enumerate(zip(network.layers, export.need("layers"), strict=True)):
        _copy_layer(cast(InteractionBlock, layer), theirs, f"layers/{number}", arrays, signs)
    _copy_mlp(network.readout, "readout", arrays, rows=channels)


def _copy_layer(
    layer: InteractionBlock,
    theirs: dict[str, Any],
    name: str,
    arrays: dict[str, Tensor],
    signs: Callable[[int, int, int], int],
) -> None:
    norm, first = arrays[f"{name}/norm"], _blocks(theirs["linear_1"], f"{name}/linear_1", arrays)
    if layer.norms is not None:
        assign(layer.norms.view(-1), norm, f"{name}/norm")
    else:
        first = {irreps: matrix * norm for irreps, matrix in first.items()}
    _fill(layer.linear, lambda i, o: first.get((layer.linear.irreps_in[i], layer.linear.irreps_out[o])))
    paths = _paths(theirs, signs)
    coupling = layer.coupling
    keys = [(coupling.irreps_in[i], coupling.irreps_sh[j].l, out) for i, j, out in coupling.paths]
    radial = cast(ScalarMLP, layer.radial)
    last = f"{name}/radial/{len(radial.weights) - 1}"
    columns = torch.zeros(len(arrays[last]), len(keys), layer.linear.channels_out, dtype=torch.float64)
    for k, key in enumerate(keys):
        if key in paths:
            part = arrays[last][:, paths[key].columns] * paths[key].factor
            columns[:, k, : part.shape[1]] = part
    _copy_mlp(radial, f"{name}/radial", {**arrays, last: columns.flatten(1)})

    targets = _targets(theirs)
    second = {i: arrays.get(f"{name}/linear_2/{i}/{o}") for i, o in _pairs(theirs["linear_2"])}

    def mix(i: int, o: int) -> Tensor | None:
        path, target = paths.get(keys[i]), targets.get(_role(layer, o))
        weight = None if path is None else second.get(path.block)
        return None if path is None or target is None or weight is None else weight[path.rows, target]

    _fill(layer.mix, mix)
    if layer.self_connection is not None and theirs["self_connection"] is not None:
        skip, attributes = theirs["self_connection"], arrays["attributes"]
        rows = {_irrep(block): i for i, block in enumerate(skip["in"])}
        whole_blocks = {i: arrays[f"{name}/self_connection/{i}/{o}"] for i, o in _pairs(skip)}

        def connection(i: int, o: int) -> Tensor | None:
            assert layer.self_connection is not None
            block = whole_blocks.get(rows.get(layer.self_connection.irreps_in[i], -1))
            target = targets.get(_role(layer, o))
            return (
                None if block is None or target is None else torch.einsum("uvw,zv->zuw", block[..., target], attributes)
            )

        _fill(layer.self_connection, connection)


def _irrep(block: Sequence[int]) -> Irrep:
    return Irrep(block[1], block[2])


def _pairs(linear: dict[str, Any]) -> list[tuple[int, int]]:
    """The blocks of equal irrep of a linear map, whose irreps occur once on each side."""
    for side in ("in", "out"):
        if len({_irrep(block) for block in linear[side]}) < len(linear[side]):
            raise InputError(f"irreps that occur twice, {linear[side]}, are not supported by this import")
    return [(i, o) for i, a in enumerate(linear["in"]) for o, b in enumerate(linear["out"]) if a[1:] == b[1:]]


def _blocks(linear: dict[str, Any], name: str, arrays: dict[str, Tensor]) -> dict[tuple[Irrep, Irrep], Tensor]:
    return {(_irrep(linear["in"][i]), _irrep(linear["out"][o])): arrays[f"{name}/{i}/{o}"] for i, o in _pairs(linear)}


def _paths(theirs: dict[str, Any], signs: Callable[[int, int, int], int]) -> dict[tuple[Irrep, int, Irrep], _Path]:
    """nequip's paths by irrep of the feature, degree of the harmonic, irrep of the message."""
    into, sizes = theirs["linear_1"]["out"], [block[0] for block in theirs["linear_1"]["out"]]
    blocks = {_irrep(block): i for i, block in enumerate(theirs["linear_2"]["in"])}
    starts = np.cumsum([0, *(sizes[path["in"]] for path in theirs["paths"])])
    rows: dict[int, slice] = {}
    filled: dict[Irrep, int] = {}
    for path in sorted(theirs["paths"], key=lambda path: path["position"]):
        out = _irrep(path["out"])
        begin = filled.get(out, 0)
        filled[out] = begin + path["out"][0]
        rows[path["position"]] = slice(begin, filled[out])
    found: dict[tuple[Irrep, int, Irrep], _Path] = {}
    for k, path in enumerate(theirs["paths"]):
        feature, out, degree = _irrep(into[path["in"]]), _irrep(path["out"]), path["sh"]
        factor = path["factor"] / sqrt(out.dim) * signs(feature.l, degree, out.l)
        columns = slice(int(starts[k]), int(starts[k + 1]))
        found[feature, degree, out] = _Path(columns, rows[path["position"]], blocks[out], factor)
    return found


def _role(layer: InteractionBlock, block: int) -> tuple[Irrep, bool]:
    """What an input block of the gate is: the irrep that it becomes or gates, and whether it is a gate."""
    irreps, outs = layer.gate.irreps_in, layer.gate.irreps_out
    gated = [irrep for irrep in outs if irrep.l > 0]
    even = outs.count(EVEN)
    if even <= block < even + len(gated):
        return gated[block - even], True
    return irreps[block], False


def _targets(theirs: dict[str, Any]) -> dict[tuple[Irrep, bool], slice]:
    """The columns of linear_2's output blocks by `_role`: even scalars first, then the gates; the others whole."""
    out: dict[tuple[Irrep, bool], slice] = {}
    start = 0
    for size, degree, parity in theirs["scalars"]:
        out[Irrep(degree, parity), False] = slice(0, size)
        start += size if parity == 1 else 0
    for size, degree, parity in theirs["gated"]:
        out[Irrep(degree, parity), True] = slice(start, start + size)
        out[Irrep(degree, parity), False] = slice(0, size)
        start += size
    return out


def _fill(linear: EquivariantLinear, block: Callable[[int, int], Tensor | None]) -> None:
    """Sets the weights from matrices (..., rows, columns) that act as they are, zero where there is none."""
    weight = torch.zeros_like(linear.weight)
    for path, (i, o) in enumerate(linear.paths):
        matrix = block(i, o)
        if matrix is not None:
            weight[..., path, : matrix.shape[-2], : matrix.shape[-1]] = matrix / linear.scales[path]
    linear.weight.copy_(weight)


def _padded(matrix: Tensor, rows: int, columns: int) -> Tensor:
    return torch.nn.functional.pad(matrix, (0, columns - matrix.shape[1], 0, rows - matrix.shape[0]))


def _copy_mlp(network: ScalarMLP, name: str, arrays: dict[str, Tensor], rows: int | None = None) -> None:
    for k, weight in enumerate(network.weights):
        matrix = arrays[f"{name}/{k}"]
        if k == 0 and rows is not None:
            matrix = _padded(matrix, rows, matrix.shape[1])
        assign(weight, matrix * sqrt(len(matrix)) / (network.gain if k else 1.0), f"{name}/{k}")
