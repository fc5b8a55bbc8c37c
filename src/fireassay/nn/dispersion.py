"""London dispersion: the two-body D3 energy with Becke-Johnson damping, its coefficients free to be learned.

Grimme, Antony, Ehrlich and Krieg, J. Chem. Phys. 132, 154104 (2010), and Grimme, Ehrlich and Goerigk, J. Comput. Chem.
32, 1456 (2011); the smooth end at the cutoff is that of PhysNet's public code (Unke and Meuwly, J. Chem. Theory Comput.
15, 3678, 2019). The reference data in dispersion_d3.npz are those of the 2010 paper: C6 coefficients of 254 reference
systems of 94 elements, their coordination numbers, covalent radii and the ratios of multipole expectation values.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import expm1, log
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from fireassay.errors import InputError
from fireassay.nn.pairwise import AtomPairs, sum_over_pairs

BOHR: Final = 0.52917726  # Å, as the D3 programs have it
HARTREE: Final = 27.21138505  # eV
HARTREE_FOCK: Final = (1.0, 0.9171, 0.3385, 2.8830)  # s6, s8, a1, a2 (bohr) for Hartree-Fock
_STEEP, _WIDTH = 16.0, 4.0  # k1 and k3 of the D3 method
_UNIT = 1e-4  # of the tabulated integers


class D3Dispersion(nn.Module):
    """Atom energies of -Σ_{i<j} [s6 C6 / (r^6 + R^6) + s8 C8 / (r^8 + R^8)] with R = a1 sqrt(C8 / C6) + a2.

    C6 is interpolated between reference systems by the coordination numbers of both atoms. Coordination numbers go
    smoothly to zero over the last bohr before `cutoff` Å, and each power of the distance is shifted so that it is zero
    with its slope there. `coefficients` are s6, s8, a1 and a2 in bohr; when `trainable` they stay positive as the
    softplus of the parameter `raw` (4,). The reference data follow the dtype without loss.

    Raises InputError for an element beyond plutonium and for coefficients that are negative, or not positive when
    trainable.
    """

    c6: Tensor  # (Z, R, Z, R) int32, 1e-4 Hartree bohr^6
    references: Tensor  # (Z, R) int32, coordination numbers of the reference systems in 1e-4
    missing: Tensor  # (Z, R) bool, elements have from 1 to R reference systems
    radii: Tensor  # (Z,) float32, covalent radii times 4/3 in bohr
    expectation: Tensor  # (Z,) float32, C8 = 3 C6 times those of both elements, bohr

    def __init__(
        self,
        species: Sequence[int],
        cutoff: float,
        coefficients: Sequence[float] = HARTREE_FOCK,
        trainable: bool = True,
    ) -> None:
        super().__init__()
        least = min(coefficients, default=-1.0)
        if len(coefficients) != 4 or least < 0 or (trainable and least <= 0):
            raise InputError(f"D3 takes four coefficients s6, s8, a1, a2, positive if trained: {list(coefficients)}")
        self.cutoff = float(cutoff)
        self.coefficients = tuple(float(value) for value in coefficients)
        self.raw = None
        if trainable:
            self.raw = nn.Parameter(torch.tensor([v + log(-expm1(-v)) for v in self.coefficients]))
        for name, table in _tables(tuple(species)).items():
            self.register_buffer(name, torch.from_numpy(table), persistent=False)

    def forward(self, rows: Tensor, pairs: AtomPairs) -> Tensor:
        """Energies (N,) in eV of atoms of the species rows (N,), half of each pair's."""
        kinds = rows.index_select(0, pairs.i) * len(self.missing) + rows.index_select(0, pairs.j)  # (P,)
        r = pairs.distances / BOHR
        end = self.cutoff / BOHR
        six, eight, s8, constant, slope, radii = self._constants(r.dtype).index_select(1, kinds)
        square = r * r
        sixth = square * square * square
        s6 = self.s6_s8_a1_a2()[0]
        powers = s6 / (sixth + six) + s8 / (sixth * square + eight) + constant + slope * r
        counts = torch.sigmoid(_STEEP * (radii / r - 1)) * _last_bohr(r, end)
        c6 = self._c6(rows, pairs, sum_over_pairs(pairs, len(rows), counts))
        energies = torch.where(r < end, (-HARTREE / 2) * c6 * powers, 0.0)
        return sum_over_pairs(pairs, len(rows), energies)

    def s6_s8_a1_a2(self) -> Sequence[Tensor] | Sequence[float]:
        """The coefficients as they are now, a2 in bohr."""
        return self.coefficients if self.raw is None else nn.functional.softplus(self.raw).unbind()

    def _constants(self, dtype: torch.dtype) -> Tensor:
        """What a pair of elements needs (6, Z Z): R^6, R^8, s8 C8 / C6, the shift and its slope, the sum of radii."""
        s6, s8, a1, a2 = self.s6_s8_a1_a2()
        radii, expectation = self.radii.to(dtype), self.expectation.to(dtype)
        ratios = 3 * torch.outer(expectation, expectation).flatten()
        square = (a1 * ratios.sqrt() + a2) ** 2
        six, eight, s8 = square**3, square**4, s8 * ratios
        end = self.cutoff / BOHR
        past6, past8 = end**6 + six, end**8 + eight
        slope = s6 * (6 * end**5 / past6) / past6 + s8 * (8 * end**7 / past8) / past8
        constant = -s6 / past6 - s8 / past8 - slope * end
        return torch.stack([six, eight, s8, constant, slope, (radii.unsqueeze(1) + radii).flatten()])

    def _c6(self, rows: Tensor, pairs: AtomPairs, counts: Tensor) -> Tensor:
        """C6 (P,) of atoms with the coordination numbers `counts` (N,).

        The weights of the reference systems factorise over the two atoms: exp(-k3 (Δ_i^2 + Δ_j^2)) over its sum is the
        product of two softmaxes, which do not vanish however far a coordination number is from all of its references.
        """
        references = (_UNIT * self.references.to(counts.dtype)).index_select(0, rows)  # (N, R)
        distance = -_WIDTH * (counts.unsqueeze(1) - references).square()
        weights = torch.softmax(distance.masked_fill(self.missing.index_select(0, rows), -torch.inf), 1)
        n_species = len(self.missing)
        own = nn.functional.one_hot(rows, n_species).to(counts.dtype)
        spread = (own.unsqueeze(2) * weights.unsqueeze(1)).flatten(1)  # (N, Z R)
        table = (_UNIT * self.c6.to(counts.dtype)).flatten(2).flatten(0, 1)  # (Z R, Z R)
        half = (spread @ table).unflatten(1, (n_species, -1)).flatten(0, 1)  # (N Z, R)
        at_i = half.index_select(0, pairs.i * n_species + rows.index_select(0, pairs.j))
        return (at_i * weights.index_select(0, pairs.j)).sum(1)


def _last_bohr(r: Tensor, end: float) -> Tensor:
    """One up to a bohr before the end, zero from there, with two continuous derivatives."""
    x = (end - r).clamp(0.0, 1.0)
    return x * x * x * ((x * 6 - 15) * x + 10)


@cache
def _data() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).with_name("dispersion_d3.npz")) as archive:
        return dict(archive)


def _tables(species: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The reference data of some elements, padded to the most reference systems that one of them has."""
    data = _data()
    sizes, starts = data["sizes"], np.cumsum(data["sizes"]) - data["sizes"]
    if beyond := [z for z in species if not 0 < z < len(sizes)]:
        raise InputError(f"D3 has no reference data for the atomic numbers {beyond}; do without dispersion")
    n_systems = int(sizes.sum())
    c6 = np.zeros((n_systems, n_systems), np.int32)
    c6[np.triu_indices(n_systems)] = data["c6"]
    c6 = np.maximum(c6, c6.T)
    most = np.arange(sizes[list(species)].max(initial=1))
    missing = np.array([most >= sizes[z] for z in species])
    system = np.array([starts[z] + np.minimum(most, sizes[z] - 1) for z in species])  # (Z, R)
    return {
        "c6": c6[system[:, :, None, None], system],
        "references": data["coordination"][system],
        "missing": missing,
        "radii": data["radii"][list(species)],
        "expectation": data["expectation"][list(species)],
    }
