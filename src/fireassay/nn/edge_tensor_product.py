"""Depth-wise tensor products of the features of an edge with its harmonics, for irreps of different sizes.

    out[e, m3, k] = w[e, k] * sum over m1, m2 of  V[m1, m2, m3] x[e, m1, c] Y[e, m2]

where k runs over the paths into an irrep and the channels c of each path's input: the 'uvu' tensor product of e3nn,
in which no channels mix (Equiformer, "Depth-wise Tensor Product"). V are Clebsch-Gordan coefficients times
sqrt(2 l3 + 1).

`edge_product` is the product itself, `mixed_product` the product and a linear map of its channels, and
`attended_product` the sum over the neighbours of each atom of the products times one weight for each head. The last
two keep no (E, 2l+1, K) array.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property
from math import sqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fireassay.nn.autograd import is_wanted
from fireassay.nn.edge_tensor_product_numba import (
    PathTerms,
    Tables,
    attended,
    attended_gradient,
    channel_step,
    product,
    product_gradient,
)
from fireassay.nn.segment import Segments, segment_sum
from fireassay.nn.sized_features import Features, SizedIrreps
from fireassay.nn.so3 import Irrep, Irreps, clebsch_gordan

_CHUNK_BYTES = 2**21  # of the products that `mixed_product` holds at a time: they stay in the second-level cache


class Path(NamedTuple):
    """One coupling of a block of the features with a block of the harmonics."""

    source: int  # block of the input
    harmonic: int  # block of the harmonics
    target: int  # block of the output
    columns: slice  # channels of the target that the path fills
    weights: slice  # columns of the weights


class EdgeCoupling:
    """Every path from the irreps of the features and of the harmonics into the `allowed` irreps.

    Paths are ordered by the input's irreps, then the harmonics', then the degrees of their product; so are the columns
    of the weights, and within an irrep of the output its channels. Output irreps, `sizes_out`, are ordered by degree,
    even before odd.
    """

    def __init__(self, sizes_in: SizedIrreps, harmonics: Irreps, allowed: Sequence[Irrep]) -> None:
        self.sizes_in, self.harmonics = sizes_in, harmonics
        found = [
            (i, j, out)
            for i, left in enumerate(sizes_in.irreps)
            for j, right in enumerate(harmonics)
            for out in left.product(right)
            if out in allowed
        ]
        targets = sorted({out for _, _, out in found}, key=lambda irrep: (irrep.l, -irrep.p))
        filled, n_weights, paths = dict.fromkeys(targets, 0), 0, []
        for i, j, out in found:
            n, k = sizes_in.channels[i], filled[out]
            paths.append(Path(i, j, targets.index(out), slice(k, k + n), slice(n_weights, n_weights + n)))
            filled[out], n_weights = k + n, n_weights + n
        self.paths, self.n_weights = tuple(paths), n_weights
        self.sizes_out = SizedIrreps(Irreps(targets), tuple(filled.values()))

    def tensor(self, path: Path) -> Tensor:
        """The coefficients V (2l1+1, 2l2+1, 2l3+1) of a path, float64."""
        out = self.sizes_out.irreps[path.target]
        left, right = self.sizes_in.irreps[path.source], self.harmonics[path.harmonic]
        return sqrt(out.dim) * clebsch_gordan(left.l, right.l, out.l)

    @cached_property
    def _tables(self) -> Tables:
        """The coefficients as the fused kernels read them."""
        terms = [
            PathTerms(
                path.source,
                path.target,
                path.columns.start,
                path.weights.start,
                path.columns.stop - path.columns.start,
                self.harmonics.slices[path.harmonic].start,
                self.tensor(path).numpy(),
            )
            for path in self.paths
        ]
        return Tables(terms, self.harmonics.dim)

    def _fits(self, x: Tensor) -> bool:
        """Whether the fused kernels serve such features."""
        known = x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
        return known and bool(self.paths) and self._tables.divisor % channel_step(x.dtype) == 0

    def _empty(self, x: Tensor, rows: Sequence[int]) -> list[Tensor]:
        parts = zip(self.sizes_out.irreps, self.sizes_out.channels, strict=True)
        return [x.new_empty(*rows, irrep.dim, n) for irrep, n in parts]


def reaching(sizes: SizedIrreps, harmonics: Irreps, wanted: Sequence[Irrep]) -> SizedIrreps:
    """The irreps of features whose product with the harmonics has something wanted."""
    return sizes.only([a for a in sizes.irreps if any(out in wanted for b in harmonics for out in a.product(b))])


def edge_product(
    features: Features, harmonics: Tensor, coupling: EdgeCoupling, weights: Tensor, shared: int = 1
) -> Features:
    """Features of every edge, (E, 2l+1, C_l) each, to (E, 2l+1, K_l) each.

    harmonics (E, M), weights (E / shared, n_weights): `shared` edges, one after the other, have the same. Any device;
    differentiable to every order.
    """
    if not coupling._fits(harmonics):
        each = weights.repeat_interleave(shared, 0, output_size=len(harmonics))
        return _any_device(harmonics)(features, harmonics, coupling, each)
    # Made contiguous out here: a copy that a Function saves would be cut off from the graph of higher derivatives.
    return _Product.apply(coupling, shared, *_contiguous(harmonics, weights, *features))  # type: ignore[return-value]


def mixed_product(
    features: Features,
    harmonics: Tensor,
    coupling: EdgeCoupling,
    weights: Tensor,
    matrices: Sequence[Tensor],
    shared: int = 1,
) -> Features:
    """`edge_product` followed by one matrix (K_l, C_l) for each irrep of its output: (E, 2l+1, C_l) each."""
    if not coupling._fits(harmonics):
        products = edge_product(features, harmonics, coupling, weights, shared)
        return tuple(x @ matrix for x, matrix in zip(products, matrices, strict=True))
    tensors = _contiguous(harmonics, weights, *features, *matrices)
    return _MixedProduct.apply(coupling, shared, *tensors)  # type: ignore[return-value]


def attended_product(
    features: Features, harmonics: Tensor, coupling: EdgeCoupling, attention: Tensor, segments: Segments
) -> Features:
    """The products of unit weights of every edge, times attention (E, H), summed over each atom's edges.

    Features (E, 2l+1, C_l) each to (H, N, 2l+1, K_l) each. Any device; differentiable to every order.
    """
    if not coupling._fits(harmonics):
        return attended_product_reference(features, harmonics, coupling, attention, segments)
    tensors = _contiguous(harmonics, attention, *features)
    return _Attended.apply(coupling, segments, *tensors)  # type: ignore[return-value]


def _contiguous(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.contiguous() for tensor in tensors)


def _room(x: Sequence[Tensor], coupling: EdgeCoupling) -> list[Tensor]:
    """Where kernels write the gradients of features; those of blocks without a path are zero."""
    used = {path.source for path in coupling.paths}
    return [torch.empty_like(part) if k in used else torch.zeros_like(part) for k, part in enumerate(x)]


class _Product(torch.autograd.Function):
    """T(y, w, x), linear in each; its gradient is `_ProductGradient`."""

    @staticmethod
    def forward(ctx: Any, coupling: EdgeCoupling, shared: int, y: Tensor, w: Tensor, *x: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(y, w, *x)
        ctx.coupling, ctx.shared = coupling, shared
        out = coupling._empty(y, [len(y)])
        product(coupling._tables, x, y, w, shared, out, range(len(y)))
        return tuple(out)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        arguments = (ctx.coupling, ctx.shared, *ctx.saved_tensors, *_contiguous(*gradients))
        return (None, None, *_ProductGradient.apply(*arguments))  # type: ignore[misc]


class _ProductGradient(torch.autograd.Function):
    """Gradients of sum(g T(y, w, x)) to y, w and x."""

    @staticmethod
    def forward(ctx: Any, coupling: EdgeCoupling, shared: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*tensors)
        ctx.coupling, ctx.shared = coupling, shared
        y, w, *rest = tensors
        x, g = _split(rest, coupling)
        gy, gw, gx = torch.empty_like(y), torch.empty_like(w), _room(x, coupling)
        product_gradient(coupling._tables, x, y, w, shared, g, (gx, gy, gw), range(len(y)))
        return (gy, gw, *gx)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        def maps(y: Tensor, w: Tensor, x: Sequence[Tensor], g: Sequence[Tensor]) -> _Gradients:
            gy, gw, *gx = _ProductGradient.apply(ctx.coupling, ctx.shared, y, w, *x, *g)  # type: ignore[misc]
            return _Gradients(gy, gw, gx, _Product.apply(ctx.coupling, ctx.shared, y, w, *x))  # type: ignore[arg-type]

        return (None, None, *_second(maps, ctx.coupling, ctx.saved_tensors, gradients))


class _Gradients(NamedTuple):
    """Gradients of sum(g T(y, w, x)) to y, w, x, and T(y, w, x), its gradient to g."""

    y: Tensor
    w: Tensor
    x: Sequence[Tensor]
    g: Sequence[Tensor]


def _second(maps: Any, coupling: EdgeCoupling, saved: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of sum(u dS) to y, w, x and g, with S = sum(g T(y, w, x)): S of each factor in turn exchanged for u."""
    y, w, *rest = saved
    x, g = _split(rest, coupling)
    uy, uw, *ux = _contiguous(*gradients)
    of_y, of_w, of_x = maps(uy, w, x, g), maps(y, uw, x, g), maps(y, w, ux, g)
    out = [of_w.y + of_x.y, of_y.w + of_x.w]
    out += [a + b for a, b in zip(of_y.x, of_w.x, strict=True)]
    return out + [a + b + c for a, b, c in zip(of_y.g, of_w.g, of_x.g, strict=True)]


def _split(tensors: Sequence[Tensor], coupling: EdgeCoupling) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    n = len(coupling.sizes_in.irreps)
    return tensors[:n], tensors[n:]


class _MixedProduct(torch.autograd.Function):
    """The product and the matrices, a chunk of edges at a time.

    A gradient that is to be differentiated again is made of functions that can be.
    """

    @staticmethod
    def forward(ctx: Any, coupling: EdgeCoupling, shared: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*tensors)
        ctx.coupling, ctx.shared = coupling, shared
        y, w, *rest = tensors
        x, matrices = _split(rest, coupling)
        parts = zip(coupling.sizes_out.irreps, matrices, strict=True)
        out = [y.new_empty(len(y), irrep.dim, matrix.shape[1]) for irrep, matrix in parts]
        for edges, products in _chunks(coupling, y):
            product(coupling._tables, x, y, w, shared, products, edges)
            for values, matrix, result in zip(products, matrices, out, strict=True):
                torch.mm(values.flatten(0, 1), matrix, out=result[edges.start : edges.stop].flatten(0, 1))
        return tuple(out)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        y, w, *rest = ctx.saved_tensors
        x, matrices = _split(rest, ctx.coupling)
        wanted = any(is_wanted(node) for node, _ in ctx.next_functions[-len(matrices) :] if node is not None)
        grads = _contiguous(*gradients)
        compute = _mixed_gradient_composed if torch.is_grad_enabled() else _mixed_gradient
        return (None, None, *compute(ctx.coupling, ctx.shared, (y, w), x, matrices, grads, wanted))


Pair = tuple[Tensor, Tensor]


def _chunks(coupling: EdgeCoupling, y: Tensor) -> Iterator[tuple[range, list[Tensor]]]:
    """Ranges of edges, whole pairs, with room for their products that is used again and again."""
    width = sum(irrep.dim * n for irrep, n in zip(coupling.sizes_out.irreps, coupling.sizes_out.channels, strict=True))
    size = max(1, _CHUNK_BYTES // (width * y.element_size() * 16)) * 16
    room = coupling._empty(y, [min(size, len(y))])
    for begin in range(0, len(y), size):
        edges = range(begin, min(begin + size, len(y)))
        yield edges, room if len(edges) == size else [part[: len(edges)] for part in room]


def _mixed_gradient(
    coupling: EdgeCoupling,
    shared: int,
    yw: Pair,
    x: Sequence[Tensor],
    matrices: Sequence[Tensor],
    g: Sequence[Tensor],
    wanted: bool,
) -> list[Tensor | None]:
    y, w = yw
    gy, gw, gx = torch.empty_like(y), torch.empty_like(w), _room(x, coupling)
    gm = [torch.zeros_like(matrix) if wanted else None for matrix in matrices]
    for edges, products in _chunks(coupling, y):
        upper = [part[edges.start : edges.stop].flatten(0, 1) for part in g]
        if wanted:
            product(coupling._tables, x, y, w, shared, products, edges)
            for target, values, gradient in zip(gm, products, upper, strict=True):
                assert target is not None
                target.addmm_(values.flatten(0, 1).T, gradient)
        for values, matrix, gradient in zip(products, matrices, upper, strict=True):
            torch.mm(gradient, matrix.T, out=values.flatten(0, 1))
        product_gradient(coupling._tables, x, y, w, shared, products, (gx, gy, gw), edges)
    return [gy, gw, *gx, *gm]


def _mixed_gradient_composed(
    coupling: EdgeCoupling,
    shared: int,
    yw: Pair,
    x: Sequence[Tensor],
    matrices: Sequence[Tensor],
    g: Sequence[Tensor],
    wanted: bool,
) -> list[Tensor | None]:
    """As `_mixed_gradient`, of functions that can be differentiated again."""
    upper = _contiguous(*(gradient @ matrix.T for gradient, matrix in zip(g, matrices, strict=True)))
    gy, gw, *gx = _ProductGradient.apply(coupling, shared, *yw, *x, *upper)  # type: ignore[misc]
    gm: list[Tensor | None] = [None] * len(matrices)
    if wanted:
        products = _Product.apply(coupling, shared, *yw, *x)
        gm = [p.flatten(0, 1).T @ gradient.flatten(0, 1) for p, gradient in zip(products, g, strict=True)]  # type: ignore[arg-type]
    return [gy, gw, *gx, *gm]


class _Attended(torch.autograd.Function):
    """The attended sums Z(y, a, x), linear in each; its gradient is `_AttendedGradient`."""

    @staticmethod
    def forward(
        ctx: Any, coupling: EdgeCoupling, segments: Segments, y: Tensor, attention: Tensor, *x: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(y, attention, *x)
        ctx.coupling, ctx.segments = coupling, segments
        out = coupling._empty(y, [attention.shape[1], len(segments.starts) - 1])
        lone = torch.nonzero(segments.starts[1:] == segments.starts[:-1]).squeeze(1)
        for part in out:
            part.index_fill_(1, lone, 0.0)
        attended(coupling._tables, x, y, attention, (segments.starts, segments.order), out)
        return tuple(out)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        arguments = (ctx.coupling, ctx.segments, *ctx.saved_tensors, *_contiguous(*gradients))
        return (None, None, *_AttendedGradient.apply(*arguments))  # type: ignore[misc]


class _AttendedGradient(torch.autograd.Function):
    """Gradients of sum(g Z(y, a, x)) to y, a and x."""

    @staticmethod
    def forward(ctx: Any, coupling: EdgeCoupling, segments: Segments, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*tensors)
        ctx.coupling, ctx.segments = coupling, segments
        y, a, *rest = tensors
        x, g = _split(rest, coupling)
        gy, ga, gx = torch.empty_like(y), torch.empty_like(a), _room(x, coupling)
        edges = (segments.starts, segments.order)
        attended_gradient(coupling._tables, x, y, a, edges, g, (gx, gy, ga))
        return (gy, ga, *gx)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        def maps(y: Tensor, a: Tensor, x: Sequence[Tensor], g: Sequence[Tensor]) -> _Gradients:
            gy, ga, *gx = _AttendedGradient.apply(ctx.coupling, ctx.segments, y, a, *x, *g)  # type: ignore[misc]
            return _Gradients(gy, ga, gx, _Attended.apply(ctx.coupling, ctx.segments, y, a, *x))  # type: ignore[arg-type]

        return (None, None, *_second(maps, ctx.coupling, ctx.saved_tensors, gradients))


def edge_product_reference(
    features: Features, harmonics: Tensor, coupling: EdgeCoupling, weights: Tensor | None
) -> Features:
    """The definition, one batched matrix product per path; for any device. Without weights they are one."""
    blocks: list[list[Tensor]] = [[] for _ in coupling.sizes_out.irreps]
    for path in coupling.paths:
        y = harmonics[:, coupling.harmonics.slices[path.harmonic]]
        matrix = torch.einsum("em,amb->eba", y, coupling.tensor(path).to(y))
        values = torch.bmm(matrix, features[path.source])
        blocks[path.target].append(values if weights is None else values * weights[:, path.weights].unsqueeze(1))
    return tuple(torch.cat(parts, 2) for parts in blocks)


def edge_product_dense(
    features: Features, harmonics: Tensor, coupling: EdgeCoupling, weights: Tensor | None
) -> Features:
    """As the definition, with all paths of a block of the input in one product: few operations, for an accelerator."""
    blocks: list[list[Tensor]] = [[] for _ in coupling.sizes_out.irreps]
    for source, (tensor, rows, columns, parts) in enumerate(_dense(coupling, harmonics.dtype, harmonics.device)):
        if not parts:
            continue
        values = torch.bmm((harmonics @ tensor).unflatten(1, (len(rows), -1)), features[source])
        if weights is not None:
            of_paths = weights[:, columns].unflatten(1, (len(parts), -1))
            values = values * of_paths.index_select(1, rows)
        for target, part in parts:
            blocks[target].append(values[:, part])
    return tuple(torch.cat(parts, 2) for parts in blocks)


def _any_device(harmonics: Tensor) -> Callable[[Features, Tensor, EdgeCoupling, Tensor | None], Features]:
    return edge_product_reference if harmonics.device.type == "cpu" else edge_product_dense


@cache
def _dense(coupling: EdgeCoupling, dtype: torch.dtype, device: torch.device) -> list[_Dense]:
    """The coefficients of the paths by the block of the input that they start from."""
    found = []
    for source, irrep in enumerate(coupling.sizes_in.irreps):
        paths = [path for path in coupling.paths if path.source == source]
        sizes = [coupling.sizes_out.irreps[path.target].dim for path in paths]
        tensor = torch.zeros(coupling.harmonics.dim, sum(sizes), irrep.dim, dtype=torch.float64)
        parts, end = [], 0
        for path, size in zip(paths, sizes, strict=True):
            part = slice(end, end + size)
            end += size
            tensor[coupling.harmonics.slices[path.harmonic], part] = coupling.tensor(path).permute(1, 2, 0)
            parts.append((path.target, part))
        rows = torch.repeat_interleave(torch.arange(len(paths)), torch.tensor(sizes, dtype=torch.int64))
        columns = slice(paths[0].weights.start, paths[-1].weights.stop) if paths else slice(0)
        found.append(_Dense(tensor.flatten(1).to(device, dtype), rows.to(device), columns, parts))
    return found


class _Dense(NamedTuple):
    tensor: Tensor  # (M_sh, R (2l+1)), R rows of all paths
    rows: Tensor  # (R,), the path of each row
    columns: slice  # of the weights
    parts: list[tuple[int, slice]]  # of each path: its target and its rows


def attended_product_reference(
    features: Features, harmonics: Tensor, coupling: EdgeCoupling, attention: Tensor, segments: Segments
) -> Features:
    """The definition, for any device."""
    products = _any_device(harmonics)(features, harmonics, coupling, None)
    weighted = (attention[:, :, None, None] * values.unsqueeze(1) for values in products)
    return tuple(segment_sum(values, segments).transpose(0, 1) for values in weighted)
