"""Rows gathered to edges and edges summed into rows: two maps, each the other's gradient, at every order."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fireassay.nn.convolution import EdgeOrder, row_starts
from fireassay.nn.segment_numba import row_sums


class Segments(NamedTuple):
    """Which row each of E elements belongs to, with the elements in the order of their rows."""

    index: Tensor  # (E,) int64, the row of each element
    order: Tensor | None  # (E,) int64, elements by row; None when `index` is ascending
    starts: Tensor  # (N+1,) int64: row i has the elements order[starts[i]:starts[i+1]]

    @classmethod
    def of_centres(cls, centre: Tensor, order: EdgeOrder) -> Segments:
        """Edges by their centre."""
        return cls(centre, None, order.starts)

    @classmethod
    def of_neighbours(cls, neighbour: Tensor, order: EdgeOrder) -> Segments:
        """Edges by their neighbour."""
        return cls(neighbour, order.by_neighbour, order.neighbour_starts)

    @classmethod
    def ascending(cls, index: Tensor, n_rows: int) -> Segments:
        """Elements that are sorted by their rows `index` (E,)."""
        return cls(index, None, row_starts(index, n_rows))

    @classmethod
    def of(cls, index: Tensor, n_rows: int) -> Segments:
        """Elements of any order, by the rows `index` (E,)."""
        return cls(index, torch.argsort(index, stable=True), row_starts(index, n_rows))


def gather(values: Tensor, segments: Segments) -> Tensor:
    """(N, ...) to (E, ...): the row of each element. Its gradient is `segment_sum`."""
    return _Gather.apply(values, segments)  # type: ignore[return-value]


def segment_sum(values: Tensor, segments: Segments) -> Tensor:
    """(E, ...) to (N, ...): the sum of the elements of each row. Its gradient is `gather`."""
    return _SegmentSum.apply(values, segments)  # type: ignore[return-value]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, segments: Segments) -> Tensor:
        ctx.segments = segments
        return values.index_select(0, segments.index)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return segment_sum(gradients[0], ctx.segments), None


class _SegmentSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, segments: Segments) -> Tensor:
        ctx.segments = segments
        if values.device.type == "cpu" and values.dtype in (torch.float32, torch.float64):
            return row_sums(values.contiguous(), segments.starts, segments.order)
        n_rows = len(segments.starts) - 1
        return values.new_zeros(n_rows, *values.shape[1:]).index_add(0, segments.index, values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gather(gradients[0], ctx.segments), None
