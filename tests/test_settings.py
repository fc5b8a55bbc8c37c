"""What is wrong with a setting is said in one line that names the place, what is needed and what was found."""

from __future__ import annotations

import pytest

from fireassay.config import load_config
from fireassay.errors import InputError

SCHEDULES = "constant, plateau, cosine, exponential, step"


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("training.epochs=1.5", "training.epochs needs a whole number, got 1.5"),
        ("training.epochs=true", "training: epochs cannot be true; it is: Passes over the training set"),
        ("training.optimiser.lr=.inf", "training.optimiser.lr needs a finite number, got inf"),
        ("training.optimiser.betas=[1, 0.9]", "training.optimiser.betas.0 needs a number below 1, got 1"),
        ("training.optimiser.betas=[0.1, 0.2, 0.3]",
         "training.optimiser.betas needs at most 2 values, got [0.1, 0.2, 0.3]"),
        ("training.optimiser.groups=[{patern: x}]", "training.optimiser.groups.0.pattern is missing; unknown key "
         "training.optimiser.groups.0.patern (did you mean 'pattern'?)"),
        ("training.swa.start_epoch=-1",
         "training.swa.start_epoch needs a whole number of at least 1 or a number above 0, got -1"),
        ("training.schedule={name: platau}",
         f"training.schedule.name is 'platau' (did you mean 'plateau'?); known are {SCHEDULES}"),
        ("training.schedule={patience: 3}", "training.schedule.name is missing"),
        ("training.schedule={name: plateau, patienc: 3}",
         "unknown key training.schedule.patienc (did you mean 'patience'?)"),
        ("training.schedule=plateau", "training.schedule needs keys with values, got 'plateau'"),
        ("training.loss.force.weight=1", "unknown key training.loss.force (did you mean 'forces'?)"),
        ("training.loss.forces.species=even",
         "training.loss.forces.species needs 'equal' or 'balanced' or keys with values, got 'even'"),
        ("training.loss.forces.species={Cu: sharde}",
         "training.loss.forces.species.Cu needs a number or 'shared', got 'sharde'"),
        ("training.loss.forces.species={Xx: 1}",
         "training.loss.forces.species.Xx: 'Xx' is no element; give symbols, atomic numbers, or other"),
        ("baseline.scale=-1",
         "baseline.scale needs 'force_rms' or 'none' or a number above 0 or keys with values, got -1"),
        ("model.chanels=3", "unknown key model.chanels (did you mean 'channels'?)"),
        ("model={channels: 3}", "model.type is missing"),
        ("data=", "data needs keys with values, got None"),
        ("data={train: {path: a}}", "data.train needs a text or a list, got keys with values"),
        ("device=gpu", "device: 'gpu' is no device; give auto, cpu, cuda, or cuda:1 and so on"),
        ("name=a/b", "name: 'a/b' is no name; it needs letters, digits, blanks, . _ + - and none of these first"),
        ("seed=-1", "seed needs a number of at least 0, got -1"),
        ("assays.stability.replicas=0", "assays.stability: replicas needs a number of at least 1, got 0"),
    ],
)  # fmt: skip
def test_one_line(override: str, line: str) -> None:
    with pytest.raises(InputError) as caught:
        load_config("compare-mace", [override])
    assert str(caught.value) == f"compare-mace: {line}"
