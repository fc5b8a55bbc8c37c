"""Records what the public code of Equiformer predicts, with its weights under our names and in our order.

    PYTHONPATH=REPOSITORY PYTHON tests/reference/record_equiformer.py tests/reference

REPOSITORY is a checkout of github.com/atomicarchitects/equiformer at COMMIT; the interpreter has torch and e3nn 0.4.4.
Writes equiformer_CASE.npz and equiformer_CASE.json. Weights are float32 values, so that both precisions share them.

The repository imports torch_scatter, torch_cluster, torch_geometric and ocpmodels, whose functions that are used here
(sum and softmax over the edges of an atom, an initialisation) have stand-ins of plain torch below; modules for other
experiments are empty. The network's forward pass is written out, with its own modules, for two reasons: its list of
neighbours has no periodic images, and its one-hot species are float32. e3nn 0.4.4 opens a file of constants that
torch >= 2.6 takes only when slices are declared safe.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from recording import SEED, edges, structures, write

torch.serialization.add_safe_globals([slice])
import e3nn  # noqa: E402
from e3nn.o3 import Irrep, Irreps, spherical_harmonics  # noqa: E402

COMMIT = "64cb7866f48b9aa156e74a9d6a2ef2663b367437"
SCALAR = Irrep("0e")
SPECIES = {"H": 1, "C": 6, "O": 8}
COMMON: dict[str, Any] = {"n_layers": 3, "n_heads": 2, "feature_channels": 20, "n_basis": 10, "radial_hidden": [8, 8]}
CASES: dict[str, dict[str, Any]] = {
    "se3_l2": {
        **COMMON,
        "cutoff": 5.0,
        "irreps": "8x0e+6x1e+4x2e",
        "irreps_head": "4x0e+3x1e+2x2e",
        "irreps_ffn": "12x0e+8x1e+5x2e",
        "parity": False,
    },
    "e3_l1": {
        **COMMON,
        "cutoff": 4.0,
        "irreps": "8x0e+3x0o+5x1e+4x1o",
        "irreps_head": "4x0e+2x0o+3x1e+2x1o",
        "irreps_ffn": "12x0e+5x0o+6x1e+7x1o",
        "parity": True,
    },
    "natural_l2": {
        **COMMON,
        "cutoff": 4.5,
        "n_layers": 2,
        "irreps": "8x0e+4x1o+3x2e",
        "irreps_head": "4x0e+2x1o+1x2e",
        "irreps_ffn": "10x0e+6x1o+4x2e",
        "parity": True,
    },
}


def _scatter(x: torch.Tensor, index: torch.Tensor, dim: int = 0, dim_size: int | None = None) -> torch.Tensor:
    assert dim == 0
    n_rows = int(index.max()) + 1 if dim_size is None else dim_size
    return x.new_zeros(n_rows, *x.shape[1:]).index_add(0, index, x)


def _softmax(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """As torch_geometric: relative to the largest of each group, with 1e-16 in the denominator."""
    n_rows = int(index.max()) + 1 if len(index) else 0
    rows = index.unsqueeze(1).expand_as(x)
    top = x.new_zeros(n_rows, x.shape[1]).scatter_reduce(0, rows, x.detach(), "amax", include_self=False)
    exponentials = (x - top.index_select(0, index)).exp()
    return exponentials / (_scatter(exponentials, index, dim_size=n_rows) + 1e-16).index_select(0, index)


def _glorot(value: torch.Tensor) -> None:
    bound = (6 / (value.shape[-2] + value.shape[-1])) ** 0.5
    value.data.uniform_(-bound, bound)


def _module(name: str, **content: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    vars(module).update(content)
    sys.modules[name] = module
    return module


_module("torch_scatter", scatter=_scatter)
_module("torch_cluster", radius_graph=None)
_utils = _module("torch_geometric.utils", softmax=_softmax)
_nn = _module("torch_geometric.nn", global_mean_pool=None, global_max_pool=None)
_nn.inits = _module("torch_geometric.nn.inits", glorot=_glorot)
_module("torch_geometric", utils=_utils, nn=_nn)
for _name in ("ocpmodels", "ocpmodels.models", "ocpmodels.models.gemnet", "ocpmodels.models.gemnet.layers"):
    _module(_name)
_module("ocpmodels.models.gemnet.layers.radial_basis", RadialBasis=type("RadialBasis", (), {}))
_package = _module("nets")
_package.__path__ = [str(Path(folder) / "nets") for folder in sys.path if (Path(folder) / "nets" / "drop.py").exists()]

from nets import graph_attention_transformer_md17 as public  # noqa: E402


def build(case: Mapping[str, Any], dtype: torch.dtype) -> torch.nn.Module:
    torch.set_default_dtype(dtype)
    torch.manual_seed(SEED)
    degrees = range(Irreps(case["irreps"]).lmax + 1)
    parity = case["parity"]
    public._AVG_DEGREE = case["average_neighbours"]
    return public.GraphAttentionTransformerMD17(
        irreps_in="64x0e",
        irreps_node_embedding=case["irreps"],
        num_layers=case["n_layers"],
        irreps_sh="+".join(f"1x{degree}{'o' if parity and degree % 2 else 'e'}" for degree in degrees),
        max_radius=case["cutoff"],
        number_of_basis=case["n_basis"],
        basis_type="exp",
        fc_neurons=list(case["radial_hidden"]),
        irreps_feature=f"{case['feature_channels']}x0e",
        irreps_head=case["irreps_head"],
        num_heads=case["n_heads"],
        nonlinear_message=True,
        irreps_mlp_mid=case["irreps_ffn"],
        alpha_drop=0.0,
    )


def energy(
    model: Any, numbers: torch.Tensor, source: torch.Tensor, target: torch.Tensor, vectors: torch.Tensor, batch: Any
) -> torch.Tensor:
    """Energies (S,): the forward pass of the public network for edges source -> target with given vectors."""
    harmonics = spherical_harmonics(model.irreps_edge_attr, vectors, normalize=True, normalization="component")
    embedding = model.atom_embed.atom_type_lin(torch.nn.functional.one_hot(numbers, 64).to(vectors.dtype))
    radial = model.rbf(vectors.norm(dim=1))
    features = embedding + model.edge_deg_embed(embedding, harmonics, radial, source, target, batch)
    attributes = torch.ones_like(features.narrow(1, 0, 1))
    for block in model.blocks:
        features = block(
            node_input=features,
            node_attr=attributes,
            edge_src=source,
            edge_dst=target,
            edge_attr=harmonics,
            edge_scalars=radial,
            batch=batch,
        )
    return model.scale_scatter(model.head(model.norm(features, batch=batch)), batch, dim=0).squeeze(1)


def predict(model: Any, cutoff: float, atoms: Atoms) -> tuple[float, np.ndarray]:
    dtype = next(model.parameters()).dtype
    found = {key: torch.from_numpy(value) for key, value in edges(atoms, cutoff).items()}
    strained = torch.tensor(atoms.positions, dtype=dtype, requires_grad=True)
    shifts = (found["shift"].to(torch.float64) @ torch.from_numpy(atoms.cell.array)).to(dtype)
    vectors = strained[found["j"]] + shifts - strained[found["i"]]
    batch = torch.zeros(len(atoms), dtype=torch.int64)
    total = energy(model, torch.from_numpy(atoms.numbers), found["j"], found["i"], vectors, batch)
    (gradient,) = torch.autograd.grad(total.sum(), strained)
    return total.item() - isolated(model)[atoms.numbers].sum().item(), -gradient.numpy()


@torch.no_grad()
def isolated(model: Any) -> torch.Tensor:
    """Energies of single atoms by atomic number, (64,); a pair beside them, as the code cannot do without edges."""
    numbers, source, target = torch.tensor([*range(64), 1, 1]), torch.tensor([64, 65]), torch.tensor([65, 64])
    vectors = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]], dtype=torch.get_default_dtype())
    return energy(model, numbers, source, target, vectors, torch.arange(66))[:64]


def reaching(irreps: Sequence[Irrep], harmonics: Sequence[Irrep], wanted: Sequence[Irrep]) -> list[Irrep]:
    return [a for a in irreps if any(out in wanted for b in harmonics for out in a * b)]


def linear(layer: Any, rows: Callable[[Irrep], np.ndarray] | None = None) -> dict[Irrep, torch.Tensor]:
    """The matrices (C_in, C_out) of a LinearRS or a product with ones, by irrep; of inputs the chosen rows."""
    out: dict[Irrep, torch.Tensor] = {}
    for view, instruction in zip(layer.tp.weight_views(), layer.tp.instructions, strict=True):
        irrep = layer.tp.irreps_out[instruction.i_out].ir
        matrix = view.detach().flatten(0, 1)
        out[irrep] = torch.cat([out[irrep], matrix]) if irrep in out else matrix
    return out if rows is None else {irrep: matrix[rows(irrep)] for irrep, matrix in out.items()}


class Product:
    """The live part of a depth-wise product: which weights, and which channels of each output irrep, belong to it."""

    def __init__(self, layer: Any, used: Sequence[Irrep], allowed: Sequence[Irrep]) -> None:
        product = layer.tp
        columns, signs, start = [], [], 0
        places: dict[Irrep, list[tuple[int, np.ndarray]]] = {}
        for instruction in product.instructions:
            left, right = product.irreps_in1[instruction.i_in1], product.irreps_in2[instruction.i_in2]
            out = product.irreps_out[instruction.i_out].ir
            live = left.ir in used and out in allowed
            low, middle, high = sorted((left.ir.l, right.ir.l, out.l))
            if live:
                columns.append(np.arange(start, start + left.mul))
                signs.append(np.full(left.mul, -1.0 if low == 1 and middle == high >= 2 else 1.0))
            places.setdefault(out, []).append((instruction.i_out, np.full(left.mul, live)))
            start += left.mul
        self.columns, self.signs = np.concatenate(columns), torch.from_numpy(np.concatenate(signs))
        # An irrep's channels are those of its blocks, in the order of the blocks.
        self._live = {
            out: np.concatenate([kept for _, kept in sorted(p, key=lambda q: q[0])]) for out, p in places.items()
        }

    def rows(self, irrep: Irrep) -> np.ndarray:
        return np.flatnonzero(self._live[irrep])


def weights(model: Any, case: Mapping[str, Any], species: Sequence[int]) -> dict[str, torch.Tensor]:
    """The parameters of our Equiformer from those of the public one, float64."""
    features = [ir for _, ir in Irreps(case["irreps"])]
    harmonics = [ir for _, ir in model.irreps_edge_attr]
    live = [[SCALAR]]
    for _ in range(case["n_layers"]):
        gated = reaching(features, harmonics, live[0])
        used = reaching(features, harmonics, [*gated, SCALAR])
        live.insert(0, [ir for ir in features if ir in used or ir in live[0]])
    out: dict[str, torch.Tensor] = {
        "embedding": linear(model.atom_embed.atom_type_lin)[SCALAR][list(species)],
        "embedding_bias": model.atom_embed.atom_type_lin.bias[0],
        "basis.means": model.rbf.means,
        "basis.widths": model.rbf.betas,
    }

    def put_linear(name: str, matrices: Mapping[Irrep, torch.Tensor], order: Sequence[Irrep], bias: Any) -> None:
        for k, irrep in enumerate(order):
            out[f"{name}.weights.{k}"] = matrices[irrep]
        if bias is not None and SCALAR in order:
            out[f"{name}.bias"] = bias[0] if isinstance(bias, torch.nn.ParameterList) else bias

    def put_radial(name: str, radial: Any, product: Product) -> None:
        signs = product.signs.to(radial.offset)
        for k, layer in enumerate(radial.net):
            for key, value in layer.state_dict().items():
                last = k == len(radial.net) - 1
                out[f"{name}.{k}.{key}"] = value[product.columns] * signs[:, None] if last else value
        out[f"{name}.{len(radial.net) - 1}.bias"] = radial.offset[product.columns] * signs

    def put_norm(name: str, norm: Any, order: Sequence[Irrep]) -> None:
        for k, irrep in enumerate(order):
            start = 0
            for mul, ir in norm.irreps:
                if ir == irrep:
                    out[f"{name}.weights.{k}"] = norm.affine_weight[start : start + mul]
                start += mul
        if SCALAR in order:
            out[f"{name}.bias"] = norm.affine_bias

    degree = model.edge_deg_embed
    made = [ir for ir in live[0] if ir in harmonics]
    product = Product(degree.dw, [SCALAR], made)
    out["degree.scalars"] = linear(degree.exp)[SCALAR][0] + degree.exp.bias[0]
    put_radial("degree.radial", degree.rad, product)
    put_linear("degree.linear", linear(degree.proj, product.rows), made, degree.proj.bias)

    sizes = {ir: mul for mul, ir in Irreps(case["irreps"])}
    for number, block in enumerate(model.blocks):
        name, attention, wanted = f"layers.{number}", block.ga, live[number + 1]
        heads = [ir for _, ir in Irreps(case["irreps_head"]) if ir in wanted]
        gated = reaching(features, harmonics, heads)
        used = reaching(made, harmonics, [*gated, SCALAR])
        put_norm(f"{name}.norm_1", block.norm_1, used)
        put_linear(f"{name}.attention.from_neighbour", linear(attention.merge_src), used, attention.merge_src.bias)
        put_linear(f"{name}.attention.from_centre", linear(attention.merge_dst), used, None)
        product = Product(attention.sep_act.dtp, used, [*gated, SCALAR])
        put_radial(f"{name}.attention.radial", attention.sep_act.dtp_rad, product)
        reached = {out_ir for a in used for b in harmonics for out_ir in a * b}
        gated = [ir for ir in gated if ir in reached]
        mix = linear(attention.sep_act.lin, product.rows)
        alpha = linear(attention.sep_alpha, product.rows)[SCALAR]
        kept = [np.arange(sizes[SCALAR])]
        start = sizes[SCALAR]
        for ir in features:
            if ir != SCALAR:
                kept += [np.arange(start, start + sizes[ir])] if ir in gated else []
                start += sizes[ir]
        columns = np.concatenate(kept)
        mix[SCALAR] = torch.cat([alpha, mix[SCALAR][:, columns]], 1)
        bias = torch.cat([attention.sep_alpha.bias[0], attention.sep_act.lin.bias[0][columns]])
        put_linear(f"{name}.attention.mix", mix, gated, bias)
        out[f"{name}.attention.dot"] = attention.alpha_dot[0]
        second = Product(attention.sep_value.dtp, gated, heads)
        internal = attention.sep_value.dtp.tp.weight[second.columns] * second.signs
        blocks: dict[Irrep, list[torch.Tensor]] = {}
        position = 0
        for instruction in attention.sep_value.dtp.tp.instructions:
            tp = attention.sep_value.dtp.tp
            left, ir = tp.irreps_in1[instruction.i_in1], tp.irreps_out[instruction.i_out].ir
            if left.ir in gated and ir in heads:
                blocks.setdefault(ir, []).append(internal[position : position + left.mul])
                position += left.mul
        ordered = sorted(blocks, key=lambda ir: (ir.l, -ir.p))
        for k, ir in enumerate(ordered):
            out[f"{name}.attention.scales.{k}"] = torch.cat(blocks[ir])
        heads = [ir for ir in heads if ir in ordered]
        values = linear(attention.sep_value.lin, second.rows)
        put_linear(f"{name}.attention.values", values, heads, attention.sep_value.lin.bias)
        projected = [ir for ir in features if ir in heads and ir in wanted]
        put_linear(f"{name}.attention.project", linear(attention.proj), projected, attention.proj.bias)
        between = [ir for ir in wanted if ir in made or ir in projected]
        put_norm(f"{name}.norm_2", block.norm_2, between)
        ffn = [(mul, ir) for mul, ir in Irreps(case["irreps_ffn"])]
        inside = [ir for _, ir in ffn if ir in between]
        expand = linear(block.ffn.fctp_1)
        kept, start = [np.arange(ffn[0][0])], ffn[0][0]
        for mul, ir in ffn[1:]:
            kept += [np.arange(start, start + mul)] if ir in inside else []
            start += mul
        columns = np.concatenate(kept)
        expand[SCALAR] = expand[SCALAR][:, columns]
        put_linear(f"{name}.expand", expand, inside, block.ffn.fctp_1.bias[0][columns])
        last = block.ffn_shortcut is not None
        outputs = [SCALAR] if last else [ir for ir in between if ir in inside]
        put_linear(f"{name}.contract", linear(block.ffn.fctp_2), outputs, block.ffn.fctp_2.bias)
        if last:
            put_linear(f"{name}.shortcut", linear(block.ffn_shortcut), [SCALAR], block.ffn_shortcut.bias)
        made = between
    put_norm("norm", model.norm, [SCALAR])
    put_linear("readout.0", linear(model.head[0]), [SCALAR], model.head[0].bias)
    factor = model.head[1].acts[0].cst / model.scale_scatter.avg_aggregate_num**0.5  # of SiLU; of atoms
    put_linear("readout.1", {SCALAR: linear(model.head[2])[SCALAR] * factor}, [SCALAR], None)
    return {name: value.detach().to(torch.float64) for name, value in out.items()}


def randomise(model: torch.nn.Module) -> None:
    """Moves every weight off its initial value, zero biases above all, and rounds all to float32."""
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter)
            parameter.copy_(parameter.to(torch.float32).to(parameter.dtype))


def record(name: str, case: Mapping[str, Any], folder: Path) -> None:
    case = {**case, "average_neighbours": 7.5}
    model = build(case, torch.float64)
    randomise(model)
    mapped = weights(model, case, list(SPECIES.values()))
    single = build(case, torch.float32)
    single.load_state_dict(model.state_dict())

    def evaluate(network: torch.nn.Module, atoms: Atoms) -> tuple[float, np.ndarray]:
        torch.set_default_dtype(next(network.parameters()).dtype)
        return predict(network, case["cutoff"], atoms)

    versions = {"equiformer": COMMIT, **{module.__name__: module.__version__ for module in (e3nn, torch, np)}}
    arguments = {"species": list(SPECIES.values()), **case, "smooth": False}
    functions = {"float64": partial(evaluate, model), "float32": partial(evaluate, single)}
    arrays = {key: value.numpy() for key, value in mapped.items()}
    write(folder, f"equiformer_{name}", "equiformer", arguments, arrays, functions, structures(list(SPECIES)), versions)


if __name__ == "__main__":
    for label, settings in CASES.items():
        record(label, settings, Path(sys.argv[1]))
