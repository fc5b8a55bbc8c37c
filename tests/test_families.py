"""The table of architectures: facts come from the model's own file and from measurement, and hold."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import torch

from architectures import ARCHITECTURES, build
from fireassay.errors import InputError
from fireassay.families import STORED, families, stored_families, to_text
from fireassay.measured_families import stored
from fireassay.models import MODELS
from fireassay.potential import LocalPotential
from fireassay.testing import LAWS, assert_potential_contract

BREAKING = [(name, law) for name, model in ARCHITECTURES.items() for law in model.published]


class Nearest(LocalPotential):
    """A newcomer without a paper: exp(-d) of the pairs."""

    def __init__(self, species, cutoff: float = 3.0, seed: int = 0) -> None:
        super().__init__()
        self.arguments = {"species": list(species), "cutoff": cutoff, "seed": seed}
        self.species, self.cutoff = tuple(species), cutoff
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def local(self, graph):
        """Atom energies and one descriptor."""
        vectors = graph.positions[graph.neighbour] - graph.positions[graph.centre]
        pairs = torch.exp(-vectors.norm(dim=1))
        sums = pairs.new_zeros(graph.n_atoms).index_add(0, graph.centre, pairs)
        return self.weight * sums, sums.unsqueeze(1)


@pytest.mark.parametrize("name", MODELS)
def test_every_file_says_what_it_is_and_who_published_it(name):
    (family,) = families([name])
    assert family.title
    assert re.search(r"\b20\d\d\b", family.paper)
    assert family.paper in to_text([family])
    assert family.parameters > 10_000
    assert family.descriptors > 0


@pytest.mark.parametrize(("name", "cutoffs"), [("allegro", 1), ("painn", 3), ("mace", 2), ("nequip", 5)])
def test_the_reach_is_that_of_the_layers(name, cutoffs):
    assert families([name])[0].layers_seen == cutoffs


def moved(name: str, **arguments) -> LocalPotential:
    """A small model whose weights, offsets that start from zero among them, have moved as in training."""
    model, generator = build(name, **arguments), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize(("name", "law"), BREAKING)
def test_a_published_form_breaks_its_law_and_the_default_keeps_it(name, law):
    assert law in LAWS
    published = ARCHITECTURES[name].published[law]
    assert assert_potential_contract(lambda: moved(name), laws=[law]) == [law]
    with pytest.raises(AssertionError, match=rf"\({law}\)"):
        assert_potential_contract(lambda: moved(name, **published), laws=[law])


def test_a_newcomer_shows_up_with_what_it_has(monkeypatch):
    monkeypatch.setitem(MODELS, "nearest", Nearest)
    (family,) = families(["nearest"], timed=True)
    assert (family.parameters, family.descriptors, family.layers_seen, family.published) == (1, 1, 1, {})
    assert family.milliseconds is not None
    assert family.milliseconds > 0
    assert "nearest" in to_text(families(["nearest", "painn"]))


def test_what_is_stored_is_what_is_measured():
    """After a change of a model: python -m fireassay.measured_families."""
    assert STORED.read_text(encoding="utf-8") == stored()


def test_a_model_whose_file_has_changed_is_measured(monkeypatch, tmp_path):
    content = json.loads(STORED.read_text(encoding="utf-8"))
    row = next(row for row in content["families"] if row["family"]["name"] == "painn")
    row["file"], row["family"]["parameters"] = "another", 1
    (tmp_path / "families.json").write_text(json.dumps(content))
    monkeypatch.setattr("fireassay.families.STORED", tmp_path / "families.json")
    assert [name for name, family in stored_families().items() if family is None] == ["painn"]
    assert families(["painn"])[0].parameters > 1
    assert len(families()) == len(MODELS)
    (tmp_path / "families.json").write_text("{")
    assert stored_families() == {}
    content["models"] = "another list"
    (tmp_path / "families.json").write_text(json.dumps(content))
    assert stored_families() == {}


def test_a_listing_answers_at_once():
    """Without torch, whose import alone takes longer."""
    code = "import sys; from fireassay.families import families, to_text; print(to_text(families())); "
    code += "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "torchmd_et" in done.stdout


def test_an_unknown_model_is_refused():
    with pytest.raises(InputError, match="did you mean 'mace'"):
        families(["mase"])
