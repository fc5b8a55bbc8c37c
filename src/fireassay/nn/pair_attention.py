"""Attention between neighbours whose coefficients are a filtered inner product, head by head.

    alpha[e, h]  = sum over c of  q[i, h, c] w[p, h, c] k[j, h, c]         `attention_coefficients`
    out[i, h, c] = sum over edges e: i -> j of  alpha[e, h] v[j, h, c] w[p, h, c]     `attention_sum`

for atoms i, j, edges e, H heads of F channels each, and filters w of the pair p of an edge. Both are parts of one
multilinear form S = sum of alpha q w k; its derivatives are again such parts, so three sums serve every order.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fireassay.nn.autograd import is_wanted
from fireassay.nn.convolution import EdgeOrder
from fireassay.nn.edge_pairs import EdgePairs
from fireassay.nn.pair_attention_numba import edge_products, pair_products, weighted_sums


class AttentionEdges(NamedTuple):
    """Directed edges i -> j of N atoms, sorted by centre, and which filter each of them uses."""

    centre: Tensor  # (E,) int64, ascending
    neighbour: Tensor  # (E,) int64
    order: EdgeOrder
    pair: Tensor  # (E,) int64, the row of the filters
    by_pair: Tensor  # (E,) int64, the edges pair by pair
    pair_starts: Tensor  # (P+1,) int64: pair p has the edges by_pair[pair_starts[p]:pair_starts[p+1]]

    @classmethod
    def of(cls, centre: Tensor, neighbour: Tensor, order: EdgeOrder, pairs: EdgePairs | None) -> AttentionEdges:
        """Edges in pairs that share a filter, or each with its own when `pairs` is None."""
        n_edges = len(centre)
        each = torch.arange(n_edges + 1, device=centre.device)
        if pairs is None:
            return cls(centre, neighbour, order, each[:-1], each[:-1], each)
        starts = torch.arange(0, n_edges + 1, 2, device=centre.device)
        return cls(centre, neighbour, order, pairs.pair, pairs.order, starts)


def attention_coefficients(query: Tensor, key: Tensor, filters: Tensor, edges: AttentionEdges) -> Tensor:
    """Coefficients (E, H) of query and key (N, H, F) under filters (P, H, F); differentiable to every order."""
    return _Coefficients.apply(query.contiguous(), key.contiguous(), filters.contiguous(), edges)  # type: ignore[return-value]


def attention_sum(alpha: Tensor, values: Tensor, edges: AttentionEdges, filters: Tensor | None = None) -> Tensor:
    """Values (N, H, F) of the neighbours, weighted by alpha (E, H), under filters (P, H, F) if given, and summed:
    (N, H, F)."""
    return _weighted(alpha, values, filters, edges, False)


def _weighted(alpha: Tensor, values: Tensor, filters: Tensor | None, edges: AttentionEdges, backward: bool) -> Tensor:
    # Made contiguous out here: a copy that a Function saves would be cut off from the graph of higher derivatives.
    filters = None if filters is None else filters.contiguous()
    return _Weighted.apply(alpha.contiguous(), values.contiguous(), filters, edges, backward)  # type: ignore[return-value]


def _wanted(ctx: Any, which: int) -> bool:
    return ctx.needs_input_grad[which] and is_wanted(ctx.sources[which])


class _Coefficients(torch.autograd.Function):
    """dS/dalpha (E, H); the filters may be None, which means ones."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, filters: Tensor | None, edges: AttentionEdges) -> Tensor:
        ctx.save_for_backward(query, key, filters)
        ctx.edges = edges
        ctx.sources = [None if tensor is None else tensor.grad_fn for tensor in (query, key, filters)]
        return edge_products(query, key, filters, edges)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (query, key, filters), (g,), edges = ctx.saved_tensors, gradients, ctx.edges
        return (
            _weighted(g, key, filters, edges, False) if _wanted(ctx, 0) else None,
            _weighted(g, query, filters, edges, True) if _wanted(ctx, 1) else None,
            _filter_gradient(g, query, key, edges) if _wanted(ctx, 2) else None,
            None,
        )


class _Weighted(torch.autograd.Function):
    """dS/dq (N, H, F), the sum over the edges of each centre, or if `backward` dS/dk, over those of each neighbour."""

    @staticmethod
    def forward(
        ctx: Any, alpha: Tensor, values: Tensor, filters: Tensor | None, edges: AttentionEdges, backward: bool
    ) -> Tensor:
        ctx.save_for_backward(alpha, values, filters)
        ctx.edges, ctx.reversed = edges, backward
        ctx.sources = [None if tensor is None else tensor.grad_fn for tensor in (alpha, values, filters)]
        return weighted_sums(alpha, values, filters, edges, backward)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (alpha, values, filters), g, edges = ctx.saved_tensors, gradients[0].contiguous(), ctx.edges
        query, key = (values, g) if ctx.reversed else (g, values)
        return (
            _Coefficients.apply(query, key, filters, edges) if _wanted(ctx, 0) else None,  # type: ignore[return-value]
            _weighted(alpha, g, filters, edges, not ctx.reversed) if _wanted(ctx, 1) else None,
            _filter_gradient(alpha, query, key, edges) if _wanted(ctx, 2) else None,
            None,
            None,
        )


def _filter_gradient(alpha: Tensor, query: Tensor, key: Tensor, edges: AttentionEdges) -> Tensor:
    return _FilterGradient.apply(alpha.contiguous(), query.contiguous(), key.contiguous(), edges)  # type: ignore[return-value]


class _FilterGradient(torch.autograd.Function):
    """dS/dw (P, H, F)."""

    @staticmethod
    def forward(ctx: Any, alpha: Tensor, query: Tensor, key: Tensor, edges: AttentionEdges) -> Tensor:
        ctx.save_for_backward(alpha, query, key)
        ctx.edges = edges
        ctx.sources = [tensor.grad_fn for tensor in (alpha, query, key)]
        return pair_products(alpha, query, key, edges)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (alpha, query, key), g, edges = ctx.saved_tensors, gradients[0].contiguous(), ctx.edges
        return (
            _Coefficients.apply(query, key, g, edges) if _wanted(ctx, 0) else None,  # type: ignore[return-value]
            _weighted(alpha, key, g, edges, False) if _wanted(ctx, 1) else None,
            _weighted(alpha, query, g, edges, True) if _wanted(ctx, 2) else None,
            None,
        )
