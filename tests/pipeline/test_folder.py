"""What may change in a run folder, and that no result is taken for another potential's."""

from __future__ import annotations

import json
import shlex
import shutil

import pytest
import torch

from fireassay.errors import InputError, Interrupted
from fireassay.pipeline import folder as folders
from fireassay.potential_file import load_potential, save_potential
from fireassay.records import RunRecord, load_assay
from fireassay.records.accuracy import AccuracyResult
from fireassay.training import fit as fit_module


def accuracy(project) -> AccuracyResult:
    return load_assay(project.run / "assays" / "accuracy.json", AccuracyResult).result


def test_a_finished_run_is_left_alone(project):
    project.train()
    before = (project.run / "potential.safetensors").read_bytes()
    assert project.train() == []
    assert (project.run / "potential.safetensors").read_bytes() == before
    record = RunRecord.load(project.run)
    assert (record.status, record.source, record.weights) == ("finished", "training", folders.weights_of(project.run))
    assert record.training is not None
    assert record.training.epochs == 2


def test_what_needs_no_training_is_taken_over_and_said(project, write_frames):
    project.train()
    before = (project.run / "potential.safetensors").read_bytes()
    write_frames("other.xyz", 3, 7)
    told = project.train(
        "name=renamed",
        "assays.stability.duration=10",
        f"data.test={{hot: {project.root}/hot.xyz, other: {project.root}/other.xyz}}",
    )
    assert "assays.stability.duration was 20.0, is 10.0" in told[0]
    assert "data.test.other" in told[0]
    assert "name was tiny, is renamed" in told[0]
    assert f"fireassay assay {project.run}" in told[1]
    assert (project.run / "potential.safetensors").read_bytes() == before
    project.assay("accuracy")
    assert list(accuracy(project).splits) == ["hot", "other"]
    assert RunRecord.load(project.run).name == "renamed"
    assert project.train("name=renamed", "assays.stability.duration=10", f"data.test={{hot: {project.root}/hot.xyz}}")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed=3", "seed was 0, is 3"),
        ("model.channels=5", "model.channels was 4, is 5"),
        ("training.optimiser.lr=0.1", "training.optimiser.lr"),
        ("data.validation.count=3", "data.validation.count"),
        ("dtype=float32", "dtype"),
        ("baseline.e0=zero", "baseline.e0"),
    ],
)
def test_what_needs_a_training_is_refused_by_name(project, override, words):
    project.train()
    before = {path: path.read_bytes() for path in project.run.rglob("*") if path.is_file()}
    with pytest.raises(InputError) as caught:
        project.train(override)
    assert words in str(caught.value)
    assert "--restart" in str(caught.value)
    assert {path: path.read_bytes() for path in project.run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("n", [11, 12, 13])
def test_training_frames_that_have_changed_are_noticed(project, write_frames, n):
    project.train()
    write_frames("train.xyz", n, 5)
    with pytest.raises(InputError, match=r"train\.xyz have changed since"):
        project.train()
    with pytest.raises(InputError, match=r"train\.xyz have changed since"):
        project.train("training.epochs=3")
    assert project.train(restart=True) == []


def test_test_frames_that_have_changed_are_judged_anew(project, write_frames):
    project.train()
    project.assay("accuracy")
    before = accuracy(project).splits["hot"].fingerprint
    write_frames("hot.xyz", 3, 8, 0.15)
    project.train()
    project.assay("accuracy")
    assert accuracy(project).splits["hot"].fingerprint != before
    assert accuracy(project).splits["hot"].frames == 3


@pytest.fixture
def interrupted(project, monkeypatch):
    """A training that was stopped after its first epoch."""
    inner = fit_module.Loop.run

    def stopped(self):
        self.request.signal = 15
        inner(self)

    monkeypatch.setattr(fit_module.Loop, "run", stopped)
    with pytest.raises(Interrupted):
        project.train()
    monkeypatch.setattr(fit_module.Loop, "run", inner)
    assert RunRecord.load(project.run).status == "interrupted"
    return project


def test_an_interrupted_run_takes_new_test_splits_and_assays(interrupted, write_frames):
    write_frames("other.xyz", 3, 7)
    interrupted.train("assays.landscape.points=5", f"data.test.other={interrupted.root}/other.xyz")
    assert RunRecord.load(interrupted.run).status == "finished"
    interrupted.assay("accuracy")
    assert list(accuracy(interrupted).splits) == ["hot", "other"]
    stored = folders.stored_config(interrupted.run)
    assert stored is not None
    assert stored.assays["landscape"].model_dump()["points"] == 5


def test_an_interrupted_run_of_other_frames_is_refused(interrupted, write_frames):
    write_frames("train.xyz", 12, 5)
    with pytest.raises(InputError, match="have changed since"):
        interrupted.train()


def test_restart_leaves_nothing_of_the_old_potential(project):
    project.train("training.error_log.raw=true")
    project.assay()
    stray = project.run / "notes.txt"
    stray.write_text("mine", encoding="utf-8")
    project.train("seed=1", restart=True)
    assert not list((project.run / "assays").rglob("*"))
    assert stray.exists()
    assert not (project.run / "errors.float32").exists()
    assert not folders.current(project.run, "accuracy")
    project.assay("accuracy")
    record = load_assay(project.run / "assays" / "accuracy.json")
    assert record.weights == folders.weights_of(project.run)


def test_results_are_bound_to_weights_and_frames(project):
    project.train()
    project.assay()
    record = RunRecord.load(project.run)
    assert record.data is not None
    for name, splits in (
        ("accuracy", {"hot"}),
        ("stability", {"start"}),
        ("landscape", {"train"}),
        ("uncertainty", {"train", "validation", "hot"}),
    ):
        found = load_assay(project.run / "assays" / f"{name}.json")
        assert found.weights == record.weights == folders.weights_of(project.run)
        assert set(found.frames) == splits
        assert folders.current(project.run, name)
    landscape = load_assay(project.run / "assays" / "landscape.json")
    assert landscape.frames["train"] == record.data.train_frames
    path = project.run / "potential.safetensors"
    other = load_potential(path)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter *= 1.1
    save_potential(other, path)
    assert not folders.current(project.run, "accuracy")
    project.assay("accuracy")
    assert folders.current(project.run, "accuracy")
    assert not folders.current(project.run, "stability")


def test_a_potential_file_that_was_replaced_is_noticed(project):
    project.train()
    file, folder = project.root / "mine.safetensors", project.root / "mine"
    shutil.copy(project.run / "potential.safetensors", file)
    config = str(project.config)
    project.assay("accuracy", folder=folder, potential=file, config=config)
    project.assay("accuracy", folder=folder, potential=file, config=config)
    before = load_assay(folder / "assays" / "accuracy.json", AccuracyResult).result
    project.train("seed=1", folder=project.root / "second")
    shutil.copy(project.root / "second" / "potential.safetensors", file)
    with pytest.raises(InputError, match="another potential now") as caught:
        project.assay("accuracy", folder=folder, potential=file, config=config)
    assert "--restart" in str(caught.value)
    project.assay("accuracy", folder=folder, potential=file, config=config, restart=True)
    after = load_assay(folder / "assays" / "accuracy.json", AccuracyResult).result
    assert after.splits["hot"].forces is not None
    assert before.splits["hot"].forces is not None
    assert after.splits["hot"].forces.rmse != before.splits["hot"].forces.rmse


def test_restart_of_an_assay_does_not_discard_a_training(project):
    project.train()
    with pytest.raises(InputError, match="fireassay train --restart"):
        project.assay("accuracy", restart=True)
    assert (project.run / "potential.safetensors").exists()


def test_error_trajectories_of_other_frames_are_refused_under_overrides(project, write_frames):
    project.train()
    write_frames("else.xyz", 12, 9)
    with pytest.raises(InputError, match="fingerprint"):
        project.assay("uncertainty", f"data.train={project.root}/else.xyz")


def test_a_protocol_named_anew_resets_what_the_folder_has_stored(project):
    project.train()
    project.assay("stability", "stability.protocol=published", "stability.duration=15", "stability.bonds=off",
                  "stability.replicas=2", "stability.drift_duration=0")  # fmt: skip
    settings = load_assay(project.run / "assays" / "stability.json").settings
    assert settings["temperature"] == 1600.0  # 300 in the folder
    assert settings["degrees_of_freedom"] == "all"
    assert settings["closest_approach"] is None
    assert settings["duration"] == 15.0
    stored = json.dumps(folders.stored_config(project.run).model_dump(mode="json"))  # type: ignore[union-attr]
    assert '"temperature": 300.0' in stored


def test_a_name_with_spaces_and_quotes_survives(project):
    folder = project.root / "my 'run'"
    project.train(folder=folder)
    told = project.train("assays.landscape.points=5", folder=folder)
    assert shlex.split(told[1].partition(": ")[2]) == ["fireassay", "assay", str(folder)]
