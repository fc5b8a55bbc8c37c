"""Charges that sum to zero, atom by atom or over a structure; a Coulomb energy finite at zero and smooth at its end."""

from __future__ import annotations

import pytest
import torch

from fireassay.nn.electrostatics import COULOMB, conserve_locally, conserve_totally, coulomb_energies
from fireassay.nn.pairwise import AtomPairs, sum_over_pairs

F64 = torch.float64


def cluster(n: int = 6, seed: int = 0) -> tuple[torch.Tensor, AtomPairs, torch.Tensor]:
    """Raw charges, pairs and weights, some of them zero."""
    generator = torch.Generator().manual_seed(seed)
    i, j = torch.triu_indices(n, n, 1)
    d = 1 + 4 * torch.rand(len(i), generator=generator, dtype=F64)
    weights = (1 - d / 4).clamp(min=0) ** 2
    return torch.randn(n, generator=generator, dtype=F64), AtomPairs(i, j, d, True), weights


def test_sums_over_pairs():
    _, pairs, weights = cluster()
    both = AtomPairs(torch.cat([pairs.i, pairs.j]), torch.cat([pairs.j, pairs.i]), pairs.distances.repeat(2), False)
    torch.testing.assert_close(sum_over_pairs(pairs, 6, weights), sum_over_pairs(both, 6, weights.repeat(2)))
    uneven = sum_over_pairs(pairs, 6, weights, -weights)
    assert uneven.sum().abs() < 1e-12
    assert uneven.abs().max() > 0.1


def test_local_conservation_is_its_definition():
    raw, pairs, weights = cluster()
    w = torch.eye(6, dtype=F64)
    w[pairs.i, pairs.j] = w[pairs.j, pairs.i] = weights
    expected = raw - (w / w.sum(0)) @ raw
    charges = conserve_locally(raw, pairs, weights)
    torch.testing.assert_close(charges, expected, rtol=1e-12, atol=1e-14)
    assert charges.sum().abs() < 1e-13
    assert charges.abs().max() > 0.1
    both = AtomPairs(torch.cat([pairs.i, pairs.j]), torch.cat([pairs.j, pairs.i]), pairs.distances.repeat(2), False)
    torch.testing.assert_close(conserve_locally(raw, both, weights.repeat(2)), charges)


def test_far_fragments_and_isolated_atoms_are_neutral_by_local_conservation():
    raw, pairs, weights = cluster()
    more = torch.cat([raw, raw[:3] + 1, raw.new_tensor([0.7])])  # a fragment of three, an atom
    a, b = torch.tensor([6, 6]), torch.tensor([7, 8])
    joined = AtomPairs(torch.cat([pairs.i, a]), torch.cat([pairs.j, b]), torch.ones(17), True)
    charges = conserve_locally(more, joined, torch.cat([weights, weights.new_ones(2)]))
    torch.testing.assert_close(charges[:6], conserve_locally(raw, pairs, weights))
    assert charges[6:9].sum().abs() < 1e-13
    assert charges[9] == 0


def test_total_conservation_is_uniform_and_per_structure():
    raw, _, _ = cluster()
    structure = torch.tensor([0, 0, 0, 0, 2, 2])  # structure 1 has no atoms
    charges = conserve_totally(raw, structure, 3, total=1.5)
    assert charges[:4].sum().item() == pytest.approx(1.5)
    assert charges[4:].sum().item() == pytest.approx(1.5)
    moved = charges - raw
    torch.testing.assert_close(moved[:4], moved[:1].expand(4))


def pair_energy(d: torch.Tensor, cutoff: float = 8.0, damped: float = 3.0) -> torch.Tensor:
    """Energies of pairs of opposite charges, the sign of attraction taken off."""
    n = len(d)
    charges = torch.cat([d.new_ones(n), -d.new_ones(n)])
    pairs = AtomPairs(torch.arange(n), torch.arange(n, 2 * n), d, True)
    return -(coulomb_energies(charges, pairs, cutoff, damped).view(2, n).sum(0))


def test_coulomb_beyond_the_core_is_shifted_and_cut():
    d = torch.tensor([3.0, 5.0, 7.999, 8.0, 9.0], dtype=F64, requires_grad=True)
    energy = pair_energy(d)
    expected = COULOMB * (1 / d + d / 64 - 2 / 8.0)
    torch.testing.assert_close(energy[:3], expected[:3], rtol=1e-9, atol=1e-12)
    (slope,) = torch.autograd.grad(energy.sum(), d)
    assert slope[1] < -0.1
    assert abs(slope[2]) < 1e-3
    assert (energy[3:] == 0).all()
    assert (slope[3:] == 0).all()
    assert pair_energy(d.detach(), cutoff=1e9)[0].item() == pytest.approx(COULOMB / 3)


def test_coulomb_is_finite_and_flat_where_atoms_meet():
    d = torch.tensor([0.0, 1e-6], dtype=F64, requires_grad=True)
    energy = pair_energy(d)
    (slope,) = torch.autograd.grad(energy.sum(), d)
    assert energy.isfinite().all()
    assert slope.isfinite().all()
    shielded = 1 + 1 / 64 - 2 / 8.0
    torch.testing.assert_close(energy, torch.full((2,), COULOMB * shielded, dtype=F64), rtol=1e-5, atol=0)


def test_the_core_joins_with_two_derivatives():
    d = torch.tensor([3 - 1e-6, 3 + 1e-6], dtype=F64, requires_grad=True)
    value = pair_energy(d)
    for tolerance in (1e-5, 1e-5, 1e-4):
        assert abs(value[0] - value[1]).item() < tolerance * abs(value[0]).item()
        (value,) = torch.autograd.grad(value.sum(), d, create_graph=True)


def test_derivatives():
    raw, pairs, _ = cluster()
    d = pairs.distances.clone().requires_grad_()

    def energy(charges, distances):
        near = (1 - distances / 4).clamp(min=0) ** 3
        these = pairs._replace(distances=distances)
        return coulomb_energies(conserve_locally(charges, these, near), these, 4.5, 1.5)

    arguments = (raw.clone().requires_grad_(), d)
    assert torch.autograd.gradcheck(energy, arguments)
    assert torch.autograd.gradgradcheck(energy, arguments)


def test_single_precision():
    d = torch.linspace(0.5, 8.5, 30)
    got = pair_energy(d)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), pair_energy(d.double()), rtol=1e-5, atol=1e-5)
