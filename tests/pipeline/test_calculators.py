"""Anybody's calculator through the whole of an assay: here, in another interpreter, and when it fails."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from fireassay.errors import InputError

MOODY = """
from ase.calculators.emt import EMT

class Moody(EMT):
    calls = 0

    def __init__(self, every=1):
        super().__init__()
        self.every = every

    def calculate(self, *arguments, **options):
        type(self).calls += 1
        if type(self).calls % self.every == 0:
            raise RuntimeError("SCF did not\\nconverge")
        super().calculate(*arguments, **options)
"""
EMT = "ase.calculators.emt:EMT()"


@pytest.fixture
def moody(project, monkeypatch):
    """A module whose calculator fails at every n-th call, in the current folder."""
    name = f"moody_{abs(hash(str(project.root)))}"
    (project.root / f"{name}.py").write_text(MOODY)
    monkeypatch.chdir(project.root)
    yield lambda every: f"{name}:Moody(every={every})"
    sys.modules.pop(name, None)


def result(project, folder: str, assay: str) -> dict:
    path = project.root / folder / "assays" / f"{assay}.json"
    return json.loads(path.read_text(encoding="utf-8"))["result"]


def assayed(project, folder: str, calculator: str, *names: str, python: str | None = None) -> list[str]:
    more = {"calculator": calculator, "python": python, "config": str(project.config)}
    return project.assay(*names, folder=project.root / folder, **more)


def test_another_interpreter_gives_the_same_numbers(project):
    assayed(project, "here", EMT, "accuracy", "stability")
    assayed(project, "there", EMT, "accuracy", "stability", python=sys.executable)
    here, there = (result(project, folder, "accuracy")["splits"]["hot"] for folder in ("here", "there"))
    assert here["forces"]["max"] == there["forces"]["max"]
    assert here["stress"]["max"] == there["stress"]["max"]
    with pytest.raises(InputError, match="made for calculator ase"):
        assayed(project, "here", EMT, "accuracy", python=sys.executable)
    assayed(project, "there", EMT, "accuracy", python=sys.executable)


def test_an_interpreter_needs_a_calculator(project):
    project.train()
    with pytest.raises(InputError, match="name it with --calculator"):
        project.assay("accuracy", python=sys.executable)


def test_frames_that_fail_are_named_and_the_others_judged(project, moody):
    assayed(project, "moody", moody(3), "accuracy")
    hot = result(project, "moody", "accuracy")["splits"]["hot"]
    assert (hot["frames"], hot["not_finite"]) == (4, 1)
    assert hot["failed"][0]["message"].endswith("RuntimeError: SCF did not converge")
    assert hot["forces"]["max"]["value"] < 1e-6


def test_when_every_frame_fails_it_is_one_line(project, moody):
    with pytest.raises(InputError, match="RuntimeError: SCF did not converge") as caught:
        assayed(project, "moody", moody(1), "accuracy")
    assert "\n" not in str(caught.value)


def test_a_trajectory_ends_with_what_the_calculator_said(project, moody):
    """Two replicas of 20 steps; the 31st calculation is that of one of them."""
    assayed(project, "moody", moody(31), "stability", "stability.relax=false")
    found = result(project, "moody", "stability")
    criteria = [failure["criterion"] for failure in found["failures"]]
    assert criteria == ["calculation_failed"]
    assert found["failures"][0]["message"].endswith("RuntimeError: SCF did not converge")
    assert 0 < found["failures"][0]["step"] < 20


@pytest.mark.parametrize(
    ("relax", "message"),
    [("true", "the relaxation of the start failed after 0 steps: .*SCF did not converge.*stability.relax=false"),
     ("false", "no calculation succeeds at the start: .*SCF did not converge")],
)  # fmt: skip
def test_a_start_that_cannot_be_relaxed_or_computed_is_one_line(project, moody, relax, message):
    with pytest.raises(InputError, match=message) as caught:
        assayed(project, "moody", moody(1), "stability", f"stability.relax={relax}")
    assert "\n" not in str(caught.value)


def test_a_relaxation_that_fails_on_its_way_says_where(project, moody):
    with pytest.raises(InputError, match=r"failed after 3 steps: .*SCF did not converge"):
        assayed(project, "moody", moody(4), "stability", "stability.relax=true")


def test_drift_is_that_of_the_trajectories_that_lasted(project, moody):
    more = [
        "stability.relax=false",
        "stability.duration=3",
        "stability.drift_duration=20",
        "stability.drift_replicas=3",
    ]
    assayed(project, "moody", moody(40), "stability", *more)
    found = result(project, "moody", "stability")
    assert not found["failures"]
    assert np.isfinite(found["drift"]["rate"]["value"])
    assert np.isfinite(found["drift"]["fluctuation_half_step"]["value"])


def test_an_oracle_in_another_interpreter_and_one_that_fails(project, moody):
    settings = [
        f"data.start={project.root}/hot.xyz", "dynamics.replicas=1", "dynamics.duration=40", "dynamics.equilibration=4",
        "dynamics.timestep=2", "dynamics.relabelled=4", "dynamics.paired=8", "structure.replicas=1",
        "structure.duration=20", "structure.equilibration=4", "structure.timestep=2",
    ]  # fmt: skip

    def go(*names: str, **more) -> None:
        folder = project.root / "o"
        project.assay(*names, *settings, folder=folder, calculator=EMT, config=str(project.config), **more)

    go("dynamics", "structure", oracle=EMT, oracle_python=sys.executable)
    found = {v["reading"]: v for v in result(project, "o", "dynamics")["violations"]}
    assert found["relabelled"]["force_mean"] < 1e-9
    assert "oracle" in result(project, "o", "structure")["references"]
    go("dynamics", oracle=moody(3))
    assert any("paired" in note for note in result(project, "o", "dynamics")["notes"])
    found = {v["reading"]: v for v in result(project, "o", "dynamics")["violations"]}
    assert 0 < found["relabelled"]["failed"] < 4
    with pytest.raises(InputError, match="--oracle-python is for an oracle"):
        go("dynamics", oracle_python=sys.executable)
