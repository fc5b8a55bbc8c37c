"""The how-to "Add a term to the loss" does what it says."""

from __future__ import annotations

import json

import pytest

from pages import Clone, blocks

BLOCKS = blocks("add-a-loss-term.md")
STAGE = """    lr: PositiveFloat | None = Field(
        default=None, description="Constant learning rate from then on; None leaves the schedule"
    )


class Stopping"""


@pytest.fixture
def clone(tmp_path):
    return Clone(tmp_path / "clone")


def settings(clone: Clone) -> None:
    recipe = "training/recipe.py"
    clone.insert(recipe, BLOCKS["settings"] + "\n\n", before="class Loss(Settings):\n")
    clone.insert(recipe, BLOCKS["field"], after="    stress: StressTerm = StressTerm()\n", indent=4)
    clone.insert(recipe, BLOCKS["stage"], before=STAGE, indent=4)


def penalties(clone: Clone) -> None:
    terms = "training/terms.py"
    clone.insert(terms, ", DirectionsTerm", after="from fireassay.training.recipe import EnergyTerm")
    clone.insert(terms, BLOCKS["penalties"] + "\n\n", before="TERMS: Final")
    clone.insert(terms, BLOCKS["line"], after='    "stress": Term("stress", _stress),\n', indent=4)


def test_the_page_has_what_this_test_is_about():
    assert list(BLOCKS) == ["settings", "field", "stage", "penalties", "line", "test_directions.py"]


def test_the_module_refuses_a_field_without_a_term(clone):
    settings(clone)
    done = clone.python("-c", "import fireassay.training.terms")
    assert done.returncode != 0
    assert "directions" in done.stderr


def test_its_test_passes_and_a_training_uses_it(clone, project):
    settings(clone)
    penalties(clone)
    (project.root / "test_directions.py").write_text(BLOCKS["test_directions.py"], encoding="utf-8")
    tested = clone.python("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_directions.py", folder=project.root)
    assert tested.returncode == 0, tested.stdout
    losses = []
    for name, weight in (("without", 0), ("with", 10)):
        more = [f"training.loss.directions.weight={weight}", "training.loss.energy.weight=0"]
        done = clone.fireassay("train", project.config, "-o", project.root / name, "-q", *more)
        assert done.returncode == 0, done.stderr
        rows = (project.root / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        losses.append(json.loads(rows[0])["loss"])
    assert losses[1] > losses[0] + 0.1


def test_a_stage_changes_its_weight(clone, project):
    settings(clone)
    penalties(clone)
    stage = "training.stage_two={start_epoch: 2, directions_weight: 3}"
    done = clone.fireassay("config", "validate", project.config, stage)
    assert done.returncode == 0, done.stderr
