"""Is energy conserved in motion, and how long may the time step be?

With velocity Verlet on a smooth potential the total energy fluctuates in proportion to the square of the time step and
does not drift. The longest time step is the last, doubling, at which it stays within a tenth of the thermal spread of
the kinetic energy.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from fireassay.assays.probes.inquiry import Array, Inquiry, left_out
from fireassay.assays.stability import energy_drift
from fireassay.records.probes import Probe, Verdict
from fireassay.simulation.integrators import VelocityVerlet
from fireassay.simulation.observers import Recorder
from fireassay.simulation.run import simulate
from fireassay.simulation.state import State, generators, maxwell_boltzmann, replicate
from fireassay.units import BOLTZMANN

GROUP: Final = "motion"
_REPLICAS: Final = 4
_LONGEST: Final = 8.0  # fs
_STEPS: Final = 60  # of each trial of a time step
_KEPT: Final = 0.1  # of the kinetic energy's spread
_RATIO: Final = (2.0, 6.0)  # of fluctuations at a time step and at half of it; 4 in theory


def probes(inquiry: Inquiry) -> list[Probe]:
    """Drift and fluctuation at two time steps, and the longest step."""
    settings = inquiry.settings
    names = ("energy at constant energy", "longest time step")
    if settings.duration == 0:
        return [left_out(name, GROUP, "dynamics is switched off") for name in names]
    if len(inquiry.start) < 2:
        return [left_out(name, GROUP, "the start is a single atom") for name in names]
    state = maxwell_boltzmann(
        replicate(inquiry.start, _REPLICAS, device=inquiry.subject.device),
        settings.temperature,
        generators(settings.seed, _REPLICAS),
    )
    freedom = float(state.degrees_of_freedom[0])
    spread = np.sqrt(freedom / 2) * BOLTZMANN * settings.temperature * 1e3 / len(inquiry.start)  # meV/atom
    found = []
    for step in (settings.timestep, settings.timestep / 2):
        time, energy = _run(inquiry, state, step, max(20, round(settings.duration / step)))
        found.append(energy_drift(time, energy, len(inquiry.start)))
    return [_drift_probe(found, spread, settings.timestep), _step_probe(inquiry, state, spread)]


def _run(inquiry: Inquiry, state: State, step: float, n_steps: int) -> tuple[Array, Array]:
    recorder = Recorder(1, ("total_energy",))
    done = simulate(
        inquiry.subject.predictor,
        state,
        VelocityVerlet(step),
        n_steps,
        observers=(recorder,),
        max_edges=inquiry.settings.max_edges,
        progress=inquiry.subject.progress,
        description=f"constant energy with steps of {step:g} fs",
    )
    inquiry.count += done.replica_steps
    seen = recorder.arrays()
    return seen["time"], seen["total_energy"]


def _drift_probe(found: list[tuple[float | None, float | None]], spread: float, step: float) -> Probe:
    name = "energy at constant energy"
    (rate, wide), (_, narrow) = found
    meaning = "trajectories heat up or cool down by themselves; a thermostat hides it and samples the wrong ensemble"
    if rate is None or wide is None or narrow is None:
        text = f"no trajectory of {step:g} fs steps stays finite"
        return Probe(name=name, group=GROUP, verdict="broken", sentence=text, meaning=meaning)
    ratio = wide / narrow if narrow > 0 else np.inf
    verdict: Verdict = "sound" if _RATIO[0] <= ratio <= _RATIO[1] or wide < 1e-3 * spread else "doubtful"
    if (ratio < 1.3 and wide > 0.02 * spread) or wide > spread:
        verdict = "broken"
    sentence = (
        f"total energy fluctuates by {wide:.2g} meV/atom at {step:g} fs, {wide / spread:.2g} of the kinetic energy's "
        f"spread, and {ratio:.3g} times less at half the step (4 in theory); it drifts by {rate:.2g} meV/atom/ps"
    )
    return Probe(
        name=name, group=GROUP, verdict=verdict, sentence=sentence, meaning="" if verdict == "sound" else meaning,
        value=wide / spread,
    )  # fmt: skip


def _step_probe(inquiry: Inquiry, state: State, spread: float) -> Probe:
    longest = 0.0
    step = inquiry.settings.timestep / 2
    while step <= _LONGEST:
        time, energy = _run(inquiry, state, step, _STEPS)
        _, wide = energy_drift(time, energy, len(inquiry.start))
        if wide is None or not np.isfinite(energy).all() or wide > _KEPT * spread:
            break
        longest, step = step, 2 * step
    text = f"energy is conserved to {_KEPT:g} of the kinetic energy's spread with steps up to {longest:g} fs"
    if longest == 0:
        text = f"energy is not conserved to {_KEPT:g} of the kinetic energy's spread even with steps of {step:g} fs"
    return Probe(
        name="longest time step", group=GROUP, verdict="sound" if longest else "broken", sentence=text, value=longest,
        unit="fs", meaning="" if longest else "the surface is rougher than any time step can follow",
    )  # fmt: skip
