"""Edges in pairs: i -> j and j -> i have one length, so one row of radial weights serves both."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class EdgePairs(NamedTuple):
    """One edge of each pair, and for every edge the pair it belongs to."""

    first: Tensor  # (E/2,) int64, the edges that stand for their pairs, ascending
    pair: Tensor  # (E,) int64, the pair of each edge
    order: Tensor  # (E,) int64, the edges pair by pair, the first edge before its reverse


def edge_pairs(centre: Tensor, neighbour: Tensor, shift: Tensor, guess: Tensor | None = None) -> EdgePairs | None:
    """The pairs of a symmetric list of edges centre (E,), neighbour (E,), shift (E, 3); None when one is without its
    reverse.

    The reverse of (i, j, s) is (j, i, -s). `guess` (E,) is tried first as the reverse of each edge: the edges sorted
    by neighbour and centre are just that when no pair of atoms has several edges.
    """
    if guess is None or not _is_reverse(guess, centre, neighbour, shift):
        guess = _reverse(centre, neighbour, shift)
        if not _is_reverse(guess, centre, neighbour, shift):
            return None
    edges = torch.arange(len(centre), device=centre.device)
    first = torch.nonzero(edges < guess).squeeze(1)
    last = guess.index_select(0, first)
    pair = torch.empty_like(edges)
    pair[first] = pair[last] = edges[: len(first)]
    return EdgePairs(first, pair, torch.stack([first, last], 1).flatten())


def _is_reverse(guess: Tensor, centre: Tensor, neighbour: Tensor, shift: Tensor) -> bool:
    matched = (centre.index_select(0, guess) == neighbour) & (neighbour.index_select(0, guess) == centre)
    opposite = (shift.index_select(0, guess) + shift == 0).all(1)
    return bool((matched & opposite).all()) and bool((guess.index_select(0, guess) != guess).all())


def _reverse(centre: Tensor, neighbour: Tensor, shift: Tensor) -> Tensor:
    """The reverse of each edge of a symmetric list, by sorting the edges and their reverses."""
    reach = int(shift.abs().max()) if shift.numel() else 0
    n_atoms = int(torch.maximum(centre.max(), neighbour.max())) + 1 if len(centre) else 1
    places = torch.tensor([(2 * reach + 1) ** k for k in range(4)], device=shift.device)
    image, opposite = (((sign * shift + reach) * places[:3]).sum(1) for sign in (1, -1))  # CUDA multiplies no int64
    forward = torch.argsort((centre * n_atoms + neighbour) * places[3] + image)
    backward = torch.argsort((neighbour * n_atoms + centre) * places[3] + opposite)
    return torch.empty_like(forward).index_copy(0, backward, forward)
