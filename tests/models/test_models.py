"""What holds for every architecture beyond the contract."""

from __future__ import annotations

import inspect
import json

import numpy as np
import pytest
import torch

from architectures import ARCHITECTURES, build
from fireassay.data.graph import Graph, from_structures
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.nn.radial_table import RadialTable
from fireassay.potential import NetworkPotential

SPECIES = (1, 6, 8)


def molecule(n: int = 8, seed: int = 3) -> Graph:
    rng = np.random.default_rng(seed)
    positions = np.stack(np.meshgrid([0, 1.3], [0, 1.4], [0, 1.5]), -1).reshape(-1, 3)[:n]
    return from_structures([Structure(rng.choice(SPECIES, n), positions + 0.2 * rng.normal(size=(n, 3)))], 4.0)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_law_12_is_kept_in_one_place(name):
    model = ARCHITECTURES[name]
    assert issubclass(model, NetworkPotential)
    assert model.local is NetworkPotential.local
    assert model.isolated_energies is NetworkPotential.isolated_energies


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_learns(name):
    model, graph = build(name, species=SPECIES), molecule().to(dtype=torch.float32)
    forces = torch.randn(graph.n_atoms, 3, generator=torch.Generator().manual_seed(0))
    forces -= forces.mean(0)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = (model.predict(graph, differentiable=True).forces - forces).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_arguments_rebuild_an_equal_model(name):
    model = build(name, species=SPECIES, seed=4)
    assert list(model.arguments) == list(inspect.signature(type(model).__init__).parameters)[1:]
    again = ARCHITECTURES[name](**json.loads(json.dumps(model.arguments)))
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])


def scaled(name: str, factor: float) -> NetworkPotential:
    """The model in float64, its weights `factor` times what they are at first, as on the lines of a landscape."""
    model = build(name, species=SPECIES).to(torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= factor
    return model


@pytest.mark.parametrize("factor", [1, 2, 3, 10])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_frozen_twin_predicts_the_same(name, factor):
    model = scaled(name, factor)
    twin = model.frozen()
    a, b = model.predict(molecule()), twin.predict(molecule())
    assert not any(parameter.requires_grad for parameter in twin.parameters())
    if (name, factor) == ("painn", 10):  # overflows: an update squares vectors
        assert not a.energy.isfinite().any()
        assert not b.energy.isfinite().any()
        return
    torch.testing.assert_close(b.energy, a.energy, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(b.forces, a.forces, rtol=0, atol=1e-6 * a.forces.abs().max().item())
    torch.testing.assert_close(b.descriptors, a.descriptors, rtol=1e-5, atol=1e-7 * a.descriptors.abs().max().item())


@pytest.mark.parametrize("name", ["nequip", "mace", "botnet", "so3krates"])
def test_a_radial_network_is_a_table_until_its_weights_make_it_too_rough(name):
    def tables(factor: float) -> int:
        return sum(isinstance(module, RadialTable) for module in scaled(name, factor).frozen().modules())

    assert tables(100) < tables(1)
    unlike = scaled(name, 1)
    first = next(key for key, _ in unlike.named_parameters() if "layers.0.radial" in key or "geometry.radial" in key)
    with torch.no_grad():
        unlike.get_parameter(first).mul_(1e6)
    twin = unlike.frozen()
    assert 0 < sum(isinstance(module, RadialTable) for module in twin.modules()) < tables(1)  # layer by layer
    a, b = unlike.predict(molecule()).forces, twin.predict(molecule()).forces
    torch.testing.assert_close(b, a, rtol=0, atol=1e-6 * a.abs().max().item())


@pytest.mark.parametrize("name", ["nequip", "mace", "botnet", "so3krates"])
def test_weights_that_are_not_finite_freeze_too(name):
    twin = scaled(name, float("nan")).frozen()
    assert twin.predict(molecule()).energy.isnan().all()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_float32_agrees_with_float64(name):
    model, graph = build(name, species=SPECIES).to(torch.float64), molecule()
    expected = model.predict(graph).forces
    got = model.to(torch.float32).predict(graph.to(dtype=torch.float32)).forces
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.to(torch.float64), expected, rtol=0, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_unknown_element_is_refused(name):
    with pytest.raises(InputError, match=r"\[8\]"):
        build(name, species=(1, 6)).to(torch.float64).predict(molecule())


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("wrong", [{"cutoff": -1.0}, {"species": []}])
def test_arguments_out_of_range_are_refused(name, wrong):
    with pytest.raises(InputError):
        build(name, **wrong)
