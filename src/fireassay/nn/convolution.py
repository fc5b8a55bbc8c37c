"""The equivariant convolution: gather, weighted tensor product and segment sum in one function.

    out[i, m3, c] = sum over edges e: i -> j, and over m1, m2, of  V[m1, m2, m3] features[j, m1, c] Y[e, m2] w[e, p, c]

where V holds Clebsch-Gordan coefficients and p is the path to which m3 belongs: the 'uvu' tensor product of e3nn
(NequIP, eq. 5-8; MACE, eq. 8), one output block per path.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property
from math import sqrt
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fireassay.errors import InputError
from fireassay.nn.autograd import is_wanted
from fireassay.nn.convolution_numba import Edges, Tables, Terms, channel_step, edge_gradients, segment_sum
from fireassay.nn.edge_pairs import EdgePairs
from fireassay.nn.so3 import Irrep, Irreps, clebsch_gordan, path_tensor

_DENSE: Final = 1 << 29  # numbers in the matrices of all edges, up to which an accelerator holds them at a time


class Coupling:
    """Which blocks of the features couple with which harmonics to what: the constant of a convolution.

    `paths` holds (block of irreps_in, block of irreps_sh, output irrep); the output has one block per path, in the
    order of the paths. `coefficients`, one per path, multiply the Clebsch-Gordan tensor of norm one; by default
    sqrt(2 l_out + 1), which gives the numbers of e3nn's TensorProduct with irrep_normalization='component'.
    """

    def __init__(
        self,
        irreps_in: Irreps,
        irreps_sh: Irreps,
        paths: Sequence[tuple[int, int, Irrep]],
        coefficients: Sequence[float] | None = None,
    ) -> None:
        if coefficients is not None and len(coefficients) != len(paths):
            raise InputError(f"{len(coefficients)} coefficients for {len(paths)} paths: give one per path")
        self.irreps_in, self.irreps_sh = irreps_in, irreps_sh
        self.paths = tuple((i, j, out) for i, j, out in paths)
        for i, j, out in self.paths:
            if out not in irreps_in[i].product(irreps_sh[j]):
                raise InputError(f"{irreps_in[i]} x {irreps_sh[j]} does not contain {out}: remove this path")
        self.irreps_out = Irreps(out for _, _, out in self.paths)
        self.coefficients = tuple(coefficients or (sqrt(out.dim) for _, _, out in self.paths))

    @classmethod
    def of(cls, irreps_in: Irreps, irreps_sh: Irreps, allowed: Irreps | Sequence[Irrep]) -> Coupling:
        """Every path from irreps_in x irreps_sh into the irreps of `allowed`.

        Order: over the blocks of irreps_in, then of irreps_sh, then the degrees of their product, followed by a
        stable sort by output irrep. Output blocks, and the weights of MACE, have this order; the weights of NequIP
        have the order before sorting.
        """
        paths = [
            (i, j, out)
            for i, left in enumerate(irreps_in)
            for j, right in enumerate(irreps_sh)
            for out in left.product(right)
            if out in allowed
        ]
        return cls(irreps_in, irreps_sh, sorted(paths, key=lambda path: path[2]))

    def tensor(self, path: int) -> Tensor:
        """The dense coefficients (2l1+1, 2l2+1, 2l3+1) of one path, float64, its coefficient included."""
        i, j, out = self.paths[path]
        return self.coefficients[path] * clebsch_gordan(self.irreps_in[i].l, self.irreps_sh[j].l, out.l)

    @cached_property
    def _tables(self) -> tuple[Tables, Tables]:
        """The coefficients as the fused kernels read them: for the sum itself and for its transpose."""
        parts = []
        for path, (i, j, _) in enumerate(self.paths):
            tensor = self.tensor(path).numpy()
            m1, m2, m3 = np.nonzero(tensor)
            blocks = self.irreps_in.slices[i], self.irreps_sh.slices[j], self.irreps_out.slices[path]
            source, harmonic, target = (m + block.start for m, block in zip((m1, m2, m3), blocks, strict=True))
            parts.append((source, harmonic, target, np.full(len(m1), path), tensor[m1, m2, m3]))
        terms = Terms(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        m_in, m_out, m_sh, n = self.irreps_in.dim, self.irreps_out.dim, self.irreps_sh.dim, len(self.paths)
        return Tables(terms, m_in, m_out, m_sh, n), Tables(terms.transposed(), m_out, m_in, m_sh, n)


class EdgeOrder(NamedTuple):
    """The edges by centre and by neighbour: edges starts[i]:starts[i+1] belong to centre i, and the edges
    by_neighbour[neighbour_starts[j]:neighbour_starts[j+1]] to neighbour j."""

    starts: Tensor  # (N+1,) int64
    by_neighbour: Tensor  # (E,) int64
    neighbour_starts: Tensor  # (N+1,) int64


def row_starts(index: Tensor, n_rows: int) -> Tensor:
    """Where each of `n_rows` rows begins among elements sorted by their row `index` (E,) int64: (n_rows + 1,)."""
    out = index.new_zeros(n_rows + 1)
    if index.device.type == "cpu":
        counts = torch.bincount(index, minlength=n_rows)
    else:  # bincount would wait for the largest element
        counts = index.new_zeros(n_rows).index_add(0, index, torch.ones_like(index))
    torch.cumsum(counts, 0, out=out[1:])
    return out


def edge_order(centre: Tensor, neighbour: Tensor, n_atoms: int) -> EdgeOrder:
    """The order of the edges for a graph of `n_atoms`, built once and shared by all layers; `centre` is sorted."""
    starts, neighbour_starts = row_starts(centre, n_atoms), row_starts(neighbour, n_atoms)
    return EdgeOrder(starts, torch.argsort(neighbour, stable=True), neighbour_starts)


def convolution(
    features: Tensor,
    harmonics: Tensor,
    weights: Tensor,
    centre: Tensor,
    neighbour: Tensor,
    coupling: Coupling,
    edges: EdgeOrder | None = None,
    pairs: EdgePairs | None = None,
    implementation: Literal["auto", "reference", "dense", "fused"] = "auto",
) -> Tensor:
    """Messages summed over the neighbours of each atom: (N, M_out, C).

    features (N, M_in, C), harmonics (E, M_sh), weights (E, P, C), centre (E,) ascending and neighbour (E,) int64.
    `edges` is `edge_order(centre, neighbour, N)` when it is already known. With `pairs` the weights are those of the
    pairs, (E/2, P, C), each for both of its edges. Differentiable to every order, in all three factors. The fused
    kernels serve float32 and float64 on the CPU; elsewhere "dense" serves graphs of moderate size, and the reference
    everything else. Raises InputError when the shapes do not fit the coupling.
    """
    rows = (len(centre), len(centre if pairs is None else pairs.first))
    _check(features, harmonics, weights, rows, coupling)
    if implementation == "auto":
        implementation = _implementation(features, len(centre), coupling)
    if implementation != "fused" or not coupling.paths:
        weights = weights if pairs is None else weights.index_select(0, pairs.pair)
        function = convolution_dense if implementation == "dense" else convolution_reference
        return function(features, harmonics, weights, centre, neighbour, coupling)
    if edges is None:
        edges = edge_order(centre, neighbour, features.shape[0])
    shared = None if pairs is None else pairs.pair
    graph = _Graph(
        by_centre=Edges(edges.starts, None, neighbour.contiguous(), centre.contiguous(), shared),
        by_neighbour=Edges(
            edges.neighbour_starts, edges.by_neighbour, centre.contiguous(), neighbour.contiguous(), shared
        ),
        by_pair=None if pairs is None else pairs.order,
        coupling=coupling,
    )
    channels = features.shape[2]
    spare = -channels % channel_step(features.dtype)
    if spare:
        features, weights = (torch.nn.functional.pad(tensor, (0, spare)) for tensor in (features, weights))
    # Made contiguous out here: a copy that a Function saves would be cut off from the graph of higher derivatives.
    factors = (tensor.contiguous() for tensor in (features, harmonics, weights))
    out: Tensor = _Convolution.apply(*factors, graph)  # type: ignore[assignment]
    return out[..., :channels].contiguous() if spare else out


def _implementation(features: Tensor, n_edges: int, coupling: Coupling) -> Literal["reference", "dense", "fused"]:
    if features.device.type == "cpu":
        return "fused" if features.dtype in (torch.float32, torch.float64) else "reference"
    size = n_edges * coupling.irreps_out.dim * coupling.irreps_in.dim
    return "dense" if coupling.paths and size <= _DENSE else "reference"


def _check(features: Tensor, harmonics: Tensor, weights: Tensor, rows: tuple[int, int], coupling: Coupling) -> None:
    channels = features.shape[-1]
    expected = {
        "features": (features.shape[0], coupling.irreps_in.dim, channels),
        "harmonics": (rows[0], coupling.irreps_sh.dim),
        "weights": (rows[1], len(coupling.paths), channels),
    }
    for (name, shape), tensor in zip(expected.items(), (features, harmonics, weights), strict=True):
        if tuple(tensor.shape) != shape:
            raise InputError(f"{name} have the shape {tuple(tensor.shape)}; this coupling needs {shape}")
        if tensor.dtype != features.dtype:
            raise InputError(f"{name} are {tensor.dtype} and features {features.dtype}: convert to one dtype")


class _Graph(NamedTuple):
    by_centre: Edges
    by_neighbour: Edges
    by_pair: Tensor | None
    coupling: Coupling

    def paired(self) -> Edges:
        """The edges for sums over edges, those that share weights one after the other."""
        return self.by_centre._replace(order=self.by_pair)


class _Convolution(torch.autograd.Function):
    """The sum over neighbours by the fused kernels; its gradient is `_Gradient`."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, harmonics: Tensor, weights: Tensor, graph: _Graph) -> Tensor:
        ctx.save_for_backward(features, harmonics, weights)
        ctx.graph, ctx.source = graph, features.grad_fn
        return segment_sum(graph.coupling._tables[0], graph.by_centre, features, harmonics, weights)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        need = ctx.needs_input_grad
        wanted = (need[0] and is_wanted(ctx.source), need[1] or need[2])
        return (*_Gradient.apply(*ctx.saved_tensors, gradients[0].contiguous(), ctx.graph, wanted), None)  # type: ignore[misc]


class _Gradient(torch.autograd.Function):
    """Gradients to features and to (harmonics, weights), each if wanted; linear in all but one of its factors.

    With S = T(x, y, w, g) multilinear, the output is dS/dx, dS/dy, dS/dw. A gradient (ux, uy, uw) of the output makes
    T(ux, y, w, g) + T(x, uy, w, g) + T(x, y, uw, g), which is differentiated once more.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, w: Tensor, g: Tensor, graph: _Graph, wanted: tuple[bool, bool]
    ) -> tuple[Tensor | None, ...]:
        ctx.save_for_backward(x, y, w, g)
        ctx.graph = graph
        ctx.set_materialize_grads(False)
        direct, transposed = graph.coupling._tables
        gx = segment_sum(transposed, graph.by_neighbour, g, y, w) if wanted[0] else None
        gy, gw = edge_gradients(direct, graph.paired(), x, y, w, g) if wanted[1] else (None, None)
        return gx, gy, gw

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        second = _composed_second if torch.is_grad_enabled() else _fused_second
        return (*second(ctx.saved_tensors, gradients, ctx.graph, ctx.needs_input_grad), None, None)


Four = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def _fused_second(
    factors: Sequence[Tensor], gradients: Sequence[Tensor | None], graph: _Graph, need: Sequence[bool]
) -> Four:
    """Gradients of T(ux, y, w, g) + T(x, uy, w, g) + T(x, y, uw, g) to x, y, w, g by the kernels."""
    x, y, w, g = factors
    ux, uy, uw = gradients
    ux = None if ux is None else ux.contiguous()
    uy = torch.zeros_like(y) if uy is None else uy.contiguous()
    uw = torch.zeros_like(w) if uw is None else uw.contiguous()
    direct, transposed = graph.coupling._tables
    dx = segment_sum(transposed, graph.by_neighbour, g, y, w, (None, uy, uw)) if need[0] else None
    dy = dw = None
    if need[1] or need[2]:
        dy, dw = edge_gradients(direct, graph.paired(), x, y, w, g, (ux, uy, uw))
    dg = segment_sum(direct, graph.by_centre, x, y, w, (ux, uy, uw)) if need[3] else None
    return dx, dy, dw, dg


def _composed_second(
    factors: Sequence[Tensor], gradients: Sequence[Tensor | None], graph: _Graph, need: Sequence[bool]
) -> Four:
    """As `_fused_second`, of functions that can be differentiated again."""
    parts: list[list[Tensor]] = [[], [], [], []]
    for index, direction in enumerate(gradients):
        if direction is None:
            continue
        x, y, w = (direction.contiguous() if i == index else factor for i, factor in enumerate(factors[:3]))
        three = _Gradient.apply(x, y, w, factors[3], graph, (index != 0, True))
        for i, part in enumerate(three):  # type: ignore[arg-type]
            if i != index:
                parts[i].append(part)
        parts[3].append(_Convolution.apply(x, y, w, graph))  # type: ignore[arg-type]
    return tuple(sum(p[1:], p[0]) if p and wanted else None for p, wanted in zip(parts, need, strict=False))  # type: ignore[return-value]


def convolution_reference(
    features: Tensor, harmonics: Tensor, weights: Tensor, centre: Tensor, neighbour: Tensor, coupling: Coupling
) -> Tensor:
    """The definition, one batched matrix product per path; for any device."""
    gathered = features.index_select(0, neighbour)  # (E, M_in, C)
    blocks = []
    for index, (i, j, _) in enumerate(coupling.paths):
        tensor = path_tensor(coupling, index, harmonics.dtype, harmonics.device)
        matrix = torch.einsum("em,amb->eba", harmonics[:, coupling.irreps_sh.slices[j]], tensor)
        message = torch.bmm(matrix, gathered[:, coupling.irreps_in.slices[i]])
        blocks.append(message * weights[:, index].unsqueeze(1))
    messages = torch.cat(blocks, 1) if blocks else gathered[:, :0]  # (E, M_out, C)
    return messages.new_zeros(features.shape[0], *messages.shape[1:]).index_add(0, centre, messages)


def convolution_dense(
    features: Tensor, harmonics: Tensor, weights: Tensor, centre: Tensor, neighbour: Tensor, coupling: Coupling
) -> Tensor:
    """As the definition, with all paths in one product: few operations, whose number is what an accelerator waits for.

    A matrix (M_out, M_in) of every edge is held at a time.
    """
    tensor, rows = _dense(coupling, harmonics.dtype, harmonics.device)
    matrix = (harmonics @ tensor).unflatten(1, (len(rows), -1))
    messages = torch.bmm(matrix, features.index_select(0, neighbour)) * weights.index_select(1, rows)
    return messages.new_zeros(features.shape[0], *messages.shape[1:]).index_add(0, centre, messages)


@cache
def _dense(coupling: Coupling, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """The coefficients of all paths (M_sh, M_out M_in), and the path of each row of the output (M_out,)."""
    tensor = torch.zeros(coupling.irreps_sh.dim, coupling.irreps_out.dim, coupling.irreps_in.dim, dtype=torch.float64)
    rows = torch.zeros(coupling.irreps_out.dim, dtype=torch.int64)
    for path, (i, j, _) in enumerate(coupling.paths):
        out = coupling.irreps_out.slices[path]
        tensor[coupling.irreps_sh.slices[j], out, coupling.irreps_in.slices[i]] = coupling.tensor(path).permute(1, 2, 0)
        rows[out] = path
    return tensor.flatten(1).to(device, dtype), rows.to(device)
