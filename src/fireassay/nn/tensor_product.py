"""Channel-wise tensor products of the features of edges with the environments of their centres.

    out[e, m3, p, c] = sum over m1, m2 of  V[m1, m2, m3] features[e, m1, c] environment[i(e), m2, c]

where V holds Clebsch-Gordan coefficients and p is the path: the 'uuu' tensor product of e3nn (Allegro, eq. 9). The
environment of an atom is the sum of the weighted harmonics of its edges (`weighted_harmonics`).

Features of edges are a list of arrays (E, m, C) whose components, side by side, are those of their irreps: one array
for all, or one per irrep. What a product makes of each irrep is one array (E, 2l+1, P C), path by path, so that the
linear layer on it is one plain matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import groupby
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fireassay.errors import InputError
from fireassay.nn.autograd import is_wanted
from fireassay.nn.convolution import Coupling
from fireassay.nn.segment import Segments, gather
from fireassay.nn.so3 import Irrep, Irreps, path_tensor
from fireassay.nn.tensor_product_mixed_numba import Blocks, Task, mixed, mixed_gradients, weight_gradients
from fireassay.nn.tensor_product_numba import Rows, Terms, gradients, products


class ChannelwiseProduct:
    """The constant of a product: every path from irreps_in x irreps_environment into `allowed`.

    `targets` are the irreps that it makes, by degree, odd before even, with the number of paths into each. Paths into
    an irrep are ordered by the block of irreps_in, then that of the environment; each has its own channels.
    """

    def __init__(self, irreps_in: Irreps, irreps_environment: Irreps, allowed: Irreps) -> None:
        self.coupling = Coupling.of(irreps_in, irreps_environment, allowed)
        self.irreps_in, self.irreps_environment = irreps_in, irreps_environment
        self.targets: list[tuple[Irrep, int]] = [
            (irrep, len(list(paths))) for irrep, paths in groupby(self.coupling.irreps_out)
        ]
        self._blocks: dict[int, Blocks] = {}
        self._places: dict[tuple[int, ...], Rows] = {}

    def _rows(self, sizes: tuple[int, ...]) -> Rows:
        """Where the features lie in arrays of these sizes."""
        if sizes not in self._places:
            self._places[sizes] = Rows(sizes)
        return self._places[sizes]

    def _blocks_of(self, channels: int) -> Blocks:
        """The blocks of the product for a number of channels."""
        if channels not in self._blocks:
            dims, paths = [irrep.dim for irrep, _ in self.targets], [n for _, n in self.targets]
            self._blocks[channels] = Blocks(dims, paths, channels)
        return self._blocks[channels]

    @cached_property
    def _tables(self) -> tuple[Terms, Terms, Rows]:
        """The coefficients as the fused kernels read them: to the product, to the features; where the product lies."""
        rows, first, start = [], 0, 0
        for irrep, paths in self.targets:
            for path in range(paths):
                tensor = self.coupling.tensor(first + path).numpy()
                i, j, _ = self.coupling.paths[first + path]
                one, two, three = np.nonzero(tensor)
                source, component = self.irreps_in.slices[i].start, self.irreps_environment.slices[j].start
                value = tensor[one, two, three]
                rows.append((source + one, component + two, start + three * paths + path, value))
            first, start = first + paths, start + irrep.dim * paths
        source, component, target, value = (np.concatenate(column) for column in zip(*rows, strict=True))
        m_env, m_in = self.irreps_environment.dim, self.irreps_in.dim
        direct = Terms(source, component, target, value, m_env, start)
        transposed = Terms(target, component, source, value, m_env, m_in)
        return direct, transposed, Rows([irrep.dim * paths for irrep, paths in self.targets])


def tensor_product(
    features: Sequence[Tensor],
    environment: Tensor,
    centres: Segments,
    product: ChannelwiseProduct,
    implementation: Literal["auto", "reference", "fused"] = "auto",
) -> list[Tensor]:
    """The products of the features, arrays (E, m, C) that make up irreps_in, with the environments (N, M, C) of the
    edges' centres: one array (E, 2l+1, P C) for each of `product.targets`.

    Differentiable to every order in both. The fused kernels serve float32 and float64 on the CPU for edges sorted by
    their centre, the reference everything else. Raises InputError when the shapes do not fit.
    """
    _check(features, environment, centres, product)
    if not _fused(environment, centres, implementation):
        return tensor_product_reference(features, environment, centres, product)
    context = _Context(product, centres.starts, [array.shape[1] for array in features])
    # Made contiguous out here: a copy that a Function saves would be cut off from the graph of higher derivatives.
    factors = (tensor.contiguous() for tensor in (*features, environment))
    return list(_Product.apply(context, *factors))  # type: ignore[arg-type]


def mixed_product(
    features: Sequence[Tensor],
    environment: Tensor,
    centres: Segments,
    product: ChannelwiseProduct,
    weights: Sequence[Tensor],
    implementation: Literal["auto", "reference", "fused"] = "auto",
) -> list[Tensor]:
    """`tensor_product` and the linear layer after it: each irrep's array times its weights (P C, C), (E, 2l+1, C).

    The fused kernels never write the product. Differentiable to every order, also in the weights.
    """
    _check(features, environment, centres, product)
    if not _fused(environment, centres, implementation):
        made = tensor_product_reference(features, environment, centres, product)
        return [array @ weight for array, weight in zip(made, weights, strict=True)]
    context = _Context(product, centres.starts, [array.shape[1] for array in features])
    factors = (tensor.contiguous() for tensor in (*features, environment, *weights))
    return list(_Mixed.apply(context, *factors))  # type: ignore[arg-type]


def _fused(environment: Tensor, centres: Segments, implementation: str) -> bool:
    fits = environment.device.type == "cpu" and environment.dtype in (torch.float32, torch.float64)
    return implementation == "fused" or (implementation == "auto" and fits and centres.order is None)


def _check(features: Sequence[Tensor], environment: Tensor, centres: Segments, product: ChannelwiseProduct) -> None:
    channels, n_edges = environment.shape[2], len(centres.index)
    shapes = {(array.shape[0], array.shape[2], array.dtype) for array in features}
    complete = sum(array.shape[1] for array in features) == product.irreps_in.dim
    if not complete or shapes != {(n_edges, channels, environment.dtype)}:
        given = [tuple(array.shape) for array in features]
        raise InputError(f"features {given} for {n_edges} edges, {product.irreps_in} and {channels} channels")


class _Context:
    """What a product's derivatives share."""

    def __init__(self, product: ChannelwiseProduct, starts: Tensor, sizes: Sequence[int]) -> None:
        self.direct, self.transposed, self.z_rows = product._tables
        self.starts, self.x_rows, self.n_features = starts, product._rows(tuple(sizes)), len(sizes)
        self.targets, self._blocks_of = product.targets, product._blocks_of

    def product(
        self, x: Sequence[Tensor], y: Tensor, second: tuple[Sequence[Tensor], Tensor] | None = None
    ) -> list[Tensor]:
        """(E, 2l+1, P C) for each irrep."""
        out = products(self.direct, self.starts, x, self.x_rows, y, self.z_rows, second)
        n_edges, channels = x[0].shape[0], y.shape[2]
        return [a.view(n_edges, irrep.dim, n * channels) for a, (irrep, n) in zip(out, self.targets, strict=True)]

    def task(self, channels: int) -> Task:
        """What the kernels of the mixed product share."""
        return Task(self.direct, self.transposed, self._blocks_of(channels), self.starts, self.x_rows)

    def gradients(self, x: Sequence[Tensor], y: Tensor, z: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The gradients to features (by y) and environment (by x) for gradients z of the product."""
        return gradients(self.transposed, self.starts, x, self.x_rows, y, z, self.z_rows)


class _Product(torch.autograd.Function):
    """The product by the fused kernels; its gradient is `_Gradient`."""

    @staticmethod
    def forward(ctx: Any, context: _Context, *factors: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*factors)
        ctx.context = context
        return tuple(context.product(factors[:-1], factors[-1]))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradients = tuple(gradient.contiguous() for gradient in gradients)
        return (None, *_Gradient.apply(ctx.context, *ctx.saved_tensors, *gradients))  # type: ignore[misc]


class _Gradient(torch.autograd.Function):
    """The gradients to features x and environment y for gradients z of the product T(x, y).

    A gradient (ux, uy) of these makes S = T(ux, y) z + T(x, uy) z, which is differentiated to x, y and z.
    """

    @staticmethod
    def forward(ctx: Any, context: _Context, *factors: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*factors)
        ctx.context = context
        x, y, z = factors[: context.n_features], factors[context.n_features], factors[context.n_features + 1 :]
        return context.gradients(x, y, z)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        context, factors, n = ctx.context, ctx.saved_tensors, ctx.context.n_features
        x, y, z = factors[:n], factors[n], factors[n + 1 :]
        gradients = tuple(gradient.contiguous() for gradient in gradients)
        ux, uy = gradients[:n], gradients[n]
        if not torch.is_grad_enabled():
            dz = context.product(ux, y, (x, uy))
            return None, *context.gradients(ux, uy, z), *dz
        pairs = zip(_Product.apply(context, *ux, y), _Product.apply(context, *x, uy), strict=True)  # type: ignore[arg-type]
        return None, *_Gradient.apply(context, *ux, uy, *z), *(a + b for a, b in pairs)  # type: ignore[misc]


class _Mixed(torch.autograd.Function):
    """The product times weights by the fused kernels; its gradient is `_MixedGradient`."""

    @staticmethod
    def forward(ctx: Any, context: _Context, *factors: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*factors)
        ctx.context, n = context, context.n_features
        ctx.sources = [weight.grad_fn for weight in factors[n + 1 :]]
        return tuple(mixed(context.task(factors[n].shape[2]), factors[:n], factors[n], factors[n + 1 :]))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        need = ctx.needs_input_grad[ctx.context.n_features + 2 :]
        wanted = any(a and is_wanted(source) for a, source in zip(need, ctx.sources, strict=True))
        g = (gradient.contiguous() for gradient in gradients)
        return None, *_MixedGradient.apply(ctx.context, wanted, *ctx.saved_tensors, *g)  # type: ignore[misc]


class _MixedGradient(torch.autograd.Function):
    """The gradients to features x, environment y and, if wanted, weights w, for gradients g of L(x, y, w).

    A gradient (ux, uy) of the first two makes S = (L(ux, y, w) + L(x, uy, w)) g, which is differentiated to all four by
    the same kernels; anything beyond by the product and the weights one after the other.
    """

    @staticmethod
    def forward(ctx: Any, context: _Context, wanted: bool, *factors: Tensor) -> tuple[Tensor | None, ...]:
        ctx.save_for_backward(*factors)
        ctx.context, ctx.n_weights = context, (len(factors) - context.n_features - 1) // 2
        ctx.set_materialize_grads(False)
        x, y, weights, g = _factors(factors, context)
        task = context.task(y.shape[2])
        to_weights = weight_gradients(task, x, y, g) if wanted else [None] * len(weights)
        return *mixed_gradients(task, x, y, weights, g), *to_weights

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        context, n, factors = ctx.context, ctx.context.n_features, ctx.saved_tensors
        x, y, weights, g = _factors(factors, context)
        if torch.is_grad_enabled() or any(u is not None for u in gradients[n + 1 :]):
            return None, None, *_composed(context, factors, gradients)
        given = [torch.zeros_like(f) if u is None else u.contiguous() for u, f in zip(gradients, (*x, y), strict=False)]
        ux, uy, task = given[:n], given[n], context.task(y.shape[2])
        dg = mixed(task, ux, y, weights, (x, uy))
        dw = weight_gradients(task, ux, y, g, (x, uy))
        return None, None, *mixed_gradients(task, ux, uy, weights, g), *dw, *dg


def _factors(
    factors: Sequence[Tensor], context: _Context
) -> tuple[Sequence[Tensor], Tensor, Sequence[Tensor], Sequence[Tensor]]:
    """Features, environment, weights and gradients of the mixed products."""
    n = context.n_features
    half = (len(factors) - n - 1) // 2
    return factors[:n], factors[n], factors[n + 1 : n + 1 + half], factors[n + 1 + half :]


def _composed(
    context: _Context, factors: Sequence[Tensor], gradients: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """The derivative of `_MixedGradient` of functions that can be differentiated again."""
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Nodes of their own, so that no derivative runs on from one factor into the past of another.
        again = [f.view_as(f) if graph and f.requires_grad else f.detach().requires_grad_() for f in factors]
        x, y, weights, g = _factors(again, context)
        z = [(one @ weight.t()).contiguous() for one, weight in zip(g, weights, strict=True)]
        made = zip(_Product.apply(context, *x, y), g, strict=True)  # type: ignore[arg-type]
        out = [*_Gradient.apply(context, *x, y, *z), *(a.flatten(0, 1).t() @ b.flatten(0, 1) for a, b in made)]  # type: ignore[misc]
    pairs = [(a, u) for a, u in zip(out, gradients, strict=True) if u is not None]
    return torch.autograd.grad(
        [a for a, _ in pairs], again, [u for _, u in pairs], create_graph=graph, allow_unused=True
    )


def tensor_product_reference(
    features: Sequence[Tensor], environment: Tensor, centres: Segments, product: ChannelwiseProduct
) -> list[Tensor]:
    """The definition, for any device."""
    together, around = torch.cat(list(features), 1), gather(environment, centres)  # (E, M_in, C), (E, M, C)
    outputs, path = [], 0
    for _, n_paths in product.targets:
        blocks = []
        for p in range(path, path + n_paths):
            i, j, _ = product.coupling.paths[p]
            left, right = product.irreps_in.slices[i], product.irreps_environment.slices[j]
            tensor = path_tensor(product.coupling, p, environment.dtype, environment.device)
            blocks.append(torch.einsum("eac,ebc,abk->ekc", together[:, left], around[:, right], tensor))
        outputs.append(torch.cat(blocks, 2))
        path += n_paths
    return outputs
