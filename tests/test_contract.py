"""Every architecture in fireassay.models obeys the contract; a new file there is picked up by itself."""

from __future__ import annotations

import pytest

from architectures import ARCHITECTURES, build
from fireassay.models import MODELS
from fireassay.potential import Baseline
from fireassay.testing import LAWS, LOCAL_LAWS, assert_potential_contract


@pytest.mark.contract
def test_every_model_is_found():
    assert set(MODELS) <= set(ARCHITECTURES)


@pytest.mark.contract
@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_contract(name):
    checked = assert_potential_contract(lambda: build(name))
    assert set(LOCAL_LAWS) < set(checked)
    assert len(checked) == len(LAWS) - 1


@pytest.mark.contract
@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_contract_on_a_baseline(name):
    e0 = {1: -13.6, 8: -2041.3}
    laws = ["shapes", "forces", "stress", "isolated_atom", "reproducibility"]
    assert assert_potential_contract(lambda: Baseline(build(name), e0, scale={1: 1.2, 8: 0.8}), laws=laws) == laws
