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
from fireassay.nn.convolution import Coupling
from fireassay.nn.segment import Segments, gather
from fireassay.nn.so3 import Irrep, Irreps
from fireassay.nn.autograd import is_wanted
from fireassay.nn.tensor_product_mixed_numba import Blocks, mixed, mixed_gradients
from fireassay.nn.tensor_product_numba import Rows, Terms, gradients, products


class ChannelwiseProduct:
    """The constant of a product: every path from irreps_in x irreps_environment into `allowed`.

    `targets` are the irreps that it makes, by degree, odd before even, with the number of paths into each. Paths into an
    irrep are ordered by the block of irreps_in, then that of the environment; each has its own channels.
    """

    def __init__(self, irreps_in: Irreps, irreps_environment: Irreps, allowed: Irreps) -> None:
        self.coupling = Coupling.of(irreps_in, irreps_environment, allowed)
        self.irreps_in, self.irreps_environment = irreps_in, irreps_environment
        self.targets: list[tuple[Irrep, int]] = [
            (irrep, len(list(paths))) for irrep, paths in groupby(self.coupling.irreps_out)
        ]
        self._blocks: dict[int, Blocks] = {}

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
        self.starts, self.x_rows, self.n_features = starts, Rows(sizes), len(sizes)
        self.targets, self._blocks_of = product.targets, product._blocks_of

    def product(
        self, x: Sequence[Tensor], y: Tensor, second: tuple[Sequence[Tensor], Tensor] | None = None
    ) -> list[Tensor]:
        """(E, 2l+1, P C) for each irrep."""
        out = products(self.direct, self.starts, x, self.x_rows, y, self.z_rows, second)
        n_edges, channels = x[0].shape[0], y.shape[2]
        return [a.view(n_edges, irrep.dim, n * channels) for a, (irrep, n) in zip(out, self.targets, strict=True)]

    def mixed(self, x: Sequence[Tensor], y: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
        """(E, 2l+1, C) for each irrep."""
        blocks, dims = self._blocks_of(y.shape[2]), [irrep.dim for irrep, _ in self.targets]
        return mixed(self.direct, blocks, self.starts, x, self.x_rows, y, weights, dims)

    def mixed_gradients(
        self, x: Sequence[Tensor], y: Tensor, weights: Sequence[Tensor], g: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """The gradients to features and environment for gradients g of the mixed products."""
        turned = [weight.t().contiguous() for weight in weights]
        blocks = self._blocks_of(y.shape[2])
        return mixed_gradients(self.transposed, blocks, self.starts, x, self.x_rows, y, turned, g)

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
    """The product times weights; its derivatives of higher order are those of the two, one after the other."""

    @staticmethod
    def forward(ctx: Any, context: _Context, *factors: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*factors)
        ctx.context, n = context, context.n_features
        ctx.sources = [weight.grad_fn for weight in factors[n + 1 :]]
        return tuple(context.mixed(factors[:n], factors[n], factors[n + 1 :]))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        context, n, need = ctx.context, ctx.context.n_features, ctx.needs_input_grad[1:]
        x, y, weights = ctx.saved_tensors[:n], ctx.saved_tensors[n], ctx.saved_tensors[n + 1 :]
        g = [gradient.contiguous() for gradient in gradients]
        if torch.is_grad_enabled():
            z = [one @ weight.t() for one, weight in zip(g, weights, strict=True)]
            out = _Gradient.apply(context, *x, y, *(one.contiguous() for one in z))
        else:
            out = context.mixed_gradients(x, y, weights, g)
        wanted = any(a and is_wanted(source) for a, source in zip(need[n + 1 :], ctx.sources, strict=True))
        if not wanted:
            return None, *out, *(None for _ in weights)  # type: ignore[misc]
        made = _Product.apply(context, *x, y)
        pairs = zip(made, g, strict=True)  # type: ignore[arg-type]
        return None, *out, *(z.flatten(0, 1).t() @ one.flatten(0, 1) for z, one in pairs)  # type: ignore[misc]


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
            tensor = product.coupling.tensor(p).to(environment)
            blocks.append(torch.einsum("eac,ebc,abk->ekc", together[:, left], around[:, right], tensor))
        outputs.append(torch.cat(blocks, 2))
        path += n_paths
    return outputs
