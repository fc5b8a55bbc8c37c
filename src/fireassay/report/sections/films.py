"""The last moments of trajectories that failed, to be played: frames, and the atoms that went first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from ase.data import covalent_radii

from fireassay.records.stability import FailedTrajectory, StabilityResult
from fireassay.report.figures import sources_of
from fireassay.report.runs import Run, with_result
from fireassay.report.sections.atoms import ATOMS, bonds, element_colour
from fireassay.report.style import brief, rounded, symbol

_EACH: Final = 2  # films of one potential: of its first failure, and of the median one
_MOST: Final = 12  # in a report
_NUMBERS: Final = 200_000  # coordinates in all, which keeps the page small


def films(runs: Sequence[Run]) -> dict[str, Any]:
    """What the script of the page needs to show failures; empty when nothing failed, or there are too many atoms."""
    shown: list[dict[str, Any]] = []
    members = []
    room = _NUMBERS
    for run, result in with_result(runs, StabilityResult):
        known = sorted((f for f in result.failures if f.atoms), key=lambda f: f.time)
        chosen = dict.fromkeys([0, len(known) // 2] if known else [])
        for place in list(chosen)[:_EACH]:
            film = _film(run, result, known[place])
            size = 3 * len(result.start.atomic_numbers) * len(film["steps"])
            if len(result.start.atomic_numbers) > ATOMS or size > room or len(shown) >= _MOST:
                continue
            room -= size
            shown.append(film)
            members.append(run)
    if not shown:
        return {}
    sources = sources_of(list({run.index: run for run in members}.values()), StabilityResult)
    return {"films": shown, "sources": [source.id for source in sources]}


def _film(run: Run, result: StabilityResult, failure: FailedTrajectory) -> dict[str, Any]:
    steps = result.last_steps[failure.replica]
    frames = result.last_frames[failure.replica]
    there = (steps >= 0) & np.isfinite(frames).all((1, 2))
    steps, frames = steps[there], frames[there]
    numbers = result.start.atomic_numbers
    first = frames[0] if len(frames) else result.start.positions
    centre = first.mean(0)
    axes = np.linalg.svd(first - centre, full_matrices=False)[2] if len(first) > 2 else np.eye(3)
    axes = axes * np.sign(np.linalg.det(axes)) if len(axes) == 3 else np.eye(3)
    wide, high = np.abs((first - centre) @ axes.T)[:, :2].max(axis=0, initial=1.0)
    went = " – ".join(f"{symbol(int(numbers[a]))}{a}" for a in failure.atoms[:4])
    value = f", {brief(failure.value)} {failure.unit}" if np.isfinite(failure.value) else ""
    return {
        "label": f"{run.label}, trajectory {failure.replica}",
        "note": f"{failure.criterion.replace('_', ' ')} of {went}{value}, after {brief(failure.time / 1000)} ps",
        "symbols": [symbol(int(z)) for z in numbers],
        "radii": rounded(covalent_radii[np.clip(numbers, 0, len(covalent_radii) - 1)], 3),
        "colours": [element_colour(int(z)) for z in numbers],
        "bonds": bonds(numbers, first).tolist(),
        "atoms": list(failure.atoms),
        "size": rounded([1.3 * wide, 1.5 * high], 3),
        "steps": steps.tolist(),
        "timestep": result.protocol.timestep,
        "frames": [[rounded(row, 4) for row in (frame - centre) @ axes.T] for frame in frames],
    }
