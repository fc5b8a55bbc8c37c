"""Which of many points are drawn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def thinned(badness: NDArray[np.float64], limit: int, seed: int = 0) -> NDArray[np.int64]:
    """Indices of at most `limit` points to draw: the tenth of them with the largest badness, the others at random."""
    if len(badness) <= limit:
        return np.arange(len(badness))
    order = np.argsort(-badness)
    worst, rest = order[: limit // 10], order[limit // 10 :]
    return np.sort(np.concatenate([worst, np.random.default_rng(seed).choice(rest, limit - len(worst), replace=False)]))
