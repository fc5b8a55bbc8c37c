"""Processes that train together.

Every process computes the gradient of its share of one global batch, and the shares are summed. The loss divides by
counts of the whole batch, so the sum is the gradient of the loss of one process with all of it. The reduction is
explicit, after the backward pass: hooks that reduce during it (torch's DistributedDataParallel) would also see the
backward pass through the forces, and average over processes where a sum is right.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class Ranks(NamedTuple):
    """This process's number among `world`; alone, every method leaves its tensor as it is."""

    rank: int = 0
    world: int = 1

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def summed(self, tensor: Tensor) -> Tensor:
        """The sum over processes, the same everywhere."""
        if self.world > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor

    def largest(self, tensor: Tensor) -> Tensor:
        """The elementwise maximum over processes."""
        if self.world > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Sums each of `tensors` over processes in place, with one message per dtype."""
        if self.world == 1:
            return
        for dtype in sorted({tensor.dtype for tensor in tensors}, key=str):
            members = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.reshape(-1) for tensor in members])
            dist.all_reduce(flat)
            for tensor, part in zip(members, flat.split([t.numel() for t in members]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def copy_from_main_(self, tensors: Sequence[Tensor]) -> None:
        """Overwrites each of `tensors` with the main process's."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def gathered(self, tensor: Tensor) -> list[Tensor]:
        """Every process's `tensor`, in the order of the processes."""
        if self.world == 1:
            return [tensor]
        parts = [torch.empty_like(tensor) for _ in range(self.world)]
        dist.all_gather(parts, tensor)
        return parts


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """The processes that torchrun has started, or this one alone; leaves the group that it joined.

    gloo on the CPU, nccl on CUDA. A group that exists already is used and left alone.
    """
    if dist.is_available() and dist.is_initialized():
        yield Ranks(dist.get_rank(), dist.get_world_size())
        return
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ:
        yield Ranks()
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
        dist.barrier()  # gloo aborts a process that leaves while another still talks to it
    finally:
        dist.destroy_process_group()
