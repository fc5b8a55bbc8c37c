"""Are large forces too weak? The slope of predicted against true forces on the frames that are strained most.

Potentials that are trained near equilibrium underestimate the curvature away from it: predicted forces are proportional
to the true ones with a slope below 1 (Deng and others, npj Comput. Mater. 11, 9, 2025). A small error near equilibrium
hides it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from fireassay.assays.probes.inquiry import Inquiry, attempted, bare, left_out
from fireassay.data.structure import Structure
from fireassay.records.probes import Probe, Verdict

GROUP: Final = "labels"
_NAME: Final = "softening"
_SHARE: Final = 0.2  # of the test frames, those with the largest forces
_FEWEST, _MOST = 5, 60  # frames
_LOOKED_AT: Final = 2000  # frames of each split among which the strained ones are sought
_SOUND, _BROKEN = 0.05, 0.2  # of |1 - slope|


def probes(inquiry: Inquiry) -> list[Probe]:
    """The slope, where there are test frames with forces."""
    strained = _strained([s for frames in inquiry.subject.test.values() for s in _some(frames)])
    if len(strained) < _FEWEST:
        return [left_out(_NAME, GROUP, f"needs {_FEWEST} test frames with forces or more; give data.test")]
    answer = attempted(inquiry, [bare(s) for s in strained])
    if isinstance(answer, str):
        return [left_out(_NAME, GROUP, answer)]
    pairs = [(f, s.forces) for f, s in zip(answer.forces, strained, strict=True) if s.forces is not None]
    known = [(p[~np.isnan(t)], t[~np.isnan(t)]) for p, t in pairs if np.isfinite(p).all()]
    if len(known) < _FEWEST:
        text = (
            f"{len(strained) - len(known)} of the {len(strained)} frames with the largest forces have no finite answer"
        )
        return [
            Probe(name=_NAME, group=GROUP, verdict="broken", sentence=text, meaning="strained frames cannot be had")
        ]
    products = np.array([(float(p @ t), float(t @ t)) for p, t in known])
    slope = float(products[:, 0].sum() / products[:, 1].sum())
    without = (products[:, 0].sum() - products[:, 0]) / (products[:, 1].sum() - products[:, 1])
    n = len(products)
    error = float(np.sqrt((n - 1) / n * np.square(without - without.mean()).sum()))
    off = abs(1 - slope)
    verdict: Verdict = "sound" if off <= _SOUND + 2 * error else "doubtful" if off <= _BROKEN + 2 * error else "broken"
    times = f"{slope:.3f} ± {error:.2g} times the true ones"
    text = f"on the {n} test frames with the largest forces predicted ones are {times}"
    meaning = (
        "the surface is too soft away from equilibrium: barriers, frequencies and moduli come out too low"
        if slope < 1
        else "the surface is too stiff away from equilibrium: barriers, frequencies and moduli come out too high"
    )
    return [
        Probe(
            name=_NAME, group=GROUP, verdict=verdict, sentence=text, meaning="" if verdict == "sound" else meaning,
            value=slope,
        )
    ]  # fmt: skip


def _some(frames: Sequence[Structure]) -> list[Structure]:
    """At most `_LOOKED_AT` of a split's frames, spread evenly over it."""
    rows = np.linspace(0, len(frames) - 1, min(len(frames), _LOOKED_AT)).round().astype(int)
    return [frames[k] for k in rows.tolist()]


def _strained(frames: Sequence[Structure]) -> list[Structure]:
    """The share of frames with the largest root mean square force, at most `_MOST`, spread evenly over them."""
    forced = [s for s in frames if s.forces is not None and s.forced.any()]
    if not forced:
        return []
    size = np.array([float(np.sqrt(np.nanmean(np.square(s.forces)))) for s in forced if s.forces is not None])
    count = max(min(_FEWEST, len(forced)), round(_SHARE * len(forced)))
    order = np.argsort(-size)[:count]
    chosen = np.linspace(0, len(order) - 1, min(len(order), _MOST)).round().astype(int)
    return [forced[k] for k in order[chosen].tolist()]
