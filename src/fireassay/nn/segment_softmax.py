"""Softmax over the elements of each row, with an envelope that takes elements smoothly out."""

from __future__ import annotations

import torch
from torch import Tensor

from fireassay.nn.segment import Segments, gather, segment_sum


def segment_softmax(logits: Tensor, envelope: Tensor, segments: Segments) -> Tensor:
    """u_e exp(a_e) / sum over the row's elements of u exp(a), (E, H) of logits (E, H) and envelope (E,) >= 0.

    Elements with an envelope of zero neither get nor take anything; a row of only such elements is zero throughout.
    Where the largest envelope of a row is below 1e-12 the result is less than that, so that all derivatives stay
    finite.
    """
    u = envelope.unsqueeze(1)
    shift = (logits + u.clamp(min=1e-12).log()).detach()
    index = segments.index.unsqueeze(1).expand_as(shift)
    top = shift.new_full((len(segments.starts) - 1, shift.shape[1]), -torch.inf)
    top = top.scatter_reduce(0, index, shift, "amax")
    weights = u * torch.exp(logits - top.index_select(0, segments.index))
    return weights / gather(segment_sum(weights, segments).clamp(min=0.5), segments)
