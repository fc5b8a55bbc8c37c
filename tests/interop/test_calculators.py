"""Calculators named by a text: what is wrong with them is one line."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from ase import Atoms

from fireassay.errors import InputError
from fireassay.interop.calculators import EXAMPLE, calculator_of

MODULE = """
from ase.calculators.emt import EMT as Mine

class Strict(Mine):
    def __init__(self, cutoff=1.0):
        super().__init__()

def broken():
    raise RuntimeError("no\\nlicence")

assert_me = 3
"""


def test_the_example_of_the_message_works():
    copper = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.5]], calculator=calculator_of(EXAMPLE))
    assert np.isfinite(copper.get_potential_energy())


def test_a_module_in_the_current_folder_is_found_and_the_path_left_as_it_was(tmp_path, monkeypatch):
    (tmp_path / "my_calculators.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert calculator_of("my_calculators:Mine()").implemented_properties
    assert calculator_of("my_calculators:Mine").implemented_properties
    assert sys.path == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "class"),
        ("ase.calculators.emt", "class"),
        ("ase.calculators.emt:EMT(1)", "keyword arguments only"),
        ("ase.calculators.emt:EMT(x=__import__('os'))", "ValueError"),
        ("ase.calculators.emt:EMT(", "SyntaxError"),
        ("ase.calculators.emt:Missing()", "AttributeError"),
        ("missing_module_of_mine:A()", "ModuleNotFoundError"),
        ("my_calculators:Strict(nonsense=1)", "TypeError"),
        ("my_calculators:broken()", "RuntimeError: no licence"),
        ("ase:Atoms()", "name an ASE calculator"),
        ("collections:OrderedDict()", "name an ASE calculator"),
    ],
)
def test_what_is_wrong_is_one_line(text, message, tmp_path, monkeypatch):
    (tmp_path / "my_calculators.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        calculator_of(text)
    assert "\n" not in str(caught.value)
    assert text[:20] in str(caught.value)
