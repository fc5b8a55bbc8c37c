"""What is drawn of many points."""

from __future__ import annotations

import numpy as np

from fireassay.report.thinning import thinned


def test_thinning_keeps_the_worst() -> None:
    badness = np.arange(1000.0)
    kept = thinned(badness, 100)
    assert len(np.unique(kept)) == 100
    assert set(range(990, 1000)) <= set(kept.tolist())
    assert thinned(badness[:50], 100).tolist() == list(range(50))
