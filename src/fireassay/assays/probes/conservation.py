"""Is there an energy whose gradient the forces are, and does the stress belong to it?

Differences along random directions at several steps: a fault stays whatever the step, rounding grows as the step
shrinks, and the error of the difference itself falls with it. Judged is the step at which both are most
nearly in proportion.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from fireassay.assays.probes.inquiry import Array, Inquiry, judged, left_out
from fireassay.data.structure import Structure
from fireassay.records.probes import Probe, StepScan

GROUP: Final = "conservation"
STEPS: Final = np.array([1e-3, 3e-3, 1e-2, 3e-2])  # Å per atom
STRAINS: Final = np.array([1e-4, 5e-4, 2e-3, 1e-2])
STRETCH: Final = 0.02  # of the cell whose stress is asked for, so that there is some
_SOUND, _BROKEN = 2e-3, 1e-2
_STENCIL: Final = np.array([1.0, -8.0, 8.0, -1.0]) / 12  # at -2h, -h, h, 2h
_PLACES: Final = np.array([-2.0, -1.0, 1.0, 2.0])


def probes(inquiry: Inquiry) -> tuple[list[Probe], list[StepScan]]:
    """The gradient, the symmetry of its derivative, noise, and the stress."""
    found, scans = _gradient(inquiry)
    stress, scan = _stress(inquiry)
    return [*found, stress], [*scans, *scan]


def _gradient(inquiry: Inquiry) -> tuple[list[Probe], list[StepScan]]:
    base, k = inquiry.base, inquiry.settings.directions
    directions = inquiry.rng.normal(size=(k, len(base), 3))
    moved = [
        replace(base, positions=base.positions + place * step * u)
        for step in STEPS
        for u in directions
        for place in _PLACES
    ]
    answer = inquiry.ask([base, *moved])
    energy = answer.energy[1:].reshape(len(STEPS), k, 4)
    forces = np.array(answer.forces[1:]).reshape(len(STEPS), k, 4, -1)
    flat = directions.reshape(k, -1)
    given = flat @ answer.forces[0].ravel()  # (K,) the forces along each direction
    true = -(energy @ _STENCIL) / STEPS[:, None]  # (H, K) minus the slope of the energy
    errors = _relative(given - true, true)
    slopes = (true @ given) / np.maximum((true**2).sum(1), 1e-300)  # forces in units of minus the gradient
    best = int(np.argmin(_relative(given - slopes[:, None] * true, true)))
    jacobian = np.einsum("hkpx,p->hkx", forces, _STENCIL) / STEPS[:, None, None]
    matrix = np.einsum("hkx,lx->hkl", jacobian, flat)
    above = np.triu_indices(k, 1)
    asymmetry = _relative((matrix - matrix.swapaxes(1, 2))[:, *above], matrix[:, *above])
    noise = float(np.sqrt(np.mean((forces[0, :, 1] + forces[0, :, 2] - 2 * answer.forces[0].ravel()) ** 2) / 6))
    noisy = noise / inquiry.scale
    twist = float(np.min(asymmetry))
    found = [
        _force_probe(float(errors[best]), float(slopes[best]), float(STEPS[best]), twist, noisy),
        judged(
            "symmetry of the Hessian", GROUP, twist, 5e-3, 3e-2,
            f"the derivative of the forces differs from its transpose by {twist:.2g} of its size",
            "noise in the forces" if noisy > _SOUND else
            "the forces are no gradient: molecular dynamics gains or loses energy, and no path has a unique work",
        ),
        judged(
            "noise of the forces", GROUP, noisy, _SOUND, _BROKEN,
            f"forces {STEPS[0]:g} Å apart differ irregularly by {noise:.2g} eV/Å, {noisy:.2g} of their size",
            "relaxations do not converge and dynamics heats up: low precision, sampling or unconverged iterations",
        ),
    ]  # fmt: skip
    return found, [
        StepScan(name="forces against energy differences", step=STEPS, error=errors),
        StepScan(name="asymmetry of the Hessian", step=STEPS, error=asymmetry),
    ]


def _force_probe(error: float, slope: float, step: float, twist: float, noisy: float) -> Probe:
    sentence = f"forces agree with energy differences to {error:.2g} (step {step:g} Å)"
    meaning = "energies and forces do not belong together: look at the path that computes forces"
    if error > _SOUND:
        sentence = f"forces and energy differences disagree by {error:.2g} at the best step, {step:g} Å"
        if noisy > _SOUND:
            meaning = "the forces are noisy"
        elif abs(abs(slope) - 1) > 0.5 * error or slope < 0:
            sentence = f"forces are {slope:.4f} times minus the gradient of the energy"
            meaning = (
                "the forces have the wrong sign"
                if slope < 0
                else "forces are right in direction and wrong in size: a unit, a scale, or an accelerated path at fault"
            )
        elif twist > 3e-2:
            meaning = "the force field is not conservative: it is predicted directly, or a term lacks its gradient"
    return judged("forces against energies", GROUP, error, _SOUND, _BROKEN, sentence, meaning)


def _stress(inquiry: Inquiry) -> tuple[Probe, list[StepScan]]:
    name = "stress against energies"
    base = inquiry.base
    if not base.solid:
        return left_out(name, GROUP, "the start has no periodic cell"), []
    if not inquiry.stressed:
        return left_out(name, GROUP, "the potential gives no stress"), []
    k = inquiry.settings.directions
    strains = inquiry.rng.normal(size=(k, 3, 3)) * base.pbc[:, None] * base.pbc
    strains = (strains + strains.swapaxes(1, 2)) / 2
    strains /= np.linalg.norm(strains, axis=(1, 2), keepdims=True)
    stretched = strained(base, STRETCH * np.diag(base.pbc.astype(float)))
    moved = [strained(stretched, place * step * e) for step in STRAINS for e in strains for place in _PLACES]
    answer = inquiry.ask([stretched, *moved], stress=True)
    assert answer.stress is not None
    volume = abs(np.linalg.det(stretched.cell))
    given = np.einsum("kab,ab->k", strains, answer.stress[0])
    true = (answer.energy[1:].reshape(len(STRAINS), k, 4) @ _STENCIL) / STRAINS[:, None] / volume
    errors = _relative(given - true, true)
    slopes = (true @ given) / np.maximum((true**2).sum(1), 1e-300)
    best = int(np.argmin(_relative(given - slopes[:, None] * true, true)))
    error, slope = float(errors[best]), float(slopes[best])
    sentence = f"stress agrees with energy differences to {error:.2g} (strain {STRAINS[best]:g})"
    meaning = "a barostat finds the wrong density, and elastic constants are wrong"
    if error > _SOUND:
        sentence = f"stress is {slope:.4f} times the derivative of the energy in the strain, and {error:.2g} off"
        if slope < 0 and abs(slope + 1) < 0.1:
            sentence = "the stress has the opposite sign"
            meaning = "a barostat drives the cell away from equilibrium until it collapses or explodes"
    probe = judged(name, GROUP, error, _SOUND, 2 * _BROKEN, sentence, meaning)
    return probe, [StepScan(name="stress against energy differences", step=STRAINS, error=errors)]


def strained(structure: Structure, strain: Array) -> Structure:
    """Cell and positions deformed by 1 + strain."""
    change = np.eye(3) + strain
    return replace(structure, positions=structure.positions @ change, cell=structure.cell @ change)


def _relative(difference: Array, of: Array) -> Array:
    """Root mean squares over all but the first axis, one over the other."""
    size = np.sqrt((difference.reshape(len(difference), -1) ** 2).mean(1))
    scale = np.sqrt((of.reshape(len(of), -1) ** 2).mean(1))
    ratio = size / np.maximum(scale, 1e-12)
    return np.where(np.isfinite(ratio), ratio, np.inf)
