"""Assays say what they need, one place says what is missing, and a user's own assay runs like those that ship."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from fireassay.assays import ASSAYS
from fireassay.assays.assay import Assay, Need, Subject, missing
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.records import ErrorTrajectory
from fireassay.settings import Settings
from toys import Pair

FRAME = Structure(np.array([1, 1]), np.array([[0.0, 0, 0], [0.8, 0, 0]]), energy=1.0, forces=np.zeros((2, 3)))
BARE = Structure(np.array([1, 1]), np.array([[0.0, 0, 0], [0.8, 0, 0]]))


class Calculator:
    """A predictor without weights."""

    cutoff, species, dtype = 0.0, None, torch.float64

    def predict(self, graph, forces=True, stress=False):
        raise NotImplementedError


EVERYTHING = Subject(
    predictor=Pair(),
    train=[FRAME],
    validation=[FRAME],
    test={"x": [FRAME]},
    start=FRAME,
    errors=ErrorTrajectory.empty(np.array([2])),
    reference=[FRAME],
    oracle=Calculator(),
)


def without(**changes) -> Subject:
    return Subject(**{**vars(EVERYTHING), **changes})


def asking(*needs: Need) -> Assay:
    return Assay("trial", Settings, needs, lambda subject, settings: None)


def test_every_need_can_be_met():
    assert missing(asking(*Need), EVERYTHING) is None


@pytest.mark.parametrize(
    ("need", "changes", "words"),
    [
        (Need.WEIGHTS, {"predictor": Calculator()}, "calculator"),
        (Need.DESCRIPTORS, {"predictor": Calculator()}, "sums over atoms"),
        (Need.TRAINING_FRAMES, {"train": [BARE]}, "data.train"),
        (Need.TRAINING_FORCES, {"train": [BARE]}, "data.train"),
        (Need.LABELLED_TEST_FRAMES, {"test": {}}, "data.test={300K: test.xyz}"),
        (Need.LABELLED_TEST_FRAMES, {"test": {"x": [BARE]}}, "data.test"),
        (Need.TEST_FORCES, {"test": {"x": [BARE]}}, "data.test"),
        (Need.START, {"start": None}, "data.start"),
        (Need.ERROR_TRAJECTORIES, {"errors": None}, "trains the potential"),
        (Need.REFERENCE_TRAJECTORY, {"reference": []}, "data.reference=aimd.xyz"),
        (Need.ORACLE, {"oracle": None}, "--oracle"),
    ],
)
def test_what_is_missing_is_one_line_with_what_to_do(need, changes, words):
    line = missing(asking(need), without(**changes))
    assert line is not None
    assert line.startswith(f"trial needs {need.value}; ")
    assert words in line
    assert "\n" not in line


def test_the_assays_that_ship_are_named_by_their_key():
    assert {name: assay.name for name, assay in ASSAYS.items()} == {name: name for name in ASSAYS}
    for assay in ASSAYS.values():
        assert missing(assay, EVERYTHING) is None
        assay.settings()  # defaults are valid


def test_a_calculator_has_no_weights():
    with pytest.raises(TypeError, match="no weights"):
        _ = without(predictor=Calculator()).potential


OWN = """
from typing import Annotated
import numpy as np
from pydantic import Field
from fireassay.assays.assay import Assay, Need, Subject
from fireassay.records import Floats, Shape, Unit, record
from fireassay.settings import Settings

class SpreadSettings(Settings):
    factor: float = Field(default=1.0, gt=0)

@record
class Spread:
    spread: Annotated[float, Unit("eV")]
    energies: Annotated[Floats, Unit("eV"), Shape("S")]

def run(subject: Subject, settings: SpreadSettings) -> Spread:
    energies = np.array([s.energy for frames in subject.test.values() for s in frames])
    return Spread(spread=settings.factor * float(energies.std()), energies=energies)

SPREAD = Assay("spread", SpreadSettings, (Need.LABELLED_TEST_FRAMES,), run)
BLIND = Assay("blind", SpreadSettings, (Need.REFERENCE_TRAJECTORY,), run)
TAKEN = Assay("accuracy", SpreadSettings, (), run)
NOTHING = 3
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A module with assays in the current folder, where a console script does not look by itself."""
    (tmp_path / "my_assays.py").write_text(OWN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    yield tmp_path
    sys.modules.pop("my_assays", None)


def test_a_users_own_assay_runs(own_module, project):
    project.train()
    project.assay("spread.factor=2.0", own=["my_assays:SPREAD"])
    content = json.loads((project.run / "assays" / "spread.json").read_text(encoding="utf-8"))
    assert content["settings"] == {"factor": 2.0}
    assert content["result"]["spread"]["unit"] == "eV"
    assert content["result"]["spread"]["value"] > 0
    assert set(content["frames"]) == {"hot"}
    assert not (project.run / "assays" / "accuracy.json").exists()  # none was asked for
    project.assay("accuracy", own=["my_assays:SPREAD"])
    assert (project.run / "assays" / "accuracy.json").exists()
    assert str(own_module) not in sys.path


@pytest.mark.parametrize(
    ("text", "overrides", "words"),
    [
        ("my_assays:BLIND", [], "reference trajectory"),
        ("my_assays:TAKEN", [], "give it a name"),
        ("my_assays:NOTHING", [], "is no fireassay.assays.assay.Assay"),
        ("my_assays:GONE", [], "GONE"),
        ("my_assays", [], "my_module:MY_ASSAY"),
        ("nowhere:SPREAD", [], "nowhere"),
        ("my_assays:SPREAD", ["spread.factor=-1"], "above 0"),
        ("my_assays:SPREAD", ["spread.factr=1"], "did you mean 'factor'"),
        ("my_assays:SPREAD", ["spred.factor=1"], "did you mean 'spread'"),
    ],
)
def test_mistakes_with_an_assay_of_ones_own_are_one_line(own_module, project, text, overrides, words):
    project.train()
    with pytest.raises(InputError) as caught:
        project.assay(*overrides, own=[text])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
