"""Does a crystal hold? Energy against volume, elastic constants and modes of vibration, with relaxed atoms.

Elastic constants are stress differences at strains of half a percent, atoms relaxed; Born's condition is that their
matrix is positive definite (Mouhat & Coudert, Phys. Rev. B 90, 224104, 2014). Modes are those of the given cell at its
Γ point, which are all that are commensurate with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import pi
from typing import Final

import numpy as np
from ase.data import atomic_masses

from fireassay.assays.probes.conservation import strained
from fireassay.assays.probes.inquiry import Array, Inquiry, bare, left_out
from fireassay.data.structure import Structure
from fireassay.records.probes import Bulk, Probe, Verdict
from fireassay.simulation.relax import relax
from fireassay.simulation.state import from_structures, to_structures
from fireassay.units import ACCELERATION, GIGAPASCAL

GROUP: Final = "bulk"
_STRAINS: Final = np.linspace(-0.02, 0.02, 7)  # linear, of the energy-volume curve
_ELASTIC: Final = 5e-3
_STEP: Final = 0.01  # Å, of force differences
_TIGHT: Final = 1e-3  # eV/Å
_VOIGT: Final = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]
_IMAGINARY: Final = 0.1  # THz, below which a mode counts as zero
_ACOUSTIC: Final = 3


def probes(inquiry: Inquiry) -> tuple[Bulk | None, list[Probe]]:
    """The bulk of a start that is periodic in all directions and not too large."""
    start, settings = inquiry.start, inquiry.settings
    if not start.pbc.all():
        return None, [left_out("bulk", GROUP, "the start is not periodic in all directions")]
    if len(start) > settings.bulk_atoms:
        reason = f"the start has {len(start)} atoms, more than probes.bulk_atoms={settings.bulk_atoms}"
        return None, [left_out("bulk", GROUP, reason)]
    (rest,), left = _relaxed(inquiry, [start])
    if not np.isfinite(left):
        reason = "the relaxation of the start's atoms fails"
        return None, [Probe(name="bulk", group=GROUP, verdict="broken", sentence=reason)]
    states, _ = _relaxed(inquiry, [strained(rest, e * np.eye(3)) for e in _STRAINS])
    energy = np.array([np.nan if s.energy is None else s.energy for s in states])
    volume = np.array([abs(np.linalg.det(s.cell)) for s in states])
    modulus = _modulus(volume, energy)
    elastic = _elastic(inquiry, rest) if inquiry.stressed else None
    frequencies = _modes(inquiry, rest)
    crystal = Bulk(volume=volume, energy=energy, bulk_modulus=modulus, elastic=elastic, frequencies=frequencies)
    found = [_volume_probe(volume, energy, modulus), _elastic_probe(elastic, inquiry.stressed)]
    return crystal, [*found, _mode_probe(frequencies, left)]


def _relaxed(inquiry: Inquiry, structures: Sequence[Structure]) -> tuple[list[Structure], float]:
    """The structures with relaxed atoms in their cells, and the largest force that is left."""
    done = relax(
        inquiry.subject.predictor,
        from_structures(structures, device=inquiry.subject.device),
        force_limit=_TIGHT,
        max_steps=inquiry.settings.relax_steps,
        progress=inquiry.subject.progress,
    )
    inquiry.count += int(done.steps.sum())
    return to_structures(done.state), float(done.largest_force.max())


def _modulus(volume: Array, energy: Array) -> float | None:
    """B = V d²E/dV² at the given volume, in GPa, by a cubic in the volume."""
    if not np.isfinite(energy).all():
        return None
    middle = volume[len(volume) // 2]
    fit = np.polynomial.polynomial.polyfit(volume / middle - 1, energy, 3)
    return float(2 * fit[2] / middle / GIGAPASCAL)


def _elastic(inquiry: Inquiry, rest: Structure) -> Array | None:
    """C (6, 6) in GPa."""
    structures = []
    for a, b in _VOIGT:
        for sign in (1, -1):
            strain = np.zeros((3, 3))
            strain[a, b] += sign * _ELASTIC / 2
            strain[b, a] += sign * _ELASTIC / 2
            structures.append(strained(rest, strain))
    relaxed, _ = _relaxed(inquiry, structures)
    if any(s.energy is None for s in relaxed):
        return None
    stress = inquiry.ask([bare(s) for s in relaxed], stress=True).stress
    assert stress is not None
    slopes = (stress[::2] - stress[1::2]) / (2 * _ELASTIC) / GIGAPASCAL
    matrix = np.array([[slope[a, b] for a, b in _VOIGT] for slope in slopes])
    return (matrix + matrix.T) / 2


def _modes(inquiry: Inquiry, rest: Structure) -> Array | None:
    """Frequencies of the cell's modes in THz, ascending, imaginary ones negative."""
    n = len(rest)
    rest = bare(rest)
    moved = []
    for k in range(3 * n):
        for sign in (1, -1):
            positions = rest.positions.copy()
            positions.flat[k] += sign * _STEP
            moved.append(replace(rest, positions=positions))
    forces = np.array(inquiry.ask(moved).forces).reshape(3 * n, 2, 3 * n)
    hessian = -(forces[:, 0] - forces[:, 1]) / (2 * _STEP)
    if not np.isfinite(hessian).all():
        return None
    root = np.sqrt(np.repeat(atomic_masses[rest.atomic_numbers], 3))
    squares = np.linalg.eigvalsh((hessian + hessian.T) / 2 / root / root[:, None]) * ACCELERATION  # 1/fs²
    return np.sign(squares) * np.sqrt(np.abs(squares)) * 1e3 / (2 * pi)


def _volume_probe(volume: Array, energy: Array, modulus: float | None) -> Probe:
    name, meaning = "energy against volume", "the crystal collapses or expands without end under a barostat"
    if modulus is None:
        return Probe(name=name, group=GROUP, verdict="broken", sentence="energies are not finite", meaning=meaning)
    bends = np.diff(energy, 2)
    smooth = bool((bends > 0).all())
    verdict: Verdict = "broken" if modulus <= 0 else "sound" if smooth else "doubtful"
    lowest = int(np.argmin(energy))
    where = "within" if 0 < lowest < len(energy) - 1 else "outside"
    sentence = (
        f"bulk modulus {modulus:.3g} GPa at {volume[len(volume) // 2]:.4g} Å^3; the lowest energy is {where} ±6 % of it"
    )
    sentence += "" if smooth else "; the curve is not convex"
    return Probe(
        name=name, group=GROUP, verdict=verdict, sentence=sentence, meaning="" if verdict == "sound" else meaning,
        value=modulus, unit="GPa",
    )  # fmt: skip


def _elastic_probe(elastic: Array | None, stressed: bool) -> Probe:
    name = "elastic stability"
    if not stressed:
        return left_out(name, GROUP, "the potential gives no stress")
    if elastic is None:
        return Probe(name=name, group=GROUP, verdict="broken", sentence="a strained cell has no finite energy")
    least = float(np.linalg.eigvalsh(elastic)[0])
    verdict: Verdict = "sound" if least > 0 else "broken"
    diagonal = ", ".join(f"{value:.3g}" for value in np.diag(elastic))
    return Probe(
        name=name, group=GROUP, verdict=verdict, value=least, unit="GPa",
        sentence=f"the smallest eigenvalue of the elastic constants is {least:.3g} GPa (C11 to C66: {diagonal})",
        meaning="" if least > 0 else "the crystal gives way to a small strain: it is not stable in this structure",
    )  # fmt: skip


def _mode_probe(frequencies: Array | None, left: float) -> Probe:
    name = "modes of vibration"
    if frequencies is None:
        return Probe(name=name, group=GROUP, verdict="broken", sentence="a displaced atom has no finite forces")
    rest = frequencies[np.argsort(np.abs(frequencies))[_ACOUSTIC:]] if len(frequencies) > _ACOUSTIC else frequencies[:0]
    imaginary = int((rest < -_IMAGINARY).sum())
    lowest = float(frequencies[0])
    sentence = f"{imaginary} of {len(frequencies)} modes are imaginary"
    sentence += f", down to {-lowest:.3g}i THz" if imaginary else f"; the highest is {float(frequencies[-1]):.3g} THz"
    if left > _TIGHT:
        sentence += f" (atoms relaxed to {left:.2g} eV/Å)"
    return Probe(
        name=name, group=GROUP, verdict="doubtful" if imaginary else "sound", sentence=sentence,
        value=lowest, unit="THz",
        meaning="" if not imaginary else
        "the structure is no minimum of this potential: another one is lower, unless temperature holds it",
    )  # fmt: skip
