"""Every architecture in MODELS obeys the contract; a new one is picked up without touching this file."""

from __future__ import annotations

import pytest

from fireassay.models import MODELS
from fireassay.potential import Baseline, LocalPotential
from fireassay.testing import LAWS, LOCAL_LAWS, assert_potential_contract

SMALL = {
    "mace": {"channels": 4, "l_max": 2},
    "nequip": {"channels": 4, "n_layers": 2},
}


def build(name: str) -> LocalPotential:
    return MODELS[name](species=[1, 8], cutoff=4.0, **SMALL.get(name, {}))


@pytest.mark.contract
@pytest.mark.parametrize("name", sorted(MODELS))
def test_contract(name):
    checked = assert_potential_contract(lambda: build(name))
    assert set(LOCAL_LAWS) < set(checked)
    assert len(checked) == len(LAWS) - 1


@pytest.mark.contract
@pytest.mark.parametrize("name", sorted(MODELS))
def test_contract_on_a_baseline(name):
    e0 = {1: -13.6, 8: -2041.3}
    laws = ["shapes", "forces", "stress", "isolated_atom", "reproducibility"]
    assert assert_potential_contract(lambda: Baseline(build(name), e0, scale={1: 1.2, 8: 0.8}), laws=laws) == laws
