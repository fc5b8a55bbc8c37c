"""NequIP obeys the contract and gives the numbers of the public package."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fireassay.data.graph import Graph, from_structures
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.models.nequip import NequIP
from fireassay.testing import Recorded, assert_potential_contract

REFERENCE = Path(__file__).parents[1] / "reference"
CASES = sorted(path.stem for path in REFERENCE.glob("nequip_*.json"))
SMALL = {"n_layers": 3, "channels": 4, "radial_hidden": (8,)}


def recorded(case: str) -> tuple[NequIP, dict[str, np.ndarray]]:
    """The model with nequip's weights, float64, and the recorded arrays."""
    arguments = json.loads((REFERENCE / f"{case}.json").read_text())["arguments"]
    with np.load(REFERENCE / f"{case}.npz") as archive:
        arrays = dict(archive)
    weights = {name[8:]: torch.from_numpy(a) for name, a in arrays.items() if name.startswith("weights/")}
    model = NequIP(**arguments).to(torch.float64)
    model.load_state_dict(weights)
    return model, arrays


def structure(arrays: dict[str, np.ndarray], kind: str) -> Structure:
    return Structure(*(arrays[f"{kind}/{name}"] for name in ("atomic_numbers", "positions", "cell", "pbc")))


def records(case: str) -> list[Recorded]:
    _, arrays = recorded(case)
    return [
        Recorded(
            make=lambda: recorded(case)[0],
            structure=structure(arrays, kind),
            energy=float(arrays[f"{kind}/{dtype}/energy"]),
            forces=arrays[f"{kind}/{dtype}/forces"],
            source="nequip 0.19.1, tests/reference/record_nequip.py",
            rtol=rtol,
            dtype=getattr(torch, dtype),
        )
        for kind in ("molecule", "crystal")
        for dtype, rtol in (("float64", 1e-9), ("float32", 1e-5))
    ]


def molecule(n: int = 8, seed: int = 3) -> Graph:
    rng = np.random.default_rng(seed)
    positions = np.stack(np.meshgrid([0, 1.3], [0, 1.4], [0, 1.5]), -1).reshape(-1, 3)[:n]
    return from_structures([Structure(rng.choice([1, 6, 8], n), positions + 0.2 * rng.normal(size=(n, 3)))], 4.0)


@pytest.mark.contract
@pytest.mark.parametrize("options", [{}, {"parity": False, "l_max": 1}, {"l_max": 0}, {"n_layers": 1}])
def test_contract(options):
    assert_potential_contract(lambda: NequIP((1, 6, 8), **{**SMALL, **options}))


@pytest.mark.reference
@pytest.mark.parametrize("case", CASES)
def test_the_public_package_gives_the_same_numbers(case):
    laws = assert_potential_contract(lambda: recorded(case)[0], recorded=records(case), laws=["reference"])
    assert laws == ["reference"]
    assert len(CASES) == 3


def test_dead_features_are_not_made():
    """Every parameter moves the energy: what cannot reach it, and nequip computes all the same, does not exist."""
    model = NequIP((1, 6, 8), **SMALL).to(torch.float64)
    model.energy(molecule()).sum().backward()
    for name, parameter in model.named_parameters():
        blocks = parameter.grad.reshape(-1, parameter.shape[-1]).abs().amax(1)
        assert (blocks > 0).float().mean() > 0.9, name
    five = NequIP((1, 6, 8), n_layers=5, channels=2, radial_hidden=())
    some = "0e+1e+1o+2e+2o"  # 0o couples to nothing that becomes 0e within two layers
    assert [str(block.irreps_out) for block in five.layers] == ["0e+1o+2e", some, some, "0e+1o+2e", "0e"]


def test_edges_beyond_the_cutoff_change_nothing():
    model = NequIP((1, 6, 8), cutoff=2.5, **SMALL).to(torch.float64)
    wide = molecule()
    vectors = wide.positions[wide.neighbour] - wide.positions[wide.centre]
    near = vectors.norm(dim=1) < 2.5
    narrow = wide._replace(centre=wide.centre[near], neighbour=wide.neighbour[near], shift=wide.shift[near])
    assert 0 < narrow.n_edges < wide.n_edges
    a, b = model.predict(wide), model.predict(narrow)
    torch.testing.assert_close(a.energy, b.energy, rtol=1e-14, atol=0)
    torch.testing.assert_close(a.forces, b.forces, rtol=0, atol=1e-15)


def test_descriptors_are_what_the_readout_sees():
    model = NequIP((1, 6, 8), **SMALL).to(torch.float64)
    prediction = model.predict(molecule(), forces=False)
    assert prediction.descriptors.shape == (8, 4)
    torch.testing.assert_close(model.readout(prediction.descriptors).squeeze(1), prediction.atom_energies)


def test_the_frozen_twin_predicts_the_same():
    model = NequIP((1, 6, 8), **SMALL).to(torch.float64)
    twin = model.frozen()
    a, b = model.predict(molecule()), twin.predict(molecule())
    torch.testing.assert_close(a.forces, b.forces, rtol=0, atol=1e-6 * a.forces.abs().max().item())
    assert not any(parameter.requires_grad for parameter in twin.parameters())


def test_arguments_rebuild_an_equal_model():
    model = NequIP((1, 6, 8), seed=4, **SMALL)
    again = NequIP(**json.loads(json.dumps(model.arguments)))
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


@pytest.mark.parametrize(
    "wrong", [{"channels": 0}, {"cutoff": -1.0}, {"l_max": -1}, {"species": []}, {"radial_hidden": (8, 0)}]
)
def test_bad_arguments(wrong):
    with pytest.raises(InputError):
        NequIP(**{"species": (1, 6), **wrong})


def test_unknown_element():
    with pytest.raises(InputError, match=r"\[8\]"):
        NequIP((1, 6), **SMALL).to(torch.float64).predict(molecule())


def test_it_learns():
    model, graph = NequIP((1, 6, 8), **SMALL), molecule().to(dtype=torch.float32)
    forces = torch.randn(graph.n_atoms, 3, generator=torch.Generator().manual_seed(0))
    forces -= forces.mean(0)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(40):
        optimiser.zero_grad()
        loss = (model.predict(graph, differentiable=True).forces - forces).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
