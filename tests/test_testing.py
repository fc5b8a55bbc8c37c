"""The contract accepts sound potentials, and each law rejects a potential that breaks just it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fireassay.data.graph import Graph, edge_vectors, sum_over_atoms, sum_over_neighbours
from fireassay.data.structure import Structure
from fireassay.potential import Baseline, LocalPotential, Prediction, Sum
from fireassay.testing import LAWS, Recorded, assert_potential_contract
from toys import Network, Pair

E0 = {1: -13.6, 8: -2041.3}


def sound() -> Baseline:
    return Baseline(Network([1, 8]), E0, scale={1: 1.3, 8: 0.7}, trainable_scale=True)


class Broken(LocalPotential):
    """A sound network with one fault, named after the law that must find it."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.arguments = {"fault": fault}
        self.fault, self.cutoff, self.species = fault, 4.0, (1, 8)
        self.inner = Network([1, 8], cutoff=4.0)
        if fault == "reproducibility":
            self.noise = nn.Parameter(torch.randn(1, generator=_UNSEEDED))

    def local(self, graph: Graph) -> tuple[Tensor, Tensor]:
        energies, descriptors = self.inner.local(graph)
        r = edge_vectors(graph)
        d = r.norm(dim=1)
        smooth = (1 - (d / self.cutoff).clamp(max=1.0)) ** 3
        if self.fault == "rotation":
            energies = energies + 0.01 * sum_over_neighbours(r[:, 0] ** 2 * smooth, graph)
        if self.fault == "translation":
            energies = energies + 0.001 * (graph.positions**2).sum(1)
        if self.fault == "permutation":
            energies = energies * (1 + 0.01 * torch.arange(graph.n_atoms)[:, None].to(energies)[:, 0].fmod(3))
        if self.fault == "second_derivatives":
            energies = energies + _NoSecond.apply(energies)
        if self.fault == "batching":
            energies = energies * (1 + 0.01 * graph.n_structures)
        if self.fault == "independence":
            energies = energies + 1e-3 * energies.mean()
        if self.fault == "continuity":
            energies = energies + 0.1 * sum_over_neighbours((d < self.cutoff).to(d) / d, graph)
        if self.fault == "extensivity":
            energies = energies + 0.01 * (sum_over_atoms(energies, graph) ** 2)[graph.structure]
        if self.fault == "isolated_atom":
            energies = energies + 0.5
        if self.fault == "reproducibility":
            energies = energies * (1 + self.noise)
        if self.fault == "shapes":
            energies = energies.unsqueeze(1).squeeze()
            if energies.ndim == 0:
                return energies, descriptors
        return energies, descriptors

    def energy(self, graph: Graph) -> Tensor:
        return self._evaluate(graph).energy

    def _evaluate(self, graph: Graph) -> Prediction:
        energies, descriptors = self.local(graph)
        if energies.ndim == 0:
            return Prediction(energies, None, None, energies, descriptors)
        return Prediction(sum_over_atoms(energies, graph), None, None, energies, descriptors)

    def predict(
        self, graph: Graph, forces: bool = True, stress: bool = False, *, differentiable: bool = False
    ) -> Prediction:
        prediction = super().predict(graph, forces, stress, differentiable=differentiable)
        if self.fault == "forces" and prediction.forces is not None:
            prediction = prediction._replace(forces=prediction.forces * 1.001)
        if self.fault == "stress" and prediction.stress is not None:
            prediction = prediction._replace(stress=-prediction.stress)
        if self.fault == "purity":
            graph.positions.add_(1e-9)
        return prediction


_UNSEEDED = torch.Generator().manual_seed(11)


class _NoSecond(torch.autograd.Function):
    """x with its first derivative, which forgets to be differentiable."""

    @staticmethod
    def forward(ctx, x):  # type: ignore[override]
        ctx.save_for_backward(x)
        return 0.1 * x**2

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return gradient * 0.2 * x.detach()


def recorded(scale: float = 1.0) -> Recorded:
    structure = Structure(np.array([8, 1, 1]), np.array([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]))
    from fireassay.data.graph import from_structures

    prediction = sound().double().predict(from_structures([structure], 4.0))
    assert prediction.forces is not None
    return Recorded(sound, structure, prediction.energy.item(), scale * prediction.forces.numpy(), "ourselves")


def test_sound_potentials_pass_every_law():
    assert assert_potential_contract(sound, recorded=[recorded()]) == list(LAWS)
    assert len(LAWS) == 15


def test_a_sum_passes_the_laws_of_a_potential():
    checked = assert_potential_contract(lambda: Sum([sound(), Pair(4.0)]), cutoff=4.0)
    assert "forces" in checked
    assert "isolated_atom" in checked


@pytest.mark.parametrize("law", [law for law in LAWS if law != "reference"])
def test_each_law_rejects_its_broken_potential(law):
    with pytest.raises(AssertionError, match=rf"\({law}\)"):
        assert_potential_contract(lambda: Broken(law), laws=[law])


def test_the_healthy_twin_of_the_broken_potentials_passes():
    assert_potential_contract(lambda: Broken("none"))


def test_wrong_reference_values_are_rejected():
    with pytest.raises(AssertionError, match="reference"):
        assert_potential_contract(sound, recorded=[recorded(1.001)], laws=["reference"])


def test_a_potential_of_zeros_is_vacuous():
    for law in ("rotation", "forces", "stress", "continuity", "isolated_atom", "independence"):
        with pytest.raises(AssertionError, match="vacuous"):
            assert_potential_contract(lambda: Baseline(Network([1, 8]), E0, scale=0.0), laws=[law])


def test_a_law_that_holds_only_until_training_moves_an_offset_is_broken():
    class Offset(LocalPotential):
        def __init__(self) -> None:
            super().__init__()
            self.arguments, self.cutoff, self.species = {}, 5.0, (1, 8)
            self.inner, self.bias = Network([1, 8]), nn.Parameter(torch.zeros(()))

        def local(self, graph: Graph) -> tuple[Tensor, Tensor]:
            energies, descriptors = self.inner.local(graph)
            return energies + self.bias, descriptors

    with pytest.raises(AssertionError, match="isolated_atom"):
        assert_potential_contract(Offset)
    assert "isolated_atom" in assert_potential_contract(lambda: Offset().requires_grad_(False))


def test_what_is_on_trial_is_a_copy_and_a_trained_shift_is_no_offset():
    potential = Baseline(Network([1, 8]), E0, trainable_shift=True).double()
    before = copy.deepcopy(potential.state_dict())
    laws = ["isolated_atom", "continuity"]
    assert assert_potential_contract(lambda: Sum([potential]), e0=E0, laws=laws) == laws
    assert all(torch.equal(value, potential.state_dict()[name]) for name, value in before.items())


def test_an_unknown_law_is_named():
    with pytest.raises(ValueError, match="gravity"):
        assert_potential_contract(sound, laws=["gravity"])


def test_hard_cutoff_and_bare_squeeze_and_batch_leak_fail_the_whole_contract():
    for fault in ("continuity", "shapes", "independence", "stress"):
        with pytest.raises(AssertionError):
            assert_potential_contract(lambda fault=fault: copy.deepcopy(Broken(fault)))
